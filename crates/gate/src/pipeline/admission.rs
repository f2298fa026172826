//! Admits a call: first the rate limits decide, then the operator's own policy. Both are settled together.

use super::{custom, limits};
use crate::exchange::Exchange;
use crate::policies::Policies;
use crate::ports::Ports;
use penstock_core::Problem;
use penstock_policy::custom::service::AdmissionService as _;
use penstock_policy::custom::words::Outcome;
use penstock_policy::quota::{service::AdmissionService as _, words};

/// A call that the limits and the operator's own policy admitted.
pub(super) struct Admission<P: Ports> {
    /// The charge of the rate limits.
    pub limits: Option<limits::Admission<P>>,
    custom: Option<custom::Admission<P>>,
}

/// Admits a call, or returns its refusal. A call that the limits refuse never reaches the operator's own policy. A call that
/// the policy
/// refuses is still charged its request and its bytes, like a call with an invalid body.
pub(super) fn admit<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    exchange: &mut Exchange<'_>,
    call: &words::Call<'_>,
) -> Result<Admission<P>, Problem> {
    let limits = limits::admit(ports, policies, exchange, call)?;
    match custom::admit(ports, policies, exchange, call) {
        Ok(custom) => Ok(Admission { limits, custom }),
        Err(problem) => {
            let custom = None;
            settle_unused(ports, policies, &Admission { limits, custom });
            Err(problem)
        }
    }
}

/// Returns whether a policy needs to know how a call ended.
pub(super) fn settles<P: Ports>(policies: &Policies<P>) -> bool {
    policies.scope.settles || policies.custom_scope.settles
}

/// Reports the end of a call to the policies.
pub(super) fn settle<P: Ports>(
    policies: &Policies<P>,
    admission: &Admission<P>,
    compute_ns: u64,
    outcome: Outcome,
    now_ms: u64,
) {
    if policies.scope.settles
        && let Some(admission) = &admission.limits
    {
        admission.settle(compute_ns.div_ceil(1_000_000), now_ms);
    }
    if policies.custom_scope.settles
        && let Some(admission) = &admission.custom
    {
        admission.settle(outcome, now_ms);
    }
}

/// Settles an admitted call that ran nothing.
pub(super) fn settle_unused<P: Ports>(ports: &P, policies: &Policies<P>, admission: &Admission<P>) {
    if settles(policies) {
        settle(policies, admission, 0, Outcome::default(), ports.unix_ms());
    }
}
