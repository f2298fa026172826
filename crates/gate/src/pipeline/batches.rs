//! Runs the steps of batches: the lines of a step go through the steps of a call, one after another.

use super::{call, called, visibility};
use crate::call::ModelCall;
use crate::catalogue::{Catalogue, known};
use crate::connection::Connection;
use crate::describe::batches::push_of;
use crate::exchange::{Context, Exchange};
use crate::options::CallOptions;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::prefer::Deferral;
use crate::record::{Header, Request};
use crate::route::{Route, route};
use penstock_core::{Caller, Code, OperationId, Problem, RequestId, RouteKind};
use penstock_policy::auth::service::AuthService;
use penstock_policy::batches::line::answer_id;
use penstock_policy::batches::service::BatchesService;
use penstock_policy::batches::slice::Slice;
use penstock_policy::batches::words::{Line, Lines, Next, Refusal, Work};
use penstock_policy::operations::notes::Following;
use penstock_policy::operations::words::{End, Submission};

/// Does the work of a step that was claimed. Returns its end.
pub(super) fn run_step<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    step: &Submission,
) -> Result<End, Problem> {
    let at = (ports.unix_ms(), ports.random());
    match policies
        .batches
        .begin(&step.body, at)
        .map_err(Refusal::problem)?
    {
        Work::Done(end) => Ok(end),
        Work::Run(lines) => {
            let by = (&step.caller, step.priority);
            Ok(run_lines((ports, policies, catalogue), by, &lines))
        }
    }
}

/// Stores the step that follows an operation, if that is a step that has ended, and returns it for the host's queue.
pub(super) fn follow<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    id: &OperationId,
) -> Result<Option<Following>, Problem> {
    if !policies.batch_rules.enabled {
        return Ok(None);
    }
    let at = (ports.unix_ms(), ports.random());
    let next = policies.batches.advance(id, at).map_err(Refusal::problem)?;
    Ok(next.map(|next: Next| Following {
        id: next.operation.as_str().to_owned(),
        push: push_of(&next),
        due_ms: next.due_ms,
    }))
}

/// Runs lines until one of the bounds of a step is reached.
fn run_lines<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    by: (&Caller, Option<u8>),
    lines: &Lines,
) -> End {
    let rules = &policies.batch_rules;
    let mut slice = Slice::new(lines, rules.max_file_bytes);
    let began_ms = ports.unix_ms();
    for (at, line) in lines.lines.iter().enumerate() {
        let now_ms = ports.unix_ms();
        if now_ms >= lines.expires_ms {
            slice.expire();
            break;
        }
        // If the store does not answer, the next line asks again.
        if policies.batches.is_cancelled(&lines.batch) == Ok(true) {
            slice.cancel();
            break;
        }
        let is_late = now_ms.saturating_sub(began_ms) >= rules.slice_ms;
        if (at > 0 && is_late) || slice.is_full() {
            break;
        }
        match run_line((ports, policies, catalogue), by, lines, line) {
            Ok(answer) => slice.answer(
                line,
                answer.status,
                answer.request_id.as_str(),
                &answer.body,
            ),
            Err(retry_after_s) => {
                slice.wait(retry_after_s);
                break;
            }
        }
    }
    slice.end()
}

/// The answer of a line.
struct Answer {
    status: u16,
    request_id: RequestId,
    body: Vec<u8>,
}

/// Runs a line as a call of its path by the batch's caller. The error is the time after which it may run, if it cannot run now.
fn run_line<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    (caller, priority): (&Caller, Option<u8>),
    lines: &Lines,
    line: &Line,
) -> Result<Answer, Option<u32>> {
    let mut headers = vec![header("content-type", "application/json")];
    let mut route = route("POST", &lines.endpoint);
    let kind = route.as_ref().map_or(RouteKind::Predict, Route::kind);
    if policies.rules.enabled
        && policies
            .rules
            .required
            .iter()
            .any(|name| name == kind.as_str())
    {
        // The operator wants a key for each call. All attempts at a line have the same one.
        headers.push(header(
            "idempotency-key",
            &answer_id(lines.batch.as_str(), line.number),
        ));
    }
    let request = Request {
        method: "POST".to_owned(),
        target: lines.endpoint.clone(),
        headers,
        body: line.body.clone().into(),
    };
    let (unix_ms, random) = (ports.unix_ms(), ports.random());
    let context = Context {
        request_id: RequestId::generate(unix_ms, random),
        random,
        unix_ms,
        started_ns: ports.monotonic_ns(),
    };
    let connection = Connection::default();
    let mut exchange = Exchange::new(&request, &context, &connection);
    if let Ok(route) = &mut route {
        called::name_model(&request, route);
    }
    let surface = route
        .as_ref()
        .ok()
        .and_then(|route| called::surface(route, None));
    let result = match surface {
        Some((surface, target)) => {
            let model = route.as_ref().ok().and_then(Route::model);
            may_call((ports, policies, catalogue), caller, (kind, model)).and_then(|()| {
                let options = CallOptions::default();
                let call = ModelCall {
                    ports,
                    policies,
                    request: &request,
                    context: &context,
                    caller,
                    priority,
                    surface,
                    kind,
                    options: &options,
                    deferral: Deferral::default(),
                };
                call::call(&call, catalogue, target, &mut exchange)
            })
        }
        None => Err(Problem::new(
            Code::Internal,
            "this release does not know the endpoint of the batch",
        )),
    };
    let result = result.map_err(|problem| visibility::withhold(policies, Some(caller), problem));
    let response = match result {
        Ok(response) => response,
        Err(problem) if may_pass(problem.code) => return Err(problem.retry_after_s),
        Err(problem) => exchange.render(&problem),
    };
    Ok(Answer {
        status: response.status,
        request_id: context.request_id.clone(),
        body: response.body.into_vec(),
    })
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: value.as_bytes().to_vec(),
    }
}

/// Checks that the caller of a batch may make the call of a line. Its scopes were read when the batch was created.
fn may_call<P: Ports>(
    (ports, policies, catalogue): (&P, &Policies<P>, &mut Option<Catalogue<P>>),
    caller: &Caller,
    (kind, model): (RouteKind, Option<&str>),
) -> Result<(), Problem> {
    if policies.auth.allows(caller, kind.as_str(), model) {
        return Ok(());
    }
    let denied = || {
        Problem::new(
            Code::PermissionDenied,
            format!("the caller that created the batch has no scope `{kind}` for this model"),
        )
    };
    let Some(model) = model else {
        return Err(denied());
    };
    let sees = policies.auth.sees(caller, &[model.to_owned()]);
    let catalogue = known(catalogue, ports);
    // A hidden model and a missing model give the same answer.
    match sees.first() == Some(&true) && catalogue.contains(model) {
        true => Err(denied()),
        false => Err(catalogue.unknown(model)),
    }
}

/// Returns whether a line that was refused with this code may run later. A batch waits for its limits and for its models.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::QuotaExceeded
            | Code::Overloaded
            | Code::ModelNotReady
            | Code::StoreUnavailable
            | Code::IdempotencyInFlight
    )
}
