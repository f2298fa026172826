//! Accepts calls as operations.

use super::admission::Admission;
use super::limits;
use crate::call::{ModelCall, Surface};
use crate::describe::operations::{accepted, described};
use crate::exchange::Exchange;
use crate::ports::Ports;
use crate::prefer::RESPOND_ASYNC;
use crate::record::Response;
use crate::rollout::Serving;
use crate::route::OperationForm;
use penstock_core::Problem;
use penstock_policy::operations::notes::{Form, Note, Order, Push};
use penstock_policy::operations::service::OperationsService;
use penstock_policy::operations::words::{
    AcceptedCall, Operation, OperationState, Refusal, Submission,
};
use penstock_policy::quota::service::AdmissionService;
use penstock_policy::webhooks::target::Target;

/// The headers that change how a call is read or answered. The version is chosen when the call is accepted.
const KEPT_HEADERS: [&str; 6] = [
    "accept",
    "cache-control",
    "content-encoding",
    "content-type",
    "inference-header-content-length",
    "accept-language",
];

/// The facts of a call that is accepted.
pub(super) struct Accepting<'a, P: Ports> {
    pub call: &'a ModelCall<'a, P>,
    pub admission: &'a Admission<P>,
    /// The limits that charged the items; `None` if no limit counts items.
    pub charged: Option<&'a limits::Admission<P>>,
    pub model: &'a str,
    pub serving: &'a Serving,
    pub items: u64,
    /// A text that is the same for all retries of the call, if it has an idempotency key.
    pub retry_of: Option<String>,
    pub webhook: Option<Target>,
}

/// Stores a call as an operation, and answers that it is accepted.
pub(super) fn accept<P: Ports>(
    accepting: Accepting<'_, P>,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    let Accepting {
        call,
        admission,
        charged,
        model,
        serving,
        items,
        retry_of,
        webhook,
    } = accepting;
    let request = call.request;
    let kept = request
        .headers
        .iter()
        .filter(|header| KEPT_HEADERS.contains(&header.name.as_str()));
    let receipt = (admission.limits.as_ref()).map(AdmissionService::receipt);
    let submission = Submission {
        caller: call.caller.clone(),
        kind: call.kind.as_str().to_owned(),
        model: model.to_owned(),
        version: serving.version.get(),
        priority: call.priority,
        items,
        method: request.method.clone(),
        target: request.target.clone(),
        headers: kept
            .map(|header| {
                let value = String::from_utf8_lossy(&header.value).into_owned();
                (header.name.clone(), value)
            })
            .collect(),
        body: request.body.to_vec(),
        request_id: call.context.request_id.as_str().to_owned(),
        receipt: receipt.unwrap_or_default(),
        retry_of,
        webhook,
    };
    let operations = &call.policies.operations;
    let now_ms = call.ports.unix_ms();
    let AcceptedCall { operation, is_new } = operations
        // Not the randomness of the request's id, which logs have: the id of an operation is a permission.
        .accept(submission, now_ms, call.ports.random())
        .map_err(Refusal::problem)?;
    if !is_new {
        limits::refund_items(charged, exchange);
    }
    let preferences = call.deferral.preferences;
    if preferences.respond_async {
        exchange.headers.preference_applied = Some(RESPOND_ASYNC);
    }
    let is_rpc = matches!(call.surface, Surface::Grpc(_));
    // A stream tells the end, however long it takes.
    let waits = (preferences.wait_s)
        .filter(|wait_s| *wait_s > 0)
        .filter(|_| !call.deferral.is_streamed(&call.policies.operation_rules));
    exchange.headers.host_note = Some(Note {
        push: Some(Push {
            tenant: call.caller.tenant.clone(),
            model: model.to_owned(),
            priority: call.priority,
            items,
        }),
        wait_ms: waits.map(|wait_s| wait_s * 1_000),
        // Over gRPC, the method always answers with the operation.
        then: waits.map(|_| match is_rpc {
            true => Order::Describe { form: Form::Grpc },
            false => Order::Answer,
        }),
        ..Note::about(&operation.id)
    });
    let tenant = call.caller.tenant.clone();
    Ok(match is_rpc {
        true => {
            let shown = match operation.state {
                OperationState::Succeeded => as_accepted(operation),
                _ => operation,
            };
            described(&shown, None, &OperationForm::Grpc { tenant })
        }
        false => accepted(&operation),
    })
}

/// Returns an operation with a result as it was when it was accepted. A retry finds it without its result, and a client of gRPC cannot
/// read the place of one: it expects the message. The next poll has that.
fn as_accepted(operation: Operation) -> Operation {
    Operation {
        state: OperationState::Queued,
        cancel_requested: false,
        started_ms: None,
        ended_ms: None,
        expires_ms: None,
        next_attempt_ms: None,
        attempts: 0,
        epoch: 1,
        end: None,
        webhook: None,
        ..operation
    }
}
