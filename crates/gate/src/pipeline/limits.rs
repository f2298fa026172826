//! Applies the rate limits of the policy, and stores their state for the headers of the answer.

use crate::exchange::Exchange;
use crate::policies::Policies;
use crate::ports::{Ports, Services};
use penstock_core::Problem;
use penstock_policy::quota::service::{AdmissionService, QuotaService};
use penstock_policy::quota::words::{Call, Refusal};

/// The handle of a call's charges.
pub(super) type Admission<P> = <<P as Services>::Quota as QuotaService>::Admission;

/// Checks the limits on calls, and waits if a limit paces the call.
pub(super) fn admit<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    exchange: &mut Exchange<'_>,
    call: &Call<'_>,
) -> Result<Option<Admission<P>>, Problem> {
    if !policies.scope.calls {
        return Ok(None);
    }
    let context = exchange.context;
    let admitted = policies
        .quota
        .admit(call, context.unix_ms, context.random as u64);
    let admitted = admitted.map_err(|refusal| refuse(exchange, refusal))?;
    exchange.headers.rate_limit = admitted.headers;
    if admitted.wait_ms > 0 {
        ports.sleep_ms(admitted.wait_ms);
    }
    Ok(Some(admitted.admission))
}

/// Charges the limits on items.
pub(super) fn charge_items<A: AdmissionService>(
    admission: Option<&A>,
    exchange: &mut Exchange<'_>,
    items: u64,
) -> Result<(), Problem> {
    let Some(admission) = admission else {
        return Ok(());
    };
    let context = exchange.context;
    let charged = admission.charge_items(items, context.unix_ms, context.random as u64);
    exchange.headers.rate_limit = charged.map_err(|refusal| refuse(exchange, refusal))?;
    Ok(())
}

/// Refunds the items that were charged.
pub(super) fn refund_items<A: AdmissionService>(
    admission: Option<&A>,
    exchange: &mut Exchange<'_>,
) {
    if let Some(admission) = admission {
        exchange.headers.rate_limit = admission.refund_items(exchange.context.unix_ms);
    }
}

fn refuse(exchange: &mut Exchange<'_>, refusal: Refusal) -> Problem {
    let (problem, headers) = refusal.problem();
    exchange.headers.rate_limit = headers;
    problem
}
