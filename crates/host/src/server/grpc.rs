//! Calls over gRPC, between HTTP/2 and the door: which are taken, where messages begin and end, how long a call may last
//! and how it is ended. What messages mean is the gate's to know.
//!
//! Every call is a sequence of messages. Each goes through the door as a request of its own, whose body is the message
//! without its frame; what comes back is one message with the status among its headers, which becomes the trailers. A
//! unary call has one message. A stream has as many as its client sends: a few run at once, so that the engine can join
//! them, and answers go out in order. Between messages a stream holds nothing but its place on the connection. A message
//! that finds no room is not read on, so that its client waits and nothing is held for it.

use super::activity::{Activity, Answer, Sending, Working};
use super::body::Inbound;
use super::{Asked, Caller, Held, MAX_WATCHES, Phases, RETRY_AFTER_S, Server, at, over, strip};
use crate::proxies::Client;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, request::Parts};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use penstock_core::grpc::{self, Codec, Deframer, FrameFault, GrpcStatus, Message};
use penstock_core::{Code, Problem};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Messages of one stream that run at once: enough for the engine to join, and too few for one stream to take the
/// instances.
const MAX_RUNNING: usize = 8;
/// How often the state of the server is asked for those who watch it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Streams that may pause for `stream_idle_timeout_ms` between messages. Each holds its task and its headers meanwhile, some
/// tens of KiB. While more are open, a stream may pause for `body_idle_timeout_ms` only.
const MANY_STREAMS: u64 = 4096;
/// Frames that are ready before the connection takes them.
const READY_FRAMES: usize = 1;
/// How soon a message looks again for a place among the requests in flight, at first and at most. It does not stand in
/// line for one: a line would be served before everybody who only looks.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Tells the gate's other door that a body is one message without its frame.
const UNFRAMED: HeaderName = HeaderName::from_static("penstock-grpc");
const TIMEOUT: &str = "grpc-timeout";
const ENCODING: &str = "grpc-encoding";
/// The codings of messages that are taken.
const ACCEPTED_ENCODINGS: HeaderValue = HeaderValue::from_static("identity, gzip, deflate");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC_TYPE: HeaderValue = HeaderValue::from_static(grpc::CONTENT_TYPE);
/// What clients are told in trailers, and in headers where nothing else is.
const TRAILERS: [&str; 4] = [grpc::STATUS, grpc::MESSAGE, grpc::DETAILS, grpc::PUSHBACK];

/// How a method's messages come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One each way.
    Unary,
    /// Many each way, one for one.
    Stream,
    /// One in, and one out whenever it changes.
    Watch,
}

impl Shape {
    /// A method the gate does not know is unary: it is refused either way.
    fn of(path: &str) -> Self {
        match path {
            "/inference.GRPCInferenceService/ModelStreamInfer"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Stream,
            "/grpc.health.v1.Health/Watch" => Self::Watch,
            _ => Self::Unary,
        }
    }
}

/// The codec a request's content type names, where it is gRPC's.
pub(super) fn codec(headers: &HeaderMap) -> Option<Codec> {
    grpc::codec(headers.get(header::CONTENT_TYPE)?.as_bytes())
}

/// A call is not taken that has a codec, or a version of HTTP, in which it could not be answered.
pub(super) fn admissible(parts: &Parts) -> Result<(), Problem> {
    let message = match codec(&parts.headers) {
        None => return Ok(()),
        Some(Codec::Protobuf) if parts.version == http::Version::HTTP_2 => return Ok(()),
        Some(Codec::Protobuf) => {
            "calls over gRPC need HTTP/2; connect with `h2` or with prior knowledge, and let no proxy between speak \
             HTTP/1"
        }
        Some(Codec::Other) => {
            "only the codec protobuf over plain HTTP/2 is supported; send `content-type: application/grpc`"
        }
    };
    Err(Problem::new(Code::UnsupportedMediaType, message))
}

/// What is the same for all messages of a call.
struct Call {
    parts: Parts,
    client: Client,
    caller: Arc<Caller>,
    asked: Asked,
    /// When the whole call is of no more use to its client.
    deadline: Option<Instant>,
    /// When the connection has lasted as long as it may.
    until: Option<Instant>,
    /// How messages are compressed, where they may be.
    coding: Option<&'static str>,
}

impl Server {
    /// Answers a call over gRPC, whatever happens.
    pub(super) async fn respond_grpc(
        self: Arc<Self>,
        request: Request<Inbound>,
        caller: &Arc<Caller>,
        until: Option<Instant>,
        activity: &Arc<Activity>,
        working: Working,
    ) -> Response<Answer> {
        let begun = Instant::now();
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let client = self.proxies.client(caller.address, &parts.headers);
        let asked = Asked::of(&parts);
        let shape = Shape::of(parts.uri.path());
        let call = match self.call_of(parts, client, asked, caller, begun) {
            Ok(call) => Call { until, ..call },
            Err((problem, parts, asked)) => {
                let audited = self.audited(&parts, &asked, client);
                super::discard(body).await;
                let response = refused(&problem, &asked);
                if let Some(audited) = audited {
                    audited.close(|entry| {
                        entry.status = problem.code.status();
                        entry.code = Some(problem.code.as_str());
                    });
                }
                return self
                    .secured(response, caller)
                    .map(|_| activity.answer(Bytes::new()));
            }
        };
        if shape == Shape::Unary {
            let answered = self.unary(&call, body, begun).await;
            let response = match answered {
                Ok(answered) => answered,
                Err(problem) => Answered::of(&problem, &call.asked),
            };
            let response = response.whole();
            return self
                .secured(response, caller)
                .map(|frames| Answer::frames(frames, activity.ready()));
        }
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, GRPC_TYPE);
        headers.insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
        headers.insert(
            HeaderName::from_static("x-request-id"),
            HeaderValue::from_str(call.asked.request_id.as_str()).expect("visible ASCII"),
        );
        let response = self.secured(response, caller);
        let (sender, frames) = mpsc::channel(READY_FRAMES);
        let out = Out {
            sender,
            activity: activity.clone(),
        };
        let driver = tokio::spawn(async move {
            let ended = match shape {
                Shape::Watch => self.watch(&call, body, &out).await,
                _ => self.stream(call, body, &out).await,
            };
            if let Ok(trailers) = ended {
                let _ = out.send(Frame::trailers(trailers)).await;
            }
        });
        response.map(|()| {
            Answer::stream(Stream {
                frames,
                _driver: Ends(driver),
                _working: working,
            })
        })
    }

    /// What a call is, or why it is not taken.
    #[allow(clippy::result_large_err)]
    fn call_of(
        &self,
        mut parts: Parts,
        client: Client,
        asked: Asked,
        caller: &Arc<Caller>,
        begun: Instant,
    ) -> Result<Call, (Problem, Parts, Asked)> {
        let taken = self
            .admissible(&parts, super::Seen::Clear)
            .and_then(|()| terms(&parts.headers));
        let (timeout, coding) = match taken {
            Ok(terms) => terms,
            Err(problem) => return Err((problem, parts, asked)),
        };
        self.tell(&mut parts, caller, client, None);
        let headers = &mut parts.headers;
        for name in [
            ENCODING,
            "te",
            "content-encoding",
            "content-length",
            "expect",
        ] {
            headers.remove(name);
        }
        headers.insert(UNFRAMED, HeaderValue::from_static("message"));
        if asked.made_id {
            let id = HeaderValue::from_str(asked.request_id.as_str()).expect("visible ASCII");
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        Ok(Call {
            parts,
            client,
            caller: caller.clone(),
            asked,
            // A time beyond what can be counted is none.
            deadline: timeout.and_then(|timeout| begun.checked_add(timeout)),
            until: None,
            coding,
        })
    }

    /// Adds what every answer over TLS has.
    fn secured<B>(&self, mut response: Response<B>, caller: &Caller) -> Response<B> {
        if let (true, Some(hsts)) = (caller.secure, &self.hsts) {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        response
    }

    /// When one message that came `begun` must be answered.
    fn due(&self, call: &Call, begun: Instant) -> Instant {
        let due = begun + Duration::from_millis(self.settings.total_timeout_ms);
        call.deadline.map_or(due, |deadline| deadline.min(due))
    }

    /// One message in, one out.
    async fn unary(&self, call: &Call, body: Inbound, begun: Instant) -> Result<Answered, Problem> {
        let audited = self.audited(&call.parts, &call.asked, call.client);
        let due = self.due(call, begun);
        let asked = &call.asked;
        let answered = async {
            let body = self
                .received(body, due, false, asked, call.client.address)
                .await?;
            let message = only_message(&body, self.settings.max_body_bytes)?;
            let Ok(_permit) = self.in_flight.try_acquire() else {
                return Err(self.overloaded());
            };
            self.pass(request(call, message)?, due, asked).await
        }
        .await;
        let answered = answered.map_err(|problem| self.late(problem, call));
        conclude(audited, answered, asked.received.load(Ordering::Relaxed))
    }

    /// A body that came too late, or an answer, is told with the time that was over.
    fn late(&self, problem: Problem, call: &Call) -> Problem {
        let over = call
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now());
        match problem.code {
            Code::DeadlineExceeded | Code::RequestTimeout if over => Problem::new(
                Code::DeadlineExceeded,
                "the call's own grpc-timeout is over",
            ),
            _ => problem,
        }
    }

    /// Many messages in, as many out, in order. Gives the trailers; `Err` when nobody takes them.
    async fn stream(
        self: &Arc<Self>,
        call: Call,
        body: Inbound,
        out: &Out,
    ) -> Result<HeaderMap, Gone> {
        let call = Arc::new(call);
        let _open = OpenStream::of(&self.open_streams);
        let mut phases = Phases::of(&self.phase);
        let mut messages = Messages::new(self, body, call.client.address);
        let mut running: VecDeque<Ends<Result<Answered, Problem>>> = VecDeque::new();
        // Set when no further message is taken: how the call ends once those that run are answered.
        let mut ending = None;
        loop {
            if running.is_empty()
                && let Some(end) = ending
            {
                return Ok(match end {
                    None => trailers_ok(),
                    Some(problem) => self.ended(&call, &problem),
                });
            }
            let rests = running.is_empty();
            tokio::select! {
                biased;
                () = over(&mut phases, call.until), if ending.is_none() => {
                    ending = Some(Some(leaving()));
                }
                () = at(call.deadline) => return Ok(self.ended(&call, &own_time_over())),
                answered = first(&mut running) => {
                    running.pop_front();
                    match answered {
                        Ok(answered) if answered.is_ok() => {
                            for frame in answered.into_message() {
                                out.send(frame).await?;
                            }
                        }
                        // The gate ends the stream, or nobody can answer this message.
                        Ok(answered) => return Ok(answered.trailers),
                        Err(problem) => return Ok(trailers(&self.late(problem, &call))),
                    }
                    messages.rest();
                }
                message = messages.next(rests), if ending.is_none() && running.len() < MAX_RUNNING => {
                    match message {
                        Ok(Some((message, place))) => {
                            let begun = Instant::now();
                            let (server, call) = (self.clone(), call.clone());
                            running.push_back(Ends(tokio::spawn(async move {
                                server.one_of_many(&call, message, place, begun).await
                            })));
                        }
                        Ok(None) => ending = Some(None),
                        Err(problem) => ending = Some(Some(problem)),
                    }
                }
            }
        }
    }

    /// How a stream ends with an error of this side's own, which the audit log is told of.
    fn ended(&self, call: &Call, problem: &Problem) -> HeaderMap {
        if let Some(audited) = self.audited(&call.parts, &call.asked, call.client) {
            audited.close(|entry| {
                entry.status = problem.code.status();
                entry.code = Some(problem.code.as_str());
            });
        }
        trailers(problem)
    }

    /// One message of a stream, which has its place until it is answered.
    async fn one_of_many(
        &self,
        call: &Call,
        message: Message,
        _place: Place,
        begun: Instant,
    ) -> Result<Answered, Problem> {
        let audited = self.audited(&call.parts, &call.asked, call.client);
        let bytes = message.bytes.len() as u64;
        let due = self.due(call, begun);
        let answered = async {
            let mut held = Held::new(&self.arriving);
            self.hold(&mut held, bytes)?;
            let mut look = FIRST_LOOK;
            let _permit = loop {
                if let Ok(permit) = self.in_flight.try_acquire() {
                    break permit;
                }
                if Instant::now() >= due {
                    return Err(self.overloaded());
                }
                tokio::time::sleep_until(due.min(Instant::now() + look)).await;
                look = LAST_LOOK.min(look * 2);
            };
            drop(held);
            let body = (message.compressed, Bytes::from(message.bytes));
            self.pass(request(call, body)?, due, &call.asked).await
        }
        .await;
        conclude(audited, answered, bytes)
    }

    /// One message in, and an answer whenever it is another.
    async fn watch(
        self: &Arc<Self>,
        call: &Call,
        body: Inbound,
        out: &Out,
    ) -> Result<HeaderMap, Gone> {
        let begun = Instant::now();
        let due = self.due(call, begun);
        let Ok(_place) = self.watches.try_acquire() else {
            let problem = Problem::new(
                Code::Overloaded,
                format!(
                    "{MAX_WATCHES} calls watch the server's health already; ask with Check instead"
                ),
            );
            return Ok(self.ended(call, &problem.retry_after(RETRY_AFTER_S)));
        };
        let body = match self
            .received(body, due, false, &call.asked, call.client.address)
            .await
        {
            Ok(body) => body,
            Err(problem) => return Ok(self.ended(call, &self.late(problem, call))),
        };
        let message = match only_message(&body, self.settings.max_body_bytes) {
            Ok(message) => message,
            Err(problem) => return Ok(self.ended(call, &problem)),
        };
        let mut phases = Phases::of(&self.phase);
        let mut again = phases.clone();
        let mut told: Option<Bytes> = None;
        loop {
            let answered = {
                // A moment without a place is no change.
                let permit = self.in_flight.try_acquire();
                match (permit, request(call, message.clone())) {
                    (Ok(_permit), Ok(mut request)) => {
                        // What this side knows changes, too.
                        request.0.headers.remove(&super::CONNECTION);
                        self.tell(&mut request.0, &call.caller, call.client, None);
                        let due = self.due(call, Instant::now());
                        Some(self.pass(request, due, &call.asked).await)
                    }
                    (Err(_), _) => None,
                    (_, Err(problem)) => Some(Err(problem)),
                }
            };
            match answered.map(|answered| answered.map(Answered::from_door)) {
                None => {}
                Some(Ok(answered)) if !answered.is_ok() => return Ok(answered.trailers),
                Some(Ok(answered)) if told.as_ref() == Some(&answered.message) => {}
                Some(Ok(answered)) => {
                    told = Some(answered.message.clone());
                    for frame in answered.into_message() {
                        out.send(frame).await?;
                    }
                }
                Some(Err(problem)) => return Ok(self.ended(call, &self.late(problem, call))),
            }
            tokio::select! {
                // Before the call ends, its client is told that the server stops.
                biased;
                () = again.changed() => {}
                () = over(&mut phases, call.until) => return Ok(self.ended(call, &leaving())),
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = at(call.deadline) => return Ok(self.ended(call, &own_time_over())),
            }
        }
    }
}

/// Why a stream ends that its client did not end.
fn leaving() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the connection is about to end; open the stream again on another, and repeat what has no answer",
    )
    .retry_after(RETRY_AFTER_S)
}

fn own_time_over() -> Problem {
    Problem::new(
        Code::DeadlineExceeded,
        "the stream's own grpc-timeout is over",
    )
}

/// How long a call's client waits, and how it compresses its messages, as `Content-Encoding` has it.
fn terms(headers: &HeaderMap) -> Result<(Option<Duration>, Option<&'static str>), Problem> {
    let timeout = match headers.get(TIMEOUT) {
        None => None,
        Some(value) => Some(grpc::timeout(value.as_bytes()).ok_or_else(|| {
            Problem::new(
                Code::MalformedRequest,
                "grpc-timeout is not up to eight digits and one of the units H, M, S, m, u, n",
            )
        })?),
    };
    let coding = match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => None,
        Some(b"gzip") => Some("gzip"),
        // The zlib format, under the same name as in HTTP.
        Some(b"deflate") => Some("deflate"),
        Some(_) => {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "messages are compressed in a coding that is not supported; grpc-accept-encoding names those that \
                 are",
            ));
        }
    };
    Ok((timeout, coding))
}

/// The one message of a unary call, and whether it is compressed.
fn only_message(body: &Bytes, limit: u64) -> Result<(bool, Bytes), Problem> {
    let mut deframer = Deframer::new(limit);
    let mut rest = body.get(..grpc::FRAME_HEAD_BYTES).unwrap_or(body);
    let empty = deframer.next(&mut rest).map_err(misframed)?;
    let Some(head) = body.first_chunk::<{ grpc::FRAME_HEAD_BYTES }>() else {
        return Err(not_one(if body.is_empty() {
            "the call has no message; send one"
        } else {
            "the body ends within the five bytes before a message"
        }));
    };
    let length = match empty {
        Some(_) => 0,
        None => {
            let [_, length @ ..] = *head;
            u32::from_be_bytes(length) as usize
        }
    };
    // Not copied: the message is the rest of the body.
    let message = body.slice(grpc::FRAME_HEAD_BYTES..);
    match message.len().cmp(&length) {
        std::cmp::Ordering::Equal => Ok((head[0] == 1, message)),
        std::cmp::Ordering::Less => Err(not_one("the body ends within its message")),
        std::cmp::Ordering::Greater => Err(not_one(
            "more than one message came, and this method takes one",
        )),
    }
}

fn not_one(message: &str) -> Problem {
    Problem::new(Code::MalformedRequest, message)
}

fn misframed(fault: FrameFault) -> Problem {
    Problem::new(fault.code(), fault.to_string())
}

/// A message as the door takes it.
fn request(call: &Call, (compressed, message): (bool, Bytes)) -> Result<(Parts, Bytes), Problem> {
    let mut parts = call.parts.clone();
    if compressed {
        let Some(coding) = call.coding else {
            return Err(Problem::new(
                Code::MalformedRequest,
                "a message is marked as compressed, and grpc-encoding does not say how; send `grpc-encoding: gzip`",
            ));
        };
        // The gate decodes it, as it does other bodies, with their bounds.
        let coding = HeaderValue::from_static(coding);
        parts.headers.insert(header::CONTENT_ENCODING, coding);
    }
    Ok((parts, message))
}

/// What the door answered, taken apart.
struct Answered {
    /// What is said before the message.
    metadata: HeaderMap,
    message: Bytes,
    trailers: HeaderMap,
    /// What the audit log is told.
    told: Option<HeaderValue>,
}

impl Answered {
    fn from_door(response: Response<Bytes>) -> Self {
        let (parts, message) = response.into_parts();
        let mut metadata = parts.headers;
        let told = metadata.remove(&super::AUDIT);
        let mut trailers = HeaderMap::new();
        for name in TRAILERS {
            if let Some(value) = metadata.remove(name) {
                trailers.insert(HeaderName::from_static(name), value);
            }
        }
        metadata.remove(header::CONTENT_LENGTH);
        metadata.insert(header::CONTENT_TYPE, GRPC_TYPE);
        metadata.insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
        let status = HeaderName::from_static(grpc::STATUS);
        if !trailers.contains_key(&status) {
            // A gate that knows nothing of gRPC answers in HTTP.
            let found = GrpcStatus::of_http(parts.status.as_u16());
            let found = match found {
                GrpcStatus::Unknown if parts.status.is_success() => GrpcStatus::Unimplemented,
                other => other,
            };
            trailers.insert(status, HeaderValue::from(u16::from(found.number())));
        }
        Self {
            metadata,
            message,
            trailers,
            told,
        }
    }

    fn of(problem: &Problem, asked: &Asked) -> Self {
        let (parts, ()) = refused(problem, asked).into_parts();
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = parts.headers;
        Self::from_door(response)
    }

    fn is_ok(&self) -> bool {
        let status = self.trailers.get(grpc::STATUS);
        status.is_some_and(|status| status.as_bytes() == b"0")
    }

    /// The status over HTTP that says the same, for the audit log.
    fn http_status(&self) -> u16 {
        let number = self.trailers.get(grpc::STATUS);
        let number = number.and_then(|status| status.to_str().ok()?.parse::<usize>().ok());
        let status = number.and_then(|number| GrpcStatus::ALL.get(number));
        status.map_or(500, |status| status.to_http())
    }

    /// The frames of the message.
    fn into_message(self) -> [Frame<Bytes>; 2] {
        // No message is longer than an instance's memory, which is less than a frame's length can say.
        let head = grpc::frame_head(self.message.len()).unwrap_or_default();
        [
            Frame::data(Bytes::copy_from_slice(&head)),
            Frame::data(self.message),
        ]
    }

    /// The whole answer to a unary call: without a message its trailers are its headers.
    fn whole(self) -> Response<VecDeque<Frame<Bytes>>> {
        let mut response = Response::new(VecDeque::new());
        *response.headers_mut() = self.metadata.clone();
        if self.is_ok() {
            let trailers = Frame::trailers(self.trailers.clone());
            response.body_mut().extend(self.into_message());
            response.body_mut().push_back(trailers);
        } else {
            response.headers_mut().extend(self.trailers);
        }
        response
    }
}

/// Ends what the audit log is told of one message.
fn conclude(
    audited: Option<crate::audit::Open>,
    answered: Result<Response<Bytes>, Problem>,
    bytes_in: u64,
) -> Result<Answered, Problem> {
    let mut answered = answered.map(Answered::from_door);
    if let Some(audited) = audited {
        audited.close(|entry| {
            entry.bytes_in = bytes_in;
            match &mut answered {
                Ok(answered) => {
                    let told = answered.told.as_ref().and_then(told_status);
                    entry.status = told.unwrap_or_else(|| answered.http_status());
                    entry.bytes_out = answered.message.len() as u64;
                    entry.told = answered.told.take();
                }
                Err(problem) => {
                    entry.status = problem.code.status();
                    entry.code = Some(problem.code.as_str());
                }
            }
        });
    }
    answered
}

/// The status of the code that the gate tells the audit log, which says more than gRPC's.
fn told_status(told: &HeaderValue) -> Option<u16> {
    let told: serde_json::Value = serde_json::from_slice(told.as_bytes()).ok()?;
    let word = told.get("code")?.as_str()?;
    let code = Code::ALL.iter().find(|code| code.as_str() == word)?;
    Some(code.status())
}

/// A refusal of this side's own, in headers alone.
fn refused(problem: &Problem, asked: &Asked) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC_TYPE);
    headers.insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
    headers.insert(
        HeaderName::from_static("x-request-id"),
        HeaderValue::from_str(asked.request_id.as_str()).expect("visible ASCII"),
    );
    headers.extend(trailers(problem));
    response
}

fn trailers_ok() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let ok = HeaderValue::from_static("0");
    trailers.insert(HeaderName::from_static(grpc::STATUS), ok);
    trailers
}

/// How a call ends with an error of this side's own.
fn trailers(problem: &Problem) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let status = problem.code.grpc_status().number();
    trailers.insert(
        HeaderName::from_static(grpc::STATUS),
        HeaderValue::from(u16::from(status)),
    );
    if let Ok(message) = HeaderValue::from_str(&grpc::encode_message(&problem.message)) {
        trailers.insert(HeaderName::from_static(grpc::MESSAGE), message);
    }
    if let Some(seconds) = problem.retry_after_s {
        let ms = HeaderValue::from(u64::from(seconds) * 1_000);
        trailers.insert(HeaderName::from_static(grpc::PUSHBACK), ms);
    }
    trailers
}

/// A stream that is counted among those that are open.
struct OpenStream<'s>(&'s AtomicU64);

impl<'s> OpenStream<'s> {
    fn of(open: &'s AtomicU64) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A message's place among those of streams. One that has bytes has one.
type Place = Option<OwnedSemaphorePermit>;

/// The messages of a stream, as they come. It may be dropped while it waits for one.
struct Messages<'s> {
    server: &'s Server,
    body: Inbound,
    address: IpAddr,
    deframer: Deframer,
    /// What came and was not looked at yet.
    piece: Bytes,
    /// When something last came or went.
    last: Instant,
    /// What one message that has come in part is counted with.
    partial: Option<Partial<'s>>,
    /// The place of the message that has begun to come.
    place: Place,
}

struct Partial<'s> {
    held: Held<'s>,
    since: Instant,
    dawdling: Option<super::Dawdling<'s>>,
    _receiving: tokio::sync::SemaphorePermit<'s>,
}

impl<'s> Messages<'s> {
    fn new(server: &'s Server, body: Inbound, address: IpAddr) -> Self {
        Self {
            server,
            body,
            address,
            deframer: Deframer::new(server.settings.max_body_bytes),
            piece: Bytes::new(),
            last: Instant::now(),
            partial: None,
            place: None,
        }
    }

    /// Something happened on the stream.
    fn rest(&mut self) {
        self.last = Instant::now();
    }

    /// A place for the message that begins to come. Until there is one nothing more is read.
    async fn take_place(&mut self) -> Result<(), Problem> {
        if self.place.is_none() && !self.piece.is_empty() {
            let server = self.server;
            let until = self.last + Duration::from_millis(server.settings.total_timeout_ms);
            let place = timeout_at(until, server.streamed.clone().acquire_owned()).await;
            let Ok(Ok(place)) = place else {
                return Err(server.overloaded());
            };
            self.place = Some(place);
            self.rest();
        }
        Ok(())
    }

    /// The next message with its place; `None` when there are no more. A stream of which nothing runs, or a message that
    /// has come in part, may pause for so long only.
    async fn next(&mut self, rests: bool) -> Result<Option<(Message, Place)>, Problem> {
        let settings = &self.server.settings;
        let body_pause = Duration::from_millis(settings.body_idle_timeout_ms);
        let stream_pause = Duration::from_millis(settings.stream_idle_timeout_ms);
        loop {
            self.take_place().await?;
            let mut rest: &[u8] = &self.piece;
            let found = self.deframer.next(&mut rest).map_err(misframed)?;
            let taken = self.piece.len() - rest.len();
            bytes::Buf::advance(&mut self.piece, taken);
            if let Some(message) = found {
                self.partial = None;
                return Ok(Some((message, self.place.take())));
            }
            self.count_partial()?;
            let crowded = self.server.open_streams.load(Ordering::Relaxed) > MANY_STREAMS;
            let pause = match &self.partial {
                Some(_) => body_pause,
                None if crowded => body_pause.min(stream_pause),
                None => stream_pause,
            };
            let until = (rests || self.partial.is_some()).then(|| self.last + pause);
            // Others may come meanwhile, and leave less time to this one.
            let look = until.map(|until| until.min(Instant::now() + body_pause));
            let dawdles_at = match &self.partial {
                Some(Partial {
                    since,
                    dawdling: None,
                    ..
                }) => Some(*since + super::DAWDLING),
                _ => None,
            };
            let woken = [look, dawdles_at].into_iter().flatten().min();
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => Ok(frame),
                () = at(woken) => Err(()),
            };
            match frame {
                Err(()) if woken < until => {
                    if dawdles_at.is_some_and(|at| at <= Instant::now())
                        && let Some(partial) = &mut self.partial
                    {
                        partial.dawdling = Some(self.server.dawdle(self.address)?);
                    }
                }
                Err(()) => {
                    return Err(Problem::new(
                        Code::RequestTimeout,
                        format!(
                            "nothing came for {} ms, for which a stream may pause; open it again when there is something to \
                             send",
                            pause.as_millis()
                        ),
                    ));
                }
                Ok(None) if self.deframer.is_between_messages() => return Ok(None),
                Ok(None) => return Err(not_one("the stream ends within a message")),
                Ok(Some(Err(e))) => {
                    return Err(Problem::new(
                        Code::IncompleteBody,
                        format!("the stream broke off: {e}"),
                    ));
                }
                Ok(Some(Ok(frame))) => {
                    self.last = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        self.piece = data;
                    }
                }
            }
        }
    }

    /// Counts what is held of a message that has come in part, as of any body on its way.
    fn count_partial(&mut self) -> Result<(), Problem> {
        if self.deframer.is_between_messages() {
            self.partial = None;
            self.place = None;
            return Ok(());
        }
        let server = self.server;
        let partial = match &mut self.partial {
            Some(partial) => partial,
            None => {
                let Ok(receiving) = server.receiving.try_acquire() else {
                    return Err(server.overloaded());
                };
                self.partial.insert(Partial {
                    held: Held::new(&server.arriving),
                    since: Instant::now(),
                    dawdling: None,
                    _receiving: receiving,
                })
            }
        };
        let more = (self.deframer.held_bytes() as u64).saturating_sub(partial.held.own);
        server.hold(&mut partial.held, more)
    }
}

/// Nobody takes what goes out.
struct Gone;

/// Where a stream's frames go.
struct Out {
    sender: mpsc::Sender<(Frame<Bytes>, Sending)>,
    activity: Arc<Activity>,
}

impl Out {
    /// Sends a frame. While it is not taken it counts as an answer its caller does not take.
    async fn send(&self, frame: Frame<Bytes>) -> Result<(), Gone> {
        let sending = self.activity.ready();
        self.sender.send((frame, sending)).await.map_err(|_| Gone)
    }
}

/// A task that ends when nobody waits for it any more.
struct Ends<T>(JoinHandle<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answer to the message that came first of those that run; never where none does.
async fn first(
    running: &mut VecDeque<Ends<Result<Answered, Problem>>>,
) -> Result<Answered, Problem> {
    match running.front_mut() {
        None => std::future::pending().await,
        Some(task) => (&mut task.0).await.unwrap_or_else(|error| {
            tracing::error!("a message's task ended: {}", crate::log::one_line(&error));
            Err(Problem::new(
                Code::Internal,
                "something inside failed; the request id finds it in the server's log",
            ))
        }),
    }
}

/// The body of a stream's answer.
pub struct Stream {
    frames: mpsc::Receiver<(Frame<Bytes>, Sending)>,
    _driver: Ends<()>,
    _working: Working,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unary_call_has_one_message_and_nothing_else() {
        let read = |body: &'static [u8]| only_message(&Bytes::from_static(body), 4);
        assert_eq!(read(b"\0\0\0\0\x02hi"), Ok((false, Bytes::from("hi"))));
        assert_eq!(read(b"\x01\0\0\0\x02hi"), Ok((true, Bytes::from("hi"))));
        assert_eq!(read(b"\0\0\0\0\0"), Ok((false, Bytes::new())));
        for (body, code) in [
            (&b""[..], Code::MalformedRequest),
            (b"\0\0\0", Code::MalformedRequest),
            (b"\0\0\0\0\x02h", Code::MalformedRequest),
            (b"\0\0\0\0\x02hi!", Code::MalformedRequest),
            (b"\0\0\0\0\0\0\0\0\0\0", Code::MalformedRequest),
            (b"\x02\0\0\0\0", Code::MalformedRequest),
            (b"\0\0\0\0\x05hello", Code::BodyTooLarge),
            (b"\0\xff\xff\xff\xff", Code::BodyTooLarge),
        ] {
            assert_eq!(read(body).unwrap_err().code, code, "{body:?}");
        }
    }

    #[test]
    fn terms_are_read_and_those_that_are_none_refused() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            terms(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(terms(&HeaderMap::new()), Ok((None, None)));
        assert_eq!(
            with("grpc-timeout", "2S"),
            Ok((Some(Duration::from_secs(2)), None))
        );
        assert_eq!(with("grpc-timeout", "soon"), Err(Code::MalformedRequest));
        assert_eq!(with("grpc-encoding", "identity"), Ok((None, None)));
        assert_eq!(with("grpc-encoding", "gzip"), Ok((None, Some("gzip"))));
        assert_eq!(
            with("grpc-encoding", "deflate"),
            Ok((None, Some("deflate")))
        );
        assert_eq!(with("grpc-encoding", "br"), Err(Code::UnsupportedMediaType));
    }

    #[test]
    fn the_audit_log_has_the_status_of_the_code_that_the_gate_tells() {
        let status = |told| told_status(&HeaderValue::from_static(told));
        let quota = r#"{"decision":"refused","code":"quota_exceeded"}"#;
        assert_eq!(status(quota), Some(429));
        for told in ["", "{}", r#"{"code":7}"#, r#"{"code":"unheard_of"}"#] {
            assert_eq!(status(told), None, "{told}");
        }
    }

    #[test]
    fn what_the_door_answers_becomes_metadata_a_message_and_trailers() {
        let mut response = Response::new(Bytes::from_static(b"hi"));
        let headers = response.headers_mut();
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("content-length", "2"),
            ("grpc-status", "0"),
            ("x-request-id", "r"),
            ("penstock-audit", "{}"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let answered = Answered::from_door(response);
        assert!(answered.is_ok() && answered.told.is_some());
        assert_eq!(answered.http_status(), 200);
        let response = answered.whole();
        assert!(!response.headers().contains_key("grpc-status"));
        assert!(!response.headers().contains_key("content-length"));
        assert!(!response.headers().contains_key("penstock-audit"));
        assert_eq!(response.headers()["x-request-id"], "r");
        let frames = response.into_body();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].data_ref().unwrap().as_ref(), [0, 0, 0, 0, 2]);
        assert_eq!(frames[2].trailers_ref().unwrap()["grpc-status"], "0");
        // One that knows nothing of gRPC.
        for (status, expected) in [
            (200, "12"),
            (404, "12"),
            (503, "14"),
            (401, "16"),
            (500, "2"),
        ] {
            let mut response = Response::new(Bytes::from_static(b"{}"));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let response = Answered::from_door(response).whole();
            assert_eq!(response.headers()["grpc-status"], expected);
            assert!(response.body().is_empty());
        }
    }
}
