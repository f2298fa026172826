//! The server's own limits, over raw sockets. Each excess has its own refusal, and admitted requests finish before the
//! server stops.

use crate::common;

use common::{Options, Server, connect, exchange, hyper_client, read_one, read_to_end, until};
use http_body_util::{BodyExt, Full};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const TIGHT: &str = "
[server]
max_connections = 4
max_in_flight = 2
header_timeout_ms = 500
body_idle_timeout_ms = 800
total_timeout_ms = 2000
write_timeout_ms = 500
drain_timeout_ms = 3000
max_target_bytes = 200
";

/// Small caps with time to spare, for tests that are about the caps.
const CAPPED: &str = "
[server]
max_connections = 4
max_in_flight = 2
header_timeout_ms = 20000
body_idle_timeout_ms = 20000
";

#[test]
fn a_body_that_stops_arriving_is_408_and_its_connection_closed() {
    let server = Server::start_with(Options {
        policy: Some(TIGHT),
        ..Options::default()
    });
    let started = Instant::now();
    let answer = exchange(server.address, b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"inputs\"");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("request_timeout") && answer.contains("x-request-id"),
        "{answer}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_body_in_drips_is_ended_by_the_total_deadline() {
    let server = Server::start_with(Options {
        policy: Some(TIGHT),
        ..Options::default()
    });
    let mut stream = connect(server.address);
    stream
        .write_all(
            b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n",
        )
        .unwrap();
    let started = Instant::now();
    // Each drip comes before the idle limit, so only the total limit can end this.
    while started.elapsed() < Duration::from_secs(8) {
        if stream.write_all(b" ").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(6),
        "still dripping after {took:?}"
    );
    let answer = read_to_end(&mut stream);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn headers_that_stop_arriving_close_the_connection() {
    let server = Server::start_with(Options {
        policy: Some(TIGHT),
        ..Options::default()
    });
    for start in [
        &b""[..],
        b"P",
        b"PRI",
        b"PRI ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/mod",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
    ] {
        let mut stream = connect(server.address);
        stream.write_all(start).unwrap();
        let started = Instant::now();
        let answer = read_to_end(&mut stream);
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{start:?} {answer}"
        );
    }
}

#[test]
fn a_truncated_body_costs_its_connection_and_nothing_else() {
    let server = Server::start();
    let mut stream = connect(server.address);
    stream
        .write_all(b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{}")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let started = Instant::now();
    let answer = read_to_end(&mut stream);
    // hyper closes a connection whose body breaks off. If it sends the answer, it is a 400.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "noticed when it broke off, not at a timeout"
    );
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn targets_and_headers_beyond_their_limit_are_414_and_431() {
    let server = Server::start_with(Options {
        policy: Some(TIGHT),
        ..Options::default()
    });
    let answer = exchange(
        server.address,
        format!(
            "GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "a".repeat(300)
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
    let answer = exchange(
        server.address,
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\nbig: {}\r\n\r\n",
            "a".repeat(40_000)
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..200).map(|i| format!("h{i}: x\r\n")).collect();
    let answer = exchange(
        server.address,
        format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = exchange(server.address, b"NOT HTTP AT ALL\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn an_announced_body_beyond_the_limit_is_413_before_it_is_sent() {
    let server = Server::start();
    let answer = exchange(server.address, b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("16777216"),
        "{answer}"
    );
}

#[test]
fn connections_beyond_the_cap_are_answered_503_with_retry_after() {
    let server = Server::start_with(Options {
        policy: Some(CAPPED),
        ..Options::default()
    });
    let held: Vec<TcpStream> = (0..4).map(|_| connect(server.address)).collect();
    let refused =
        |answer: &str| answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1");
    // The refused one has sent its request already, and must still get the answer.
    until("the cap is reached", || {
        let mut stream = connect(server.address);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        refused(&read_to_end(&mut stream))
    });
    drop(held);
    until("there is room again", || {
        let mut stream = connect(server.address);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        read_to_end(&mut stream).starts_with("HTTP/1.1 200")
    });
}

#[test]
fn bodies_beyond_the_in_flight_cap_are_503_and_requests_without_one_still_answered() {
    let server = Server::start_with(Options {
        policy: Some(CAPPED),
        ..Options::default()
    });
    let head =
        b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n";
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(server.address);
            stream.write_all(head).unwrap();
            stream
        })
        .collect();
    until("the cap is reached", || {
        let answer = server.post_json("/v1/models/identity:predict", "{}");
        if answer.status != 503 {
            return false;
        }
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.json()["error"]["code"], "overloaded");
        true
    });
    assert_eq!(
        server.get("/healthz").status,
        200,
        "slow senders cannot fail a health check"
    );
    drop(held);
}

#[test]
fn callers_that_take_none_of_their_answers_are_let_go() {
    let server = Server::start_with(Options {
        policy: Some(TIGHT),
        ..Options::default()
    });
    let request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    // As many connections as permitted, so that no other client gets in unless they are closed.
    let stalled: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(server.address);
            // Many large answers, pipelined and never read, until every buffer is full.
            stream
                .set_write_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            for _ in 0..200 {
                if stream.write_all(&request).is_err() {
                    break;
                }
            }
            stream
        })
        .collect();
    until("a caller is let go", || {
        let mut stream = connect(server.address);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        read_to_end(&mut stream).starts_with("HTTP/1.1 200")
    });
    drop(stalled);
}

#[test]
fn a_request_without_host_or_with_two_is_400() {
    let server = Server::start();
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        let answer = exchange(
            server.address,
            format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("malformed_request"), "{answer}");
    }
}

#[test]
fn head_says_what_get_would_and_sends_no_body() {
    let server = Server::start();
    let whole = server.get("/v1/models/cls").bytes.len().to_string();
    let answer = exchange(
        server.address,
        b"HEAD /v1/models/cls HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(
        answer.contains(&format!("content-length: {whole}\r\n")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    hyper_client::runtime().block_on(async {
        let mut sender = hyper_client::to(server.address).await;
        let request = hyper::Request::head(format!("http://{}/v1/models/cls", server.address))
            .body(Full::new(bytes_of(String::new())))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], whole.as_str());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.is_empty());
    });
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_ends_with_0() {
    let mut server = Server::start();
    let mut stream = connect(server.address);
    let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    stream.write_all(format!("POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
    let idle = connect(server.address);
    std::thread::sleep(Duration::from_millis(500));
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(900));
        stream.write_all(body).unwrap();
        read_to_end(&mut stream)
    });
    let (code, took) = server.terminate();
    let answer = writer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(TcpStream::connect(server.address).is_err());
    drop(idle);
}

#[test]
fn http2_with_prior_knowledge_serves_many_streams_on_one_connection() {
    let server = Server::start();
    hyper_client::runtime().block_on(async {
        let sender = hyper_client::to(server.address).await;
        let calls: Vec<_> = (0..50)
            .map(|i| {
                let mut sender = sender.clone();
                let request = hyper::Request::post(format!(
                    "http://{}/v1/models/identity:predict",
                    server.address
                ))
                .header("content-type", "application/json")
                .header("x-request-id", format!("h2-{i}"))
                .body(Full::new(bytes_of(format!(
                    r#"{{"inputs":{{"a":[[{i},2,3,4]]}}}}"#
                ))))
                .unwrap();
                tokio::spawn(async move {
                    let response = sender.send_request(request).await.unwrap();
                    let status = response.status();
                    let id = response.headers()["x-request-id"]
                        .to_str()
                        .unwrap()
                        .to_owned();
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    (
                        i,
                        status,
                        id,
                        serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
                    )
                })
            })
            .collect();
        for call in calls {
            let (i, status, id, value) = call.await.unwrap();
            assert_eq!(status, 200, "{value}");
            assert_eq!(id, format!("h2-{i}"));
            assert_eq!(value["predictions"][0]["b"][0].as_f64(), Some(f64::from(i)));
        }
    });
}

fn bytes_of(text: String) -> hyper::body::Bytes {
    hyper::body::Bytes::from(text)
}

#[test]
fn an_http2_caller_whose_window_never_opens_is_let_go() {
    let server = Server::start_with(Options {
        policy: Some("[server]\nheader_timeout_ms = 60000\nwrite_timeout_ms = 500\n"),
        ..Options::default()
    });
    let mut stream = connect(server.address);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS: INITIAL_WINDOW_SIZE (4) = 0.
    bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    // HEADERS on stream 1, whole and final: GET, http, /, authority x.
    bytes.extend([0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'x']);
    stream.write_all(&bytes).unwrap();
    let started = Instant::now();
    let answer = read_to_end(&mut stream);
    let took = started.elapsed();
    assert!(!answer.is_empty(), "it was spoken to");
    assert!(
        took >= Duration::from_millis(400),
        "closed before it could be the window: {took:?}"
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
}

const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

#[test]
fn a_connection_rests_for_a_time_of_its_own_that_answers_tell_and_heads_keep_theirs() {
    let server = Server::start_with(Options {
        policy: Some("[server]\nheader_timeout_ms = 500\nkeep_alive_timeout_ms = 3000\n"),
        ..Options::default()
    });
    let mut stream = connect(server.address);
    for _ in 0..2 {
        stream.write_all(HEALTHZ).unwrap();
        let answer = read_one(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("keep-alive: timeout=3\r\n"), "{answer}");
        // Longer than the time for a head.
        std::thread::sleep(Duration::from_millis(1500));
    }
    let started = Instant::now();
    assert_eq!(read_to_end(&mut stream), "");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(800), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    // A begun head gets no more time on a connection that was used.
    let mut stream = connect(server.address);
    stream.write_all(HEALTHZ).unwrap();
    read_one(&mut stream);
    let started = Instant::now();
    stream.write_all(b"GET /hea").unwrap();
    assert_eq!(read_to_end(&mut stream), "");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    // HTTP/1.0 has no such header, and a closing connection is not kept.
    for (version, connection) in [("1.0", "keep-alive"), ("1.1", "close")] {
        let mut stream = connect(server.address);
        let ask =
            format!("GET /healthz HTTP/{version}\r\nhost: x\r\nconnection: {connection}\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let answer = read_one(&mut stream);
        assert_eq!(
            answer.contains("timeout="),
            version == "1.1" && connection != "close",
            "{answer}"
        );
    }
}

#[test]
fn connections_that_rest_make_way_where_there_are_no_others_left() {
    let server = Server::start_with(Options {
        policy: Some(
            "[server]\nmax_connections = 4\nheader_timeout_ms = 500\nkeep_alive_timeout_ms = 60000\n",
        ),
        ..Options::default()
    });
    let mut held = Vec::new();
    until("all connections are taken", || {
        let mut stream = connect(server.address);
        let _ = stream.write_all(HEALTHZ);
        let answer = read_one(&mut stream);
        held.push(stream);
        answer.starts_with("HTTP/1.1 503")
    });
    until("an idle one makes way", || {
        let mut stream = connect(server.address);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        read_to_end(&mut stream).starts_with("HTTP/1.1 200")
    });
}

#[test]
fn health_checks_fail_before_the_listener_closes_and_what_comes_meanwhile_is_answered() {
    let mut server = Server::start_with(Options {
        policy: Some("[server]\ndrain_delay_ms = 1500\ndrain_timeout_ms = 8000\n"),
        ..Options::default()
    });
    server.ready();
    let address = server.address;
    // Raw bytes: the connection of each answer is the point, and at the end there is no listener.
    let open = || {
        let stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Some(stream)
    };
    let ask = |stream: &mut TcpStream, path: &str| {
        let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        read_one(stream)
    };
    let mut resting = open().unwrap();
    let answer = ask(&mut resting, "/healthz");
    assert!(!answer.contains("connection: close"), "{answer}");
    let stopping = std::thread::spawn(move || server.terminate());
    // A client without health checks gets an answer that tells it to use another connection next.
    until("the server is stopping", || {
        ask(&mut open().unwrap(), "/ready").starts_with("HTTP/1.1 503")
    });
    for (path, status) in [
        ("/v2/health/ready", 503),
        ("/ready", 503),
        ("/healthz", 200),
        ("/v2/models/identity", 200),
    ] {
        let mut stream = open().unwrap();
        let answer = ask(&mut stream, path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(read_to_end(&mut stream), "", "it is closed");
    }
    // Connections that wait to be accepted when the listener closes are served.
    let mut answered = 0;
    let begun = Instant::now();
    while let Some(mut stream) = open() {
        let answer = ask(&mut stream, "/healthz");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answered += 1;
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "the listener stays open"
        );
    }
    assert!(answered > 5, "{answered}");
    // An idle one has a moment more.
    let answer = ask(&mut resting, "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let (code, took) = stopping.join().unwrap();
    assert_eq!(code, Some(0));
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
}

#[test]
fn a_second_signal_ends_the_wait_for_balancers() {
    let mut server = Server::start_with(Options {
        policy: Some("[server]\ndrain_delay_ms = 15000\n"),
        ..Options::default()
    });
    server.ready();
    let pid = server.pid().to_string();
    let second = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1000));
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    });
    let (code, took) = server.terminate();
    second.join().unwrap();
    assert_eq!(code, Some(0));
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// Two calls an hour for every caller. `/v1/models/cls` needs a key.
const EXPECTING: &str = "
[[limits]]
name = \"calls\"
per = [\"tenant\"]
algorithm = \"fixed-window\"
limit = 2
window_s = 3600
[server]
max_body_bytes = 100000
";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;

/// Requests with an announced body, and their answers before any of it is sent.
const ANNOUNCED: [(&str, &str, usize, u16); 6] = [
    ("POST", "/v1/models/nope:predict", 10, 404),
    ("POST", "/nowhere", 10, 404),
    ("PUT", "/v1/models/identity:predict", 10, 405),
    ("POST", "/v1/models/identity:predict", 100_001, 413),
    ("POST", "/v1/models/identity:predict?key", 10, 401),
    ("POST", "/v1/models/identity:predict", ONE_ITEM.len(), 100),
];

#[test]
fn a_body_that_was_only_announced_is_judged_before_it_is_asked_for() {
    let server = Server::start_with(Options {
        policy: Some(EXPECTING),
        ..Options::default()
    });
    server.ready();
    for (method, target, length, status) in ANNOUNCED {
        let (target, key) = match target.strip_suffix("?key") {
            Some(target) => (target, "x-api-key: pk_nonsense\r\n"),
            None => (target, ""),
        };
        let mut stream = connect(server.address);
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{key}content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let answer = read_one(&mut stream);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{target} {answer}"
        );
        if status == 100 {
            stream.write_all(ONE_ITEM.as_bytes()).unwrap();
            let answer = read_one(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(!answer.contains("connection: close"), "{answer}");
        } else {
            assert!(answer.contains("connection: close"), "{answer}");
        }
    }
    // The unknown model and the one call were charged, each once.
    let answer = server.post_json("/v1/models/identity:predict", ONE_ITEM);
    assert_eq!(answer.status, 429);
}

#[test]
fn over_http2_too_a_body_that_was_only_announced_is_judged_before_it_is_asked_for() {
    let server = Server::start_with(Options {
        policy: Some(EXPECTING),
        ..Options::default()
    });
    server.ready();
    hyper_client::runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for (method, target, length, status) in ANNOUNCED {
            let mut client = client.clone().ready().await.unwrap();
            let (target, key) = match target.strip_suffix("?key") {
                Some(target) => (target, Some("pk_nonsense")),
                None => (target, None),
            };
            let mut request = hyper::Request::builder()
                .method(method)
                .uri(format!("http://{}{target}", server.address))
                .header("content-type", "application/json")
                .header("content-length", length)
                .header("expect", "100-continue");
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let request = request.body(()).unwrap();
            let (mut response, mut body) = client.send_request(request, false).unwrap();
            let soon = Duration::from_secs(5);
            if status == 100 {
                let informed = std::future::poll_fn(|cx| response.poll_informational(cx));
                let informed = tokio::time::timeout(soon, informed).await.expect("at once");
                assert_eq!(informed.unwrap().unwrap().status(), 100);
                body.send_data(bytes_of(ONE_ITEM.to_owned()), true).unwrap();
                assert_eq!(response.await.unwrap().status(), 200);
            } else {
                let answer = tokio::time::timeout(soon, response).await.expect("at once");
                assert_eq!(answer.unwrap().status(), status, "{target}");
            }
        }
    });
}
