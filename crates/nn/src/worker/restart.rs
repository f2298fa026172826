//! Decides when a process that ended is started again. Pure.

use std::time::Duration;

/// The wait before the first restart of a process that was healthy for long.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait, and so the interval of loads for a model that ends its process again and again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A process that lived so long counts as healthy: the next wait is the first again.
pub const STEADY: Duration = Duration::from_secs(60);

/// The number of times that a process ended soon after it began.
#[derive(Debug, Clone, Copy)]
pub struct Restarts {
    in_a_row: u32,
    first: Duration,
    longest: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self::between(FIRST_WAIT, LONGEST_WAIT)
    }
}

impl Restarts {
    /// Waits from `first` to `longest`.
    pub const fn between(first: Duration, longest: Duration) -> Self {
        Self {
            in_a_row: 0,
            first,
            longest,
        }
    }

    /// The wait before the next start, after a process that lived for `lived`. `chance`, from 0 to 1, keeps models that
    /// ended together from being loaded together: the wait is from half of the full one to all of it.
    pub fn wait(&mut self, lived: Duration, chance: f64) -> Duration {
        if lived >= STEADY {
            self.in_a_row = 0;
        }
        let full = (self.first)
            .saturating_mul(1 << self.in_a_row.min(16))
            .min(self.longest);
        self.in_a_row = self.in_a_row.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_after_a_long_life() {
        let mut restarts = Restarts::default();
        let mut last = Duration::ZERO;
        for _ in 0..8 {
            let wait = restarts.wait(Duration::ZERO, 1.0);
            assert!(wait == FIRST_WAIT || wait == last * 2, "{wait:?}");
            last = wait;
        }
        for _ in 0..100 {
            last = restarts.wait(Duration::ZERO, 1.0);
        }
        assert_eq!(last, LONGEST_WAIT);
        assert_eq!(restarts.wait(STEADY, 1.0), FIRST_WAIT);
    }

    #[test]
    fn chance_takes_at_most_half_of_a_wait() {
        for chance in [-1.0, 0.0, 0.3, 1.0, 2.0, f64::NAN] {
            let wait = Restarts::default().wait(STEADY, if chance.is_nan() { 0.0 } else { chance });
            assert!(wait >= FIRST_WAIT / 2 && wait <= FIRST_WAIT, "{wait:?}");
        }
    }
}
