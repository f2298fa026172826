//! Defines the interfaces that the gate needs from outside: clock, randomness, files, environment, validation,
//! adapters, inference and the host's control of models. [`Services`] defines those of the policies. The guest crate
//! implements all of them over WIT imports; tests implement them in memory.

use penstock_core::ModelVersion;
pub use penstock_core::headers::Headers;
pub use penstock_policy::services::Services;
pub use penstock_tensor::content::{
    AdapterAnswer, AdapterRefusal, Blob, Item, Part, RefusalKind, Step,
};
use penstock_tensor::{InferRequest, Rejection, Tensor, Unknown};

/// The message about a file that cannot be read.
pub fn unreadable(file: &str, error: &std::io::Error) -> String {
    format!("cannot read {file}: {error}")
}

/// The message about a file that is longer than the gate reads.
pub fn too_long(file: &str, bytes: u64, limit: u64) -> String {
    format!("{file} has {bytes} bytes; at most {limit} are read")
}

/// The gate's interfaces to the host and to other components.
pub trait Ports: Services {
    /// A contract opened by the validation component.
    type Contract: ContractPort;
    /// An adapter opened for a model.
    type Adapter: AdapterPort;

    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds on a clock that never goes back.
    fn monotonic_ns(&self) -> u64;
    /// Returns 128 random bits, new at each call.
    fn random(&self) -> u128;

    /// Writes a message to the operator's log. Callers never see it.
    fn log(&self, message: &str);
    /// Pauses for a number of milliseconds.
    fn sleep_ms(&self, ms: u32);

    /// Returns the text of the operator's policy, `penstock.toml`; empty if there is none. The error is a sentence
    /// for the operator.
    fn policy_text(&self) -> Result<String, String>;
    /// Reads a small file that the policy names; `None` if it does not exist.
    fn read_policy_file(&self, name: &str) -> Option<String>;
    /// Returns the value of an environment variable of the host.
    fn environment(&self, name: &str) -> Option<String>;

    /// Lists the folders of the models directory, each with the names of its entries.
    fn list_models(&self) -> Vec<(String, Vec<String>)>;
    /// Reads a small file of a model's folder. The error is a sentence for the operator.
    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String>;

    /// Returns the modification time of a file in a model's folder, in seconds since the Unix epoch; `None` if
    /// unknown.
    fn model_file_written_s(&self, model: &str, file: &str) -> Option<u64>;

    /// Parses a contract in the validation component.
    fn open_contract(&self, text: &str) -> Result<Self::Contract, String>;
    /// Opens an adapter by the name and the configuration in a contract.
    fn open_adapter(&self, name: &str, config: &[u8]) -> Result<Self::Adapter, String>;

    /// Runs one model version. Empty `outputs` means all.
    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: InferOptions,
    ) -> Result<Vec<Tensor>, Failure>;
    /// Starts a run of a model version whose result is compared with the expected outputs. Returns at once.
    fn shadow(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        expected: Vec<Tensor>,
    ) -> Result<(), Failure>;
    /// Returns success if the model version could run now.
    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure>;

    /// Returns statistics in the Open Inference Protocol's form, as JSON text.
    fn statistics(
        &self,
        model: Option<&str>,
        version: Option<ModelVersion>,
    ) -> Result<String, ControlFailure>;
    /// Returns the index of the repository in the Open Inference Protocol's form, as JSON text. `ready` selects only
    /// the ready models.
    fn index(&self, ready: bool) -> Result<String, ControlFailure>;
    /// Loads or reloads a model. Returns after it is ready or has failed.
    fn load(&self, model: &str) -> Result<(), ControlFailure>;
    /// Unloads a model from the host. Its calls fail until it is loaded again.
    fn unload(&self, model: &str) -> Result<(), ControlFailure>;
}

/// The options of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InferOptions {
    /// The priority level; 1 runs first.
    pub priority: Option<u8>,
    /// The time in milliseconds that the call may take, if it is shorter than the request's deadline.
    pub timeout_ms: Option<u32>,
    /// Marks the rows as independent items that were combined to save runs. If the model's rows depend on each other,
    /// nothing runs and the call fails with [`FailureKind::RowsDepend`].
    pub is_combined: bool,
}

/// The reason why a query or a change of models failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFailureKind {
    /// The host does not support the operation.
    Unsupported,
    /// The model or version does not exist.
    NotFound,
    /// The current state does not allow the operation.
    FailedPrecondition,
    /// The store or the host failed.
    Failed,
}

/// A failed query or change of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFailure {
    /// The kind of failure, which decides the error code.
    pub kind: ControlFailureKind,
    /// A description of the failure.
    pub message: String,
}

/// A parsed body: the inputs, and the members that every form of body has.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedBody {
    /// The caller's own id of the call.
    pub id: Option<String>,
    /// The version that the caller requests, by number or alias.
    pub model_version: Option<String>,
    /// The inputs, checked against the contract.
    pub inputs: Vec<Tensor>,
}

/// The validation component, opened for one contract.
pub trait ContractPort {
    /// Parses the body of `:predict`.
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection>;
    /// Parses the JSON of the Open Inference Protocol's `infer`. `tail_bytes` is the number of tensor bytes after the
    /// JSON.
    fn parse_infer(
        &self,
        body: &str,
        tail_bytes: u64,
        unknown: Unknown,
    ) -> Result<InferRequest, Rejection>;
    /// Parses the body of `generate`.
    fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection>;
}

/// An adapter opened for one model.
pub trait AdapterPort {
    /// Starts on one or more items and discards the previous state. A text with more tokens than `cut_to`, or than
    /// the model can read, is cut if `cut_to` is set; otherwise it is refused.
    fn prepare(&self, items: &[Item<'_>], cut_to: Option<u32>) -> Result<Step, AdapterRefusal>;
    /// Continues with the outputs of the run that the adapter requested. The error is a sentence for the operator.
    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String>;
}

/// The reason why a run has no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The version exists and is not ready. Nothing ran.
    NotReady,
    /// A queue is full, or too long for the deadline. Nothing ran.
    Overloaded,
    /// The deadline passed before the run ended.
    DeadlineExceeded,
    /// The runtime rejected these inputs.
    InputsRejected,
    /// The runtime failed on these tensors.
    Failed,
    /// Combined items cannot share a run, because their rows depend on each other. Nothing ran.
    RowsDepend,
}

/// The failure of a run, with its kind and the time to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure, which decides the error code.
    pub kind: FailureKind,
    /// A description of the failure.
    pub message: String,
    /// The delay in milliseconds after which a retry may succeed, if known.
    pub retry_after_ms: Option<u64>,
}
