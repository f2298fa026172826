//! `[server]`, `[tls]` and `[audit]` of `penstock.toml`.

use crate::proxies::{ForwardedHeader, Network};
use penstock_policy::document::DEFAULT_MAX_BODY_BYTES;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The section `[server]`: bounds of connections and requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Largest body of a request in bytes. A model's contract may allow less.
    pub max_body_bytes: u64,
    /// Largest header block in bytes.
    pub max_header_bytes: u32,
    /// Longest request target in bytes.
    pub max_target_bytes: u32,
    /// Connections open at once. One more gets 503 and is closed.
    pub max_connections: u32,
    /// Connections open at once from one address, or one IPv6 network of 64 bits. One more gets 503 and is closed.
    /// Trusted proxies are not counted.
    pub max_connections_per_address: u32,
    /// Proxies that may name the client: addresses and networks.
    pub trusted_proxies: Vec<Network>,
    /// The header in which they name it.
    pub forwarded_header: ForwardedHeader,
    /// Requests in flight at once. One more gets 503.
    pub max_in_flight: u32,
    /// Milliseconds that a client has to send a request's headers, from their first byte, and, on a new connection,
    /// until the first byte.
    pub header_timeout_ms: u64,
    /// Milliseconds a connection is kept open between an answer and the next request.
    pub keep_alive_timeout_ms: u64,
    /// Milliseconds a client may pause while it sends a body.
    pub body_idle_timeout_ms: u64,
    /// Milliseconds a gRPC stream may pause between two messages.
    pub stream_idle_timeout_ms: u64,
    /// Milliseconds from the end of the headers to the answer.
    pub total_timeout_ms: u64,
    /// Milliseconds for which a client may read nothing of an answer before its connection is closed.
    pub write_timeout_ms: u64,
    /// Milliseconds from SIGTERM to the end of the process; requests in flight have until then.
    pub drain_timeout_ms: u64,
    /// Milliseconds after SIGTERM in which health checks fail and everything else continues; see
    /// [`ServerSettings::drain_delay`].
    pub drain_delay_ms: Option<u64>,
}

/// The default time in which health checks fail: as long as common load balancers need to look again and react.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

impl ServerSettings {
    /// The time for which a stopping server accepts new connections while its health checks fail. By default there
    /// is no delay on loopback, where no balancer looks. It takes at most half of the drain timeout.
    pub fn drain_delay(&self, listens_on_loopback: bool) -> Duration {
        match self.drain_delay_ms {
            Some(delay_ms) => Duration::from_millis(delay_ms),
            None if listens_on_loopback => Duration::ZERO,
            None => DRAIN_DELAY.min(Duration::from_millis(self.drain_timeout_ms / 2)),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            max_header_bytes: 16 << 10,
            max_target_bytes: 8 << 10,
            max_connections: 10_000,
            // A tenth of all, so that no one caller takes them. It is many times the number that a client, or an office
            // behind one address, opens.
            max_connections_per_address: 1024,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            max_in_flight: 512,
            header_timeout_ms: 15_000,
            // Longer than common balancers keep an unused connection (60 s), so that they close it and never send on
            // one that the server is closing.
            keep_alive_timeout_ms: 75_000,
            body_idle_timeout_ms: 10_000,
            stream_idle_timeout_ms: 300_000,
            total_timeout_ms: 30_000,
            write_timeout_ms: 15_000,
            drain_timeout_ms: 20_000,
            drain_delay_ms: None,
        }
    }
}

/// The section `[tls]`. Without a certificate the server speaks plain HTTP. Files are relative to the policy file's folder,
/// and are
/// read again when they change.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate chain in PEM: the certificate and its intermediates.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub private_key: Option<PathBuf>,
    /// The authorities that sign clients' certificates, in PEM. Without it the server asks for no certificate.
    pub client_ca: Option<PathBuf>,
    /// The demand for client certificates. By default a client must show one.
    pub client_certificates: Option<ClientCertificates>,
    /// Seconds for which browsers must use TLS only (RFC 6797).
    pub hsts_max_age_s: Option<u64>,
    /// Days before the end of the certificate from which the log warns.
    pub warn_days: u32,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            certificate: None,
            private_key: None,
            client_ca: None,
            client_certificates: None,
            hsts_max_age_s: None,
            warn_days: 30,
        }
    }
}

/// The demand for client certificates, if there is an authority for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// A client may show a certificate.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// Largest `max-age` of HSTS: ten years. A larger number is a mistake.
const MAX_HSTS_S: u64 = 315_360_000;

/// No public certificate is valid for longer.
const MAX_WARN_DAYS: u32 = 398;

impl TlsSettings {
    /// Returns the demand for client certificates, if there is an authority for them.
    pub fn client_certificates(&self) -> ClientCertificates {
        self.client_certificates
            .unwrap_or(ClientCertificates::Required)
    }

    /// Returns the faults of the settings: the name of each, and the reason.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let Self {
            certificate,
            private_key,
            client_ca,
            client_certificates,
            hsts_max_age_s,
            warn_days,
        } = self;
        let mut faults = Vec::new();
        let mut fault = |setting, message: &str| faults.push((setting, message.to_owned()));
        match (certificate, private_key) {
            (Some(_), None) => fault("certificate", "needs tls.private_key, the file of its key"),
            (None, Some(_)) => fault(
                "private_key",
                "needs tls.certificate, the certificate file for this key",
            ),
            _ => {}
        }
        const NO_TLS: &str = "needs tls.certificate; without one the server does not use TLS";
        if certificate.is_none() {
            if client_ca.is_some() {
                fault("client_ca", NO_TLS);
            }
            if hsts_max_age_s.is_some() {
                fault("hsts_max_age_s", NO_TLS);
            }
        }
        if client_certificates.is_some() && client_ca.is_none() {
            let message = "needs tls.client_ca, the file of the authorities that sign them";
            fault("client_certificates", message);
        }
        if hsts_max_age_s.is_some_and(|seconds| seconds > MAX_HSTS_S) {
            fault("hsts_max_age_s", &format!("must be at most {MAX_HSTS_S}"));
        }
        if *warn_days > MAX_WARN_DAYS {
            fault("warn_days", &format!("must be at most {MAX_WARN_DAYS}"));
        }
        faults
    }
}

/// The section `[audit]`: one JSON line for each request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// The file, relative to the state directory. Without it there is no log.
    pub path: Option<PathBuf>,
    /// Size in bytes after which a new file begins.
    pub max_bytes: u64,
    /// Old files that are kept, `.1` the newest.
    pub keep: u32,
    /// Whether health checks are logged too.
    pub probes: bool,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            path: None,
            max_bytes: 64 << 20,
            keep: 5,
            probes: false,
        }
    }
}

/// Smallest `max_bytes`: a few lines. With less, every line would rename the files.
const MIN_AUDIT_BYTES: u64 = 4096;

/// Each is renamed at every rotation.
const MAX_AUDIT_FILES: u32 = 1000;

impl AuditSettings {
    /// Returns the faults of the settings: the name of each, and the reason.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let Self {
            path,
            max_bytes,
            keep,
            probes: _,
        } = self;
        let mut faults = Vec::new();
        if path.as_ref().is_some_and(|path| path.file_name().is_none()) {
            faults.push(("path", "must name a file".to_owned()));
        }
        if *max_bytes < MIN_AUDIT_BYTES {
            faults.push(("max_bytes", format!("must be at least {MIN_AUDIT_BYTES}")));
        }
        if !(1..=MAX_AUDIT_FILES).contains(keep) {
            faults.push(("keep", format!("must be from 1 to {MAX_AUDIT_FILES}")));
        }
        faults
    }
}
