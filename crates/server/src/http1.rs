//! Serves a connection of HTTP/1.

use super::admission::MAX_HEADERS;
use super::body::{ConnectionError, Inbound};
use super::caller::Caller;
use super::drain::Phases;
use super::headers::KEEP_ALIVE;
use super::io;
use super::outbound::{Answer, Outbound, Working};
use super::rest::{self, Heads};
use super::state::Server;
use super::wait::at;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// Bytes of a head besides target and headers: method, version and line ends.
pub(crate) const REQUEST_LINE_BYTES: usize = 1024;
/// The smallest limit of a connection's read buffer. Bodies arrive in pieces of this size.
pub(crate) const READ_BUFFER_BYTES: usize = 256 << 10;

impl Server {
    pub(crate) async fn serve_http1<S>(
        self: Arc<Self>,
        stream: S,
        caller: Arc<Caller>,
        until: Option<Instant>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (target, headers) = (
            self.settings.max_target_bytes,
            self.settings.max_header_bytes,
        );
        let max_head_bytes = REQUEST_LINE_BYTES + target as usize + headers as usize;
        let heads = Heads::new(max_head_bytes, Instant::now());
        let read = heads.clone();
        let stream = io::Followed::new(stream, move |bytes: &[u8]| {
            read.read(bytes, Instant::now());
        });
        let (server, asked) = (self.clone(), heads.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, caller) = (server.clone(), caller.clone());
            let (seen, working) = asked.request();
            async move {
                let may_keep = may_keep(&request);
                let request = request.map(Inbound::Http1);
                let mut response = server.respond(request, &caller, seen).await;
                server.tell_of_connection(&mut response, may_keep);
                Ok::<_, Infallible>(response.map(|answer| match answer {
                    Answer::Whole(body) => {
                        drop(working);
                        Outbound::unwatched(body)
                    }
                    Answer::Events(events) => {
                        Outbound::events(events.working(Working::Http1(working)))
                    }
                }))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // hyper's timeout would bound idle connections, too. `rest` distinguishes the two.
            .header_read_timeout(None::<Duration>)
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BUFFER_BYTES.max(headers as usize))
            .half_close(false);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut phases = Phases::of(&self.phase);
        let mut closed_at = None;
        loop {
            let now = Instant::now();
            let limits = rest::Limits {
                head: Duration::from_millis(self.settings.header_timeout_ms),
                idle: self.idle_time(),
            };
            let closing_since = phases.now().closing_since();
            let again = match heads.decision(now, limits, closing_since) {
                rest::IdleDecision::End => return Ok(()),
                // A head may begin meanwhile, and it has a separate limit.
                rest::IdleDecision::Wait(again) => again.min(now + limits.head),
                rest::IdleDecision::Close => match closed_at {
                    None => {
                        connection.as_mut().graceful_shutdown();
                        closed_at = Some(now);
                        now + limits.head
                    }
                    // It had time to send the rest of its answer.
                    Some(closed_at) if now >= closed_at + limits.head => return Ok(()),
                    Some(closed_at) => closed_at + limits.head,
                },
            };
            let ends = until.filter(|_| closed_at.is_none());
            tokio::select! {
                // Bytes that have arrived are read before the time is checked.
                biased;
                result = connection.as_mut() => return result.map_err(ConnectionError::from),
                () = phases.changed() => {}
                () = at(ends) => {
                    connection.as_mut().graceful_shutdown();
                    closed_at = Some(now);
                }
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    /// Tells a client of HTTP/1 whether its connection stays open after this answer. `may_keep` is whether the client
    /// may keep it, as far as its request says.
    fn tell_of_connection<B>(&self, response: &mut Response<B>, may_keep: bool) {
        let headers = response.headers_mut();
        if headers.contains_key(header::CONNECTION) {
            return;
        }
        if self.phase.borrow().is_leaving() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if may_keep && let Some(kept) = &self.keep_alive[usize::from(self.is_crowded())] {
            headers.insert(KEEP_ALIVE, kept.clone());
        }
    }
}

/// Returns whether a client of HTTP/1.1 may send another request on its connection. HTTP/1.0 keeps none unless it is asked
/// to, and cannot rely on `Keep-Alive` in answers.
fn may_keep<B>(request: &Request<B>) -> bool {
    let mut options = request.headers().get_all(header::CONNECTION).iter();
    let closes = |value: &HeaderValue| {
        let mut options = value.as_bytes().split(|b| *b == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    request.version() == http::Version::HTTP_11 && !options.any(closes)
}
