//! Accepts connections of HTTP/1, and bounds their number and their time, for the listeners of this crate.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use penstock_core::{Problem, RequestId, negotiate};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

/// Connections that are open at once. One more waits. They suffice for a person and some scripts.
const MAX_CONNECTIONS: usize = 64;
/// Most headers of one request, and most bytes of them.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Longest time for a request's headers, and then for its body.
pub(crate) const ARRIVAL_TIME: Duration = Duration::from_secs(2);
/// Longest life of a connection, idle or not, so that none holds one of the few places forever.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// Time for actions in progress when the server ends.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause before a listener that cannot accept tries again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Answers the requests of a listener.
pub(crate) trait Responder: Send + Sync + 'static {
    /// Answers a request in every case.
    fn respond(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A listener while it serves, with the signal that stops it.
pub struct Listening {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Answers requests until it is told to stop.
    pub(crate) fn start<R: Responder>(listener: TcpListener, responder: Arc<R>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, responder, stopped));
        Self { stop, task }
    }

    /// Lets actions in progress finish for a bounded time, and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

async fn accept<R: Responder>(
    listener: TcpListener,
    responder: Arc<R>,
    mut stopped: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (permit.expect("never closed"), listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (responder, stopped) = (responder.clone(), stopped.clone());
                tokio::spawn(connection(responder, stream, peer, permit, stopped));
            }
            Err(e) => {
                tracing::warn!(target: "admin", "cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    let all = connections.acquire_many(MAX_CONNECTIONS as u32);
    let _ = tokio::time::timeout(DRAIN_TIME, all).await;
}

async fn connection<R: Responder>(
    responder: Arc<R>,
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let responder = responder.clone();
        async move { Ok::<_, Infallible>(responder.respond(request, peer).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVAL_TIME)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(false);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match tokio::time::timeout(CONNECTION_TIME, ended).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(e)) => tracing::debug!(target: "admin", %peer, "connection ended: {e}"),
    }
}

/// An answer before its headers are complete.
pub(crate) struct Draft {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Draft {
    /// The answer of a refusal. `realm` is the one of the token that is missing.
    pub(crate) fn refusal(
        problem: &Problem,
        (path, accept): (&str, Option<&str>),
        realm: &str,
        request_id: &RequestId,
    ) -> Self {
        let style = negotiate::error_style(path, accept);
        let (content_type, body) = problem.render(style, request_id, unix_ms());
        let mut headers = problem.headers();
        headers.push(("vary", "accept".to_owned()));
        if problem.code.status() == 401 {
            let challenge = format!("Bearer realm=\"{realm}\"");
            headers.push(("www-authenticate", challenge));
        }
        Self {
            status: problem.code.status(),
            content_type,
            body,
            headers,
        }
    }

    /// Completes the answer.
    pub(crate) fn complete(self, request_id: &RequestId) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = StatusCode::from_u16(self.status).expect("a status");
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let plain = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, plain(self.content_type));
        headers.insert(header::CACHE_CONTROL, plain("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, plain("nosniff"));
        let id = HeaderValue::from_str(request_id.as_str()).expect("visible ASCII");
        headers.insert(HeaderName::from_static("x-request-id"), id);
        if self.status >= 400 {
            // The next request would otherwise begin with the unread rest of the body.
            headers.insert(header::CONNECTION, plain("close"));
        }
        response
    }
}

pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}
