//! Calls over gRPC, between HTTP/2 and the door: which are taken, where messages begin and end, how long a call may last
//! and how it is ended. What messages mean is the gate's to know.
//!
//! Every call is a sequence of messages. Each goes through the door as a request of its own, whose body is the message
//! without its frame; what comes back is one message with the status among its headers, which becomes the trailers. A
//! unary call has one message. A stream has as many as its client sends: a few run at once, so that the engine can join
//! them, and answers go out in order. Between messages a stream holds nothing but its place on the connection. A message
//! that finds no room is not read on, so that its client waits and nothing is held for it.

use super::activity::{Activity, Sending, Working};
use super::body::Inbound;
use super::caller::Caller;
use super::drain::Phases;
use super::framing::Seen;
use super::grpc_answer::{
    ACCEPT_ENCODING, ACCEPTED_ENCODINGS, GRPC_TYPE, GrpcAnswer, conclude, refused, trailers,
    trailers_ok,
};
use super::grpc_head::{ENCODING, Shape, options};
use super::grpc_messages::{Messages, Place, only_message};
use super::headers::{CONNECTION, strip};
use super::outbound::{Ends, Outbound, Stream};
use super::request_info::RequestInfo;
use super::state::{MAX_WATCHES, RETRY_AFTER_S, Server};
use super::upload::{Held, discard};
use super::wait::{at, over};
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

/// Messages of one stream that run at once: enough for the engine to join, and too few for one stream to take the
/// instances.
const MAX_RUNNING: usize = 8;
/// How often the state of the server is asked for those who watch it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Frames that are ready before the connection takes them.
const READY_FRAMES: usize = 1;
/// How soon a message looks again for a place among the requests in flight, at first and at most. It does not stand in
/// line for one: a line would be served before everybody who only looks.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Tells the gate's other door that a body is one message without its frame.
const UNFRAMED: HeaderName = HeaderName::from_static("penstock-grpc");

/// What is the same for all messages of a call.
struct Call {
    parts: Parts,
    client: Client,
    caller: Arc<Caller>,
    asked: RequestInfo,
    /// When the whole call is of no more use to its client.
    deadline: Option<Instant>,
    /// When the connection has lasted as long as it may.
    until: Option<Instant>,
    /// How messages are compressed, where they may be.
    coding: Option<&'static str>,
}

impl Server {
    /// Answers a call over gRPC, whatever happens.
    pub(crate) async fn respond_grpc(
        self: Arc<Self>,
        request: Request<Inbound>,
        caller: &Arc<Caller>,
        until: Option<Instant>,
        activity: &Arc<Activity>,
        working: Working,
    ) -> Response<Outbound> {
        let begun = Instant::now();
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let client = self.proxies.client(caller.address, &parts.headers);
        let asked = RequestInfo::of(&parts);
        let shape = Shape::of(parts.uri.path());
        let call = match self.call_of(parts, client, asked, caller, begun) {
            Ok(call) => Call { until, ..call },
            Err((problem, parts, asked)) => {
                let audited = self.audited(&parts, &asked, client);
                discard(body).await;
                let response = refused(&problem, &asked);
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

    /// What a call is, or why it is not taken.
    #[allow(clippy::result_large_err)]
    fn call_of(
        &self,
        mut parts: Parts,
        client: Client,
        asked: RequestInfo,
        caller: &Arc<Caller>,
        begun: Instant,
    ) -> Result<Call, (Problem, Parts, RequestInfo)> {
        let taken = self
            .admissible(&parts, Seen::Clear)
            .and_then(|()| options(&parts.headers));
        let (timeout, coding) = match taken {
            Ok(options) => options,
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
    async fn unary(
        &self,
        call: &Call,
        body: Inbound,
        begun: Instant,
    ) -> Result<GrpcAnswer, Problem> {
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
        let mut running: VecDeque<Ends<Result<GrpcAnswer, Problem>>> = VecDeque::new();
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
    ) -> Result<GrpcAnswer, Problem> {
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
                        request.0.headers.remove(&CONNECTION);
                        self.tell(&mut request.0, &call.caller, call.client, None);
                        let due = self.due(call, Instant::now());
                        Some(self.pass(request, due, &call.asked).await)
                    }
                    (Err(_), _) => None,
                    (_, Err(problem)) => Some(Err(problem)),
                }
            };
            match answered.map(|answered| answered.map(GrpcAnswer::from_door)) {
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

/// The answer to the message that came first of those that run; never where none does.
async fn first(
    running: &mut VecDeque<Ends<Result<GrpcAnswer, Problem>>>,
) -> Result<GrpcAnswer, Problem> {
    match running.front_mut() {
        None => std::future::pending().await,
        Some(task) => (&mut task.0).await.unwrap_or_else(|error| {
            tracing::error!("a message's task ended: {}", penstock_app::one_line(&error));
            Err(Problem::new(
                Code::Internal,
                "something inside failed; the request id finds it in the server's log",
            ))
        }),
    }
}
