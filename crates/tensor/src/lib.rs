//! Tensors, model contracts, and their JSON codecs. This crate decides whether the content of a request fits a model. It
//! knows nothing of callers.
//!
//! * [`content`]: the content that an adapter turns into tensors, and the adapter's next step;
//! * [`datatype`], [`tensor`]: the element types and tensors of the Open Inference Protocol (OIP v2);
//! * [`contract`]: `models/<name>/model.toml`, parsed strictly and checked;
//! * [`json`]: a strict pull scanner for untrusted bytes, and [`number`]: correctly rounded decimals;
//! * [`predict`], [`infer`]: the two request forms, parsed in one pass into tensors;
//! * [`buffer`]: bytes that lie here, or that the host holds;
//! * [`batch`]: joins the tensors of requests, and splits outputs;
//! * [`check`]: the contract checks on finished tensors, which come from an adapter or a model;
//! * [`finite`]: whether numbers are finite; [`outputs`]: whether a run's outputs meet the contract;
//! * [`explain`]: the runs that explain one answer, and the explanation;
//! * [`rejection`]: the report of a refused request;
//! * [`render`]: tensors and answers written as JSON.
//!
//! The crate reads no clock and does no input or output. It has no hash table with keys of clients, so it needs no
//! randomness and runs unchanged in WebAssembly. No request makes it panic. Its allocations are bounded by the bytes that
//! have arrived, never by a claimed size.

#![forbid(unsafe_code)]

mod append;
pub mod batch;
pub mod binary;
pub mod buffer;
pub mod check;
pub mod classification;
pub mod content;
pub mod contract;
pub mod datatype;
mod excerpt;
pub mod explain;
pub mod finite;
pub mod fp8;
pub mod generate;
pub mod infer;
pub mod json;
pub mod number;
pub mod outputs;
pub mod parameters;
pub mod predict;
pub mod rejection;
pub mod render;
mod rule;
pub mod tensor;
mod values;

pub use penstock_core::{ModelName, ModelVersion};

pub use buffer::{Buffer, HostBytes, Place};
pub use check::{check_outputs, check_tensors, check_tensors_at};
pub use contract::{Contract, ContractFault, TensorSpec};
pub use datatype::Datatype;
pub use infer::{BinaryInput, InferRequest, OutputRequest, parse_infer};
pub use parameters::Unknown;
pub use predict::{PredictRequest, parse_predict};
pub use rejection::Rejection;
pub use rule::ValueRule;
pub use tensor::Tensor;
pub use values::{MAX_ID_BYTES, ParameterValue};
