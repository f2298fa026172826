//! Decides what becomes of callers who are refused again and again.
//!
//! Refusals are counted by the minute for whoever is accountable (the API key, or the address of a
//! caller who showed none). *Soft*: `Retry-After` is what the limit asks for, doubled after each
//! `double_every` refusals, up to `max_retry_after_s`. *Hard*: once a minute has seen `hard_after` of
//! them, every call is refused until the minute after it has ended. Those refusals are not counted, so a
//! block lasts two minutes at most and then ends, whatever the caller does.

use super::limits::Backoff;

/// The span in which refusals are counted, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// Seconds for `Retry-After`, when the limit asks for `asked_s` and this is refusal number `refusals` of
/// the minute.
pub fn retry_after_s(settings: &Backoff, asked_s: u64, refusals: u64) -> u64 {
    let asked_s = asked_s.max(1);
    if !settings.soft {
        return asked_s;
    }
    let doublings = refusals.saturating_sub(1) / settings.double_every.max(1);
    let grown = u32::try_from(doublings)
        .ok()
        .and_then(|d| 1_u64.checked_shl(d))
        .map_or(u64::MAX, |factor| asked_s.saturating_mul(factor));
    // What the limit itself asks for may be longer than the cap.
    grown.min(settings.max_retry_after_s).max(asked_s)
}

/// Until when a caller with so many refusals in a minute is refused everything.
pub fn blocked_until_ms(settings: &Backoff, minute: u64, refusals: u64) -> Option<u64> {
    (settings.hard_after > 0 && refusals >= settings.hard_after)
        .then_some((minute + 2).saturating_mul(MINUTE_MS))
}

/// What an instance remembers of a caller.
#[derive(Clone, Debug, Default)]
pub struct Offender {
    /// The minute the counts are about.
    pub minute: u64,
    /// Refusals in the store's counter of that minute, as far as known.
    pub counted: u64,
    /// Refusals this instance has not told the store about.
    pub untold: u64,
    /// Whether this instance has seen to the deletion of the minute's counter.
    pub registered: bool,
    /// Whether the minute before is known to block nobody.
    pub clear_before: bool,
    /// The store is not asked again before then whether the caller is blocked.
    pub clear_until_ms: u64,
    /// Everything is refused until then.
    pub blocked_until_ms: u64,
    /// The waits that were announced and are not over.
    told: Vec<Told>,
}

/// The most announced waits an instance remembers of a caller: one for each of a few limits and costs.
const MAX_TOLD: usize = 16;

/// A wait that a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    /// The limit's place among all.
    limit: usize,
    /// What the call would have cost.
    cost: u64,
    /// When the wait ends.
    until_ms: u64,
}

impl Offender {
    /// Forgets what was about another minute, except what the store was not told.
    pub fn turn(&mut self, minute: u64) {
        if self.minute != minute {
            *self = Self {
                minute,
                untold: self.untold,
                blocked_until_ms: self.blocked_until_ms,
                told: std::mem::take(&mut self.told),
                ..Self::default()
            };
        }
    }

    /// Until when the caller was told to wait with a call of `cost` that a limit refused; 0 for never.
    pub fn told_until_ms(&self, limit: usize, cost: u64) -> u64 {
        let told = self.told.iter();
        let told = told.filter(|told| told.limit == limit && told.cost <= cost);
        told.map(|told| told.until_ms).max().unwrap_or(0)
    }

    /// Remembers a wait. Where there is no room, the one that ends first goes.
    pub fn tell(&mut self, limit: usize, cost: u64, until_ms: u64, now_ms: u64) {
        self.told
            .retain(|told| told.until_ms > now_ms && (told.limit, told.cost) != (limit, cost));
        if self.told.len() == MAX_TOLD
            && let Some(first) = (0..MAX_TOLD).min_by_key(|&at| self.told[at].until_ms)
        {
            self.told.swap_remove(first);
        }
        self.told.push(Told {
            limit,
            cost,
            until_ms,
        });
    }

    /// A call of `cost` passed a limit, so what was announced for such calls is of no more use.
    pub fn passed(&mut self, limit: usize, cost: u64) {
        self.told
            .retain(|told| told.limit != limit || told.cost > cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn retry_after_doubles_up_to_its_cap() {
        let settings = Backoff::default();
        for (asked, refusals, expected) in [
            (0, 0, 1),
            (14, 1, 14),
            (14, 10, 14),
            (14, 11, 28),
            (14, 21, 56),
            (14, 51, 300),
            (14, 1_000_000, 300),
            (4000, 11, 4000),
        ] {
            let got = retry_after_s(&settings, asked, refusals);
            assert_eq!(got, expected, "{asked} {refusals}");
        }
        let off = Backoff {
            soft: false,
            ..Backoff::default()
        };
        assert_eq!(retry_after_s(&off, 14, 1000), 14);
    }

    #[test]
    fn a_block_ends_with_the_next_minute() {
        let settings = Backoff {
            hard_after: 5,
            ..Backoff::default()
        };
        assert_eq!(blocked_until_ms(&settings, 10, 4), None);
        assert_eq!(blocked_until_ms(&settings, 10, 5), Some(12 * MINUTE_MS));
        assert_eq!(blocked_until_ms(&Backoff::default(), 10, 1000), None);
    }

    #[test]
    fn what_was_told_is_bounded_and_counts_for_calls_that_cost_as_much() {
        let mut offender = Offender::default();
        for cost in 1..=100 {
            offender.tell(0, cost, 1_000 + cost, 0);
        }
        assert_eq!(offender.told.len(), MAX_TOLD);
        assert_eq!(offender.told_until_ms(0, 100), 1_100);
        assert_eq!(
            offender.told_until_ms(0, 50),
            0,
            "a smaller call was told nothing"
        );
        assert_eq!(offender.told_until_ms(1, 100), 0, "another limit");
        offender.passed(0, 99);
        assert_eq!(
            (
                offender.told_until_ms(0, 99),
                offender.told_until_ms(0, 100)
            ),
            (0, 1_100)
        );
        offender.tell(1, 1, 9_999, 5_000);
        assert_eq!(offender.told.len(), 1, "waits that are over are forgotten");
    }

    proptest! {
        #[test]
        fn more_refusals_never_shorten_the_wait(
            asked in 0_u64..100_000, refusals: u64, every in 0_u64..100, cap in 1_u64..86_400,
        ) {
            let settings = Backoff { double_every: every, max_retry_after_s: cap, ..Backoff::default() };
            let now = retry_after_s(&settings, asked, refusals);
            let next = retry_after_s(&settings, asked, refusals.saturating_add(1));
            prop_assert!(1 <= now && now <= next && next <= cap.max(asked).max(1));
        }
    }
}
