//! Calls the operator's own policy, and stores the headers that it adds to the answer.

use crate::exchange::Exchange;
use crate::policies::Policies;
use crate::ports::{Ports, Services};
use penstock_core::Problem;
use penstock_policy::custom::checked;
use penstock_policy::custom::service::CustomService;
use penstock_policy::custom::words::{Call, RawHeaders};
use penstock_policy::quota::words;

/// A call that the operator's own policy admitted.
pub(super) type Admission<P> = <<P as Services>::Custom as CustomService>::Admission;

/// Asks the policy to decide a call, if its scope includes calls.
pub(super) fn admit<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    exchange: &mut Exchange<'_>,
    call: &words::Call<'_>,
) -> Result<Option<Admission<P>>, Problem> {
    let scope = &policies.custom_scope;
    if !scope.calls {
        return Ok(None);
    }
    let (request, context) = (exchange.request, exchange.context);
    let lines = request.headers.iter();
    let lines: Vec<(&str, &[u8])> = lines
        .filter(|line| scope.headers.contains(&line.name))
        .map(|line| (line.name.as_str(), line.value.as_slice()))
        .collect();
    let call = Call {
        caller: call.caller,
        route: call.route,
        model: call.model,
        method: &request.method,
        target: &request.target,
        headers: &lines,
        body_bytes: call.body_bytes,
    };
    // A limit may have made the call wait since it arrived.
    let now_ms = ports.unix_ms();
    let decided = policies.custom.admit(&call, now_ms, context.random as u64);
    match decided {
        Ok(admitted) => {
            add(ports, exchange, admitted.headers);
            Ok(Some(admitted.admission))
        }
        Err(refusal) => {
            let (problem, headers) = refusal.problem();
            add(ports, exchange, headers);
            Err(problem)
        }
    }
}

/// Stores the headers that an answer may have, and logs the others for the operator.
fn add<P: Ports>(ports: &P, exchange: &mut Exchange<'_>, headers: RawHeaders) {
    let (headers, fault) = checked(headers);
    exchange.headers.custom = headers;
    if let Some(fault) = fault {
        ports.log(&fault);
    }
}
