//! A call of a model, through all policies: limits, idempotency, body checks, validation or adapter,
//! limits on items, claim, inference, answer, record, counts.
//!
//! A call that a limit refuses burns no other limit and no claim; one that is refused for its body has
//! cost its request and its bytes. A replay costs a request and its bytes, and no items.

use crate::answer;
use crate::catalogue::{Catalogue, Opened};
use crate::coding::{self, Coding};
use crate::disclose::disclose;
use crate::gate::{Answered, Context, failure, known, render_problem};
use crate::policies::{Policies, RETRY_STORE_S, idempotency_problem, quota_problem};
use crate::ports::{
    AdapterPort, AdmissionPort, AttemptPort, AuthAdmitted, Claimed, Completed, ContractPort,
    Headers, IdempotencyPort, IdempotentCall, Kept, Looked, Ports, Prepared, QuotaCall, QuotaPort,
    Refusal, UsageAmounts, UsagePort,
};
use crate::record::{Request, Response};
use crate::route::{Target, shorten};
use penstock_core::{Caller, Code, ModelVersion, PredictionId, Problem, Violation};
use penstock_policy::idempotency::key::{Call as CallParts, Fingerprint};
use penstock_tensor::contract::Dim;
use penstock_tensor::{Contract, Rejection, Tensor, render};

const JSON: &str = "application/json";

/// The header that says an answer is a replay. Not in the draft; the name most services use.
const REPLAYED: &str = "idempotency-replayed";

/// Which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `:predict`.
    Predict,
    /// The Open Inference Protocol's `infer`.
    Infer,
}

impl Method {
    /// As policies call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Infer => "infer",
        }
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
}

/// The quota's part of a call.
type Admission<P> = <<P as Ports>::Quota as QuotaPort>::Admission;
/// The idempotency's part of a call.
type Attempt<P> = <<P as Ports>::Idempotency as IdempotencyPort>::Attempt;

/// Makes a call. `headers` gets what goes on the answer whatever becomes of it.
#[allow(clippy::too_many_arguments)]
pub fn call<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    request: &Request,
    context: &Context,
    admitted: &AuthAdmitted,
    (method, target): (Method, &Target),
    headers: &mut Headers,
) -> Result<Answered, Problem> {
    let AuthAdmitted {
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
    };
    let admission = admit(
        ports,
        policies,
        context,
        &QuotaCall {
            caller,
            route: method.name(),
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
        let amounts = UsageAmounts {
            requests: 1,
            items: meter.items,
            body_bytes: request.body.len() as u64,
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
    answered
}

/// Decides the limits on calls, and waits where one of them paces.
pub fn admit<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    context: &Context,
    call: &QuotaCall<'_>,
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
            let (problem, refused) = quota_problem(refusal);
            *headers = refused;
            Err(problem)
        }
    }
}

/// Inputs that may be run, or an answer without a run.
enum Ready {
    Tensors {
        inputs: Vec<Tensor>,
        /// Outputs asked for; empty for all.
        outputs: Vec<String>,
        caller_id: Option<String>,
        /// The outputs go back through the adapter.
        adapted: bool,
    },
    Answer(String),
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
        let (model, version) = catalogue.resolve(ports, target)?;
        let name = model.name.clone();
        meter.model = Some(name.as_str().to_owned());
        let opened = model.open(ports)?;
        let coding = coding::of(request, headers)?;
        check_body(request, &opened.contract)?;
        let attempt = match self.begin(coding)? {
            Begun::Unkeyed => None,
            Begun::Free(attempt) => Some(attempt),
            Begun::Done(kept) => return replay(kept),
        };
        let ready = self.prepare(opened, name.as_str(), coding)?;
        let items = match &ready {
            Ready::Tensors { inputs, .. } => item_count(inputs, &opened.contract),
            Ready::Answer(_) => 1,
        };
        let charged = admission.filter(|_| self.policies.scope.items);
        if let Some(admission) = charged {
            match admission.charge_items(items, self.context.unix_ms, self.context.random as u64) {
                Ok(more) => *headers = more,
                Err(refusal) => {
                    let (problem, refused) = quota_problem(refusal);
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
        let mut claimed = None;
        if let Some(attempt) = attempt {
            match attempt.claim(ports.unix_ms(), ports.random() as u64) {
                Ok(Claimed::Granted) => claimed = Some(attempt),
                Ok(Claimed::Unprotected) => {}
                Ok(Claimed::Done(kept)) => {
                    refund(headers);
                    return replay(kept);
                }
                Err(refusal) => {
                    refund(headers);
                    return Err(idempotency_problem(refusal));
                }
            }
        }
        let result = self.run(opened, ready, name.as_str(), version, meter);
        match &result {
            Ok(_) => meter.items = items,
            Err(problem) if was_not_run(problem.code) => refund(headers),
            Err(_) => {}
        }
        match claimed {
            Some(attempt) => self.finish(&attempt, result),
            None => result,
        }
    }

    /// Looks for an earlier call with the same idempotency key.
    fn begin(&self, coding: Option<Coding>) -> Result<Begun<Attempt<P>>, Problem> {
        let Self {
            policies, request, ..
        } = self;
        if !policies.rules.enabled {
            return Ok(Begun::Unkeyed);
        }
        let idempotency_keys: Vec<&[u8]> = request
            .headers
            .iter()
            .filter(|header| header.name == "idempotency-key")
            .map(|header| header.value.as_slice())
            .collect();
        if idempotency_keys.is_empty() {
            let method = self.method.name();
            if policies.rules.required.iter().any(|r| r == method) {
                return Err(Problem::new(
                    Code::IdempotencyKeyMissing,
                    format!(
                        "calls of `{method}` must carry an Idempotency-Key header here; send one that you choose once for \
                         this call and repeat when you retry it"
                    ),
                ));
            }
            return Ok(Begun::Unkeyed);
        }
        let (route, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let content_type = request.header_text("content-type").unwrap_or_default();
        let mut described = coding::described(content_type, coding).into_owned();
        // What one tier may be told must not be replayed to another.
        if policies
            .disclosure
            .iter()
            .any(|entry| !entry.tiers.is_empty())
        {
            described.push_str("\0tier=");
            described.push_str(&self.caller.tier);
        }
        let fingerprint = Fingerprint::of(&CallParts {
            tenant: &self.caller.tenant,
            method: &request.method,
            route,
            query,
            content_type: &described,
            body: &request.body,
        });
        let looked = policies.idempotency.look(
            &IdempotentCall {
                tenant: &self.caller.tenant,
                method: &request.method,
                route,
                idempotency_keys,
                fingerprint: fingerprint.as_str(),
            },
            self.context.unix_ms,
        );
        match looked.map_err(idempotency_problem)? {
            Looked::Free(attempt) => Ok(Begun::Free(attempt)),
            Looked::Done(kept) => Ok(Begun::Done(kept)),
            Looked::Unprotected => Ok(Begun::Unkeyed),
        }
    }

    /// Turns the body into inputs, in validation or in the model's adapter.
    fn prepare(
        &self,
        opened: &Opened<P>,
        model: &str,
        coding: Option<Coding>,
    ) -> Result<Ready, Problem> {
        let Opened {
            contract,
            validation,
            adapter,
        } = opened;
        let content_type = self.request.header_text("content-type");
        let adapter = adapter.as_ref().filter(|_| self.method == Method::Predict);
        let kind = body_kind(content_type, adapter.is_some())?;
        let limit = contract.limits.max_body_bytes.min(self.policies.body_limit);
        let body = coding::body(&self.request.body, coding, limit)?;
        if let (BodyKind::Raw, Some(adapter)) = (kind, adapter) {
            return match adapter.prepare(content_type, &body).map_err(refused)? {
                Prepared::Answer(text) => Ok(Ready::Answer(text)),
                Prepared::Tensors(inputs) => {
                    // The adapter is a component of its own, so what it made is checked like a
                    // stranger's.
                    penstock_tensor::check_tensors(&inputs, contract)
                        .map_err(|r| broken_adapter(model, &r.message))?;
                    Ok(Ready::Tensors {
                        inputs,
                        outputs: Vec::new(),
                        caller_id: None,
                        adapted: true,
                    })
                }
            };
        }
        let body = text(&body)?;
        let parsed = match self.method {
            Method::Predict => validation.parse_predict(body),
            Method::Infer => validation.parse_infer(body),
        }
        .map_err(rejected)?;
        Ok(Ready::Tensors {
            inputs: parsed.inputs,
            outputs: parsed.outputs,
            caller_id: parsed.id,
            adapted: false,
        })
    }

    /// Runs the model and writes its answer.
    fn run(
        &self,
        opened: &Opened<P>,
        ready: Ready,
        model: &str,
        version: ModelVersion,
        meter: &mut Meter,
    ) -> Result<Answered, Problem> {
        let (mut text, mut outputs, caller_id) = match ready {
            Ready::Answer(text) => (Some(text), Vec::new(), None),
            Ready::Tensors {
                inputs,
                outputs,
                caller_id,
                adapted,
            } => {
                let begun_ns = self.ports.monotonic_ns();
                let outputs = infer(
                    self.ports,
                    &opened.contract,
                    model,
                    version,
                    inputs,
                    &outputs,
                    self.priority,
                );
                meter.compute_ns = self.ports.monotonic_ns().saturating_sub(begun_ns);
                match &opened.adapter {
                    Some(adapter) if adapted => {
                        let text = adapter
                            .answer(outputs?)
                            .map_err(|message| broken_adapter(model, &message))?;
                        (Some(text), Vec::new(), None)
                    }
                    _ => (None, outputs?, caller_id),
                }
            }
        };
        let entries = &self.policies.disclosure;
        let ranking = disclose(
            entries,
            model,
            self.caller,
            &opened.contract,
            &mut text,
            &mut outputs,
        )
        .map_err(|message| broken_adapter(model, &message))?;
        if let Some(text) = &text
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
        {
            return Err(broken_adapter(model, "its answer is not JSON"));
        }
        // A prediction is written and then put into the answer, so it is there twice.
        let (form, copies) = match self.method {
            Method::Predict => (render::Form::Items(&opened.contract), 2),
            Method::Infer => (render::Form::Flat(&[]), 1),
        };
        let capacity = render::capacity(&outputs, form, copies).map_err(|bytes| {
            Problem::new(
                Code::ModelRejectedInputs,
                format!(
                    "the model answered, and its outputs are {bytes} bytes of JSON, more than there is memory for; \
                     send fewer items"
                ),
            )
        })?;
        let context = self.context;
        let prediction_id = PredictionId::generate(context.unix_ms, context.random);
        let non_finite: u64 = outputs.iter().map(render::unrepresentable).sum();
        let body = match self.method {
            Method::Predict => {
                let predictions = match text {
                    Some(text) => format!("[{text}]").into_bytes(),
                    None => render::predictions_ranked(
                        &outputs,
                        &opened.contract,
                        ranking.as_ref(),
                        capacity,
                    ),
                };
                answer::prediction(&answer::Prediction {
                    id: &prediction_id,
                    caller_id: caller_id.as_deref(),
                    model,
                    version,
                    predictions: &predictions,
                    non_finite,
                    latency_ns: self.ports.monotonic_ns().saturating_sub(context.started_ns),
                    request_id: &context.request_id,
                })
            }
            Method::Infer => {
                let mut parameters = vec![("prediction_id", prediction_id.as_str())];
                let non_finite_text = non_finite.to_string();
                if non_finite > 0 {
                    parameters.push(("non_finite", &non_finite_text));
                }
                render::write_infer_response(
                    model,
                    &version.to_string(),
                    caller_id.as_deref(),
                    (&outputs, &[]),
                    &parameters,
                    capacity,
                )
                .body
            }
        };
        Ok(Answered {
            response: Response::new(200, JSON, body),
            version: Some(version),
            prediction_id: Some(prediction_id),
        })
    }

    /// Ends a claimed run: keeps what is to be replayed, and gives back what is not.
    fn finish(
        &self,
        attempt: &Attempt<P>,
        result: Result<Answered, Problem>,
    ) -> Result<Answered, Problem> {
        let response = match result {
            Ok(answered) => answered.stamped(),
            Err(problem) if is_kept(problem.code) => {
                render_problem(&problem, self.request, self.context)
            }
            Err(problem) => {
                attempt.release();
                return Err(problem);
            }
        };
        let Response {
            status,
            headers,
            body,
        } = response;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let kept = Kept {
            status,
            headers: headers
                .iter()
                .map(|header| (header.name.clone(), text(&header.value)))
                .collect(),
            body: match body.len() as u64 {
                bytes if bytes > self.policies.rules.max_record_bytes => Err(bytes),
                _ => Ok(body.clone()),
            },
        };
        match attempt.complete(kept, self.ports.unix_ms()) {
            Ok(Completed::Published) => Ok(Answered::whole(Response {
                status,
                headers,
                body,
            })),
            Ok(Completed::Superseded(kept)) => replay(kept),
            Err(refusal) => Err(idempotency_problem(refusal)),
        }
    }
}

/// What a look for an earlier call found.
enum Begun<A> {
    Unkeyed,
    Free(A),
    Done(Kept),
}

/// Whether a failure proves that the model did not run.
fn was_not_run(code: Code) -> bool {
    matches!(
        code,
        Code::ModelNotReady | Code::Overloaded | Code::DeadlineExceeded
    )
}

/// Whether a failure is the call's result, to be replayed, and not a refusal to run it.
fn is_kept(code: Code) -> bool {
    matches!(code, Code::InferenceFailed | Code::Internal)
}

/// A kept answer, given again.
fn replay(kept: Kept) -> Result<Answered, Problem> {
    let Kept {
        status,
        headers,
        body,
    } = kept;
    let body = body.map_err(|bytes| {
        let id = headers
            .iter()
            .find(|(name, _)| name == "x-prediction-id")
            .map(|(_, id)| format!(", prediction {id}"));
        Problem::new(
            Code::ReplayUnavailable,
            format!(
                "the call was made (status {status}{}), and its answer of {bytes} bytes was too large to keep; make it again \
                 with a new idempotency key, or ask for fewer items",
                id.unwrap_or_default()
            ),
        )
    })?;
    let mut response = Response {
        status,
        headers: Vec::with_capacity(headers.len() + 2),
        body,
    };
    for (name, value) in headers {
        response.push(&name, value);
    }
    response.push(REPLAYED, "true");
    Ok(Answered::whole(response))
}

/// How many items a batch has: the size of the batch axis, or one.
fn item_count(inputs: &[Tensor], contract: &Contract) -> u64 {
    let Some(batch) = contract.batch_axis() else {
        return 1;
    };
    let batched = contract
        .inputs
        .iter()
        .find(|spec| matches!(spec.shape.first(), Some(Dim::Symbol(name)) if name == batch));
    batched
        .and_then(|spec| inputs.iter().find(|tensor| tensor.name == spec.name))
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(1)
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

/// What the content type says a body is.
enum BodyKind {
    Json,
    Raw,
}

/// Decides how a body is read. A model with an adapter takes any content as it is, and JSON tensors
/// where `application/json` says so; a model without one takes JSON only.
fn body_kind(content_type: Option<&str>, has_adapter: bool) -> Result<BodyKind, Problem> {
    let essence = content_type.map(|c| c.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(e) if is_json(e) => Ok(BodyKind::Json),
        _ if has_adapter => Ok(BodyKind::Raw),
        None | Some("") => Ok(BodyKind::Json),
        Some(other) => Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the content type `{}` is not taken here; send `content-type: application/json`",
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

fn is_json(essence: &str) -> bool {
    essence.eq_ignore_ascii_case(JSON)
        || (essence.len() > 5
            && essence.is_char_boundary(essence.len() - 5)
            && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"))
}

/// Runs one model version, with the contract's names for data types.
fn infer<P: Ports>(
    ports: &P,
    contract: &Contract,
    model: &str,
    version: ModelVersion,
    inputs: Vec<Tensor>,
    outputs: &[String],
    priority: Option<u8>,
) -> Result<Vec<Tensor>, Problem> {
    let mut tensors = ports
        .infer(model, version, inputs, outputs, priority)
        .map_err(|f| failure(f, Some(contract)))?;
    // wasi:nn carries fewer data types than the contract; the contract's name for the same bytes
    // is the one callers know.
    for tensor in &mut tensors {
        if let Some(spec) = contract.outputs.iter().find(|s| s.name == tensor.name)
            && spec.datatype.size_bytes() == tensor.datatype.size_bytes()
        {
            tensor.datatype = spec.datatype;
        }
    }
    Ok(tensors)
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::UnsupportedMediaType(message) => Problem::new(Code::UnsupportedMediaType, message),
        Refusal::InvalidContent(message) => Problem::new(Code::InvalidInputs, message.clone())
            .with_violations(
                vec![Violation::new(
                    "",
                    "invalid_content",
                    "content the adapter can read",
                    message,
                )],
                0,
            ),
    }
}

fn rejected(rejection: Rejection) -> Problem {
    Problem::new(rejection.code, rejection.message)
        .with_violations(rejection.violations, rejection.omitted)
}

fn broken_adapter(model: &str, message: &str) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the adapter of model `{model}` failed: {message}"),
    )
}
