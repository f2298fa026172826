//! Decides how callers are slowed down that are refused again and again.
//!
//! Refusals are counted per minute for each API key, or for the address of a caller without credentials. *Soft*:
//! `Retry-After` doubles after each `double_every` refusals, up to `max_retry_after_s`. *Hard*: after `hard_after`
//! refusals in a minute, every call is refused until the next minute has ended. These refusals are not counted, so a
//! block always ends after two minutes at most.

use super::limits::Backoff;

/// The span in which refusals are counted, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// Returns the seconds for `Retry-After`. The limit asks for `asked_s`, and this is refusal number `refusals` of the minute.
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
    // The limit's own `Retry-After` may be longer than the cap.
    grown.min(settings.max_retry_after_s).max(asked_s)
}

/// The time until which a caller with this many refusals in a minute is blocked, if it is.
pub fn blocked_until_ms(settings: &Backoff, minute: u64, refusals: u64) -> Option<u64> {
    (settings.hard_after > 0 && refusals >= settings.hard_after)
        .then_some((minute + 2).saturating_mul(MINUTE_MS))
}

/// The memory of an instance about a caller's refusals.
#[derive(Clone, Debug, Default)]
pub struct Offender {
    /// The minute of the counts.
    pub minute: u64,
    /// Refusals in the store's counter of that minute, as far as known.
    pub counted: u64,
    /// Refusals that this instance has not written to the store yet.
    pub untold: u64,
    /// Whether this instance registered the minute's counter for deletion.
    pub registered: bool,
    /// Whether the previous minute is known to cause no block.
    pub clear_before: bool,
    /// The time before which the store is not read again for a block.
    pub clear_until_ms: u64,
    /// The time until which all calls are refused.
    pub blocked_until_ms: u64,
    /// The announced waits that are not over.
    told: Vec<AnnouncedWait>,
}

/// The most announced waits that an instance remembers of a caller. A caller meets a few limits with a few costs.
const MAX_TOLD: usize = 16;

/// A wait that a refusal told its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AnnouncedWait {
    /// The index of the limit.
    limit: usize,
    /// The cost of the refused call.
    cost: u64,
    /// The end of the wait, in milliseconds since the Unix epoch.
    until_ms: u64,
}

impl Offender {
    /// Forgets the counts of another minute, except refusals that are not written yet.
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

    /// The end of the wait that was announced for a call of `cost` by a limit; 0 without one.
    pub fn told_until_ms(&self, limit: usize, cost: u64) -> u64 {
        let told = self.told.iter();
        let told = told.filter(|told| told.limit == limit && told.cost <= cost);
        told.map(|told| told.until_ms).max().unwrap_or(0)
    }

    /// Remembers an announced wait. If there is no room, the wait that ends first is dropped.
    pub fn tell(&mut self, limit: usize, cost: u64, until_ms: u64, now_ms: u64) {
        self.told
            .retain(|told| told.until_ms > now_ms && (told.limit, told.cost) != (limit, cost));
        if self.told.len() == MAX_TOLD
            && let Some(first) = (0..MAX_TOLD).min_by_key(|&at| self.told[at].until_ms)
        {
            self.told.swap_remove(first);
        }
        self.told.push(AnnouncedWait {
            limit,
            cost,
            until_ms,
        });
    }

    /// Forgets the waits announced for calls of `cost`, because such a call passed the limit.
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
    fn announced_waits_are_bounded_and_count_for_calls_of_at_least_the_same_cost() {
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
