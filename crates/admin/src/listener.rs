//! The admin API for keys, tenants and versions of models, and the check of its token. It has its own listener, which shares
//! no limit with the public one.
//!
//! The token permits everything. So requests of browsers are refused before the token is checked: an `Origin`, and a
//! `Host` that is a name which may point here (DNS rebinding).

use crate::access::{ShownToken, Token, admissible};
use crate::action::Action;
use crate::rollouts::{Models, RolloutAction, RolloutContext};
use crate::scrape::{self, Rules, Scrapes};
use crate::serving::{ARRIVAL_TIME, Draft, Listening, Responder, unix_ms};
use crate::store::StoreKv;
use anyhow::{Context, anyhow};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use penstock_app::Manifest;
use penstock_app::secrets::{self, Origin};
use penstock_app::variables;
use penstock_core::{Code, Problem, RequestId, json};
use penstock_kv::Store;
use penstock_policy::auth::api_key::Pepper;
use penstock_policy::auth::registry::MAX_OPERATION_MS;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The store of keys and tenants.
pub const STORE: &str = "default";

/// The store of the canaries' counters, if it exists. It may be lost at a crash.
const COUNTERS: &str = "counters";

/// Bytes of the largest body. A key with all its scopes takes less than ten kilobytes.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Bytes of a larger one that are read and discarded.
const MAX_DISCARD_BYTES: usize = 1 << 20;
/// Longest time of an action.
const OPERATION_TIME: Duration = Duration::from_millis(MAX_OPERATION_MS);

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
    token: Token,
    address: SocketAddr,
}

/// The admin API before it serves: its listener is open, and answers nothing yet.
pub struct Admin {
    listener: TcpListener,
    context: Arc<Shared>,
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
                token: Token::new(&token.text),
                address,
            }),
        })
    }

    /// Answers requests until it is told to stop, those for metrics with `scrapes`.
    pub fn serve(self, scrapes: Arc<Scrapes>) -> Listening {
        let Self { listener, context } = self;
        let answering = Answering { context, scrapes };
        Listening::start(listener, Arc::new(answering))
    }
}

/// Answers the requests of the listener.
struct Answering {
    context: Arc<Shared>,
    scrapes: Arc<Scrapes>,
}

impl Responder for Answering {
    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let context = &self.context;
        if request.uri().path() != scrape::PATH {
            return context.respond(request, peer).await;
        }
        let rules = Rules {
            own: context.address.ip(),
            is_open: false,
            also: Some(&context.token),
        };
        self.scrapes.respond(request, peer, rules).await
    }
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let request_id = RequestId::generate(unix_ms(), rand::random());
        let path = request.uri().path().to_owned();
        let accept = request.headers().get(header::ACCEPT);
        let accept = accept.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let outcome = self.answer(request).await;
        let by = self.token.name();
        let draft = match outcome {
            Ok(done) => {
                tracing::info!(target: "admin", %request_id, "token {by} from {peer}: {}", done.said);
                Draft {
                    status: done.status,
                    content_type: "application/json",
                    body: json::to_bytes(&done.body),
                    headers: Vec::new(),
                }
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
                let asked = (path.as_str(), accept.as_deref());
                Draft::refusal(&problem, asked, "penstock-admin", &request_id)
            }
        };
        draft.complete(&request_id)
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

    /// Checks the bearer token.
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let shown = ShownToken::of(headers, "admin token")?;
        match self.token.is(&shown) {
            true => Ok(()),
            false => Err(Problem::new(
                Code::CredentialsInvalid,
                "this is not the admin token",
            )),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
