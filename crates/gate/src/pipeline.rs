//! Runs the steps of a request in order. Each step continues, or ends the request with an answer or a problem.
//!
//! 1. Do the work that the host orders, such as a stored operation.
//! 2. Find the route, and answer `OPTIONS`.
//! 3. Find the model's name, and choose the form of the answer by `Accept`.
//! 4. Answer routes without policies: probes, the catalogue of errors, the documentation page.
//! 5. Open the policies, if this is the first request that needs them.
//! 6. Authenticate and authorise the caller.
//! 7. Make a model call with the steps of [`call`], or admit and answer a request that only reads.

mod accept;
mod admission;
mod announced;
mod batches;
mod call;
mod called;
mod custom;
mod idempotency;
mod limits;
mod operations;
mod visibility;
mod webhook;

use crate::call::{ModelCall, Surface};
use crate::catalogue::{Catalogue, known};
use crate::cors;
use crate::describe::batches::Stored;
use crate::describe::readiness::readiness;
use crate::describe::{self, repository};
use crate::exchange::Exchange;
use crate::grpc::serve::{self, RpcRead};
use crate::instance::Instance;
use crate::options::CallOptions;
use crate::policies::{self, Policies, is_signed};
use crate::ports::Ports;
use crate::record::Response;
use crate::representation::{Representation, encoded_from_bytes};
use crate::route::{Route, Target, route, shorten};
use announced::{go_on, judge};
use penstock_core::negotiate::{self, Events};
use penstock_core::{Caller, Code, Problem, RouteKind};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words::{Admitted, Refusal};
use penstock_policy::quota::words;

/// The early end of a request.
enum End {
    /// The request is answered early, with this answer.
    Answered(Response),
    /// The request is refused or has failed, with this problem.
    Refused(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// The facts that policies decide by: the kind of route, and its model.
#[derive(Clone, Copy)]
struct Subject<'r> {
    kind: RouteKind,
    model: Option<&'r str>,
}

/// Answers a request, or returns its problem. The exchange collects the data of the answer except its body.
pub(crate) fn answer<P: Ports>(
    instance: &mut Instance<P>,
    exchange: &mut Exchange<'_>,
    audits: bool,
) -> Result<Response, Problem> {
    match steps(instance, exchange, audits) {
        Ok(response) | Err(End::Answered(response)) => Ok(response),
        Err(End::Refused(problem)) => Err(problem),
    }
}

fn steps<P: Ports>(
    instance: &mut Instance<P>,
    exchange: &mut Exchange<'_>,
    audits: bool,
) -> Result<Response, End> {
    if let Some(order) = &exchange.connection.work {
        return Ok(operations::work(instance, exchange, order)?);
    }
    let mut route = find_route(exchange)?;
    called::name_model(exchange.request, &mut route);
    negotiate(exchange, &route)?;
    let Instance {
        ports,
        policies,
        catalogue,
        required,
    } = instance;
    let ports: &P = ports;
    let connection = exchange.connection;
    // Policies do not apply to probes.
    if route == Route::ServerReady {
        return Ok(readiness(ports, catalogue, required, connection, None));
    }
    if let Some(answered) = describe::unlimited(ports, &route) {
        return Ok(answered?);
    }
    // A signature may cover the body, so wait for the body before authentication.
    if connection.asks.is_some() && is_signed(exchange.request) {
        return Ok(go_on());
    }
    let policies = match policies {
        Some(policies) => &*policies,
        None => &*policies.insert(Policies::open(ports)?),
    };

    let options = call_options(exchange, &route);
    let subject = Subject {
        // A prediction with an explanation needs the permission for explanations.
        kind: match options.explains()
            && matches!(route, Route::Predict(_) | Route::PredictAsync(_))
        {
            true => RouteKind::Explain,
            false => route.kind(),
        },
        model: route.model(),
    };
    let admitted = match authenticate(policies, exchange, subject) {
        Ok(admitted) => admitted,
        Err(refusal) if route == Route::Ready => {
            exchange.trail.caller = refusal.caller;
            return Ok(readiness(ports, catalogue, required, connection, None));
        }
        Err(refusal) => {
            let problem = refuse(
                ports,
                policies,
                catalogue,
                exchange,
                (&route, subject),
                refusal,
            )?;
            return Err(problem.into());
        }
    };
    let caller = &admitted.caller;
    note_caller(exchange, &route, &admitted, audits);
    if route == Route::Ready {
        let sees = |names: &[String]| policies.auth.sees(caller, names);
        return Ok(readiness(
            ports,
            catalogue,
            required,
            connection,
            Some(&sees),
        ));
    }

    let called = called::surface(&route, exchange.rpc.as_ref());
    judge_announced(ports, catalogue, exchange, called)?;
    let answered = match called {
        Some((surface, target)) => {
            let deferral = called::deferral(exchange, &route, surface);
            let call = ModelCall {
                ports,
                policies,
                request: exchange.request,
                context: exchange.context,
                caller,
                priority: admitted.priority,
                surface,
                kind: subject.kind,
                options: &options,
                deferral,
            };
            let answered = call::call(&call, catalogue, target, exchange);
            match deferral.is_streamed(&policies.operation_rules) {
                true => answered.and_then(|answer| operations::stream_accepted(exchange, answer)),
                false => answered,
            }
        }
        None => describe(ports, policies, catalogue, exchange, &route, &admitted),
    };
    Ok(answered.map_err(|problem| visibility::withhold(policies, Some(caller), problem))?)
}

/// Finds the route, and answers requests that concern only the route.
fn find_route(exchange: &mut Exchange<'_>) -> Result<Route, End> {
    let request = exchange.request;
    if exchange.is_rpc {
        return match serve::read(request)? {
            RpcRead::Answered(response) => Err(End::Answered(response)),
            RpcRead::Routed(route, rpc) => {
                exchange.rpc = Some(rpc);
                Ok(route)
            }
        };
    }
    if let Some(response) = cors::options_of_server(request) {
        return Err(End::Answered(response));
    }
    let route = route(&request.method, request.path())?;
    match request.method.as_str() {
        "OPTIONS" => Err(End::Answered(cors::options(route.allow()))),
        _ => Ok(route),
    }
}

/// Refuses a request whose `Accept` excludes every form of the answer. Otherwise sets the answer's class and the size
/// from which it is compressed.
fn negotiate(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Problem> {
    let accept = exchange.request.header_list("accept");
    let offered = route.media_types();
    let reads_json =
        offered.contains(&"application/json") && negotiate::accepts_json(accept.as_deref());
    if exchange.rpc.is_none() && route.may_be_streamed(&exchange.request.method) {
        exchange.events = negotiate::events(accept.as_deref(), offered);
    }
    let accepted = exchange.rpc.is_some()
        || reads_json
        || exchange.events != Events::No
        || negotiate::choose(accept.as_deref(), offered).is_some();
    if !accepted {
        return Err(Problem::new(
            Code::NotAcceptable,
            format!(
                "the Accept header `{}` excludes {}, which this path answers with; accept that",
                shorten(accept.as_deref().unwrap_or_default()),
                offered.join(" and ")
            ),
        ));
    }
    exchange.representation = Representation::of(route, false);
    exchange.encoded_from = encoded_from_bytes(route);
    Ok(())
}

/// Reads the query once, for the routes that have options in it.
fn call_options(exchange: &Exchange<'_>, route: &Route) -> CallOptions {
    match route {
        Route::Predict(_) | Route::PredictAsync(_) | Route::Explain(_) => {
            CallOptions::of(exchange.request)
        }
        _ => CallOptions::default(),
    }
}

/// Authenticates the caller and checks its permission.
fn authenticate<P: Ports>(
    policies: &Policies<P>,
    exchange: &mut Exchange<'_>,
    Subject { kind, model }: Subject<'_>,
) -> Result<Admitted, Refusal> {
    exchange.trail.route = Some(kind);
    exchange.trail.model = model.map(str::to_owned);
    let context = exchange.context;
    let times = (context.unix_ms, context.random as u64);
    let (request, connection) = (exchange.request, exchange.connection);
    policies::authenticate(policies, request, connection, (kind, model), times)
}

/// Returns the problem of a request that `auth` refused.
fn refuse<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    exchange: &mut Exchange<'_>,
    (route, subject): (&Route, Subject<'_>),
    refusal: Refusal,
) -> Result<Problem, Problem> {
    let problem = visibility::refused(ports, catalogue, subject.model, &refusal);
    let caller = refusal.caller;
    // Charge the limits for unknown models too. Otherwise the missing charge would reveal which hidden models exist.
    let admitted = match (problem.code, &caller) {
        (Code::UnknownModel, Some(caller)) => {
            let call = limits_call(exchange, route, subject, caller);
            admission::admit(ports, policies, exchange, &call).map(Some)
        }
        _ => Ok(None),
    };
    let problem = visibility::withhold(policies, caller.as_ref(), problem);
    exchange.trail.caller = caller;
    if let Some(admitted) = admitted? {
        admission::settle_unused(ports, policies, &admitted);
    }
    Ok(problem)
}

/// Records the caller for the audit log and for the cache headers.
fn note_caller(exchange: &mut Exchange<'_>, route: &Route, admitted: &Admitted, audits: bool) {
    let trail = &mut exchange.trail;
    trail.personal = !admitted.caller.anonymous;
    trail.caller = audits.then(|| admitted.caller.clone());
    trail.credential = Some(admitted.credential.as_str());
    trail.admitted = true;
    exchange.representation = Representation::of(route, exchange.trail.personal);
}

/// Answers a request whose body is announced but not yet sent. A request for an unknown model continues and is
/// charged like any call. Otherwise the missing charge would reveal hidden models.
fn judge_announced<P: Ports>(
    ports: &P,
    catalogue: &mut Option<Catalogue<P>>,
    exchange: &Exchange<'_>,
    called: Option<(Surface, &Target)>,
) -> Result<(), End> {
    let Some(announced) = exchange.connection.asks else {
        return Ok(());
    };
    let judged = match called {
        None => Some(Ok(go_on())),
        Some((_, target)) => {
            let catalogue = known(catalogue, ports);
            judge(ports, catalogue, exchange.request, target, announced)
        }
    };
    match judged {
        Some(judged) => Err(End::Answered(judged?)),
        None => Ok(()),
    }
}

/// Answers a route that calls no model, after the rate limits have admitted it.
fn describe<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    exchange: &mut Exchange<'_>,
    route: &Route,
    admitted: &Admitted,
) -> Result<Response, Problem> {
    let caller = &admitted.caller;
    let subject = Subject {
        kind: route.kind(),
        model: route.model(),
    };
    // A limit that refuses a poll would keep a client from a result that it has paid for. The wait of a poll paces it.
    if let Some(stored) = Stored::of(route) {
        // Only what stores something is charged.
        let call = limits_call(exchange, route, subject, caller);
        let admission = match exchange.request.method.as_str() {
            "POST" if stored.is_list() => Some(admission::admit(ports, policies, exchange, &call)?),
            _ => None,
        };
        operations::run_step_for_caller((ports, policies, catalogue), exchange, route, caller);
        let answered = describe::batches::answer((ports, policies), exchange, &stored, admitted);
        if let Some(admission) = &admission {
            admission::settle_unused(ports, policies, admission);
        }
        return answered;
    }
    if subject.kind == RouteKind::Operations {
        operations::run_for_caller((ports, policies, catalogue), exchange, route, caller);
        return describe::limited(ports, policies, catalogue, exchange, route, caller);
    }
    let call = limits_call(exchange, route, subject, caller);
    let admission = admission::admit(ports, policies, exchange, &call)?;
    // The body holds the options of repository requests. Over gRPC they were read with the route.
    let read = match exchange.rpc {
        Some(_) => Ok(route.clone()),
        None => repository::read(route, exchange.request, policies.unknown),
    };
    let answered = read
        .and_then(|route| describe::limited(ports, policies, catalogue, exchange, &route, caller));
    admission::settle_unused(ports, policies, &admission);
    answered
}

/// Returns the request in the form that the rate limits take.
fn limits_call<'a>(
    exchange: &Exchange<'_>,
    route: &Route,
    Subject { kind, model }: Subject<'a>,
    caller: &'a Caller,
) -> words::Call<'a> {
    words::Call {
        caller,
        route: kind.as_str(),
        // Limits by model apply only to calls of the model.
        model: model.filter(|_| route.is_call()),
        body_bytes: exchange.request.body.len() as u64,
    }
}
