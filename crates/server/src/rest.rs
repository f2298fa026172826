//! Decides when an HTTP/1 connection without activity is closed: an idle one between two requests, and one with an
//! incomplete request.
//!
//! hyper has one limit for both, from the last answer to the end of the next head. An idle connection is worth keeping
//! for longer than a head may take. So hyper's limit is off, and this module reads the bytes in parallel.

use super::drain;
use super::framing::{Follower, Framing};
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
    /// Time from the first byte of a head to its last, and until the first byte of the first head.
    pub head: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
}

/// The decision about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleDecision {
    /// Keep it, and look again at this time. A head may begin before.
    Wait(Instant),
    /// Close it after its last answer was sent.
    Close,
    /// End it at once: its request stays incomplete.
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

    fn decision(
        &self,
        now: Instant,
        limits: Limits,
        closing_since: Option<Instant>,
    ) -> IdleDecision {
        let (end, decision) = match self.head_since {
            _ if self.requests > 0 => return IdleDecision::Wait(now + limits.head),
            // A connection that never served a request has nothing to flush.
            Some(since) if self.served => (since + limits.head, IdleDecision::Close),
            Some(since) => (since + limits.head, IdleDecision::End),
            None => {
                let (since, limit, last) = match self.served {
                    true => (self.quiet_since, limits.idle, drain::IDLE),
                    false => (self.quiet_since, limits.head, drain::FRESH),
                };
                let end = since + limit;
                let last = closing_since.map(|closing| since.max(closing) + last);
                (last.map_or(end, |last| end.min(last)), IdleDecision::Close)
            }
        };
        if end > now {
            IdleDecision::Wait(end)
        } else {
            decision
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
    pub fn request(&self) -> (Framing, PendingRequest) {
        let mut state = self.state();
        state.requests += 1;
        state.served = true;
        state.head_since = None;
        (state.follower.next(), PendingRequest(self.clone()))
    }

    /// Decides about the connection. `closing_since` is the time when the listener was closed.
    pub fn decision(
        &self,
        now: Instant,
        limits: Limits,
        closing_since: Option<Instant>,
    ) -> IdleDecision {
        self.state().decision(now, limits, closing_since)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct PendingRequest(Heads);

impl Drop for PendingRequest {
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
        let decision = |seconds| heads.decision(at(start, seconds), LIMITS, None);
        // New: its first byte has the same limit as a head.
        assert_eq!(decision(0), IdleDecision::Wait(at(start, 15)));
        assert_eq!(decision(15), IdleDecision::Close);
        // A slow head is measured from its first byte. Later bytes do not restart the clock.
        heads.read(b"GET / HT", at(start, 10));
        heads.read(b"TP/1.1\r\n", at(start, 20));
        assert_eq!(decision(20), IdleDecision::Wait(at(start, 25)));
        assert_eq!(decision(25), IdleDecision::End);
        heads.read(b"host: x\r\n\r\n", at(start, 24));
        let (seen, working) = heads.request();
        assert_eq!(seen, Framing::Clear);
        assert!(
            matches!(decision(3_600), IdleDecision::Wait(_)),
            "it is worked on"
        );
        drop(working);
        let quiet = Instant::now();
        let decision = |after: Duration| heads.decision(quiet + after, LIMITS, None);
        assert!(matches!(
            decision(Duration::from_secs(74)),
            IdleDecision::Wait(_)
        ));
        assert_eq!(decision(Duration::from_secs(76)), IdleDecision::Close);
        // The next head.
        heads.read(b"GET", at(quiet, 70));
        assert!(matches!(
            decision(Duration::from_secs(76)),
            IdleDecision::Wait(_)
        ));
        assert_eq!(decision(Duration::from_secs(85)), IdleDecision::Close);
    }

    #[test]
    fn a_head_that_is_not_read_along_has_no_more_time_than_others() {
        let start = Instant::now();
        let heads = Heads::new(64, start);
        heads.read(&[b'x'; 200], start);
        assert_eq!(
            heads.decision(at(start, 15), LIMITS, None),
            IdleDecision::End,
            "longer than it may be, and without end"
        );
    }

    #[test]
    fn once_the_listener_is_closed_a_connection_that_rests_has_a_moment() {
        let start = Instant::now();
        let closing = Some(at(start, 1));
        let heads = Heads::new(1 << 10, start);
        let decision = |now| heads.decision(now, LIMITS, closing);
        let fresh = at(start, 1) + drain::FRESH;
        assert_eq!(decision(at(start, 1)), IdleDecision::Wait(fresh));
        assert_eq!(decision(fresh), IdleDecision::Close);
        heads.read(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", at(start, 1));
        drop(heads.request());
        let quiet = Instant::now();
        let closing = Some(quiet - Duration::from_secs(5));
        let decision = |now| heads.decision(now, LIMITS, closing);
        assert!(matches!(decision(quiet), IdleDecision::Wait(_)));
        assert_eq!(decision(quiet + drain::IDLE * 2), IdleDecision::Close);
    }
}
