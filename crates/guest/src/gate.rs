//! The gate's two doors over one [`Gate`], and its ports over WIT imports.
//!
//! Both doors end in the same call, [`answer`], so the same request gets the same answer through
//! either.

use crate::types::{
    bulk_bytes, bulk_to_wit, caller_from_wit, caller_to_wit, http as wit_http, rejection_from_wit,
    tensors_from_wit, tensors_to_wit,
};
use http_body_util::BodyExt;
use penstock_core::headers::AUTHORITY;
use penstock_core::{Caller, Code, ModelVersion, Problem, grpc};
use penstock_gate::grpc::service::is_call;
use penstock_gate::ports::{
    self, AdapterPort, ContractPort, Failure, FailureKind, Headers, ParsedBody, Ports,
};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words as auth;
use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
use penstock_policy::idempotency::words as idempotency;
use penstock_policy::quota::service::{AdmissionService, QuotaService};
use penstock_policy::quota::words as quota;
use penstock_policy::usage::service::UsageService;
use penstock_policy::usage::words as usage;
use penstock_tensor::infer::OutputRequest;
use penstock_tensor::{BinaryInput, InferRequest, Rejection, Tensor, Unknown};
use std::cell::RefCell;

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:gate/component",
        path: [
            "../../wit/types", "../../wit/deps/nn", "../../wit/nn", "../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/auth", "../../wit/quota", "../../wit/idempotency",
            "../../wit/usage", "../../wit/validation", "../../wit/inference", "../../wit/adapter", "../../wit/models", "../../wit/cache", "../../wit/gate",
        ],
        with: {
            "penstock:types/callers@0.1.0": crate::types::callers,
            "penstock:types/http@0.1.0": crate::types::http,
            "penstock:types/tensors@0.1.0": crate::types::tensors,
        },
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::gate::bindings",
    });
}

use bindings::penstock::auth::auth as wit_auth;
use bindings::penstock::validation::validation as wit_validation;
use bindings::penstock::{adapter::adapter as wit_adapter, inference::inference as wit_inference};
use bindings::penstock::{cache::cache as wit_cache, models::models as wit_models};
use bindings::penstock::{
    idempotency::idempotency as wit_idempotency, quota::quota as wit_quota,
    usage::usage as wit_usage,
};

/// Where the manifest mounts the operator's policy.
const POLICY_FILE: &str = "/penstock.toml";

/// The largest policy that is read. Real ones are a few kilobytes.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// Where the manifest mounts the models directory.
const MODELS_DIRECTORY: &str = "/models";

/// The largest contract or file of an adapter that is read.
const MAX_MODEL_FILE_BYTES: u64 = penstock_tensor::contract::MAX_ADAPTER_FILE_BYTES;

/// The largest body read through the HTTP door; the model's own limit is checked after it. It is
/// as large as the largest contract default allows four times over, and keeps one request from
/// filling an instance's memory.
pub const MAX_HTTP_DOOR_BODY_BYTES: usize = 64 << 20;

thread_local! {
    static GATE: RefCell<Gate<WitPorts>> = RefCell::new(Gate::new(WitPorts));
}

/// Answers a request: where both doors meet.
pub fn answer(request: &Request) -> Response {
    GATE.with_borrow_mut(|gate| gate.handle(request))
}

/// The direct door.
pub struct Door;

impl bindings::exports::penstock::gate::door::Guest for Door {
    fn handle(request: wit_http::Request) -> wit_http::Response {
        let response = answer(&Request {
            method: request.method,
            target: request.target,
            headers: request
                .headers
                .into_iter()
                .map(|h| Header {
                    name: h.name,
                    value: h.value,
                })
                .collect(),
            body: request.body,
        });
        wit_http::Response {
            status: response.status,
            headers: response
                .headers
                .into_iter()
                .map(|h| wit_http::Header {
                    name: h.name,
                    value: h.value,
                })
                .collect(),
            body: response.body,
        }
    }
}

/// What the HTTP door gives back to the SDK.
pub type HttpResponse = spin_sdk::http::Response<HttpBody>;

/// The body of an answer: data, and what follows it.
pub struct HttpBody {
    data: Option<bytes::Bytes>,
    trailers: Option<http::HeaderMap>,
}

impl HttpBody {
    fn whole(data: Vec<u8>) -> Self {
        Self {
            data: (!data.is_empty()).then(|| data.into()),
            trailers: None,
        }
    }
}

impl http_body::Body for HttpBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let data = self.data.take().map(http_body::Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(http_body::Frame::trailers));
        std::task::Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let bytes = self.data.as_ref().map_or(0, bytes::Bytes::len);
        match self.trailers {
            // Its end are the trailers, and no length.
            Some(_) => http_body::SizeHint::default(),
            None => http_body::SizeHint::with_exact(bytes as u64),
        }
    }
}

/// How Penstock's own host says that the body of a call over gRPC is one message without its frame. Other hosts hand
/// over what came.
const UNFRAMED: &str = "penstock-grpc";

/// A call over gRPC as another host hands it over: one message in its frame.
fn unframe(request: &mut Request) -> Result<(), Problem> {
    let compressed = {
        let mut deframer = grpc::Deframer::new(MAX_HTTP_DOOR_BODY_BYTES as u64);
        let mut rest: &[u8] = &request.body;
        let message = deframer
            .next(&mut rest)
            .map_err(|fault| Problem::new(fault.code(), fault.to_string()))?;
        let message = message.filter(|_| rest.is_empty()).ok_or_else(|| {
            Problem::new(
                Code::MalformedRequest,
                "the body is not one message; behind this host calls have one each way, and no streams",
            )
        })?;
        request.body = message.bytes;
        message.compressed
    };
    let encoding = request.header_text("grpc-encoding").map(str::to_owned);
    request.headers.retain(|h| h.name != "content-encoding");
    if compressed {
        // The gate decodes it, and refuses what it cannot.
        let coding = encoding.unwrap_or_else(|| "none that is named".to_owned());
        request.headers.push(Header {
            name: "content-encoding".to_owned(),
            value: coding.into_bytes(),
        });
    }
    Ok(())
}

/// Puts a message into its frame and its status behind it. An error is headers alone.
fn frame(response: Response) -> (Response, Option<http::HeaderMap>) {
    let succeeded = response.header(grpc::STATUS) == Some("0");
    let head = grpc::frame_head(response.body.len());
    let (true, Some(head)) = (succeeded, head) else {
        return (response, None);
    };
    let mut framed = Response {
        status: response.status,
        headers: response.headers,
        body: head.to_vec(),
    };
    framed.headers.retain(|h| h.name != grpc::STATUS);
    framed.body.extend_from_slice(&response.body);
    let mut trailers = http::HeaderMap::new();
    trailers.insert(grpc::STATUS, http::HeaderValue::from_static("0"));
    (framed, Some(trailers))
}

/// The HTTP door: collects the body and answers as the direct door does.
pub async fn answer_http(request: spin_sdk::http::Request) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| Header {
        name: AUTHORITY.to_owned(),
        value: authority.as_str().as_bytes().to_vec(),
    });
    let headers = parts.headers.iter().map(|(name, value)| Header {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    });
    let headers = headers.chain(authority).collect();
    let mut record = Request {
        method: parts.method.as_str().to_owned(),
        target: parts
            .uri
            .path_and_query()
            .map_or("/", |t| t.as_str())
            .to_owned(),
        headers,
        body: Vec::new(),
    };
    let collected = collect(body).await;
    let framed = is_call(&record) && record.header(UNFRAMED).is_none();
    let response = collected
        .and_then(|bytes| {
            record.body = bytes;
            match framed {
                true => unframe(&mut record),
                false => Ok(()),
            }
        })
        .map(|()| answer(&record))
        .unwrap_or_else(|problem| GATE.with_borrow(|gate| gate.refuse(&record, &problem)));
    let (response, trailers) = match framed {
        true => frame(response),
        false => (response, None),
    };
    let mut builder = spin_sdk::http::Response::builder().status(response.status);
    for header in &response.headers {
        builder = builder.header(&header.name, header.value.as_slice());
    }
    let mut body = HttpBody::whole(response.body);
    body.trailers = trailers;
    builder.body(body).unwrap_or_else(|_| {
        let mut broken = HttpResponse::new(HttpBody::whole(Vec::new()));
        *broken.status_mut() = spin_sdk::http::StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

async fn collect<B>(body: B) -> Result<Vec<u8>, Problem>
where
    B: http_body::Body<Data = bytes::Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = body.as_mut().frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::new(
                Code::IncompleteBody,
                "the body ended before it was complete",
            ));
        };
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > MAX_HTTP_DOOR_BODY_BYTES {
                return Err(Problem::new(
                    Code::BodyTooLarge,
                    format!(
                        "the body has more than {MAX_HTTP_DOOR_BODY_BYTES} bytes, the most this door takes"
                    ),
                ));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// The gate's ports over its imports.
struct WitPorts;

impl Ports for WitPorts {
    type Contract = wit_validation::Contract;
    type Adapter = wit_adapter::Adapter;
    type Auth = wit_auth::Policy;
    type Quota = wit_quota::Policy;
    type Idempotency = wit_idempotency::Policy;
    type Usage = wit_usage::Policy;

    fn unix_ms(&self) -> u64 {
        let now = wasip2::clocks::wall_clock::now();
        now.seconds
            .saturating_mul(1_000)
            .saturating_add(u64::from(now.nanoseconds) / 1_000_000)
    }

    fn monotonic_ns(&self) -> u64 {
        wasip2::clocks::monotonic_clock::now()
    }

    fn random(&self) -> u128 {
        let word = || u128::from(wasip2::random::random::get_random_u64());
        (word() << 64) | word()
    }

    fn log(&self, message: &str) {
        eprintln!("{message}");
    }

    fn sleep_ms(&self, ms: u32) {
        std::thread::sleep(std::time::Duration::from_millis(ms.into()));
    }

    fn policy_text(&self) -> Result<String, String> {
        let unreadable = |e: std::io::Error| format!("cannot read {POLICY_FILE}: {e}");
        let size = match std::fs::metadata(POLICY_FILE) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            Err(e) => return Err(unreadable(e)),
        };
        if size > MAX_POLICY_BYTES {
            return Err(format!(
                "{POLICY_FILE} has {size} bytes; at most {MAX_POLICY_BYTES} are read"
            ));
        }
        std::fs::read_to_string(POLICY_FILE).map_err(unreadable)
    }

    fn read_policy_file(&self, name: &str) -> Option<String> {
        // Where the manifest mounts it: beside the policy.
        let path = format!("/{name}");
        let size = std::fs::metadata(&path).ok()?.len();
        if size > MAX_POLICY_BYTES {
            return None;
        }
        std::fs::read_to_string(&path).ok()
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn open_auth(
        &self,
        policy: &str,
        surroundings: auth::Surroundings,
    ) -> Result<Self::Auth, String> {
        let surroundings = wit_auth::Surroundings {
            key_sets: surroundings.key_sets,
            public: surroundings.public,
        };
        wit_auth::Policy::open(policy, &surroundings)
    }

    fn open_quota(&self, policy: &str) -> Result<Self::Quota, String> {
        wit_quota::Policy::open(policy)
    }

    fn open_idempotency(&self, policy: &str) -> Result<Self::Idempotency, String> {
        wit_idempotency::Policy::open(policy)
    }

    fn open_usage(&self, policy: &str) -> Result<Self::Usage, String> {
        wit_usage::Policy::open(policy)
    }

    fn list_models(&self) -> Vec<(String, Vec<String>)> {
        let names = |path: &str| -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(path) else {
                return Vec::new();
            };
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .take(MAX_FOLDER_ENTRIES)
                .collect()
        };
        names(MODELS_DIRECTORY)
            .into_iter()
            .filter_map(|folder| {
                let path = format!("{MODELS_DIRECTORY}/{folder}");
                // A file beside the models (a README) is none.
                let is_folder = std::fs::metadata(&path).is_ok_and(|found| found.is_dir());
                is_folder.then(|| (folder, names(&path)))
            })
            .collect()
    }

    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String> {
        let path = format!("{MODELS_DIRECTORY}/{model}/{file}");
        let size = std::fs::metadata(&path)
            .map_err(|e| format!("cannot read {file}: {e}"))?
            .len();
        if size > MAX_MODEL_FILE_BYTES {
            return Err(format!(
                "{file} has {size} bytes; at most {MAX_MODEL_FILE_BYTES} are read"
            ));
        }
        std::fs::read(&path).map_err(|e| format!("cannot read {file}: {e}"))
    }

    fn model_file_written_s(&self, model: &str, file: &str) -> Option<u64> {
        let path = format!("{MODELS_DIRECTORY}/{model}/{file}");
        let written = std::fs::metadata(&path).ok()?.modified().ok()?;
        let since = written.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    }

    fn open_contract(&self, text: &str) -> Result<Self::Contract, String> {
        wit_validation::Contract::open(text)
    }

    fn open_adapter(&self, name: &str, config: &[u8]) -> Result<Self::Adapter, String> {
        wit_adapter::Adapter::open(name, config)
    }

    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: ports::InferOptions,
    ) -> Result<Vec<Tensor>, Failure> {
        let inputs = tensors_to_wit(inputs);
        let terms = wit_inference::Terms {
            priority: options.priority,
            timeout_ms: options.timeout_ms,
            joined: options.is_joined,
        };
        let answered = wit_inference::infer(model, version.get(), &inputs, outputs, terms);
        // The memory they took is wanted for the outputs, which are as large in the worst case and there twice.
        drop(inputs);
        answered.map(tensors_from_wit).map_err(failure)
    }

    fn shadow(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        expected: Vec<Tensor>,
    ) -> Result<(), Failure> {
        let (inputs, expected) = (tensors_to_wit(inputs), tensors_to_wit(expected));
        wit_inference::shadow(model, version.get(), &inputs, &expected).map_err(failure)
    }

    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure> {
        wit_inference::ready(model, version.get()).map_err(failure)
    }

    fn rollouts(&self) -> Result<Option<String>, ports::ControlFailure> {
        wit_models::rollouts().map_err(control_failure)
    }

    fn tally(&self, model: &str, canary: u64, counter: u32) -> Result<(), ports::ControlFailure> {
        wit_models::tally(model, canary, counter).map_err(control_failure)
    }

    fn tallies(
        &self,
        model: &str,
        canary: u64,
        counters: u32,
    ) -> Result<Vec<u64>, ports::ControlFailure> {
        wit_models::tallies(model, canary, counters).map_err(control_failure)
    }

    fn trip(&self, model: &str, canary: u64, why: &str) -> Result<bool, ports::ControlFailure> {
        wit_models::trip(model, canary, why).map_err(control_failure)
    }

    fn tripped(&self, model: &str, canary: u64) -> Result<Option<String>, ports::ControlFailure> {
        wit_models::tripped(model, canary).map_err(control_failure)
    }

    fn statistics(
        &self,
        model: Option<&str>,
        version: Option<ModelVersion>,
    ) -> Result<String, ports::ControlFailure> {
        wit_models::statistics(model, version.map(ModelVersion::get)).map_err(control_failure)
    }

    fn index(&self, ready: bool) -> Result<String, ports::ControlFailure> {
        wit_models::index(ready).map_err(control_failure)
    }

    fn load(&self, model: &str) -> Result<(), ports::ControlFailure> {
        wit_models::load(model).map_err(control_failure)
    }

    fn unload(&self, model: &str) -> Result<(), ports::ControlFailure> {
        wit_models::unload(model).map_err(control_failure)
    }

    fn cache_look(
        &self,
        at: &ports::CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<ports::CacheLooked, String> {
        let looked = wit_cache::look(&address(at), since_ms, waiting_since_ms, now_ms)?;
        Ok(match looked {
            wit_cache::Looked::Hit(kept) => {
                ports::CacheLooked::Hit(bulk_bytes(&kept.value).to_vec(), kept.kept_ms)
            }
            wit_cache::Looked::Run(ticket) => ports::CacheLooked::Run(ticket),
            wit_cache::Looked::Wait => ports::CacheLooked::Wait,
            wit_cache::Looked::Bypass => ports::CacheLooked::Bypass,
        })
    }

    fn cache_keep(
        &self,
        at: &ports::CacheAddress<'_>,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), String> {
        wit_cache::keep(&address(at), ticket, &bulk_to_wit(value), now_ms)
    }

    fn cache_release(&self, at: &ports::CacheAddress<'_>, ticket: u64) -> Result<(), String> {
        wit_cache::release(&address(at), ticket)
    }
}

fn address(at: &ports::CacheAddress<'_>) -> wit_cache::Address {
    wit_cache::Address {
        space: at.space.to_owned(),
        places: at.places,
        digest: at.digest.to_vec(),
        lease_ms: at.lease_ms,
    }
}

fn control_failure(failure: wit_models::Failure) -> ports::ControlFailure {
    use ports::ControlFailureKind as Kind;
    use wit_models::FailureKind as Wit;
    ports::ControlFailure {
        kind: match failure.kind {
            Wit::Unsupported => Kind::Unsupported,
            Wit::NotFound => Kind::NotFound,
            Wit::FailedPrecondition => Kind::FailedPrecondition,
            Wit::Failed => Kind::Failed,
        },
        message: failure.message,
    }
}

/// The most entries read of one folder; a model has a handful.
const MAX_FOLDER_ENTRIES: usize = 1024;

fn failure(failure: wit_inference::Failure) -> Failure {
    use wit_inference::FailureKind as Wit;
    let kind = match failure.kind {
        Wit::NotReady => FailureKind::NotReady,
        Wit::Overloaded => FailureKind::Overloaded,
        Wit::DeadlineExceeded => FailureKind::DeadlineExceeded,
        Wit::InputsRejected => FailureKind::InputsRejected,
        Wit::Failed => FailureKind::Failed,
        Wit::RowsDepend => FailureKind::RowsDepend,
    };
    Failure {
        kind,
        message: failure.message,
        retry_after_ms: failure.retry_after_ms,
    }
}

impl ContractPort for wit_validation::Contract {
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = self.parse_predict(body).map_err(rejection_from_wit)?;
        Ok(ParsedBody {
            id: parsed.id,
            model_version: parsed.model_version,
            inputs: tensors_from_wit(parsed.inputs),
        })
    }

    fn parse_infer(
        &self,
        body: &str,
        tail_bytes: u64,
        unknown: Unknown,
    ) -> Result<InferRequest, Rejection> {
        self.parse_infer(body, tail_bytes, unknown_to_wit(unknown))
            .map(infer_from_wit)
            .map_err(rejection_from_wit)
    }

    fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection> {
        self.parse_generate(body, unknown_to_wit(unknown))
            .map(infer_from_wit)
            .map_err(rejection_from_wit)
    }
}

fn unknown_to_wit(unknown: Unknown) -> wit_validation::Unknown {
    match unknown {
        Unknown::Ignore => wit_validation::Unknown::Ignore,
        Unknown::Refuse => wit_validation::Unknown::Refuse,
    }
}

fn infer_from_wit(parsed: wit_validation::InferRequest) -> InferRequest {
    let binary = parsed.binary.into_iter();
    let outputs = parsed.outputs.into_iter();
    InferRequest {
        id: parsed.id,
        model_name: parsed.model_name,
        model_version: parsed.model_version,
        inputs: tensors_from_wit(parsed.inputs),
        binary: binary
            .map(|one| BinaryInput {
                input: one.input as usize,
                index: one.index as usize,
                bytes: one.bytes,
            })
            .collect(),
        outputs: outputs
            .map(|output| OutputRequest {
                name: output.name,
                binary: output.binary,
                classes: output.classes,
            })
            .collect(),
        binary_outputs: parsed.binary_outputs,
        priority: parsed.priority,
        timeout_us: parsed.timeout_us,
    }
}

impl AdapterPort for wit_adapter::Adapter {
    fn prepare(
        &self,
        items: &[ports::Item<'_>],
        cut_to: Option<u32>,
    ) -> Result<ports::Step, ports::Refusal> {
        let items: Vec<wit_adapter::Item> = items
            .iter()
            .map(|item| wit_adapter::Item {
                parts: item.parts.iter().map(part).collect(),
            })
            .collect();
        self.prepare(&items, cut_to)
            .map(step)
            .map_err(|refusal| ports::Refusal {
                item: refusal.item,
                part: refusal.part,
                kind: match refusal.kind {
                    wit_adapter::RefusalKind::UnsupportedMediaType(text) => {
                        ports::RefusalKind::UnsupportedMediaType(text)
                    }
                    wit_adapter::RefusalKind::InvalidContent(text) => {
                        ports::RefusalKind::InvalidContent(text)
                    }
                    wit_adapter::RefusalKind::TooLong(text) => ports::RefusalKind::TooLong(text),
                },
            })
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<ports::Step, String> {
        self.advance(&tensors_to_wit(outputs)).map(step)
    }
}

fn part(part: &ports::Part<'_>) -> wit_adapter::Part {
    let blob = |blob: &ports::Blob<'_>| wit_adapter::Blob {
        media_type: blob.media_type.map(str::to_owned),
        body: bulk_to_wit(blob.body),
    };
    match part {
        ports::Part::Text(text) => wit_adapter::Part::Text((*text).to_owned()),
        ports::Part::Tokens(tokens) => wit_adapter::Part::Tokens(tokens.to_vec()),
        ports::Part::Image(body) => wit_adapter::Part::Image(blob(body)),
        ports::Part::Audio(body) => wit_adapter::Part::Audio(blob(body)),
        ports::Part::Bytes(body) => wit_adapter::Part::Bytes(blob(body)),
    }
}

fn step(step: wit_adapter::Step) -> ports::Step {
    match step {
        wit_adapter::Step::Tensors(list) => ports::Step::Tensors(tensors_from_wit(list)),
        wit_adapter::Step::Other(run) => ports::Step::Other(run.step, tensors_from_wit(run.inputs)),
        wit_adapter::Step::Answers(answers) => ports::Step::Answers(
            answers
                .into_iter()
                .map(|answer| ports::AdapterAnswer {
                    text: answer.text,
                    units: answer.units,
                })
                .collect(),
        ),
    }
}

fn headers(headers: Vec<wit_quota::Header>) -> Headers {
    headers.into_iter().map(|h| (h.name, h.value)).collect()
}

fn quota_refusal(refusal: wit_quota::Refusal) -> quota::Refusal {
    quota::Refusal {
        kind: match refusal.kind {
            wit_quota::RefusalKind::UsedUp => quota::RefusalKind::UsedUp,
            wit_quota::RefusalKind::TooLarge => quota::RefusalKind::TooLarge,
            wit_quota::RefusalKind::StoreFailed => quota::RefusalKind::StoreFailed,
        },
        limit: refusal.limit,
        message: refusal.message,
        retry_after_s: refusal.retry_after_s,
        headers: headers(refusal.headers),
    }
}

fn auth_refusal(refusal: wit_auth::Refusal) -> auth::Refusal {
    use auth::RefusalKind as Kind;
    use wit_auth::RefusalKind as Wit;
    auth::Refusal {
        kind: match refusal.kind {
            Wit::Missing => Kind::Missing,
            Wit::Malformed => Kind::Malformed,
            Wit::Ambiguous => Kind::Ambiguous,
            Wit::Invalid => Kind::Invalid,
            Wit::Expired => Kind::Expired,
            Wit::Revoked => Kind::Revoked,
            Wit::Replayed => Kind::Replayed,
            Wit::Denied => Kind::Denied,
            Wit::TenantDisabled => Kind::TenantDisabled,
            Wit::Throttled => Kind::Throttled,
            Wit::StoreFailed => Kind::StoreFailed,
            Wit::Hidden => Kind::Hidden,
        },
        message: refusal.message,
        challenge: refusal.challenge,
        retry_after_s: refusal.retry_after_s,
        caller: refusal.caller.map(caller_from_wit),
    }
}

impl AuthService for wit_auth::Policy {
    fn admit(
        &self,
        shown: &auth::Presented<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<auth::Admitted, auth::Refusal> {
        use auth::CredentialKind as Kind;
        use wit_auth::CredentialKind as Wit;
        let headers = shown.headers.iter().map(|(name, value)| wit_auth::Header {
            name: (*name).to_owned(),
            value: value.to_vec(),
        });
        let certificate = shown.certificate.map(|certificate| wit_auth::Certificate {
            sha256: certificate.sha256.to_owned(),
            names: certificate.names.to_vec(),
        });
        let request = wit_auth::Request {
            method: shown.method.to_owned(),
            target: shown.target.to_owned(),
            headers: headers.collect(),
            body_sha256: shown.body_sha256.map(Vec::from),
            address: shown.address.map(str::to_owned),
            forwarded: shown.forwarded,
            certificate,
            route: shown.route.to_owned(),
            model: shown.model.map(str::to_owned),
        };
        let admitted = self.admit(&request, now_ms, random).map_err(auth_refusal)?;
        Ok(auth::Admitted {
            caller: caller_from_wit(admitted.caller),
            credential: match admitted.credential {
                Wit::None => Kind::None,
                Wit::ApiKey => Kind::ApiKey,
                Wit::Token => Kind::Token,
                Wit::Signature => Kind::Signature,
                Wit::Certificate => Kind::Certificate,
            },
            priority: admitted.priority,
        })
    }

    fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
        self.sees(&caller_to_wit(caller), models)
    }
}

impl QuotaService for wit_quota::Policy {
    type Admission = wit_quota::Admission;

    fn scope(&self) -> quota::Scope {
        let scope = self.scope();
        quota::Scope {
            calls: scope.calls,
            items: scope.items,
            settles: scope.settles,
        }
    }

    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
        self.fallbacks(now_ms, random)
    }

    fn admit(
        &self,
        call: &quota::Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<quota::Admitted<Self::Admission>, quota::Refusal> {
        let call = wit_quota::Call {
            caller: caller_to_wit(call.caller),
            route: call.route.to_owned(),
            model: call.model.map(str::to_owned),
            body_bytes: call.body_bytes,
        };
        let admitted = self.admit(&call, now_ms, random).map_err(quota_refusal)?;
        Ok(quota::Admitted {
            admission: admitted.admission,
            wait_ms: admitted.wait_ms,
            headers: headers(admitted.headers),
        })
    }
}

impl AdmissionService for wit_quota::Admission {
    fn charge_items(
        &self,
        items: u64,
        now_ms: u64,
        random: u64,
    ) -> Result<Headers, quota::Refusal> {
        self.charge_items(items, now_ms, random)
            .map(headers)
            .map_err(quota_refusal)
    }

    fn refund_items(&self, now_ms: u64) -> Headers {
        headers(self.refund_items(now_ms))
    }

    fn settle(&self, compute_ms: u64, now_ms: u64) {
        self.settle(compute_ms, now_ms);
    }
}

fn idempotency_refusal(refusal: wit_idempotency::Refusal) -> idempotency::Refusal {
    use wit_idempotency::RefusalKind as Wit;
    idempotency::Refusal {
        kind: match refusal.kind {
            Wit::Invalid => idempotency::RefusalKind::Invalid,
            Wit::InFlight => idempotency::RefusalKind::InFlight,
            Wit::Mismatch => idempotency::RefusalKind::Mismatch,
            Wit::Exhausted => idempotency::RefusalKind::Exhausted,
            Wit::StoreFailed => idempotency::RefusalKind::StoreFailed,
        },
        message: refusal.message,
        retry_after_s: refusal.retry_after_s,
    }
}

fn kept(answer: wit_idempotency::Answer) -> idempotency::Kept {
    idempotency::Kept {
        status: answer.status,
        headers: answer.headers,
        body: match answer.body {
            wit_idempotency::Body::Text(text) => Ok(text.into_bytes()),
            wit_idempotency::Body::Bytes(bytes) => Ok(bytes),
            wit_idempotency::Body::Omitted(bytes) => Err(bytes),
        },
    }
}

impl IdempotencyService for wit_idempotency::Policy {
    type Attempt = wit_idempotency::Attempt;

    fn rules(&self) -> idempotency::Rules {
        let settings = self.settings();
        idempotency::Rules {
            enabled: settings.enabled,
            required: settings.required,
            max_record_bytes: settings.max_record_bytes,
        }
    }

    fn look(
        &self,
        call: &idempotency::Call<'_>,
        now_ms: u64,
    ) -> Result<idempotency::Looked<Self::Attempt>, idempotency::Refusal> {
        let call = wit_idempotency::Call {
            tenant: call.tenant.to_owned(),
            method: call.method.to_owned(),
            route: call.route.to_owned(),
            idempotency_keys: call.idempotency_keys.iter().map(|k| k.to_vec()).collect(),
            fingerprint: call.fingerprint.to_owned(),
        };
        match self.look(&call, now_ms).map_err(idempotency_refusal)? {
            wit_idempotency::Looked::Free(attempt) => Ok(idempotency::Looked::Free(attempt)),
            wit_idempotency::Looked::Done(answer) => Ok(idempotency::Looked::Done(kept(answer))),
            wit_idempotency::Looked::Unprotected => Ok(idempotency::Looked::Unprotected),
        }
    }
}

impl AttemptService for wit_idempotency::Attempt {
    fn claim(
        &self,
        now_ms: u64,
        random: u64,
    ) -> Result<idempotency::Claimed, idempotency::Refusal> {
        match self.claim(now_ms, random).map_err(idempotency_refusal)? {
            wit_idempotency::Claimed::Granted => Ok(idempotency::Claimed::Granted),
            wit_idempotency::Claimed::Done(answer) => Ok(idempotency::Claimed::Done(kept(answer))),
            wit_idempotency::Claimed::Unprotected => Ok(idempotency::Claimed::Unprotected),
        }
    }

    fn complete(
        &self,
        answer: idempotency::Kept,
        now_ms: u64,
    ) -> Result<idempotency::Completed, idempotency::Refusal> {
        let answer = wit_idempotency::Answer {
            status: answer.status,
            headers: answer.headers,
            body: match answer.body.map(String::from_utf8) {
                Ok(Ok(text)) => wit_idempotency::Body::Text(text),
                Ok(Err(not_text)) => wit_idempotency::Body::Bytes(not_text.into_bytes()),
                Err(bytes) => wit_idempotency::Body::Omitted(bytes),
            },
        };
        match self
            .complete(&answer, now_ms)
            .map_err(idempotency_refusal)?
        {
            wit_idempotency::Completed::Published => Ok(idempotency::Completed::Published),
            wit_idempotency::Completed::Superseded(answer) => {
                Ok(idempotency::Completed::Superseded(kept(answer)))
            }
        }
    }

    fn release(&self) {
        self.release();
    }
}

impl UsageService for wit_usage::Policy {
    fn enabled(&self) -> bool {
        self.enabled()
    }

    fn count(
        &self,
        caller: &Caller,
        model: &str,
        amounts: usage::Amounts,
        now_ms: u64,
        random: u64,
    ) -> Result<(), String> {
        let amounts = wit_usage::Amounts {
            requests: amounts.requests,
            items: amounts.items,
            body_bytes: amounts.bytes,
            compute_us: amounts.compute_us,
        };
        self.count(&caller_to_wit(caller), model, amounts, now_ms, random)
    }

    fn read(
        &self,
        (first_day, last_day): (u64, u64),
        tenant: Option<&str>,
        start: Option<(u64, u64)>,
    ) -> Result<usage::Report, String> {
        let report = self.read(first_day, last_day, tenant, start)?;
        let rows = report.rows.into_iter().map(|row| usage::Row {
            day: row.day,
            who: usage::Who {
                tenant: row.tenant,
                api_key_id: row.api_key_id,
                model: row.model,
            },
            requests: row.amounts.requests,
            items: row.amounts.items,
            bytes: row.amounts.body_bytes,
            compute_us: row.amounts.compute_us,
            alerts: row
                .alerts
                .into_iter()
                .map(|alert| (alert.name, alert.reached_ms))
                .collect(),
        });
        Ok(usage::Report {
            rows: rows.collect(),
            next: report.next,
        })
    }
}
