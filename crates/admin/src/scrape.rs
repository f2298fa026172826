//! Answers `GET /metrics`, on the listener of the admin API and on a listener of its own.
//!
//! The metrics token opens this path and nothing else, so that a collector needs no token that could make keys. The admin token
//! opens it, too.

use crate::access::{ShownToken, Token, admissible};
use crate::serving::{Draft, Listening, Responder};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use penstock_core::metrics::Format;
use penstock_core::{Code, Problem, RequestId};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The path of the metrics.
pub const PATH: &str = "/metrics";
/// Scrapes that are written at once. Each may take 2 MiB; two collectors often run side by side.
const AT_ONCE: usize = 2;
/// Time for which a scrape waits for its turn, less than the timeout of collectors (10 s).
const TURN_TIME: Duration = Duration::from_secs(5);
const RETRY_AFTER_S: u32 = 1;

/// Writes a scrape. It may block for a moment.
pub type Writer = Box<dyn Fn(Format) -> Vec<u8> + Send + Sync>;

/// The metrics of a server, for its listeners.
pub struct Scrapes {
    write: Writer,
    token: Token,
    at_once: Arc<Semaphore>,
}

/// The rules of one listener.
pub(crate) struct Rules<'a> {
    /// The address of the listener.
    pub(crate) own: IpAddr,
    /// Whether callers need no token.
    pub(crate) is_open: bool,
    /// Another token that opens the metrics.
    pub(crate) also: Option<&'a Token>,
}

impl Scrapes {
    /// Metrics that this token opens.
    pub fn new(token: &str, write: Writer) -> Arc<Self> {
        Arc::new(Self {
            write,
            token: Token::new(token),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// Answers a request for [`PATH`].
    pub(crate) async fn respond(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        rules: Rules<'_>,
    ) -> Response<Full<Bytes>> {
        let request_id = RequestId::generate(crate::serving::unix_ms(), rand::random());
        let (parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        drop(body);
        let accept = parts.headers.get(header::ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok());
        let judged = self.judge(parts.method.as_str(), &parts.headers, &rules);
        let written = match judged {
            Ok(()) => self.written(Format::of(accept)).await,
            Err(problem) => Err(problem),
        };
        let draft = match written {
            Ok(draft) => draft,
            Err(problem) => {
                let (code, message) = (problem.code.as_str(), &problem.message);
                tracing::info!(
                    target: "admin", %request_id,
                    "a scrape from {peer} was refused: {code}: {}", penstock_app::one_line(message)
                );
                Draft::refusal(&problem, (PATH, accept), "penstock-metrics", &request_id)
            }
        };
        let mut response = draft.complete(&request_id);
        if has_body {
            // Nobody reads it.
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    fn judge(&self, method: &str, headers: &HeaderMap, rules: &Rules<'_>) -> Result<(), Problem> {
        if !rules.is_open {
            let shown = ShownToken::of(headers, "metrics token")?;
            let is_admin = rules.also.is_some_and(|token| token.is(&shown));
            // Both are compared, so that the time tells nothing.
            if !(self.token.is(&shown) | is_admin) {
                let message = "this is not the metrics token";
                return Err(Problem::new(Code::CredentialsInvalid, message));
            }
        }
        // A browser has no token, but it reaches a listener of this machine without one. Other listeners are called by the names
        // that a network gives them.
        if rules.is_open && rules.own.is_loopback() {
            admissible(headers, rules.own)?;
        }
        if !matches!(method, "GET" | "HEAD") {
            let message = format!("{method} is not allowed for this path; use GET");
            return Err(Problem::new(Code::MethodNotAllowed, message).with_allow("GET, HEAD"));
        }
        Ok(())
    }

    /// Writes a scrape on a thread for blocking work.
    async fn written(self: &Arc<Self>, format: Format) -> Result<Draft, Problem> {
        let busy = || {
            let message = format!("{AT_ONCE} scrapes were being written for 5 s, the limit");
            Problem::new(Code::Overloaded, message).retry_after(RETRY_AFTER_S)
        };
        let place = tokio::time::timeout(TURN_TIME, self.at_once.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or_else(busy)?;
        let scrapes = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            // A caller that leaves does not make room before the work is done.
            let _place = place;
            (scrapes.write)(format)
        });
        let body = written.await.map_err(|error| {
            tracing::error!(target: "admin", "a scrape broke off: {error}");
            let message = "an internal error occurred; the server's log has its details";
            Problem::new(Code::Internal, message)
        })?;
        Ok(Draft {
            status: 200,
            content_type: format.content_type(),
            body,
            headers: vec![("vary", "accept".to_owned())],
        })
    }
}

/// The listener for metrics alone.
struct Own {
    scrapes: Arc<Scrapes>,
    address: SocketAddr,
    is_open: bool,
}

impl Responder for Own {
    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            let request_id = RequestId::generate(crate::serving::unix_ms(), rand::random());
            let message = format!("this listener has only {PATH}");
            let problem = Problem::new(Code::UnknownPath, message);
            let place = (request.uri().path(), None);
            let draft = Draft::refusal(&problem, place, "penstock-metrics", &request_id);
            return draft.complete(&request_id);
        }
        let rules = Rules {
            own: self.address.ip(),
            is_open: self.is_open,
            also: None,
        };
        self.scrapes.respond(request, peer, rules).await
    }
}

/// Serves the metrics on a listener of their own. `is_open` is whether callers need no token.
///
/// # Errors
///
/// If the listener has no address.
pub fn serve(
    listener: TcpListener,
    scrapes: Arc<Scrapes>,
    is_open: bool,
) -> std::io::Result<Listening> {
    let address = listener.local_addr()?;
    let own = Own {
        scrapes,
        address,
        is_open,
    };
    Ok(Listening::start(listener, Arc::new(own)))
}
