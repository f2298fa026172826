//! Runs the steps of a model call: limits, the operator's own policy, version, size of the body, look-up of the
//! idempotency key, body, choice between an operation and a run, items, claim, run, record, counts.
//!
//! A call that a limit refuses charges no other limit and makes no claim. A call with an invalid body is charged its
//! request and its bytes. A replay is charged a request and its bytes, and no items.

use super::accept::{self, Accepting};
use super::admission::{self, Admission};
use super::idempotency::{self, Attempt, Claim, Earlier};
use super::limits;
use super::webhook;
use crate::call::{Meter, ModelCall};
use crate::catalogue::{Catalogue, Opened, known};
use crate::coding::{self, ACCEPTED, Coding};
use crate::exchange::Exchange;
use crate::ports::Ports;
use crate::problem::was_not_run;
use crate::record::{Request, Response};
use crate::rollout::{self, Serving};
use crate::route::Target;
use crate::run::{Runner, SurfaceAnswer, Work};
use crate::surface;
use crate::version;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Code, Problem};
use penstock_policy::custom::words::Outcome;
use penstock_policy::idempotency::service::AttemptService;
use penstock_policy::quota::words;
use penstock_policy::rollout::judge::Outcome as VersionOutcome;
use penstock_policy::usage::{Amounts, service::UsageService};
use penstock_tensor::Contract;

/// Makes a model call and accounts for it.
pub(super) fn call<P: Ports>(
    call: &ModelCall<'_, P>,
    catalogue: &mut Option<Catalogue<P>>,
    target: &Target,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    let admission = admission::admit(
        call.ports,
        call.policies,
        exchange,
        &words::Call {
            caller: call.caller,
            route: call.kind.as_str(),
            model: Some(&target.model),
            body_bytes: call.request.body.len() as u64,
        },
    )?;
    let mut meter = Meter::default();
    let catalogue = known(catalogue, call.ports);
    let answered = steps(call, catalogue, target, &admission, &mut meter, exchange);
    account(call, &admission, &meter)?;
    answered
}

/// Runs the steps after the limits on calls. Each continues or ends in a problem.
fn steps<P: Ports>(
    call: &ModelCall<'_, P>,
    catalogue: &mut Catalogue<P>,
    target: &Target,
    admission: &Admission<P>,
    meter: &mut Meter,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    if call.surface.names_model_in_body() && target.model.is_empty() {
        let coding = coding_of(exchange)?;
        return Err(surface::unnamed(call, coding));
    }
    let caller = (call.caller, call.context);
    let (ports, request) = (call.ports, call.request);
    let (model, mut serving) = version::choose(ports, catalogue, target, request, None, caller)?;
    let name = model.name.clone();
    meter.model = Some(name.as_str().to_owned());
    exchange.headers.answer_by(&serving);
    let opened = &*model.open(ports)?;
    request.content_type()?;
    let coding = coding_of(exchange)?;
    check_size(request, &opened.contract)?;

    let mut retry_of = None;
    let attempt = match idempotency::look_up(call, (name.as_str(), target), coding)? {
        Earlier::Unkeyed => None,
        Earlier::Free(attempt, key) => {
            retry_of = Some(key);
            Some(attempt)
        }
        Earlier::Done(kept) => {
            exchange.headers.forget_version();
            return idempotency::replay(exchange, kept);
        }
    };
    let work = surface::decode(call, opened, (name.as_str(), target), coding)?;
    if let Some(asked) = work.model_version() {
        exchange.headers.forget_version();
        (_, serving) = version::choose(ports, catalogue, target, request, Some(asked), caller)?;
        exchange.headers.answer_by(&serving);
    }

    let deferred = call
        .deferral
        .decide(&call.policies.operation_rules, work.items())?;
    let webhook = webhook::decide(call, deferred)?;
    let charged = admission.limits.as_ref();
    let charged = charged.filter(|_| call.policies.scope.items);
    limits::charge_items(charged, exchange, work.items())?;
    let claim = attempt.map(|attempt| idempotency::claim(ports, attempt));
    let attempt = match claim.transpose() {
        Ok(None | Some(Claim::Unprotected)) => None,
        Ok(Some(Claim::Granted(attempt))) => Some(attempt),
        Ok(Some(Claim::Done(kept))) => {
            limits::refund_items(charged, exchange);
            exchange.headers.forget_version();
            return idempotency::replay(exchange, kept);
        }
        Err(problem) => {
            limits::refund_items(charged, exchange);
            return Err(problem);
        }
    };

    if deferred {
        let accepting = Accepting {
            call,
            admission,
            charged,
            model: name.as_str(),
            serving: &serving,
            items: work.items(),
            retry_of,
            webhook,
        };
        let result = accept::accept(accepting, exchange);
        if result.is_err() {
            limits::refund_items(charged, exchange);
        }
        return record(call, attempt.as_ref(), result, meter, exchange);
    }
    let place = (opened, name.as_str(), &serving);
    let result = run(call, place, work, meter, exchange);
    if ran_nothing(&result, meter) {
        limits::refund_items(charged, exchange);
    }
    let rollouts = (ports, catalogue.rollouts());
    count_for_canary(rollouts, (name.as_str(), &serving), meter);
    record(call, attempt.as_ref(), result, meter, exchange)
}

/// Runs a call that was accepted as an operation. Its caller was admitted, its charges were made, and its version was chosen
/// then: `target` names that version, and `named` is what the call itself names.
pub(super) fn resume<P: Ports>(
    call: &ModelCall<'_, P>,
    catalogue: &mut Option<Catalogue<P>>,
    (target, named): (&Target, &Target),
    meter: &mut Meter,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    let catalogue = known(catalogue, call.ports);
    let (ports, request) = (call.ports, call.request);
    let caller = (call.caller, call.context);
    let (model, serving) = version::choose(ports, catalogue, target, request, None, caller)?;
    let name = model.name.clone();
    meter.model = Some(name.as_str().to_owned());
    exchange.headers.answer_by(&serving);
    let opened = &*model.open(ports)?;
    let coding = coding_of(exchange)?;
    let work = surface::decode(call, opened, (name.as_str(), named), coding)?;
    run(
        call,
        (opened, name.as_str(), &serving),
        work,
        meter,
        exchange,
    )
}

/// Returns the body's coding. The 415 answer to an unsupported coding lists the supported ones.
fn coding_of(exchange: &mut Exchange<'_>) -> Result<Option<Coding>, Problem> {
    let coding = coding::of(exchange.request);
    if coding.is_err() {
        exchange.headers.accept_encoding = Some(ACCEPTED);
    }
    coding
}

/// Checks the size of a body before it is parsed.
fn check_size(request: &Request, contract: &Contract) -> Result<(), Problem> {
    let limit = contract.limits.max_body_bytes;
    if request.body.len() as u64 > limit {
        return Err(Problem::new(
            Code::BodyTooLarge,
            format!(
                "the body has {} bytes; this model takes at most {limit}",
                request.body.len()
            ),
        ));
    }
    Ok(())
}

/// Runs the work of a call. Stores the prediction's id and the cache headers for the answer.
fn run<P: Ports>(
    call: &ModelCall<'_, P>,
    (opened, name, serving): (&Opened<P>, &str, &Serving),
    work: Box<dyn Work<P>>,
    meter: &mut Meter,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    let mut runner = Runner::new(call, opened, name, serving, meter);
    let result = work.run(&mut runner);
    exchange.headers.cache = runner.cache.headers(|| call.ports.unix_ms());
    let SurfaceAnswer {
        response,
        prediction_id,
    } = result?;
    exchange.headers.prediction_id = prediction_id;
    Ok(response)
}

/// Returns whether nothing ran. The items are then refunded. A run that failed is charged.
fn ran_nothing(result: &Result<Response, Problem>, meter: &Meter) -> bool {
    meter.items == 0
        && match result {
            Ok(_) => !meter.ran_and_failed,
            Err(problem) => was_not_run(problem.code),
        }
}

/// Counts the run for the health of a canary.
fn count_for_canary<P: Ports>(
    rollouts: (&P, &P::Rollouts),
    (name, serving): (&str, &Serving),
    meter: &Meter,
) {
    if let Some(counted) = &serving.counted
        && let Some(outcome) = rollout::outcome(meter.runs > 0, meter.failed)
    {
        let (version, run) = (serving.version, (outcome, meter.compute_ns));
        rollout::count(rollouts, name, version, counted, run);
    }
}

/// Keeps the answer for calls with the same idempotency key, or releases the claim.
fn record<P: Ports>(
    call: &ModelCall<'_, P>,
    attempt: Option<&Attempt<P>>,
    result: Result<Response, Problem>,
    meter: &Meter,
    exchange: &mut Exchange<'_>,
) -> Result<Response, Problem> {
    match attempt {
        None => result,
        Some(attempt) if meter.is_to_forget => {
            attempt.release();
            result
        }
        Some(attempt) => idempotency::finish(call, exchange, attempt, result),
    }
}

/// Reports the end of the call to the policies and counts its usage, whether or not it succeeded.
fn account<P: Ports>(
    call: &ModelCall<'_, P>,
    admission: &Admission<P>,
    meter: &Meter,
) -> Result<(), Problem> {
    let policies = call.policies;
    let now_ms = match admission::settles(policies) || policies.counts {
        true => call.ports.unix_ms(),
        false => 0,
    };
    let outcome = Outcome {
        items: meter.items,
        compute_us: meter.compute_ns / 1_000,
        failed: rollout::outcome(true, meter.failed) == Some(VersionOutcome::Failed),
    };
    admission::settle(policies, admission, meter.compute_ns, outcome, now_ms);
    let (true, Some(model)) = (policies.counts, &meter.model) else {
        return Ok(());
    };
    let amounts = Amounts {
        requests: 1,
        items: meter.items,
        bytes: call.request.body.len() as u64,
        compute_us: meter.compute_ns / 1_000,
    };
    let random = call.context.random as u64;
    let counted = policies
        .usage
        .count(call.caller, model, amounts, now_ms, random);
    match counted {
        // If the model ran, the call fails, because its usage must not go uncounted. If nothing ran, the answer
        // stands.
        Err(message) if meter.items > 0 => Err(Problem::new(
            Code::StoreUnavailable,
            format!("the usage of this call cannot be counted: {message}"),
        )
        .retry_after(RETRY_STORE_S)),
        _ => Ok(()),
    }
}
