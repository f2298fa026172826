//! Contains the gate's logic: the steps of a request, the order of the policies, and the writing of answers. It is a
//! library over plain records and [`ports`]. The same code therefore runs natively in tests with fakes, and in
//! WebAssembly behind either entry point.
//!
//! The modules, from the entry point down; no file imports one above it:
//!
//! * [`http_entry`]: the bodies of the HTTP entry point, for other hosts;
//! * [`gate`]: the entry point and the state of an instance;
//! * `pipeline`: the steps of a request, and those of a model call;
//! * `surface`: the forms of calls, one file for each surface;
//! * `describe`: routes that call no model: readiness, models, usage, the repository;
//! * `run`: runs of a model, the cache and an adapter's preparation;
//! * `call`: a model call and its cost;
//! * `version`: the version that a request asks for;
//! * `policies`: the operator's policies, opened;
//! * [`catalogue`]: the models and their versions;
//! * `rollout`: the choice of a version, and the health of canaries;
//! * `exchange`: a request and the data of its answer;
//! * `problem`: the rendering of problems, and problems shared by several files;
//! * [`openapi`]: the description of the API, generated from the contracts;
//! * [`page`]: the page on which the API can be read and tried;
//! * [`answer`]: bodies of answers;
//! * [`oip`]: contracts as model configurations;
//! * [`grpc`]: calls over gRPC;
//! * [`representation`]: compression, entity tags and conditional requests;
//! * [`coding`]: compressed bodies;
//! * `cors`: headers for pages of other origins;
//! * [`multipart`]: the form of uploads;
//! * `disclose`: the disclosure rules for a model's outputs;
//! * [`connection`]: the trusted facts about a request's connection;
//! * [`trail`]: the record for the audit log;
//! * `prefer`: the `Prefer` header;
//! * [`route`]: the route of a path and a method;
//! * `options`: the options in the query of a call;
//! * [`record`]: a request and an answer;
//! * [`ports`]: the interfaces that the gate needs from outside.

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
pub mod http_entry;
mod instance;
pub mod multipart;
pub mod oip;
pub mod openapi;
mod options;
pub mod page;
mod pipeline;
mod policies;
pub mod ports;
mod prefer;
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
