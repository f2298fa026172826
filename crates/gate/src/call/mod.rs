//! A call of a model, through all policies: limits, version, idempotency, body checks, validation or adapter,
//! limits on items, claim, inference, answer, record, counts.
//!
//! What calls look like is the surfaces' affair: [`predict`], [`batch`], [`embeddings`], [`classify`], [`moderations`], [`rerank`],
//! [`infer`], [`generate`] and [`grpc`] turn a body into [`Work`], which runs and writes the answer. Everything else is the same for all of them, and
//! is here.
//!
//! A call that a limit refuses burns no other limit and no claim; one that is refused for its body has
//! cost its request and its bytes. A replay costs a request and its bytes, and no items.

mod batch;
mod cache;
mod classify;
mod content;
pub(crate) mod embeddings;
mod explain;
mod generate;
mod grpc;
pub(crate) mod infer;
mod moderations;
mod predict;
mod replay;
mod rerank;
mod run;
mod taken;
mod texts;
mod version;

use crate::catalogue::{Catalogue, Opened};
use crate::coding::{self, Coding};
use crate::gate::{Answered, Context, known};
use crate::grpc::Form;
use crate::policies::Policies;
use crate::ports::{FailureKind, Headers, Ports};
use crate::record::Request;
use crate::rollout;
use crate::route::{Target, shorten};
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::negotiate::is_json;
use penstock_core::{Caller, Code, Problem, Violation};
use penstock_policy::auth::words::Admitted;
use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
use penstock_policy::quota::{self, service::AdmissionService, service::QuotaService};
use penstock_policy::usage::{Amounts, service::UsageService};
use penstock_tensor::{Contract, InferRequest, Rejection};
use replay::Begun;
use run::{Answer, Runner, Work};
use std::borrow::Cow;
pub(crate) use version::Serving;

const JSON: &str = "application/json";

/// Which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `:predict`.
    Predict,
    /// `:batchPredict`.
    BatchPredict,
    /// `:explain`.
    Explain,
    /// The Open Inference Protocol's `infer`.
    Infer,
    /// The same over gRPC, in one of two messages.
    Grpc(Form),
    /// Triton's `generate`.
    Generate,
    /// Triton's `generate_stream`.
    GenerateStream,
    /// OpenAI's `embeddings`.
    Embeddings,
    /// vLLM's and Text Embeddings Inference's classification.
    Classify,
    /// OpenAI's `moderations`.
    Moderations,
    /// Cohere's `rerank`.
    Rerank,
    /// vLLM's `score`.
    Score,
}

impl Method {
    /// As policies call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict | Self::BatchPredict => "predict",
            Self::Explain => "explain",
            Self::Infer | Self::Generate | Self::GenerateStream | Self::Grpc(_) => "infer",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Score => "score",
        }
    }

    /// A word of its own: the part of a path that says which call it is, however the path is spelt.
    fn word(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::BatchPredict => "batchPredict",
            Self::Explain => "explain",
            Self::Infer => "infer",
            Self::Grpc(Form::Unary) => "ModelInfer",
            Self::Grpc(Form::Stream) => "ModelStreamInfer",
            Self::Generate => "generate",
            Self::GenerateStream => "generate_stream",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Score => "score",
        }
    }

    /// Whether the body names the model, and not the path.
    fn names_model_in_body(self) -> bool {
        matches!(
            self,
            Self::Embeddings | Self::Classify | Self::Moderations | Self::Rerank | Self::Score
        )
    }
}

/// What a call has cost so far.
#[derive(Default)]
struct Meter {
    /// Items that were run.
    items: u64,
    /// Nanoseconds in the model.
    compute_ns: u64,
    /// The model, once it is known to exist.
    model: Option<String>,
    /// The version that answers, once it is chosen.
    serving: Option<Serving>,
    /// How the last run failed, if one did and the caller did not ask for less time than it takes.
    failed: Option<FailureKind>,
    /// How many runs there were.
    runs: u64,
    /// Whether something ran to its end in vain: it is paid for.
    ran_and_failed: bool,
    /// Whether nothing was run for now, although the answer is no error: it is not to be replayed.
    is_to_forget: bool,
}

/// What is the same in all steps of a call.
struct Call<'a, P: Ports> {
    ports: &'a P,
    policies: &'a Policies<P>,
    request: &'a Request,
    context: &'a Context,
    caller: &'a Caller,
    priority: Option<u8>,
    method: Method,
    /// The method as policies call it.
    kind: &'static str,
}

/// The quota's part of a call.
type Admission<P> = <<P as Ports>::Quota as QuotaService>::Admission;
/// The idempotency's part of a call.
type Attempt<P> = <<P as Ports>::Idempotency as IdempotencyService>::Attempt;

/// Makes a call. `headers` gets what goes on the answer whatever becomes of it.
#[allow(clippy::too_many_arguments)]
pub fn call<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    request: &Request,
    context: &Context,
    admitted: &Admitted,
    (method, target): (Method, &Target),
    headers: &mut Headers,
) -> Result<Answered, Problem> {
    let Admitted {
        caller, priority, ..
    } = admitted;
    let call = Call {
        ports,
        policies,
        request,
        context,
        caller,
        priority: *priority,
        method,
        kind: match method {
            Method::Predict if explains(request) => Method::Explain.name(),
            method => method.name(),
        },
    };
    let admission = admit(
        ports,
        policies,
        context,
        &quota::words::Call {
            caller,
            route: call.kind,
            model: Some(&target.model),
            body_bytes: request.body.len() as u64,
        },
        headers,
    )?;
    let mut meter = Meter::default();
    let answered = call.admitted(
        known(catalogue, ports),
        target,
        admission.as_ref(),
        &mut meter,
        headers,
    );
    let now_ms = if policies.scope.settles || policies.counts {
        ports.unix_ms()
    } else {
        0
    };
    if policies.scope.settles
        && let Some(admission) = &admission
    {
        admission.settle(meter.compute_ns.div_ceil(1_000_000), now_ms);
    }
    if policies.counts
        && let Some(model) = &meter.model
    {
        let amounts = Amounts {
            requests: 1,
            items: meter.items,
            bytes: request.body.len() as u64,
            compute_us: meter.compute_ns / 1_000,
        };
        let counted = policies
            .usage
            .count(caller, model, amounts, now_ms, context.random as u64);
        // Nobody is given for nothing what was run; what ran nothing is answered as it is.
        if let Err(message) = counted
            && meter.items > 0
        {
            return Err(Problem::new(
                Code::StoreUnavailable,
                format!("the use of this call cannot be counted: {message}"),
            )
            .retry_after(RETRY_STORE_S));
        }
    }
    if let Some(serving) = &meter.serving {
        headers.extend(serving.notice.iter().cloned());
        if answered.is_err() {
            let said = [
                ("x-model-version", serving.version.to_string()),
                ("x-model-version-reason", serving.reason.clone()),
            ];
            headers.extend(said.map(|(name, value)| (name.to_owned(), value)));
        }
    }
    answered
}

/// Whether a call of `:predict` asks for an explanation too.
pub fn explains(request: &Request) -> bool {
    explain::is_wanted(request).unwrap_or(false)
}

/// Decides the limits on calls, and waits where one of them paces.
pub fn admit<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    context: &Context,
    call: &quota::words::Call<'_>,
    headers: &mut Headers,
) -> Result<Option<Admission<P>>, Problem> {
    if !policies.scope.calls {
        return Ok(None);
    }
    match policies
        .quota
        .admit(call, context.unix_ms, context.random as u64)
    {
        Ok(admitted) => {
            *headers = admitted.headers;
            if admitted.wait_ms > 0 {
                ports.sleep_ms(admitted.wait_ms);
            }
            Ok(Some(admitted.admission))
        }
        Err(refusal) => {
            let (problem, refused) = refusal.problem();
            *headers = refused;
            Err(problem)
        }
    }
}

impl<P: Ports> Call<'_, P> {
    fn admitted(
        &self,
        catalogue: &mut Catalogue<P>,
        target: &Target,
        admission: Option<&Admission<P>>,
        meter: &mut Meter,
        headers: &mut Headers,
    ) -> Result<Answered, Problem> {
        let (ports, request) = (self.ports, self.request);
        if self.method.names_model_in_body() && target.model.is_empty() {
            return Err(self.unnamed(headers));
        }
        let who = (self.caller, self.context);
        let (model, mut serving) = version::choose(ports, catalogue, target, request, None, who)?;
        let name = model.name.clone();
        meter.model = Some(name.as_str().to_owned());
        meter.serving = Some(serving.clone());
        let opened = &*model.open(ports)?;
        request.content_type()?;
        let coding = coding::of(request, headers)?;
        check_body(request, &opened.contract)?;
        let attempt = match self.begin((name.as_str(), target), coding)? {
            Begun::Unkeyed => None,
            Begun::Free(attempt) => Some(attempt),
            Begun::Done(kept) => {
                // What is said of a version is for the one that answered then.
                meter.serving = None;
                return replay::replay(kept);
            }
        };
        let work = self.decode(opened, (name.as_str(), target), coding)?;
        if let Some(asked) = work.model_version() {
            meter.serving = None;
            (_, serving) = version::choose(ports, catalogue, target, request, Some(asked), who)?;
            meter.serving = Some(serving.clone());
        }
        let charged = admission.filter(|_| self.policies.scope.items);
        if let Some(admission) = charged {
            let (now_ms, random) = (self.context.unix_ms, self.context.random as u64);
            match admission.charge_items(work.items(), now_ms, random) {
                Ok(more) => *headers = more,
                Err(refusal) => {
                    let (problem, refused) = refusal.problem();
                    *headers = refused;
                    return Err(problem);
                }
            }
        }
        let refund = |headers: &mut Headers| {
            if let Some(admission) = charged {
                *headers = admission.refund_items(self.context.unix_ms);
            }
        };
        let claimed = match attempt {
            None => None,
            Some(attempt) => match self.claim(attempt) {
                Ok(replay::Claim::Unprotected) => None,
                Ok(replay::Claim::Granted(attempt)) => Some(attempt),
                Ok(replay::Claim::Done(kept)) => {
                    refund(headers);
                    meter.serving = None;
                    return replay::replay(kept);
                }
                Err(problem) => {
                    refund(headers);
                    return Err(problem);
                }
            },
        };
        let mut runner = Runner::new(self, opened, name.as_str(), &serving, meter);
        let result = work.run(&mut runner).map(|answer| {
            let Answer {
                response,
                prediction_id,
            } = answer;
            Answered {
                response,
                version: Some(serving.version),
                reason: Some(serving.reason.clone()),
                prediction_id,
            }
        });
        let cache_headers = runner.cache.headers(ports.unix_ms());
        // What did not run is not paid for; what ran and failed is.
        let ran_nothing = match &result {
            Ok(_) => meter.items == 0 && !meter.ran_and_failed,
            Err(problem) => meter.items == 0 && was_not_run(problem.code),
        };
        if ran_nothing {
            refund(headers);
        }
        if let Some(counted) = &serving.counted
            && let Some(outcome) = rollout::outcome(meter.runs > 0, meter.failed)
        {
            let (version, latency_ns) = (serving.version, meter.compute_ns);
            let call = (outcome, latency_ns);
            rollout::count(ports, name.as_str(), version, counted, call);
        }
        headers.extend(cache_headers);
        match claimed {
            Some(attempt) if meter.is_to_forget => {
                attempt.release();
                result
            }
            Some(attempt) => self.finish(&attempt, result),
            None => result,
        }
    }

    /// Turns the body into work.
    fn decode(
        &self,
        opened: &Opened<P>,
        (model, target): (&str, &Target),
        coding: Option<Coding>,
    ) -> Result<Box<dyn Work<P>>, Problem> {
        let limit = opened.contract.limits.max_body_bytes;
        let limit = limit.min(self.policies.body_limit);
        let body = || coding::body(&self.request.body, coding, limit);
        match self.method {
            Method::Predict => predict::decode(self, opened, model, body),
            Method::Explain => explain::decode(self, opened, model, body),
            Method::BatchPredict => batch::decode(opened, &self.json(body)?),
            Method::Infer => infer::decode(self, opened, model, body),
            Method::Generate => generate::decode(self, opened, model, (&self.json(body)?, false)),
            Method::GenerateStream => {
                generate::decode(self, opened, model, (&self.json(body)?, true))
            }
            Method::Grpc(form) => grpc::decode(self, opened, &body()?, (target, limit), form),
            Method::Embeddings => embeddings::decode(opened, model, &self.json(body)?),
            Method::Classify => classify::decode(opened, model, &self.json(body)?),
            Method::Moderations => moderations::decode(opened, model, &self.json(body)?),
            Method::Rerank => rerank::decode(opened, model, &self.json(body)?),
            Method::Score => rerank::decode_score(opened, model, &self.json(body)?),
        }
    }

    /// Why a body that is to name a model names none.
    fn unnamed(&self, headers: &mut Headers) -> Problem {
        let body = coding::of(self.request, headers)
            .and_then(|coding| coding::body(&self.request.body, coding, self.policies.body_limit));
        match body {
            Ok(body) if self.method == Method::Embeddings => embeddings::unnamed(&body),
            Ok(body) => texts::unnamed(&body),
            Err(problem) => problem,
        }
    }

    /// A body that must be JSON.
    fn json<'b>(
        &self,
        body: impl FnOnce() -> Result<Cow<'b, [u8]>, Problem>,
    ) -> Result<Cow<'b, [u8]>, Problem> {
        body_kind(self.request.content_type()?, false)?;
        body()
    }
}

/// Whether a failure proves that the model did not run.
fn was_not_run(code: Code) -> bool {
    matches!(
        code,
        Code::ModelNotReady | Code::Overloaded | Code::DeadlineExceeded | Code::NotCached
    )
}

/// What can be said of a body before anybody parses it.
fn check_body(request: &Request, contract: &Contract) -> Result<(), Problem> {
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

/// Checks the model that a body names beside the path: clients repeat it there, and another one would be another call.
fn names_model(parsed: &InferRequest, model: &str) -> Result<(), Problem> {
    match parsed.model_name.as_deref() {
        None | Some("") => Ok(()),
        Some(named) if named == model => Ok(()),
        Some(named) => {
            let message = format!(
                "model_name is `{}`, and the path names model `{model}`; send the same name, or leave model_name out",
                shorten(named)
            );
            let violation = Violation::new("/model_name", "wrong_model", model, message.clone());
            Err(Problem::new(Code::InvalidBody, message).with_violations(vec![violation], 0))
        }
    }
}

/// What the content type says a body is.
enum BodyKind {
    Json,
    Raw,
}

/// Decides how a body is read. A model with an adapter takes any content as it is, and JSON tensors
/// where the content type is JSON; a model without one takes JSON only.
fn body_kind(content_type: Option<&str>, has_adapter: bool) -> Result<BodyKind, Problem> {
    let essence = content_type.map(|c| c.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(e) if is_json(e) => Ok(BodyKind::Json),
        _ if has_adapter => Ok(BodyKind::Raw),
        None | Some("") => Ok(BodyKind::Json),
        Some(other) => Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the content type `{}` is not accepted here; send `content-type: application/json`",
                shorten(other)
            ),
        )),
    }
}

/// A JSON body as text: RFC 8259 §8.1 has JSON in UTF-8 and in nothing else.
fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        let message = format!("the body is not UTF-8 from byte {at} on; send JSON as UTF-8");
        Problem::new(Code::MalformedJson, message.clone()).with_violations(
            vec![Violation::new(
                "",
                "invalid_utf8",
                "UTF-8 (RFC 8259 §8.1)",
                message,
            )],
            0,
        )
    })
}

pub(crate) fn rejected(rejection: Rejection) -> Problem {
    Problem::new(rejection.code, rejection.message)
        .with_violations(rejection.violations, rejection.omitted)
}
