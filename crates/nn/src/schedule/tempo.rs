//! Decides how long a run is held for calls that may come, and how large it may be. Both adapt as Clipper's batch
//! sizes do: a little more while it pays, much less as soon as it does not.
//!
//! - **A hold pays where a call joined meanwhile.** It is never longer than the setting, and never longer than
//!   what every run costs whatever its size: that is all that joining two runs can save. A model whose runs cost
//!   in proportion to their items is never held.
//! - **A run may be as large as keeps it within the latency target**; without a target, as large as the setting.

use super::limits::Limits;
use super::pace::Pace;
use super::queue::Nanos;

/// A hold grows by one part in so many of the longest.
const STEPS: u64 = 16;
/// Runs of several calls without a hold, until one is tried.
const PROBE_EVERY: u32 = 16;
/// A run that took too long makes the next ones smaller by one part in so many.
const SHRINK_BY: u32 = 10;

/// What has been learnt.
#[derive(Debug, Clone)]
pub struct Tempo {
    max_wait: Nanos,
    max_items: u32,
    target: Option<Nanos>,
    hold: Nanos,
    most_items: u32,
    /// Calls in the queue when the hold began, while there is one.
    holding: Option<usize>,
    unheld: u32,
}

impl Tempo {
    /// Nothing learnt yet: no hold, runs as large as they may be.
    pub fn new(limits: &Limits) -> Self {
        Self {
            max_wait: limits.max_wait,
            max_items: limits.max_items.max(1),
            target: limits.target,
            hold: 0,
            most_items: limits.max_items.max(1),
            holding: None,
            unheld: 0,
        }
    }

    /// How long a run may be held now.
    pub fn hold(&self, pace: &Pace) -> Nanos {
        self.hold.min(self.longest(pace))
    }

    /// Most items of a run now.
    pub fn most_items(&self) -> u32 {
        self.most_items
    }

    /// Notes that the queue is held with so many calls in it.
    pub fn holds(&mut self, calls: usize) {
        self.holding.get_or_insert(calls);
    }

    /// Notes that those it was held for are gone: it says nothing about the next run.
    pub fn forget_hold(&mut self) {
        self.holding = None;
    }

    /// Learns from a run that begins, with so many of those that waited; says whether it had been held.
    pub fn cut(&mut self, waited: usize, calls: usize, full: bool, pace: &Pace) -> bool {
        let step = (self.max_wait / STEPS).max(1);
        let Some(before) = self.holding.take() else {
            // It could have been held, and nobody knows whether that would have paid.
            if calls > 1 && !full && self.hold < step {
                self.unheld += 1;
                if self.unheld >= PROBE_EVERY {
                    self.unheld = 0;
                    self.hold = step.min(self.max_wait);
                }
            }
            return false;
        };
        if waited > before {
            self.hold = (self.hold + step).min(self.longest(pace));
        } else {
            self.shorten(step);
        }
        true
    }

    /// Learns from a run that ended, with what it and the hold before it took.
    pub fn ran(&mut self, took: Nanos, items: u32) {
        let Some(target) = self.target else { return };
        if took > target {
            self.most_items = (self.most_items - self.most_items.div_ceil(SHRINK_BY)).max(1);
            self.shorten((self.max_wait / STEPS).max(1));
        } else if items >= self.most_items {
            self.most_items = (self.most_items + 1).min(self.max_items);
        }
    }

    fn shorten(&mut self, step: Nanos) {
        self.hold /= 2;
        if self.hold < step {
            self.hold = 0;
        }
    }

    fn longest(&self, pace: &Pace) -> Nanos {
        self.max_wait.min(pace.fixed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(target: Option<Nanos>) -> Limits {
        Limits {
            lanes: 1,
            queue_max: 8,
            levels: 1,
            max_items: 32,
            max_bytes: u64::MAX,
            max_tokens: None,
            preferred: vec![],
            max_wait: 1_600_000,
            target,
        }
    }

    /// Runs that cost 1 ms and 1 µs a byte.
    fn pace() -> Pace {
        let mut pace = Pace::default();
        for round in 0..100 {
            let bytes = 100 + 100 * (round % 4);
            pace.observe(1_000_000 + 1000 * bytes, bytes);
        }
        pace
    }

    #[test]
    fn a_hold_is_tried_now_and_then_grows_while_it_pays_and_halves_when_it_does_not() {
        let (mut tempo, pace) = (Tempo::new(&limits(None)), pace());
        assert_eq!(tempo.hold(&pace), 0);
        for _ in 0..PROBE_EVERY {
            assert!(!tempo.cut(4, 4, false, &pace));
        }
        assert_eq!(tempo.hold(&pace), 100_000);
        for round in 2..=5 {
            tempo.holds(3);
            assert!(tempo.cut(4, 4, false, &pace));
            assert_eq!(tempo.hold(&pace), round * 100_000);
        }
        tempo.holds(3);
        tempo.cut(3, 3, false, &pace);
        assert_eq!(tempo.hold(&pace), 250_000);
        for _ in 0..2 {
            tempo.holds(3);
            tempo.cut(3, 3, false, &pace);
        }
        assert_eq!(tempo.hold(&pace), 0);
    }

    #[test]
    fn a_hold_is_never_longer_than_what_it_can_save() {
        let (mut tempo, pace) = (Tempo::new(&limits(None)), pace());
        for _ in 0..PROBE_EVERY {
            tempo.cut(4, 4, false, &pace);
        }
        for _ in 0..100 {
            tempo.holds(1);
            tempo.cut(2, 2, false, &pace);
        }
        let hold = tempo.hold(&pace);
        assert!((900_000..=1_100_000).contains(&hold), "{hold}");
        assert_eq!(tempo.hold(&Pace::default()), 0);
    }

    #[test]
    fn runs_shrink_quickly_above_the_target_and_grow_slowly_below_it() {
        let mut tempo = Tempo::new(&limits(Some(1_000_000)));
        assert_eq!(tempo.most_items(), 32);
        tempo.ran(2_000_000, 32);
        assert_eq!(tempo.most_items(), 28);
        for _ in 0..100 {
            tempo.ran(2_000_000, 1);
        }
        assert_eq!(tempo.most_items(), 1);
        tempo.ran(500_000, 1);
        assert_eq!(tempo.most_items(), 2);
        tempo.ran(500_000, 1);
        assert_eq!(
            tempo.most_items(),
            2,
            "a run that was not full says nothing"
        );
    }

    #[test]
    fn without_a_target_runs_stay_as_large_as_they_may_be() {
        let mut tempo = Tempo::new(&limits(None));
        tempo.ran(u64::MAX, 32);
        assert_eq!(tempo.most_items(), 32);
    }
}
