//! Implements the gate's direct entry point over one [`Gate`], and its ports over WIT imports. The modules of the
//! policies convert the types that the gate imports from them.
//!
//! The HTTP entry point is in `http`, with the feature `gate-http`. Both end in the same call, [`answer`], so a request
//! gets the same answer through either.

#[cfg(not(feature = "gate-held"))]
use crate::types::tensors_from_wit;
use crate::types::{http as wit_http, place_to_wit, tensor_to_inference};
use crate::{inference::failure, models::control_failure};
use penstock_core::ModelVersion;
use penstock_gate::ports::{
    ControlFailure, Failure, InferOptions, Ports, Services, too_long, unreadable,
};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_policy::auth::words::Environment;
use penstock_tensor::{Buffer, Tensor};
use std::cell::RefCell;

#[cfg(feature = "gate-held")]
mod held;
#[cfg(feature = "gate-http")]
mod http;

pub use crate::imports::bindings;
#[cfg(feature = "gate-http")]
pub use http::{HttpBody, HttpResponse, answer_http};

use bindings::penstock::auth::auth as wit_auth;
use bindings::penstock::models::models as wit_models;
use bindings::penstock::validation::validation as wit_validation;
use bindings::penstock::{adapter::adapter as wit_adapter, inference::inference as wit_inference};
use bindings::penstock::{
    batches::batches as wit_batches, idempotency::idempotency as wit_idempotency,
    operations::operations as wit_operations, policy::policy as wit_policy,
    quota::quota as wit_quota, usage::usage as wit_usage,
};

/// The path at which the manifest mounts the operator's policy.
const POLICY_FILE: &str = "/penstock.toml";

/// The most bytes of a policy that are read. Real policies have a few kilobytes.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// The path at which the manifest mounts the models directory.
const MODELS_DIRECTORY: &str = "/models";

/// The most bytes of a contract or an adapter's file that are read.
const MAX_MODEL_FILE_BYTES: u64 = penstock_tensor::contract::MAX_ADAPTER_FILE_BYTES;

thread_local! {
    static GATE: RefCell<Gate<WitPorts>> = RefCell::new(Gate::new(WitPorts));
}

/// Answers a request of either entry point.
pub fn answer(request: &Request) -> Response {
    GATE.with_borrow_mut(|gate| gate.handle(request))
}

/// The type that exports the direct entry point.
pub struct DirectEntryPoint;

impl bindings::exports::penstock::gate::door::Guest for DirectEntryPoint {
    fn handle(request: wit_http::Request) -> wit_http::Response {
        #[cfg(feature = "gate-held")]
        let body = held::begin(&request).unwrap_or_else(|| request.body.into());
        #[cfg(not(feature = "gate-held"))]
        let body = request.body.into();
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
            body,
        });
        let mut parts = response.body.into_parts().into_iter();
        let first = parts.next().unwrap_or_default();
        let (body, rest) = match first.place() {
            None => (first.into_vec(), parts.map(part_to_wit).collect()),
            Some(_) => {
                let rest = std::iter::once(first).chain(parts).map(part_to_wit);
                (Vec::new(), rest.collect())
            }
        };
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
            body,
            rest,
        }
    }
}

/// The buffers of tensors that the host holds. It holds them while these live.
fn kept(tensors: &[Tensor]) -> Vec<Buffer> {
    let held = tensors
        .iter()
        .filter(|tensor| tensor.data.place().is_some());
    held.map(|tensor| tensor.data.clone()).collect()
}

/// Converts a part of a body. The host takes a part that it holds from there.
fn part_to_wit(part: Buffer) -> wit_http::BodyPart {
    match part.place() {
        None => wit_http::BodyPart::Bytes(part.into_vec()),
        Some(place) => {
            part.hand_over();
            wit_http::BodyPart::Held(place_to_wit(place))
        }
    }
}

/// Implements the gate's ports over its imports.
struct WitPorts;

impl Services for WitPorts {
    type Auth = wit_auth::Policy;
    type Quota = wit_quota::Policy;
    type Idempotency = wit_idempotency::Policy;
    type Usage = wit_usage::Policy;
    type Operations = wit_operations::Policy;
    type Batches = wit_batches::Policy;
    type Custom = wit_policy::Policy;
    type Cache = crate::cache::WitCache;
    type Rollouts = crate::models::WitRollouts;

    fn open_auth(&self, policy: &str, environment: Environment) -> Result<Self::Auth, String> {
        let environment = wit_auth::Environment {
            key_sets: environment.key_sets,
            public: environment.public,
        };
        wit_auth::Policy::open(policy, &environment)
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

    fn open_operations(&self, policy: &str) -> Result<Self::Operations, String> {
        wit_operations::Policy::open(policy)
    }

    fn open_batches(&self, policy: &str) -> Result<Self::Batches, String> {
        wit_batches::Policy::open(policy)
    }

    fn open_custom(&self, policy: &str) -> Result<Self::Custom, String> {
        wit_policy::Policy::open(policy)
    }

    fn open_cache(&self) -> Self::Cache {
        crate::cache::WitCache
    }

    fn open_rollouts(&self) -> Self::Rollouts {
        crate::models::WitRollouts
    }
}

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

    fn log(&self, message: &str) {
        eprintln!("{message}");
    }

    fn sleep_ms(&self, ms: u32) {
        std::thread::sleep(std::time::Duration::from_millis(ms.into()));
    }

    fn policy_text(&self) -> Result<String, String> {
        let unreadable = |e: std::io::Error| unreadable(POLICY_FILE, &e);
        let size = match std::fs::metadata(POLICY_FILE) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            Err(e) => return Err(unreadable(e)),
        };
        if size > MAX_POLICY_BYTES {
            return Err(too_long(POLICY_FILE, size, MAX_POLICY_BYTES));
        }
        std::fs::read_to_string(POLICY_FILE).map_err(unreadable)
    }

    fn read_policy_file(&self, name: &str) -> Option<String> {
        // The manifest mounts these files beside the policy.
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
                // Skip files beside the models, such as a README.
                let is_folder = std::fs::metadata(&path).is_ok_and(|found| found.is_dir());
                is_folder.then(|| (folder, names(&path)))
            })
            .collect()
    }

    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String> {
        let path = format!("{MODELS_DIRECTORY}/{model}/{file}");
        let unreadable = |e: std::io::Error| unreadable(file, &e);
        let size = std::fs::metadata(&path).map_err(unreadable)?.len();
        if size > MAX_MODEL_FILE_BYTES {
            return Err(too_long(file, size, MAX_MODEL_FILE_BYTES));
        }
        std::fs::read(&path).map_err(unreadable)
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
        options: InferOptions,
    ) -> Result<Vec<Tensor>, Failure> {
        #[cfg(feature = "gate-held")]
        let (held_from_bytes, from_wit) = (held::from_bytes(), held::tensors_from_wit);
        #[cfg(not(feature = "gate-held"))]
        let (held_from_bytes, from_wit) = (None, tensors_from_wit);
        let held = kept(&inputs);
        let inputs: Vec<_> = inputs.into_iter().map(tensor_to_inference).collect();
        let options = wit_inference::RunOptions {
            priority: options.priority,
            timeout_ms: options.timeout_ms,
            joined: options.is_combined,
            held_from_bytes,
        };
        let answered = wit_inference::infer(model, version.get(), &inputs, outputs, options);
        // Free the inputs' memory before converting the outputs. In the worst case the outputs are as large, and
        // exist twice.
        drop((inputs, held));
        answered.map(from_wit).map_err(failure)
    }

    fn shadow(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        expected: Vec<Tensor>,
    ) -> Result<(), Failure> {
        let _held = [kept(&inputs), kept(&expected)];
        let [inputs, expected] = [inputs, expected].map(|tensors| {
            let tensors = tensors.into_iter().map(tensor_to_inference);
            tensors.collect::<Vec<_>>()
        });
        wit_inference::shadow(model, version.get(), &inputs, &expected).map_err(failure)
    }

    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure> {
        wit_inference::ready(model, version.get()).map_err(failure)
    }

    fn statistics(
        &self,
        model: Option<&str>,
        version: Option<ModelVersion>,
    ) -> Result<String, ControlFailure> {
        wit_models::statistics(model, version.map(ModelVersion::get)).map_err(control_failure)
    }

    fn index(&self, ready: bool) -> Result<String, ControlFailure> {
        wit_models::index(ready).map_err(control_failure)
    }

    fn load(&self, model: &str) -> Result<(), ControlFailure> {
        wit_models::load(model).map_err(control_failure)
    }

    fn unload(&self, model: &str) -> Result<(), ControlFailure> {
        wit_models::unload(model).map_err(control_failure)
    }
}

/// The most entries of one folder that are read. A model has only a few.
const MAX_FOLDER_ENTRIES: usize = 1024;
