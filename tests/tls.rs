//! TLS, over real sockets: the protocols, the certificate in use when its files change, the accepted client
//! certificates, and the warnings before one expires.

use crate::common;

use common::hyper_client::{self, runtime};
use common::{Options, Server, connect, read_to_end, root};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Every caller is admitted.
const OPEN: &str = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";
const HOST: &str = "server.example";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
struct Pair {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn issue(authority: &Authority, name: SanType, days: u64) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names.push(name);
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 3_600)).into();
    let certificate = params.signed_by(&key, authority).unwrap();
    Pair {
        pem: certificate.pem(),
        certificate: certificate.der().clone(),
        key,
    }
}

fn for_server(authority: &Authority, days: u64) -> Pair {
    issue(authority, SanType::DnsName(HOST.try_into().unwrap()), days)
}

fn put(folder: &Path, pair: &Pair) {
    std::fs::write(folder.join("cert.pem"), &pair.pem).unwrap();
    std::fs::write(folder.join("key.pem"), pair.key.serialize_pem()).unwrap();
}

/// A server with a certificate of the authority, and the folder of its files.
fn server(
    authority: &Authority,
    days: u64,
    tls: &str,
    policy: &str,
) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &for_server(authority, days));
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tls = tls.replace("ca.pem", &at("ca.pem"));
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let open = if policy.contains("[auth") { "" } else { OPEN };
    let server = Server::start_with(Options {
        policy_text: Some(format!(
            "{open}[tls]\ncertificate = {:?}\nprivate_key = {:?}\n{tls}\n{policy}",
            at("cert.pem"),
            at("key.pem")
        )),
        ..Options::default()
    });
    (server, folder)
}

/// The trusted authority, the certificate and the protocols of a client.
fn client(authority: &Authority, shown: Option<&Pair>, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(pair) => {
            let key = PrivateKeyDer::try_from(pair.key.serialize_der()).unwrap();
            let chain = vec![pair.certificate.clone()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn secure(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    connector
        .connect(ServerName::try_from(HOST).unwrap(), stream)
        .await
}

type HyperResponse = hyper::Response<hyper::body::Incoming>;

/// Sends one request on its own connection, with the negotiated protocol.
async fn ask(
    connector: &TlsConnector,
    address: SocketAddr,
    path: &str,
) -> Result<HyperResponse, String> {
    let stream = secure(connector, address)
        .await
        .map_err(|e| e.to_string())?;
    let request = hyper::Request::get(format!("https://{HOST}{path}"));
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let mut sender = hyper_client::http2(stream)
            .await
            .map_err(|e| e.to_string())?;
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        return sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string());
    }
    let mut sender = hyper_client::http1(stream)
        .await
        .map_err(|e| e.to_string())?;
    let request = request.header("host", HOST).body(Empty::<Bytes>::new());
    sender
        .send_request(request.unwrap())
        .await
        .map_err(|e| e.to_string())
}

/// The certificate in use now.
async fn serving(connector: &TlsConnector, address: SocketAddr) -> CertificateDer<'static> {
    let stream = secure(connector, address).await.unwrap();
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].clone()
}

async fn eventually_serves(connector: &TlsConnector, address: SocketAddr, pair: &Pair) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while serving(connector, address).await != pair.certificate {
        assert!(
            Instant::now() < deadline,
            "the new certificate never served"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn both_protocols_are_spoken_over_tls_and_strict_transport_security_is_told() {
    let authority = authority();
    let (server, _folder) = server(&authority, 300, "hsts_max_age_s = 63072000", "");
    runtime().block_on(async {
        for (offered, version) in [
            (&["h2", "http/1.1"][..], hyper::Version::HTTP_2),
            (&["http/1.1"], hyper::Version::HTTP_11),
            (&["h2"], hyper::Version::HTTP_2),
            (&[], hyper::Version::HTTP_11),
        ] {
            let connector = client(&authority, None, offered);
            for (path, status) in [("/healthz", 200), ("/nowhere", 404)] {
                let answer = ask(&connector, server.address, path).await.unwrap();
                assert_eq!(answer.version(), version, "{offered:?}");
                assert_eq!(answer.status(), status);
                let told = &answer.headers()["strict-transport-security"];
                assert_eq!(told, "max-age=63072000");
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                assert!(!body.is_empty());
            }
        }
        // Without a common protocol there is no connection. The server never uses a protocol that was not offered.
        let other = client(&authority, None, &["spdy/3"]);
        assert!(secure(&other, server.address).await.is_err());
    });
    let plain = Server::start_with(Options {
        policy: Some(OPEN),
        ..Options::default()
    });
    let answer = plain.get("/healthz");
    assert_eq!(answer.header("strict-transport-security"), None);
}

#[test]
fn plain_http_on_the_tls_port_is_told_so_and_noise_is_closed() {
    let authority = authority();
    let policy = "[server]\nheader_timeout_ms = 500\nmax_connections = 4\n";
    let (server, _folder) = server(&authority, 300, "", policy);
    let mut stream = connect(server.address);
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("https://") && answer.contains("connection: close"));
    for begun in [
        &b""[..],
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00\x00\x00",
        b"\x80\x2e\x01",
    ] {
        let mut stream = connect(server.address);
        stream.write_all(begun).unwrap();
        let answer = read_to_end(&mut stream);
        assert!(!answer.contains("HTTP"), "{begun:?} {answer}");
    }
    // Unfinished handshakes count as connections until their time is over.
    let held: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(server.address);
            stream.write_all(b"\x16\x03\x01").unwrap();
            stream
        })
        .collect();
    runtime().block_on(async {
        let connector = client(&authority, None, &[]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while ask(&connector, server.address, "/healthz").await.is_err() {
            assert!(Instant::now() < deadline, "nobody was let go");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    drop(held);
}

#[test]
fn a_new_pair_serves_new_connections_and_a_broken_one_changes_nothing() {
    let authority = authority();
    let (server, folder) = server(&authority, 300, "", "");
    runtime().block_on(async {
        let connector = client(&authority, None, &["http/1.1"]);
        let first = serving(&connector, server.address).await;
        let stream = secure(&connector, server.address).await.unwrap();
        let mut sender = hyper_client::http1::<_, Empty<Bytes>>(stream)
            .await
            .unwrap();

        let second = for_server(&authority, 200);
        put(folder.path(), &second);
        eventually_serves(&connector, server.address, &second).await;
        assert_ne!(first, second.certificate);
        // An open connection stays open.
        let request = hyper::Request::get("/healthz").header("host", HOST);
        let request = request.body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

        let third = for_server(&authority, 100);
        for (name, text, words) in [
            ("cert.pem", Some(third.pem.clone()), "is not the key of"),
            (
                "cert.pem",
                Some("half a cert".to_owned()),
                "holds no certificate",
            ),
            ("cert.pem", None, "cannot be read"),
        ] {
            match text {
                Some(text) => std::fs::write(folder.path().join(name), text).unwrap(),
                None => std::fs::remove_file(folder.path().join(name)).unwrap(),
            }
            server.logged(words);
            assert_eq!(
                serving(&connector, server.address).await,
                second.certificate
            );
        }
        put(folder.path(), &third);
        eventually_serves(&connector, server.address, &third).await;
    });
    let log = server.log.lock().unwrap();
    let told = log.iter().filter(|l| l.contains("stays in use")).count();
    assert_eq!(told, 3, "each once: {log:#?}");
}

#[test]
fn clients_show_a_certificate_of_the_authority_where_they_must() {
    let (ours, theirs) = (authority(), authority());
    let name = || SanType::URI("spiffe://example/service".try_into().unwrap());
    let good = issue(&ours, name(), 10);
    let stranger = issue(&theirs, name(), 10);
    let mut expired = CertificateParams::new(Vec::<String>::new()).unwrap();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let expired = expired.signed_by(&key, &ours).unwrap();
    let expired = Pair {
        pem: expired.pem(),
        certificate: expired.der().clone(),
        key,
    };
    for (setting, without) in [
        ("", false),
        ("client_certificates = \"required\"", false),
        ("client_certificates = \"optional\"", true),
    ] {
        let tls = format!("client_ca = \"ca.pem\"\n{setting}");
        let (server, _folder) = server(&ours, 300, &tls, "");
        runtime().block_on(async {
            for (what, shown, let_in) in [
                ("none", None, without),
                ("a good one", Some(&good), true),
                ("another authority's", Some(&stranger), false),
                ("an expired one", Some(&expired), false),
            ] {
                for protocol in ["h2", "http/1.1"] {
                    let connector = client(&ours, shown, &[protocol]);
                    let answer = ask(&connector, server.address, "/healthz").await;
                    let status = answer.map(|answer| answer.status().as_u16());
                    assert_eq!(status.is_ok(), let_in, "{setting} {what} {status:?}");
                    assert!(status.is_err() || status == Ok(200));
                }
            }
        });
    }
}

#[test]
fn a_certificate_makes_the_caller_it_is_named_for_and_ready_tells_when_the_server_s_ends() {
    let authority = authority();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let known = issue(&authority, uri("spiffe://example/worker"), 10);
    let unknown = issue(&authority, uri("spiffe://example/other"), 10);
    let tls = "client_ca = \"ca.pem\"\nclient_certificates = \"optional\"";
    let policy = "[auth.tiers.free]\n[[auth.certificates]]\nname = \"uri:spiffe://example/worker\"\n\
                  tenant = \"acme\"\ntier = \"free\"\nscopes = [\"models\", \"ready\"]\n";
    let (server, _folder) = server(&authority, 20, tls, policy);
    runtime().block_on(async {
        for (shown, path, expected) in [
            (None, "/v1/models", 401),
            (Some(&unknown), "/v1/models", 401),
            (Some(&known), "/v1/models", 200),
            (Some(&known), "/v1/usage", 403),
        ] {
            let connector = client(&authority, shown, &["http/1.1"]);
            let answer = ask(&connector, server.address, path).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
        }
        let body = async |shown| {
            let connector = client(&authority, shown, &["http/1.1"]);
            let answer = ask(&connector, server.address, "/ready").await.unwrap();
            let bytes = http_body_util::BodyExt::collect(answer.into_body())
                .await
                .unwrap()
                .to_bytes();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let told = body(Some(&known)).await;
        assert_eq!(told["server"]["tls"]["days_left"], 20, "{told}");
        assert!(told["server"]["tls"]["expires"].is_string() && told["models"].is_array());
        assert_eq!(
            body(None).await.as_object().unwrap().len(),
            1,
            "strangers hear only whether"
        );
    });
}

#[test]
fn a_certificate_that_is_about_to_expire_is_warned_about_and_one_that_has_is_an_error() {
    let authority = authority();
    let (soon, folder) = server(&authority, 10, "", "");
    let line = soon.logged("for 10 more days");
    assert!(line.contains("WARN"), "{line}");
    // A longer valid one is loaded without a warning.
    put(folder.path(), &for_server(&authority, 300));
    soon.logged("the new certificate serves");

    let folder = tempfile::tempdir().unwrap();
    let mut old = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let old = old.self_signed(&key).unwrap();
    std::fs::write(folder.path().join("cert.pem"), old.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let text = format!(
        "{OPEN}[tls]\ncertificate = {:?}\nprivate_key = {:?}\n",
        folder.path().join("cert.pem").to_str().unwrap(),
        folder.path().join("key.pem").to_str().unwrap()
    );
    let late = Server::start_with(Options {
        policy_text: Some(text),
        ..Options::default()
    });
    let line = late.logged("expired at 2020-01-01T00:00:00Z");
    assert!(line.contains("ERROR"), "{line}");
}

#[test]
fn check_and_up_name_the_file_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("penstock.toml");
    // Names are relative to the policy's folder.
    let text = format!("{OPEN}[tls]\ncertificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n");
    std::fs::write(&policy, text).unwrap();
    let authority = authority();
    let (one, other) = (for_server(&authority, 300), for_server(&authority, 300));
    put(folder.path(), &one);
    std::fs::write(folder.path().join("key.pem"), other.key.serialize_pem()).unwrap();
    for command in ["check", "up"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_penstock"))
            .arg(command)
            .arg("--app")
            .arg(root().join("spin.toml"))
            .arg("--models")
            .arg(folder.path())
            .arg("--policy")
            .arg(&policy)
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .env_remove("PENSTOCK_ONNXRUNTIME")
            .env_remove("PENSTOCK_OPENVINO")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{command}");
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8_lossy(&all);
        let file = folder.path().join("key.pem").display().to_string();
        assert!(
            all.contains(&file) && all.contains("is not the key of"),
            "{all}"
        );
        assert!(!all.contains("PRIVATE KEY"), "{all}");
    }
}
