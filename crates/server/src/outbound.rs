//! The body of an answer, over either version of HTTP.

use super::activity::{Activity, PendingStream, Sending};
use super::rest::PendingRequest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The body of an answer. It knows when it is being sent.
#[derive(Debug)]
pub struct Outbound {
    body: Content,
    sending: Option<Sending>,
}

#[derive(Debug)]
enum Content {
    Whole(Full<Bytes>),
    /// Frames that are all known: a message over gRPC, and its trailers.
    Frames(VecDeque<Frame<Bytes>>),
    /// Frames as they become ready, each counted separately.
    Stream(Stream),
    /// The parts of an event stream, as they become ready.
    Events(EventBody),
}

impl Outbound {
    /// A body that counts as an answer until it was sent or dropped.
    pub fn watched(body: Bytes, activity: &Arc<Activity>) -> Self {
        Self {
            body: Content::Whole(Full::new(body)),
            sending: Some(activity.ready()),
        }
    }

    /// A body that is not counted.
    pub fn unwatched(body: Bytes) -> Self {
        Self {
            body: Content::Whole(Full::new(body)),
            sending: None,
        }
    }

    /// Takes over the guard that counts it as being sent. `None` if its frames are counted separately, or not at all.
    pub fn take_sending(&mut self) -> Option<Sending> {
        self.sending.take()
    }

    /// A body of frames.
    pub fn frames(frames: VecDeque<Frame<Bytes>>, sending: Sending) -> Self {
        Self {
            body: Content::Frames(frames),
            sending: Some(sending),
        }
    }

    /// A body of events that are still to come.
    pub(crate) fn events(events: EventBody) -> Self {
        Self {
            body: Content::Events(events),
            sending: None,
        }
    }

    /// Returns whether its parts are events, between which a long time may pass.
    pub(crate) fn is_events(&self) -> bool {
        matches!(self.body, Content::Events(_))
    }

    /// A body whose frames are still to come.
    pub fn stream(stream: Stream) -> Self {
        Self {
            body: Content::Stream(stream),
            sending: None,
        }
    }
}

impl Body for Outbound {
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
            Content::Events(events) => Pin::new(events).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Whole(body) => body.is_end_stream(),
            Content::Frames(frames) => frames.is_empty(),
            Content::Stream(_) | Content::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Whole(body) => body.size_hint(),
            // Without a length: trailers end such an answer.
            Content::Frames(_) | Content::Stream(_) | Content::Events(_) => SizeHint::default(),
        }
    }
}

/// A task that is aborted when its owner drops it.
pub(crate) struct Ends<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of a stream's answer.
pub struct Stream {
    pub(crate) frames: mpsc::Receiver<(Frame<Bytes>, Sending)>,
    pub(crate) _driver: Ends<()>,
    pub(crate) _working: PendingStream,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let taken = ready!(self.frames.poll_recv(cx));
        Poll::Ready(taken.map(|(frame, _sending)| Ok(frame)))
    }
}

/// The answer to a request over REST.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A whole body.
    Whole(Bytes),
    /// The event stream of an operation.
    Events(EventBody),
}

/// A request whose answer is not complete. Its connection counts it until then, and is not idle.
#[derive(Debug)]
pub(crate) enum Working {
    Http1(#[allow(dead_code)] PendingRequest),
    Http2(#[allow(dead_code)] PendingStream),
}

/// The body of an event stream. Its driver is aborted when the client goes.
pub(crate) struct EventBody {
    parts: mpsc::Receiver<Bytes>,
    _driver: Ends<()>,
    _working: Option<Working>,
}

impl EventBody {
    /// A body of the parts that a driver sends.
    pub(crate) fn new(parts: mpsc::Receiver<Bytes>, driver: Ends<()>) -> Self {
        Self {
            parts,
            _driver: driver,
            _working: None,
        }
    }

    /// Keeps the request that it answers until it was sent or dropped.
    pub(crate) fn working(mut self, working: Working) -> Self {
        self._working = Some(working);
        self
    }
}

impl std::fmt::Debug for EventBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventBody").finish_non_exhaustive()
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = ready!(self.parts.poll_recv(cx));
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }
}
