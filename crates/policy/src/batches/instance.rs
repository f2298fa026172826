//! The decisions of one instance: the settings, its part of the index, and the operations that are steps.

use super::settings::BatchesSettings;
use super::slice::MAX_SLICE_MS;
use crate::operations::{Operations, OperationsSettings, PERIOD_MS};
use crate::sweep::Index;

/// Shards of the index. There are more than busy instances.
const INDEX_SHARDS: u32 = 16;

/// The decisions of one instance: the settings, its part of the index, and the operations that are steps.
#[derive(Debug)]
pub struct Batches {
    pub(super) settings: BatchesSettings,
    pub(super) index: Index,
    pub(super) steps: Operations,
}

impl Batches {
    /// The decisions under these settings.
    pub fn new(settings: BatchesSettings, operations: OperationsSettings) -> Self {
        let keep_ms = settings.keep_ms();
        Self {
            index: Index::keeping("bx", PERIOD_MS, keep_ms, INDEX_SHARDS),
            steps: Operations::of_steps(operations, keep_ms),
            settings,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &BatchesSettings {
        &self.settings
    }

    /// Whether there are operations, and so steps.
    pub fn can_run(&self) -> bool {
        self.steps.settings().enabled
    }

    /// Milliseconds after which a step begins no further line. Its last line has as long again before the step is interrupted.
    pub fn slice_ms(&self) -> u64 {
        MAX_SLICE_MS.min(self.steps.settings().run_timeout_ms / 2)
    }
}
