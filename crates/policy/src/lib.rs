//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * [`quota`]: how much each caller may use, and what they are told about it;
//! * [`sweep`]: when entries nobody needs any more are deleted.

pub mod quota;
pub mod sweep;
