//! The gate's two doors over one [`Gate`], and its ports over WIT imports.
//!
//! Both doors end in the same call, [`answer`], so the same request gets the same answer through
//! either.

use crate::types::{
    bulk_to_wit, http as wit_http, rejection_from_wit, tensors_from_wit, tensors_to_wit,
};
use http_body_util::BodyExt;
use penstock_core::{Code, ModelVersion, Problem};
use penstock_gate::ports::{
    self, AdapterPort, ContractPort, Failure, FailureKind, ParsedBody, Ports,
};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_tensor::{Rejection, Tensor};
use spin_sdk::http::FullBody;
use std::cell::RefCell;

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:gate/component",
        path: [
            "../../wit/types", "../../wit/deps/nn", "../../wit/validation", "../../wit/inference", "../../wit/adapter",
            "../../wit/gate",
        ],
        with: {
            "penstock:types/http@0.1.0": crate::types::http,
            "penstock:types/tensors@0.1.0": crate::types::tensors,
        },
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::gate::bindings",
    });
}

use bindings::penstock::validation::validation as wit_validation;
use bindings::penstock::{adapter::adapter as wit_adapter, inference::inference as wit_inference};

/// Where the manifest mounts the models directory.
const MODELS_DIRECTORY: &str = "/models";

/// The largest contract or adapter configuration that is read. Contracts are a few kilobytes.
const MAX_MODEL_FILE_BYTES: u64 = 1 << 20;

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
pub type HttpResponse = spin_sdk::http::Response<FullBody<bytes::Bytes>>;

/// The HTTP door: collects the body and answers as the direct door does.
pub async fn answer_http(request: spin_sdk::http::Request) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| Header {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_vec(),
        })
        .collect();
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
    let response = match collect(body).await {
        Ok(bytes) => {
            record.body = bytes;
            answer(&record)
        }
        Err(problem) => GATE.with_borrow(|gate| gate.refuse(&record, &problem)),
    };
    let mut builder = spin_sdk::http::Response::builder().status(response.status);
    for header in &response.headers {
        builder = builder.header(&header.name, header.value.as_slice());
    }
    builder
        .body(FullBody::new(response.body.into()))
        .unwrap_or_else(|_| {
            let mut broken = HttpResponse::new(FullBody::new(bytes::Bytes::new()));
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
            .map(|folder| {
                let inside = names(&format!("{MODELS_DIRECTORY}/{folder}"));
                (folder, inside)
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
    ) -> Result<Vec<Tensor>, Failure> {
        wit_inference::infer(model, version.get(), &tensors_to_wit(inputs), outputs)
            .map(tensors_from_wit)
            .map_err(failure)
    }

    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure> {
        wit_inference::ready(model, version.get()).map_err(failure)
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
    };
    Failure {
        kind,
        message: failure.message,
    }
}

impl ContractPort for wit_validation::Contract {
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = self.parse_predict(body).map_err(rejection_from_wit)?;
        Ok(ParsedBody {
            id: parsed.id,
            inputs: tensors_from_wit(parsed.inputs),
            outputs: Vec::new(),
        })
    }

    fn parse_infer(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = self.parse_infer(body).map_err(rejection_from_wit)?;
        Ok(ParsedBody {
            id: parsed.id,
            inputs: tensors_from_wit(parsed.inputs),
            outputs: parsed.outputs,
        })
    }
}

impl AdapterPort for wit_adapter::Adapter {
    fn prepare(
        &self,
        media_type: Option<&str>,
        body: &[u8],
    ) -> Result<ports::Prepared, ports::Refusal> {
        let content = wit_adapter::Content {
            media_type: media_type.map(str::to_owned),
            body: bulk_to_wit(body),
        };
        match self.prepare(&content) {
            Ok(wit_adapter::Prepared::Tensors(list)) => {
                Ok(ports::Prepared::Tensors(tensors_from_wit(list)))
            }
            Ok(wit_adapter::Prepared::Answer(text)) => Ok(ports::Prepared::Answer(text)),
            Err(wit_adapter::Refusal::UnsupportedMediaType(text)) => {
                Err(ports::Refusal::UnsupportedMediaType(text))
            }
            Err(wit_adapter::Refusal::InvalidContent(text)) => {
                Err(ports::Refusal::InvalidContent(text))
            }
        }
    }

    fn answer(&self, outputs: Vec<Tensor>) -> Result<String, String> {
        self.answer(&tensors_to_wit(outputs))
    }
}
