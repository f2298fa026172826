//! Follows the orders of the host about operations: runs them, and renews and ends their leases.

use super::called;
use super::{batches, call};
use crate::answer;
use crate::answer::events;
use crate::call::{Meter, ModelCall};
use crate::catalogue::Catalogue;
use crate::connection::Connection;
use crate::describe::batches::{Stored, batch_id};
use crate::describe::operations::{
    accepted, described, poll_wait_ms, push_of, stored, unknown, wait_ms,
};
use crate::exchange::{Context, Exchange};
use crate::grpc::serve::{self, Rpc, RpcRead};
use crate::grpc::{operations, service};
use crate::instance::Instance;
use crate::options::CallOptions;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::prefer::{Deferral, no_stream};
use crate::record::{Header, Request, Response};
use crate::representation::Representation;
use crate::route::{OperationForm, Route, Target, route};
use penstock_core::negotiate::Events;
use penstock_core::{Caller, Code, OperationId, Problem, RequestId, RouteKind};
use penstock_policy::auth::service::AuthService;
use penstock_policy::batches::service::BatchesService;
use penstock_policy::operations::STEP;
use penstock_policy::operations::notes::{Note, Order};
use penstock_policy::operations::service::OperationsService;
use penstock_policy::operations::words::{Abandoned, Claim, End, OperationState, Refusal, Run};
use penstock_policy::quota::service::QuotaService;
use penstock_policy::usage::{Amounts, service::UsageService};
use penstock_policy::webhooks::delivery::{EventKind, MAX_PAYLOAD_BYTES};

/// Answers a request of the host about an operation.
pub(super) fn work<P: Ports>(
    instance: &mut Instance<P>,
    exchange: &mut Exchange<'_>,
    order: &Order,
) -> Result<Response, Problem> {
    let request = exchange.request;
    let Ok(Route::Operation(target)) = route("GET", request.path()) else {
        return Err(unknown(request.path()));
    };
    let id = OperationId::parse(&target.id).ok_or_else(|| unknown(&target.id))?;
    if instance.policies.is_none() {
        instance.policies = Some(Policies::open(&instance.ports)?);
    }
    let Instance {
        ports,
        policies: Some(policies),
        catalogue,
        ..
    } = instance
    else {
        unreachable!("opened above");
    };
    let (ports, policies): (&P, &Policies<P>) = (ports, policies);
    let operations = &policies.operations;
    let (now_ms, random) = (ports.unix_ms(), ports.random() as u64);
    let mut note = Note::about(&id);
    match order {
        Order::Run {
            holder,
            dead_before_ms,
        } => {
            let worker = (holder.as_str(), *dead_before_ms);
            let outcome = claim_and_run((ports, policies, catalogue), &id, worker)?;
            (note.again_ms, note.ended) = (outcome.again_ms, outcome.ended);
            if outcome.again_ms.is_none() && outcome.may_be_step {
                note.next = batches::follow(ports, policies, &id)?;
            }
        }
        Order::Renew { holder } => {
            let renewal = operations.renew(&id, holder, now_ms);
            note.renewal = Some(renewal.map_err(Refusal::problem)?);
        }
        Order::Abandon { holder, why } => {
            note.again_ms = operations
                .abandon(&id, holder, *why, (now_ms, random))
                .map_err(Refusal::problem)?;
            if note.again_ms.is_none() {
                note.next = batches::follow(ports, policies, &id)?;
                // The end may be another one than this order asked for: the run may have stored its own before. Nobody sees a step.
                if *why != Abandoned::Stopping {
                    let found = operations.get(&id, None, false, now_ms);
                    let found = found.map_err(Refusal::problem)?;
                    let seen = found.filter(|found| found.kind != STEP);
                    note.ended = seen.and_then(|found| found.state.event());
                }
            }
        }
        Order::Describe { form } => {
            let found = operations
                .get(&id, None, true, now_ms)
                .map_err(Refusal::problem)?;
            let found = found.ok_or_else(|| unknown(&target.id))?;
            let form = OperationForm::of(*form, found.tenant.clone());
            note.is_final = found.state.is_final();
            exchange.headers.host_note = Some(note);
            return Ok(described(&found, exchange.connection.queue, &form));
        }
        Order::Stream { form, after } => {
            let found = operations
                .get(&id, None, true, now_ms)
                .map_err(Refusal::problem)?;
            let found = found.ok_or_else(|| unknown(&target.id))?;
            let queue = exchange.connection.queue;
            let form = OperationForm::of(*form, found.tenant.clone());
            let part = events::continued(&found, queue, &form, after.as_deref());
            // The host has lost it, or has never had it.
            let is_missed = found.state == OperationState::Queued && queue.is_none();
            note.push = is_missed.then(|| push_of(&found));
            note.stream = part.next;
            exchange.headers.host_note = Some(note);
            exchange.representation = Representation::Opaque;
            return Ok(part.response);
        }
        Order::Announce => {
            let read = |with_body| operations.get(&id, None, with_body, now_ms);
            let mut found = read(false).map_err(Refusal::problem)?;
            // A result that the message has no room for is not read.
            let bytes = (found.as_ref()).and_then(|found| Some(found.end.as_ref()?.body_bytes));
            if bytes.is_some_and(|bytes| bytes <= MAX_PAYLOAD_BYTES as u64) {
                found = read(true).map_err(Refusal::problem)?;
            }
            let mut found = found.ok_or_else(|| unknown(&target.id))?;
            // A message does not describe its own delivery.
            found.webhook = None;
            note.event = found.state.event();
            let body = note
                .event
                .map(|kind| answer::operation::message(kind, &found));
            exchange.headers.host_note = Some(note);
            let body = body.unwrap_or_default();
            return Ok(Response::new(200, "application/json", body));
        }
        Order::Answer => {
            let found = operations
                .get(&id, None, true, now_ms)
                .map_err(Refusal::problem)?;
            let found = found.ok_or_else(|| unknown(&target.id))?;
            return match found.state {
                OperationState::Succeeded | OperationState::Failed => stored(found),
                _ => Ok(accepted(&found)),
            };
        }
    }
    exchange.headers.host_note = Some(note);
    Ok(Response::empty(204))
}

/// Turns the answer that accepted a call as an operation into the first part of its event stream. Other answers stay as they are: an
/// earlier call with the same idempotency key may have had a result.
pub(super) fn stream_accepted(
    exchange: &mut Exchange<'_>,
    answered: Response,
) -> Result<Response, Problem> {
    let location = answered
        .header("location")
        .filter(|_| answered.status == 202);
    let id = location.and_then(|location| location.strip_prefix("/v1/operations/"));
    let Some(id) = id.and_then(OperationId::parse) else {
        return Ok(answered);
    };
    if exchange.connection.streams_full {
        return Err(no_stream());
    }
    exchange.representation = Representation::Opaque;
    let last = exchange.request.header_text("last-event-id");
    let note = exchange.headers.host_note.take();
    let Some(part) = events::created(answered, &id, last) else {
        return Ok(Response::empty(204));
    };
    exchange.headers.host_note = Some(Note {
        stream: part.next,
        ..note.unwrap_or_else(|| Note::about(&id))
    });
    Ok(part.response)
}

/// Runs the operation that a route names, on a host that runs none by itself. The caller waits for it, and runs it in its place.
/// Whether it ended or not, the caller then reads it.
pub(super) fn run_for_caller<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    exchange: &Exchange<'_>,
    route: &Route,
    caller: &Caller,
) {
    let target = match route {
        // A request that is refused, or that does not wait, runs nothing.
        Route::OperationWait(target) if wait_ms(exchange).is_ok_and(|wait_ms| wait_ms > 0) => {
            target
        }
        Route::Operation(target) if exchange.events != Events::No || poll_wait_ms(exchange) > 0 => {
            target
        }
        _ => return,
    };
    if (target.form.tenant()).is_some_and(|tenant| *tenant != caller.tenant) {
        return;
    }
    if exchange.connection.is_hosted || !policies.operation_rules.enabled {
        return;
    }
    let Some(id) = OperationId::parse(&target.id) else {
        return;
    };
    let found = policies
        .operations
        .get(&id, Some(&caller.tenant), false, ports.unix_ms());
    let Ok(Some(found)) = found else { return };
    let sees = policies
        .auth
        .sees(caller, std::slice::from_ref(&found.model));
    if found.state.is_final() || sees.first() != Some(&true) {
        return;
    }
    let holder = format!("{:032x}", ports.random());
    if let Err(problem) = claim_and_run((ports, policies, catalogue), &id, (&holder, 0)) {
        ports.log(&format!(
            "operation {id} cannot be run now: {}",
            problem.message
        ));
    }
}

/// Runs the next step of the batch that a route names, on a host that runs none by itself. The caller polls it, and so runs it.
pub(super) fn run_step_for_caller<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    exchange: &Exchange<'_>,
    route: &Route,
    caller: &Caller,
) {
    let Some(Stored::Batch(id)) = Stored::of(route) else {
        return;
    };
    if exchange.connection.is_hosted || !policies.batch_rules.enabled {
        return;
    }
    let Some(id) = batch_id(id) else {
        return;
    };
    let found = policies.batches.batch(&id, &caller.tenant, ports.unix_ms());
    let Ok(Some(batch)) = found else { return };
    let Some(next) = batch.next else { return };
    let holder = format!("{:032x}", ports.random());
    let ran = claim_and_run((ports, policies, catalogue), &next.operation, (&holder, 0));
    let followed = match ran {
        Ok(Outcome { again_ms: None, .. }) => {
            batches::follow(ports, policies, &next.operation).map(drop)
        }
        Ok(_) => Ok(()),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = followed {
        ports.log(&format!("batch {id} cannot go on now: {}", problem.message));
    }
}

/// The outcome of a look at an operation.
#[derive(Default)]
struct Outcome {
    /// The time of the next look, if it has not ended.
    again_ms: Option<u64>,
    /// The end that this run gave it.
    ended: Option<EventKind>,
    /// Whether it may be the step of a batch, which another step follows.
    may_be_step: bool,
}

impl Outcome {
    fn again(at_ms: u64) -> Self {
        Self {
            again_ms: Some(at_ms),
            ..Self::default()
        }
    }
}

/// Claims an operation, and runs it or ends it.
fn claim_and_run<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    id: &OperationId,
    (holder, dead_before_ms): (&str, u64),
) -> Result<Outcome, Problem> {
    let now_ms = ports.unix_ms();
    let claim = (policies.operations).claim(id, holder, dead_before_ms, now_ms);
    match claim.map_err(Refusal::problem)? {
        Claim::Granted(run) if run.submission.kind == STEP => {
            let again_ms = run_step((ports, policies, catalogue), id, holder, *run)?;
            // The end of a step is none of an operation that a caller sees.
            Ok(Outcome {
                again_ms,
                ended: None,
                may_be_step: true,
            })
        }
        Claim::Granted(run) => run_claimed((ports, policies, catalogue), id, *run),
        Claim::Ended(receipt) => {
            if !receipt.is_empty() {
                policies.quota.settle_deferred(&receipt, None, now_ms);
            }
            Ok(Outcome {
                may_be_step: true,
                ..Outcome::default()
            })
        }
        Claim::Later(at_ms) => Ok(Outcome::again(at_ms)),
        Claim::Gone => Ok(Outcome::default()),
    }
}

/// Milliseconds before a step is begun again after its store did not answer.
const STEP_PAUSE_MS: u64 = 5_000;

/// Does the work of a step that was claimed, and stores its end. Returns when it is begun again, if the store did not answer.
fn run_step<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    id: &OperationId,
    holder: &str,
    run: Run,
) -> Result<Option<u64>, Problem> {
    let end = match batches::run_step((ports, policies, catalogue), &run.submission) {
        Ok(end) => end,
        Err(problem) => {
            ports.log(&format!("step {id} of a batch: {}", problem.message));
            let at = (ports.unix_ms(), ports.random() as u64);
            let given_back = (policies.operations).abandon(id, holder, Abandoned::Stopping, at);
            let again_ms = given_back.map_err(Refusal::problem)?;
            return Ok(again_ms.map(|again_ms| again_ms.saturating_add(STEP_PAUSE_MS)));
        }
    };
    let of = (run.epoch, run.attempt);
    (policies.operations)
        .complete(id, of, end, ports.unix_ms())
        .map_err(Refusal::problem)?;
    Ok(None)
}

/// Runs an operation that was claimed, and stores its end. It runs again if it failed for a reason that may pass.
fn run_claimed<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    id: &OperationId,
    run: Run,
) -> Result<Outcome, Problem> {
    let Run {
        epoch,
        attempt,
        max_attempts,
        submission,
    } = run;
    let request = Request {
        method: submission.method,
        target: submission.target,
        headers: submission
            .headers
            .into_iter()
            .map(|(name, value)| Header {
                name,
                value: value.into_bytes(),
            })
            .collect(),
        body: submission.body.into(),
    };
    let context = context_of(ports, &submission.request_id);
    let connection = Connection::default();
    let mut exchange = Exchange::new(&request, &context, &connection);
    let mut meter = Meter::default();
    let target = Target {
        model: submission.model.clone(),
        version: Some(submission.version.to_string()),
    };
    let routed = routed(&request);
    let options = CallOptions::of(&request);
    let kind = RouteKind::parse(&submission.kind).unwrap_or(RouteKind::Predict);
    let surface = routed
        .as_ref()
        .ok()
        .and_then(|(route, rpc)| called::surface(route, rpc.as_ref()));
    let result = match surface {
        Some((surface, named)) => {
            let call = ModelCall {
                ports,
                policies,
                request: &request,
                context: &context,
                caller: &submission.caller,
                priority: submission.priority,
                surface,
                kind,
                options: &options,
                deferral: Deferral::default(),
            };
            let targets = (&target, named);
            call::resume(&call, catalogue, targets, &mut meter, &mut exchange)
        }
        _ => Err(Problem::new(
            Code::Internal,
            "this release does not know the method of the operation",
        )),
    };
    let now_ms = ports.unix_ms();
    if let Err(problem) = &result
        && may_pass(problem.code)
        && attempt < max_attempts
    {
        let error = (problem.code.as_str().to_owned(), problem.message.clone());
        let at = (now_ms, ports.random() as u64);
        let again_ms = policies
            .operations
            .give_back(id, (epoch, attempt), error, at);
        return again_ms.map(Outcome::again).map_err(Refusal::problem);
    }
    let end = end_of(
        result,
        policies.operation_rules.max_result_bytes,
        &mut exchange,
    );
    let ended = end.state.event();
    let counts = policies
        .operations
        .complete(id, (epoch, attempt), end, now_ms)
        .map_err(Refusal::problem)?;
    if counts {
        let charged = (&submission.caller, submission.model.as_str());
        let at = (now_ms, context.random as u64);
        settle(
            (ports, policies),
            id,
            charged,
            &submission.receipt,
            &meter,
            at,
        );
    }
    Ok(Outcome {
        again_ms: None,
        ended: ended.filter(|_| counts),
        may_be_step: false,
    })
}

/// Finds the route of a stored call. One over gRPC has its target in its message.
fn routed(request: &Request) -> Result<(Route, Option<Rpc>), Problem> {
    if !service::is_call(request) {
        return Ok((route(&request.method, request.path())?, None));
    }
    match serve::read(request)? {
        RpcRead::Routed(route, rpc) => Ok((route, Some(rpc))),
        RpcRead::Answered(_) => Err(unknown(request.path())),
    }
}

/// The context of a run: its own times, and the id of the request that was accepted.
fn context_of<P: Ports>(ports: &P, request_id: &str) -> Context {
    Context {
        request_id: RequestId::from_header(request_id.as_bytes())
            .unwrap_or_else(|| RequestId::generate(ports.unix_ms(), ports.random())),
        random: ports.random(),
        unix_ms: ports.unix_ms(),
        started_ns: ports.monotonic_ns(),
    }
}

/// Returns the charges for work that was not done, and counts the use of an operation that ended.
fn settle<P: Ports>(
    (ports, policies): (&P, &Policies<P>),
    id: &OperationId,
    (caller, model): (&Caller, &str),
    receipt: &str,
    meter: &Meter,
    (now_ms, random): (u64, u64),
) {
    let compute_us = meter.compute_ns / 1_000;
    let ran = meter.items > 0 || meter.ran_and_failed;
    let ran_ms = ran.then(|| compute_us.div_ceil(1_000));
    policies.quota.settle_deferred(receipt, ran_ms, now_ms);
    if !policies.counts {
        return;
    }
    let amounts = Amounts {
        // The request and its bytes were counted when it was accepted.
        requests: 0,
        items: meter.items,
        bytes: 0,
        compute_us,
    };
    let counted = (policies.usage).count(caller, model, amounts, now_ms, random);
    if let Err(message) = counted {
        ports.log(&format!(
            "the usage of operation {id} cannot be counted: {message}"
        ));
    }
}

/// Returns whether another run may succeed. The model did not run.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Overloaded | Code::ModelNotReady | Code::StoreUnavailable
    )
}

/// The end of an operation whose run had a result.
fn end_of(result: Result<Response, Problem>, max_bytes: u64, exchange: &mut Exchange<'_>) -> End {
    let result = result.and_then(|response| match response.body.len() as u64 {
        bytes if bytes > max_bytes => Err(Problem::new(
            Code::ModelRejectedInputs,
            format!(
                "the result has {bytes} bytes; operations keep at most {max_bytes} (operations.max_result_bytes). Send fewer items"
            ),
        )),
        _ => Ok(response),
    });
    let (state, code, message) = match &result {
        Ok(_) => (OperationState::Succeeded, "", String::new()),
        Err(problem) => (
            OperationState::Failed,
            problem.code.as_str(),
            problem.message.clone(),
        ),
    };
    let response = match result {
        Ok(mut response) => {
            exchange.headers.write_content(&mut response);
            match exchange.is_rpc {
                true => operations::kept(response),
                false => response,
            }
        }
        // The error of a call over gRPC is also read over REST. Over gRPC, its code is written anew.
        Err(problem) => exchange.render_over_rest(&problem),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    End {
        state,
        code: code.to_owned(),
        message,
        status: response.status,
        headers: response
            .headers
            .into_iter()
            .map(|header| (header.name, text(&header.value)))
            .collect(),
        body_bytes: response.body.len() as u64,
        body: Some(response.body.into_vec()),
    }
}
