//! Requests to other servers. [`get`] fetches one small document over https: no redirects, no plain http, bounded in time
//! and size. Webhooks share its steps: [`trust`], [`secure`] and [`send`].

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Most bytes of an answer's headers.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// The location of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    host: String,
    port: u16,
    authority: String,
    target: String,
}

impl Location {
    /// Parses an https URL. The error is a sentence with its fault.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("the URL {what}"));
        let Ok(uri) = url.parse::<http::Uri>() else {
            return wrong("cannot be read");
        };
        if uri.scheme_str() != Some("https") {
            return wrong("must begin with https://");
        }
        let Some(authority) = uri.authority() else {
            return wrong("names no host");
        };
        if authority.as_str().contains('@') {
            return wrong("contains a user name, which would not be sent");
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if ServerName::try_from(host.clone()).is_err() {
            return wrong("names no host that a certificate could cover");
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(443),
            authority: authority.to_string(),
            target: (uri.path_and_query()).map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

/// Returns the trusted authorities: the machine's, and those in a PEM file, which `setting` names.
pub(crate) fn trust(more: Option<&Path>, setting: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = more {
        let unreadable = |e: &dyn std::fmt::Display| format!("cannot read {}: {e}", path.display());
        let read = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))?;
        let mut count = 0;
        for certificate in read {
            let certificate = certificate.map_err(|e| unreadable(&e))?;
            roots.add(certificate).map_err(|e| unreadable(&e))?;
            count += 1;
        }
        if count == 0 {
            return Err(format!("{} has no certificate in PEM form", path.display()));
        }
    }
    if roots.is_empty() {
        return Err(format!(
            "this machine has no certificate authorities; name some in {setting}"
        ));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Gets a document of at most `max_bytes`. It must come with status 200 within the time. The error gives the reason, in
/// the same words each time.
pub(crate) async fn get(
    location: &Location,
    trust: Arc<ClientConfig>,
    accept: &'static str,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, String> {
    let got = tokio::time::timeout(timeout, exchange(location, trust, accept, max_bytes));
    got.await.unwrap_or_else(|_| {
        Err(format!(
            "it did not answer within {} ms",
            timeout.as_millis()
        ))
    })
}

/// Makes a connection encrypted. The certificate must be for `host`, a name or an address without brackets.
pub(crate) async fn secure(
    stream: TcpStream,
    host: &str,
    trust: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(trust).connect(name, stream).await;
    stream.map_err(|e| format!("TLS failed: {e}"))
}

/// An answer, and its connection, which closes when this is dropped.
pub(crate) struct Answer {
    pub(crate) response: http::Response<Incoming>,
    _sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDrop<hyper::Result<()>>,
}

/// Sends a request over a connection. The error gives the reason, in the same words each time.
pub(crate) async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| format!("HTTP failed: {e}"))?;
    // Ends with the answer, or with this future.
    let connection = AbortOnDrop(tokio::spawn(connection));
    let response = sender.send_request(request).await;
    Ok(Answer {
        response: response.map_err(|e| format!("HTTP failed: {e}"))?,
        _sender: sender,
        _connection: connection,
    })
}

async fn exchange(
    location: &Location,
    trust: Arc<ClientConfig>,
    accept: &'static str,
    max_bytes: usize,
) -> Result<Bytes, String> {
    let stream = TcpStream::connect((location.host.as_str(), location.port)).await;
    let stream = stream.map_err(|e| format!("cannot connect: {e}"))?;
    let stream = secure(stream, &location.host, trust).await?;
    let request = http::Request::get(&location.target)
        .header(http::header::HOST, &location.authority)
        .header(http::header::ACCEPT, accept)
        .header(http::header::USER_AGENT, "penstock")
        .body(Full::default())
        .map_err(|e| format!("the URL cannot be requested: {e}"))?;
    let answer = send(stream, request).await?;
    let status = answer.response.status();
    if status != http::StatusCode::OK {
        let status = status.as_u16();
        return Err(match status {
            300..=399 => format!("it answered {status}; redirects are not followed"),
            _ => format!("it answered {status}"),
        });
    }
    // The rest of `answer` stays in scope: it holds the connection while the body is read.
    let body = Limited::new(answer.response.into_body(), max_bytes);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            Err(format!("its answer has more than {max_bytes} bytes"))
        }
        Err(e) => Err(format!("its answer broke off: {e}")),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_https_url_is_taken_apart_and_others_are_refused() {
        let location = |url: &str| {
            let location = Location::parse(url);
            location.map(|l| (l.host, l.port, l.authority, l.target))
        };
        let parts = |host: &str, port: u16, authority: &str, target: &str| {
            Ok((
                host.to_owned(),
                port,
                authority.to_owned(),
                target.to_owned(),
            ))
        };
        for (url, expected) in [
            (
                "https://a.example",
                parts("a.example", 443, "a.example", "/"),
            ),
            (
                "https://a.example/keys?v=1",
                parts("a.example", 443, "a.example", "/keys?v=1"),
            ),
            (
                "https://a.example:8443/",
                parts("a.example", 8443, "a.example:8443", "/"),
            ),
            ("https://[::1]:9/k", parts("::1", 9, "[::1]:9", "/k")),
            (
                "https://127.0.0.1/",
                parts("127.0.0.1", 443, "127.0.0.1", "/"),
            ),
        ] {
            assert_eq!(location(url), expected, "{url}");
        }
        for url in [
            "http://a.example/",
            "a.example",
            "/keys",
            "https://",
            "https:///keys",
            "https://user:secret@a.example/",
            "https://a b/",
            "https://-_/",
            "ftp://a.example/",
            "",
        ] {
            let said = location(url).unwrap_err();
            assert!(
                said.starts_with("the URL ") && !said.contains("secret"),
                "{url}: {said}"
            );
        }
    }
}
