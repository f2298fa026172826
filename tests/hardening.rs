//! Attacks on a public server, over raw sockets: requests that two servers would read differently, floods of frames, and one
//! caller that takes all connections. Also the permitted content of answers, the audit log and the log.

use crate::common;

use common::{Options, Server, connect, exchange, hyper_client};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Every caller is admitted.
const OPEN: &str = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";
const PREDICT: &str = "/v1/models/identity:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;

fn server(policy: &str) -> Server {
    Server::start_with(Options {
        policy_text: Some(format!("{OPEN}{policy}")),
        ..Options::default()
    })
}

/// Counts the answers in the read text.
fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[test]
fn a_request_with_a_length_and_an_encoding_is_400_and_nothing_after_it_is_read() {
    let server = server("");
    let smuggled = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    let before = [
        String::new(),
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n\r\n\r\n".to_owned(),
    ];
    for framing in [
        "content-length: 6\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 6",
        "Transfer-Encoding: chunked\r\nx: y\r\nCONTENT-LENGTH: 6",
        "transfer-encoding: chunked\r\ncontent-length: nonsense",
    ] {
        for first in &before {
            let request = format!(
                "{first}POST {PREDICT} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n0\r\n\r\n{smuggled}"
            );
            let text = exchange(server.address, request.as_bytes());
            let expected = if first.is_empty() { 1 } else { 2 };
            assert_eq!(answers(&text), expected, "{request} {text}");
            let last = &text[text.rfind("HTTP/1.1 ").unwrap()..];
            assert!(last.starts_with("HTTP/1.1 400"), "{request} {last}");
            assert!(last.contains("connection: close"), "{last}");
            assert!(
                last.contains("malformed_request") && last.contains("Transfer-Encoding"),
                "{last}"
            );
        }
    }
}

#[test]
fn chunked_requests_keep_their_connection_where_they_are_read_along() {
    let server = server("");
    let chunked = format!(
        "POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{ONE_ITEM}\r\n0\r\n\r\n",
        ONE_ITEM.len()
    );
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let text = exchange(
        server.address,
        format!("{chunked}{chunked}{chunked}{last}").as_bytes(),
    );
    assert_eq!(text.matches("HTTP/1.1 200").count(), 4, "{text}");
    assert_eq!(text.matches("connection: close").count(), 1, "{text}");
}

#[test]
fn a_request_that_rfc_9112_calls_malformed_is_400_and_ends_the_connection() {
    let server = server("");
    let get = |headers: &str| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n");
    let post =
        |headers: &str| format!("POST {PREDICT} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{{}}");
    for (what, request) in [
        ("a folded header", get("x: y\r\n  z")),
        ("a NUL in a value", get("x: y\0z")),
        ("a NUL in a name", get("x\0y: z")),
        ("a bare CR in a value", get("x: y\rz")),
        ("a space before the colon", get("x : y")),
        ("a space before the name", get(" x: y")),
        ("a line without a colon", get("nonsense")),
        ("an empty name", get(": y")),
        (
            "two lengths that differ",
            post("content-length: 2\r\ncontent-length: 3"),
        ),
        (
            "a list of lengths that differ",
            post("content-length: 2, 3"),
        ),
        ("a signed length", post("content-length: +2")),
        (
            "a length beyond 64 bits",
            post("content-length: 99999999999999999999999"),
        ),
        (
            "an encoding that is not chunked at last",
            post("transfer-encoding: chunked, gzip"),
        ),
        ("an unknown encoding", post("transfer-encoding: identity")),
        (
            "an encoding in HTTP/1.0",
            format!(
                "POST {PREDICT} HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "a chunk size that is none",
            format!(
                "POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            ),
        ),
        (
            "a chunk longer than it says",
            format!(
                "POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n"
            ),
        ),
        (
            "a target with a space",
            "GET /health z HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        ),
        (
            "a version there is none of",
            "GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        ),
    ] {
        let next = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
        let text = exchange(server.address, format!("{request}{next}").as_bytes());
        assert!(answers(&text) <= 1, "{what}: {text}");
        // If a body breaks off, hyper closes and may not send the answer.
        let broke_off = what.contains("chunk ") && text.is_empty();
        assert!(
            text.starts_with("HTTP/1.1 400") || broke_off,
            "{what}: {text}"
        );
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_tolerated_form_is_read_in_one_way_only() {
    let server = server("");
    for (what, request) in [
        // RFC 9112 §2.2 lets a recipient accept a bare LF as the end of a line, and hyper does.
        (
            "bare line feeds",
            "GET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n".to_owned(),
        ),
        (
            "empty lines before a request",
            "\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "the same length twice",
            format!(
                "POST {PREDICT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {0}\r\ncontent-length: {0}\r\n\r\n{ONE_ITEM}",
                ONE_ITEM.len()
            ),
        ),
    ] {
        let text = exchange(server.address, request.as_bytes());
        assert!(text.starts_with("HTTP/1.1 200"), "{what}: {text}");
        assert_eq!(answers(&text), 1, "{what}: {text}");
    }
}

#[test]
fn floods_within_one_request_end_it() {
    let server = server("");
    let head = format!("POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let many = |line: &str, bytes: usize| line.repeat(bytes / line.len());
    let started = server.resident_kib();
    for (what, request) in [
        (
            "one chunk extension",
            format!("{head}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        ),
        (
            "many chunk extensions",
            format!(
                "{head}{}0\r\n\r\n",
                many("1;aaaaaaaaaaaaaaaa\r\nx\r\n", 1 << 20)
            ),
        ),
        (
            "many trailers",
            format!("{head}0\r\n{}\r\n", many("x: y\r\n", 1 << 20)),
        ),
        (
            "one trailer",
            format!("{head}0\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
        ),
        (
            "one header",
            format!("GET / HTTP/1.1\r\nhost: x\r\ny: {}", "y".repeat(4 << 20)),
        ),
        (
            "a target without end",
            format!("GET /{}", "y".repeat(4 << 20)),
        ),
        ("a method without end", "G".repeat(4 << 20)),
    ] {
        let text = exchange(server.address, request.as_bytes());
        let status = text.get(9..12).unwrap_or_default();
        assert!(
            text.is_empty() || ["400", "413", "414", "431"].contains(&status),
            "{what}: {text}"
        );
        assert!(answers(&text) <= 1, "{what}: {text}");
    }
    let grown = server.resident_kib().saturating_sub(started);
    assert!(grown < 64 << 10, "{grown} KiB");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn headers_beyond_their_limit_are_431_over_http2_too() {
    let server = server("");
    hyper_client::runtime().block_on(async {
        let mut sender = hyper_client::to(server.address).await;
        for (what, count, bytes, status) in [
            ("a few", 20, 10, 200),
            ("too many", 200, 10, 431),
            ("too large", 10, 4_000, 431),
        ] {
            let mut request = hyper::Request::get(format!("http://{}/v1/models", server.address));
            for n in 0..count {
                request = request.header(format!("h{n}"), "x".repeat(bytes));
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), status, "{what}");
            drop(response.into_body().collect().await);
        }
    });
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// GET (0x82) or POST (0x83), http, /, authority x.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'x'];

fn http2(server: &Server) -> TcpStream {
    let mut stream = connect(server.address);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    stream.write_all(&bytes).unwrap();
    stream
}

/// Reads frames until one has the kind, and returns it. Returns `None` if the connection ends without one.
fn until(stream: &mut TcpStream, kind: u8) -> Option<(u32, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).ok()?;
        if head[3] == kind {
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            return Some((id, payload));
        }
    }
}

/// The error code of a GOAWAY.
fn goaway(stream: &mut TcpStream) -> Option<u32> {
    let (_, payload) = until(stream, GOAWAY)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
}

const ENHANCE_YOUR_CALM: u32 = 0xb;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Streams of a client have odd numbers.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

#[test]
fn a_client_that_opens_streams_and_resets_them_at_once_is_told_to_calm_down() {
    let server = server("");
    let mut stream = http2(&server);
    let mut bytes = Vec::new();
    for id in streams(5_000) {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, GET));
        bytes.extend(frame(RST_STREAM, 0, id, &CANCEL));
    }
    // The server may have closed before all of it was sent.
    let _ = stream.write_all(&bytes);
    assert_eq!(goaway(&mut stream), Some(ENHANCE_YOUR_CALM));
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_client_whose_streams_must_be_reset_again_and_again_is_told_to_calm_down() {
    let server = server("");
    let mut stream = http2(&server);
    let mut bytes = Vec::new();
    for id in streams(5_000) {
        bytes.extend(frame(HEADERS, END_HEADERS, id, POST));
        // A window beyond 2^31-1 is an error of its stream (RFC 9113 §6.9.1).
        bytes.extend(frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff]));
    }
    let _ = stream.write_all(&bytes);
    assert_eq!(goaway(&mut stream), Some(ENHANCE_YOUR_CALM));
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn streams_beyond_the_cap_are_refused_and_the_others_served() {
    let server = server("");
    let mut stream = http2(&server);
    let (_, settings) = until(&mut stream, SETTINGS).expect("the server's settings");
    let settings: Vec<(u16, u32)> = settings
        .chunks(6)
        .map(|s| {
            let id = u16::from_be_bytes([s[0], s[1]]);
            (id, u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
        })
        .collect();
    // The server announces SETTINGS_MAX_CONCURRENT_STREAMS (3) and SETTINGS_MAX_HEADER_LIST_SIZE (6).
    assert!(settings.contains(&(3, 128)), "{settings:?}");
    assert!(settings.contains(&(6, 16_384)), "{settings:?}");
    let mut bytes = frame(SETTINGS, ACK, 0, &[]);
    for id in streams(129) {
        // Bodies that never come keep them open.
        bytes.extend(frame(HEADERS, END_HEADERS, id, POST));
    }
    stream.write_all(&bytes).unwrap();
    let (id, payload) = until(&mut stream, RST_STREAM).expect("one is refused");
    assert_eq!(id, 257);
    assert_eq!(
        u32::from_be_bytes(payload.try_into().unwrap()),
        REFUSED_STREAM
    );
}

#[test]
fn a_header_block_without_end_ends_its_connection_and_keeps_no_memory() {
    let server = server("");
    let started = server.resident_kib();
    let mut stream = http2(&server);
    let _ = stream.write_all(&frame(HEADERS, END_STREAM, 1, GET));
    // A literal header without indexing, and then never END_HEADERS (CVE-2024-27316).
    let header = [&[0u8, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let block = header.repeat(150);
    let mut refused = false;
    for _ in 0..4_000 {
        if stream
            .write_all(&frame(CONTINUATION, 0, 1, &block))
            .is_err()
        {
            refused = true;
            break;
        }
    }
    assert!(refused, "62 MB of headers were taken");
    let code = goaway(&mut stream);
    assert!(
        code.is_none_or(|code| [ENHANCE_YOUR_CALM, PROTOCOL_ERROR].contains(&code)),
        "{code:?}"
    );
    let grown = server.resident_kib().saturating_sub(started);
    assert!(grown < 32 << 10, "{grown} KiB");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_stopping_server_says_goodbye_twice_and_answers_what_was_on_its_way() {
    let mut server = server("[server]\ndrain_timeout_ms = 8000\n");
    let mut stream = http2(&server);
    until(&mut stream, SETTINGS).expect("the server's settings");
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    let stopping = std::thread::spawn(move || server.terminate());
    let (_, payload) = until(&mut stream, GOAWAY).expect("a first");
    let last = |payload: &[u8]| u32::from_be_bytes(payload[..4].try_into().unwrap());
    assert_eq!(last(&payload), (1 << 31) - 1);
    let (_, ping) = until(&mut stream, PING).expect("its round trip is measured");
    // It crossed the first one on its way.
    stream
        .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET))
        .unwrap();
    stream.write_all(&frame(PING, ACK, 0, &ping)).unwrap();
    let (mut goodbye, mut answered) = (None, false);
    while goodbye.is_none() || !answered {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            GOAWAY => goodbye = Some(last(&payload)),
            HEADERS => answered = true,
            _ => {}
        }
    }
    assert_eq!(goodbye, Some(1), "the last that is answered");
    assert_eq!(stopping.join().unwrap().0, Some(0));
}

#[test]
fn a_head_over_http2_that_does_not_come_to_its_end_ends_its_connection() {
    let server = server("[server]\nheader_timeout_ms = 500\n");
    let mut stream = http2(&server);
    until(&mut stream, SETTINGS).expect("the server's settings");
    stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &GET[..3]))
        .unwrap();
    let started = Instant::now();
    // Pings do not keep it.
    while started.elapsed() < Duration::from_secs(5) {
        if stream.write_all(&frame(PING, 0, 0, &[7; 8])[..5]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn floods_of_pings_and_settings_whose_answers_nobody_reads_stop_and_keep_no_memory() {
    let server = server("[server]\nwrite_timeout_ms = 1000\n");
    let started = server.resident_kib();
    for one in [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
    ] {
        let mut stream = http2(&server);
        let flood = one.repeat(10_000);
        // The server stops reading, because its answers are not read, or because of a limit.
        for _ in 0..400 {
            if stream.write_all(&flood).is_err() {
                break;
            }
        }
        let grown = server.resident_kib().saturating_sub(started);
        assert!(grown < 64 << 10, "{grown} KiB");
        assert_eq!(server.get("/healthz").status, 200);
    }
}

const ASK: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[test]
fn one_address_has_so_many_connections_and_trusted_proxies_have_more() {
    let capped = server("[server]\nmax_connections_per_address = 3\n");
    let held: Vec<TcpStream> = (0..3).map(|_| connect(capped.address)).collect();
    common::until("the address has its connections", || {
        let text = exchange(capped.address, ASK);
        let refused = text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1");
        assert!(
            !refused || text.contains("your address has 3 connections"),
            "{text}"
        );
        refused
    });
    drop(held);
    common::until("there is room again", || {
        exchange(capped.address, ASK).starts_with("HTTP/1.1 200")
    });

    let behind = server(
        "[server]\nmax_connections_per_address = 3\ntrusted_proxies = [\"127.0.0.0/8\", \"::1\"]\n",
    );
    let _held: Vec<TcpStream> = (0..6).map(|_| connect(behind.address)).collect();
    // The held connections are accepted before the next one, which sends a request and gets an answer.
    assert!(exchange(behind.address, ASK).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_client_is_whom_a_trusted_proxy_names_and_otherwise_the_peer() {
    let limit = "[[limits]]\nname = \"address\"\nper = [\"address\"]\nalgorithm = \"fixed-window\"\nlimit = 1\nwindow_s = 3600\n";
    let send = |server: &Server, name: &str, value: &str| {
        let headers = [("content-type", "application/json"), (name, value)];
        let answer = server.call("POST", PREDICT, &headers, Some(ONE_ITEM.as_bytes()));
        answer.status
    };
    for (settings, name, values) in [
        (
            "",
            "x-forwarded-for",
            [
                ("192.0.2.1", 200),
                ("192.0.2.2", 429),
                ("192.0.2.3, 127.0.0.1", 429),
            ],
        ),
        (
            "trusted_proxies = [\"127.0.0.1\"]\n",
            "x-forwarded-for",
            [
                ("192.0.2.1", 200),
                ("192.0.2.2", 200),
                ("192.0.2.9, 192.0.2.1, 127.0.0.1", 429),
            ],
        ),
        (
            "trusted_proxies = [\"127.0.0.1\"]\nforwarded_header = \"forwarded\"\n",
            "forwarded",
            [
                ("for=192.0.2.1", 200),
                ("for=\"192.0.2.2:80\";proto=https", 200),
                ("for=x, for=192.0.2.2", 429),
            ],
        ),
    ] {
        let server = server(&format!("[server]\n{settings}{limit}"));
        for (value, status) in values {
            assert_eq!(send(&server, name, value), status, "{settings} {value}");
        }
    }
}

#[test]
fn a_first_byte_alone_does_not_keep_its_connection_until_the_headers_are_late() {
    let server = server("[server]\nheader_timeout_ms = 600000\n");
    for start in ["P", "PR", "PRI"] {
        assert_eq!(exchange(server.address, start.as_bytes()), "", "{start}");
    }
    // A body that only arrives in pieces is accepted.
    let mut stream = connect(server.address);
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    assert!(until(&mut stream, 4).is_some(), "its settings are answered");
}

#[test]
fn a_padded_head_or_an_unknown_method_or_coding_is_refused_and_ends_the_connection() {
    let server = server("");
    let blanks = " ".repeat(60_000);
    let method = "M".repeat(200);
    for (request, status) in [
        (format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"), 400),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
                .into(),
            400,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\nx: {blanks}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            431,
        ),
        (
            format!(
                "GET http://{}/healthz HTTP/1.1\r\nhost: a\r\n\r\n",
                "a".repeat(20_000)
            ),
            414,
        ),
    ] {
        let answer = exchange(
            server.address,
            format!("{request}GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        );
        let line = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&line), "{}: {answer}", &request[..40]);
        if status != 414 {
            assert_eq!(answers(&answer), 1, "nothing behind it is read: {answer}");
        }
    }
}

#[test]
fn bodies_that_one_address_sends_slowly_do_not_take_everybodys_places() {
    // An eighth of the places, and at least eight: eight.
    let server = server(
        "[server]\nmax_in_flight = 16\nbody_idle_timeout_ms = 60000\ntotal_timeout_ms = 60000\n",
    );
    let begin = format!("POST {PREDICT} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{");
    let mut slow: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = connect(server.address);
            stream.write_all(begin.as_bytes()).unwrap();
            stream
        })
        .collect();
    // The others are refused, and then there are places again.
    let mut told = 0;
    for stream in &mut slow {
        stream
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 408");
            told += 1;
        }
    }
    assert_eq!(told, 8);
    let answer = server.call(
        "POST",
        PREDICT,
        &[("content-type", "application/json")],
        Some(ONE_ITEM.as_bytes()),
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn a_caller_through_a_trusted_proxy_is_never_taken_for_this_machine() {
    let server = Server::start_with(Options {
        policy: Some(
            "[auth.anonymous]\nscopes = [\"*\"]\n[server]\ntrusted_proxies = [\"127.0.0.1\"]\n",
        ),
        ..Options::default()
    });
    for headers in [
        vec![],
        vec![("x-forwarded-for", "127.0.0.1")],
        vec![("x-forwarded-for", "nonsense")],
        vec![("x-forwarded-for", "192.0.2.1")],
    ] {
        let answer = server.call("GET", "/v1/models", &headers, None);
        assert_eq!(answer.status, 401, "{headers:?}");
    }
}

#[test]
fn no_answer_says_what_software_gave_it() {
    let server = server("[server]\nmax_target_bytes = 200\n");
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "a".repeat(300)
    );
    for request in [
        std::str::from_utf8(ASK).unwrap(),
        "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "TRACE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "nonsense\r\n\r\n",
        &long,
    ] {
        let text = exchange(server.address, request.as_bytes()).to_lowercase();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(head.starts_with("http/1.1 "), "{text}");
        for word in [
            "\r\nserver:",
            "\r\nvia:",
            "powered-by",
            "hyper",
            env!("CARGO_PKG_VERSION"),
        ] {
            // The status line has the protocol's own version.
            let rest = &head["http/1.1 ".len()..];
            assert!(!rest.contains(word), "{word} in {head}");
        }
        assert!(!head.contains("\r\npenstock-"), "{head}");
    }
}

#[test]
fn headers_between_server_and_components_are_not_for_clients_to_send() {
    let server = server("");
    let forged = [
        ("content-type", "application/json"),
        (
            "penstock-connection",
            "00000000000000000000000000000000 {\"certificate\":{}}",
        ),
        ("penstock-audit", "{\"tenant\":\"forged\"}"),
    ];
    let answer = server.call("POST", PREDICT, &forged, Some(ONE_ITEM.as_bytes()));
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .headers
            .keys()
            .all(|name| !name.starts_with("penstock-"))
    );
}

#[test]
fn the_audit_log_says_who_asked_for_what_and_keeps_no_secrets() {
    for door in ["direct", "http"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut server = Server::start_with(Options {
            door: Some(door),
            policy_text: Some(format!(
                "{OPEN}[server]\nmax_target_bytes = 200\nmax_connections_per_address = 8\n[audit]\npath = {:?}\n",
                path.to_str().unwrap()
            )),
            ..Options::default()
        });
        server.ready();
        let headers = [
            ("content-type", "application/json"),
            ("x-request-id", "audited-1"),
            ("authorization", "Basic c2VjcmV0LXdvcmQ="),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        let target = format!("{PREDICT}?token=secret-word");
        let answer = server.call("POST", &target, &headers, Some(ONE_ITEM.as_bytes()));
        let of_answer = answer.bytes.len() as u64;
        let answered = answer.status;
        server.get("/healthz");
        server.get("/v1/nowhere%0aelse");
        server.get(&format!("/{}", "a".repeat(300)));
        exchange(
            server.address,
            b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        );
        // A body that breaks off because its client left.
        let mut stream = connect(server.address);
        let head = "POST /left HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf".to_owned();
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        drop(stream);
        let held: Vec<TcpStream> = (0..9).map(|_| connect(server.address)).collect();
        common::until("the cap is reached", || {
            exchange(server.address, ASK).starts_with("HTTP/1.1 503")
        });
        drop(held);
        let (code, _) = server.terminate();
        assert_eq!(code, Some(0));

        let text = std::fs::read_to_string(&path).unwrap();
        for secret in ["secret", "c2VjcmV0", "192.0.2.1", "inputs", "token="] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let of = |wanted: &dyn Fn(&Value) -> bool| -> Value {
            let found = lines.iter().find(|line| wanted(line));
            found.cloned().unwrap_or_else(|| panic!("{text}"))
        };
        let predicted = of(&|l| l["request_id"] == "audited-1");
        assert_eq!(predicted["status"], answered, "{predicted}");
        assert_eq!(predicted["method"], "POST");
        assert_eq!(predicted["path"], PREDICT);
        assert_eq!(predicted["address"], "127.0.0.1");
        assert_eq!(predicted["bytes_in"], ONE_ITEM.len() as u64);
        assert_eq!(predicted["bytes_out"], of_answer);
        assert!(predicted["duration_ms"].as_f64().unwrap() > 0.0);
        let time = predicted["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        assert_eq!(of(&|l| l["path"] == "/v1/nowhere%0aelse")["status"], 404);
        let long = of(&|l| l["code"] == "target_too_long");
        assert_eq!(long["path"].as_str().unwrap().chars().count(), 257);
        assert_eq!(of(&|l| l["code"] == "malformed_request")["status"], 400);
        let left = of(&|l| l["path"] == "/left");
        assert!(
            [400, 499].contains(&left["status"].as_u64().unwrap()),
            "{left}"
        );
        let refused = of(&|l| l["code"] == "overloaded");
        assert_eq!(
            (refused["status"].as_u64(), refused.get("path")),
            (Some(503), None)
        );
        for probe in ["/healthz", "/ready"] {
            assert!(lines.iter().all(|l| l["path"] != probe), "{probe}");
        }
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}

#[test]
fn a_request_that_fails_is_found_in_the_log_without_what_it_carried() {
    let server = Server::start_with(Options {
        hostile: true,
        policy_text: Some(OPEN.to_owned()),
        ..Options::default()
    });
    let headers = [
        ("content-type", "text/plain"),
        ("x-request-id", "failed-1"),
        ("cookie", "session=secret-word"),
        ("authorization", "Basic c2VjcmV0LXdvcmQ="),
        ("x-api-key", "secret-word"),
    ];
    let target = "/v1/models/hostile:predict?key=secret-word&x=%1b%5b31m%0a";
    // A request with credentials is refused before anything can fail.
    let refused = server.call("POST", target, &headers, Some(b"trap"));
    assert_eq!(refused.status, 401);
    let answer = server.call("POST", target, &headers[..3], Some(b"trap"));
    assert_eq!(answer.status, 500);
    let line = server.logged("failed-1");
    assert!(line.contains("/v1/models/hostile:predict"), "{line}");
    for line in server.log.lock().unwrap().iter() {
        for secret in ["secret-word", "c2VjcmV0", "session="] {
            assert!(!line.contains(secret), "{line}");
        }
        assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line:?}");
    }
}
