//! Sends one message. The host of the URL is looked up once, its addresses are checked, and the connection is made to an
//! address that was checked. A second look-up could give another address.

use super::keys::CA_SETTING;
use super::told::Told;
use crate::https::{self, Answer};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http_body_util::{BodyExt, Full};
use penstock_policy::webhooks::address::is_public;
use penstock_policy::webhooks::delivery::{MAX_ANSWER_BYTES, Outcome};
use penstock_policy::webhooks::target::Url;
use penstock_sources::transfer;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::ClientConfig;

/// The name of this program in requests.
const AGENT: &str = concat!("penstock/", env!("CARGO_PKG_VERSION"));

/// Most addresses of a host that are tried. The owner of a name decides how many it has.
const MAX_ADDRESSES: usize = 8;

/// Time for which certificate authorities are used before they are read again. Reading them takes some milliseconds.
const AUTHORITIES_AGE: Duration = Duration::from_secs(60);

/// Time in which the rest of an answer is read after its status. An answer without an end would hold a place for others.
const COURTESY: Duration = Duration::from_secs(1);

/// The subject of faults of the authorities in the log.
const AUTHORITIES: &str = "certificate authorities";

/// A message and its headers, for one attempt.
pub(super) struct Message {
    /// The id of the message, the same in all attempts.
    pub id: String,
    /// The time of the attempt, in seconds since the Unix epoch.
    pub timestamp_s: u64,
    /// The value of `webhook-signature` for this attempt.
    pub signature: String,
    /// The body, as it was signed.
    pub payload: Bytes,
}

/// Sends messages to receivers, over TLS unless the operator allows otherwise.
pub(super) struct Sender {
    /// Hosts that may have private addresses, and do without encryption.
    allow_hosts: Vec<String>,
    /// A file with more certificate authorities than those of the machine.
    ca_file: Option<PathBuf>,
    /// The time of one attempt.
    timeout: Duration,
    /// The authorities that were read last, and when.
    authorities: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
    told: Arc<Told>,
}

impl Sender {
    pub(super) fn new(
        allow_hosts: Vec<String>,
        ca_file: Option<PathBuf>,
        timeout: Duration,
        told: Arc<Told>,
    ) -> Self {
        Self {
            allow_hosts,
            ca_file,
            timeout,
            authorities: Mutex::new(None),
            told,
        }
    }

    /// Sends a message to a URL, within the time of one attempt.
    pub(super) async fn post(&self, url: &str, message: Message) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let exchanged = timeout_at(deadline, self.exchange(url, message, deadline)).await;
        let answer = match exchanged {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => return Outcome::Failed(reason),
            Err(_) => {
                let ms = self.timeout.as_millis();
                return Outcome::Failed(format!("it did not answer within {ms} ms"));
            }
        };
        let status = answer.response.status().as_u16();
        let asked = answer.response.headers().get(RETRY_AFTER);
        let asked = asked.and_then(|value| value.to_str().ok());
        let asked = asked.and_then(|asked| transfer::wait(asked, SystemTime::now()));
        let retry_after_ms =
            asked.map(|asked| u64::try_from(asked.as_millis()).unwrap_or(u64::MAX));
        // The status decides. The rest is read only because some servers take a reset for a failure of their own.
        let until = deadline.min(Instant::now() + COURTESY);
        let _ = timeout_at(until, ignore_body(answer)).await;
        Outcome::Answered {
            status,
            retry_after_ms,
        }
    }

    async fn exchange(
        &self,
        url: &str,
        message: Message,
        deadline: Instant,
    ) -> Result<Answer, String> {
        let url = Url::parse(url, &self.allow_hosts).map_err(|wrong| format!("the URL {wrong}"))?;
        let request = request(&url, message)?;
        let addresses = addresses(&url).await?;
        let stream = connect(&addresses, deadline).await?;
        if !url.tls {
            return https::send(stream, request).await;
        }
        let authorities = self.authorities().await?;
        let stream = https::secure(stream, &url.host, authorities).await;
        let stream = stream.map_err(|wrong| {
            // It may name the other hosts of a certificate, and the caller may read the reason.
            tracing::debug!("webhooks: {}: {wrong}", url.host);
            match wrong.contains("certificate") {
                true => "TLS failed: its certificate is not accepted".to_owned(),
                false => "TLS failed".to_owned(),
            }
        })?;
        https::send(stream, request).await
    }

    /// Returns the trusted authorities. The operator may replace the files while the server runs.
    async fn authorities(&self) -> Result<Arc<ClientConfig>, String> {
        let mut authorities = self.authorities.lock().await;
        if let Some((since, config)) = &*authorities
            && since.elapsed() < AUTHORITIES_AGE
        {
            return Ok(config.clone());
        }
        let ca_file = self.ca_file.clone();
        let read = move || https::trust(ca_file.as_deref(), CA_SETTING);
        let read = tokio::task::spawn_blocking(read).await;
        match read.map_err(|e| e.to_string()).flatten() {
            Ok(config) => {
                self.told.well(AUTHORITIES);
                *authorities = Some((Instant::now(), config.clone()));
                Ok(config)
            }
            Err(wrong) => {
                self.told.wrong(AUTHORITIES, &wrong);
                // The caller may read the reason, and paths are only for the operator.
                Err("the server cannot read its certificate authorities; its operator must correct that".to_owned())
            }
        }
    }
}

fn request(url: &Url, message: Message) -> Result<http::Request<Full<Bytes>>, String> {
    http::Request::post(&url.target)
        .header(HOST, &url.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, AGENT)
        .header("webhook-id", message.id)
        .header("webhook-timestamp", message.timestamp_s)
        .header("webhook-signature", message.signature)
        .body(Full::new(message.payload))
        .map_err(|e| format!("the URL cannot be requested: {e}"))
}

/// The reason of an attempt to a host whose addresses are all private.
const NOT_PUBLIC: &str =
    "its host has no public address; the operator allows single hosts (webhooks.allow_hosts)";

/// The addresses of a host that messages may be sent to.
async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((url.host.as_str(), url.port)).await;
    let found = found.map_err(|e| format!("its host was not found: {e}"))?;
    let (mut usable, refused): (Vec<SocketAddr>, Vec<SocketAddr>) =
        found.partition(|address| url.allowed || is_public(address.ip()));
    usable.truncate(MAX_ADDRESSES);
    if usable.is_empty()
        && let Some(address) = refused.first()
    {
        // The caller reads the reason, and the addresses of internal names are none of its business.
        tracing::debug!("webhooks: {} leads to {}", url.host, address.ip());
        return Err(NOT_PUBLIC.to_owned());
    }
    Ok(usable)
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, String> {
    let mut reason = "its host has no address".to_owned();
    for (address, others) in addresses.iter().zip((1..=addresses.len()).rev()) {
        // An address that does not answer leaves time for the others.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(others).unwrap_or(u32::MAX);
        reason = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => format!("cannot connect: {e}"),
            Err(_) => "cannot connect: its host does not answer".to_owned(),
        };
    }
    Err(reason)
}

/// Reads the body of an answer, up to a bound.
async fn ignore_body(answer: Answer) {
    // The rest of `answer` stays in scope: it holds the connection while the body is read.
    let mut body = answer.response.into_body();
    let mut bytes = 0;
    while bytes < MAX_ANSWER_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::receiver::{NOTHING, Receiver};

    const PATIENCE: Duration = Duration::from_secs(20);
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    fn sender(allow: &[&str], ca_file: Option<PathBuf>, timeout: Duration) -> Sender {
        let allow = allow.iter().map(|host| (*host).to_owned()).collect();
        Sender::new(allow, ca_file, timeout, Arc::default())
    }

    async fn post(sender: &Sender, url: &str) -> Outcome {
        let message = Message {
            id: "msg_1".to_owned(),
            timestamp_s: 1_700_000_000,
            signature: "v1,x v1a,y".to_owned(),
            payload: Bytes::from_static(b"{\"a\":1}"),
        };
        sender.post(url, message).await
    }

    fn answered(status: u16, retry_after_ms: Option<u64>) -> Outcome {
        Outcome::Answered {
            status,
            retry_after_ms,
        }
    }

    fn refused(outcome: Outcome, words: &str) {
        let Outcome::Failed(reason) = outcome else {
            panic!("{outcome:?}, expected: {words}");
        };
        assert!(reason.contains(words), "{reason}");
    }

    #[tokio::test]
    async fn a_message_has_the_headers_of_the_specification() {
        let receiver = Receiver::start(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
        let sender = sender(&["127.0.0.1"], None, PATIENCE);
        let url = format!("http://{}/hooks?of=a", receiver.address);
        assert_eq!(post(&sender, &url).await, answered(204, None));
        let requests = receiver.requests();
        assert_eq!(requests.len(), 1);
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "{\"a\":1}");
        let mut lines: Vec<&str> = head.lines().collect();
        assert_eq!(lines.remove(0), "POST /hooks?of=a HTTP/1.1");
        lines.sort_unstable();
        let host = format!("host: {}", receiver.address);
        let agent = format!("user-agent: {AGENT}");
        assert_eq!(
            lines,
            [
                "content-length: 7",
                "content-type: application/json",
                host.as_str(),
                agent.as_str(),
                "webhook-id: msg_1",
                "webhook-signature: v1,x v1a,y",
                "webhook-timestamp: 1700000000",
            ]
        );
    }

    #[tokio::test]
    async fn the_status_of_an_answer_is_given_and_nothing_of_it_is_followed() {
        let moved =
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
        let busy =
            "HTTP/1.1 500 Internal Server Error\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy";
        for (answer, outcome) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                answered(200, None),
            ),
            (
                "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
                answered(410, None),
            ),
            (busy, answered(500, Some(7_000))),
            (moved, answered(307, None)),
        ] {
            let receiver = Receiver::start(&[answer]).await;
            let sender = sender(&["127.0.0.1"], None, PATIENCE);
            let url = format!("http://{}/", receiver.address);
            assert_eq!(post(&sender, &url).await, outcome);
            assert_eq!(receiver.requests().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_large_or_slow_answer_costs_no_more_than_its_bounds() {
        // It declares more than it sends, so a reader without a bound would wait for the rest.
        let large = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}",
            "x".repeat(2 * MAX_ANSWER_BYTES)
        );
        let receiver = Receiver::start(&[&large]).await;
        let sender_of = |timeout| sender(&["127.0.0.1"], None, timeout);
        let url = |receiver: &Receiver| format!("http://{}/", receiver.address);
        let began = Instant::now();
        let outcome = post(&sender_of(PATIENCE), &url(&receiver)).await;
        assert_eq!(outcome, answered(200, None));
        assert!(began.elapsed() < PATIENCE);
        let short = Duration::from_millis(200);
        let receiver = Receiver::start(&[NOTHING]).await;
        let outcome = post(&sender_of(short), &url(&receiver)).await;
        refused(outcome, "did not answer within 200 ms");
        // The status came in time.
        let receiver = Receiver::start(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]).await;
        let outcome = post(&sender_of(PATIENCE), &url(&receiver)).await;
        assert_eq!(outcome, answered(200, None));
        let receiver = Receiver::start(&["none of HTTP\r\n\r\n"]).await;
        refused(post(&sender_of(PATIENCE), &url(&receiver)).await, "HTTP");
    }

    #[tokio::test]
    async fn private_addresses_are_refused_unless_their_host_is_allowed() {
        let receiver = Receiver::start(&[OK]).await;
        let port = receiver.address.port();
        let closed = sender(&[], None, PATIENCE);
        for (url, words) in [
            (format!("http://127.0.0.1:{port}/"), "https://"),
            (
                format!("https://127.0.0.1:{port}/"),
                "127.0.0.1, which is not a public",
            ),
            (
                format!("https://[::1]:{port}/"),
                "::1, which is not a public",
            ),
            // The name is valid. Its address is not.
            (format!("https://localhost:{port}/"), "no public address"),
        ] {
            refused(post(&closed, &url).await, words);
        }
        assert!(receiver.requests().is_empty());
        let name = format!("localhost:{port}");
        let open = sender(&[&name], None, PATIENCE);
        let outcome = post(&open, &format!("http://{name}/")).await;
        assert_eq!(outcome, answered(200, None));
        refused(
            post(&open, &format!("https://127.0.0.1:{port}/")).await,
            "not a public address",
        );
    }

    #[tokio::test]
    async fn the_certificate_of_a_receiver_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        let receiver = Receiver::with_tls(&[OK], &ca_file).await;
        let port = receiver.address.port();
        let allow = ["localhost", "127.0.0.1"];
        let trusting = sender(&allow, Some(ca_file.clone()), PATIENCE);
        let outcome = post(&trusting, &format!("https://localhost:{port}/")).await;
        assert_eq!(outcome, answered(200, None));
        // The certificate is for `localhost`.
        let by_address = format!("https://127.0.0.1:{port}/");
        refused(post(&trusting, &by_address).await, "TLS failed");
        std::fs::remove_file(&ca_file).unwrap();
        let without = sender(&allow, Some(ca_file), PATIENCE);
        let outcome = post(&without, &format!("https://localhost:{port}/")).await;
        refused(outcome, "cannot read its certificate authorities");
    }
}
