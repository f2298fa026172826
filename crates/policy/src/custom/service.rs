//! The operator's own policy as a service.

use super::words::{Admitted, Call, Outcome, Refusal, Scope};

/// The operator's own policy, as the gate calls it.
pub trait CustomService {
    /// The handle of an admitted call, with which the call is ended.
    type Admission: AdmissionService;

    /// Returns the questions and data that it needs.
    fn scope(&self) -> Scope;
    /// Asks the policy for a decision. `random` is a fresh random number for its use.
    fn admit(
        &self,
        call: &Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted<Self::Admission>, Refusal>;
}

/// An admitted call, until it ends.
pub trait AdmissionService {
    /// Tells the policy the outcome of the call, once.
    fn settle(&self, outcome: Outcome, now_ms: u64);
}
