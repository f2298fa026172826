//! One HTTP/2 connection, driven through the library that hyper itself uses. hyper cannot send an informational answer
//! over HTTP/2, so it cannot tell a client that its body may come (RFC 9110 §10.1.1).

use super::activity::{Activity, ConnectionDecision, Limits, Sending};
use super::body::{ConnectionError, Inbound, Received};
use super::caller::Caller;
use super::drain::Phases;
use super::framing::Framing;
use super::grpc_head;
use super::io;
use super::outbound::{Answer, Outbound, Working};
use super::state::Server;
use super::wait::over;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// HTTP/2 streams open at once on one connection; the in-flight cap is for all of them together.
pub(crate) const MAX_STREAMS: u32 = 128;
/// Streams that were opened and reset before the server worked on them. One more ends the connection (CVE-2023-44487).
/// A client that hangs up on calls resets a few at once.
pub(crate) const MAX_RESET_STREAMS: usize = 20;
/// Streams that the server reset because of faults of the client. One more ends the connection (RUSTSEC-2024-0003).
pub(crate) const MAX_FAULTY_STREAMS: usize = 128;
/// The time between two probes of an HTTP/2 connection, and the time for its answer.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a client may send ahead on one stream, and on all of them: hyper's default.
const WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that may wait to be sent on one stream.
const SEND_BUFFER_BYTES: usize = 400 << 10;
/// Headers that belong to one connection of HTTP/1, and are malformed in HTTP/2 (RFC 9113 §8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The time of the next ping, or the time at which one was sent and not answered yet. This detects a client that is gone.
enum Pinging {
    Due(Instant),
    Sent(Instant),
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(
    server: Arc<Server>,
    stream: S,
    caller: Arc<Caller>,
    until: Option<Instant>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new(Instant::now());
    let read = activity.clone();
    let stream = io::Followed::new(stream, move |bytes: &[u8]| {
        read.read(bytes, Instant::now());
    });
    let mut phases = Phases::of(&server.phase);
    let limits = || Limits {
        head: Duration::from_millis(server.settings.header_timeout_ms),
        idle: server.idle_time(),
        write: Duration::from_millis(server.settings.write_timeout_ms),
    };
    let handshake = h2::server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_FAULTY_STREAMS))
        .max_header_list_size(server.settings.max_header_bytes)
        .handshake::<_, Bytes>(stream);
    let mut connection = match tokio::time::timeout(limits().head, handshake).await {
        Ok(connection) => connection?,
        Err(_) => return Ok(()),
    };
    let mut pinger = connection
        .ping_pong()
        .ok_or("the connection has no pings")?;
    let mut pinging = Pinging::Due(Instant::now() + PING_INTERVAL);
    let mut leaving_since = None;
    // One timer for all limits: a request moves it only when it has fired.
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accept(&server, &caller, &activity, until, accepted),
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
            pong = pong(&mut pinger, &pinging) => {
                pong?;
                pinging = Pinging::Due(Instant::now() + PING_INTERVAL);
            }
            () = over(&mut phases, until), if leaving_since.is_none() => {
                // Two GOAWAYs: the first accepts requests on their way, and the last comes after a round trip.
                connection.graceful_shutdown();
                leaving_since = Some(Instant::now());
                timer.as_mut().reset(Instant::now());
            }
            () = timer.as_mut() => {
                let now = Instant::now();
                let limits = limits();
                let again = match activity.decision(now, limits, leaving_since) {
                    // An answer may become ready meanwhile, and it has a separate limit.
                    ConnectionDecision::Wait(again) => again.min(now + limits.write),
                    ConnectionDecision::Leave => {
                        connection.graceful_shutdown();
                        leaving_since = Some(now);
                        now
                    }
                    ConnectionDecision::End => return Ok(()),
                };
                let ping_at = match pinging {
                    Pinging::Due(at) if at <= now => {
                        pinger.send_ping(Ping::opaque())?;
                        pinging = Pinging::Sent(now);
                        now + PING_TIMEOUT
                    }
                    Pinging::Due(at) => at,
                    Pinging::Sent(at) if at + PING_TIMEOUT <= now => {
                        return Err("the client did not answer a ping".into());
                    }
                    Pinging::Sent(at) => at + PING_TIMEOUT,
                };
                timer.as_mut().reset(again.min(ping_at));
            }
        }
    }
}

/// Resolves when the client has answered a ping. Never resolves if no answer is due.
async fn pong(pinger: &mut PingPong, pinging: &Pinging) -> Result<(), h2::Error> {
    match pinging {
        Pinging::Due(_) => std::future::pending().await,
        Pinging::Sent(_) => poll_fn(|cx| pinger.poll_pong(cx)).await.map(drop),
    }
}

/// Begins to answer a request, on its own task.
fn accept(
    server: &Arc<Server>,
    caller: &Arc<Caller>,
    activity: &Arc<Activity>,
    until: Option<Instant>,
    (request, respond): (Request<h2::RecvStream>, SendResponse<Bytes>),
) {
    let working = activity.request();
    let (parts, stream) = request.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let (body, asked) = Received::new(stream, length);
    let request = Request::from_parts(parts, Inbound::Http2(body));
    let (server, caller, activity) = (server.clone(), caller.clone(), activity.clone());
    let answering = async move {
        let work = async {
            if grpc_head::codec(request.headers()) == Some(penstock_core::grpc::Codec::Protobuf) {
                server
                    .respond_grpc(request, &caller, until, &activity, working)
                    .await
            } else {
                let response = server.respond(request, &caller, Framing::Clear).await;
                response.map(|answer| match answer {
                    Answer::Whole(body) => {
                        let body = Outbound::watched(body, &activity);
                        drop(working);
                        body
                    }
                    Answer::Events(events) => {
                        Outbound::events(events.working(Working::Http2(working)))
                    }
                })
            }
        };
        answer(respond, asked, work, &activity).await
    };
    tokio::spawn(async move {
        if let Err(e) = answering.await {
            tracing::debug!("a stream ended: {}", penstock_app::one_line(&e));
        }
    });
}

/// Sends the answer to one request. If its stream is reset, this does nothing further.
async fn answer(
    mut respond: SendResponse<Bytes>,
    mut asked: oneshot::Receiver<()>,
    work: impl Future<Output = Response<Outbound>>,
    activity: &Arc<Activity>,
) -> Result<(), h2::Error> {
    let mut work = std::pin::pin!(work);
    let mut may_ask = true;
    let response = loop {
        tokio::select! {
            biased;
            response = &mut work => break response,
            asks = &mut asked, if may_ask => {
                may_ask = false;
                if asks.is_ok() {
                    respond.send_informational(informational())?;
                }
            }
            reset = poll_fn(|cx| respond.poll_reset(cx)) => return reset.map(drop),
        }
    };
    let (mut parts, body) = response.into_parts();
    for name in &OF_CONNECTIONS {
        parts.headers.remove(name);
    }
    if let Some(date) = date() {
        parts.headers.entry(header::DATE).or_insert(date);
    }
    let is_over = body.is_end_stream();
    if let (false, Some(length)) = (is_over, body.size_hint().exact()) {
        let length = HeaderValue::from(length);
        let length_said = parts.headers.entry(header::CONTENT_LENGTH);
        length_said.or_insert(length);
    }
    let mut stream = respond.send_response(Response::from_parts(parts, ()), is_over)?;
    if is_over {
        return Ok(());
    }
    send(&mut stream, body, activity).await
}

fn informational() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::CONTINUE;
    *response.headers_mut() = HeaderMap::new();
    response
}

/// Sends a body as fast as its client reads it.
async fn send(
    stream: &mut SendStream<Bytes>,
    mut body: Outbound,
    activity: &Arc<Activity>,
) -> Result<(), h2::Error> {
    let mut sending = body.take_sending();
    // The frames of a stream are each counted separately.
    let is_counted = sending.is_some();
    // An event that is there and finds no room counts as an unread answer: `send_data` counts it. Waiting for room first would hide
    // it, and nothing else bounds a stream whose client opens no window.
    let takes_first = body.is_events();
    loop {
        if !takes_first {
            // Nothing is taken out of the body before some of it can be sent.
            stream.reserve_capacity(1);
            if !has_room(stream).await? {
                return Ok(());
            }
        }
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(drop),
        };
        let Some(Ok(frame)) = frame else {
            return stream.send_data(Bytes::new(), true);
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                let taken = send_data(stream, data, is_last, &mut sending, activity).await?;
                if !taken || is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers);
            }
        }
        if !is_counted {
            sending = None;
        }
    }
}

/// Sends a part of a body. Returns whether the client still reads. While it waits for room, the part counts as an
/// unread answer, from the last time that the client read some.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    sending: &mut Option<Sending>,
    activity: &Arc<Activity>,
) -> Result<bool, h2::Error> {
    loop {
        stream.reserve_capacity(data.len());
        let room = stream.capacity();
        if room >= data.len() {
            stream.send_data(data, is_last)?;
            return Ok(true);
        }
        if room > 0 {
            stream.send_data(data.split_to(room), false)?;
        }
        sending.get_or_insert_with(|| activity.ready()).moved();
        if !has_room(stream).await? {
            return Ok(false);
        }
    }
}

/// Waits until a part can be sent. Returns whether the stream still exists.
async fn has_room(stream: &mut SendStream<Bytes>) -> Result<bool, h2::Error> {
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            None => return Ok(false),
            Some(room) => room?,
        };
    }
    Ok(true)
}

/// The time in the form of `Date`, formatted once a second.
fn date() -> Option<HeaderValue> {
    thread_local! {
        static WRITTEN: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((0, None)) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    WRITTEN.with_borrow_mut(|(written, value)| {
        if *written != second || value.is_none() {
            *value = HeaderValue::from_str(&httpdate::fmt_http_date(now)).ok();
            *written = second;
        }
        value.clone()
    })
}
