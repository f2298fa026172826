//! Answers one request: checks its head, reads its body, passes it through the entry point, and words what this side refuses.

use super::admission::MAX_METHOD_BYTES;
use super::body::Inbound;
use super::caller::{Caller, facts};
use super::clock::unix_ms;
use super::framing::Seen;
use super::headers::{AUDIT, CLIENT_ADDRESS, CONNECTION, GO_ON, strip};
use super::request_info::{RequestInfo, asks_first, without_body};
use super::state::{RETRY_AFTER_S, Server};
use super::upload::discard;
use crate::audit;
use crate::proxies::Client;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use penstock_core::{Code, Problem};
use penstock_runtime::entry_points::{EntryPointError, EntryPointRequest};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Where the state of the certificate is told.
pub(crate) const READINESS: [&str; 2] = ["/ready", "/v2/health/ready"];
/// Where it is asked whether the server takes new work: over REST and gRPC.
pub(crate) const HEALTH: [&str; 5] = [
    READINESS[0],
    READINESS[1],
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerReady",
];
/// Why it takes none once it was told to stop.
pub(crate) const STOPPING: &str = "the server is stopping";
/// How much of a path the audit log is given.
pub(crate) const AUDIT_PATH_CHARS: usize = 512;

impl Server {
    /// Answers one request, whatever happens.
    pub(crate) async fn respond(
        &self,
        request: Request<Inbound>,
        caller: &Caller,
        seen: Seen,
    ) -> Response<Bytes> {
        let deadline = Instant::now() + Duration::from_millis(self.settings.total_timeout_ms);
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let client = self.proxies.client(caller.address, &parts.headers);
        // What a refusal needs to know, kept because the parts go to the door.
        let asked = RequestInfo::of(&parts);
        let audited = self.audited(&parts, &asked, client);
        // hyper leaves it to who answers to end a connection on which the next request cannot be told from this one's body.
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        let ends =
            matches!(seen, Seen::Ambiguous | Seen::TooLong) || (seen == Seen::Unknown && chunked);
        let answered = match self.admissible(&parts, seen) {
            Ok(()) => {
                self.handle(parts, body, deadline, &asked, (caller, client))
                    .await
            }
            Err(problem) => {
                // Reading it would ask for it.
                if !asks_first(&parts) {
                    discard(body).await;
                }
                Err(problem)
            }
        };
        let (mut response, code) = match answered {
            Ok(response) => (response, None),
            Err(problem) => (asked.refuse(&problem), Some(problem.code)),
        };
        let told = response.headers_mut().remove(&AUDIT);
        if let (true, Some(hsts)) = (caller.secure, &self.hsts) {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if ends {
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if asked.head {
            response = without_body(response);
        }
        if let Some(audited) = audited {
            audited.close(|entry| {
                entry.status = response.status().as_u16();
                entry.code = code.map(Code::as_str);
                entry.bytes_in = asked.received.load(Ordering::Relaxed);
                entry.bytes_out = response.body().len() as u64;
                entry.told = told;
            });
        }
        response
    }

    /// What the audit log is to know of a request; `None` where it is not logged.
    pub(crate) fn audited(
        &self,
        parts: &http::request::Parts,
        asked: &RequestInfo,
        client: Client,
    ) -> Option<audit::Open> {
        let audit = self.options.audit.as_ref()?;
        let entry = audit.wants(&asked.path).then(|| audit::Entry {
            unix_ms: unix_ms(),
            request_id: Some(asked.request_id.as_str().to_owned()),
            address: client.address,
            asked: (parts.method.as_str().len() <= MAX_METHOD_BYTES).then(|| {
                (
                    parts.method.clone(),
                    asked.path.chars().take(AUDIT_PATH_CHARS).collect(),
                )
            }),
            status: 0,
            code: None,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            told: None,
        });
        Some(audit::Open::new(audit, entry?))
    }

    /// Why the server takes no new work, where it takes none.
    fn not_ready(&self) -> Option<Cow<'static, str>> {
        if self.phase.borrow().is_leaving() {
            return Some(STOPPING.into());
        }
        self.options.not_ready.as_ref().and_then(|why| why())
    }

    /// Tells components who the client is, in place of whatever it calls itself, and what else this side knows. `asks` is
    /// the length that is announced of a body, where only the head of the request is to be judged.
    pub(crate) fn tell(
        &self,
        parts: &mut http::request::Parts,
        caller: &Caller,
        client: Client,
        asks: Option<Option<u64>>,
    ) {
        let address = HeaderValue::from_str(&client.text()).expect("an address is plain ASCII");
        parts.headers.insert(CLIENT_ADDRESS, address);
        let Some(token) = &self.options.token else {
            return;
        };
        let tls = self.options.tls.as_ref();
        let tls = tls.filter(|_| READINESS.contains(&parts.uri.path()));
        let mut facts = facts(client, caller, tls.map(|tls| tls.told()));
        if HEALTH.contains(&parts.uri.path())
            && let Some(why) = self.not_ready()
        {
            facts.insert("not_ready".to_owned(), why.into_owned().into());
        }
        if let Some(bytes) = asks {
            facts.insert("asks".to_owned(), json!({ "bytes": bytes }));
        }
        if facts.is_empty() {
            return;
        }
        let text = format!("{token} {}", Value::Object(facts));
        if let Ok(value) = HeaderValue::from_str(&text) {
            parts.headers.insert(CONNECTION, value);
        }
    }

    pub(crate) fn overloaded(&self) -> Problem {
        let limit = self.settings.max_in_flight;
        Problem::new(
            Code::Overloaded,
            format!("the server has its {limit} requests in flight; this one was not run"),
        )
        .retry_after(RETRY_AFTER_S)
    }

    async fn handle(
        &self,
        mut parts: http::request::Parts,
        mut body: Inbound,
        deadline: Instant,
        asked: &RequestInfo,
        (caller, client): (&Caller, Client),
    ) -> Result<Response<Bytes>, Problem> {
        // The id is made here, so that a request that traps has one as well.
        if asked.made_id {
            let id = HeaderValue::from_str(asked.request_id.as_str()).expect("visible ASCII");
            parts
                .headers
                .insert(HeaderName::from_static("x-request-id"), id);
        }
        let asks_first = asks_first(&parts) && !body.is_end_stream();
        if asks_first {
            let announced = body.size_hint().exact();
            if announced.is_some_and(|bytes| bytes > self.settings.max_body_bytes) {
                return Err(self.too_large());
            }
            let mut head = parts.clone();
            self.tell(&mut head, caller, client, Some(announced));
            if let Some(refused) = self.judged(head, deadline, asked).await? {
                return Ok(refused);
            }
            body.go_on();
        }
        self.tell(&mut parts, caller, client, None);
        let body = self
            .received(body, deadline, asks_first, asked, client.address)
            .await?;
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(self.overloaded());
        };
        self.pass((parts, body), deadline, asked).await
    }

    /// Asks components whether they would take a request of which only the head has come (RFC 9110 §10.1.1); gives the
    /// answer where they would not. Without a token they cannot be asked, and the body is.
    async fn judged(
        &self,
        head: http::request::Parts,
        deadline: Instant,
        asked: &RequestInfo,
    ) -> Result<Option<Response<Bytes>>, Problem> {
        if self.options.token.is_none() {
            return Ok(None);
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(self.overloaded());
        };
        let mut answered = self.pass((head, Bytes::new()), deadline, asked).await?;
        if answered.headers().contains_key(&GO_ON) {
            return Ok(None);
        }
        // The client may have begun to send all the same, and what it sent would be taken for the next request.
        let close = HeaderValue::from_static("close");
        answered.headers_mut().insert(header::CONNECTION, close);
        Ok(Some(answered))
    }

    pub(crate) fn too_large(&self) -> Problem {
        let limit = self.settings.max_body_bytes;
        Problem::new(
            Code::BodyTooLarge,
            format!("the body has more than {limit} bytes, the limit"),
        )
    }

    /// Reads a whole body, where there is room for one more on its way.
    pub(crate) async fn received(
        &self,
        body: Inbound,
        deadline: Instant,
        asks_first: bool,
        asked: &RequestInfo,
        address: IpAddr,
    ) -> Result<Bytes, Problem> {
        // Bodies on their way are counted apart from requests that run, so that slow senders cannot
        // keep a request without a body, such as a health check, from being answered.
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let Ok(_receiving) = self.receiving.try_acquire() else {
            if !asks_first {
                discard(body).await;
            }
            return Err(self.overloaded());
        };
        self.collect(body, deadline, &asked.received, address).await
    }

    /// Passes a request through the door.
    pub(crate) async fn pass(
        &self,
        (parts, body): (http::request::Parts, Bytes),
        deadline: Instant,
        asked: &RequestInfo,
    ) -> Result<Response<Bytes>, Problem> {
        let request = EntryPointRequest {
            parts,
            body,
            deadline,
        };
        match timeout_at(deadline, self.door.call(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                tracing::error!(
                    request_id = asked.request_id.as_str(),
                    path = asked.path,
                    "{}",
                    penstock_app::one_line(&error)
                );
                Err(match error {
                    EntryPointError::Instantiate(_) => self.overloaded(),
                    EntryPointError::NotDurable(_) => Problem::new(
                        Code::StoreUnavailable,
                        "the request ran, but its writes could not be made durable",
                    )
                    .retry_after(RETRY_AFTER_S),
                    EntryPointError::Trap(_) | EntryPointError::Answer(_) => Problem::new(
                        Code::Internal,
                        "something inside failed; the request id finds it in the server's log",
                    ),
                })
            }
            Err(_) => Err(Problem::new(
                Code::DeadlineExceeded,
                format!("no answer within {} ms", self.settings.total_timeout_ms),
            )),
        }
    }
}
