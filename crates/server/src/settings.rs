//! `[server]`, `[tls]` and `[audit]` of `penstock.toml`.

use crate::proxies::{ForwardedHeader, Network};
use penstock_policy::document::DEFAULT_MAX_BODY_BYTES;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// `[server]`: what a connection and a request may cost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Largest body in bytes taken of any request; a model's contract may allow less.
    pub max_body_bytes: u64,
    /// Largest header block in bytes.
    pub max_header_bytes: u32,
    /// Longest request target in bytes.
    pub max_target_bytes: u32,
    /// Connections open at once; one more is answered 503 and closed.
    pub max_connections: u32,
    /// Connections open at once from one address, or one IPv6 network of 64 bits; one more is answered 503 and closed.
    /// Trusted proxies are not counted.
    pub max_connections_per_address: u32,
    /// Proxies that are believed when they name the client: addresses and networks.
    pub trusted_proxies: Vec<Network>,
    /// The header they name it in.
    pub forwarded_header: ForwardedHeader,
    /// Requests in flight at once; one more is answered 503.
    pub max_in_flight: u32,
    /// Milliseconds a client has to send a request's headers, from their first byte; and, on a new connection, until that.
    pub header_timeout_ms: u64,
    /// Milliseconds a connection is kept open between an answer and the next request.
    pub keep_alive_timeout_ms: u64,
    /// Milliseconds a client may pause while it sends a body.
    pub body_idle_timeout_ms: u64,
    /// Milliseconds a gRPC stream may pause between two messages.
    pub stream_idle_timeout_ms: u64,
    /// Milliseconds from the end of the headers to the answer.
    pub total_timeout_ms: u64,
    /// Milliseconds a client may take none of an answer before its connection is closed.
    pub write_timeout_ms: u64,
    /// Milliseconds from SIGTERM to the end of the process; requests in flight have until then.
    pub drain_timeout_ms: u64,
    /// Milliseconds after SIGTERM in which health checks fail and everything else goes on; see
    /// [`ServerSettings::drain_delay`].
    pub drain_delay_ms: Option<u64>,
}

/// How long health checks fail before a server stops, where the settings do not say: as long as common load balancers
/// take to look again and believe it.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

impl ServerSettings {
    /// How long a server that was told to stop takes new connections while its health checks fail. By default there is no
    /// delay on loopback, where no balancer looks, and half of the drain's time at most is spent on it.
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
            // A tenth of all, so that no one caller takes them; many times what a client or an office behind one
            // address opens.
            max_connections_per_address: 1024,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            max_in_flight: 512,
            header_timeout_ms: 15_000,
            // Longer than common balancers keep a connection they do not use (60 s), so that they close it and never send
            // on one that this side is closing.
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

/// `[tls]`: without a certificate the server speaks plain HTTP. Files are relative to the policy file's folder, and are
/// read again when they change.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate and those between it and its authority, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub private_key: Option<PathBuf>,
    /// The authorities that sign clients' certificates, in PEM; without it none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have one; they must unless it says otherwise.
    pub client_certificates: Option<ClientCertificates>,
    /// Seconds for which browsers are told to come over TLS only (RFC 6797).
    pub hsts_max_age_s: Option<u64>,
    /// Days before its end from which the certificate is warned about.
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

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They may.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// Ten years: beyond it a number is a slip.
const MAX_HSTS_S: u64 = 315_360_000;

/// No public certificate is good for longer.
const MAX_WARN_DAYS: u32 = 398;

impl TlsSettings {
    /// Whether clients show a certificate, where there is an authority for them.
    pub fn client_certificates(&self) -> ClientCertificates {
        self.client_certificates
            .unwrap_or(ClientCertificates::Required)
    }

    /// What is wrong with the settings: the name of each, and why.
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
                "needs tls.certificate, the file it is the key of",
            ),
            _ => {}
        }
        const NO_TLS: &str = "needs tls.certificate; the server speaks no TLS without one";
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

/// `[audit]`: one JSON line for each request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// The file, relative to the state directory; none, no log.
    pub path: Option<PathBuf>,
    /// Bytes after which a new file is begun.
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

/// A few lines; less would be renaming for every one.
const MIN_AUDIT_BYTES: u64 = 4096;

/// Each is renamed at every rotation.
const MAX_AUDIT_FILES: u32 = 1000;

impl AuditSettings {
    /// What is wrong with the settings: the name of each, and why.
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
