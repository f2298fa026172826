//! Counts requests: durations, sizes, errors, replays, results of the cache. Counting takes no lock, and no memory once a
//! combination of route, model, version and status was seen.
//!
//! A client cannot choose a label. Routes, statuses and codes are lists of this program. A model is counted by name only if an
//! answer names a version of it, so that it exists. Beyond the bounds of the tables, models are counted as [`OTHER`].

use super::families as f;
use super::histogram::{BODY_SIZE, Distribution, Histogram, REQUEST_DURATION};
use super::table::{Table, hash};
use super::text::Text;
use crate::route_kind::RouteKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Histograms of durations for models by name. A model uses one for each of its routes and classes of status, usually three. With
/// 200 bytes a line they are about 0.8 MiB of a scrape.
pub const MAX_NAMED_DURATIONS: usize = 192;
/// Counters of errors for models by name.
pub const MAX_NAMED_ERRORS: usize = 256;
/// The model of requests for which the tables have no room.
pub const OTHER: &str = "other";
/// The route of requests without a kind of route.
pub const NO_ROUTE: &str = "none";
/// The code of an answer with an error status and without a code.
pub const NO_CODE: &str = "none";
/// The code of a request whose client disconnected before the answer, as in the audit log.
pub const CLIENT_LEFT: &str = "client_left";
/// The status of such a request.
pub const CLIENT_LEFT_STATUS: u16 = 499;

/// The routes, and one more for requests without any.
const ROUTES: usize = RouteKind::ALL.len() + 1;
/// The classes of a status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Durations that are not of a model by name: those without a model, and those of models without room.
const UNNAMED_DURATIONS: usize = 2 * ROUTES * CLASSES.len();
/// The most codes of errors for which there is always room. The catalogue has fewer, and a test holds it to that.
const CODES: usize = 72;
/// Errors that are not of a model by name.
const UNNAMED_ERRORS: usize = 2 * ROUTES * CODES;

/// The origin of a result of a model with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// The cache had it.
    Hit,
    /// An equal call that ran at the same time had it.
    Collapsed,
    /// The model ran, because the cache did not have it.
    Miss,
    /// The model ran without a look into the cache.
    Bypass,
}

impl CacheResult {
    const ALL: [Self; 4] = [Self::Hit, Self::Collapsed, Self::Miss, Self::Bypass];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }

    /// Reads the header `Cache-Status` of an answer (RFC 9211).
    pub fn of_header(value: &str) -> Self {
        let has = |word: &str| value.split(';').any(|part| part.trim() == word);
        if has("hit") {
            Self::Hit
        } else if has("collapsed") {
            Self::Collapsed
        } else if has("fwd=miss") {
            Self::Miss
        } else {
            Self::Bypass
        }
    }
}

/// The facts about a request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The kind of route, if the path has one.
    pub route: Option<RouteKind>,
    /// The name and the version of a model that exists.
    pub model: Option<(&'a str, &'a str)>,
    /// The HTTP status. Over gRPC, that of the error's code.
    pub status: u16,
    /// The code of the error, from the catalogue, or [`CLIENT_LEFT`].
    pub code: Option<&'static str>,
    /// The time from the end of the head to the answer.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Whether the answer is a replay.
    pub is_replay: bool,
    /// The origin of the result, if the model has a cache.
    pub cache: Option<CacheResult>,
}

#[derive(Debug)]
struct DurationKey {
    route: u8,
    class: u8,
    model: Box<str>,
    version: Box<str>,
}

#[derive(Debug)]
struct ErrorKey {
    route: u8,
    code: &'static str,
    model: Box<str>,
    version: Box<str>,
}

/// The counters of all requests of a server.
#[derive(Debug)]
pub struct Requests {
    durations: Table<DurationKey, Histogram>,
    errors: Table<ErrorKey, AtomicU64>,
    sizes: [(Histogram, Histogram); ROUTES],
    active: AtomicU64,
    replays: AtomicU64,
    cache: [AtomicU64; CacheResult::ALL.len()],
}

impl Default for Requests {
    fn default() -> Self {
        let sizes = |_| (Histogram::new(&BODY_SIZE), Histogram::new(&BODY_SIZE));
        Self {
            durations: Table::new(MAX_NAMED_DURATIONS, UNNAMED_DURATIONS),
            errors: Table::new(MAX_NAMED_ERRORS, UNNAMED_ERRORS),
            sizes: std::array::from_fn(sizes),
            active: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            cache: Default::default(),
        }
    }
}

impl Requests {
    /// Counts a request that began.
    pub fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that began and has ended.
    pub fn end(&self, observed: &Observed<'_>) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.count(observed);
    }

    /// Counts an answer that was not counted as begun, such as the end of a stream.
    pub fn count(&self, observed: &Observed<'_>) {
        let route = index_of(observed.route);
        let class = class_of(observed.status);
        let nanos = u64::try_from(observed.duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(histogram) = self.duration(route, class, observed.model) {
            histogram.observe(nanos);
        }
        if let Some((bytes_in, bytes_out)) = self.sizes.get(usize::from(route)) {
            bytes_in.observe(observed.bytes_in);
            bytes_out.observe(observed.bytes_out);
        }
        if observed.status >= 400 || observed.code.is_some() {
            let code = observed.code.unwrap_or(NO_CODE);
            if let Some(counter) = self.error(route, code, observed.model) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        if observed.is_replay {
            self.replays.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(result) = observed.cache
            && let Some(counter) = self.cache.get(result as usize)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn duration(&self, route: u8, class: u8, model: Option<(&str, &str)>) -> Option<&Histogram> {
        let find = |(model, version): (&str, &str), is_named: bool| {
            let hash = hash(&[&[route, class], model.as_bytes(), version.as_bytes()]);
            let is = |key: &DurationKey| {
                key.route == route
                    && key.class == class
                    && *key.model == *model
                    && *key.version == *version
            };
            let make = || {
                let key = DurationKey {
                    route,
                    class,
                    model: model.into(),
                    version: version.into(),
                };
                (key, Histogram::new(&REQUEST_DURATION))
            };
            match is_named {
                true => self.durations.bounded(hash, is, make),
                false => self.durations.reserved(hash, is, make),
            }
        };
        match model {
            Some(model) => find(model, true).or_else(|| find((OTHER, ""), false)),
            None => find(("", ""), false),
        }
    }

    fn error(
        &self,
        route: u8,
        code: &'static str,
        model: Option<(&str, &str)>,
    ) -> Option<&AtomicU64> {
        let find = |(model, version): (&str, &str), is_named: bool| {
            let parts = [
                &[route],
                code.as_bytes(),
                model.as_bytes(),
                version.as_bytes(),
            ];
            let is = |key: &ErrorKey| {
                key.route == route
                    && key.code == code
                    && *key.model == *model
                    && *key.version == *version
            };
            let make = || {
                let key = ErrorKey {
                    route,
                    code,
                    model: model.into(),
                    version: version.into(),
                };
                (key, AtomicU64::new(0))
            };
            match is_named {
                true => self.errors.bounded(hash(&parts), is, make),
                false => self.errors.reserved(hash(&parts), is, make),
            }
        };
        match model {
            Some(model) => find(model, true).or_else(|| find((OTHER, ""), false)),
            None => find(("", ""), false),
        }
    }

    /// Writes the families of requests.
    pub fn write(&self, text: &mut Text) {
        let active = self.active.load(Ordering::Relaxed);
        text.single(&f::ACTIVE_REQUESTS, active);
        text.single(&f::REPLAYS, self.replays.load(Ordering::Relaxed));
        let mut rows = text.family(&f::CACHE_RESULTS);
        for (result, counter) in CacheResult::ALL.iter().zip(&self.cache) {
            rows.value(&[result.as_str()], counter.load(Ordering::Relaxed));
        }
        type Side = fn(&(Histogram, Histogram)) -> &Histogram;
        let sides: [(_, Side); 2] = [
            (&f::REQUEST_BYTES, |sizes| &sizes.0),
            (&f::RESPONSE_BYTES, |sizes| &sizes.1),
        ];
        for (family, side) in sides {
            let mut rows = text.family(family);
            for (route, sizes) in self.sizes.iter().enumerate() {
                let read = side(sizes).read();
                if read.count() > 0 {
                    rows.histogram(&[route_word(route)], &read);
                }
            }
        }
        let mut errors: Vec<(&ErrorKey, u64)> = (self.errors.entries())
            .map(|(key, counter)| (key, counter.load(Ordering::Relaxed)))
            .collect();
        errors.sort_by_key(|(key, _)| (key.route, &key.model, &key.version, key.code));
        let mut rows = text.family(&f::REQUEST_ERRORS);
        for (key, count) in errors {
            let route = route_word(key.route.into());
            rows.value(&[route, &key.model, &key.version, key.code], count);
        }
        let mut durations: Vec<(&DurationKey, Distribution)> = (self.durations.entries())
            .map(|(key, histogram)| (key, histogram.read()))
            .collect();
        durations.sort_by_key(|(key, _)| (key.route, &key.model, &key.version, key.class));
        let mut rows = text.family(&f::REQUEST_DURATION);
        for (key, read) in durations {
            let route = route_word(key.route.into());
            let class = CLASSES.get(usize::from(key.class)).copied();
            let labels = [route, &key.model, &key.version, class.unwrap_or_default()];
            rows.histogram(&labels, &read);
        }
    }
}

/// The place of a route in [`RouteKind::ALL`], or the one after them.
fn index_of(route: Option<RouteKind>) -> u8 {
    let place = route.and_then(|route| RouteKind::ALL.iter().position(|kind| *kind == route));
    place.unwrap_or(RouteKind::ALL.len()) as u8
}

fn route_word(index: usize) -> &'static str {
    RouteKind::ALL
        .get(index)
        .map_or(NO_ROUTE, |kind| kind.as_str())
}

/// The place of a status in [`CLASSES`]. A status outside of them counts as the server's fault.
fn class_of(status: u16) -> u8 {
    match status {
        100..=599 => (status / 100 - 1) as u8,
        _ => 4,
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
