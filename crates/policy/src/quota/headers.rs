//! Builds the headers that report quota to a client: the fields of
//! draft-ietf-httpapi-ratelimit-headers-11 (`RateLimit-Policy`, `RateLimit`), the `X-RateLimit-*` that
//! clients expect, and `Retry-After` (RFC 9110, section 10.2.3).
//!
//! * `RateLimit-Policy: "name";q=100;w=60`: the quota, its window in seconds, and the unit `qu` when it
//!   is not requests;
//! * `RateLimit: "name";r=23;t=14`: the units left, and the seconds until the window ends or, on a refusal,
//!   until a retry can pass;
//! * `X-RateLimit-Limit`, `-Remaining`, `-Reset`: the same for the limit with the smallest remaining part;
//!   `-Reset` counts seconds from now, as `t` does.
//!
//! The optional partition key `pk` is left out: it would give every caller a lasting name that shared caches and
//! logs see. Shadow limits are left out too, because they do not affect the caller.

use super::status::{QuotaRefusal, Status};
use penstock_core::headers::Headers;
use std::fmt::Write;

/// The headers of an answer, with lower-case names. A `refusal` adds `Retry-After`.
pub fn headers(statuses: &[Status], refusal: Option<&QuotaRefusal>) -> Headers {
    let mut headers = Headers::new();
    let mut push = |name: &str, value| headers.push((name.to_owned(), value));
    let told: Vec<&Status> = statuses.iter().filter(|s| !s.shadow).collect();
    if let Some(tightest) = tightest(&told) {
        push("ratelimit-policy", list(&told, policy_item));
        push("ratelimit", list(&told, service_item));
        push("x-ratelimit-limit", tightest.limit.to_string());
        push("x-ratelimit-remaining", tightest.remaining.to_string());
        push("x-ratelimit-reset", tightest.reset_s.to_string());
    }
    if let Some(refusal) = refusal {
        push("retry-after", refusal.retry_after_s.to_string());
    }
    headers
}

/// The limit with the smallest remaining part; the first of several.
pub fn tightest<'a>(statuses: &[&'a Status]) -> Option<&'a Status> {
    statuses.iter().copied().reduce(|best, next| {
        // Compares best.remaining / best.limit with next.remaining / next.limit without a division.
        let best_share = u128::from(best.remaining) * u128::from(next.limit);
        let next_share = u128::from(next.remaining) * u128::from(best.limit);
        if next_share < best_share { next } else { best }
    })
}

fn list(statuses: &[&Status], item: fn(&mut String, &Status)) -> String {
    let mut list = String::new();
    for status in statuses {
        if !list.is_empty() {
            list.push_str(", ");
        }
        item(&mut list, status);
    }
    list
}

// A limit's name needs no escapes as a structured-field string.

fn policy_item(out: &mut String, status: &Status) {
    let _ = write!(out, "\"{}\";q={}", status.name, status.limit);
    if let Some(unit) = status.quota_unit() {
        let _ = write!(out, ";qu=\"{unit}\"");
    }
    if let Some(window_s) = status.window_s {
        let _ = write!(out, ";w={window_s}");
    }
}

fn service_item(out: &mut String, status: &Status) {
    let _ = write!(out, "\"{}\";r={}", status.name, status.remaining);
    // A concurrency limit has no reset time, because the end of a running call is unknown.
    if status.window_s.is_some() {
        let _ = write!(out, ";t={}", status.reset_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::limits::Unit;
    use crate::quota::words::RefusalKind;

    fn status(name: &str, limit: u64, remaining: u64, window_s: Option<u64>, unit: Unit) -> Status {
        Status {
            name: name.to_owned(),
            limit,
            window_s,
            remaining,
            reset_s: 14,
            unit,
            shadow: false,
            over: false,
        }
    }

    #[test]
    fn the_headers_tell_limits_remaining_units_and_times() {
        let mut statuses = vec![
            status("burst", 100, 23, Some(60), Unit::Requests),
            status("bytes", 1_000_000, 900, Some(3600), Unit::Bytes),
            status("gpu", 4, 3, None, Unit::Requests),
            status("trial", 1, 0, Some(60), Unit::Items),
        ];
        statuses[3].shadow = true;
        let refusal = QuotaRefusal {
            kind: RefusalKind::UsedUp,
            limit: Some("bytes".to_owned()),
            unit: Some(Unit::Bytes),
            retry_after_s: 20,
            message: String::new(),
            statuses: Vec::new(),
        };
        let told = headers(&statuses, Some(&refusal));
        let expected = [
            (
                "ratelimit-policy",
                "\"burst\";q=100;w=60, \"bytes\";q=1000000;qu=\"content-bytes\";w=3600, \
                 \"gpu\";q=4;qu=\"concurrent-requests\"",
            ),
            (
                "ratelimit",
                "\"burst\";r=23;t=14, \"bytes\";r=900;t=14, \"gpu\";r=3",
            ),
            ("x-ratelimit-limit", "1000000"),
            ("x-ratelimit-remaining", "900"),
            ("x-ratelimit-reset", "14"),
            ("retry-after", "20"),
        ];
        let told: Vec<_> = told.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(told, expected);
        assert!(headers(&statuses[3..], None).is_empty());
    }
}
