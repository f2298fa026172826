//! Decides when an HTTP/2 connection is ended because nothing moves on it: no request for too long, or
//! an answer its caller does not take. HTTP/1 connections have hyper's header timeout and the socket's
//! write timeout; on HTTP/2 pings keep a socket moving while its streams stand still.

use super::grpc::Stream;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection without streams stays open while the server drains: long enough for its
/// last frames to leave.
const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// What goes on on one connection.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests being worked on.
    requests: usize,
    /// Answers on their way, by number, with the time each was ready.
    answers: BTreeMap<u64, Instant>,
    next_answer: u64,
    /// When the last request or answer ended.
    quiet_since: Instant,
}

/// How long nothing may move.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without any request.
    pub idle: Duration,
    /// With an answer its caller does not take.
    pub write: Duration,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it be, and look again then.
    Wait(Instant),
    /// Tell its caller to leave: nothing was asked for too long.
    Leave,
    /// End it: its caller takes no answer, or was told and is still there.
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
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What to do with the connection. `leaving_since` is when its caller was told to leave.
    pub fn verdict(&self, now: Instant, limits: Limits, leaving_since: Option<Instant>) -> Verdict {
        let state = self.state();
        if let Some((_, ready)) = state.answers.first_key_value() {
            let end = *ready + limits.write;
            return if end > now {
                Verdict::Wait(end)
            } else {
                Verdict::End
            };
        }
        if state.requests > 0 {
            return Verdict::Wait(now + limits.idle);
        }
        match leaving_since {
            Some(since) => {
                let end = state.quiet_since.max(since) + DRAIN_IDLE;
                if end > now {
                    Verdict::Wait(end)
                } else {
                    Verdict::End
                }
            }
            None => {
                let end = state.quiet_since + limits.idle;
                if end > now {
                    Verdict::Wait(end)
                } else {
                    Verdict::Leave
                }
            }
        }
    }

    /// Counts a request until the guard goes.
    pub fn request(self: &Arc<Self>) -> Working {
        self.state().requests += 1;
        Working(self.clone())
    }

    /// Counts an answer until its body went out or was given up.
    pub fn answer(self: &Arc<Self>, body: Bytes) -> Answer {
        Answer {
            body: Content::Whole(Full::new(body)),
            _sending: Some(self.ready()),
        }
    }

    /// Counts something that is ready to go out until the guard goes.
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

/// A request being worked on.
#[derive(Debug)]
pub struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.quiet_since = Instant::now();
    }
}

/// Something that is ready to go out.
#[derive(Debug)]
pub struct Sending {
    activity: Arc<Activity>,
    number: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.answers.remove(&self.number);
        state.quiet_since = Instant::now();
    }
}

/// An answer's body, which knows when it is on its way.
#[derive(Debug)]
pub struct Answer {
    body: Content,
    _sending: Option<Sending>,
}

#[derive(Debug)]
enum Content {
    Whole(Full<Bytes>),
    /// Frames that are all there: a message over gRPC, and its trailers.
    Frames(VecDeque<Frame<Bytes>>),
    /// Frames as they become ready, each counted by itself.
    Stream(Stream),
}

impl Answer {
    /// A body nobody watches.
    pub fn unwatched(body: Bytes) -> Self {
        Self {
            body: Content::Whole(Full::new(body)),
            _sending: None,
        }
    }

    /// A body of frames.
    pub fn frames(frames: VecDeque<Frame<Bytes>>, sending: Sending) -> Self {
        Self {
            body: Content::Frames(frames),
            _sending: Some(sending),
        }
    }

    /// A body whose frames are still to come.
    pub fn stream(stream: Stream) -> Self {
        Self {
            body: Content::Stream(stream),
            _sending: None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.body {
            Content::Whole(body) => Pin::new(body).poll_frame(cx),
            Content::Frames(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Content::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Whole(body) => body.is_end_stream(),
            Content::Frames(frames) => frames.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Whole(body) => body.size_hint(),
            // Without a length: what ends such an answer are its trailers.
            Content::Frames(_) | Content::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        idle: Duration::from_secs(15),
        write: Duration::from_secs(5),
    };

    #[test]
    fn a_connection_without_requests_is_told_to_leave_and_then_ended() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let verdict = |now, leaving| activity.verdict(now, LIMITS, leaving);
        assert_eq!(verdict(start, None), Verdict::Wait(start + LIMITS.idle));
        let idle = start + LIMITS.idle;
        assert_eq!(verdict(idle, None), Verdict::Leave);
        assert_eq!(verdict(idle, Some(idle)), Verdict::Wait(idle + DRAIN_IDLE));
        assert_eq!(verdict(idle + DRAIN_IDLE, Some(idle)), Verdict::End);
    }

    #[test]
    fn work_keeps_a_connection_and_an_answer_nobody_takes_ends_it() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let verdict = |now, leaving| activity.verdict(now, LIMITS, leaving);
        let working = activity.request();
        let late = start + Duration::from_secs(3600);
        assert!(
            matches!(verdict(late, Some(start)), Verdict::Wait(_)),
            "a request is worked on"
        );
        let answer = activity.answer(Bytes::from_static(b"x"));
        drop(working);
        let ready = Instant::now();
        assert!(matches!(verdict(ready, None), Verdict::Wait(_)));
        assert_eq!(verdict(ready + LIMITS.write, None), Verdict::End);
        drop(answer);
        assert!(
            matches!(verdict(Instant::now(), None), Verdict::Wait(_)),
            "it went out"
        );
    }
}
