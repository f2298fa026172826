//! What the gate needs from outside. The guest room implements these over WIT imports; tests
//! implement them in memory.

use penstock_core::ModelVersion;
use penstock_tensor::{Rejection, Tensor};

/// Everything the gate is given.
pub trait Ports {
    /// A contract opened by validation.
    type Contract: ContractPort;
    /// An adapter opened for a model.
    type Adapter: AdapterPort;

    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds that never go back.
    fn monotonic_ns(&self) -> u64;
    /// 128 random bits.
    fn random(&self) -> u128;

    /// The folders under the models directory, each with the names inside it.
    fn list_models(&self) -> Vec<(String, Vec<String>)>;
    /// Reads one small file of a model's folder; the error is a sentence for the operator.
    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String>;

    /// Parses a contract in validation.
    fn open_contract(&self, text: &str) -> Result<Self::Contract, String>;
    /// Opens an adapter by the name and configuration a contract gives.
    fn open_adapter(&self, name: &str, config: &[u8]) -> Result<Self::Adapter, String>;

    /// Runs one model version; `outputs` empty means all.
    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
    ) -> Result<Vec<Tensor>, Failure>;
    /// Whether a model version could run now.
    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure>;
}

/// A parsed body: inputs by name, and what else the caller said.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedBody {
    /// The caller's own id for the call.
    pub id: Option<String>,
    /// The inputs, checked against the contract.
    pub inputs: Vec<Tensor>,
    /// Outputs asked for; empty for all.
    pub outputs: Vec<String>,
}

/// Validation, opened for one contract.
pub trait ContractPort {
    /// Parses the body of `:predict`.
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection>;
    /// Parses the body of the Open Inference Protocol's `infer`.
    fn parse_infer(&self, body: &str) -> Result<ParsedBody, Rejection>;
}

/// What an adapter made of a content.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// Tensors to run the model on.
    Tensors(Vec<Tensor>),
    /// The prediction already, as JSON text.
    Answer(String),
}

/// Why an adapter refuses a content.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It does not take this media type.
    UnsupportedMediaType(String),
    /// The content is not usable.
    InvalidContent(String),
}

/// An adapter, opened for one model.
pub trait AdapterPort {
    /// Content to tensors.
    fn prepare(&self, media_type: Option<&str>, body: &[u8]) -> Result<Prepared, Refusal>;
    /// Outputs to one prediction, as JSON text; the error is a sentence for the operator.
    fn answer(&self, outputs: Vec<Tensor>) -> Result<String, String>;
}

/// Why a run gave no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The version exists and is not ready. Not run.
    NotReady,
    /// A queue is full. Not run.
    Overloaded,
    /// The deadline passed.
    DeadlineExceeded,
    /// The runtime refused these tensors.
    InputsRejected,
    /// The runtime failed on these tensors.
    Failed,
}

/// A failed run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What happened, in words.
    pub message: String,
}
