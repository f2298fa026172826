//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * `auth` (feature `auth`): who calls, and whether they may;
//! * [`document`]: where each finds its settings;
//! * [`quota`]: how much each caller may use, and what they are told about it;
//! * [`idempotency`]: whether a call that may be a repetition is run, replayed or refused;
//! * [`usage`]: what is counted of each call;
//! * [`sweep`]: when entries nobody needs any more are deleted.

#[cfg(feature = "auth")]
pub mod auth;
pub mod document;
pub mod idempotency;
pub mod quota;
pub mod sweep;
pub mod usage;
