//! The admin API for keys, tenants and versions of models, and the check of its token. It has its own listener, which shares
//! no limit with the public one.
//!
//! The token permits everything. So requests of browsers are refused before the token is checked: an `Origin`, and a
//! `Host` that is a name which may point here (DNS rebinding).

use crate::action::Action;
use crate::rollouts::{Models, RolloutAction, RolloutContext};
use crate::store::StoreKv;
use anyhow::{Context, anyhow};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use penstock_app::Manifest;
use penstock_app::secrets::{self, Origin};
use penstock_app::variables;
use penstock_core::{Code, Problem, RequestId, json, negotiate};
use penstock_kv::Store;
use penstock_policy::auth::api_key::{Pepper, hex};
use penstock_policy::auth::registry::MAX_OPERATION_MS;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

/// The store of keys and tenants.
pub const STORE: &str = "default";

/// The store of the canaries' counters, if it exists. It may be lost at a crash.
const COUNTERS: &str = "counters";

/// Bytes of the largest body. A key with all its scopes takes less than ten kilobytes.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Bytes of a larger one that are read and discarded.
const MAX_DISCARD_BYTES: usize = 1 << 20;
/// Connections that are open at once. One more waits. They suffice for a person and some scripts.
const MAX_CONNECTIONS: usize = 64;
/// Most headers of one request, and most bytes of them.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Longest time for a request's headers, and then for its body.
const ARRIVAL_TIME: Duration = Duration::from_secs(2);
/// Longest life of a connection, idle or not, so that none holds one of the few places forever.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// Longest time of an action.
const OPERATION_TIME: Duration = Duration::from_millis(MAX_OPERATION_MS);
/// Time for actions in progress when the server ends.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause before a listener that cannot accept tries again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Hexadecimal digits of a token's digest that name it in the log.
const TOKEN_NAME_CHARS: usize = 8;

/// The address of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// The admin API is off.
    Off,
    /// The admin API listens on this address.
    At(SocketAddr),
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|_| {
                "write an address with a port, such as 127.0.0.1:3001, or `off`".to_owned()
            }),
        }
    }
}

/// Returns a warning if other machines can reach the address.
pub fn exposed(address: SocketAddr) -> Option<String> {
    (!address.ip().to_canonical().is_loopback()).then(|| {
        format!(
            "the admin API listens on {address}, which other machines can reach, without encryption: anyone who \
             reads its token in transit can use the whole API"
        )
    })
}

/// The state that answers need.
struct Shared {
    kv: StoreKv,
    counters: StoreKv,
    models: Models,
    /// Held while the rollouts are changed.
    changing: tokio::sync::Mutex<()>,
    pepper: Pepper,
    token_digest: [u8; 32],
    /// The first digits of the token's digest. They name the administrator in the log.
    token_name: String,
    address: SocketAddr,
}

/// The admin API before it serves: its listener is open, and answers nothing yet.
pub struct Admin {
    listener: TcpListener,
    context: Arc<Shared>,
}

/// The admin API while it serves, with the signal that stops it.
pub struct Administrating {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Admin {
    /// Opens the admin API on a listener, with its secrets, its store and the models. `store` finds a store of the
    /// application by its label.
    ///
    /// # Errors
    ///
    /// The missing part, and the remedy.
    pub fn open(
        listener: TcpListener,
        manifest: &Manifest,
        store: impl Fn(&str) -> Option<Arc<dyn Store>>,
        models: Models,
        state_dir: &Path,
    ) -> anyhow::Result<Self> {
        let keys = store(STORE).with_context(|| {
            format!(
                "the admin API needs the store `{STORE}`, which the application does not use; add it to \
                 key_value_stores in {}, or remove [admin] from the policy",
                manifest.path.display()
            )
        })?;
        let pepper = variables::pepper(manifest, state_dir, &secrets::environment)
            .context("the admin API needs the pepper")?;
        let pepper = Pepper::new(pepper.text.as_bytes()).map_err(|e| anyhow!(e))?;
        let token = secrets::admin_token(state_dir, &secrets::environment)
            .context("the admin API needs its token")?;
        let address = listener.local_addr()?;
        if let Some(warning) = exposed(address) {
            tracing::warn!(target: "admin", "{warning}");
        }
        let from = match &token.origin {
            Origin::Given => "given".to_owned(),
            Origin::Kept(path) => format!("in {}", path.display()),
            Origin::Made(path) => format!("new, in {}", path.display()),
        };
        let token_digest: [u8; 32] = Sha256::digest(&token.text).into();
        let token_name = hex(&token_digest)[..TOKEN_NAME_CHARS].to_owned();
        tracing::info!(target: "admin", "admin API on http://{address}; its token is {from}");
        Ok(Self {
            listener,
            context: Arc::new(Shared {
                kv: StoreKv::new(keys.clone()),
                // The models component chooses in the same way.
                counters: StoreKv::new(store(COUNTERS).unwrap_or(keys)),
                models,
                changing: tokio::sync::Mutex::default(),
                pepper,
                token_digest,
                token_name,
                address,
            }),
        })
    }

    /// Answers requests until it is told to stop.
    pub fn serve(self) -> Administrating {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(self.accept(stopped));
        Administrating { stop, task }
    }

    async fn accept(self, mut stopped: watch::Receiver<bool>) {
        let Self { listener, context } = self;
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
                    let (context, stopped) = (context.clone(), stopped.clone());
                    tokio::spawn(context.connection(stream, peer, permit, stopped));
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
}

impl Administrating {
    /// Lets actions in progress finish for a bounded time, and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _permit: OwnedSemaphorePermit,
        mut stopped: watch::Receiver<bool>,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            let context = self.clone();
            async move { Ok::<_, Infallible>(context.respond(request, peer).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(ARRIVAL_TIME)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .half_close(false);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
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

    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let request_id = RequestId::generate(unix_ms(), rand::random());
        let path = request.uri().path().to_owned();
        let accept = request.headers().get(header::ACCEPT);
        let accept = accept.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let outcome = self.answer(request).await;
        let by = &self.token_name;
        let (status, content_type, body, extra) = match outcome {
            Ok(done) => {
                tracing::info!(target: "admin", %request_id, "token {by} from {peer}: {}", done.said);
                let body = json::to_bytes(&done.body);
                (done.status, "application/json", body, Vec::new())
            }
            Err(problem) => {
                let (code, message) = (problem.code.as_str(), &problem.message);
                let who = match problem.code.status() {
                    401 => "a request without the token",
                    _ => "a request",
                };
                tracing::info!(
                    target: "admin", %request_id,
                    "{who} from {peer} was refused: {code}: {}", penstock_app::one_line(message)
                );
                let style = negotiate::error_style(&path, accept.as_deref());
                let (content_type, body) = problem.render(style, &request_id, unix_ms());
                let mut extra = problem.headers();
                extra.push(("vary", "accept".to_owned()));
                if problem.code.status() == 401 {
                    let challenge = "Bearer realm=\"penstock-admin\"".to_owned();
                    extra.push(("www-authenticate", challenge));
                }
                (problem.code.status(), content_type, body, extra)
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        let headers = response.headers_mut();
        for (name, value) in extra {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let plain = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, plain(content_type));
        headers.insert(header::CACHE_CONTROL, plain("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, plain("nosniff"));
        let id = HeaderValue::from_str(request_id.as_str()).expect("visible ASCII");
        headers.insert(HeaderName::from_static("x-request-id"), id);
        if status >= 400 {
            // The next request would otherwise begin with the unread rest of the body.
            headers.insert(header::CONNECTION, plain("close"));
        }
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<crate::action::Done, Problem> {
        let (parts, body) = request.into_parts();
        // First, as it is small, so that a refused client is not still sending.
        let body = collect(body).await;
        admissible(&parts.headers, self.address.ip())?;
        self.authenticate(&parts.headers)?;
        let body = body?;
        if !body.is_empty() && !is_json(&parts.headers) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "the body must be sent as application/json",
            ));
        }
        let now_ms = unix_ms();
        let (path, query) = (parts.uri.path(), parts.uri.query());
        let method = parts.method.as_str();
        let performed = async {
            if crate::rollouts::is_path(path) {
                let context = RolloutContext {
                    kv: &self.kv,
                    counters: &self.counters,
                    models: &self.models,
                    changing: &self.changing,
                };
                let action = RolloutAction::of(method, path, query, &body, now_ms)?;
                return action.perform(&context, now_ms).await;
            }
            let action = Action::of(method, path, query, &body, now_ms)?;
            action.perform(&self.kv, &self.pepper, now_ms).await
        };
        match tokio::time::timeout(OPERATION_TIME, performed).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Problem::new(
                Code::DeadlineExceeded,
                format!(
                    "the store did not answer within {MAX_OPERATION_MS} ms; the operation may or may not have been done"
                ),
            )),
        }
    }

    /// Checks the bearer token. The time depends only on the length of the sent bytes.
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Problem::new(
                Code::CredentialsMissing,
                "send the admin token, once, as `Authorization: Bearer`; the server's log says where it is",
            ));
        };
        let malformed = || {
            let message = "the Authorization header is not `Bearer`, a space, and the admin token";
            Problem::new(Code::CredentialsMalformed, message)
        };
        let bytes = value.as_bytes();
        let scheme = bytes.get(..7).ok_or_else(malformed)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(malformed());
        }
        let shown: [u8; 32] = Sha256::digest(&bytes[7..]).into();
        match bool::from(shown.ct_eq(&self.token_digest)) {
            true => Ok(()),
            false => Err(Problem::new(
                Code::CredentialsInvalid,
                "this is not the admin token",
            )),
        }
    }
}

/// Refuses a request that a browser may have been tricked into.
fn admissible(headers: &HeaderMap, own: IpAddr) -> Result<(), Problem> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(
            Code::PermissionDenied,
            "the request has an Origin header; the admin API does not serve web pages",
        ));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    if host.is_none_or(|host| !is_own(host, own)) {
        return Err(Problem::new(
            Code::PermissionDenied,
            "the Host header is neither this listener's address nor localhost; use one of them",
        ));
    }
    Ok(())
}

/// Returns whether a `Host` is an address or localhost, and not a name that a stranger may control. The port may be a
/// tunnel's.
fn is_own(host: &str, own: IpAddr) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let (Ok(named), own) = (bare.parse::<IpAddr>(), own.to_canonical()) else {
        return false;
    };
    let named = named.to_canonical();
    named == own || named.is_loopback() || own.is_unspecified()
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let kind = value.and_then(|v| v.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Reads the body of a request. If it is too large, it reads a bounded rest too: a caller that still sends when its
/// connection closes
/// never sees the answer.
async fn collect(mut body: Incoming) -> Result<Bytes, Problem> {
    let read = async {
        let (mut kept, mut received) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::new(Code::IncompleteBody, "the body broke off"))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len();
            if received > MAX_DISCARD_BYTES {
                break;
            }
            if received <= MAX_BODY_BYTES {
                kept.extend_from_slice(&data);
            }
        }
        match received <= MAX_BODY_BYTES {
            true => Ok(kept.freeze()),
            false => Err(Problem::new(
                Code::BodyTooLarge,
                format!("the body exceeds {MAX_BODY_BYTES} bytes, the limit"),
            )),
        }
    };
    let read = tokio::time::timeout(ARRIVAL_TIME, read).await;
    read.unwrap_or_else(|_| {
        Err(Problem::new(
            Code::RequestTimeout,
            format!(
                "the body did not arrive within {} s",
                ARRIVAL_TIME.as_secs()
            ),
        ))
    })
}

pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_localhost_and_no_name_that_others_decide_about() {
        let own = |text: &str| text.parse::<IpAddr>().unwrap();
        for (host, listens, fits) in [
            ("127.0.0.1:3001", "127.0.0.1", true),
            ("localhost:3001", "127.0.0.1", true),
            ("LOCALHOST", "127.0.0.1", true),
            ("[::1]:4001", "::1", true),
            ("10.0.0.7:3001", "10.0.0.7", true),
            ("10.0.0.7:3001", "0.0.0.0", true),
            ("10.0.0.8:3001", "10.0.0.7", false),
            ("evil.example:3001", "127.0.0.1", false),
            ("evil.example", "0.0.0.0", false),
            ("localhost.evil.example", "127.0.0.1", false),
            ("127.0.0.1.evil.example", "127.0.0.1", false),
            ("user@localhost", "127.0.0.1", false),
            ("", "127.0.0.1", false),
        ] {
            assert_eq!(is_own(host, own(listens)), fits, "{host} on {listens}");
        }
    }

    #[test]
    fn an_address_others_can_reach_is_warned_about() {
        for (address, warned) in [
            ("127.0.0.1:1", false),
            ("127.1.2.3:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("10.0.0.1:1", true),
            ("[::]:1", true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(exposed(address).is_some(), warned, "{address}");
        }
        assert_eq!("off".parse(), Ok(AdminListen::Off));
        assert!("3001".parse::<AdminListen>().is_err());
    }
}
