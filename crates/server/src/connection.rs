//! Decides which connections are served, detects the protocol of each, and refuses the others.

use super::addresses::Counted;
use super::body::ConnectionError;
use super::caller::Caller;
use super::clock::unix_ms;
use super::drain::Phases;
use super::state::{RETRY_AFTER_S, Server};
use super::upload::DISCARD_TIME;
use super::wait::too_late;
use super::{http2, io};
use crate::audit;
use crate::tls;
use penstock_core::{Code, Problem, RequestId, negotiate};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;

/// Longest life of a connection that a client's certificate opened. For this time an authority that was removed from
/// `client_ca`, and a certificate that has expired meanwhile, still count.
pub(crate) const CERTIFICATE_TIME: Duration = Duration::from_secs(300);

impl Server {
    pub(crate) fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
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
                // A client that speaks TLS cannot read an answer in plain text.
                let stream = self.options.tls.is_none().then_some(stream);
                self.refuse_connection(stream, peer, &problem);
            }
        }
    }

    /// Returns a place for one more connection, or the reason why there is none.
    fn place(&self, peer: SocketAddr) -> Result<ConnectionPermit, String> {
        let counted = if self.proxies.trusts(peer.ip()) {
            None
        } else {
            let limit = self.settings.max_connections_per_address;
            let counted = self.addresses.admit(peer.ip(), limit);
            Some(counted.ok_or_else(|| {
                format!("your address has {limit} connections, the limit; reuse or close some")
            })?)
        };
        let permit = self.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            let limit = self.settings.max_connections;
            format!("the server has {limit} connections, the limit")
        })?;
        Ok(ConnectionPermit {
            _permit: permit,
            _counted: counted,
        })
    }

    /// Answers a connection that is not served.
    fn refuse_connection(&self, stream: Option<TcpStream>, peer: SocketAddr, problem: &Problem) {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        let id = RequestId::generate(unix_ms(), rand::random());
        let mut sent = 0;
        if let Some(stream) = stream {
            sent = refuse_connection(stream, problem, &id, &self.refusing);
        }
        if let Some(audit) = &self.options.audit {
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

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _place: ConnectionPermit,
    ) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.opened.fetch_add(1, Ordering::Relaxed);
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
            let why = penstock_app::one_line(&e);
            tracing::debug!(%peer, "connection ended: {why}");
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Detects the protocol of a connection, and shakes hands.
    async fn opened(&self, stream: TcpStream) -> std::io::Result<Opened> {
        let Some(tls) = &self.options.tls else {
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
    ) -> Result<(), ConnectionError>
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
}

/// A connection's place among the permitted ones.
struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

/// A connection with a known protocol.
enum Opened {
    Plain {
        stream: TcpStream,
        is_http2: bool,
    },
    Secure(Box<TlsStream<TcpStream>>),
    /// Plain HTTP on a port for TLS.
    Plaintext(TcpStream),
}

/// Writes a whole answer to a connection that will not be served, and closes it after the caller had a moment to read
/// it. Returns the bytes of its body.
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
    // A new socket's buffer takes all of this. If it does not, the caller gets a reset instead.
    let _ = stream.try_write(&bytes);
    // Closing with unread bytes resets the connection and may discard the answer. So the server reads the caller's
    // bytes for a moment, for a bounded number of callers.
    if let Ok(permit) = refusing.clone().try_acquire_owned() {
        tokio::spawn(async move {
            let _permit = permit;
            let _ = tokio::time::timeout(DISCARD_TIME, io::close(stream)).await;
        });
    }
    body.len() as u64
}
