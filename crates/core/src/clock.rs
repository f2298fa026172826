//! Time as a parameter: decisions get `now` and never read a clock.

/// A source of time, implemented by adapters (the operating system, a WASI clock, a test's fake).
pub trait Clock {
    /// Milliseconds since the Unix epoch. May jump; use it for times that people and other machines read.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds since an arbitrary start. Never goes back; use it for durations.
    fn monotonic_ns(&self) -> u64;
}

/// Formats `unix_ms` as RFC 3339 in UTC with milliseconds, e.g. `2026-11-21T03:54:28.120Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let (s, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

/// Days from 1970-01-01 to a date written `YYYY-MM-DD`; `None` for other texts and earlier dates.
pub fn days_from_date(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-';
    let digits = |range: std::ops::Range<usize>| -> Option<u64> {
        let part = text.get(range)?;
        let plain = part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    };
    let (true, Some(year), Some(month), Some(day)) =
        (shape, digits(0..4), digits(5..7), digits(8..10))
    else {
        return None;
    };
    // The inverse of `civil_from_days`. A date that it does not reproduce is not valid.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// Proleptic Gregorian date of a day count since 1970-01-01. Written by hand, because a date crate would be the largest part
/// of a component that formats one timestamp per error. The algorithm counts 400-year eras from March, so that leap days are
/// at the end of a year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_back_as_the_day_they_name_and_nothing_else_is_a_date() {
        for days in (0..150_000).step_by(37).chain(0..800) {
            let text = rfc3339(days * 86_400_000);
            assert_eq!(days_from_date(&text[..10]), Some(days), "{text}");
        }
        for bad in [
            "",
            "2026-11-2",
            "2026-13-01",
            "2026-02-29",
            "2026-00-10",
            "2026-01-00",
            "1969-12-31",
            "2026/01/01",
            "+026-01-01",
            "2026-1-011",
            "0000-01-01",
            "20260-1-01",
        ] {
            assert_eq!(days_from_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_are_rfc_3339_also_around_leap_days_and_centuries() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_123, "2024-02-29T00:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_795_233_268_120, "2026-11-21T03:54:28.120Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), text);
        }
    }
}
