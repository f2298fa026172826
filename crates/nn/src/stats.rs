//! The counters of a model version, in the terms of the Open Inference Protocol's statistics extension, and the
//! recording of times. Always on: a call costs a few additions under a lock that it takes anyway.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::backend::ProcessStats;
use crate::histogram::Histogram;
use crate::shadow::ShadowStats;

/// Batch sizes up to this are counted one by one, larger ones by the power of two above them, so that there are
/// at most about sixty rows.
const EXACT_SIZES: u32 = 32;

/// The counts and times of runs of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Number of runs of this size.
    pub count: u64,
    /// Time spent putting inputs together.
    pub compute_input_ns: u64,
    /// Time spent in the backend.
    pub compute_infer_ns: u64,
    /// Time spent taking outputs apart.
    pub compute_output_ns: u64,
}

/// Calls that did not run, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Their inputs do not fit the model.
    pub invalid: u64,
    /// The queue was full when they came.
    pub queue_full: u64,
    /// A call of higher priority took the place.
    pub displaced: u64,
    /// The queue was too long for the deadline.
    pub shed: u64,
    /// The deadline passed, before the call came, in the queue, or while it ran.
    pub deadline: u64,
    /// The caller went away while it waited.
    pub cancelled: u64,
    /// The model takes no calls any more.
    pub not_ready: u64,
}

impl Refusals {
    /// Calls that were sound and were turned away.
    pub fn refused(&self) -> u64 {
        self.queue_full + self.displaced + self.shed + self.deadline + self.not_ready
    }
}

/// The statistics of a model version since it was loaded. `inference_count` and `execution_count` have the meaning of
/// the statistics extension: items that were inferred, and runs of the graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Number of inferred items: a call's first dimension where every input begins with a symbolic one, else 1 a call.
    pub inference_count: u64,
    /// Runs of the graph that succeeded.
    pub execution_count: u64,
    /// Number of calls that were answered.
    pub success: u64,
    /// Calls that failed when they ran.
    pub failures: u64,
    /// Time from arrival to failure, the sum over these calls.
    pub failures_ns: u64,
    /// Runs that failed, including runs of several calls that were tried again in parts.
    pub failed_executions: u64,
    /// Calls that did not run, by reason.
    pub refusals: Refusals,
    /// The time that calls waited, for an instance or for other calls.
    pub queue: Histogram,
    /// The time of their runs in the backend.
    pub compute: Histogram,
    /// The time from arrival to answer.
    pub total: Histogram,
    /// Time spent putting inputs together, by run.
    pub compute_input_ns: u64,
    /// Time spent in the backend, failed runs included, by run.
    pub compute_infer_ns: u64,
    /// Time spent taking outputs apart, by run.
    pub compute_output_ns: u64,
    /// Time spent putting inputs together, by call: a run's is each of its calls'.
    pub calls_input_ns: u64,
    /// Time spent taking outputs apart, by call.
    pub calls_output_ns: u64,
    /// Runs that succeeded by their items; above 32 under the power of two above.
    pub batches: BTreeMap<u32, BatchStats>,
    /// The time of the last answer.
    pub last_inference: Option<SystemTime>,
    /// Number of runs under way.
    pub running: usize,
    /// Number of calls in these runs.
    pub in_flight: usize,
    /// Number of calls in the queue.
    pub waiting: usize,
    /// The queue delay at present, which adapts.
    pub queue_delay: Duration,
    /// Most items of a shared run at present; 1 if calls do not share runs.
    pub most_items: u32,
    /// Runs that did not end although they were interrupted, and whose instance another took; see [`crate::overdue`].
    pub lost: u64,
    /// Runs that do not end at present: lost ones, and those that keep their instance because too many are lost.
    pub overdue: usize,
    /// Shadow runs; the other counters leave them out.
    pub shadow: ShadowStats,
    /// The process that the model runs in, if it is not the server's.
    pub process: Option<ProcessStats>,
}

impl Stats {
    pub(crate) fn ran(&mut self, items: u32, batch: BatchStats) {
        self.execution_count += 1;
        self.inference_count += u64::from(items);
        let size = if items <= EXACT_SIZES {
            items
        } else {
            items.checked_next_power_of_two().unwrap_or(u32::MAX)
        };
        let row = self.batches.entry(size).or_default();
        row.count += batch.count;
        row.compute_input_ns += batch.compute_input_ns;
        row.compute_infer_ns += batch.compute_infer_ns;
        row.compute_output_ns += batch.compute_output_ns;
    }
}

/// The statistics of one version.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionStats {
    /// The name of the model.
    pub model: String,
    /// The number of the version.
    pub version: u64,
    /// The counts; empty if the version is not in memory.
    pub stats: Stats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_sizes_there_are_the_rows_stay_few() {
        let mut stats = Stats::default();
        for items in 1..100_000 {
            let batch = BatchStats {
                count: 1,
                ..BatchStats::default()
            };
            stats.ran(items, batch);
        }
        assert!(stats.batches.len() < 64, "{}", stats.batches.len());
        assert_eq!(stats.batches[&64].count, 32);
    }
}
