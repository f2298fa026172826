//! Decides where a calendar period begins and ends in the operator's time zone.
//!
//! The zones are those of the IANA database, built into the crate (about 200 KB), because a component
//! has no files. A rule that changes later takes effect with the next build.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::Deserialize;

/// A period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// A day, from midnight to midnight.
    Day,
    /// A month, from its first day to the first day of the next.
    Month,
}

impl Period {
    /// The name in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// One period, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// A number that grows from period to period of one zone and kind.
    pub id: u64,
    /// Its first millisecond since the Unix epoch.
    pub start_ms: u64,
    /// The first millisecond of the next period.
    pub end_ms: u64,
}

/// The time zone of a name; `None` for an unknown name.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// The period that contains a time. `None` only for times after the year 9999, which the calendar does not reach.
pub fn span(period: Period, zone: &TimeZone, unix_ms: u64) -> Option<Span> {
    let now = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    let (first, next) = match period {
        Period::Day => (today, today.tomorrow().ok()?),
        Period::Month => (
            today.first_of_month(),
            today.last_of_month().tomorrow().ok()?,
        ),
    };
    // If a day skips midnight, the period begins with the first moment after it. If midnight happens twice, the
    // period begins with the first of the two.
    let start = |date: jiff::civil::Date| {
        let zoned = date.to_zoned(zone.clone()).ok()?;
        u64::try_from(zoned.timestamp().as_millisecond()).ok()
    };
    Some(Span {
        id: (u64::try_from(first.year()).ok()? * 100 + u64::try_from(first.month()).ok()?) * 100
            + u64::try_from(first.day()).ok()?,
        start_ms: start(first).unwrap_or(0),
        end_ms: start(next)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    #[test]
    fn periods_begin_where_the_zone_says() {
        for (period, name, now, id, start, end) in [
            (
                Period::Day,
                "UTC",
                "2026-03-05T23:59:59.999Z",
                20_260_305,
                "2026-03-05T00:00:00Z",
                "2026-03-06T00:00:00Z",
            ),
            // Summer time begins: a day of 23 hours.
            (
                Period::Day,
                "Europe/Berlin",
                "2026-03-29T12:00:00Z",
                20_260_329,
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Period::Month,
                "America/New_York",
                "2026-01-01T04:59:59Z",
                20_251_201,
                "2025-12-01T05:00:00Z",
                "2026-01-01T05:00:00Z",
            ),
            (
                Period::Month,
                "Asia/Kolkata",
                "2024-02-29T18:29:59Z",
                20_240_201,
                "2024-01-31T18:30:00Z",
                "2024-02-29T18:30:00Z",
            ),
            // Midnight does not exist on the day summer time begins.
            (
                Period::Day,
                "America/Santiago",
                "2026-09-06T12:00:00Z",
                20_260_906,
                "2026-09-06T04:00:00Z",
                "2026-09-07T03:00:00Z",
            ),
        ] {
            let zone = zone(name).unwrap();
            let expected = Span {
                id,
                start_ms: ms(start),
                end_ms: ms(end),
            };
            assert_eq!(span(period, &zone, ms(now)), Some(expected), "{name} {now}");
        }
        assert!(zone("Europe/Atlantis").is_none());
    }

    #[test]
    fn periods_leave_no_gap() {
        for name in [
            "UTC",
            "America/Havana",
            "Australia/Lord_Howe",
            "Asia/Tehran",
        ] {
            let zone = zone(name).unwrap();
            for period in [Period::Day, Period::Month] {
                let mut now = ms("2024-01-01T00:00:00Z");
                for _ in 0..800 {
                    let this = span(period, &zone, now).unwrap();
                    assert!(this.start_ms <= now && now < this.end_ms, "{name} {now}");
                    let next = span(period, &zone, this.end_ms).unwrap();
                    assert_eq!(next.start_ms, this.end_ms);
                    assert!(next.id > this.id);
                    now = this.end_ms;
                }
            }
        }
    }
}
