//! Removes from problems the names of models that the caller may not see.

use crate::catalogue::{Catalogue, known};
use crate::policies::Policies;
use crate::ports::Ports;
use penstock_core::{Caller, Code, Problem};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words::Refusal;

/// Returns the problem of a request that `auth` refused. A hidden model and a missing model give the same answer,
/// also to a caller without a scope for the model.
pub(super) fn refused<P: Ports>(
    ports: &P,
    catalogue: &mut Option<Catalogue<P>>,
    model: Option<&str>,
    refusal: &Refusal,
) -> Problem {
    match (refusal.problem(), model) {
        // A caller without a known tenant gets no information about any model.
        (Some(problem), Some(model))
            if problem.code == Code::PermissionDenied && refusal.caller.is_some() =>
        {
            let catalogue = known(catalogue, ports);
            if catalogue.contains(model) {
                problem
            } else {
                catalogue.unknown(model)
            }
        }
        (Some(problem), _) => problem,
        (None, model) => known(catalogue, ports).unknown(model.unwrap_or_default()),
    }
}

/// Removes from a problem the models that the caller may not see.
pub(super) fn withhold<P: Ports>(
    policies: &Policies<P>,
    caller: Option<&Caller>,
    problem: Problem,
) -> Problem {
    if problem.code != Code::UnknownModel || problem.available.is_empty() {
        return problem;
    }
    let names = problem.available.clone();
    let seen = match caller {
        Some(caller) => policies.auth.sees(caller, &names),
        None => Vec::new(),
    };
    let known = names.into_iter().zip(seen).filter(|(_, seen)| *seen);
    problem.with_available(known.map(|(name, _)| name).collect())
}
