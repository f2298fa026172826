//! Counts the attempts to deliver webhooks, for metrics.

use penstock_policy::webhooks::delivery::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

/// The outcomes of attempts, in the order of their counters.
const OUTCOMES: [&str; 3] = ["delivered", "refused", "failed"];

/// The number of attempts by outcome.
#[derive(Debug, Default)]
pub(crate) struct Attempts([AtomicU64; OUTCOMES.len()]);

impl Attempts {
    /// Counts an attempt.
    pub(super) fn count(&self, outcome: &Outcome) {
        let [delivered, refused, failed] = &self.0;
        let counter = match outcome {
            Outcome::Answered {
                status: 200..=299, ..
            } => delivered,
            Outcome::Answered { .. } => refused,
            Outcome::Failed(_) => failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The outcomes with their counts.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        OUTCOMES.into_iter().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_by_the_answer_of_its_receiver() {
        let attempts = Attempts::default();
        for status in [200, 204, 301, 500] {
            attempts.count(&Outcome::Answered {
                status,
                retry_after_ms: None,
            });
        }
        attempts.count(&Outcome::Failed("no route".to_owned()));
        let read: Vec<_> = attempts.read().collect();
        assert_eq!(read, [("delivered", 2), ("refused", 2), ("failed", 1)]);
    }
}
