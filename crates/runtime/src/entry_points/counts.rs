//! Counts instances: those that were made, those that live, and those that ended in a trap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of instances since the start: made, dropped and trapped.
#[derive(Debug, Default)]
pub struct InstanceCounts {
    created: AtomicU64,
    dropped: AtomicU64,
    trapped: AtomicU64,
}

impl InstanceCounts {
    /// Instances made since the start.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Instances that exist now.
    pub fn live(&self) -> u64 {
        self.created()
            .saturating_sub(self.dropped.load(Ordering::Relaxed))
    }

    /// Requests that ended in a trap.
    pub fn trapped(&self) -> u64 {
        self.trapped.load(Ordering::Relaxed)
    }

    pub(super) fn note_trap(&self) {
        self.trapped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one instance for as long as it lives.
pub(super) struct Counted(pub(super) Arc<InstanceCounts>);

impl Counted {
    pub(super) fn new(counts: &Arc<InstanceCounts>) -> Self {
        counts.created.fetch_add(1, Ordering::Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
