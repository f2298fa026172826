//! Pulls over TLS: by an authority that was named, and never from https to http.

use crate::common;

use common::{ModelFolder, bytes, source};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server with a certificate of its own for 127.0.0.1: `/model.onnx` is a file, anything else leads to plain http.
fn start(body: Vec<u8>) -> (u16, String) {
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let pem = key.cert.pem();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = vec![0; 4096];
                let count = stream.read(&mut head).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&head[..count]).into_owned();
                let answer = if asked.starts_with("GET /model.onnx ") {
                    let mut answer = format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
                    answer.extend(&body);
                    answer
                } else {
                    b"HTTP/1.1 302 X\r\nConnection: close\r\nLocation: http://127.0.0.1:1/model.onnx\r\nContent-Length: 0\r\n\r\n".to_vec()
                };
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
    });
    (port, pem)
}

#[test]
fn a_server_is_trusted_by_a_named_authority_and_may_not_lead_to_plain_http() {
    let body = bytes(40_000, 1);
    let (port, pem) = start(body.clone());
    let mut place = ModelFolder::new();
    place.settings.timeout_ms = 2_000;
    let from = source(&format!("https://127.0.0.1:{port}/model.onnx"));
    let said = place.try_pull(&from).unwrap_err();
    assert!(
        said.contains("TLS failed") && said.contains("ca_file"),
        "{said}"
    );
    assert_eq!(place.all(), Vec::<String>::new());
    std::fs::write(place.folder.path().join("ca.pem"), pem).unwrap();
    place.settings.ca_file = Some("ca.pem".into());
    place.pull(&from);
    assert_eq!(place.read("m/1/model.onnx"), body);
    let said = place
        .try_pull(&source(&format!("https://127.0.0.1:{port}/elsewhere")))
        .unwrap_err();
    assert!(said.contains("not https; it was not followed"), "{said}");
    place.settings.ca_file = Some("none.pem".into());
    let said = place.try_pull(&from).unwrap_err();
    assert!(said.contains("models.pull.ca_file"), "{said}");
    std::fs::write(place.folder.path().join("empty.pem"), "").unwrap();
    place.settings.ca_file = Some("empty.pem".into());
    assert!(
        place
            .try_pull(&from)
            .unwrap_err()
            .contains("no certificate"),
        "a file without one"
    );
}
