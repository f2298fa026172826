//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * [`auth`] (what decides: feature `auth`): which caller a request is from, and whether it may go on;
//! * [`cache`]: which results are kept, and who runs what many ask at the same time;
//! * [`cors`]: which pages of other origins may read answers;
//! * [`custom`]: a policy of the operator's own;
//! * [`disclosure`]: how much of a model's scores goes out;
//! * [`document`]: where each finds its settings;
//! * [`quota`]: how much each caller may use, and what they are told about it;
//! * [`idempotency`]: whether a call that may be a repetition is run, replayed or refused;
//! * [`rollout`]: which version of a model answers, and when a canary ends;
//! * [`services`]: the services of all policies, as the gate is given them;
//! * [`usage`]: what is counted of each call;
//! * [`pattern`]: which names an operator's `*` stands for;
//! * [`sweep`]: when entries nobody needs any more are deleted.

pub mod auth;
pub mod cache;
pub mod cors;
pub mod custom;
pub mod disclosure;
pub mod document;
pub mod idempotency;
pub mod pattern;
pub mod quota;
pub mod rollout;
pub mod services;
pub mod sweep;
pub mod usage;
pub mod validation;
