//! The HTTP server: which connections and requests are let in, how long each may take, and what a
//! caller hears when it is not. What it lets in goes through a [`Door`].
//!
//! Every refusal here is from the same catalogue as the gate's, in the style the caller asked for.

use crate::audit::{self, Audit};
use crate::doors::{Direct, DoorError, DoorRequest, Http};
use crate::proxies::{Client, Proxies};
use crate::settings::ServerSettings;
use crate::tls::{self, Tls};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use penstock_core::{Code, Problem, RequestId, negotiate};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;

mod activity;
mod addresses;
mod body;
mod drain;
mod frames;
mod framing;
mod grpc;
mod http2;
mod io;
mod rest;

use activity::Answer;
use addresses::{Addresses, Counted};
use body::Inbound;
use drain::{Phase, Phases};
use framing::Seen;
use rest::Heads;

/// Seconds a caller refused for load is told to wait.
const RETRY_AFTER_S: u32 = 1;
/// Where components find the address of the client, as on Spin.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
/// What components are told of a connection, beside what its client sends; see [`Fittings::token`].
const CONNECTION: HeaderName = HeaderName::from_static("penstock-connection");
/// What components say of a request for the audit log. No client sees it.
const AUDIT: HeaderName = HeaderName::from_static("penstock-audit");
/// What headers between the server and its components begin with. A client's are thrown away.
const OWN_PREFIX: &str = "penstock-";
/// What a component answers to the head of a request whose body may be sent. No client sees it.
const GO_ON: HeaderName = HeaderName::from_static("penstock-go-on");
/// How long a connection is kept that is not used, in seconds (RFC 9112 appendix C.2.2).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Where the state of the certificate is told.
const READINESS: [&str; 2] = ["/ready", "/v2/health/ready"];
/// Where it is asked whether the server takes new work: over REST and gRPC.
const HEALTH: [&str; 5] = [
    READINESS[0],
    READINESS[1],
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerReady",
];
/// Why it takes none once it was told to stop.
const STOPPING: &str = "the server is stopping";
/// One part in so many of the connections is free, or connections that are not used are kept only as long as a head may
/// take: those that somebody uses go first.
const CROWDED_SHARE: usize = 4;
/// HTTP/2 streams open at once on one connection; the in-flight cap is for all of them together.
const MAX_STREAMS: u32 = 128;
/// Streams that were opened and reset before anybody worked for them; one more ends the connection (CVE-2023-44487). A
/// client that hangs up on calls resets a few at once.
const MAX_RESET_STREAMS: usize = 20;
/// Streams this side reset because of what the client sent on them; one more ends the connection (RUSTSEC-2024-0003).
const MAX_FAULTY_STREAMS: usize = 128;
/// What a head has beside target and headers: method, version and line ends.
const REQUEST_LINE_BYTES: usize = 1024;
/// What a header line has beside name and value: colon, space, carriage return, newline.
const HEADER_FRAMING_BYTES: usize = 4;
/// How often an HTTP/2 connection is probed, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last that a client's certificate opened: for as long, an authority that was taken out of
/// `client_ca` and a certificate that has expired meanwhile still count.
const CERTIFICATE_TIME: Duration = Duration::from_secs(300);
/// Bodies that take longer than this are counted by the address they come from.
const DAWDLING: Duration = Duration::from_millis(250);
/// One part in so many of the bodies on their way may take long, so that there is always room for those that do not; and
/// one part in so many may be one address's, but for a few.
const ALL_DAWDLING_SHARE: u32 = 2;
const DAWDLING_SHARE: u32 = 8;
const MIN_DAWDLING: u32 = 8;
/// One part in so many of the requests in flight may be messages of streams, so that there is always room for others.
const STREAMED_SHARE: u32 = 2;
/// Calls that watch the server's health: a few for each balancer before it, and few enough that asking for all of them
/// every second costs next to nothing.
const MAX_WATCHES: usize = 256;
/// What bodies on their way may hold together: sixteen of the largest by default. They are held before anybody knows
/// whose they are.
const MIN_ARRIVING_BYTES: u64 = 256 << 20;
/// The longest method; the longest registered one has 17.
const MAX_METHOD_BYTES: usize = 32;
/// How much of a path the audit log is given.
const AUDIT_PATH_CHARS: usize = 512;
/// How much of a body beyond the limit is read and thrown away so that the caller hears the answer.
const MAX_DISCARD_BYTES: u64 = 64 << 20;
/// How much of a body that is refused before it is read is thrown away, and for how long.
const REFUSED_DISCARD_BYTES: usize = 1 << 20;
const DISCARD_TIME: Duration = Duration::from_millis(500);
/// Refused connections that are given a moment to read their answer, at once.
const MAX_REFUSING: usize = 64;
/// The least a connection's read buffer may grow to; bodies arrive in pieces of this size.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// Headers in one request; browsers send about twenty.
const MAX_HEADERS: usize = 128;
/// How long a listener that cannot accept (no file descriptors) waits before it tries again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The door requests go through.
pub enum Door {
    /// The typed door.
    Direct(Arc<Direct>),
    /// `wasi:http/handler`.
    Http(Http),
}

impl Door {
    async fn call(&self, request: DoorRequest) -> Result<Response<Bytes>, DoorError> {
        match self {
            Door::Direct(door) => door.call(request).await,
            Door::Http(door) => door.call(request).await,
        }
    }

    /// How many instances there are and were.
    pub fn counts(&self) -> &crate::doors::InstanceCounts {
        match self {
            Door::Direct(door) => door.counts(),
            Door::Http(door) => door.counts(),
        }
    }
}

/// What a server has beside its door and its settings.
#[derive(Default)]
pub struct Fittings {
    /// Its certificate; without one it speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Where requests are logged.
    pub audit: Option<Arc<Audit>>,
    /// What the header `penstock-connection` begins with, so that components can tell that it is this server's. Components
    /// have it from their environment; without it they are told nothing.
    pub token: Option<String>,
    /// Says why the server takes no new work, where it takes none, in plain ASCII. Asked for each health check.
    pub not_ready: Option<NotReady>,
}

/// Says why a server takes no new work.
pub type NotReady = Box<dyn Fn() -> Option<Cow<'static, str>> + Send + Sync>;

/// A server over one door.
pub struct Server {
    door: Door,
    settings: ServerSettings,
    proxies: Proxies,
    fittings: Fittings,
    hsts: Option<HeaderValue>,
    addresses: Arc<Addresses>,
    connections: Arc<Semaphore>,
    in_flight: Semaphore,
    /// Places of messages of streams, from their first byte to their answer. Streams wait for them, and for nothing else
    /// that others need.
    streamed: Arc<Semaphore>,
    watches: Semaphore,
    receiving: Semaphore,
    /// Whose bodies take long.
    dawdling: Arc<Addresses>,
    all_dawdling: Semaphore,
    /// Bytes of bodies that have arrived in part.
    arriving: AtomicU64,
    refusing: Arc<Semaphore>,
    /// gRPC streams that are open.
    open_streams: AtomicU64,
    phase: watch::Sender<Phase>,
    open: AtomicU64,
    /// What HTTP/1.1 answers say of the connection: as a rule, and where connections are scarce.
    keep_alive: [Option<HeaderValue>; 2],
}

impl Server {
    /// A server that lets in what the settings allow.
    pub fn new(door: Door, settings: ServerSettings) -> Arc<Self> {
        Self::with(door, settings, Fittings::default())
    }

    /// The same, with fittings.
    pub fn with(door: Door, settings: ServerSettings, fittings: Fittings) -> Arc<Self> {
        let hsts = fittings.tls.as_ref().and_then(|tls| tls.hsts_max_age_s());
        let header_ms = settings.header_timeout_ms;
        let kept_ms = [
            settings.keep_alive_timeout_ms,
            settings.keep_alive_timeout_ms.min(header_ms),
        ];
        Arc::new(Self {
            door,
            proxies: Proxies::new(settings.trusted_proxies.clone(), settings.forwarded_header),
            hsts: hsts.and_then(|s| HeaderValue::from_str(&format!("max-age={s}")).ok()),
            fittings,
            addresses: Arc::default(),
            connections: Arc::new(Semaphore::new(settings.max_connections as usize)),
            in_flight: Semaphore::new(settings.max_in_flight as usize),
            streamed: Arc::new(Semaphore::new(
                (settings.max_in_flight / STREAMED_SHARE).max(1) as usize,
            )),
            watches: Semaphore::new(MAX_WATCHES),
            receiving: Semaphore::new(settings.max_in_flight as usize),
            dawdling: Arc::default(),
            all_dawdling: Semaphore::new(
                (settings.max_in_flight / ALL_DAWDLING_SHARE).max(1) as usize
            ),
            arriving: AtomicU64::new(0),
            refusing: Arc::new(Semaphore::new(MAX_REFUSING)),
            settings,
            open_streams: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Serving),
            open: AtomicU64::new(0),
            keep_alive: kept_ms.map(kept_for),
        })
    }

    /// The door.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Accepts connections until `stop` resolves, then drains; see [`Server::serve_until`].
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> u64 {
        self.serve_until(listener, stop, std::future::pending())
            .await
    }

    /// Accepts connections until `stop` resolves, then drains: health checks fail while everything else goes on, until the
    /// drain's delay is over or `hurry` resolves; then there are no new connections, requests in flight finish, and
    /// connections without requests close. Returns how many were still open when the drain's time ran out.
    pub async fn serve_until(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> u64 {
        self.accept(&listener, stop).await;
        let deadline = Instant::now() + Duration::from_millis(self.settings.drain_timeout_ms);
        self.phase.send_replace(Phase::Leaving);
        let on_loopback = listener
            .local_addr()
            .is_ok_and(|address| address.ip().is_loopback());
        let delay = self.settings.drain_delay(on_loopback);
        if !delay.is_zero() {
            tracing::info!(
                "health checks fail from now on; the server stops taking connections in {} ms",
                delay.as_millis()
            );
            let over = async {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = hurry => {}
                }
            };
            self.accept(&listener, over).await;
        }
        self.accept_the_rest(listener);
        self.phase.send_replace(Phase::Closing(Instant::now()));
        let all = self.settings.max_connections;
        match timeout_at(deadline, self.connections.acquire_many(all)).await {
            Ok(_) => 0,
            Err(_) => self.open.load(Ordering::Relaxed),
        }
    }

    /// Accepts connections until `over` resolves.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, over: impl Future<Output = ()>) {
        let mut over = std::pin::pin!(over);
        loop {
            let accepted = tokio::select! {
                () = &mut over => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Accepts what waits to be accepted, and closes the listener: the kernel resets what waits when it is closed.
    fn accept_the_rest(self: &Arc<Self>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        // As many as there may be; one that is refused has been answered too.
        for _ in 0..self.settings.max_connections {
            let accepted = listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(_) => return,
            }
        }
    }

    /// Whether so few connections are left that those nobody uses are closed early.
    fn is_crowded(&self) -> bool {
        let free = self.connections.available_permits();
        free < self.settings.max_connections as usize / CROWDED_SHARE
    }

    /// How long a connection is kept between two requests.
    fn idle_time(&self) -> Duration {
        let kept_ms = self.settings.keep_alive_timeout_ms;
        Duration::from_millis(match self.is_crowded() {
            true => kept_ms.min(self.settings.header_timeout_ms),
            false => kept_ms,
        })
    }

    /// Tells a client of HTTP/1 what becomes of its connection after this answer. `may_keep` is whether the client may keep
    /// it, as far as its request says.
    fn tell_of_connection<B>(&self, response: &mut Response<B>, may_keep: bool) {
        let headers = response.headers_mut();
        if headers.contains_key(header::CONNECTION) {
            return;
        }
        if self.phase.borrow().is_leaving() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if may_keep && let Some(kept) = &self.keep_alive[usize::from(self.is_crowded())] {
            headers.insert(KEEP_ALIVE, kept.clone());
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Answers are small; waiting to fill a segment only adds delay.
        let _ = stream.set_nodelay(true);
        match self.place(peer) {
            Ok(place) => {
                let server = self.clone();
                tokio::spawn(async move { server.connection(stream, peer, place).await });
            }
            // Beyond the cap a connection costs one small write and no parsing.
            Err(message) => {
                let problem = Problem::new(Code::Overloaded, message).retry_after(RETRY_AFTER_S);
                // To who speaks TLS an answer in plain text is none.
                let stream = self.fittings.tls.is_none().then_some(stream);
                self.refuse_connection(stream, peer, &problem);
            }
        }
    }

    /// A place for one more connection, or why there is none.
    fn place(&self, peer: SocketAddr) -> Result<Place, String> {
        let counted = if self.proxies.trusts(peer.ip()) {
            None
        } else {
            let limit = self.settings.max_connections_per_address;
            let counted = self.addresses.admit(peer.ip(), limit);
            Some(counted.ok_or_else(|| {
                format!("the server has its {limit} connections from your address; use those you have, or close some")
            })?)
        };
        let permit = self.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            let limit = self.settings.max_connections;
            format!("the server has its {limit} connections")
        })?;
        Ok(Place {
            _permit: permit,
            _counted: counted,
        })
    }

    /// Answers a connection that is not served.
    fn refuse_connection(&self, stream: Option<TcpStream>, peer: SocketAddr, problem: &Problem) {
        let id = RequestId::generate(unix_ms(), rand::random());
        let mut sent = 0;
        if let Some(stream) = stream {
            sent = refuse_connection(stream, problem, &id, &self.refusing);
        }
        if let Some(audit) = &self.fittings.audit {
            audit.log(audit::Entry {
                unix_ms: unix_ms(),
                request_id: Some(id.as_str().to_owned()),
                address: peer.ip().to_canonical(),
                asked: None,
                status: problem.code.status(),
                code: Some(problem.code.as_str()),
                duration: Duration::ZERO,
                bytes_in: 0,
                bytes_out: sent,
                told: None,
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, _place: Place) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let by = Instant::now() + Duration::from_millis(self.settings.header_timeout_ms);
        let mut phases = Phases::of(&self.phase);
        let opened = tokio::select! {
            opened = timeout_at(by, self.opened(stream)) => opened.ok(),
            () = too_late(&mut phases) => None,
        };
        let result = match opened {
            Some(Ok(Opened::Plain { stream, is_http2 })) => {
                let caller = Caller::plain(peer);
                self.clone().serve_on(stream, is_http2, caller).await
            }
            Some(Ok(Opened::Secure(stream))) => {
                let (_, session) = stream.get_ref();
                let is_http2 = session.alpn_protocol() == Some(tls::HTTP2);
                let shown = session.peer_certificates().and_then(|chain| chain.first());
                let caller = Caller {
                    address: peer,
                    secure: true,
                    certificate: shown.map(|shown| tls::certificate(shown)),
                };
                self.clone().serve_on(*stream, is_http2, caller).await
            }
            Some(Ok(Opened::Plaintext(stream))) => {
                let message =
                    "this port speaks HTTPS, and the request came in plain HTTP; use https://";
                let problem = Problem::new(Code::MalformedRequest, message);
                self.refuse_connection(Some(stream), peer, &problem);
                Ok(())
            }
            Some(Err(e)) => Err(e.into()),
            None => Ok(()),
        };
        if let Err(e) = result {
            let why = crate::log::one_line(&e);
            tracing::debug!(%peer, "connection ended: {why}");
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Finds out what a connection speaks, and shakes hands.
    async fn opened(&self, stream: TcpStream) -> std::io::Result<Opened> {
        let Some(tls) = &self.fittings.tls else {
            let is_http2 = io::speaks_http2(&stream).await?;
            return Ok(Opened::Plain { stream, is_http2 });
        };
        match io::first(&stream).await? {
            io::First::Handshake => {
                let secure = tls.acceptor().accept(stream).await?;
                Ok(Opened::Secure(Box::new(secure)))
            }
            io::First::Request => Ok(Opened::Plaintext(stream)),
            io::First::Other => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    async fn serve_on<S>(
        self: Arc<Self>,
        stream: S,
        is_http2: bool,
        caller: Caller,
    ) -> Result<(), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let write_timeout = Duration::from_millis(self.settings.write_timeout_ms);
        let until = caller.certificate.as_ref();
        let until = until.map(|_| Instant::now() + CERTIFICATE_TIME);
        let stream = io::WriteTimeout::new(stream, write_timeout);
        if is_http2 {
            http2::serve(self, stream, Arc::new(caller), until).await
        } else {
            self.serve_http1(stream, Arc::new(caller), until).await
        }
    }

    async fn serve_http1<S>(
        self: Arc<Self>,
        stream: S,
        caller: Arc<Caller>,
        until: Option<Instant>,
    ) -> Result<(), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (target, headers) = (
            self.settings.max_target_bytes,
            self.settings.max_header_bytes,
        );
        let max_head_bytes = REQUEST_LINE_BYTES + target as usize + headers as usize;
        let heads = Heads::new(max_head_bytes, Instant::now());
        let read = heads.clone();
        let stream = io::Followed::new(stream, move |bytes: &[u8]| {
            read.read(bytes, Instant::now());
        });
        let (server, asked) = (self.clone(), heads.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, caller) = (server.clone(), caller.clone());
            let (seen, working) = asked.request();
            async move {
                let _working = working;
                let may_keep = may_keep(&request);
                let request = request.map(Inbound::Http1);
                let mut response = server.respond(request, &caller, seen).await;
                server.tell_of_connection(&mut response, may_keep);
                Ok::<_, Infallible>(response.map(Answer::unwatched))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // It would bound how long a connection rests, too; `rest` tells the two apart.
            .header_read_timeout(None::<Duration>)
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BUFFER_BYTES.max(headers as usize))
            .half_close(false);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut phases = Phases::of(&self.phase);
        let mut closed_at = None;
        loop {
            let now = Instant::now();
            let limits = rest::Limits {
                head: Duration::from_millis(self.settings.header_timeout_ms),
                idle: self.idle_time(),
            };
            let closing_since = phases.now().closing_since();
            let again = match heads.verdict(now, limits, closing_since) {
                rest::Verdict::End => return Ok(()),
                // A head may begin meanwhile, and it has its own limit.
                rest::Verdict::Wait(again) => again.min(now + limits.head),
                rest::Verdict::Close => match closed_at {
                    None => {
                        connection.as_mut().graceful_shutdown();
                        closed_at = Some(now);
                        now + limits.head
                    }
                    // It had time for what it still had to send.
                    Some(closed_at) if now >= closed_at + limits.head => return Ok(()),
                    Some(closed_at) => closed_at + limits.head,
                },
            };
            let ends = until.filter(|_| closed_at.is_none());
            tokio::select! {
                // What has arrived is read before the time is looked at.
                biased;
                result = connection.as_mut() => return result.map_err(Broken::from),
                () = phases.changed() => {}
                () = at(ends) => {
                    connection.as_mut().graceful_shutdown();
                    closed_at = Some(now);
                }
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    /// Answers one request, whatever happens.
    async fn respond(
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
        let asked = Asked::of(&parts);
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
    fn audited(
        &self,
        parts: &http::request::Parts,
        asked: &Asked,
        client: Client,
    ) -> Option<audit::Open> {
        let audit = self.fittings.audit.as_ref()?;
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
        self.fittings.not_ready.as_ref().and_then(|why| why())
    }

    /// Tells components who the client is, in place of whatever it calls itself, and what else this side knows. `asks` is
    /// the length that is announced of a body, where only the head of the request is to be judged.
    fn tell(
        &self,
        parts: &mut http::request::Parts,
        caller: &Caller,
        client: Client,
        asks: Option<Option<u64>>,
    ) {
        let address = HeaderValue::from_str(&client.text()).expect("an address is plain ASCII");
        parts.headers.insert(CLIENT_ADDRESS, address);
        let Some(token) = &self.fittings.token else {
            return;
        };
        let tls = self.fittings.tls.as_ref();
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

    /// What can be said of a request before its body.
    fn admissible(&self, parts: &http::request::Parts, seen: Seen) -> Result<(), Problem> {
        if seen == Seen::Ambiguous {
            return Err(Problem::new(
                Code::MalformedRequest,
                "the request has both Content-Length and Transfer-Encoding, so its end is ambiguous; send one of \
                 them",
            ));
        }
        grpc::admissible(parts)?;
        let method_bytes = parts.method.as_str().len();
        if method_bytes > MAX_METHOD_BYTES {
            return Err(Problem::new(
                Code::MalformedRequest,
                format!(
                    "the method has {method_bytes} bytes; no method has more than {MAX_METHOD_BYTES}"
                ),
            ));
        }
        let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(Problem::new(
                Code::MalformedRequest,
                "the request has a Transfer-Encoding other than chunked, the only one that is supported",
            ));
        }
        let authority_bytes = parts.uri.authority().map_or(0, |a| a.as_str().len());
        let path_bytes = parts.uri.path_and_query().map_or(0, |t| t.as_str().len());
        let target_bytes = authority_bytes + path_bytes;
        if target_bytes > self.settings.max_target_bytes as usize {
            return Err(Problem::new(
                Code::TargetTooLong,
                format!(
                    "the request target has {target_bytes} bytes; at most {} are accepted",
                    self.settings.max_target_bytes
                ),
            ));
        }
        // HTTP/1's read buffer is larger than the limit, for the sake of bodies, so it is held here.
        let header_bytes: usize = parts
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_FRAMING_BYTES)
            .sum();
        if header_bytes > self.settings.max_header_bytes as usize {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                format!(
                    "the headers have {header_bytes} bytes; at most {} are accepted",
                    self.settings.max_header_bytes
                ),
            ));
        }
        // hyper holds it for HTTP/1; HTTP/2 knows no count.
        if parts.headers.len() > MAX_HEADERS {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                format!(
                    "the request has {} headers; at most {MAX_HEADERS} are accepted",
                    parts.headers.len()
                ),
            ));
        }
        if seen == Seen::TooLong {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                "the head of the request is larger than its target and headers may be together; send it without padding",
            ));
        }
        // RFC 9112 §3.2: with none or several, two servers may disagree whom the request is for.
        let hosts = parts.headers.get_all(header::HOST).iter().count();
        if parts.version == http::Version::HTTP_11 && hosts != 1 {
            return Err(Problem::new(
                Code::MalformedRequest,
                format!("the request has {hosts} Host headers; send exactly one"),
            ));
        }
        Ok(())
    }

    fn overloaded(&self) -> Problem {
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
        asked: &Asked,
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
        asked: &Asked,
    ) -> Result<Option<Response<Bytes>>, Problem> {
        if self.fittings.token.is_none() {
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

    fn too_large(&self) -> Problem {
        let limit = self.settings.max_body_bytes;
        Problem::new(
            Code::BodyTooLarge,
            format!("the body has more than {limit} bytes, the limit"),
        )
    }

    /// Reads a whole body, where there is room for one more on its way.
    async fn received(
        &self,
        body: Inbound,
        deadline: Instant,
        asks_first: bool,
        asked: &Asked,
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
    async fn pass(
        &self,
        (parts, body): (http::request::Parts, Bytes),
        deadline: Instant,
        asked: &Asked,
    ) -> Result<Response<Bytes>, Problem> {
        let request = DoorRequest {
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
                    crate::log::one_line(&error)
                );
                Err(match error {
                    DoorError::Instantiate(_) => self.overloaded(),
                    DoorError::NotDurable(_) => Problem::new(
                        Code::StoreUnavailable,
                        "the request ran, but its writes could not be made durable",
                    )
                    .retry_after(RETRY_AFTER_S),
                    DoorError::Trap(_) | DoorError::Answer(_) => Problem::new(
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

    /// A place among bodies that take long.
    fn dawdle(&self, address: IpAddr) -> Result<Dawdling<'_>, Problem> {
        let most = (self.settings.max_in_flight / DAWDLING_SHARE).max(MIN_DAWDLING);
        let counted = self.dawdling.admit(address, most);
        let place = self.all_dawdling.try_acquire().ok();
        counted.zip(place).ok_or_else(|| {
            Problem::new(
                Code::RequestTimeout,
                format!(
                    "there are as many slow bodies on their way as there may be ({most} from one address); send this one \
                     again, within {} ms",
                    DAWDLING.as_millis()
                ),
            )
        })
    }

    /// Counts some more bytes of a body on its way.
    fn hold(&self, held: &mut Held<'_>, bytes: u64) -> Result<(), Problem> {
        let most = MIN_ARRIVING_BYTES.max(self.settings.max_body_bytes.saturating_mul(4));
        if held.take(bytes, most) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Overloaded,
            format!("the server holds {most} bytes of bodies on their way; this one was not run"),
        )
        .retry_after(RETRY_AFTER_S))
    }

    /// Reads a whole body, within the limits on its size, its pauses and its time. Of a body that is
    /// too large a bounded rest is read and thrown away, because a caller that is still sending when
    /// its connection closes never sees why.
    async fn collect(
        &self,
        mut body: Inbound,
        deadline: Instant,
        counted: &AtomicU64,
        address: IpAddr,
    ) -> Result<Bytes, Problem> {
        let limit = self.settings.max_body_bytes;
        let too_large = || self.too_large();
        let announced = body.size_hint().exact();
        let hopeless = limit.saturating_add(MAX_DISCARD_BYTES);
        let mut discarding = announced.is_some_and(|bytes| bytes > limit);
        // A caller that would send without end is told at once.
        if discarding && announced.is_some_and(|bytes| bytes > hopeless) {
            return Err(too_large());
        }
        let mut received: u64 = 0;
        let mut held = Held::new(&self.arriving);
        let mut dawdling = None;
        let dawdles_at = Instant::now() + DAWDLING;
        let mut last = Instant::now();
        let pause = Duration::from_millis(self.settings.body_idle_timeout_ms);
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        loop {
            if body.is_end_stream() {
                break;
            }
            // A body is late once, and from then on counted; before, it is not asked whose it is.
            if dawdling.is_none() && Instant::now() >= dawdles_at {
                dawdling = Some(self.dawdle(address)?);
            }
            let until = deadline.min(last + pause);
            let woken = match dawdling {
                None => until.min(dawdles_at),
                Some(_) => until,
            };
            let frame = match timeout_at(woken, body.frame()).await {
                Err(_) if woken < until => continue,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) if discarding => break,
                Ok(Some(Err(e))) => {
                    return Err(Problem::new(
                        Code::IncompleteBody,
                        format!("the body broke off: {e}"),
                    ));
                }
                Ok(None) => break,
                Err(_) => {
                    return Err(Problem::new(
                        Code::RequestTimeout,
                        format!(
                            "the body stopped arriving; it may pause for {} ms and take {} ms in all",
                            self.settings.body_idle_timeout_ms, self.settings.total_timeout_ms
                        ),
                    ));
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            last = Instant::now();
            received += data.len() as u64;
            counted.store(received, Ordering::Relaxed);
            if !discarding {
                self.hold(&mut held, data.len() as u64)?;
            }
            if discarding || received > limit {
                discarding = true;
                (first, rest) = (Bytes::new(), None);
                if received > hopeless {
                    break;
                }
                continue;
            }
            // Most bodies arrive in one piece, and that piece is not copied.
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    // What is announced is at most the limit, and is not reserved before a second
                    // piece has come.
                    let capacity = announced
                        .unwrap_or(0)
                        .max((first.len() + data.len()) as u64);
                    let mut joined = BytesMut::with_capacity(capacity as usize);
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                    rest = Some(joined);
                }
            }
        }
        if discarding {
            return Err(too_large());
        }
        Ok(rest.map_or(first, BytesMut::freeze))
    }
}

/// Resolves when the listener is closed, or when a connection has lasted as long as it may.
async fn over(phases: &mut Phases, until: Option<Instant>) {
    tokio::select! {
        _ = phases.closing() => {}
        () = at(until) => {}
    }
}

/// Resolves when a new connection has sent nothing for too long after the listener was closed.
async fn too_late(phases: &mut Phases) {
    let since = phases.closing().await;
    tokio::time::sleep_until(since + drain::FRESH).await;
}

/// Whether a client of HTTP/1.1 may send another request on its connection. HTTP/1.0 keeps none unless it is asked to, and
/// knows nothing of `Keep-Alive` in answers that it can rely on.
fn may_keep<B>(request: &Request<B>) -> bool {
    let mut options = request.headers().get_all(header::CONNECTION).iter();
    let closes = |value: &HeaderValue| {
        let mut options = value.as_bytes().split(|b| *b == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    request.version() == http::Version::HTTP_11 && !options.any(closes)
}

/// What `Keep-Alive` says of a time. It has whole seconds; a shorter one is not told.
fn kept_for(ms: u64) -> Option<HeaderValue> {
    let seconds = Duration::from_millis(ms).as_secs();
    let value = HeaderValue::from_str(&format!("timeout={seconds}")).ok()?;
    (seconds > 0).then_some(value)
}

/// A place among bodies that take long: of its address, and of all.
type Dawdling<'s> = (Counted, SemaphorePermit<'s>);

/// Resolves at that time; never where there is none.
async fn at(time: Option<Instant>) {
    match time {
        None => std::future::pending().await,
        Some(time) => tokio::time::sleep_until(time).await,
    }
}

/// Bytes of one body that are counted while it arrives.
struct Held<'a> {
    all: &'a AtomicU64,
    own: u64,
}

impl<'a> Held<'a> {
    fn new(all: &'a AtomicU64) -> Self {
        Self { all, own: 0 }
    }

    /// Counts some more; whether there was room.
    fn take(&mut self, bytes: u64, most: u64) -> bool {
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= most
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// What a refusal has to know of its request.
struct Asked {
    path: String,
    accept: Option<String>,
    head: bool,
    request_id: RequestId,
    made_id: bool,
    /// Whether the client waits before it sends its body.
    asks_first: bool,
    /// Bytes of its body that have arrived.
    received: AtomicU64,
}

impl Asked {
    fn of(parts: &http::request::Parts) -> Self {
        let own = parts
            .headers
            .get("x-request-id")
            .and_then(|v| RequestId::from_header(v.as_bytes()));
        let lines: Vec<&str> = parts
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        Self {
            path: parts.uri.path().to_owned(),
            accept: (!lines.is_empty()).then(|| lines.join(", ")),
            head: parts.method == http::Method::HEAD,
            made_id: own.is_none(),
            asks_first: asks_first(parts),
            request_id: own.unwrap_or_else(|| RequestId::generate(unix_ms(), rand::random())),
            received: AtomicU64::new(0),
        }
    }

    fn refuse(&self, problem: &Problem) -> Response<Bytes> {
        let style = negotiate::error_style(&self.path, self.accept.as_deref());
        let (content_type, body) = problem.render(style, &self.request_id, unix_ms());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = http::StatusCode::from_u16(problem.code.status())
            .expect("the catalogue's are statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        // The same request with another Accept is answered in another form.
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(
            HeaderName::from_static("x-request-id"),
            HeaderValue::from_str(self.request_id.as_str()).expect("visible ASCII"),
        );
        for (name, value) in problem.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        // The rest of a body nobody read would be taken for the next request.
        if self.asks_first
            || matches!(
                problem.code,
                Code::BodyTooLarge
                    | Code::RequestTimeout
                    | Code::IncompleteBody
                    | Code::MalformedRequest
            )
        {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether a client waits to be told that its body may come. Over HTTP/1.0 nobody can be told (RFC 9110 §10.1.1).
fn asks_first(parts: &http::request::Parts) -> bool {
    parts.version > http::Version::HTTP_10
        && (parts.headers.get(header::EXPECT))
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Throws away what only the server may say to its components.
fn strip(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OWN_PREFIX))
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
}

/// What there is to say of a connection.
fn facts(client: Client, caller: &Caller, tls: Option<Value>) -> Map<String, Value> {
    let mut facts = Map::new();
    if client.hidden {
        facts.insert("forwarded".to_owned(), true.into());
    }
    if let Some(certificate) = &caller.certificate {
        facts.insert("certificate".to_owned(), certificate.clone());
    }
    if let Some(tls) = tls {
        facts.insert("server".to_owned(), json!({"tls": tls}));
    }
    facts
}

/// A connection's place among those there may be.
struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

/// A connection that is known to speak something.
enum Opened {
    Plain {
        stream: TcpStream,
        is_http2: bool,
    },
    Secure(Box<TlsStream<TcpStream>>),
    /// Plain HTTP where TLS is spoken.
    Plaintext(TcpStream),
}

/// Who is at the other end of a connection.
struct Caller {
    address: SocketAddr,
    /// Whether it speaks TLS.
    secure: bool,
    /// What its certificate says, where it showed one; it is verified.
    certificate: Option<Value>,
}

impl Caller {
    fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            secure: false,
            certificate: None,
        }
    }
}

/// Why a connection ended.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Writes a whole answer to a connection that is not going to be served, and closes it once the
/// caller had a moment to read it. Gives the bytes of its body.
fn refuse_connection(
    stream: TcpStream,
    problem: &Problem,
    id: &RequestId,
    refusing: &Arc<Semaphore>,
) -> u64 {
    let (content_type, body) = problem.render(negotiate::ErrorStyle::Penstock, id, unix_ms());
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nx-request-id: {id}\r\nconnection: close\r\n",
        problem.code.status(),
        problem.code.title(),
        body.len()
    );
    for (name, value) in problem.headers() {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    let mut bytes = answer.into_bytes();
    bytes.extend_from_slice(&body);
    // A new socket's buffer takes this whole; if it does not, the caller gets a reset instead.
    let _ = stream.try_write(&bytes);
    // Closing with unread bytes resets the connection and may take the answer back, so what the
    // caller is sending is read for a moment; not for more callers than a flood would bring.
    if let Ok(permit) = refusing.clone().try_acquire_owned() {
        tokio::spawn(async move {
            let _permit = permit;
            let _ = tokio::time::timeout(DISCARD_TIME, io::close(stream)).await;
        });
    }
    body.len() as u64
}

/// Reads and throws away a little of a body nobody wants, so that its sender hears the answer.
async fn discard(mut body: Inbound) {
    let until = Instant::now() + DISCARD_TIME;
    let mut left = REFUSED_DISCARD_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The answer to HEAD: what GET would say of its body, and none.
fn without_body(response: Response<Bytes>) -> Response<Bytes> {
    let (mut parts, body) = response.into_parts();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(parts, Bytes::new())
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_say_what_only_the_server_may() {
        let mut headers = HeaderMap::new();
        for name in [
            "penstock-connection",
            "Penstock-Audit",
            "penstock-",
            "penstock-x",
            "x-penstock-connection",
            "penstock",
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name.clone(), HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["penstock", "x-penstock-connection"]);
    }

    #[test]
    fn of_a_connection_is_said_what_there_is_to_say_and_nothing_else() {
        let mut client = Client {
            address: [192, 0, 2, 1].into(),
            port: None,
            hidden: false,
        };
        let mut caller = Caller::plain(([192, 0, 2, 1], 80).into());
        assert!(facts(client, &caller, None).is_empty());
        client.hidden = true;
        caller.certificate = Some(json!({"sha256": "ab", "names": ["dns:a"]}));
        let tls = json!({"expires": "2027-01-01T00:00:00Z", "days_left": 40});
        assert_eq!(
            Value::Object(facts(client, &caller, Some(tls))).to_string(),
            r#"{"forwarded":true,"certificate":{"sha256":"ab","names":["dns:a"]},"server":{"tls":{"expires":"2027-01-01T00:00:00Z","days_left":40}}}"#
        );
    }
}
