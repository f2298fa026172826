//! The types that all crates share. Nothing here makes decisions of a policy.
//!
//! * [`problem`]: the one catalogue of errors and how each is rendered;
//! * [`error_forms`]: the bodies of errors;
//! * [`route_kind`]: the kinds of routes, as policies name them;
//! * [`violation`]: one fault of a request's body, with its place;
//! * [`negotiate`]: which representation an `Accept` header asks for;
//! * [`grpc`]: statuses and framing of gRPC;
//! * [`headers`]: names of headers that several crates use;
//! * [`ids`]: newtypes for names and ids;
//! * [`caller`]: the caller of a request;
//! * [`clock`]: time as a parameter;
//! * [`kv`]: storage as a parameter;
//! * [`metrics`]: the counters of a server, their bounds and their text;
//! * [`nn_data`]: the data that components and our host exchange through `wasi:nn`;
//! * [`model_store`]: the models of our host, as components see them through `wasi:keyvalue`.
//!
//! This crate compiles for the host and for WebAssembly and does no input or output.

pub mod caller;
pub mod clock;
pub mod error_forms;
pub mod grpc;
pub mod headers;
pub mod ids;
pub mod json;
pub mod kv;
pub mod metrics;
pub mod model_store;
pub mod negotiate;
pub mod nn_data;
pub mod problem;
pub mod route_kind;
pub mod violation;

pub use caller::Caller;
pub use clock::Clock;
pub use grpc::GrpcStatus;
pub use ids::{BatchId, FileId, ModelName, ModelVersion, OperationId, PredictionId, RequestId};
pub use kv::{Kv, KvError};
pub use negotiate::ErrorStyle;
pub use nn_data::{GraphName, GraphOptions, NnData, NnWord, ShadowTensor};
pub use problem::{Code, Problem};
pub use route_kind::RouteKind;
pub use violation::Violation;
