//! The limits that a scheduler keeps.

use super::queue::Nanos;

/// The limits of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The number of instances, each with one run at a time.
    pub instances: usize,
    /// The number of calls that may wait.
    pub queue_max: usize,
    /// Number of levels of priority.
    pub levels: u8,
    /// Most items of a run that several calls share.
    pub max_items: u32,
    /// Most bytes of such a run's inputs, padding included.
    pub max_bytes: u64,
    /// Most elements along the padded axis of such a run: items times the longest.
    pub max_tokens: Option<u64>,
    /// The batch sizes that a run should have, ascending.
    pub preferred: Vec<u32>,
    /// The longest queue delay, in nanoseconds.
    pub max_queue_delay: Nanos,
    /// The target for the latency: batches shrink when a run and its queue delay take longer.
    pub target: Option<Nanos>,
}
