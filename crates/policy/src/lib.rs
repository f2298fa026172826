//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * [`document`]: where each finds its settings;
//! * [`idempotency`]: whether a call that may be a repetition is run, replayed or refused;
//! * [`sweep`]: when entries nobody needs any more are deleted;
//! * [`usage`]: what is counted of each call.

pub mod document;
pub mod idempotency;
pub mod sweep;
pub mod usage;
