//! The operator's own policy as a service.

use super::words::{Admitted, Call, Outcome, Refusal, Scope};

/// The operator's own policy.
pub trait CustomService {
    /// An admitted call.
    type Admission: AdmissionService;

    /// Returns the questions and data that it needs.
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
