//! Tensors, model contracts, and the JSON codecs between them and the outside: everything that
//! decides whether what a stranger sent is what a model takes, and nothing about who the stranger is.
//!
//! * [`content`]: content that an adapter makes tensors of, and what the adapter wants done with them;
//! * [`datatype`], [`tensor`]: the element types and tensors of the Open Inference Protocol (OIP v2);
//! * [`contract`]: `models/<name>/model.toml`, parsed strictly and checked for sense;
//! * [`json`]: a strict pull scanner over untrusted bytes, and [`number`], correctly rounded decimals;
//! * [`predict`], [`infer`]: the two request forms, parsed in one pass into tensors;
//! * [`batch`]: requests put together, and outputs taken apart;
//! * [`check`]: the contract checks on finished tensors, for those that come from an adapter or a model;
//! * [`finite`]: whether numbers are finite; [`outputs`]: whether a run's outputs are what the contract says;
//! * [`explain`]: what a model is asked so that one answer of it is explained, and what follows from the answers;
//! * [`rejection`]: what a refused request is answered with;
//! * [`render`]: tensors and answers written as JSON.
//!
//! The crate reads no clock, does no input or output, and keeps nothing keyed by strangers' strings
//! in a hash table, so it runs unchanged in WebAssembly without randomness. No byte a client sends
//! can make it panic, and what it allocates is bounded by what has arrived, never by what is claimed.

#![forbid(unsafe_code)]

pub mod batch;
pub mod binary;
pub mod check;
pub mod classification;
pub mod content;
pub mod contract;
pub mod datatype;
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
pub mod tensor;
mod values;

pub use penstock_core::{ModelName, ModelVersion};

pub use check::{check_outputs, check_tensors, check_tensors_at};
pub use contract::{Contract, ContractFault, TensorSpec};
pub use datatype::Datatype;
pub use infer::{BinaryInput, InferRequest, OutputRequest, parse_infer};
pub use parameters::Unknown;
pub use predict::{PredictRequest, parse_predict};
pub use rejection::Rejection;
pub use tensor::Tensor;
pub use values::{MAX_ID_BYTES, ParameterValue};
