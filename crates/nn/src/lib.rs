//! The native inference engine behind wasi:nn: loads the models of a directory on a backend, and runs them for
//! many callers at once.
//!
//! What is where:
//!
//! - [`tensor`], [`error`]: the engine's border, in wasi:nn's own terms.
//! - [`backend`]: one trait, and behind it ONNX Runtime, OpenVINO and tract.
//! - [`layout`]: what a models directory looks like.
//! - [`model`]: a loaded model; waiting, running, counting.
//! - [`repository`]: the models of a server; loading, warm-up, versions.
//! - [`on_demand`]: the models of one component instance; opened when asked for, within bounds.
//! - [`contract_check`]: whether a graph is what its `model.toml` says.
//!
//! The engine knows no HTTP. It serves a native host's guests; without the feature `native` it is small enough to be
//! compiled to WebAssembly itself, and then has tract and [`on_demand`] alone.

pub mod backend;
mod call;
pub mod contract_check;
pub mod error;
pub mod layout;
#[cfg(feature = "native")]
pub mod model;
pub mod on_demand;
#[cfg(feature = "native")]
pub mod repository;
pub mod tensor;

pub use backend::{
    Backend, Backends, Dim, GraphSource, Interrupt, Lane, LoadOptions, Port, PortType, Session,
};
pub use error::{ErrorCode, NnError, Refusal};
pub use layout::Unavailable;
#[cfg(feature = "native")]
pub use model::{Model, Stats, Terms};
#[cfg(feature = "native")]
pub use repository::{Repository, Settings, State};
pub use tensor::{NnTensor, TensorType};
