//! The native inference engine behind wasi:nn: loads the models of a directory on a backend, and runs them for
//! many callers at once.
//!
//! What is where:
//!
//! - [`tensor`], [`error`]: the engine's border, in wasi:nn's own terms.
//! - [`backend`]: one trait, and behind it ONNX Runtime, OpenVINO and tract.
//! - [`layout`]: what a models directory looks like.
//! - [`schedule`]: which calls run when, and which together; pure.
//! - [`join`]: one run's tensors of several calls', and back.
//! - [`model`]: a loaded model; does what the schedule says, on lanes. [`stats`]: what is counted.
//! - [`overdue`]: the threads that models run on, and runs that do not end in time.
//! - [`shadow`]: runs beside the served ones: when there may be one, and whether it agrees.
//! - [`protocol`]: statistics and index as the Open Inference Protocol's extensions write them.
//! - [`repository`]: the models of a server; versions, loading and unloading, what changes on disk, the memory budget.
//! - [`on_demand`]: the models of one component instance; opened when asked for, within bounds.
//! - [`contract_check`]: whether a graph is what its `model.toml` says.
//!
//! The engine knows no HTTP. It serves a native host's guests; without the feature `native` it is small enough to be
//! compiled to WebAssembly itself, and then has tract and [`on_demand`] alone.

pub mod backend;
mod call;
pub mod contract_check;
pub mod error;
#[cfg(feature = "native")]
pub mod join;
pub mod layout;
#[cfg(feature = "native")]
pub mod model;
pub mod on_demand;
#[cfg(feature = "native")]
pub mod overdue;
#[cfg(feature = "native")]
pub mod protocol;
#[cfg(feature = "native")]
pub mod repository;
#[cfg(feature = "native")]
pub mod schedule;
#[cfg(feature = "native")]
pub mod shadow;
#[cfg(feature = "native")]
pub mod stats;
pub mod tensor;

pub use backend::{
    Backend, Backends, Cost, Dim, GraphSource, Interrupt, Lane, LoadOptions, Port, PortType,
    RUN_MEMORY_BYTES, Session,
};
pub use call::for_wasi_nn;
pub use error::{ErrorCode, NnError, Refusal};
pub use layout::Unavailable;
#[cfg(feature = "native")]
pub use model::{Joins, Model, Stats, Terms};
#[cfg(feature = "native")]
pub use repository::{Handle, Lease, Repository, Settings, Snapshot, State};
pub use tensor::{NnTensor, TensorType};
