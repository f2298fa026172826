//! `[instances]` of `penstock.toml`.

use penstock_policy::document::DEFAULT_MEMORY_BYTES;
use serde::Deserialize;

/// `[instances]`: what one instance may use and how many there are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceSettings {
    /// Instances at once; each serves one request at a time. Requests beyond it wait.
    pub count: u32,
    /// Requests an instance serves before it is replaced, so that no leak outlives it.
    pub max_reuse: u32,
    /// Bytes each memory of an instance may grow to (one memory for each policy).
    pub memory_bytes: usize,
    /// Milliseconds of computing one request may use in WebAssembly, models not counted.
    pub cpu_time_ms: u64,
}

impl Default for InstanceSettings {
    fn default() -> Self {
        Self {
            count: 64,
            max_reuse: 10_000,
            memory_bytes: DEFAULT_MEMORY_BYTES as usize,
            cpu_time_ms: 10_000,
        }
    }
}
