//! Decides the certificate of the server for TLS, and the client certificates that it accepts.
//!
//! The server looks at the files every second. It loads a change when two looks agree, so that it never reads a file
//! that is being written, and when certificate and key belong together. Until then the previous certificate stays in
//! use.

use crate::settings::{ClientCertificates, TlsSettings};
use penstock_app::Finding;
use penstock_core::clock::rfc3339;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A chain with its intermediates has a few thousand bytes, a bundle of all public authorities a few hundred thousand.
const MAX_FILE_BYTES: u64 = 1 << 20;
const DAY_S: i64 = 86_400;
/// Most names of one client certificate. More names, or longer ones, are ignored. Names are compared with the
/// operator's settings.
const MAX_NAMES: usize = 16;
const MAX_NAME_BYTES: usize = 256;

/// The protocols over TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// The name of HTTP/2 in a handshake.
pub const HTTP2: &[u8] = b"h2";

/// The paths of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Paths {
    certificate: PathBuf,
    private_key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Paths {
    /// The paths that the settings name, beside the policy. `None` without TLS.
    fn of(settings: &TlsSettings, policy: &Path) -> Option<Self> {
        let folder = policy.parent().unwrap_or(Path::new(""));
        let (Some(certificate), Some(private_key)) = (&settings.certificate, &settings.private_key)
        else {
            return None;
        };
        Some(Self {
            certificate: folder.join(certificate),
            private_key: folder.join(private_key),
            client_ca: settings.client_ca.as_ref().map(|ca| folder.join(ca)),
        })
    }
}

/// A problem of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileFault {
    file: PathBuf,
    message: String,
    remedy: &'static str,
}

impl std::fmt::Display for FileFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}; {}",
            self.file.display(),
            self.message,
            self.remedy
        )
    }
}

/// The files as they were read.
struct Contents {
    certificate: Vec<u8>,
    private_key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(paths: &Paths) -> Result<Self, FileFault> {
        Ok(Self {
            certificate: read(&paths.certificate)?,
            private_key: read(&paths.private_key)?,
            client_ca: paths.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// A digest of the files to compare with later. A private key is not kept for comparing.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let ca = self.client_ca.as_deref().unwrap_or_default();
        for part in [&self.certificate[..], &self.private_key, ca] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn read(file: &Path) -> Result<Vec<u8>, FileFault> {
    let fault = |message: String, remedy| FileFault {
        file: file.to_owned(),
        message,
        remedy,
    };
    let size = std::fs::metadata(file).map(|found| found.len());
    match size {
        Ok(bytes) if bytes > MAX_FILE_BYTES => Err(fault(
            format!("has {bytes} bytes; at most {MAX_FILE_BYTES} are read"),
            "name the PEM file",
        )),
        _ => std::fs::read(file).map_err(|e| {
            fault(
                format!("cannot be read: {e}"),
                "put the file there, readable for the server, or correct its name in [tls]",
            )
        }),
    }
}

/// The validity of a certificate, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from_s: i64,
    until_s: i64,
}

/// The configuration that accepts connections.
struct Loaded {
    config: Arc<ServerConfig>,
    validity: Validity,
}

fn load(
    paths: &Paths,
    contents: &Contents,
    clients: ClientCertificates,
) -> Result<Loaded, FileFault> {
    const PEM: &str = "use the PEM format, which starts with `-----BEGIN …-----`";
    let fault = |file: &Path, message: String, remedy| FileFault {
        file: file.to_owned(),
        message,
        remedy,
    };
    let chain = certificates(&contents.certificate)
        .map_err(|message| fault(&paths.certificate, message, PEM))?;
    let validity = X509Certificate::from_der(&chain[0])
        .map(|(_, certificate)| Validity {
            from_s: certificate.validity().not_before.timestamp(),
            until_s: certificate.validity().not_after.timestamp(),
        })
        .map_err(|e| {
            let message = format!("the first certificate cannot be read: {e}");
            fault(&paths.certificate, message, PEM)
        })?;
    let private_key = PrivateKeyDer::from_pem_slice(&contents.private_key).map_err(|e| {
        let message = format!("holds no private key that can be read: {e}");
        fault(&paths.private_key, message, PEM)
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(&paths.certificate, e.to_string(), ""))?;
    let builder = match (&paths.client_ca, &contents.client_ca) {
        (Some(file), Some(pem)) => {
            const ROOTS: &str =
                "name the PEM file of the authorities that sign clients' certificates";
            let mut roots = RootCertStore::empty();
            for authority in certificates(pem).map_err(|message| fault(file, message, PEM))? {
                let added = roots.add(authority);
                added.map_err(|e| fault(file, format!("holds no authority: {e}"), ROOTS))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match clients {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build();
            builder
                .with_client_cert_verifier(verifier.map_err(|e| fault(file, e.to_string(), ROOTS))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private_key).map_err(|e| {
        fault(
            &paths.private_key,
            format!("is not the key of {}: {e}", paths.certificate.display()),
            "install a certificate and its own key",
        )
    })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if contents.client_ca.is_some() {
        // A resumed session would admit a certificate that has expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded {
        config: Arc::new(config),
        validity,
    })
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate".to_owned()),
        Ok(found) => Ok(found),
        Err(e) => Err(format!("cannot be read as certificates: {e}")),
    }
}

/// The result of one look at the files: their digest, or the reason why they cannot be read.
type Look = Result<[u8; 32], String>;

/// The action after two looks at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Keep the present state: the files serve already, or were tried and do not work.
    Keep,
    /// The files are new, and may be incomplete.
    Wait,
    /// The files are new, and two looks agree.
    Take,
}

fn next(serving: &Look, failed: Option<&Look>, before: &Look, now: &Look) -> Next {
    if now == serving || Some(now) == failed {
        Next::Keep
    } else if now != before {
        Next::Wait
    } else {
        Next::Take
    }
}

/// Whole days that are left. Negative if the time has passed.
fn days_left(until_s: i64, now_s: i64) -> i64 {
    until_s.saturating_sub(now_s).div_euclid(DAY_S)
}

/// A notice about a certificate's validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    NotYet,
    Soon { days: i64 },
    Expired,
}

fn notice(validity: Validity, now_s: i64, warn_days: u32) -> Option<Notice> {
    let days = days_left(validity.until_s, now_s);
    if now_s < validity.from_s {
        Some(Notice::NotYet)
    } else if now_s > validity.until_s {
        Some(Notice::Expired)
    } else {
        (days < i64::from(warn_days)).then_some(Notice::Soon { days })
    }
}

impl Notice {
    fn text(self, validity: Validity) -> String {
        match self {
            Notice::NotYet => format!(
                "the certificate becomes valid at {}; clients refuse it until then",
                timestamp(validity.from_s)
            ),
            Notice::Soon { days } => format!(
                "the certificate is valid for {days} more days, until {}",
                timestamp(validity.until_s)
            ),
            Notice::Expired => format!(
                "the certificate expired at {}; clients refuse it",
                timestamp(validity.until_s)
            ),
        }
    }
}

const RENEW: &str = "install a new certificate and key; the running server loads them";

/// Formats a time of a certificate as in RFC 3339.
fn timestamp(unix_s: i64) -> String {
    let unix_s = u64::try_from(unix_s).unwrap_or(0);
    rfc3339(unix_s.saturating_mul(1000)).replace(".000Z", "Z")
}

fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs() as i64)
}

/// Returns the faults of the files, for `penstock check`.
pub fn findings(settings: &TlsSettings, policy: &Path) -> Vec<Finding> {
    let Some(paths) = Paths::of(settings, policy) else {
        return Vec::new();
    };
    let loaded = Contents::read(&paths)
        .and_then(|contents| load(&paths, &contents, settings.client_certificates()));
    match loaded {
        Err(fault) => vec![Finding::about(&fault.file, fault.message, fault.remedy)],
        Ok(Loaded { validity, .. }) => {
            let Some(notice) = notice(validity, unix_s(), settings.warn_days) else {
                return Vec::new();
            };
            let finding = match notice {
                Notice::Expired => Finding::error,
                Notice::NotYet | Notice::Soon { .. } => Finding::warning,
            };
            vec![finding(
                paths.certificate,
                None,
                notice.text(validity),
                RENEW.to_owned(),
            )]
        }
    }
}

/// The TLS state of the server.
pub struct Tls {
    paths: Paths,
    clients: ClientCertificates,
    warn_days: u32,
    hsts_max_age_s: Option<u64>,
    serving: RwLock<Loaded>,
    digest: [u8; 32],
}

impl Tls {
    /// Reads the files that the settings name, beside the policy. Returns `None` if they name none.
    pub fn open(settings: &TlsSettings, policy: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(paths) = Paths::of(settings, policy) else {
            return Ok(None);
        };
        let clients = settings.client_certificates();
        let read = Contents::read(&paths);
        let opened = read.and_then(|read| Ok((load(&paths, &read, clients)?, read.digest())));
        let (loaded, digest) =
            opened.map_err(|fault| anyhow::anyhow!("cannot speak TLS: {fault}"))?;
        Ok(Some(Arc::new(Self {
            paths,
            clients,
            warn_days: settings.warn_days,
            hsts_max_age_s: settings.hsts_max_age_s,
            serving: RwLock::new(loaded),
            digest,
        })))
    }

    fn serving<T>(&self, of: impl FnOnce(&Loaded) -> T) -> T {
        of(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The acceptor for the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.serving(|loaded| loaded.config.clone()))
    }

    /// Seconds for which browsers must use TLS only.
    pub(crate) fn hsts_max_age_s(&self) -> Option<u64> {
        self.hsts_max_age_s
    }

    /// The end of the certificate's validity, for readiness checks.
    pub(crate) fn told(&self) -> serde_json::Value {
        let until_s = self.serving(|loaded| loaded.validity.until_s);
        json!({"expires": timestamp(until_s), "days_left": days_left(until_s, unix_s())})
    }

    fn note(&self) {
        let validity = self.serving(|loaded| loaded.validity);
        let Some(notice) = notice(validity, unix_s(), self.warn_days) else {
            return;
        };
        let (file, text) = (self.paths.certificate.display(), notice.text(validity));
        match notice {
            Notice::Expired => tracing::error!("{file}: {text}; {RENEW}"),
            _ => tracing::warn!("{file}: {text}; {RENEW}"),
        }
    }

    /// Follows the files, and warns once a day when the certificate is about to expire. Never ends.
    pub async fn follow(self: Arc<Self>) {
        let serving_at_start: Look = Ok(self.digest);
        let mut serving = serving_at_start.clone();
        let mut before = serving_at_start;
        let mut failed: Option<Look> = None;
        let mut noted_day = unix_s().div_euclid(DAY_S);
        self.note();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let today = unix_s().div_euclid(DAY_S);
            if today != noted_day {
                noted_day = today;
                self.note();
            }
            let paths = self.paths.clone();
            // On a network file system a look may take long.
            let read = tokio::task::spawn_blocking(move || Contents::read(&paths)).await;
            let Ok(read) = read else { continue };
            let now: Look = match &read {
                Ok(contents) => Ok(contents.digest()),
                Err(fault) => Err(fault.to_string()),
            };
            match next(&serving, failed.as_ref(), &before, &now) {
                Next::Keep if now == serving => failed = None,
                Next::Keep | Next::Wait => {}
                Next::Take => {
                    let loaded =
                        read.and_then(|contents| load(&self.paths, &contents, self.clients));
                    match loaded {
                        Ok(loaded) => {
                            let until = timestamp(loaded.validity.until_s);
                            *self.serving.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                            serving = now.clone();
                            failed = None;
                            tracing::info!(
                                "{}: the new certificate serves, until {until}",
                                self.paths.certificate.display()
                            );
                            self.note();
                        }
                        Err(fault) => {
                            failed = Some(now.clone());
                            tracing::error!("the previous certificate stays in use: {fault}");
                        }
                    }
                }
            }
            before = now;
        }
    }
}

/// The facts of a verified client certificate, as components get them.
pub(crate) fn certificate(der: &[u8]) -> serde_json::Value {
    let digest = Sha256::digest(der);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"sha256": sha256, "names": names(der)})
}

/// Returns the names in its subjectAltName that may identify callers.
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    let plain = |name: &&str| {
        let printable = name.bytes().all(|b| b.is_ascii_graphic());
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && printable
    };
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(("dns", *name)),
        GeneralName::URI(name) => Some(("uri", *name)),
        GeneralName::RFC822Name(name) => Some(("email", *name)),
        _ => None,
    });
    names
        .filter(|(_, name)| plain(name))
        .take(MAX_NAMES)
        .map(|(kind, name)| format!("{kind}:{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    const NOON_S: i64 = 1_800_000_000;

    fn look(n: u8) -> Look {
        Ok([n; 32])
    }

    #[test]
    fn a_change_is_taken_when_two_looks_agree_and_tried_once() {
        let gone: Look = Err("not there".to_owned());
        for (serving, failed, before, now, expected) in [
            (look(1), None, look(1), look(1), Next::Keep),
            (look(1), None, look(1), look(2), Next::Wait),
            (look(1), None, look(2), look(3), Next::Wait),
            (look(1), None, look(2), look(2), Next::Take),
            (look(1), Some(look(2)), look(2), look(2), Next::Keep),
            (look(1), Some(look(2)), look(2), look(3), Next::Wait),
            (look(1), Some(look(2)), look(3), look(3), Next::Take),
            (look(1), Some(look(2)), look(2), look(1), Next::Keep),
            (look(1), None, look(1), gone.clone(), Next::Wait),
            (look(1), None, gone.clone(), gone.clone(), Next::Take),
            (look(1), Some(gone.clone()), gone.clone(), gone, Next::Keep),
        ] {
            let decided = next(&serving, failed.as_ref(), &before, &now);
            assert_eq!(
                decided, expected,
                "{serving:?} {failed:?} {before:?} {now:?}"
            );
        }
    }

    #[test]
    fn a_certificate_is_warned_about_from_the_days_before_and_is_an_error_after() {
        let validity = Validity {
            from_s: NOON_S,
            until_s: NOON_S + 100 * DAY_S,
        };
        for (now_s, days, expected) in [
            (NOON_S - 1, 100, Some(Notice::NotYet)),
            (NOON_S, 100, None),
            (NOON_S + 70 * DAY_S, 30, None),
            (NOON_S + 70 * DAY_S + 1, 29, Some(Notice::Soon { days: 29 })),
            (NOON_S + 100 * DAY_S - 1, 0, Some(Notice::Soon { days: 0 })),
            (NOON_S + 100 * DAY_S, 0, Some(Notice::Soon { days: 0 })),
            (NOON_S + 100 * DAY_S + 1, -1, Some(Notice::Expired)),
            (NOON_S + 102 * DAY_S, -2, Some(Notice::Expired)),
        ] {
            assert_eq!(notice(validity, now_s, 30), expected, "{now_s}");
            assert_eq!(days_left(validity.until_s, now_s), days, "{now_s}");
        }
        assert_eq!(timestamp(1_798_761_600), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn names_of_a_client_are_those_of_its_alternative_names() {
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let long = format!("spiffe://x/{}", "a".repeat(300));
        for name in ["spiffe://example/service", &long] {
            params
                .subject_alt_names
                .push(SanType::URI(name.try_into().unwrap()));
        }
        params
            .subject_alt_names
            .push(SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        params
            .subject_alt_names
            .push(SanType::IpAddress("192.0.2.1".parse().unwrap()));
        let signed = params.self_signed(&own).unwrap();
        assert_eq!(
            names(signed.der()),
            [
                "dns:a.example",
                "uri:spiffe://example/service",
                "email:a@b.example"
            ]
        );
        let told = certificate(signed.der());
        assert_eq!(told["sha256"].as_str().unwrap().len(), 64);
        assert!(names(b"no certificate").is_empty());
    }

    #[test]
    fn each_wrong_file_is_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("penstock.toml");
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = || CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let good = params().self_signed(&one).unwrap().pem();
        let mut old = params();
        old.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let old = old.self_signed(&one).unwrap().pem();
        let settings = TlsSettings {
            certificate: Some("cert.pem".into()),
            private_key: Some("key.pem".into()),
            ..TlsSettings::default()
        };
        let (one, other) = (one.serialize_pem(), other.serialize_pem());
        for (certificate, key, file, words) in [
            (None, Some(&one), "cert.pem", "cannot be read"),
            (Some(&good), None, "key.pem", "cannot be read"),
            (Some(&one), Some(&one), "cert.pem", "holds no certificate"),
            (Some(&good), Some(&good), "key.pem", "no private key"),
            (Some(&good), Some(&other), "key.pem", "is not the key of"),
            (Some(&old), Some(&one), "cert.pem", "expired at 2020-01-01"),
        ] {
            for (name, text) in [("cert.pem", certificate), ("key.pem", key)] {
                let path = folder.path().join(name);
                match text {
                    Some(text) => std::fs::write(path, text).unwrap(),
                    None => drop(std::fs::remove_file(path)),
                }
            }
            let found = findings(&settings, &policy);
            assert_eq!(found.len(), 1, "{words} {found:?}");
            assert!(found[0].file.ends_with(file), "{found:?}");
            assert!(found[0].message.contains(words), "{found:?}");
            let opened = Tls::open(&settings, &policy);
            let expired = words.starts_with("expired");
            assert_eq!(
                opened.is_ok(),
                expired,
                "an expired one serves, and says so"
            );
        }
        assert!(findings(&TlsSettings::default(), &policy).is_empty());
    }
}
