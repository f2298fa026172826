//! The tests of the whole program, as one binary: each binary compiles `common` and links the host again.
//!
//! `cargo it server::` runs one file. A file whose tests others would disturb has a `[[test]]` of its own in Cargo.toml.
//! `crates/core/tests/house.rs` fails if a file has neither.

mod common;
#[path = "../crates/nn/tests/support/mod.rs"]
mod support;

mod admin;
mod answers;
mod auth;
mod bad_input;
mod batches;
mod batching;
mod check;
mod control;
mod docs;
mod doors;
mod event_streams;
mod examples;
mod grpc;
mod grpc_operations;
mod grpc_streams;
mod hardening;
mod init;
mod isolation;
mod key_value;
mod large;
mod leaving;
mod lifecycle;
mod metrics;
mod models;
mod neighbours;
mod nn_component;
mod nn_contract;
mod operations;
mod restart;
mod rollout;
mod server;
mod sources;
mod state;
mod stuck;
mod texts;
mod tls;
mod tutorial;
mod types;
mod webhooks;
