//! The gate's logic: which route a request takes, in which order the policies see it, and how the
//! answer is written. It is a library over plain records and [`ports`], so that it runs natively in
//! tests with fakes and in WebAssembly behind either door with the same code.
//!
//! * [`connection`]: what is believed of a request's way;
//! * [`route`]: path and method to route; pure;
//! * `policies`: the operator's policies, opened;
//! * `call`: a call of a model through all of them;
//! * `rollout`: which version answers, and whether a canary goes on;
//! * [`coding`]: compressed bodies;
//! * `cors`: what browsers are told about pages of other origins;
//! * `disclose`: how much of a model's answer goes out;
//! * [`catalogue`]: which models and versions exist;
//! * [`grpc`]: calls over gRPC;
//! * [`gate`]: what each route is answered with;
//! * `repository`: models' statistics, their index, loading and unloading;
//! * [`trail`]: what the audit log is told;
//! * [`oip`]: contracts as model configurations;
//! * [`answer`]: bodies and headers of answers;
//! * [`representation`]: how answers go out: compressed, tagged, or not at all;
//! * [`openapi`]: the description of the API, made from contracts;
//! * [`page`]: the page to read and try the API;
//! * [`ports`]: what the gate needs from outside.

pub mod answer;
mod call;
pub mod catalogue;
pub mod coding;
pub mod connection;
mod cors;
mod disclose;
pub mod gate;
pub mod grpc;
pub mod oip;
pub mod openapi;
pub mod page;
mod policies;
pub mod ports;
pub mod record;
mod repository;
pub mod representation;
mod rollout;
pub mod route;
pub mod trail;

pub use gate::Gate;
pub use record::{Header, Request, Response};
