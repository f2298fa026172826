//! The order in which a request meets the policies: route, negotiation, catalogue, body checks,
//! validation or adapter, inference, answer. Each step either goes on or ends in a [`Problem`].

use crate::answer;
use crate::catalogue::{Catalogue, Opened};
use crate::ports::{AdapterPort, ContractPort, Failure, FailureKind, Ports, Prepared, Refusal};
use crate::record::{Request, Response};
use crate::route::{Route, Target, route, shorten};
use penstock_core::{Code, ModelVersion, PredictionId, Problem, RequestId, Violation, negotiate};
use penstock_tensor::contract::Dim;
use penstock_tensor::{Contract, Rejection, Tensor, render};
use serde_json::{Value, json};

/// Seconds a caller is told to wait for a model that is loading: loading takes seconds, not minutes.
const RETRY_NOT_READY_S: u32 = 2;
/// Seconds a caller is told to wait when a queue is full: queues drain within a second.
const RETRY_OVERLOADED_S: u32 = 1;

const JSON: &str = "application/json";

/// One instance of the gate: its ports and what it has read through them.
pub struct Gate<P: Ports> {
    ports: P,
    catalogue: Option<Catalogue<P>>,
}

/// What every answer to one request carries.
struct Context {
    request_id: RequestId,
    random: u128,
    unix_ms: u64,
    started_ns: u64,
}

/// A successful answer before the headers of every answer are added.
struct Answered {
    response: Response,
    version: Option<ModelVersion>,
    prediction_id: Option<PredictionId>,
}

impl Answered {
    fn json(status: u16, value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self {
            response: Response::new(status, JSON, body),
            version: None,
            prediction_id: None,
        }
    }
}

impl<P: Ports> Gate<P> {
    /// A gate that has read nothing yet.
    pub fn new(ports: P) -> Self {
        Self {
            ports,
            catalogue: None,
        }
    }

    /// Answers one request. Every path through it ends in an answer.
    pub fn handle(&mut self, request: &Request) -> Response {
        let context = self.context(request);
        let mut response = match self.answer(request, &context) {
            Ok(Answered {
                mut response,
                version,
                prediction_id,
            }) => {
                if let Some(version) = version {
                    response.push("x-model-version", version.to_string());
                }
                if let Some(id) = prediction_id {
                    response.push("x-prediction-id", id.as_str());
                }
                response
            }
            Err(problem) => render_problem(&problem, request, &context),
        };
        response.push("x-request-id", context.request_id.as_str());
        response
    }

    /// Answers a request that a door could not take whole, e.g. because its body broke off.
    pub fn refuse(&self, request: &Request, problem: &Problem) -> Response {
        let context = self.context(request);
        let mut response = render_problem(problem, request, &context);
        response.push("x-request-id", context.request_id.as_str());
        response
    }

    fn context(&self, request: &Request) -> Context {
        let unix_ms = self.ports.unix_ms();
        let random = self.ports.random();
        let request_id = request
            .header("x-request-id")
            .and_then(RequestId::from_header)
            .unwrap_or_else(|| RequestId::generate(unix_ms, random));
        Context {
            request_id,
            random,
            unix_ms,
            started_ns: self.ports.monotonic_ns(),
        }
    }

    fn answer(&mut self, request: &Request, context: &Context) -> Result<Answered, Problem> {
        let route = route(&request.method, request.path())?;
        let accept = request.header_list("accept");
        if !negotiate::accepts_json(accept.as_deref()) {
            return Err(Problem::new(
                Code::NotAcceptable,
                format!(
                    "the Accept header `{}` rules out application/json, which is what this path answers with",
                    shorten(accept.as_deref().unwrap_or_default())
                ),
            ));
        }
        let Self { ports, catalogue } = self;
        let ports: &P = ports;
        match route {
            Route::Healthz => Ok(Answered::json(200, &json!({ "status": "ok" }))),
            Route::ServerLive => Ok(Answered::json(200, &json!({ "live": true }))),
            Route::ServerMetadata => Ok(Answered::json(200, &answer::server_metadata())),
            Route::ErrorCatalogue => {
                let all: Vec<Value> = Code::ALL.iter().map(|c| answer::error_entry(*c)).collect();
                Ok(Answered::json(200, &json!({ "errors": all })))
            }
            Route::ErrorEntry(word) => match Code::ALL.iter().find(|c| c.as_str() == word) {
                Some(code) => Ok(Answered::json(200, &answer::error_entry(*code))),
                None => Err(Problem::new(
                    Code::UnknownPath,
                    format!(
                        "no error has the code `{}`; GET /errors lists them",
                        shorten(&word)
                    ),
                )),
            },
            Route::Ready | Route::ServerReady => {
                Ok(readiness(ports, known(catalogue, ports), &route))
            }
            Route::ModelList => {
                let mut models = Vec::new();
                for model in known(catalogue, ports).iter_mut() {
                    let (name, versions) = (model.name.clone(), model.versions.clone());
                    models.push(match model.open(ports) {
                        Ok(opened) => answer::model(name.as_str(), &versions, &opened.contract),
                        Err(problem) => json!({ "name": name, "error": problem.message }),
                    });
                }
                Ok(Answered::json(200, &json!({ "models": models })))
            }
            Route::Model(target) => {
                describe(ports, known(catalogue, ports), &target, answer::model)
            }
            Route::ModelMetadata(target) => describe(
                ports,
                known(catalogue, ports),
                &target,
                answer::model_metadata,
            ),
            Route::ModelReady(target) => {
                let (model, version) = known(catalogue, ports).resolve(ports, &target)?;
                let name = model.name.clone();
                ports
                    .ready(name.as_str(), version)
                    .map_err(|f| failure(f, None))?;
                let mut answered = Answered::json(200, &json!({ "name": name, "ready": true }));
                answered.version = Some(version);
                Ok(answered)
            }
            Route::Predict(target) => {
                let (model, version) = known(catalogue, ports).resolve(ports, &target)?;
                let name = model.name.clone();
                let opened = model.open(ports)?;
                check_body(request, &opened.contract)?;
                predict(ports, opened, request, context, name.as_str(), version)
            }
            Route::Infer(target) => {
                let (model, version) = known(catalogue, ports).resolve(ports, &target)?;
                let name = model.name.clone();
                let opened = model.open(ports)?;
                check_body(request, &opened.contract)?;
                infer(ports, opened, request, context, name.as_str(), version)
            }
        }
    }
}

/// The catalogue, read by the first request that needs it: a health check does not.
fn known<'a, P: Ports>(slot: &'a mut Option<Catalogue<P>>, ports: &P) -> &'a mut Catalogue<P> {
    slot.get_or_insert_with(|| Catalogue::read(ports))
}

fn describe<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    target: &Target,
    write: fn(&str, &[ModelVersion], &Contract) -> Value,
) -> Result<Answered, Problem> {
    let (model, version) = catalogue.resolve(ports, target)?;
    let (name, versions) = (model.name.clone(), model.versions.clone());
    let opened = model.open(ports)?;
    let mut answered = Answered::json(200, &write(name.as_str(), &versions, &opened.contract));
    answered.version = Some(version);
    Ok(answered)
}

/// `/ready` and `/v2/health/ready`: ready when every version of every model could run now.
fn readiness<P: Ports>(ports: &P, catalogue: &mut Catalogue<P>, route: &Route) -> Answered {
    let mut all_ready = true;
    let mut models = Vec::new();
    for model in catalogue.iter_mut() {
        let name = model.name.clone();
        let broken = model.open(ports).err();
        for version in &model.versions {
            let state = match &broken {
                Some(problem) => Err(problem.message.clone()),
                None => ports.ready(name.as_str(), *version).map_err(|f| f.message),
            };
            all_ready &= state.is_ok();
            let mut entry = json!({
                "name": name, "version": version.to_string(), "ready": state.is_ok(),
            });
            if let Err(reason) = state {
                entry["reason"] = json!(reason);
            }
            models.push(entry);
        }
    }
    let status = if all_ready { 200 } else { 503 };
    let body = match route {
        Route::ServerReady => json!({ "ready": all_ready }),
        _ => json!({ "ready": all_ready, "models": models }),
    };
    let mut answered = Answered::json(status, &body);
    if !all_ready {
        answered
            .response
            .push("retry-after", RETRY_NOT_READY_S.to_string());
    }
    answered
}

/// What can be said of a body before anybody parses it.
fn check_body(request: &Request, contract: &Contract) -> Result<(), Problem> {
    if let Some(coding) = request.header_list("content-encoding")
        && !coding.trim().eq_ignore_ascii_case("identity")
    {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the content coding `{}` is not taken; send the body uncompressed",
                shorten(&coding)
            ),
        ));
    }
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

fn predict<P: Ports>(
    ports: &P,
    opened: &Opened<P>,
    request: &Request,
    context: &Context,
    model: &str,
    version: ModelVersion,
) -> Result<Answered, Problem> {
    let Opened {
        contract,
        validation,
        adapter,
    } = opened;
    let content_type = request.header_text("content-type");
    let kind = body_kind(content_type, adapter.is_some())?;
    let (predictions, caller_id, non_finite) = match (kind, adapter) {
        (BodyKind::Raw, Some(adapter)) => {
            let predictions = adapted(
                ports,
                contract,
                adapter,
                content_type,
                request,
                model,
                version,
            )?;
            (predictions, None, 0)
        }
        _ => {
            let parsed = validation
                .parse_predict(text(&request.body)?)
                .map_err(rejected)?;
            let outputs = run(ports, contract, model, version, parsed.inputs, &[])?;
            (
                render::predictions(&outputs, contract),
                parsed.id,
                non_finite(&outputs),
            )
        }
    };
    let prediction_id = PredictionId::generate(context.unix_ms, context.random);
    let body = answer::prediction(&answer::Prediction {
        id: &prediction_id,
        caller_id: caller_id.as_deref(),
        model,
        version,
        predictions: &predictions,
        non_finite,
        latency_ns: ports.monotonic_ns().saturating_sub(context.started_ns),
        request_id: &context.request_id,
    });
    Ok(Answered {
        response: Response::new(200, JSON, body),
        version: Some(version),
        prediction_id: Some(prediction_id),
    })
}

/// Raw content through the model's adapter, giving a JSON array of one prediction.
fn adapted<P: Ports>(
    ports: &P,
    contract: &Contract,
    adapter: &P::Adapter,
    media_type: Option<&str>,
    request: &Request,
    model: &str,
    version: ModelVersion,
) -> Result<Vec<u8>, Problem> {
    let prepared = adapter
        .prepare(media_type, &request.body)
        .map_err(|refusal| match refusal {
            Refusal::UnsupportedMediaType(message) => {
                Problem::new(Code::UnsupportedMediaType, message)
            }
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
        })?;
    let text = match prepared {
        Prepared::Answer(text) => text,
        Prepared::Tensors(inputs) => {
            // The adapter is a component of its own, so what it made is checked like a stranger's.
            penstock_tensor::check_tensors(&inputs, contract)
                .map_err(|r| broken_adapter(model, &r.message))?;
            let outputs = run(ports, contract, model, version, inputs, &[])?;
            adapter
                .answer(outputs)
                .map_err(|message| broken_adapter(model, &message))?
        }
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return Err(broken_adapter(model, "its answer is not JSON"));
    }
    Ok(format!("[{text}]").into_bytes())
}

fn infer<P: Ports>(
    ports: &P,
    opened: &Opened<P>,
    request: &Request,
    context: &Context,
    model: &str,
    version: ModelVersion,
) -> Result<Answered, Problem> {
    let Opened {
        contract,
        validation,
        ..
    } = opened;
    body_kind(request.header_text("content-type"), false)?;
    let parsed = validation
        .parse_infer(text(&request.body)?)
        .map_err(rejected)?;
    let outputs = run(
        ports,
        contract,
        model,
        version,
        parsed.inputs,
        &parsed.outputs,
    )?;
    let prediction_id = PredictionId::generate(context.unix_ms, context.random);
    let mut parameters = vec![("prediction_id", prediction_id.as_str())];
    let replaced = non_finite(&outputs);
    let replaced_text = replaced.to_string();
    if replaced > 0 {
        parameters.push(("non_finite", &replaced_text));
    }
    let body = render::write_infer_response(
        model,
        &version.to_string(),
        parsed.id.as_deref(),
        &outputs,
        &parameters,
    );
    Ok(Answered {
        response: Response::new(200, JSON, body),
        version: Some(version),
        prediction_id: Some(prediction_id),
    })
}

fn run<P: Ports>(
    ports: &P,
    contract: &Contract,
    model: &str,
    version: ModelVersion,
    inputs: Vec<Tensor>,
    outputs: &[String],
) -> Result<Vec<Tensor>, Problem> {
    let mut tensors = ports
        .infer(model, version, inputs, outputs)
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

/// How many elements of the outputs JSON cannot say and an answer writes as `null`.
fn non_finite(outputs: &[Tensor]) -> u64 {
    outputs.iter().map(render::unrepresentable).sum()
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

/// The problem a failed run is answered with. A runtime failure is the caller's to mend only where
/// the contract left the caller a size to choose beside the number of items.
fn failure(failure: Failure, contract: Option<&Contract>) -> Problem {
    let Failure { kind, message } = failure;
    let caller_chose_sizes = contract.is_some_and(has_open_axis);
    match kind {
        FailureKind::NotReady => {
            Problem::new(Code::ModelNotReady, message).retry_after(RETRY_NOT_READY_S)
        }
        FailureKind::Overloaded => {
            Problem::new(Code::Overloaded, message).retry_after(RETRY_OVERLOADED_S)
        }
        FailureKind::DeadlineExceeded => Problem::new(Code::DeadlineExceeded, message),
        FailureKind::InputsRejected => Problem::new(Code::ModelRejectedInputs, message),
        FailureKind::Failed if caller_chose_sizes => {
            Problem::new(Code::ModelRejectedInputs, message)
        }
        FailureKind::Failed => Problem::new(Code::InferenceFailed, message),
    }
}

/// Whether some input has a symbolic axis that is not the batch axis.
fn has_open_axis(contract: &Contract) -> bool {
    let batch = contract.batch_axis();
    let open = |dim: &Dim| matches!(dim, Dim::Symbol(name) if Some(name.as_str()) != batch);
    contract
        .inputs
        .iter()
        .any(|input| input.shape.iter().any(open))
}

fn render_problem(problem: &Problem, request: &Request, context: &Context) -> Response {
    let style = negotiate::error_style(request.path(), request.header_list("accept").as_deref());
    let (content_type, body) = problem.render(style, &context.request_id, context.unix_ms);
    let mut response = Response::new(problem.code.status(), content_type, body);
    for (name, value) in problem.headers() {
        response.push(name, value);
    }
    response
}
