//! Serves calls over gRPC. Both entry points pass a call as a POST: the path is the method, the headers are the
//! metadata, and the body is one message without its frame. The answer has one message or none, and `grpc-status`
//! among its headers. The caller of the entry point frames the answer and ends the call (`penstock_core::grpc`).
//!
//! * [`service`] finds the method of a path and reads its message;
//! * `serve` maps the method to a route, and the route's answer to a message;
//! * [`decode`] reads an inference request into tensors, with [`wire`];
//! * [`encode`] writes answers as messages;
//! * [`operations`] reads and writes the messages of long-running operations, with [`structs`];
//! * [`status`] maps errors to gRPC statuses;
//! * [`reflection`] describes the services to clients.

pub mod condense;
pub mod decode;
pub mod encode;
pub mod operations;
pub mod reflection;
pub(crate) mod serve;
pub mod service;
pub mod status;
pub mod structs;
pub mod wire;

pub use condense::{Condensed, condense};
pub use decode::{Decoded, decode_condensed, decode_infer};
pub use encode::{Form, Inference, encode_infer};
pub use service::{Method, RpcRequest, asked};
