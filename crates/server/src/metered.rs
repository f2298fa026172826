//! Counts the requests, connections and operations of a server.

use super::headers::SEEN;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use penstock_core::Code;
use penstock_core::metrics::note::{self, Seen};
use penstock_core::metrics::requests::{CLIENT_LEFT, CLIENT_LEFT_STATUS};
use penstock_core::metrics::{CacheResult, Observed, Requests};
use penstock_policy::webhooks::delivery::EventKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The results of operations, in the order of their counters.
pub(crate) const ENDS: [EventKind; 3] = [
    EventKind::Succeeded,
    EventKind::Failed,
    EventKind::Cancelled,
];

/// The counters of a server. Counting takes no lock.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    /// Connections that were served.
    pub(crate) opened: AtomicU64,
    /// Connections that were refused.
    pub(crate) refused: AtomicU64,
    /// Operations that ended here, in the order of [`ENDS`].
    pub(crate) ended: [AtomicU64; ENDS.len()],
}

impl Metrics {
    /// Counts an operation that this server has ended.
    pub(crate) fn operation_ended(&self, end: EventKind) {
        let mut ends = ENDS.iter().zip(&self.ended);
        if let Some((_, counter)) = ends.find(|(kind, _)| **kind == end) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A request that is counted. If it is dropped before its end, its client has left.
pub(crate) struct Metered<'s> {
    requests: &'s Requests,
    begun: Instant,
    has_ended: bool,
}

/// The facts about the answer of a counted request.
pub(crate) struct Answered<'a> {
    /// The gate's note, if components answered.
    pub(crate) note: Option<&'a HeaderValue>,
    /// The headers of the answer.
    pub(crate) headers: Option<&'a HeaderMap>,
    /// The HTTP status. A code overrides it.
    pub(crate) status: u16,
    /// The code, if the server itself refused.
    pub(crate) code: Option<Code>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Takes the gate's note out of an answer.
pub(crate) fn take_note(response: &mut Response<Bytes>) -> Option<HeaderValue> {
    response.headers_mut().remove(&SEEN)
}

impl<'s> Metered<'s> {
    /// Counts a request that began.
    pub(crate) fn begin(metrics: &'s Metrics, begun: Instant) -> Self {
        metrics.requests.begin();
        Self {
            requests: &metrics.requests,
            begun,
            has_ended: false,
        }
    }

    /// Counts the end of a request.
    pub(crate) fn end(mut self, answered: &Answered<'_>) {
        self.has_ended = true;
        let observed = observed(answered, self.begun.elapsed());
        self.requests.end(&observed);
    }
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.requests.end(&Observed {
                route: None,
                model: None,
                status: CLIENT_LEFT_STATUS,
                code: Some(CLIENT_LEFT),
                duration: self.begun.elapsed(),
                bytes_in: 0,
                bytes_out: 0,
                is_replay: false,
                cache: None,
            });
        }
    }
}

fn observed<'a>(answered: &Answered<'a>, duration: Duration) -> Observed<'a> {
    let header = |name: &str| answered.headers?.get(name)?.to_str().ok();
    let seen = answered.note.and_then(|note| note.to_str().ok());
    let seen = seen.map(Seen::read).unwrap_or_default();
    let code = answered.code.or(seen.code);
    Observed {
        route: seen.route,
        model: note::named(seen.model, header("x-model-version")),
        status: code.map_or(answered.status, Code::status),
        code: code.map(Code::as_str),
        duration,
        bytes_in: answered.bytes_in,
        bytes_out: answered.bytes_out,
        is_replay: header("idempotency-replayed").is_some(),
        cache: header("cache-status").map(CacheResult::of_header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_core::RouteKind;
    use penstock_core::metrics::{Format, Text};

    #[test]
    fn the_facts_of_an_answer_come_from_the_note_and_from_its_headers() {
        let note = HeaderValue::from_static("predict invalid_inputs digits");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-model-version", "3"),
            ("idempotency-replayed", "true"),
            ("cache-status", "penstock; hit; ttl=1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut answered = Answered {
            note: Some(&note),
            headers: Some(&headers),
            // Over gRPC the status is 200.
            status: 200,
            code: None,
            bytes_in: 1,
            bytes_out: 2,
        };
        let seen = observed(&answered, Duration::from_millis(1));
        assert_eq!(seen.route, Some(RouteKind::Predict));
        assert_eq!(seen.model, Some(("digits", "3")));
        assert_eq!((seen.status, seen.code), (422, Some("invalid_inputs")));
        assert_eq!(seen.cache, Some(CacheResult::Hit));
        assert!(seen.is_replay);
        answered.note = None;
        answered.code = Some(Code::Overloaded);
        let seen = observed(&answered, Duration::ZERO);
        assert_eq!((seen.route, seen.model), (None, None));
        assert_eq!((seen.status, seen.code), (503, Some("overloaded")));
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_counts_as_one_whose_client_left() {
        let metrics = Metrics::default();
        drop(Metered::begin(&metrics, Instant::now()));
        let mut text = Text::new(Format::Prometheus);
        metrics.requests.write(&mut text);
        let text = String::from_utf8(text.finish()).unwrap();
        assert!(text.contains("http_server_active_requests 0\n"), "{text}");
        let error = "penstock_request_errors_total{route=\"none\",model=\"\",version=\"\",code=\"client_left\"} 1\n";
        assert!(text.contains(error), "{text}");
    }
}
