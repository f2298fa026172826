//! The native inference engine behind wasi:nn: loads the models of a directory on a backend, and runs them for
//! many callers at once.
//!
//! What is where:
//!
//! - [`tensor`], [`error`]: the engine's border, in wasi:nn's own terms.
//! - [`backend`]: one trait, and behind it ONNX Runtime and tract.
//! - [`model`]: a loaded model; checks, waiting, running, counting.
//! - [`repository`]: the models directory; loading, warm-up, versions.
//! - [`contract_check`]: whether a graph is what its `model.toml` says.
//!
//! The engine knows no WebAssembly and no HTTP.

pub mod backend;
pub mod contract_check;
pub mod error;
pub mod model;
pub mod repository;
pub mod tensor;

pub use backend::{
    Backend, Backends, Dim, GraphSource, Lane, LoadOptions, Port, PortType, Session,
};
pub use error::{ErrorCode, NnError, Refusal};
pub use model::{Model, Stats};
pub use repository::{Repository, Settings, State, Unavailable};
pub use tensor::{NnTensor, TensorType};
