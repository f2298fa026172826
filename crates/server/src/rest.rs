//! Decides when an HTTP/1 connection without activity is closed: an idle one between two requests, and one with an
//! incomplete request.
//!
//! hyper has one limit for both, from the last answer to the end of the next head. An idle connection is worth keeping
//! for longer than a head may take. So hyper's limit is off, and this module reads the bytes in parallel.

use super::drain;
use super::framing::{Follower, Seen};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The known facts about the requests on a connection, for the reader, the service and the timer.
#[derive(Clone, Debug)]
pub struct Heads(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    follower: Follower,
    /// Requests that are being answered.
    requests: usize,
    /// Whether there was an earlier request.
    served: bool,
    /// The time when the last request ended, or the connection was opened.
    quiet_since: Instant,
    /// The time when the incomplete head began.
    head_since: Option<Instant>,
}

/// Times for which nothing may arrive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a head to its last, and until the first byte of the first head.
    pub head: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
}

/// The decision about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it, and look again at this time. A head may begin before.
    Wait(Instant),
    /// Close it after its last answer was sent.
    Close,
    /// End it: its request stays incomplete.
    End,
}

impl State {
    /// Updates the state after any event.
    fn settle(&mut self, now: Instant) {
        if self.requests > 0 || self.follower.is_between_requests() {
            self.head_since = None;
        } else if self.head_since.is_none() {
            self.head_since = Some(now);
        }
    }

    fn verdict(&self, now: Instant, limits: Limits, closing_since: Option<Instant>) -> Verdict {
        let (end, verdict) = match self.head_since {
            _ if self.requests > 0 => return Verdict::Wait(now + limits.head),
            // A connection that never served a request has nothing to flush.
            Some(since) if self.served => (since + limits.head, Verdict::Close),
            Some(since) => (since + limits.head, Verdict::End),
            None => {
                let (since, limit, last) = match self.served {
                    true => (self.quiet_since, limits.idle, drain::IDLE),
                    false => (self.quiet_since, limits.head, drain::FRESH),
                };
                let end = since + limit;
                let last = closing_since.map(|closing| since.max(closing) + last);
                (last.map_or(end, |last| end.min(last)), Verdict::Close)
            }
        };
        if end > now {
            Verdict::Wait(end)
        } else {
            verdict
        }
    }
}

impl Heads {
    /// The state of a new connection.
    pub fn new(max_head_bytes: usize, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            follower: Follower::new(max_head_bytes),
            requests: 0,
            served: false,
            quiet_since: now,
            head_since: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes that arrived.
    pub fn read(&self, bytes: &[u8], now: Instant) {
        let mut state = self.state();
        state.follower.read(bytes);
        state.settle(now);
    }

    /// Counts a request that is handed over until the guard is dropped, and returns the finding of its framing.
    pub fn request(&self) -> (Seen, Working) {
        let mut state = self.state();
        state.requests += 1;
        state.served = true;
        state.head_since = None;
        (state.follower.next(), Working(self.clone()))
    }

    /// Decides about the connection. `closing_since` is the time when the listener was closed.
    pub fn verdict(&self, now: Instant, limits: Limits, closing_since: Option<Instant>) -> Verdict {
        self.state().verdict(now, limits, closing_since)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Working(Heads);

impl Drop for Working {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.0.state();
        state.requests -= 1;
        state.quiet_since = now;
        state.settle(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(15),
        idle: Duration::from_secs(75),
    };

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_connection_rests_for_the_idle_time_and_a_head_has_its_own() {
        let start = Instant::now();
        let heads = Heads::new(1 << 10, start);
        let verdict = |seconds| heads.verdict(at(start, seconds), LIMITS, None);
        // New: its first byte has the same limit as a head.
        assert_eq!(verdict(0), Verdict::Wait(at(start, 15)));
        assert_eq!(verdict(15), Verdict::Close);
        // A slow head is measured from its first byte. Later bytes do not restart the clock.
        heads.read(b"GET / HT", at(start, 10));
        heads.read(b"TP/1.1\r\n", at(start, 20));
        assert_eq!(verdict(20), Verdict::Wait(at(start, 25)));
        assert_eq!(verdict(25), Verdict::End);
        heads.read(b"host: x\r\n\r\n", at(start, 24));
        let (seen, working) = heads.request();
        assert_eq!(seen, Seen::Clear);
        assert!(
            matches!(verdict(3_600), Verdict::Wait(_)),
            "it is worked on"
        );
        drop(working);
        let quiet = Instant::now();
        let rests = |after: Duration| heads.verdict(quiet + after, LIMITS, None);
        assert!(matches!(rests(Duration::from_secs(74)), Verdict::Wait(_)));
        assert_eq!(rests(Duration::from_secs(76)), Verdict::Close);
        // The next head.
        heads.read(b"GET", at(quiet, 70));
        assert!(matches!(rests(Duration::from_secs(76)), Verdict::Wait(_)));
        assert_eq!(rests(Duration::from_secs(85)), Verdict::Close);
    }

    #[test]
    fn a_head_that_is_not_read_along_has_no_more_time_than_others() {
        let start = Instant::now();
        let heads = Heads::new(64, start);
        heads.read(&[b'x'; 200], start);
        assert_eq!(
            heads.verdict(at(start, 15), LIMITS, None),
            Verdict::End,
            "longer than it may be, and without end"
        );
    }

    #[test]
    fn once_the_listener_is_closed_a_connection_that_rests_has_a_moment() {
        let start = Instant::now();
        let closing = Some(at(start, 1));
        let heads = Heads::new(1 << 10, start);
        let verdict = |now| heads.verdict(now, LIMITS, closing);
        let fresh = at(start, 1) + drain::FRESH;
        assert_eq!(verdict(at(start, 1)), Verdict::Wait(fresh));
        assert_eq!(verdict(fresh), Verdict::Close);
        heads.read(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", at(start, 1));
        drop(heads.request());
        let quiet = Instant::now();
        let closing = Some(quiet - Duration::from_secs(5));
        let verdict = |now| heads.verdict(now, LIMITS, closing);
        assert!(matches!(verdict(quiet), Verdict::Wait(_)));
        assert_eq!(verdict(quiet + drain::IDLE * 2), Verdict::Close);
    }
}
