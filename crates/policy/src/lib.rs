//! The decisions: one module per policy, each over ports for storage, time and randomness.
