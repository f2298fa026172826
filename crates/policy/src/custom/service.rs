//! A policy of the operator's own as a service, and the one that is built in.

use super::words::{Admitted, Call, Outcome, Refusal, Scope};

/// A policy of the operator's own.
pub trait CustomService {
    /// An admitted call.
    type Admission: AdmissionService;

    /// What it wants to know.
    fn scope(&self) -> Scope;
    /// Decides a call.
    fn admit(
        &self,
        call: &Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted<Self::Admission>, Refusal>;
}

/// An admitted call, until it ends.
pub trait AdmissionService {
    /// Ends the call.
    fn settle(&self, outcome: Outcome, now_ms: u64);
}

/// The built-in policy: it asks for nothing, so the gate never calls it again.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl CustomService for AdmitAll {
    type Admission = Self;

    fn scope(&self) -> Scope {
        Scope::default()
    }

    fn admit(&self, _: &Call<'_>, _: u64, _: u64) -> Result<Admitted<Self>, Refusal> {
        Ok(Admitted {
            admission: Self,
            headers: Vec::new(),
        })
    }
}

impl AdmissionService for AdmitAll {
    fn settle(&self, _: Outcome, _: u64) {}
}
