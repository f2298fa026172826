//! What the gate needs from outside: clock, randomness, files, environment, validation, adapters, inference and the models of
//! the host. The policies are [`Services`] of their own. The guest crate implements all of it over WIT imports; tests
//! implement it in memory.

use penstock_core::ModelVersion;
pub use penstock_core::headers::Headers;
pub use penstock_policy::services::Services;
pub use penstock_tensor::content::{
    AdapterAnswer, AdapterRefusal, Blob, Item, Part, RefusalKind, Step,
};
use penstock_tensor::{InferRequest, Rejection, Tensor, Unknown};

/// Everything the gate is given.
pub trait Ports: Services {
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

    /// Tells the operator something that is not for callers.
    fn log(&self, message: &str);
    /// Waits.
    fn sleep_ms(&self, ms: u32);

    /// The operator's policy, a `penstock.toml`; empty when there is none. The error is a sentence for
    /// the operator.
    fn policy_text(&self) -> Result<String, String>;
    /// Reads one small file that a policy names; `None` where there is none.
    fn read_policy_file(&self, name: &str) -> Option<String>;
    /// What the host says by a variable of the environment.
    fn environment(&self, name: &str) -> Option<String>;

    /// The folders under the models directory, each with the names inside it.
    fn list_models(&self) -> Vec<(String, Vec<String>)>;
    /// Reads one small file of a model's folder; the error is a sentence for the operator.
    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String>;

    /// When a file of a model's folder was written, in seconds since the Unix epoch; `None` where that is not known.
    fn model_file_written_s(&self, model: &str, file: &str) -> Option<u64>;

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
        options: InferOptions,
    ) -> Result<Vec<Tensor>, Failure>;
    /// Has one model version run for comparison with what was answered, and comes back at once.
    fn shadow(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        expected: Vec<Tensor>,
    ) -> Result<(), Failure>;
    /// Whether a model version could run now.
    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure>;

    /// Statistics in the Open Inference Protocol's form, as JSON text.
    fn statistics(
        &self,
        model: Option<&str>,
        version: Option<ModelVersion>,
    ) -> Result<String, ControlFailure>;
    /// The index of the repository in the Open Inference Protocol's form, as JSON text.
    fn index(&self, ready: bool) -> Result<String, ControlFailure>;
    /// Loads a model; comes back when it is ready or has failed.
    fn load(&self, model: &str) -> Result<(), ControlFailure>;
    /// Unloads a model.
    fn unload(&self, model: &str) -> Result<(), ControlFailure>;
}

/// The options of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InferOptions {
    /// The priority level, 1 the first to run.
    pub priority: Option<u8>,
    /// Milliseconds the call may take, where that is less than its request may.
    pub timeout_ms: Option<u32>,
    /// The rows are items of their own, put together to save runs. Where rows depend on each other, nothing is run and the
    /// call fails with [`FailureKind::RowsDepend`].
    pub is_joined: bool,
}

/// Why something about models could not be read or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFailureKind {
    /// This host has no such thing.
    Unsupported,
    /// There is no such model or version.
    NotFound,
    /// It cannot be done as things are.
    FailedPrecondition,
    /// The store or the host failed.
    Failed,
}

/// The same, with words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFailure {
    /// Which kind.
    pub kind: ControlFailureKind,
    /// In words.
    pub message: String,
}

/// A parsed body: inputs by name, and what else the caller said.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedBody {
    /// The caller's own id for the call.
    pub id: Option<String>,
    /// The version that is to answer, by number or alias.
    pub model_version: Option<String>,
    /// The inputs, checked against the contract.
    pub inputs: Vec<Tensor>,
}

/// Validation, opened for one contract.
pub trait ContractPort {
    /// Parses the body of `:predict`.
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection>;
    /// Parses the JSON of the Open Inference Protocol's `infer`, behind which so many bytes of tensors stand.
    fn parse_infer(
        &self,
        body: &str,
        tail_bytes: u64,
        unknown: Unknown,
    ) -> Result<InferRequest, Rejection>;
    /// Parses the body of `generate`.
    fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection>;
}

/// An adapter, opened for one model.
pub trait AdapterPort {
    /// Begins with some items, at least one; what it was doing before is forgotten. A text of more tokens than `cut_to`,
    /// or than the model can read, is cut where `cut_to` is given.
    fn prepare(&self, items: &[Item<'_>], cut_to: Option<u32>) -> Result<Step, AdapterRefusal>;
    /// Goes on with the outputs of the run it asked for; the error is a sentence for the operator.
    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String>;
}

/// Why a run gave no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The version exists and is not ready. Not run.
    NotReady,
    /// A queue is full, or too long for the deadline. Not run.
    Overloaded,
    /// The deadline passed.
    DeadlineExceeded,
    /// The runtime refused these tensors.
    InputsRejected,
    /// The runtime failed on these tensors.
    Failed,
    /// Items were put together whose rows depend on each other. Not run.
    RowsDepend,
}

/// A failed run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What happened, in words.
    pub message: String,
    /// Milliseconds after which a retry has a chance, where that is known.
    pub retry_after_ms: Option<u64>,
}
