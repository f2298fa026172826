//! The settings of quota, `[[limits]]` and `[backoff]`: parsed strictly, with all faults found at once.
//!
//! The types of the sections are public, so that a larger document can contain them. [`limit_faults`] and
//! [`Backoff::faults`] check rules that the types cannot: ranges, names and useless combinations. Each fault is a pair of the
//! setting and a message that continues its name.

use super::calendar;
pub use super::calendar::Period;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Most limits of one document. Each limit that applies costs a call an operation of the store.
pub const MAX_LIMITS: usize = 64;
/// Longest name of a limit, in bytes. It appears in entry names, headers, messages and metrics.
pub const MAX_NAME_BYTES: usize = 64;
/// Largest `limit` and `burst`: the largest integer of a structured field (RFC 9651, section 3.3.1). Nine thousand
/// concurrent charges of this size still fit in a 64-bit counter.
pub const MAX_LIMIT: u64 = 999_999_999_999_999;
/// Longest window, in seconds: 31 days. Longer ones are calendar months.
pub const MAX_WINDOW_S: u64 = 31 * 86_400;
/// Longest `max_wait_ms`, ten seconds: a call that waits holds an instance.
pub const MAX_WAIT_MS: u64 = 10_000;
/// The default of `max_wait_ms`: a delay that users still accept.
pub const DEFAULT_MAX_WAIT_MS: u64 = 1_000;
/// Shortest `lease_s` in seconds: clocks that differ by [`super::CLOCK_SPREAD_MS`] must fall into neighbouring buckets, with
/// room for slow operations.
pub const MIN_LEASE_S: u64 = 10;
/// Longest `lease_s`, an hour: a crashed holder is forgotten after at most two of these.
pub const MAX_LEASE_S: u64 = 3_600;
/// The default of `lease_s`: twice the server's default deadline.
pub const DEFAULT_LEASE_S: u64 = 60;
/// Largest `lease_tokens` in units. Each instance may leave as many units unused.
pub const MAX_LEASE_TOKENS: u64 = 1_000;
/// Most entries of one filter, which are compared one by one.
pub const MAX_FILTER: usize = 256;
/// Longest entry of a filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 256;
/// Largest `max_retry_after_s` in seconds: a day.
pub const MAX_RETRY_AFTER_S: u64 = 86_400;

/// `[[limits]]` and `[backoff]` as a document of their own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaDocument {
    /// The limits, in the order in which they are charged.
    pub limits: Vec<Limit>,
    /// The back-off for callers that are refused repeatedly.
    pub backoff: Backoff,
}

impl QuotaDocument {
    /// Everything wrong with the document, as (setting, message); the message continues the
    /// setting's name. Empty when nothing is.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = limit_faults(&self.limits);
        faults.extend(self.backoff.faults());
        faults
    }
}

/// An entry of `[[limits]]`: a quota, and the calls that it counts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Its unique name in headers, messages and entry names.
    pub name: String,
    /// Each combination of these dimensions has its own quota; empty: all callers share one.
    #[serde(default)]
    pub per: Vec<Dimension>,
    /// Routes it applies to; empty: all.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Models it applies to; empty: all, and calls that name no model.
    #[serde(default)]
    pub models: Vec<String>,
    /// Tiers it applies to; empty: all.
    #[serde(default)]
    pub tiers: Vec<String>,
    /// Tenants it applies to; empty: all.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// The algorithm that counts calls.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Units in a window or a period; for `concurrency`, concurrent calls.
    pub limit: u64,
    /// Length of a window in seconds; for buckets, the time that restores `limit` units.
    pub window_s: Option<u64>,
    /// Units that may be used at once, for `token-bucket`; `limit` by default.
    pub burst: Option<u64>,
    /// Longest delay of a call in milliseconds, for `leaky-bucket`; beyond it the call is refused. [`DEFAULT_MAX_WAIT_MS`] by
    /// default.
    pub max_wait_ms: Option<u64>,
    /// Seconds after which the place of a call that was never released may be forgotten, for `concurrency`; at the latest
    /// after twice as many. It must be longer than the longest call. [`DEFAULT_LEASE_S`] by default.
    pub lease_s: Option<u64>,
    /// The period whose units are counted, for `calendar`.
    pub period: Option<Period>,
    /// The IANA time zone in which periods begin, for `calendar`; `UTC` by default.
    pub time_zone: Option<String>,
    /// The unit that it counts.
    #[serde(default)]
    pub unit: Unit,
    /// The treatment of calls while the store does not answer.
    #[serde(default)]
    pub on_store_failure: OnStoreFailure,
    /// Whether the limit only counts and reports, and never refuses.
    #[serde(default)]
    pub shadow: bool,
    /// Units that an instance may take ahead with one operation of the store; 0: none. For counters that many instances
    /// share. Each instance may leave up to this many units of a subject unused in a window.
    #[serde(default)]
    pub lease_tokens: u64,
}

/// A dimension that a limit counts separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// The tenant of the caller: all its keys share the quota.
    Tenant,
    /// The caller's API key within its tenant; anonymous callers share one quota.
    ApiKey,
    /// The caller's address, IPv6 by /64; callers with an unknown address share one quota.
    Address,
    /// The kind of route, such as `predict`.
    Route,
    /// The model; calls without a model share one quota.
    Model,
    /// The tier of the caller: all callers of a tier share the quota.
    Tier,
}

/// The algorithm of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Two counters; the older one fades out as the newer window passes.
    #[default]
    SlidingWindow,
    /// One counter for each window.
    FixedWindow,
    /// A bucket of `burst` units that refills evenly; needs a sound compare-and-swap.
    TokenBucket,
    /// Calls are spaced evenly and wait for their turn; needs a sound compare-and-swap.
    LeakyBucket,
    /// Counts the calls that run at the same moment, each until it ends.
    Concurrency,
    /// One counter for each day or month.
    Calendar,
}

impl Algorithm {
    /// The name in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding-window",
            Self::FixedWindow => "fixed-window",
            Self::TokenBucket => "token-bucket",
            Self::LeakyBucket => "leaky-bucket",
            Self::Concurrency => "concurrency",
            Self::Calendar => "calendar",
        }
    }
}

/// The unit that a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Each call counts as 1.
    #[default]
    Requests,
    /// Items of a batch, known once the body was validated.
    Items,
    /// Bytes of request bodies, as received.
    Bytes,
    /// Milliseconds that models ran, known afterwards.
    ComputeMs,
}

impl Unit {
    /// The name in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Items => "items",
            Self::Bytes => "bytes",
            Self::ComputeMs => "compute-ms",
        }
    }

    /// The name in messages to people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ComputeMs => "compute milliseconds",
            other => other.as_str(),
        }
    }
}

/// The treatment of calls while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStoreFailure {
    /// Such calls are refused. This is the default: otherwise a caller could lift a limit by overloading its store.
    #[default]
    Closed,
    /// They go on without a charge; [`super::StoreFailures`] counts them.
    Open,
}

/// The section `[backoff]`: callers that are refused again and again within a minute are slowed down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Whether `Retry-After` grows with the number of refusals.
    pub soft: bool,
    /// The number of refusals within a minute after which `Retry-After` doubles, again and again.
    pub double_every: u64,
    /// The most seconds to which `Retry-After` grows. The limit's own wait may be longer.
    pub max_retry_after_s: u64,
    /// The number of refusals within a minute after which every call is refused until the next minute has ended; 0 for
    /// never.
    pub hard_after: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            soft: true,
            double_every: 10,
            max_retry_after_s: 300,
            hard_after: 0,
        }
    }
}

impl Backoff {
    /// All faults of the section, as [`QuotaDocument::faults`] lists them.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if self.double_every == 0 {
            faults.push((
                "backoff.double_every".to_owned(),
                "must be at least 1; to keep Retry-After from growing, set soft = false".to_owned(),
            ));
        }
        if !(1..=MAX_RETRY_AFTER_S).contains(&self.max_retry_after_s) {
            faults.push((
                "backoff.max_retry_after_s".to_owned(),
                format!("must be between 1 and {MAX_RETRY_AFTER_S} seconds"),
            ));
        }
        if self.hard_after > MAX_LIMIT {
            faults.push((
                "backoff.hard_after".to_owned(),
                format!("must be at most {MAX_LIMIT}; 0 turns it off"),
            ));
        }
        faults
    }
}

/// All faults of `[[limits]]`, as [`QuotaDocument::faults`] lists them.
pub fn limit_faults(limits: &[Limit]) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    if limits.len() > MAX_LIMITS {
        faults.push((
            "limits".to_owned(),
            format!("has {} entries; {MAX_LIMITS} are allowed", limits.len()),
        ));
    }
    let mut names = BTreeSet::new();
    for (at, limit) in limits.iter().enumerate() {
        let mut fault = |setting: &str, message: String| {
            faults.push((format!("limits[{at}].{setting}"), message));
        };
        if !names.insert(limit.name.as_str()) {
            fault(
                "name",
                format!(
                    "`{}` is taken by a limit above; names are unique",
                    limit.name
                ),
            );
        }
        limit.find_faults(&mut fault);
    }
    faults
}

impl Limit {
    fn find_faults(&self, fault: &mut impl FnMut(&str, String)) {
        if !good_name(&self.name) {
            fault(
                "name",
                format!("must be 1 to {MAX_NAME_BYTES} characters of a-z, 0-9, - and _"),
            );
        }
        let dimensions: BTreeSet<_> = self.per.iter().collect();
        if dimensions.len() != self.per.len() {
            fault("per", "names something twice".to_owned());
        }
        for (setting, entries) in [
            ("routes", &self.routes),
            ("models", &self.models),
            ("tiers", &self.tiers),
            ("tenants", &self.tenants),
        ] {
            if entries.len() > MAX_FILTER {
                fault(
                    setting,
                    format!("has {} entries; {MAX_FILTER} are allowed", entries.len()),
                );
            }
            if entries
                .iter()
                .any(|e| e.is_empty() || e.len() > MAX_FILTER_BYTES)
            {
                fault(
                    setting,
                    format!("has an entry that is empty or longer than {MAX_FILTER_BYTES} bytes"),
                );
            }
        }
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            fault("limit", format!("must be between 1 and {MAX_LIMIT}"));
        }
        self.find_misplaced(fault);
        self.find_out_of_range(fault);
        self.find_unit_faults(fault);
    }

    /// Finds settings that are missing, and settings that have no effect. An operator that writes one of the latter
    /// expects an effect that does not exist.
    fn find_misplaced(&self, fault: &mut impl FnMut(&str, String)) {
        use Algorithm::{Calendar, Concurrency, LeakyBucket, TokenBucket};
        let algorithm = self.algorithm;
        let windowed = !matches!(algorithm, Concurrency | Calendar);
        if windowed && self.window_s.is_none() {
            fault(
                "window_s",
                format!("is missing; algorithm \"{}\" needs it", algorithm.as_str()),
            );
        }
        if algorithm == Calendar && self.period.is_none() {
            fault(
                "period",
                "is missing; algorithm \"calendar\" needs \"day\" or \"month\"".to_owned(),
            );
        }
        for (setting, present, allowed) in [
            ("window_s", self.window_s.is_some(), windowed),
            ("burst", self.burst.is_some(), algorithm == TokenBucket),
            (
                "max_wait_ms",
                self.max_wait_ms.is_some(),
                algorithm == LeakyBucket,
            ),
            ("lease_s", self.lease_s.is_some(), algorithm == Concurrency),
            ("period", self.period.is_some(), algorithm == Calendar),
            ("time_zone", self.time_zone.is_some(), algorithm == Calendar),
            (
                "lease_tokens",
                self.lease_tokens > 0,
                !matches!(algorithm, TokenBucket | LeakyBucket | Concurrency),
            ),
        ] {
            if present && !allowed {
                fault(
                    setting,
                    format!(
                        "has no meaning with algorithm \"{}\"; remove it or choose another algorithm",
                        algorithm.as_str()
                    ),
                );
            }
        }
    }

    fn find_out_of_range(&self, fault: &mut impl FnMut(&str, String)) {
        if self
            .window_s
            .is_some_and(|s| !(1..=MAX_WINDOW_S).contains(&s))
        {
            fault(
                "window_s",
                format!("must be between 1 and {MAX_WINDOW_S} seconds (31 days)"),
            );
        }
        if self.burst.is_some_and(|b| !(1..=MAX_LIMIT).contains(&b)) {
            fault("burst", format!("must be between 1 and {MAX_LIMIT}"));
        } else if let (Some(burst), Some(window_s)) = (self.burst, self.window_s)
            && u128::from(burst) * u128::from(window_s)
                > u128::from(MAX_WINDOW_S) * u128::from(self.limit)
        {
            fault(
                "burst",
                "takes longer than 31 days to be restored at this limit and window".to_owned(),
            );
        }
        if self.max_wait_ms.is_some_and(|ms| ms > MAX_WAIT_MS) {
            fault(
                "max_wait_ms",
                format!(
                    "must be at most {MAX_WAIT_MS} milliseconds; a call that waits holds an instance"
                ),
            );
        }
        if self
            .lease_s
            .is_some_and(|s| !(MIN_LEASE_S..=MAX_LEASE_S).contains(&s))
        {
            fault(
                "lease_s",
                format!("must be between {MIN_LEASE_S} and {MAX_LEASE_S} seconds"),
            );
        }
        if self.lease_tokens > MAX_LEASE_TOKENS {
            fault(
                "lease_tokens",
                format!("must be at most {MAX_LEASE_TOKENS}"),
            );
        }
        if let Some(name) = &self.time_zone
            && calendar::zone(name).is_none()
        {
            fault(
                "time_zone",
                format!(
                    "is not a time zone of the IANA database: `{name}`; write for example \"Europe/Berlin\""
                ),
            );
        }
    }

    fn find_unit_faults(&self, fault: &mut impl FnMut(&str, String)) {
        use Algorithm::{Concurrency, LeakyBucket, TokenBucket};
        match (self.algorithm, self.unit) {
            (Concurrency, unit) if unit != Unit::Requests => fault(
                "unit",
                format!("must be \"requests\" with algorithm \"concurrency\", which counts calls at once, not {}", unit.words()),
            ),
            (TokenBucket | LeakyBucket, Unit::ComputeMs) => fault(
                "unit",
                "\"compute-ms\" is known only afterwards; choose sliding-window, fixed-window or calendar".to_owned(),
            ),
            _ => {}
        }
        if self.lease_tokens > 0 && self.unit != Unit::Requests {
            fault(
                "lease_tokens",
                "is for unit \"requests\", of which every call costs one".to_owned(),
            );
        }
    }
}

fn good_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}
