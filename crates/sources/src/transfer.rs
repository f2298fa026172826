//! The request for one file, and the meaning of a response for the part of it that is there.

use std::time::{Duration, SystemTime};

/// The part of a file that was downloaded before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Number of its bytes.
    pub bytes: u64,
    /// The server's own name for the file's state: a strong entity tag, or a time of change.
    pub validator: Option<String>,
    /// Whether the address always has the same content, so that a part needs no validator.
    pub immutable: bool,
}

/// The headers of a request that depend on the downloaded part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The first byte of the requested range, unless it is the first of the file.
    pub from: Option<u64>,
    /// Send the whole file if it is no longer this.
    pub if_range: Option<String>,
    /// Send nothing if it is still this.
    pub if_none_match: Option<String>,
}

/// The conditions of the next request: the rest of the file, if the part that is there can be told from another state
/// of the file.
pub fn conditions(part: &Part, cached: Option<&str>) -> Conditions {
    let if_range = part.validator.clone().filter(|tag| is_strong(tag));
    let resumes = part.bytes > 0 && (if_range.is_some() || part.immutable);
    Conditions {
        from: resumes.then_some(part.bytes),
        if_range: if_range.filter(|_| resumes),
        // With both, a server answers 304 if the cached state is current. The part then stays unfinished, which is harmless.
        if_none_match: cached.filter(|tag| tag.ends_with('"')).map(str::to_owned),
    }
}

/// If-Range takes strong validators only (RFC 9110, 13.1.5).
fn is_strong(tag: &str) -> bool {
    !tag.starts_with("W/")
}

/// The parts of a response that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The HTTP status of the response.
    pub status: u16,
    /// The value of `Content-Length`, in bytes.
    pub length: Option<u64>,
    /// The value of `Content-Range`, as `bytes 5-9/10`.
    pub range: Option<String>,
    /// The value of `ETag`, or else of `Last-Modified`.
    pub validator: Option<String>,
}

/// The action that follows from a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The file in the cache is the server's present one.
    Unchanged,
    /// The body follows the part; all of it will have so many bytes.
    Append {
        /// Bytes of the whole file.
        total: Option<u64>,
    },
    /// The body takes the place of the part.
    StartOver {
        /// Bytes of the whole file.
        total: Option<u64>,
    },
    /// The file is complete: nothing is missing.
    Complete,
    /// Forget the part, and ask again.
    Forget,
    /// The server is busy: try again after a pause.
    Retry,
    /// The file cannot be downloaded.
    Refused,
}

/// Decides the action for a response.
pub fn judge(asked: &Conditions, part: &Part, head: &Head) -> Action {
    match head.status {
        200 => Action::StartOver { total: head.length },
        206 => match (asked.from, head.range.as_deref().and_then(content_range)) {
            // A server that sends another range than the one asked for would leave a hole.
            (Some(from), Some((first, total))) if first == from => Action::Append { total },
            (Some(_), _) => Action::Forget,
            (None, _) => Action::Refused,
        },
        304 if asked.if_none_match.is_some() => Action::Unchanged,
        416 if asked.from.is_some() => {
            let total = head
                .range
                .as_deref()
                .and_then(|r| r.strip_prefix("bytes */"));
            match total.and_then(|total| total.parse::<u64>().ok()) {
                Some(total) if total == part.bytes => Action::Complete,
                _ => Action::Forget,
            }
        }
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Action::Retry,
        _ => Action::Refused,
    }
}

/// The first byte and the total of `bytes 5-9/10` or `bytes 5-9/*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let ends = total.is_none_or(|total: u64| last.checked_add(1) == Some(total));
    (first <= last && ends).then_some((first, total))
}

/// The wait that Retry-After asks for: seconds, or the time until a date.
pub fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text.trim()).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(bytes: u64, validator: Option<&str>) -> Part {
        let validator = validator.map(str::to_owned);
        Part {
            bytes,
            validator,
            immutable: false,
        }
    }

    #[test]
    fn a_part_is_resumed_only_where_another_state_of_the_file_would_be_noticed() {
        let from = |part: &Part| conditions(part, None).from;
        assert_eq!(from(&part(5, Some("\"a\""))), Some(5));
        assert_eq!(
            from(&part(5, Some("Tue, 15 Nov 1994 12:45:26 GMT"))),
            Some(5)
        );
        assert_eq!(from(&part(5, Some("W/\"a\""))), None);
        assert_eq!(from(&part(5, None)), None);
        assert_eq!(from(&part(0, Some("\"a\""))), None);
        assert_eq!(
            from(&Part {
                immutable: true,
                ..part(5, None)
            }),
            Some(5)
        );
        assert_eq!(
            conditions(&part(0, None), Some("\"c\""))
                .if_none_match
                .as_deref(),
            Some("\"c\"")
        );
    }

    #[test]
    fn each_answer_is_judged_by_what_was_asked() {
        let have = part(5, Some("\"a\""));
        let asked = conditions(&have, Some("\"c\""));
        let first = conditions(&part(0, None), None);
        let head = |status, range: Option<&str>| Head {
            status,
            range: range.map(str::to_owned),
            length: Some(10),
            ..Head::default()
        };
        let secs = |n| Some(Duration::from_secs(n));
        for (asked, head, expected) in [
            (
                &asked,
                head(200, None),
                Action::StartOver { total: Some(10) },
            ),
            (
                &asked,
                head(206, Some("bytes 5-9/10")),
                Action::Append { total: Some(10) },
            ),
            (
                &asked,
                head(206, Some("bytes 5-9/*")),
                Action::Append { total: None },
            ),
            (&asked, head(206, Some("bytes 4-9/10")), Action::Forget),
            (&asked, head(206, Some("bytes 5-7/10")), Action::Forget),
            (&asked, head(206, None), Action::Forget),
            (&first, head(206, Some("bytes 0-9/10")), Action::Refused),
            (&asked, head(304, None), Action::Unchanged),
            (&first, head(304, None), Action::Refused),
            (&asked, head(416, Some("bytes */5")), Action::Complete),
            (&asked, head(416, Some("bytes */4")), Action::Forget),
            (&first, head(416, Some("bytes */4")), Action::Refused),
            (&asked, head(503, None), Action::Retry),
            (&asked, head(404, None), Action::Refused),
            (&asked, head(101, None), Action::Refused),
        ] {
            assert_eq!(judge(asked, &have, &head), expected, "{head:?}");
        }
        for (text, after) in [
            ("7", secs(7)),
            ("99999999999999", secs(99_999_999_999_999)),
            ("Thu, 01 Jan 1970 00:00:09 GMT", secs(9)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(wait(text, SystemTime::UNIX_EPOCH), after, "{text}");
        }
    }

    proptest! {
        /// A correct server and an incorrect one: appended bytes always begin where the part ends.
        #[test]
        fn nothing_is_appended_but_what_follows(
            bytes in 0u64..20, status in 100u16..600, range in "(bytes )?[0-9*]{1,3}(-[0-9]{1,3})?(/([0-9]{1,3}|\\*))?"
        ) {
            let have = part(bytes, Some("\"a\""));
            let asked = conditions(&have, None);
            let head = Head { status, range: Some(range.clone()), ..Head::default() };
            if let Action::Append { .. } = judge(&asked, &have, &head) {
                let start = format!("bytes {bytes}-");
                // Leading zeros are digits, too.
                let first: u64 = range[6..].split('-').next().unwrap().parse().unwrap();
                prop_assert_eq!(first, bytes, "{} for {}", range, start);
            }
        }
    }
}
