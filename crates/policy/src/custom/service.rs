//! A policy of the operator's own as a service.

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
