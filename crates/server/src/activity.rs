//! Decides when an HTTP/2 connection is ended because nothing moves on it: no request for too long, an incomplete head,
//! or an answer that the caller does not read. [`rest`](super::rest) does it for HTTP/1, with the socket's write
//! timeout. On HTTP/2 pings keep a socket moving while its streams stand still.
//!
//! A client that pings wants to keep the connection, as gRPC clients do while they have no calls. So a ping counts like
//! a request, for a bounded time.

use super::drain;
use super::frames::Frames;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Time for which a client may keep a connection by pings alone. Then it is told to leave, and opens another connection
/// for its next call. Without a bound, connections of clients without calls would accumulate.
pub const MAX_PINGED: Duration = Duration::from_secs(3600);

/// The activity of one connection.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests that are being answered.
    requests: usize,
    /// Answers that are being sent, by number. Each has the time when it became ready or when the caller last read some
    /// of it.
    answers: BTreeMap<u64, Instant>,
    next_answer: u64,
    /// The time when the last request or answer ended, or the connection was opened.
    quiet_since: Instant,
    /// The state of the client's frames.
    frames: Frames,
    /// The time when the incomplete head began. Before the client's first frame, it is the time when the connection was
    /// opened.
    head_since: Option<Instant>,
    /// The time of the client's last ping.
    pinged: Option<Instant>,
}

/// Times for which nothing may move.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from the first byte of a head to its last, and until the client's first frame.
    pub head: Duration,
    /// Time without any request or ping.
    pub idle: Duration,
    /// Time with an answer that the caller does not read.
    pub write: Duration,
}

/// The decision about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionDecision {
    /// Keep it, and look again at this time.
    Wait(Instant),
    /// Tell its caller to leave, because there was no request for too long.
    Leave,
    /// End it at once: a head takes too long, its caller does not read an answer, or was told to leave and stays.
    End,
}

impl Activity {
    /// A connection on which nothing has happened yet.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            requests: 0,
            answers: BTreeMap::new(),
            next_answer: 0,
            quiet_since: now,
            frames: Frames::default(),
            head_since: Some(now),
            pinged: None,
        })))
    }

    /// Takes bytes that arrived.
    pub fn read(&self, bytes: &[u8], now: Instant) {
        let mut state = self.state();
        let pings = state.frames.pings();
        state.frames.read(bytes);
        if state.frames.pings() > pings {
            state.pinged = Some(now);
        }
        if !state.frames.has_begun() {
            return;
        }
        if !state.frames.is_in_head() {
            state.head_since = None;
        } else if state.head_since.is_none() {
            state.head_since = Some(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Decides about the connection. `leaving_since` is the time when its caller was told to leave.
    pub fn decision(
        &self,
        now: Instant,
        limits: Limits,
        leaving_since: Option<Instant>,
    ) -> ConnectionDecision {
        let state = self.state();
        let head_ends = state.head_since.map(|since| since + limits.head);
        if head_ends.is_some_and(|end| end <= now) {
            return ConnectionDecision::End;
        }
        // A head may begin meanwhile.
        let look = now + limits.head;
        let look = head_ends.map_or(look, |end| end.min(look));
        if let Some(ready) = state.answers.values().min() {
            let end = *ready + limits.write;
            return if end > now {
                ConnectionDecision::Wait(end.min(look))
            } else {
                ConnectionDecision::End
            };
        }
        if state.requests > 0 {
            return ConnectionDecision::Wait(look);
        }
        match leaving_since {
            Some(since) => {
                let end = state.quiet_since.max(since) + drain::IDLE;
                if end > now {
                    ConnectionDecision::Wait(end)
                } else {
                    ConnectionDecision::End
                }
            }
            None => {
                let quiet = state.quiet_since;
                let pinged = state.pinged.filter(|pinged| *pinged > quiet);
                let end =
                    pinged.map_or(quiet, |pinged| pinged.min(quiet + MAX_PINGED)) + limits.idle;
                if end > now {
                    ConnectionDecision::Wait(end.min(look))
                } else {
                    ConnectionDecision::Leave
                }
            }
        }
    }

    /// Counts a request until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> PendingStream {
        self.state().requests += 1;
        PendingStream(self.clone())
    }

    /// Counts an answer that is ready to be sent, until the guard is dropped.
    pub fn ready(self: &Arc<Self>) -> Sending {
        let mut state = self.state();
        let number = state.next_answer;
        state.next_answer += 1;
        state.answers.insert(number, Instant::now());
        drop(state);
        Sending {
            activity: self.clone(),
            number,
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct PendingStream(Arc<Activity>);

impl Drop for PendingStream {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.quiet_since = Instant::now();
    }
}

/// An answer that is ready to be sent.
#[derive(Debug)]
pub struct Sending {
    activity: Arc<Activity>,
    number: u64,
}

impl Sending {
    /// Notes that the caller read some of it just now.
    pub fn moved(&self) {
        let mut state = self.activity.state();
        state.answers.insert(self.number, Instant::now());
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.answers.remove(&self.number);
        state.quiet_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(15),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(5),
    };

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const HALF_A_HEAD: [u8; 11] = [0, 0, 9, 1, 4, 0, 0, 0, 1, 0x82, 0x86];

    /// A connection that has sent its preface and its settings.
    fn begun(start: Instant) -> Arc<Activity> {
        let activity = Activity::new(start);
        activity.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", start);
        activity.read(&[0, 0, 0, 4, 0, 0, 0, 0, 0], start);
        activity
    }

    #[test]
    fn a_connection_without_requests_is_told_to_leave_and_then_ended() {
        let start = Instant::now();
        let activity = begun(start);
        let decision = |now, leaving| activity.decision(now, LIMITS, leaving);
        // A head may begin meanwhile.
        assert_eq!(
            decision(start, None),
            ConnectionDecision::Wait(start + LIMITS.head)
        );
        let idle = start + LIMITS.idle;
        assert_eq!(decision(idle, None), ConnectionDecision::Leave);
        assert_eq!(
            decision(idle, Some(idle)),
            ConnectionDecision::Wait(idle + drain::IDLE)
        );
        assert_eq!(
            decision(idle + drain::IDLE, Some(idle)),
            ConnectionDecision::End
        );
    }

    #[test]
    fn pings_keep_a_connection_for_a_bounded_time() {
        let start = Instant::now();
        let activity = begun(start);
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        for n in 1..=70 {
            let decision = activity.decision(minutes(n), LIMITS, None);
            assert_eq!(decision == ConnectionDecision::Leave, n > 61, "{n} min");
            activity.read(&PING, minutes(n));
        }
    }

    #[test]
    fn a_head_that_does_not_come_to_its_end_ends_the_connection_whatever_else_is_asked() {
        let start = Instant::now();
        let activity = Activity::new(start);
        assert_eq!(
            activity.decision(start + LIMITS.head, LIMITS, None),
            ConnectionDecision::End,
            "not even the first frame came"
        );
        let activity = begun(start);
        let _working = activity.request();
        let late = start + Duration::from_secs(100);
        activity.read(&HALF_A_HEAD, late);
        assert_eq!(
            activity.decision(late, LIMITS, None),
            ConnectionDecision::Wait(late + LIMITS.head)
        );
        assert_eq!(
            activity.decision(late + LIMITS.head, LIMITS, None),
            ConnectionDecision::End
        );
    }

    #[test]
    fn work_keeps_a_connection_and_an_answer_nobody_takes_ends_it() {
        let start = Instant::now();
        let activity = begun(start);
        let decision = |now, leaving| activity.decision(now, LIMITS, leaving);
        let working = activity.request();
        let late = start + Duration::from_secs(3600);
        assert!(
            matches!(decision(late, Some(start)), ConnectionDecision::Wait(_)),
            "a request is worked on"
        );
        let answer = activity.ready();
        drop(working);
        let ready = Instant::now();
        assert!(matches!(decision(ready, None), ConnectionDecision::Wait(_)));
        assert_eq!(
            decision(ready + LIMITS.write, None),
            ConnectionDecision::End
        );
        drop(answer);
        assert!(
            matches!(decision(Instant::now(), None), ConnectionDecision::Wait(_)),
            "it went out"
        );
    }
}
