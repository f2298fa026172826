//! The body of a request, over either version of HTTP, and the signal that the client may send it.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// The reason why a connection ended.
pub(crate) type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub enum Inbound {
    /// A body over HTTP/1.1, which hyper reads. A client that waits for `100 Continue` gets it when the body is first polled.
    Http1(Incoming),
    /// A body over HTTP/2: a stream of frames.
    Http2(Received),
}

/// The body of a request over HTTP/2.
pub struct Received {
    stream: h2::RecvStream,
    /// The bytes that are still to come, if the client announced a length.
    left: Option<u64>,
    data_ended: bool,
    /// Makes the stream's owner tell the client that the body may come.
    go_on: Option<oneshot::Sender<()>>,
}

impl Received {
    /// The body on a stream. `announced` is its length, if the client announced one.
    pub fn new(stream: h2::RecvStream, announced: Option<u64>) -> (Self, oneshot::Receiver<()>) {
        let (go_on, asked) = oneshot::channel();
        let received = Self {
            left: match stream.is_end_stream() {
                true => Some(0),
                false => announced,
            },
            stream,
            data_ended: false,
            go_on: Some(go_on),
        };
        (received, asked)
    }
}

impl Inbound {
    /// Tells a client that waits for `100 Continue` that its body may come.
    pub fn go_on(&mut self) {
        if let Self::Http2(received) = self
            && let Some(go_on) = received.go_on.take()
        {
            // If the receiver is gone, the stream is over.
            let _ = go_on.send(());
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = ConnectionError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        match &mut *self {
            Self::Http1(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(ConnectionError::from)))
            }
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body
                .left
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Received {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // This reopens the window by the bytes read. It fails if the stream is over.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    let left = self.left.as_mut();
                    if let Some(left) = left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(e) => Some(Err(e.into())),
        })
    }
}
