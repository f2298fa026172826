//! `[instances]` of `penstock.toml`.

use penstock_policy::document::DEFAULT_MEMORY_BYTES;
use serde::Deserialize;

/// The section `[instances]`: the number of instances and the limits of each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceSettings {
    /// Instances that exist at once. Each serves one request at a time. More requests wait.
    pub count: u32,
    /// Requests that an instance serves before it is replaced, which ends its leaks.
    pub max_reuse: u32,
    /// Largest size in bytes of each memory of an instance (one memory per policy).
    pub memory_bytes: usize,
    /// Milliseconds of computing time of one request in WebAssembly, without models.
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
