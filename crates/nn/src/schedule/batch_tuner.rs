//! Decides the queue delay and the batch size. Both adapt as Clipper's batch sizes do: they grow slowly while that
//! pays, and shrink fast as soon as it does not.
//!
//! - **A queue delay pays if a call arrives during it.** It is never longer than the setting, and never longer than the
//!   fixed cost of a run, because one shared run saves no more than that. A model without a fixed cost has no queue
//!   delay.
//! - **A batch is as large as the latency target allows.** Without a target it is as large as the setting allows.

use super::limits::Limits;
use super::queue::Nanos;
use super::run_time::RunTimeEstimate;

/// The queue delay grows in steps of this part of its maximum.
const STEPS: u64 = 16;
/// Batches of several calls without a queue delay, after which one is tried.
const PROBE_EVERY: u32 = 16;
/// A batch that took too long makes the next ones smaller by this part.
const SHRINK_BY: u32 = 10;

/// The queue delay and batch size learnt from the runs so far.
#[derive(Debug, Clone)]
pub struct BatchTuner {
    max_queue_delay: Nanos,
    max_items: u32,
    target: Option<Nanos>,
    queue_delay: Nanos,
    most_items: u32,
    /// Calls in the queue when the present delay began; `None` without a delay.
    delayed_calls: Option<usize>,
    /// Batches of several calls since the last delay.
    undelayed: u32,
}

impl BatchTuner {
    /// Makes a tuner that has learnt nothing yet: there is no queue delay, and batches have the largest size.
    pub fn new(limits: &Limits) -> Self {
        Self {
            max_queue_delay: limits.max_queue_delay,
            max_items: limits.max_items.max(1),
            target: limits.target,
            queue_delay: 0,
            most_items: limits.max_items.max(1),
            delayed_calls: None,
            undelayed: 0,
        }
    }

    /// The queue delay of the next run.
    pub fn queue_delay(&self, run_time: &RunTimeEstimate) -> Nanos {
        self.queue_delay.min(self.longest(run_time))
    }

    /// The most items of the next run.
    pub fn most_items(&self) -> u32 {
        self.most_items
    }

    /// Notes that a delay begins while so many calls wait.
    pub fn delay_begins(&mut self, calls: usize) {
        self.delayed_calls.get_or_insert(calls);
    }

    /// Drops a delay whose calls are gone, because it says nothing about the next run.
    pub fn forget_delay(&mut self) {
        self.delayed_calls = None;
    }

    /// Learns from a run that begins with `calls` of the `waited` calls in the queue. Returns whether it was delayed.
    pub fn cut(
        &mut self,
        waited: usize,
        calls: usize,
        full: bool,
        run_time: &RunTimeEstimate,
    ) -> bool {
        let step = (self.max_queue_delay / STEPS).max(1);
        let Some(before) = self.delayed_calls.take() else {
            // A delay might have paid. Only a trial can tell.
            if calls > 1 && !full && self.queue_delay < step {
                self.undelayed += 1;
                if self.undelayed >= PROBE_EVERY {
                    self.undelayed = 0;
                    self.queue_delay = step.min(self.max_queue_delay);
                }
            }
            return false;
        };
        if waited > before {
            self.queue_delay = (self.queue_delay + step).min(self.longest(run_time));
        } else {
            self.shorten(step);
        }
        true
    }

    /// Learns from a run that ended. `took` includes its queue delay.
    pub fn ran(&mut self, took: Nanos, items: u32) {
        let Some(target) = self.target else { return };
        if took > target {
            self.most_items = (self.most_items - self.most_items.div_ceil(SHRINK_BY)).max(1);
            self.shorten((self.max_queue_delay / STEPS).max(1));
        } else if items >= self.most_items {
            self.most_items = (self.most_items + 1).min(self.max_items);
        }
    }

    fn shorten(&mut self, step: Nanos) {
        self.queue_delay /= 2;
        if self.queue_delay < step {
            self.queue_delay = 0;
        }
    }

    fn longest(&self, run_time: &RunTimeEstimate) -> Nanos {
        self.max_queue_delay.min(run_time.fixed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(target: Option<Nanos>) -> Limits {
        Limits {
            instances: 1,
            queue_max: 8,
            levels: 1,
            max_items: 32,
            max_bytes: u64::MAX,
            max_tokens: None,
            preferred: vec![],
            max_queue_delay: 1_600_000,
            target,
        }
    }

    /// Runs that cost 1 ms and 1 µs a byte.
    fn run_time() -> RunTimeEstimate {
        let mut run_time = RunTimeEstimate::default();
        for round in 0..100 {
            let bytes = 100 + 100 * (round % 4);
            run_time.observe(1_000_000 + 1000 * bytes, bytes);
        }
        run_time
    }

    #[test]
    fn a_queue_delay_is_tried_now_and_then_grows_while_it_pays_and_halves_when_it_does_not() {
        let (mut batch_tuner, run_time) = (BatchTuner::new(&limits(None)), run_time());
        assert_eq!(batch_tuner.queue_delay(&run_time), 0);
        for _ in 0..PROBE_EVERY {
            assert!(!batch_tuner.cut(4, 4, false, &run_time));
        }
        assert_eq!(batch_tuner.queue_delay(&run_time), 100_000);
        for round in 2..=5 {
            batch_tuner.delay_begins(3);
            assert!(batch_tuner.cut(4, 4, false, &run_time));
            assert_eq!(batch_tuner.queue_delay(&run_time), round * 100_000);
        }
        batch_tuner.delay_begins(3);
        batch_tuner.cut(3, 3, false, &run_time);
        assert_eq!(batch_tuner.queue_delay(&run_time), 250_000);
        for _ in 0..2 {
            batch_tuner.delay_begins(3);
            batch_tuner.cut(3, 3, false, &run_time);
        }
        assert_eq!(batch_tuner.queue_delay(&run_time), 0);
    }

    #[test]
    fn a_queue_delay_is_never_longer_than_what_it_can_save() {
        let (mut batch_tuner, run_time) = (BatchTuner::new(&limits(None)), run_time());
        for _ in 0..PROBE_EVERY {
            batch_tuner.cut(4, 4, false, &run_time);
        }
        for _ in 0..100 {
            batch_tuner.delay_begins(1);
            batch_tuner.cut(2, 2, false, &run_time);
        }
        let queue_delay = batch_tuner.queue_delay(&run_time);
        assert!(
            (900_000..=1_100_000).contains(&queue_delay),
            "{queue_delay}"
        );
        assert_eq!(batch_tuner.queue_delay(&RunTimeEstimate::default()), 0);
    }

    #[test]
    fn runs_shrink_quickly_above_the_target_and_grow_slowly_below_it() {
        let mut batch_tuner = BatchTuner::new(&limits(Some(1_000_000)));
        assert_eq!(batch_tuner.most_items(), 32);
        batch_tuner.ran(2_000_000, 32);
        assert_eq!(batch_tuner.most_items(), 28);
        for _ in 0..100 {
            batch_tuner.ran(2_000_000, 1);
        }
        assert_eq!(batch_tuner.most_items(), 1);
        batch_tuner.ran(500_000, 1);
        assert_eq!(batch_tuner.most_items(), 2);
        batch_tuner.ran(500_000, 1);
        assert_eq!(
            batch_tuner.most_items(),
            2,
            "a run that was not full says nothing"
        );
    }

    #[test]
    fn without_a_target_runs_stay_as_large_as_they_may_be() {
        let mut batch_tuner = BatchTuner::new(&limits(None));
        batch_tuner.ran(u64::MAX, 32);
        assert_eq!(batch_tuner.most_items(), 32);
    }
}
