//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * [`sweep`]: when entries nobody needs any more are deleted.

pub mod sweep;
