//! HTTP for downloads: TLS with the machine's authorities, redirects followed here, every wait bounded.
//!
//! Decisions:
//!
//! - **Credentials go only to their own origin**, not to a redirect's target.
//! - **No downgrade.** A redirect from https to http is refused, and http is allowed only for this machine's own
//!   addresses.
//! - **One connection for each file.** Models are few and large.

use crate::address::redacted;
use crate::error::Error;
use crate::transfer::Head;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST,
    LAST_MODIFIED, LOCATION, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use url::{Host, Url};

/// Most bytes of a response's headers.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Redirects of one request; hubs need two, and a loop needs an end.
const MAX_REDIRECTS: usize = 8;
/// Time limit of a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// An HTTP client for downloads.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    allow_plain: bool,
    idle: Duration,
}

/// A request for one URL.
#[derive(Clone, Debug)]
pub struct Get<'a> {
    /// The URL to get.
    pub url: &'a Url,
    /// The `Authorization` header, for the origin of `url` alone.
    pub authorization: Option<HeaderValue>,
    /// The headers beside `Authorization`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl<'a> Get<'a> {
    /// Makes a request for a URL without further headers.
    pub fn new(url: &'a Url) -> Self {
        Self {
            url,
            authorization: None,
            headers: Vec::new(),
        }
    }
}

/// An answer whose body has not been read.
pub struct Response {
    /// The HTTP status of the answer.
    pub status: StatusCode,
    /// The headers of the answer.
    pub headers: HeaderMap,
    body: Incoming,
    idle: Duration,
    _connection: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Response {
    /// Returns the value of a header as text, if it is one.
    pub fn header(&self, name: &HeaderName) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// The parts of it that matter for a transfer.
    pub fn head(&self) -> Head {
        Head {
            status: self.status.as_u16(),
            length: self
                .header(&CONTENT_LENGTH)
                .and_then(|text| text.parse().ok()),
            range: self.header(&CONTENT_RANGE),
            validator: self.header(&ETAG).or_else(|| self.header(&LAST_MODIFIED)),
        }
    }

    /// Returns whether it is a web page, which a model never is.
    pub fn is_page(&self) -> bool {
        self.header(&CONTENT_TYPE)
            .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let frame = frame.map_err(|_| {
                Error::unreachable(format!(
                    "the server sent nothing for {} s",
                    self.idle.as_secs()
                ))
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => {
                    return Err(Error::unreachable(format!("the answer broke off: {e}")));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, of at most so many bytes.
    pub async fn body(mut self, max_bytes: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > max_bytes {
                return Err(Error::refused(format!(
                    "the answer has more than {max_bytes} bytes"
                )));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

impl Client {
    /// A client that trusts the machine's authorities and those in a PEM file.
    pub fn new(ca_file: Option<&Path>, allow_plain: bool, idle: Duration) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            let unreadable = |e: &dyn std::fmt::Display| {
                Error::local(format!(
                    "cannot read {}, which models.pull.ca_file names: {e}",
                    path.display()
                ))
            };
            let mut count = 0;
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
                let certificate = certificate.map_err(|e| unreadable(&e))?;
                roots.add(certificate).map_err(|e| unreadable(&e))?;
                count += 1;
            }
            if count == 0 {
                return Err(unreadable(&"it has no certificate in PEM form"));
            }
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::local(format!("TLS cannot be set up: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(config),
            allow_plain,
            idle,
        })
    }

    /// Refuses a URL that downloads may not use.
    pub fn allowed(&self, url: &Url) -> Result<(), Error> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.allow_plain || is_loopback(url) => Ok(()),
            "http" => Err(Error::refused(format!(
                "{} is plain http, which anyone on the network path can change; use https, or set \
                 allow_plain_http = true in [models.pull]",
                redacted(url)
            ))),
            other => Err(Error::refused(format!(
                "{other}:// is not a scheme for downloads"
            ))),
        }
    }

    /// Sends a request, and follows redirects.
    pub async fn get(&self, get: &Get<'_>) -> Result<Response, Error> {
        let mut url = get.url.clone();
        let mut authorization = get.authorization.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.allowed(&url)?;
            let answer = self
                .once(&url, authorization.as_ref(), &get.headers)
                .await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let to = answer.header(&LOCATION);
            let next = to
                .as_deref()
                .and_then(|to| url.join(to).ok())
                .ok_or_else(|| {
                    Error::refused(format!(
                        "{} redirects to an address that is not a URL",
                        redacted(&url)
                    ))
                })?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Error::refused(format!(
                    "{} redirects to {}, which is not https; it was not followed",
                    redacted(&url),
                    redacted(&next)
                )));
            }
            if next.origin() != get.url.origin() {
                authorization = None;
            }
            url = next;
        }
        Err(Error::refused(format!(
            "{} redirects more than {MAX_REDIRECTS} times",
            redacted(get.url)
        )))
    }

    async fn once(
        &self,
        url: &Url,
        authorization: Option<&HeaderValue>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response, Error> {
        let at = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let away = |what: &dyn std::fmt::Display| {
            Error::unreachable(format!("{at}:{port} cannot be reached: {what}"))
        };
        let late = |_| {
            away(&format!(
                "no connection within {} s",
                CONNECT_TIMEOUT.as_secs()
            ))
        };
        let bare = at.trim_matches(['[', ']']).to_owned();
        let connecting = TcpStream::connect((bare.as_str(), port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(late)?;
        let stream = stream.map_err(|e| away(&e))?;
        // Requests are small and responses large, so delaying packets gains nothing.
        let _ = stream.set_nodelay(true);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let authority = match url.port() {
            Some(port) => format!("{at}:{port}"),
            None => at.clone(),
        };
        let mut request = http::Request::get(target)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("penstock/", env!("CARGO_PKG_VERSION")))
            // Checksums are those of the uncompressed bytes.
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|e| Error::refused(format!("{} cannot be asked for: {e}", redacted(url))))?;
        if url.scheme() == "http" {
            return self.exchange(stream, request, url).await;
        }
        let name = ServerName::try_from(bare).map_err(|e| away(&e))?;
        let shaking = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, shaking)
            .await
            .map_err(late)?;
        let stream = stream.map_err(|e| {
            away(&format!(
                "TLS failed: {e}; ca_file in [models.pull] names more authorities to trust"
            ))
        })?;
        self.exchange(stream, request, url).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: http::Request<Empty<Bytes>>,
        url: &Url,
    ) -> Result<Response, Error> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::unreachable(format!("{} did not answer: {e}", redacted(url)))
        };
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            // Its end is noticed where the body is read.
            let _ = connection.await;
        }));
        let answer = tokio::time::timeout(self.idle, sender.send_request(request)).await;
        let answer = answer
            .map_err(|_| {
                failed(&format!(
                    "no response came within {} s",
                    self.idle.as_secs()
                ))
            })?
            .map_err(|e| failed(&e))?;
        let (parts, body) = answer.into_parts();
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            body,
            idle: self.idle,
            _connection: connection,
        })
    }
}

/// Returns whether a URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
