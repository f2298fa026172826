//! The tests of this crate, as one binary; Cargo.toml names the one that is alone in its process.

mod gate_common;
mod openapi_common;
mod operations_common;
mod surfaces_common;

mod auth;
mod batches;
mod cache;
mod coding;
mod conformance;
mod cors;
mod custom;
mod disclosure;
mod embeddings;
mod event_streams;
mod explain;
mod gate;
mod gate_http;
mod gate_readiness;
mod grpc;
mod grpc_held;
mod grpc_messages;
mod grpc_operations;
mod oip;
mod openapi;
mod openapi_answers;
mod operations;
mod operations_routes;
mod policies;
mod properties;
mod repository;
mod representation;
mod rollout;
mod surfaces;
mod texts;
mod webhooks;
