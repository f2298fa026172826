//! Calls over gRPC, between HTTP/2 and the entry point: which calls are accepted, where messages begin and end, how
//! long a call may last and how it ends. Only the gate knows the meaning of messages.
//!
//! Every call is a sequence of messages. Each goes through the entry point as a separate request, whose body is the
//! message without its frame. The answer is one message with the status among its headers, which become the trailers. A
//! unary call has one message. A stream has as many as its client sends. A few run at once, so that the engine can
//! batch them, and answers go out in order. Between messages a stream holds nothing but its place on the connection. A
//! message without a free place is not read further, so that its client waits and the server holds nothing for it.

use super::activity::{Activity, PendingStream, Sending};
use super::body::Inbound;
use super::caller::Caller;
use super::drain::Phases;
use super::framing::Framing;
use super::grpc_answer::{
    ACCEPT_ENCODING, ACCEPTED_ENCODINGS, GRPC_TYPE, GrpcAnswer, conclude, refusal, refused,
    trailers, trailers_ok,
};
use super::grpc_head::{ENCODING, Shape, options};
use super::grpc_messages::{MessagePermit, Messages, only_message};
use super::headers::{CONNECTION, strip};
use super::metered::Metered;
use super::outbound::{Ends, Outbound, Stream};
use super::request_info::RequestInfo;
use super::state::{MAX_WATCHES, RETRY_AFTER_S, Server};
use super::upload::{ReservedBytes, discard};
use super::wait::{at, over};
use super::work::StreamPlace;
use crate::proxies::Client;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, request::Parts};
use http_body::Frame;
use penstock_core::grpc::Message;
use penstock_core::{Code, Problem};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages of one stream that run at once: enough for a batch, and too few to take all instances.
const MAX_RUNNING: usize = 8;
/// Time between two checks of the server's state for calls that watch it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Frames that are ready before the connection takes them.
const READY_FRAMES: usize = 1;
/// Pauses before a message looks again for a place among the requests in flight, the first and the longest. It does not
/// queue, because the server would serve the queue before all requests that only look.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Tells the gate's HTTP entry point that a body is one message without its frame.
const UNFRAMED: HeaderName = HeaderName::from_static("penstock-grpc");

/// The part that all messages of a call share.
struct GrpcCall {
    parts: Parts,
    client: Client,
    caller: Arc<Caller>,
    asked: RequestInfo,
    /// The time after which the client has no use for the answer.
    deadline: Option<Instant>,
    /// The time when the connection reaches its longest life.
    until: Option<Instant>,
    /// The compression of messages, if they may be compressed.
    coding: Option<&'static str>,
}

impl Server {
    /// Answers a call over gRPC in every case.
    pub(crate) async fn respond_grpc(
        self: Arc<Self>,
        request: Request<Inbound>,
        caller: &Arc<Caller>,
        until: Option<Instant>,
        activity: &Arc<Activity>,
        working: PendingStream,
    ) -> Response<Outbound> {
        let begun = Instant::now();
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let client = self.proxies.client(caller.address, &parts.headers);
        let asked = RequestInfo::of(&parts);
        let shape = Shape::of(parts.uri.path());
        let call = match self.call_of(parts, client, asked, caller, begun) {
            Ok(call) => GrpcCall { until, ..call },
            Err((problem, parts, asked)) => {
                let metered = Metered::begin(&self.metrics, begun);
                let audited = self.audited(&parts, &asked, client);
                discard(body).await;
                let response = refused(&problem, &asked);
                metered.end(&refusal(&problem, 0));
                if let Some(audited) = audited {
                    audited.close(|entry| {
                        entry.status = problem.code.status();
                        entry.code = Some(problem.code.as_str());
                    });
                }
                return self
                    .secured(response, caller)
                    .map(|_| Outbound::watched(Bytes::new(), activity));
            }
        };
        if shape == Shape::Unary {
            let answered = self.unary(&call, body, begun).await;
            let response = match answered {
                Ok(answered) => answered,
                Err(problem) => GrpcAnswer::of(&problem, &call.asked),
            };
            let response = response.whole();
            return self
                .secured(response, caller)
                .map(|frames| Outbound::frames(frames, activity.ready()));
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
            Outbound::stream(Stream {
                frames,
                _driver: Ends(driver),
                _working: working,
            })
        })
    }

    /// Reads a call, or returns the reason for a refusal.
    #[allow(clippy::result_large_err)]
    fn call_of(
        &self,
        mut parts: Parts,
        client: Client,
        asked: RequestInfo,
        caller: &Arc<Caller>,
        begun: Instant,
    ) -> Result<GrpcCall, (Problem, Parts, RequestInfo)> {
        let taken = self
            .admissible(&parts, Framing::Clear)
            .and_then(|()| options(&parts.headers));
        let (timeout, coding) = match taken {
            Ok(options) => options,
            Err(problem) => return Err((problem, parts, asked)),
        };
        self.tell(&mut parts, caller, client, None, false);
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
        Ok(GrpcCall {
            parts,
            client,
            caller: caller.clone(),
            asked,
            // A time beyond the countable range is no deadline.
            deadline: timeout.and_then(|timeout| begun.checked_add(timeout)),
            until: None,
            coding,
        })
    }

    /// Adds the headers of every answer over TLS.
    fn secured<B>(&self, mut response: Response<B>, caller: &Caller) -> Response<B> {
        if let (true, Some(hsts)) = (caller.secure, &self.hsts) {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        response
    }

    /// The time by which one message that came at `begun` must be answered.
    fn due(&self, call: &GrpcCall, begun: Instant) -> Instant {
        let due = begun + Duration::from_millis(self.settings.total_timeout_ms);
        call.deadline.map_or(due, |deadline| deadline.min(due))
    }

    /// One message in, one out.
    async fn unary(
        &self,
        call: &GrpcCall,
        body: Inbound,
        begun: Instant,
    ) -> Result<GrpcAnswer, Problem> {
        let metered = Metered::begin(&self.metrics, begun);
        let audited = self.audited(&call.parts, &call.asked, call.client);
        let due = self.due(call, begun);
        let asked = &call.asked;
        let answered = async {
            let message = {
                // A client that waits does not keep its body.
                let body = self
                    .received(body, due, false, asked, call.client.address)
                    .await?;
                only_message(&body, self.settings.max_body_bytes)?
            };
            let answered = {
                let Ok(_permit) = self.in_flight.try_acquire() else {
                    return Err(self.overloaded());
                };
                self.pass(request(call, message)?, due, asked).await?
            };
            // A client that waits for an operation takes no place from others. Its name is in the message, which only the gate reads.
            let place = StreamPlace::NotAsked;
            let (answered, _) = self.follow(answered, None, place, call.deadline).await;
            Ok(answered)
        }
        .await;
        let answered = answered.map_err(|problem| self.late(problem, call));
        let bytes_in = asked.received.load(Ordering::Relaxed);
        conclude((metered, audited), answered, bytes_in)
    }

    /// Corrects the message of a body or an answer that was too late: it names the timeout that passed.
    fn late(&self, problem: Problem, call: &GrpcCall) -> Problem {
        let over = call
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now());
        match problem.code {
            Code::DeadlineExceeded | Code::RequestTimeout if over => {
                Problem::new(Code::DeadlineExceeded, "the call's grpc-timeout has passed")
            }
            _ => problem,
        }
    }

    /// Serves many messages, with as many answers in order. Returns the trailers, or `Err` if the client is gone.
    async fn stream(
        self: &Arc<Self>,
        call: GrpcCall,
        body: Inbound,
        out: &Out,
    ) -> Result<HeaderMap, Gone> {
        let call = Arc::new(call);
        let _open = OpenStream::of(&self.open_streams);
        let mut phases = Phases::of(&self.phase);
        let mut messages = Messages::new(self, body, call.client.address);
        let mut running: VecDeque<Ends<Result<GrpcAnswer, Problem>>> = VecDeque::new();
        // Set when no further message is read: the end of the call after the running ones are answered.
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
            let is_idle = running.is_empty();
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
                        // The gate ended the stream, or its client is gone.
                        Ok(answered) => return Ok(answered.trailers),
                        Err(problem) => return Ok(trailers(&self.late(problem, &call))),
                    }
                    messages.rest();
                }
                message = messages.next(is_idle), if ending.is_none() && running.len() < MAX_RUNNING => {
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

    /// Ends a stream with an error of the server, and tells the audit log.
    fn ended(&self, call: &GrpcCall, problem: &Problem) -> HeaderMap {
        if let Some(audited) = self.audited(&call.parts, &call.asked, call.client) {
            audited.close(|entry| {
                entry.status = problem.code.status();
                entry.code = Some(problem.code.as_str());
            });
        }
        trailers(problem)
    }

    /// Serves one message of a stream. It keeps its place until it is answered.
    async fn one_of_many(
        &self,
        call: &GrpcCall,
        message: Message,
        _place: MessagePermit,
        begun: Instant,
    ) -> Result<GrpcAnswer, Problem> {
        let metered = Metered::begin(&self.metrics, begun);
        let audited = self.audited(&call.parts, &call.asked, call.client);
        let bytes = message.bytes.len() as u64;
        let due = self.due(call, begun);
        let answered = async {
            let mut held = ReservedBytes::new(&self.arriving);
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
        conclude((metered, audited), answered, bytes)
    }

    /// Serves one message, and sends an answer whenever it changes.
    async fn watch(
        self: &Arc<Self>,
        call: &GrpcCall,
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
                // A moment without a place counts as no change.
                let permit = self.in_flight.try_acquire();
                match (permit, request(call, message.clone())) {
                    (Ok(_permit), Ok(mut request)) => {
                        // The server's own facts change, too.
                        request.0.headers.remove(&CONNECTION);
                        self.tell(&mut request.0, &call.caller, call.client, None, false);
                        let due = self.due(call, Instant::now());
                        Some(self.pass(request, due, &call.asked).await)
                    }
                    (Err(_), _) => None,
                    (_, Err(problem)) => Some(Err(problem)),
                }
            };
            match answered.map(|answered| answered.map(GrpcAnswer::from_entry_point)) {
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
                // Tell the client that the server stops before the call ends.
                biased;
                () = again.changed() => {}
                () = over(&mut phases, call.until) => return Ok(self.ended(call, &leaving())),
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = at(call.deadline) => return Ok(self.ended(call, &own_time_over())),
            }
        }
    }
}

/// The problem of a stream that the server ends.
fn leaving() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the connection is about to close; open the stream again on another one, and repeat the calls without an answer",
    )
    .retry_after(RETRY_AFTER_S)
}

fn own_time_over() -> Problem {
    Problem::new(
        Code::DeadlineExceeded,
        "the stream's grpc-timeout has passed",
    )
}

/// Converts a message to the form of the entry point.
fn request(
    call: &GrpcCall,
    (compressed, message): (bool, Bytes),
) -> Result<(Parts, Bytes), Problem> {
    let mut parts = call.parts.clone();
    if compressed {
        let Some(coding) = call.coding else {
            return Err(Problem::new(
                Code::MalformedRequest,
                "a message is marked as compressed, and grpc-encoding does not say how; send `grpc-encoding: gzip`",
            ));
        };
        // The gate decodes it, like other bodies, with their bounds.
        let coding = HeaderValue::from_static(coding);
        parts.headers.insert(header::CONTENT_ENCODING, coding);
    }
    Ok((parts, message))
}

/// A stream that counts as open.
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

/// The client no longer reads.
struct Gone;

/// The receiver of a stream's frames.
struct Out {
    sender: mpsc::Sender<(Frame<Bytes>, Sending)>,
    activity: Arc<Activity>,
}

impl Out {
    /// Sends a frame to the client. While the client does not read it, it counts as an unread answer.
    async fn send(&self, frame: Frame<Bytes>) -> Result<(), Gone> {
        let sending = self.activity.ready();
        self.sender.send((frame, sending)).await.map_err(|_| Gone)
    }
}

/// Returns the answer to the oldest running message. Never resolves if none runs.
async fn first(
    running: &mut VecDeque<Ends<Result<GrpcAnswer, Problem>>>,
) -> Result<GrpcAnswer, Problem> {
    match running.front_mut() {
        None => std::future::pending().await,
        Some(task) => (&mut task.0).await.unwrap_or_else(|error| {
            tracing::error!("a message's task ended: {}", penstock_app::one_line(&error));
            Err(Problem::new(
                Code::Internal,
                "an internal error occurred; the server's log has its details under the request id",
            ))
        }),
    }
}
