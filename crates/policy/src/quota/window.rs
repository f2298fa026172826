//! Decides whether a charge fits in a window, from the counters of this window and the previous one.
//!
//! A fixed window has no previous one. All sums are exact: fractions are kept as products with the window's length.
//!
//! # Bounds
//!
//! With one clock, for cost 1 and a limit of L in W (interval d at most W):
//!
//! * fixed window, calendar: at most 2·L in any interval of W, and as many in an instant around a
//!   boundary;
//! * sliding window: at most L·(1 + d/W) in any interval of length d, so never more than L at once,
//!   and just under 2·L in a whole W (all of L at the end of one window and a drip after it; the
//!   older counter is taken as spread evenly, which it was not).
//!
//! Clocks may differ by s, or operations may take s from the reading of the clock to the store. Each counter then still
//! holds at most L. An interval of d touches the counters of d + s: at most ⌈(d + s)/W⌉ + 1 of them. An instant at a
//! boundary can then see 2·L with either.

/// The decision of a window on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the charge, which `count` already contains, fits.
    pub fits: bool,
    /// Units left for others: after the charge if it fits, without it if it does not.
    pub left: u64,
}

/// Decides whether `cost` fits; `count` already contains it. `before` is the counter of the previous window, 0 for a
/// fixed window. Of it counts the part that the last `width_ms` still cover when `elapsed_ms` of this window have passed.
pub fn decide(
    limit: u64,
    before: i64,
    count: i64,
    cost: u64,
    elapsed_ms: u64,
    width_ms: u64,
) -> Decision {
    let width = i128::from(width_ms.max(1));
    let used = weighted(before, elapsed_ms, width_ms) + i128::from(count) * width;
    let free = i128::from(limit) * width - used;
    let fits = free >= 0;
    let free = if fits {
        free
    } else {
        free + i128::from(cost) * width
    };
    Decision {
        fits,
        left: u64::try_from(free.div_euclid(width))
            .unwrap_or(0)
            .min(limit),
    }
}

/// Milliseconds until `cost`, which does not fit now, fits without other calls; at least 1. `count` does not contain the
/// charge. For a fixed window (`sliding` is false) the wait lasts until its end.
///
/// From then on the call fits at every instance, however late it comes. Units that an instance took ahead do not shorten
/// the wait. Other instances do not have them, and they are lost when the window ends, which may be before the whole
/// second that a client is told.
pub fn retry_ms(
    limit: u64,
    before: i64,
    count: i64,
    cost: u64,
    elapsed_ms: u64,
    width_ms: u64,
    sliding: bool,
) -> u64 {
    let width = i128::from(width_ms.max(1));
    let elapsed = i128::from(elapsed_ms).min(width);
    let (limit, before) = (i128::from(limit), i128::from(before.max(0)));
    let (count, cost) = (i128::from(count.max(0)), i128::from(cost));
    let to_end = width - elapsed;
    let wait = if !sliding {
        to_end
    } else if count + cost <= limit && before > 0 {
        // before·(W - e) + (count + cost)·W <= limit·W, solved for the elapsed time e.
        let covered = (limit - count - cost) * width / before;
        (width - covered - elapsed).max(0)
    } else if cost >= limit {
        // This window may be full as well.
        to_end + width
    } else if count > 0 {
        let covered = (limit - cost) * width / count;
        to_end + (width - covered).max(0)
    } else {
        to_end
    };
    u64::try_from(wait.max(1)).unwrap_or(1)
}

/// Decides whether units are left, for costs that are known only afterwards. `left` is at least 1 if a call passes, so
/// that 0 always means a refusal.
pub fn peek(limit: u64, before: i64, count: i64, elapsed_ms: u64, width_ms: u64) -> Decision {
    let left = decide(limit, before, count, 0, elapsed_ms, width_ms).left;
    let width = i128::from(width_ms.max(1));
    let used = weighted(before, elapsed_ms, width_ms) + i128::from(count) * width;
    let fits = used < i128::from(limit) * width;
    Decision {
        fits,
        left: if fits { left.max(1) } else { 0 },
    }
}

fn weighted(before: i64, elapsed_ms: u64, width_ms: u64) -> i128 {
    // A counter below zero was refunded after it was deleted, so it is ignored.
    i128::from(before.max(0)) * i128::from(width_ms.saturating_sub(elapsed_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_charge_fits_or_not_by_both_windows() {
        // (limit, before, count with the charge, cost, elapsed of 60 s) -> (fits, left)
        for (limit, before, count, cost, elapsed_s, fits, left) in [
            (20, 0, 1, 1, 0, true, 19),
            (20, 0, 20, 1, 59, true, 0),
            (20, 0, 21, 1, 59, false, 0),
            (20, 0, 25, 10, 59, false, 5),
            (20, 20, 1, 1, 0, false, 0),
            (20, 20, 10, 1, 30, true, 0),
            (20, 20, 11, 1, 30, false, 0),
            (20, 20, 5, 1, 30, true, 5),
            (20, 7, 1, 1, 45, true, 17),
            (20, -3, 1, 1, 0, true, 19),
        ] {
            let decision = decide(limit, before, count, cost, elapsed_s * 1000, 60_000);
            assert_eq!(
                decision,
                Decision { fits, left },
                "{limit} {before} {count} {elapsed_s}"
            );
        }
    }

    #[test]
    fn when_to_come_back() {
        for (before, count, cost, elapsed, sliding, wait) in [
            (0, 20, 1, 15_000, false, 45_000),
            // Half of 20 is left of the window before; one more place needs 3 s more.
            (20, 10, 1, 30_000, true, 3_000),
            // This window is full: one of its 20 must have faded, 3 s into the next.
            (0, 20, 1, 15_000, true, 48_000),
            (0, 20, 20, 15_000, true, 105_000),
            (20, 0, 1, 0, true, 3_000),
        ] {
            let got = retry_ms(20, before, count, cost, elapsed, 60_000, sliding);
            assert_eq!(got, wait, "{before} {count} {cost} {elapsed} {sliding}");
        }
    }

    #[test]
    fn compute_is_admitted_below_the_limit() {
        assert!(peek(100, 0, 99, 0, 1000).fits);
        assert!(!peek(100, 0, 100, 0, 1000).fits);
        assert!(!peek(100, 100, 50, 500, 1000).fits);
        assert!(peek(100, 100, 49, 500, 1000).fits);
    }

    proptest! {
        #[test]
        fn coming_back_then_fits(
            limit in 1_u64..1000, before in 0_i64..1000, count in 0_i64..1000, cost in 1_u64..1000,
            elapsed in 0_u64..60_000,
        ) {
            let cost = cost.min(limit);
            let (before, count) = (before.min(limit as i64), count.min(limit as i64));
            let width = 60_000;
            prop_assume!(!decide(limit, before, count + cost as i64, cost, elapsed, width).fits);
            let wait = retry_ms(limit, before, count, cost, elapsed, width, true);
            let at = |wait: u64| match (elapsed + wait).checked_sub(width) {
                None => decide(limit, before, count + cost as i64, cost, elapsed + wait, width),
                Some(into) if into < width => decide(limit, count, cost as i64, cost, into, width),
                Some(into) => decide(limit, 0, cost as i64, cost, into - width, width),
            };
            prop_assert!(at(wait).fits, "after {} ms", wait);
            prop_assert!(wait == 1 || !at(wait - 1).fits, "already after {} ms", wait - 1);
        }

        #[test]
        fn the_units_that_are_left_would_fit(
            limit in 1_u64..1000, before in 0_i64..1000, count in 0_i64..1000, elapsed in 0_u64..=60_000,
        ) {
            let decision = decide(limit, before, count, 0, elapsed, 60_000);
            if decision.fits {
                let more = count + decision.left as i64;
                prop_assert!(decide(limit, before, more, 0, elapsed, 60_000).fits);
                prop_assert!(!decide(limit, before, more + 1, 0, elapsed, 60_000).fits);
            }
        }

        #[test]
        fn no_sum_overflows(limit in 1..=super::super::limits::MAX_LIMIT, before: i64, count: i64, elapsed: u64) {
            let _ = decide(limit, before, count, limit, elapsed, 31 * 86_400_000);
            let _ = retry_ms(limit, before, count, limit, elapsed, 31 * 86_400_000, true);
        }
    }
}
