//! The nouns every room shares, and nothing that decides.
//!
//! * [`problem`]: the one catalogue of errors and how each is rendered;
//! * [`route_kind`]: the kinds of routes, as policies name them;
//! * [`violation`]: one thing wrong with a request's body, with its place;
//! * [`negotiate`]: which representation an `Accept` header asks for;
//! * [`grpc`]: statuses and framing of gRPC;
//! * [`headers`]: names of headers that several rooms act upon;
//! * [`ids`]: newtypes for the names and ids that travel between rooms;
//! * [`caller`]: who is calling;
//! * [`clock`]: time as a parameter;
//! * [`kv`]: storage as a parameter;
//! * [`nn_data`]: what components and our host tell each other through `wasi:nn`;
//! * [`model_store`]: the models of our host, as components see them through `wasi:keyvalue`.
//!
//! This crate compiles for the host and for WebAssembly and does no input or output.

pub mod caller;
pub mod clock;
pub mod grpc;
pub mod headers;
pub mod ids;
pub mod json;
pub mod kv;
pub mod model_store;
pub mod negotiate;
pub mod nn_data;
pub mod problem;
pub mod route_kind;
pub mod violation;

pub use caller::Caller;
pub use clock::Clock;
pub use grpc::GrpcStatus;
pub use ids::{ModelName, ModelVersion, PredictionId, RequestId};
pub use kv::{Kv, KvError};
pub use negotiate::ErrorStyle;
pub use nn_data::{GraphName, GraphOptions, NnData, NnWord, ShadowTensor};
pub use problem::{Code, Problem};
pub use route_kind::RouteKind;
pub use violation::Violation;
