//! Decides the effect of a request's `Cache-Control`, and the headers that report the cache.
//!
//! Requests (RFC 9111 §5.2.1): `no-store` neither reads nor stores; `no-cache` runs and stores; `max-age` and `min-fresh`
//! bound the age of a result; `only-if-cached` never runs. `max-stale` is ignored, because no stale result is ever returned;
//! so are unknown directives. Contradictory directives all apply.
//!
//! Answers carry `Cache-Status` (RFC 9211), and `Age` (RFC 9111 §5.1) if they come from another request. They have no
//! `max-age`: they answer POST requests, which other caches do not store (RFC 9110 §9.3.3).

/// The largest number of seconds in a directive (RFC 9111 §1.2.2).
const MAX_DELTA_S: u64 = 1 << 31;

/// The name of this cache in `Cache-Status`.
const NAME: &str = "penstock";

/// The directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `no-cache`: use no stored result.
    pub no_cache: bool,
    /// `no-store`: use no stored result, and do not store the result of this call.
    pub no_store: bool,
    /// Do not run the model.
    pub only_if_cached: bool,
    /// The largest age of a result, in seconds.
    pub max_age_s: Option<u64>,
    /// The time for which a result must stay fresh, in seconds.
    pub min_fresh_s: Option<u64>,
}

/// The use of the cache for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Whether to look for a result.
    pub look: bool,
    /// Whether to store the result of a run.
    pub keep: bool,
    /// Whether a run is forbidden.
    pub only_if_cached: bool,
    /// The earliest time of a usable result, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A result from the store; the model did not run.
    Hit {
        /// The time at which it was stored, in milliseconds since the Unix epoch.
        kept_ms: u64,
    },
    /// The run of another request, for which this one waited.
    Collapsed {
        /// The time at which its result was stored, in milliseconds since the Unix epoch.
        kept_ms: u64,
    },
    /// A run, because no result was stored.
    Miss {
        /// Whether its result was stored.
        stored: bool,
    },
    /// A run, because the request asked for one.
    Asked {
        /// Whether its result was stored.
        stored: bool,
    },
    /// A run without the cache.
    Bypass(Why),
}

/// The reason why a run did not use the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another call's run had the place, or a run of the same call took too long.
    Busy,
    /// The result of this call is too large to store.
    TooLarge,
    /// The store did not answer.
    StoreFailure,
}

impl Why {
    /// The word for it in `Cache-Status`.
    fn detail(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::TooLarge => "too-large",
            Self::StoreFailure => "store-failure",
        }
    }
}

impl Directives {
    /// Parses all `Cache-Control` fields of a request. A number that is not valid counts as the strictest value.
    pub fn parse<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut directives = Self::default();
        for field in fields {
            for directive in split(field) {
                directives.add(directive);
            }
        }
        directives
    }

    fn add(&mut self, directive: &[u8]) {
        let (name, argument) = match directive.iter().position(|b| *b == b'=') {
            Some(at) => (&directive[..at], Some(&directive[at + 1..])),
            None => (directive, None),
        };
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            let seconds = delta_seconds(argument).unwrap_or(0);
            self.max_age_s = Some(self.max_age_s.map_or(seconds, |least| least.min(seconds)));
        } else if is("min-fresh") {
            let seconds = delta_seconds(argument).unwrap_or(MAX_DELTA_S);
            self.min_fresh_s = Some(self.min_fresh_s.map_or(seconds, |most| most.max(seconds)));
        }
    }

    /// The use of the cache, with results of a time to live of `ttl_s` seconds.
    pub fn options(&self, ttl_s: u64, now_ms: u64) -> CacheOptions {
        let fresh_s = ttl_s.saturating_sub(self.min_fresh_s.unwrap_or(0));
        let age_s = self.max_age_s.unwrap_or(u64::MAX).min(fresh_s);
        let asked_for_more = self.min_fresh_s.is_some_and(|more| more >= ttl_s);
        CacheOptions {
            look: !(self.no_cache || self.no_store || asked_for_more),
            keep: !self.no_store,
            only_if_cached: self.only_if_cached,
            since_ms: now_ms.saturating_sub(age_s.saturating_mul(1_000)),
        }
    }
}

/// The directives of one field: its parts between commas outside quotes.
fn split(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    field
        .split(move |byte| {
            if escaped {
                escaped = false;
                return false;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' => return !quoted,
                _ => {}
            }
            false
        })
        .map(<[u8]>::trim_ascii)
}

/// A number of seconds, as a token or in quotes.
fn delta_seconds(argument: Option<&[u8]>) -> Option<u64> {
    let text = argument?.trim_ascii();
    let text = match text {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    };
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = text.iter().try_fold(0u64, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    Some(seconds.unwrap_or(MAX_DELTA_S).min(MAX_DELTA_S))
}

impl Served {
    /// Combines the origins of the parts of an answer: the one least like a hit, with the age of the oldest.
    pub fn and(self, other: Self) -> Self {
        let rank = |served: &Self| match served {
            Self::Hit { .. } => 0,
            Self::Collapsed { .. } => 1,
            Self::Miss { .. } => 2,
            Self::Asked { .. } => 3,
            Self::Bypass(_) => 4,
        };
        let (one, other) = match rank(&self) >= rank(&other) {
            true => (self, other),
            false => (other, self),
        };
        let older = |kept_ms: u64| match other {
            Self::Hit { kept_ms: other } | Self::Collapsed { kept_ms: other } => kept_ms.min(other),
            _ => kept_ms,
        };
        match (one, other) {
            (Self::Hit { kept_ms }, _) => Self::Hit {
                kept_ms: older(kept_ms),
            },
            (Self::Collapsed { kept_ms }, _) => Self::Collapsed {
                kept_ms: older(kept_ms),
            },
            (Self::Miss { stored }, Self::Miss { stored: other }) => Self::Miss {
                stored: stored && other,
            },
            (Self::Asked { stored }, Self::Asked { stored: other }) => Self::Asked {
                stored: stored && other,
            },
            (one, _) => one,
        }
    }

    /// The headers for this origin, with results of a time to live of `ttl_s` seconds.
    pub fn headers(&self, ttl_s: u64, now_ms: u64) -> Vec<(&'static str, String)> {
        let age_s = |kept_ms: u64| now_ms.saturating_sub(kept_ms) / 1_000;
        let stored = |stored: bool| if stored { "; stored" } else { "" };
        let status = match *self {
            Self::Hit { kept_ms } => {
                let left_s = ttl_s.saturating_sub(age_s(kept_ms));
                format!("{NAME}; hit; ttl={left_s}")
            }
            Self::Collapsed { .. } => format!("{NAME}; fwd=miss; collapsed"),
            Self::Miss { stored: kept } => format!("{NAME}; fwd=miss{}", stored(kept)),
            Self::Asked { stored: kept } => format!("{NAME}; fwd=request{}", stored(kept)),
            Self::Bypass(why) => format!("{NAME}; fwd=bypass; detail={}", why.detail()),
        };
        let mut headers = vec![("cache-status", status)];
        if let Self::Hit { kept_ms } | Self::Collapsed { kept_ms } = *self {
            headers.push(("age", age_s(kept_ms).to_string()));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(field: &str) -> Directives {
        Directives::parse([field.as_bytes()])
    }

    #[test]
    fn directives_are_read_as_the_rfc_writes_them() {
        let none = Directives::default();
        for (field, expected) in [
            ("", none),
            ("max-stale=9, no-transform, x=\"no-store, no-cache\"", none),
            ("x=\"a\\\", no-store\"", none),
            ("no-cachet, nocache, =no-store", none),
            (
                "No-Cache",
                Directives {
                    no_cache: true,
                    ..none
                },
            ),
            (
                "no-cache=\"x\" , no-store",
                Directives {
                    no_cache: true,
                    no_store: true,
                    ..none
                },
            ),
            (
                ",, only-if-cached",
                Directives {
                    only_if_cached: true,
                    ..none
                },
            ),
            (
                "max-age=30",
                Directives {
                    max_age_s: Some(30),
                    ..none
                },
            ),
            (
                "max-age = \"30\"",
                Directives {
                    max_age_s: Some(30),
                    ..none
                },
            ),
            (
                "max-age=30, max-age=3",
                Directives {
                    max_age_s: Some(3),
                    ..none
                },
            ),
            (
                "max-age=-1",
                Directives {
                    max_age_s: Some(0),
                    ..none
                },
            ),
            (
                "max-age",
                Directives {
                    max_age_s: Some(0),
                    ..none
                },
            ),
            (
                "max-age=\"",
                Directives {
                    max_age_s: Some(0),
                    ..none
                },
            ),
            (
                "max-age=99999999999999999999999",
                Directives {
                    max_age_s: Some(MAX_DELTA_S),
                    ..none
                },
            ),
            (
                "min-fresh=5,min-fresh=7",
                Directives {
                    min_fresh_s: Some(7),
                    ..none
                },
            ),
            (
                "min-fresh=x",
                Directives {
                    min_fresh_s: Some(MAX_DELTA_S),
                    ..none
                },
            ),
        ] {
            assert_eq!(parse(field), expected, "{field}");
        }
        let fields = [b"no-store".as_slice(), b"\xff, max-age=1"];
        let both = Directives {
            no_store: true,
            max_age_s: Some(1),
            ..none
        };
        assert_eq!(Directives::parse(fields), both);
    }

    #[test]
    fn options_follow_from_the_strictest_of_what_is_asked() {
        let told = |field: &str| {
            let options = parse(field).options(60, 1_000_000);
            (
                options.look,
                options.keep,
                options.only_if_cached,
                options.since_ms,
            )
        };
        for (field, expected) in [
            ("", (true, true, false, 940_000)),
            ("no-cache", (false, true, false, 940_000)),
            ("no-store", (false, false, false, 940_000)),
            ("max-age=10", (true, true, false, 990_000)),
            ("max-age=600", (true, true, false, 940_000)),
            ("max-age=0", (true, true, false, 1_000_000)),
            ("min-fresh=50", (true, true, false, 990_000)),
            ("min-fresh=60", (false, true, false, 1_000_000)),
            ("min-fresh=50, max-age=3", (true, true, false, 997_000)),
            ("only-if-cached", (true, true, true, 940_000)),
        ] {
            assert_eq!(told(field), expected, "{field}");
        }
        // A time to live longer than time itself.
        assert_eq!(parse("").options(u64::MAX, 5).since_ms, 0);
    }

    #[test]
    fn an_answer_says_where_it_came_from_and_how_old_it_is() {
        for (served, status, age) in [
            (
                Served::Hit { kept_ms: 7_100 },
                "penstock; hit; ttl=58",
                Some("2"),
            ),
            (
                Served::Hit { kept_ms: 99_000 },
                "penstock; hit; ttl=60",
                Some("0"),
            ),
            (
                Served::Collapsed { kept_ms: 9_900 },
                "penstock; fwd=miss; collapsed",
                Some("0"),
            ),
            (
                Served::Miss { stored: true },
                "penstock; fwd=miss; stored",
                None,
            ),
            (Served::Miss { stored: false }, "penstock; fwd=miss", None),
            (
                Served::Asked { stored: true },
                "penstock; fwd=request; stored",
                None,
            ),
            (
                Served::Bypass(Why::StoreFailure),
                "penstock; fwd=bypass; detail=store-failure",
                None,
            ),
        ] {
            let headers = served.headers(60, 10_000);
            let value = |name: &str| {
                headers
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| v.as_str())
            };
            assert_eq!(value("cache-status"), Some(status));
            assert_eq!(value("age"), age);
        }
    }

    #[test]
    fn an_answer_of_several_is_as_old_as_its_oldest_and_no_hit_unless_all_are() {
        let hit = |kept_ms| Served::Hit { kept_ms };
        let collapsed = |kept_ms| Served::Collapsed { kept_ms };
        let miss = |stored| Served::Miss { stored };
        for (one, other, both) in [
            (hit(5), hit(3), hit(3)),
            (collapsed(5), hit(3), collapsed(3)),
            (hit(3), miss(true), miss(true)),
            (miss(false), miss(true), miss(false)),
            (
                miss(true),
                Served::Bypass(Why::Busy),
                Served::Bypass(Why::Busy),
            ),
            (
                Served::Asked { stored: true },
                Served::Asked { stored: false },
                Served::Asked { stored: false },
            ),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
    }
}
