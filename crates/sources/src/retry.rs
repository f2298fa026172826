//! The waits before a download is tried again, and the end of trying.

use std::time::Duration;

/// The longest wait before the first retry; it doubles with each.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait of our own choosing.
const LONGEST: Duration = Duration::from_secs(20);
/// The longest wait that a server may ask for with Retry-After. One that asks for more is given up.
pub const LONGEST_ASKED: Duration = Duration::from_secs(120);
/// Most tries in a row without progress.
pub const FRUITLESS_TRIES: u32 = 6;
/// Tries of one download, fruitful or not: a connection that breaks every few bytes must end, too.
pub const ALL_TRIES: u32 = 200;

/// The tries of one download so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Number of all tries.
    pub all: u32,
    /// Tries since the last progress.
    pub fruitless: u32,
}

impl Tries {
    /// The state after one more try.
    pub fn and(self, fruitful: bool) -> Self {
        Self {
            all: self.all + 1,
            fruitless: if fruitful { 1 } else { self.fruitless + 1 },
        }
    }
}

/// The wait before the next try, or `None` if there is none. `random` is from 0 to 1: full jitter, so that clients that
/// failed together do not come back together. `left` is the time until the deadline.
pub fn pause(
    tries: Tries,
    asked: Option<Duration>,
    random: f64,
    left: Duration,
) -> Option<Duration> {
    if tries.fruitless >= FRUITLESS_TRIES || tries.all >= ALL_TRIES {
        return None;
    }
    let doubled = FIRST.saturating_mul(1 << tries.fruitless.saturating_sub(1).min(16));
    let own = doubled.min(LONGEST).mul_f64(random.clamp(0.0, 1.0));
    let wait = match asked {
        Some(asked) if asked > LONGEST_ASKED => return None,
        // Clients that were asked to wait for the same time would otherwise come back together.
        Some(asked) => asked + own.min(FIRST),
        None => own,
    };
    (wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_server_that_names_a_time_is_given_it_unless_that_is_too_long() {
        let tries = Tries::default().and(false);
        let left = Duration::from_secs(600);
        let asked = |seconds| pause(tries, Some(Duration::from_secs(seconds)), 0.0, left);
        assert_eq!(asked(7), Some(Duration::from_secs(7)));
        assert_eq!(asked(121), None);
        let soon = Duration::from_secs(5);
        assert_eq!(pause(tries, Some(Duration::from_secs(7)), 0.0, soon), None);
    }

    proptest! {
        #[test]
        fn tries_end_and_waits_are_bounded(
            fruits in proptest::collection::vec(any::<bool>(), 0..400), random in 0.0f64..=1.0
        ) {
            let left = Duration::from_secs(3600);
            let mut tries = Tries::default();
            let mut retries = 0;
            for fruitful in fruits {
                tries = tries.and(fruitful);
                let Some(wait) = pause(tries, None, random, left) else { break };
                prop_assert!(wait <= LONGEST);
                retries += 1;
            }
            prop_assert!(retries < ALL_TRIES);
        }
    }
}
