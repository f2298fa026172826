//! Decides token buckets, and leaky buckets that pace calls, by one value: the theoretical arrival time (GCRA, ITU-T
//! I.371 annex A).
//!
//! The value is the time at which the bucket is full again without further calls. It needs a sound compare-and-swap.
//! Times are kept in units of 1/limit of a millisecond. In these units a token is exactly `window_ms` long, so nothing
//! is rounded.
//!
//! # Bounds
//!
//! In any interval of length d, with clocks that differ by s, a token bucket admits at most burst + limit·(d + s)/window.
//! A leaky bucket admits at most limit·(d + max_wait + s)/window and one call more. Its calls go on evenly spaced after
//! their waits.
//!
//! When many callers use a bucket at the same moment, each round of swaps serves at least one of them. A caller that
//! loses [`MAX_SWAPS`] rounds is treated as if the store had failed.
//!
//! # Names and generations
//!
//! A value that lives for ever could not be deleted. Its name therefore carries a generation, which lasts at least one
//! drain time and [`MIN_GENERATION_MS`]. A caller that begins a generation in its first [`super::SETTLED_MS`] first
//! closes the previous one by a swap and carries the value over. Callers whose clocks are behind find it closed and
//! move on. After that time no caller writes the old value.

use serde::{Deserialize, Serialize};

/// Shortest generation, in milliseconds. Beginning one costs a few operations of the store.
pub const MIN_GENERATION_MS: u64 = 600_000;
/// Swaps that are tried before a charge counts as a failure of the store. Every lost swap is another caller's success,
/// so this many others were served in the meantime.
pub const MAX_SWAPS: u32 = 64;

/// A bucket: units that are used at once and restored over time.
///
/// ```
/// use penstock_policy::quota::gcra::{Bucket, Shape, State};
///
/// // Two units a second, and three at once.
/// let bucket = Bucket { limit: 2, window_ms: 1000, shape: Shape::Token { burst: 3 } };
/// let mut state = State::default();
/// for _ in 0..3 {
///     (state, _) = bucket.decide(state, 0, 1).outcome.unwrap();
/// }
/// // The fourth has a chance half a second later.
/// assert_eq!(bucket.decide(state, 0, 1).outcome, Err(500));
/// assert!(bucket.decide(state, 500, 1).outcome.is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Units restored in a window.
    pub limit: u64,
    /// The length of the window, in milliseconds.
    pub window_ms: u64,
    /// The treatment of a call above the rate: it uses a burst, or waits.
    pub shape: Shape,
}

/// The behaviour when units are used faster than they are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Up to `burst` may be used at once.
    Token {
        /// Units a full bucket holds.
        burst: u64,
    },
    /// A call waits for its turn.
    Leaky {
        /// Milliseconds it waits at most.
        max_wait_ms: u64,
    },
}

/// The stored value of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The theoretical arrival time, in 1/limit of a millisecond since the Unix epoch.
    pub full_at: u128,
    /// Raised each time the bucket is found full. A refund is due only while this is unchanged: a full bucket has
    /// restored the charge already.
    pub times_full: u64,
    /// The latest time of a charge, by the clock of its caller, in milliseconds since the Unix epoch.
    pub latest_ms: u64,
    /// The refunds so far of charges that were followed by others, in the unit of [`State::full_at`].
    pub refunded: u128,
    /// Whether a later generation has taken over.
    pub closed: bool,
}

/// The facts of a charge that its refund needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The units that were taken.
    pub cost: u64,
    /// The value right after the charge.
    pub after: State,
}

impl State {
    /// The bytes for the store.
    pub fn to_bytes(self) -> Vec<u8> {
        let state = if self.closed { 'c' } else { 'o' };
        let Self {
            full_at,
            times_full,
            latest_ms,
            refunded,
            ..
        } = self;
        format!("{state} {full_at} {times_full} {latest_ms} {refunded}").into_bytes()
    }

    /// Parses bytes from the store; `None` for an unknown format.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let closed = match words.next()? {
            "c" => true,
            "o" => false,
            _ => return None,
        };
        let state = Self {
            full_at: words.next()?.parse().ok()?,
            times_full: words.next()?.parse().ok()?,
            latest_ms: words.next()?.parse().ok()?,
            refunded: words.next()?.parse().ok()?,
            closed,
        };
        words.next().is_none().then_some(state)
    }
}

/// The decision of a bucket on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The value to write and the wait in milliseconds; or the milliseconds until a retry can pass.
    pub outcome: Result<(State, u64), u64>,
    /// Units that can be used immediately.
    pub left: u64,
    /// Milliseconds until the bucket is full without further calls.
    pub full_in_ms: u64,
}

impl Bucket {
    /// Units that can be used immediately from a full bucket. Headers report it as the limit.
    pub fn capacity(&self) -> u64 {
        match self.shape {
            Shape::Token { burst } => burst,
            Shape::Leaky { .. } => self.limit,
        }
    }

    /// Milliseconds after which a bucket is full again, if it was as empty as it can be.
    pub fn drain_ms(&self) -> u64 {
        let drain = match self.shape {
            Shape::Token { burst } => self.span_ms(burst),
            // One call of cost `limit` may follow the longest wait.
            Shape::Leaky { max_wait_ms } => self.window_ms + max_wait_ms,
        };
        drain.max(1)
    }

    /// The length of a generation, in milliseconds.
    pub fn generation_ms(&self) -> u64 {
        self.drain_ms().max(MIN_GENERATION_MS)
    }

    /// Milliseconds in which `units` are restored, rounded up.
    pub fn span_ms(&self, units: u64) -> u64 {
        let ms = self.length(units).div_ceil(u128::from(self.limit.max(1)));
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    fn length(&self, units: u64) -> u128 {
        u128::from(units) * u128::from(self.window_ms)
    }

    fn at(&self, ms: u64) -> u128 {
        u128::from(ms) * u128::from(self.limit)
    }

    fn millis(&self, length: u128) -> u64 {
        u64::try_from(length.div_ceil(u128::from(self.limit.max(1)))).unwrap_or(u64::MAX)
    }

    /// Decides whether `cost` may pass at `now_ms`. A cost above [`Bucket::capacity`] never passes.
    pub fn decide(&self, state: State, now_ms: u64, cost: u64) -> Decision {
        let now = self.at(now_ms);
        let token = u128::from(self.window_ms.max(1));
        let busy_until = state.full_at.max(now);
        let after = State {
            full_at: busy_until + self.length(cost),
            times_full: state.times_full + u64::from(state.full_at <= now),
            latest_ms: state.latest_ms.max(now_ms),
            refunded: state.refunded,
            closed: false,
        };
        let behind = busy_until - now;
        // The largest lead of the value before the charge at which the charge passes.
        let most_behind = |units: u64| match self.shape {
            Shape::Token { burst } => self.length(burst).checked_sub(self.length(units)),
            Shape::Leaky { max_wait_ms } => Some(self.at(max_wait_ms)),
        };
        let outcome = match most_behind(cost) {
            Some(most) if behind <= most => Ok((
                after,
                match self.shape {
                    Shape::Token { .. } => 0,
                    Shape::Leaky { .. } => self.millis(behind),
                },
            )),
            Some(most) => Err(self.millis(behind - most).max(1)),
            None => Err(self.drain_ms()),
        };
        let behind = match outcome {
            Ok((state, _)) => state.full_at - now,
            Err(_) => behind,
        };
        let left = match self.shape {
            Shape::Token { burst } => self.length(burst).saturating_sub(behind) / token,
            // Calls of cost 1 that would still be admitted, the first of them after a wait of `behind`.
            Shape::Leaky { max_wait_ms } => match self.at(max_wait_ms).checked_sub(behind) {
                Some(slack) => slack / token + 1,
                None => 0,
            },
        };
        Decision {
            outcome,
            left: u64::try_from(left).unwrap_or(u64::MAX).min(self.capacity()),
            full_in_ms: self.millis(behind),
        }
    }

    /// The value after the refund of a charge; `None` when there is nothing to refund.
    ///
    /// A refund returns only units that time has not restored and given to later calls already. This is at least the
    /// distance of `after.full_at` beyond the latest charge, less the refunds of other charges since. It is nothing
    /// once the bucket was found full. The current time does not matter: restored units count only when a call takes
    /// them.
    pub fn refund(&self, state: State, charge: Charge) -> Option<State> {
        if state.times_full != charge.after.times_full {
            return None;
        }
        let moved = state.refunded.saturating_sub(charge.after.refunded);
        let not_restored = charge
            .after
            .full_at
            .saturating_sub(moved)
            .saturating_sub(self.at(state.latest_ms));
        let back = self
            .length(charge.cost)
            .min(not_restored)
            .min(state.full_at);
        // If all later charges were refunded in turn, no other call's position has changed.
        let last = state.full_at == charge.after.full_at && moved == 0;
        (back > 0).then(|| State {
            full_at: state.full_at - back,
            refunded: state.refunded.saturating_add(if last { 0 } else { back }),
            ..state
        })
    }

    /// The sliding window that keeps this bucket's promise without a compare-and-swap, as (limit, window in
    /// milliseconds).
    ///
    /// A token bucket becomes a window of `burst` in the time that restores `burst`. The average rate is the same. The
    /// window's bound L·(1 + d/W) is the bucket's own burst + rate·d. Where that time is under
    /// [`MIN_FALLBACK_WINDOW_MS`], the window is that long instead. It holds as much as the rate gives in it (rounded
    /// down, at least `burst`), so bursts may be larger. A leaky bucket becomes a window of its limit, without pacing.
    pub fn fallback(&self) -> (u64, u64) {
        match self.shape {
            Shape::Leaky { .. } => (self.limit, self.window_ms),
            Shape::Token { burst } => {
                let span = self.span_ms(burst);
                if span >= MIN_FALLBACK_WINDOW_MS {
                    (burst, span)
                } else {
                    let units = u128::from(self.limit) * u128::from(MIN_FALLBACK_WINDOW_MS)
                        / u128::from(self.window_ms.max(1));
                    (
                        u64::try_from(units).unwrap_or(u64::MAX).max(burst),
                        MIN_FALLBACK_WINDOW_MS,
                    )
                }
            }
        }
    }
}

/// Shortest window of a fallback, in milliseconds. Every window of every subject is an entry in the store.
pub const MIN_FALLBACK_WINDOW_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(limit: u64, window_ms: u64, burst: u64) -> Bucket {
        Bucket {
            limit,
            window_ms,
            shape: Shape::Token { burst },
        }
    }

    fn leaky(limit: u64, window_ms: u64, max_wait_ms: u64) -> Bucket {
        Bucket {
            limit,
            window_ms,
            shape: Shape::Leaky { max_wait_ms },
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let bucket = token(60, 60_000, 5);
        let mut state = State::default();
        for left in [4, 3, 2, 1, 0] {
            let decision = bucket.decide(state, 1_000_000, 1);
            assert_eq!(decision.left, left);
            state = decision.outcome.unwrap().0;
        }
        let refused = bucket.decide(state, 1_000_000, 1);
        assert_eq!(
            (refused.outcome, refused.left, refused.full_in_ms),
            (Err(1_000), 0, 5_000)
        );
        assert_eq!(bucket.decide(state, 1_000_999, 1).outcome, Err(1));
        assert!(bucket.decide(state, 1_001_000, 1).outcome.is_ok());
        assert_eq!(bucket.decide(state, 1_000_000, 6).outcome, Err(5_000));
        assert!(bucket.decide(state, 1_005_000, 6).outcome.is_err(), "never");
        assert!(bucket.decide(state, 1_005_000, 5).outcome.is_ok());
    }

    #[test]
    fn a_leaky_bucket_spaces_calls_out() {
        let bucket = leaky(10, 1_000, 250);
        let mut state = State::default();
        for (wait, left) in [(0, 2), (100, 1), (200, 0)] {
            let decision = bucket.decide(state, 5_000, 1);
            assert_eq!(decision.left, left);
            let (next, waits) = decision.outcome.unwrap();
            assert_eq!(waits, wait);
            state = next;
        }
        assert_eq!(bucket.decide(state, 5_000, 1).outcome, Err(50));
        assert_eq!(bucket.decide(state, 5_050, 1).outcome.unwrap().1, 250);
    }

    #[test]
    fn a_bucket_falls_back_to_a_sliding_window() {
        for (bucket, expected) in [
            (token(60, 60_000, 5), (5, 5_000)),
            (token(100, 60_000, 100), (100, 60_000)),
            (token(100, 60_000, 300), (300, 180_000)),
            (token(1_000, 1_000, 1), (1_000, 1_000)),
            (token(3, 2_000, 1), (1, 1_000)),
            (leaky(10, 1_000, 250), (10, 1_000)),
        ] {
            assert_eq!(bucket.fallback(), expected, "{bucket:?}");
        }
    }

    #[test]
    fn a_stored_value_is_read_again() {
        let state = State {
            full_at: u128::MAX,
            times_full: 7,
            latest_ms: 8,
            refunded: 9,
            closed: true,
        };
        assert_eq!(State::from_bytes(&state.to_bytes()), Some(state));
        for broken in ["", "o", "o 1 2 3", "x 1 2 3 4", "o 1 2 3 4 5", "o -1 2 3 4"] {
            assert_eq!(State::from_bytes(broken.as_bytes()), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn no_interval_sees_more_than_promised(
            limit in 1_u64..50, window_s in 1_u64..20, burst in 1_u64..30,
            // A pause, a cost, and after how many further steps it is given back, if at all.
            // Clocks are behind by up to two seconds.
            calls in prop::collection::vec((0_u64..2_000, 1_u64..8, 0_usize..8, 0_u64..2_000), 1..60),
        ) {
            let bucket = token(limit, window_s * 1000, burst);
            let (mut now, mut state) = (1_000_000, State::default());
            // The time, the charge, the step of its refund, and whether it was kept.
            let mut admitted: Vec<(u64, Charge, usize)> = Vec::new();
            for (step, &(pause, cost, back_after, behind)) in calls.iter().enumerate() {
                now += pause;
                for (_, charge, _) in admitted.iter().filter(|a| a.2 == step) {
                    state = bucket.refund(state, *charge).unwrap_or(state);
                }
                let stamp = now - if behind < 1_000 { 0 } else { behind };
                if let Ok((after, _)) = bucket.decide(state, stamp, cost).outcome {
                    state = after;
                    let back = if back_after < 4 { step + 1 + back_after } else { usize::MAX };
                    if back == step + 1 && pause % 2 == 0 {
                        // Given back at once, as when another limit refuses.
                        let charge = Charge { cost, after };
                        let full_before = state.full_at - bucket.length(cost);
                        state = bucket.refund(state, charge).unwrap();
                        prop_assert_eq!(state.full_at, full_before, "nothing is burnt");
                    } else {
                        admitted.push((stamp, Charge { cost, after }, back));
                    }
                }
            }
            // Refunded charges count until their refund, so the promise binds only the charges that were kept.
            let mut kept: Vec<_> = admitted.iter().filter(|a| a.2 >= calls.len()).collect();
            kept.sort_by_key(|a| a.0);
            for (at, (start, ..)) in kept.iter().enumerate() {
                let mut sum = 0;
                for (end, charge, _) in &kept[at..] {
                    sum += u128::from(charge.cost);
                    let promised = u128::from(burst) * u128::from(window_s * 1000)
                        + u128::from(limit) * u128::from(end - start);
                    prop_assert!(sum * u128::from(window_s * 1000) <= promised);
                }
            }
        }

        #[test]
        fn nothing_overflows(
            limit in 1..=super::super::limits::MAX_LIMIT, cost in 0..=super::super::limits::MAX_LIMIT,
            now in 0..=253_402_300_800_000_u64, full_at in 0..=(1_u128 << 100),
        ) {
            let state = State { full_at, ..State::default() };
            for bucket in [token(limit, 31 * 86_400_000, limit), leaky(limit, 31 * 86_400_000, 10_000)] {
                let _ = bucket.decide(state, now, cost);
                let _ = bucket.fallback();
            }
        }
    }
}
