//! Reads the `Prefer` header (RFC 7240): whether the client wants an operation instead of a result, and how long it waits. Decides
//! whether a call becomes an operation.

use crate::record::Request;
use penstock_core::negotiate::Events;
use penstock_core::{Code, Problem};
use penstock_policy::operations::words::Rules;

/// The most seconds that a client may wait for an operation in one request. Proxies commonly end requests after a minute.
pub(crate) const MAX_WAIT_S: u64 = 50;

/// The preference for an operation instead of a result (RFC 7240 §4.1).
pub(crate) const RESPOND_ASYNC: &str = "respond-async";

/// The preferences of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// The preference `respond-async`: the client takes an operation.
    pub respond_async: bool,
    /// The preference `wait`: the seconds that the client waits for a result, at most [`MAX_WAIT_S`].
    pub wait_s: Option<u64>,
}

impl Preferences {
    /// Reads the preferences of a request. A preference that is unknown or malformed is ignored, and of several equal ones
    /// the first counts
    /// (RFC 7240 §2).
    pub fn of(request: &Request) -> Self {
        let mut preferences = Self::default();
        let lines = request
            .headers
            .iter()
            .filter(|header| header.name == "prefer");
        for line in lines {
            let Ok(text) = std::str::from_utf8(&line.value) else {
                continue;
            };
            for preference in split(text, ',') {
                // Parameters follow a semicolon. None is defined for these preferences.
                let preference = split(preference, ';').next().unwrap_or_default();
                let (name, value) = match preference.split_once('=') {
                    Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
                    None => (preference.trim(), ""),
                };
                if name.eq_ignore_ascii_case(RESPOND_ASYNC) {
                    preferences.respond_async = true;
                } else if name.eq_ignore_ascii_case("wait") && preferences.wait_s.is_none() {
                    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                    // A number beyond 64 bits is a long wait nevertheless.
                    preferences.wait_s =
                        is_number.then(|| value.parse().unwrap_or(MAX_WAIT_S).min(MAX_WAIT_S));
                }
            }
        }
        preferences
    }

    /// The milliseconds that the client waits.
    pub fn wait_ms(&self) -> u64 {
        self.wait_s.unwrap_or(0) * 1_000
    }
}

/// The facts that decide whether a call becomes an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deferral {
    /// Whether the method asks for it: `:predictAsync`.
    pub demanded: bool,
    /// The preferences of the request.
    pub preferences: Preferences,
    /// Whether the caller accepts the events of the operation instead of a result.
    pub events: Events,
    /// Whether the host has no room for another event stream.
    pub streams_full: bool,
    /// Whether the call may become one: it is no stream.
    pub possible: bool,
}

/// Seconds after which a client should ask for an event stream again while the host has no room for it. Streams end with their
/// operations, so places become free within seconds.
const RETRY_STREAM_S: u32 = 5;

/// The problem of a request for an event stream while the host has no room for one.
pub(crate) fn no_stream() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the server has as many event streams as it may have (operations.max_streams), and opened none for this request; try again, or \
         accept application/json",
    )
    .retry_after(RETRY_STREAM_S)
}

impl Deferral {
    /// Returns whether a call may become an operation, before its number of items is known.
    pub fn may_apply(self, rules: &Rules) -> bool {
        let asked = self.demanded || self.preferences.respond_async || self.events != Events::No;
        self.possible && rules.enabled && (asked || rules.from_items > 0)
    }

    /// Decides for a call of some items.
    pub fn decide(self, rules: &Rules, items: u64) -> Result<bool, Problem> {
        if self.demanded && !rules.enabled {
            return Err(Problem::new(
                Code::NotSupported,
                "there are no operations here; the operator enables them with `[operations]` `enabled = true`. Call the method \
                 without `Async`",
            ));
        }
        if self.events == Events::Only && !rules.enabled {
            return Err(Problem::new(
                Code::NotAcceptable,
                "this call has an event stream only as an operation, and there are no operations here; the operator enables them with \
                 `[operations]` `enabled = true`. Accept application/json",
            ));
        }
        let streamed = self.is_streamed(rules);
        if streamed && self.streams_full {
            return Err(no_stream());
        }
        let by_size = rules.from_items > 0 && items >= rules.from_items;
        let wanted = self.demanded || self.preferences.respond_async || streamed || by_size;
        Ok(self.possible && rules.enabled && wanted)
    }

    /// Returns whether the answer is the event stream of the operation that the call becomes.
    pub fn is_streamed(self, rules: &Rules) -> bool {
        self.possible && rules.enabled && self.events != Events::No
    }
}

/// Splits a text at a character outside of quoted strings.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == at && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;

    fn read(lines: &[&str]) -> (bool, Option<u64>) {
        let headers = lines.iter().map(|line| Header {
            name: "prefer".to_owned(),
            value: line.as_bytes().to_vec(),
        });
        let read = Preferences::of(&Request {
            method: "POST".to_owned(),
            target: "/".to_owned(),
            headers: headers.collect(),
            body: Vec::new().into(),
        });
        (read.respond_async, read.wait_s)
    }

    #[test]
    fn a_caller_that_accepts_events_gets_an_operation_where_there_are_operations_and_room() {
        for (events, enabled, full, expected) in [
            (Events::No, true, false, Ok(false)),
            (Events::No, true, true, Ok(false)),
            (Events::Preferred, true, false, Ok(true)),
            (Events::Only, true, false, Ok(true)),
            (Events::Only, true, true, Err(Code::Overloaded)),
            (Events::Preferred, true, true, Err(Code::Overloaded)),
            (Events::Preferred, false, false, Ok(false)),
            (Events::Preferred, false, true, Ok(false)),
            (Events::Only, false, false, Err(Code::NotAcceptable)),
        ] {
            let rules = Rules {
                enabled,
                ..Rules::default()
            };
            let deferral = Deferral {
                events,
                streams_full: full,
                possible: true,
                ..Deferral::default()
            };
            let decided = deferral.decide(&rules, 1).map_err(|problem| problem.code);
            assert_eq!(decided, expected, "{events:?} {enabled} {full}");
        }
    }

    #[test]
    fn the_preferences_of_rfc_7240_are_read_and_others_are_ignored() {
        for (lines, expected) in [
            (&[][..], (false, None)),
            (&["respond-async"], (true, None)),
            (&["respond-async, wait=10"], (true, Some(10))),
            (&["wait=10", "respond-async"], (true, Some(10))),
            (
                &["Respond-Async; foo=\"a,b\" , WAIT = \"7\""],
                (true, Some(7)),
            ),
            (&["wait=5, wait=9"], (false, Some(5))),
            (&["wait=100000000000000000000000"], (false, Some(50))),
            (&["wait=0"], (false, Some(0))),
            (&["wait=-1"], (false, None)),
            (&["wait"], (false, None)),
            (&["wait=1.5, wait=2"], (false, Some(2))),
            (&["foo=\"respond-async, wait=3\""], (false, None)),
            (&["return=minimal, handling=lenient"], (false, None)),
            (&[",,;=,\"", "respond-async"], (true, None)),
        ] {
            assert_eq!(read(lines), expected, "{lines:?}");
        }
    }
}
