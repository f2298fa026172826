//! The interface to a runtime: load a graph, describe its inputs and outputs, and run it. Tasks that a backend is not
//! trusted with (waiting, refusing, counting, catching its panics, checking a guest's tensors) are done once, in
//! [`crate::model`].

pub(crate) mod cost;
mod graph;
mod message;
pub mod names;
mod onnx_file;
#[cfg(feature = "native")]
pub mod onnxruntime;
#[cfg(feature = "native")]
pub mod openvino;
mod operators;
mod options;
#[cfg(feature = "native")]
mod packed;
mod port;
#[cfg(feature = "native")]
mod quiet;
mod registry;
mod rows;
#[cfg(any(test, feature = "scripted"))]
pub mod scripted;
mod session;
pub mod tract;
pub mod versions;

pub use cost::Cost;
pub use graph::Graph;
#[cfg(feature = "native")]
pub(crate) use message::panic_text;
pub use names::{AUTO, ONNXRUNTIME, OPENVINO};
#[cfg(feature = "native")]
pub(crate) use onnx_file::Composed;
pub(crate) use operators::{SAME_LENGTHS, SAME_VALUES};
pub use options::{GraphSource, LoadOptions, QUEUE_MAX, RUN_MEMORY_BYTES};
pub use port::{Dim, Port, PortType};
pub use registry::Backends;
pub use rows::Rows;
#[cfg(feature = "native")]
pub use session::ProcessStats;
pub use session::{Backend, Instance, Interrupt, Session};
pub use versions::Reads;
