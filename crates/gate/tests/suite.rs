//! The tests of this crate, as one binary; Cargo.toml names the one that is alone in its process.

mod auth;
mod cache;
mod coding;
mod conformance;
mod cors;
mod custom;
mod disclosure;
mod explain;
mod gate;
mod grpc;
mod grpc_messages;
mod oip;
mod openapi;
mod operations;
mod policies;
mod properties;
mod repository;
mod representation;
mod rollout;
mod surfaces;
mod texts;
mod webhooks;
