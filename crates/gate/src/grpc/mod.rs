//! Calls over gRPC, as both doors hand them over: a POST whose path is the method, whose headers are the metadata and
//! whose body is one message without its frame. The answer is one message, or none, with `grpc-status` among its headers;
//! who called the door frames it and ends the call (`penstock_core::grpc`).
//!
//! * [`service`]: which method a path is, and what a message of it asks for;
//! * `serve`: which route that is, and its answer as a message;
//! * [`decode`]: an inference request to tensors, over [`wire`];
//! * [`encode`]: answers to messages;
//! * [`status`]: errors to statuses;
//! * [`reflection`]: what a client is told of the services.

pub mod decode;
pub mod encode;
pub mod reflection;
pub(crate) mod serve;
pub mod service;
pub mod status;
pub mod wire;

pub use decode::{Decoded, decode_infer};
pub use encode::{Form, Inference, encode_infer};
pub use service::{Method, RpcRequest, asked};
