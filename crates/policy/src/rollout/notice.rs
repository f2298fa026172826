//! Decides which headers the callers of a deprecated version get: `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.

use super::Deprecated;
use penstock_core::clock::rfc3339;

/// The deprecation of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The time from which it is deprecated, in milliseconds since the Unix epoch; may lie in the future.
    pub since_ms: u64,
    /// The time from which it no longer answers; `None` for never.
    pub sunset_ms: Option<u64>,
    /// A link to an explanation.
    pub link: Option<String>,
    /// The version number or alias to use instead.
    pub successor: Option<String>,
}

impl Notice {
    pub(super) fn of(deprecated: &Deprecated) -> Self {
        Self {
            since_ms: deprecated.since_ms,
            sunset_ms: deprecated.sunset_ms,
            link: deprecated.link.clone(),
            successor: deprecated.successor.as_ref().map(ToString::to_string),
        }
    }

    /// The headers of the notice. `at` gives the path of a version by its number or alias.
    pub fn headers(&self, at: impl Fn(&str) -> String) -> Vec<(String, String)> {
        let mut headers = vec![("deprecation".to_owned(), deprecation(self.since_ms))];
        if let Some(sunset_ms) = self.sunset_ms {
            headers.push(("sunset".to_owned(), http_date(sunset_ms)));
        }
        let mut links = Vec::new();
        if let Some(successor) = &self.successor {
            links.push(format!("<{}>; rel=\"successor-version\"", at(successor)));
        }
        if let Some(link) = &self.link {
            links.push(format!("<{link}>; rel=\"deprecation\""));
        }
        if !links.is_empty() {
            headers.push(("link".to_owned(), links.join(", ")));
        }
        headers
    }
}

/// The value of `Deprecation`: a Date of Structured Fields (RFC 9651), in seconds.
pub fn deprecation(unix_ms: u64) -> String {
    format!("@{}", unix_ms / 1_000)
}

/// An HTTP date in the only form that may be sent (IMF-fixdate, RFC 9110 §5.6.7).
pub fn http_date(unix_ms: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // 1970-01-01 was a Thursday.
    let weekday = DAYS[(unix_ms / 86_400_000 % 7) as usize];
    let text = rfc3339(unix_ms);
    let (year, month, day, time) = (&text[..4], &text[5..7], &text[8..10], &text[11..19]);
    let month: usize = month.parse().expect("two digits");
    format!("{weekday}, {day} {} {year} {time} GMT", MONTHS[month - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_two_headers_want_them() {
        // The example of RFC 9745, and that of RFC 8594.
        assert_eq!(deprecation(1_688_169_599_000), "@1688169599");
        assert_eq!(
            http_date(1_688_169_599_000),
            "Fri, 30 Jun 2023 23:59:59 GMT"
        );
        assert_eq!(
            http_date(1_541_462_399_000),
            "Mon, 05 Nov 2018 23:59:59 GMT"
        );
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_notice_names_the_successor_and_where_to_read_more() {
        let mut notice = Notice {
            since_ms: 1_000,
            sunset_ms: Some(86_400_000),
            link: Some("https://example.com/a".into()),
            successor: Some("stable".into()),
        };
        let at = |version: &str| format!("/v2/models/m/versions/{version}");
        let text = |notice: &Notice| -> Vec<String> {
            let headers = notice.headers(at).into_iter();
            headers
                .map(|(name, value)| format!("{name}: {value}"))
                .collect()
        };
        assert_eq!(
            text(&notice),
            [
                "deprecation: @1",
                "sunset: Fri, 02 Jan 1970 00:00:00 GMT",
                "link: </v2/models/m/versions/stable>; rel=\"successor-version\", <https://example.com/a>; rel=\"deprecation\"",
            ]
        );
        (notice.sunset_ms, notice.link, notice.successor) = (None, None, None);
        assert_eq!(text(&notice), ["deprecation: @1"]);
    }
}
