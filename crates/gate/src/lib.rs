//! The gate's logic: which steps a request takes, in which order the policies see it, and how the answer is written. It is a
//! library over plain records and [`ports`], so the same code runs natively in tests with fakes and in WebAssembly behind
//! either entry point.
//!
//! From the entry down; no file imports one above it:
//!
//! * [`gate`]: the entry, and what an instance keeps;
//! * `pipeline`: the steps of a request, and those of a call of a model;
//! * `surface`: what calls look like, one file a surface;
//! * `describe`: everything that calls no model: readiness, models, usage, the repository;
//! * `run`: runs of a model, the cache and an adapter's preparation;
//! * `call`: a call, and what it has cost;
//! * `version`: the version that a request asks for;
//! * `policies`: the operator's policies, opened;
//! * [`catalogue`]: which models and versions exist;
//! * `rollout`: which version answers, and whether a canary goes on;
//! * `exchange`: a request, and what is known of its answer;
//! * `problem`: how problems are rendered, and those that several files need;
//! * [`openapi`]: the description of the API, made from contracts;
//! * [`page`]: the page to read and try the API;
//! * [`answer`]: bodies of answers;
//! * [`oip`]: contracts as model configurations;
//! * [`grpc`]: calls over gRPC;
//! * [`representation`]: how answers go out: compressed, tagged, or not at all;
//! * [`coding`]: compressed bodies;
//! * `cors`: what browsers are told about pages of other origins;
//! * `disclose`: how much of a model's answer goes out;
//! * [`connection`]: what is believed of a request's way;
//! * [`trail`]: what the audit log is told;
//! * [`route`]: path and method to route;
//! * `options`: what the query of a call asks for;
//! * [`record`]: a request and an answer;
//! * [`ports`]: what the gate needs from outside.

pub mod answer;
mod call;
pub mod catalogue;
pub mod coding;
pub mod connection;
mod cors;
mod describe;
mod disclose;
mod exchange;
pub mod gate;
pub mod grpc;
mod instance;
pub mod oip;
pub mod openapi;
mod options;
pub mod page;
mod pipeline;
mod policies;
pub mod ports;
mod problem;
pub mod record;
pub mod representation;
mod rollout;
pub mod route;
mod run;
mod surface;
pub mod trail;
mod version;

pub use gate::Gate;
pub use record::{Header, Request, Response};
