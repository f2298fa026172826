//! The native inference engine behind wasi:nn: loads the models of a directory on a backend, and runs them for
//! many callers at once.
//!
//! The modules:
//!
//! - [`tensor`], [`error`]: the engine's border, in wasi:nn's own terms.
//! - [`backend`]: one trait, and its implementations on ONNX Runtime, OpenVINO and tract.
//! - [`layout`]: the layout of a models directory.
//! - [`schedule`]: decides when calls run, and which calls run together; pure.
//! - [`batching`]: the options of dynamic batching; [`batch`]: puts the tensors of several calls into one run, and
//!   splits the outputs.
//! - [`model`]: a loaded model, which carries the schedule out on its instances. [`stats`]: its counters.
//! - [`overdue`]: the threads that models run on, and runs that do not end in time.
//! - [`shadow`]: shadow runs: when there may be one, and whether it agrees.
//! - [`protocol`]: statistics and index in the form of the Open Inference Protocol's extensions.
//! - [`agreement`]: the comparison with another backend.
//! - [`repository`]: the models of a server; versions, loading and unloading, changes on disk, the memory budget.
//! - [`on_demand`]: the models of one component instance; opened at first use, within bounds.
//! - [`worker`]: engines in separate processes.
//! - [`contract_check`]: compares a graph with its `model.toml`; `kept`: compares its first runs with it.
//! - [`mod@derive`]: a contract made from a graph; [`trial`]: one run of a model outside of a server.
//! - [`first_run`]: the runs before a model serves, and the inputs that are made up for them.
//!
//! The engine knows no HTTP. It serves a native host's guests; without the feature `native` it is small enough to be
//! compiled to WebAssembly itself, and then has only tract and [`on_demand`].

#[cfg(feature = "native")]
pub mod agreement;
mod allocation;
pub mod backend;
#[cfg(feature = "native")]
pub mod batch;
#[cfg(feature = "native")]
mod batch_trials;
#[cfg(feature = "native")]
pub mod batching;
mod call;
#[cfg(feature = "native")]
mod call_options;
pub mod contract_check;
#[cfg(feature = "native")]
pub mod derive;
pub mod error;
pub mod first_run;
#[cfg(feature = "native")]
mod held;
#[cfg(feature = "native")]
pub mod histogram;
mod index_bounds;
#[cfg(feature = "native")]
mod job;
mod kept;
pub mod layout;
#[cfg(feature = "native")]
pub mod model;
#[cfg(feature = "native")]
mod model_shadow;
#[cfg(feature = "native")]
mod model_state;
pub mod on_demand;
#[cfg(feature = "native")]
mod outcome;
#[cfg(feature = "native")]
pub mod overdue;
#[cfg(feature = "native")]
pub mod protocol;
#[cfg(feature = "native")]
mod refusals;
#[cfg(feature = "native")]
pub mod repository;
#[cfg(feature = "native")]
mod run;
#[cfg(feature = "native")]
pub mod schedule;
#[cfg(feature = "native")]
pub mod shadow;
#[cfg(feature = "native")]
pub mod stats;
pub mod tensor;
#[cfg(feature = "native")]
pub mod trial;
#[cfg(feature = "native")]
mod trials;
#[cfg(feature = "native")]
pub mod worker;

pub use backend::{
    Backend, Backends, Cost, Dim, Graph, GraphSource, Instance, Interrupt, LoadOptions, Port,
    PortType, RUN_MEMORY_BYTES, Reads, Rows, Session,
};
pub use call::for_wasi_nn;
pub use error::{EngineRefusal, ErrorCode, NnError};
pub use layout::Unavailable;
#[cfg(feature = "native")]
pub use model::{CallOptions, Model, SharedRuns, Stats};
#[cfg(feature = "native")]
pub use repository::{Handle, Lease, Repository, Settings, Snapshot, State};
pub use tensor::{NnTensor, TensorType};
