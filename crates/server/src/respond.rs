//! Answers one request: checks its head, reads its body, passes it through the entry point, and words the server's own
//! refusals.

use super::admission::MAX_METHOD_BYTES;
use super::body::Inbound;
use super::caller::{Caller, facts};
use super::clock::unix_ms;
use super::drain::STOPPING;
use super::events::StreamEntry;
use super::framing::Framing;
use super::headers::{AUDIT, CLIENT_ADDRESS, CONNECTION, GO_ON, strip};
use super::metered::{Answered, Metered, take_note};
use super::outbound::Answer;
use super::request_info::{RequestInfo, asks_first, without_body};
use super::state::{RETRY_AFTER_S, Server};
use super::upload::discard;
use super::work::{Opening, StreamPlace};
use crate::audit;
use crate::proxies::Client;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use penstock_core::negotiate::{Events, events};
use penstock_core::{Code, Problem};
use penstock_runtime::entry_points::{EntryPointError, EntryPointRequest};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Paths that report the state of the certificate.
pub(crate) const READINESS: [&str; 2] = ["/ready", "/v2/health/ready"];
/// Paths that report whether the server takes new work, over REST and gRPC.
pub(crate) const HEALTH: [&str; 5] = [
    READINESS[0],
    READINESS[1],
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerReady",
];
/// Characters of a path that the audit log gets.
pub(crate) const AUDIT_PATH_CHARS: usize = 512;

impl Server {
    /// Answers one request in every case.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        request: Request<Inbound>,
        caller: &Caller,
        seen: Framing,
    ) -> Response<Answer> {
        let begun = Instant::now();
        let metered = Metered::begin(&self.metrics, begun);
        let deadline = begun + Duration::from_millis(self.settings.total_timeout_ms);
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let client = self.proxies.client(caller.address, &parts.headers);
        // The facts for a refusal are kept here, because the parts go to the entry point.
        let asked = RequestInfo::of(&parts);
        let audited = self.audited(&parts, &asked, client);
        // hyper leaves it to the service to end a connection on which this body and the next request cannot be
        // distinguished.
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        let ends = matches!(seen, Framing::Ambiguous | Framing::TooLong)
            || (seen == Framing::Unknown && chunked);
        let answered = match self.admissible(&parts, seen) {
            Ok(()) => {
                self.handle(parts, body, deadline, &asked, (caller, client))
                    .await
            }
            Err(problem) => {
                // Reading the body would ask the client for it.
                if !asks_first(&parts) {
                    discard(body).await;
                }
                Err(problem)
            }
        };
        let (mut response, code, opening) = match answered {
            Ok((response, opening)) => (response, None, opening),
            Err(problem) => (asked.refuse(&problem), Some(problem.code), None),
        };
        let told = response.headers_mut().remove(&AUDIT);
        let note = take_note(&mut response);
        if let (true, Some(hsts)) = (caller.secure, &self.hsts) {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if ends {
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(opening) = opening {
            let entry = StreamEntry {
                open: audited,
                status: response.status().as_u16(),
                bytes_in: asked.received.load(Ordering::Relaxed),
                bytes_out: 0,
                told,
            };
            // A stream is counted when it begins, because it lasts as long as its operation.
            metered.end(&Answered {
                note: note.as_ref(),
                headers: Some(response.headers()),
                status: response.status().as_u16(),
                code,
                bytes_in: entry.bytes_in,
                bytes_out: response.body().len() as u64,
            });
            // The entry point may have measured the first part.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            return response.map(|first| {
                Answer::Events(self.open_stream(opening, first, entry, asked.request_id))
            });
        }
        if asked.head {
            response = without_body(response);
        }
        let bytes_in = asked.received.load(Ordering::Relaxed);
        let bytes_out = response.body().len() as u64;
        metered.end(&Answered {
            note: note.as_ref(),
            headers: Some(response.headers()),
            status: response.status().as_u16(),
            code,
            bytes_in,
            bytes_out,
        });
        if let Some(audited) = audited {
            audited.close(|entry| {
                entry.status = response.status().as_u16();
                entry.code = code.map(Code::as_str);
                entry.bytes_in = bytes_in;
                entry.bytes_out = bytes_out;
                entry.told = told;
            });
        }
        response.map(Answer::Whole)
    }

    /// Returns the audit log's entry of a request, or `None` if it is not logged.
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

    /// Returns the reason why the server takes no new work, if it takes none.
    pub(crate) fn not_ready(&self) -> Option<Cow<'static, str>> {
        if self.phase.borrow().is_leaving() {
            return Some(STOPPING.into());
        }
        self.options.not_ready.as_ref().and_then(|why| why())
    }

    /// Tells components the client's address, in place of the client's own statement, and the server's other facts.
    /// `asks` is the announced length of a body if only the head of the request is to be judged. `streams_full` says that there is no
    /// room for the event stream that the request may want.
    pub(crate) fn tell(
        &self,
        parts: &mut http::request::Parts,
        caller: &Caller,
        client: Client,
        asks: Option<Option<u64>>,
        streams_full: bool,
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
        if let Some(place) = self.queue_place(parts.uri.path()) {
            facts.insert("queue".to_owned(), json!(place));
        }
        if streams_full {
            facts.insert("streams_full".to_owned(), true.into());
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
            format!(
                "the server has {limit} requests in flight, the limit; this request did not run"
            ),
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
    ) -> Result<(Response<Bytes>, Option<Opening>), Problem> {
        // The id is made here, so that a request that traps has one as well.
        if asked.made_id {
            let id = HeaderValue::from_str(asked.request_id.as_str()).expect("visible ASCII");
            parts
                .headers
                .insert(HeaderName::from_static("x-request-id"), id);
        }
        let asks_first = asks_first(&parts) && !body.is_end_stream();
        let place = self.stream_place(asked);
        let streams_full = matches!(place, StreamPlace::Full);
        if asks_first {
            let announced = body.size_hint().exact();
            if announced.is_some_and(|bytes| bytes > self.settings.max_body_bytes) {
                return Err(self.too_large());
            }
            let mut head = parts.clone();
            self.tell(&mut head, caller, client, Some(announced), streams_full);
            if let Some(refused) = self.judged(head, deadline, asked).await? {
                return Ok((refused, None));
            }
            body.go_on();
        }
        self.tell(&mut parts, caller, client, None, streams_full);
        let body = self
            .received(body, deadline, asks_first, asked, client.address)
            .await?;
        let listening = self.listens(&parts);
        let answered = {
            let Ok(_permit) = self.in_flight.try_acquire() else {
                return Err(self.overloaded());
            };
            self.pass((parts, body), deadline, asked).await?
        };
        // A client that waits for an operation takes no place from others.
        Ok(self.follow(answered, listening, place, None).await)
    }

    /// Takes a place for the event stream that a request may want. Only a request that names its type gets one.
    fn stream_place(&self, asked: &RequestInfo) -> StreamPlace {
        match &self.work {
            // Triton's stream has its one event when it begins. The gate decides by the same rule, and all routes have JSON.
            Some(work)
                if events(asked.accept.as_deref(), &["application/json"]) != Events::No
                    && !asked.path.ends_with("/generate_stream") =>
            {
                work.stream_place()
            }
            _ => StreamPlace::NotAsked,
        }
    }

    /// Asks components whether they would accept a request of which only the head has come (RFC 9110 §10.1.1). Returns
    /// the answer if they refuse. Without a token they cannot be asked, and the server reads the body.
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
        // The client may have begun to send anyway, and its bytes would be read as the next request.
        let close = HeaderValue::from_static("close");
        answered.headers_mut().insert(header::CONNECTION, close);
        Ok(Some(answered))
    }

    pub(crate) fn too_large(&self) -> Problem {
        let limit = self.settings.max_body_bytes;
        Problem::new(
            Code::BodyTooLarge,
            format!("the body exceeds {limit} bytes, the limit"),
        )
    }

    /// Reads a whole body, if there is room for one more incoming body.
    pub(crate) async fn received(
        &self,
        body: Inbound,
        deadline: Instant,
        asks_first: bool,
        asked: &RequestInfo,
        address: IpAddr,
    ) -> Result<Bytes, Problem> {
        // Incoming bodies are counted apart from running requests, so that slow senders cannot block a request without
        // a body, such as a health check.
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

    /// Passes a request through the entry point.
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
        match timeout_at(deadline, self.entry_point.call(request)).await {
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
                        "an internal error occurred; the server's log has its details under the request id",
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
