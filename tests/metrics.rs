//! `/metrics` over HTTP: counts after known traffic, the formats, the listeners, and the access to them.

use crate::common;
#[path = "../crates/core/tests/exposition/mod.rs"]
mod exposition;

use common::grpc_client::{Client, row};
use common::{Options, Response, Server, root};
use exposition::{Scrape, parse};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const IDENTITY: &str = "/v1/models/identity:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";
const DURATION_COUNT: &str = "http_server_request_duration_seconds_count";
const ERRORS: &str = "penstock_request_errors_total";
/// A listener for metrics on any free port.
const OWN_LISTENER: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";

/// A server with the models of this repository and this policy, and the address of its metrics.
fn server(policy: &str) -> (Server, SocketAddr) {
    let server = Server::start_with(Options {
        policy_text: Some(format!("{policy}{OWN_LISTENER}")),
        tract: true,
        ..Options::default()
    });
    server.ready();
    let address = metrics_of(&server);
    (server, address)
}

fn metrics_of(server: &Server) -> SocketAddr {
    address_in(server, "metrics on http://", "/")
}

fn address_in(server: &Server, before: &str, after: &str) -> SocketAddr {
    let line = server.logged(before);
    let (_, rest) = line.split_once(before).unwrap();
    rest.split_once(after).unwrap().0.parse().unwrap()
}

fn secret(name: &str) -> String {
    let path = root().join("target/penstock-test-state").join(name);
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

fn ask(address: SocketAddr, headers: &[(&str, &str)]) -> Response {
    common::call(address, "GET", "/metrics", headers, None)
}

fn text_of(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    String::from_utf8(answer.bytes.clone()).unwrap()
}

/// Sends a request that other clients refuse to send. `lines` are its headers, each with its line end.
fn raw(address: SocketAddr, request: &str, lines: &str) -> String {
    raw_with_host(address, request, &format!("host: {address}\r\n{lines}"))
}

fn raw_with_host(address: SocketAddr, request: &str, lines: &str) -> String {
    let text = format!("{request} HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
    common::exchange(address, text.as_bytes())
}

/// The metrics of a server, checked by the strict reader.
fn scrape(address: SocketAddr) -> Scrape {
    let text = text_of(&ask(address, &[("accept", OPEN_METRICS)]));
    parse(&text, true).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn predict(server: &Server, key: Option<&str>, body: &str) -> Response {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    server.call("POST", IDENTITY, &headers, Some(body.as_bytes()))
}

/// The labels of a prediction by the model `identity`.
fn identity<'a>(name: &'a str, value: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("route", "predict"),
        ("model", "identity"),
        ("version", "1"),
        (name, value),
    ]
}

#[test]
fn known_traffic_is_counted_as_it_was() {
    let limit = "[[limits]]\nname = \"all\"\nlimit = 20\nwindow_s = 3600\n";
    let (server, metrics) = server(limit);
    for _ in 0..3 {
        assert_eq!(predict(&server, None, ONE_ITEM).status, 200);
    }
    for replayed in [None, Some("true")] {
        let answer = predict(&server, Some("k-1"), ONE_ITEM);
        assert_eq!(answer.header("idempotency-replayed"), replayed);
    }
    assert_eq!(
        predict(&server, None, r#"{"inputs":{"a":[["x"]]}}"#).status,
        422
    );
    let unknown = server.post_json("/v1/models/made-up:predict", ONE_ITEM);
    assert_eq!(unknown.status, 404);
    assert_eq!(server.get("/nowhere").status, 404);
    let mut more = 0;
    let refused = loop {
        match predict(&server, None, ONE_ITEM) {
            answer if answer.status == 200 && more < 20 => more += 1,
            other => break other,
        }
    };
    assert_eq!(refused.status, 429, "{}", refused.json());
    let ran = f64::from(4 + more);
    let found = scrape(metrics);
    for (name, labels, expected) in [
        (DURATION_COUNT, &identity("status", "2xx")[..], ran + 1.0),
        (DURATION_COUNT, &identity("status", "4xx"), 1.0),
        (ERRORS, &identity("code", "invalid_inputs"), 1.0),
        (
            "penstock_model_calls_total",
            &[
                ("model", "identity"),
                ("version", "1"),
                ("result", "success"),
            ],
            ran,
        ),
        ("penstock_idempotent_replays_total", &[], 1.0),
        // The scrape itself goes to another listener.
        ("http_server_active_requests", &[], 0.0),
        ("penstock_metrics_dropped_series", &[], 0.0),
        ("penstock_instance_traps_total", &[], 0.0),
    ] {
        assert_eq!(
            found.value(name, labels),
            Some(expected),
            "{name} {labels:?}"
        );
    }
    for (code, expected) in [
        ("unknown_model", 1.0),
        ("quota_exceeded", 1.0),
        ("unknown_path", 1.0),
    ] {
        assert_eq!(found.sum(ERRORS, &[("code", code)]), expected, "{code}");
    }
    let everything = found.sum(DURATION_COUNT, &[]);
    for sizes in ["request", "response"] {
        let count = format!("http_server_{sizes}_body_size_bytes_count");
        assert_eq!(found.sum(&count, &[]), everything, "{count}");
    }
    // An answer takes some time, and the smallest body is known.
    let sum = found.sum(
        "http_server_request_duration_seconds_sum",
        &identity("status", "2xx"),
    );
    assert!(sum > 0.0 && sum < 60.0, "{sum}");
    let received = found.sum(
        "http_server_request_body_size_bytes_sum",
        &[("route", "predict")],
    );
    assert!(received >= ran * ONE_ITEM.len() as f64, "{received}");
    assert!(found.value("penstock_instance_starts_total", &[]) >= Some(1.0));
    assert!(found.value("process_resident_memory_bytes", &[]) > Some(1e6));
    let labels = [("model", "identity"), ("version", "1")];
    for histogram in ["queue_duration_seconds", "compute_duration_seconds"] {
        let count = format!("penstock_model_{histogram}_count");
        assert_eq!(found.value(&count, &labels), Some(ran), "{count}");
    }
    assert!(found.value("penstock_model_memory_bytes", &labels) > Some(0.0));
}

#[test]
fn a_call_over_grpc_counts_like_one_over_rest() {
    let (server, metrics) = server("");
    let runtime = common::hyper_client::runtime();
    runtime.block_on(async {
        let mut client = Client::to(&server).await;
        let path = "/inference.GRPCInferenceService/ModelInfer";
        let answered = client
            .unary(path, &[], &row("1", [1.0, 2.0, 3.0, 4.0]))
            .await;
        assert_eq!(answered.status(), 0, "{}", answered.message());
        assert!(!answered.headers.contains_key("penstock-seen"));
        let mut unknown = row("1", [1.0, 2.0, 3.0, 4.0]);
        unknown.model_name = "made-up".to_owned();
        assert_eq!(client.unary(path, &[], &unknown).await.status(), 5);
    });
    let found = scrape(metrics);
    let labels = [
        ("route", "infer"),
        ("model", "identity"),
        ("version", "1"),
        ("status", "2xx"),
    ];
    assert_eq!(found.value(DURATION_COUNT, &labels), Some(1.0));
    let labels = [("route", "infer"), ("code", "unknown_model")];
    assert_eq!(found.sum(ERRORS, &labels), 1.0);
    assert_eq!(
        found.sum(DURATION_COUNT, &[("route", "infer"), ("status", "4xx")]),
        1.0
    );
}

#[test]
fn names_that_clients_make_up_add_no_series_and_no_client_sees_a_note() {
    let (server, metrics) = server("");
    assert_eq!(server.get("/v1/models/made-up-first").status, 404);
    assert!(raw(server.address, "BREW /made-up-first", "").starts_with("HTTP/1.1 4"));
    let before = scrape(metrics).samples.len();
    for number in 0..300 {
        let name = format!("made-up-{number}");
        for line in [
            format!("GET /v1/models/{name}"),
            format!("BREW{number} /{name}"),
        ] {
            let answer = raw(server.address, &line, "penstock-seen: predict - forged\r\n");
            assert!(answer.starts_with("HTTP/1.1 4"), "{line}: {answer}");
            assert!(!answer.contains("penstock-seen"), "{answer}");
        }
    }
    let text = text_of(&ask(metrics, &[]));
    assert!(
        !text.contains("made-up") && !text.contains("forged"),
        "{text}"
    );
    let after = parse(&text, false).unwrap().samples.len();
    // The family of sizes and durations of these requests exist before.
    assert_eq!(after, before);
    assert!(text.len() < 2 << 20, "{}", text.len());
}

#[test]
fn the_scraper_chooses_the_format() {
    let (_server, metrics) = server("");
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (accept, content_type) in [
        (None, plain),
        (Some("text/plain"), plain),
        (Some(OPEN_METRICS), open),
        (
            Some(
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            ),
            open,
        ),
    ] {
        let headers: Vec<(&str, &str)> = accept
            .map(|accept| ("accept", accept))
            .into_iter()
            .collect();
        let answer = ask(metrics, &headers);
        assert_eq!(
            answer.header("content-type"),
            Some(content_type),
            "{accept:?}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let text = text_of(&answer);
        parse(&text, content_type == open).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn each_listener_has_its_rules() {
    let server = Server::start_with(Options {
        policy: Some("[metrics]\nlisten = \"127.0.0.1:0\"\naccess = \"token\"\n"),
        tract: true,
        admin: true,
        ..Options::default()
    });
    server.ready();
    let (own, admin) = (
        metrics_of(&server),
        address_in(&server, "admin API on http://", ";"),
    );
    let bearer = |name: &str| format!("Bearer {}", secret(name));
    let (metrics_token, admin_token) = (bearer("metrics-token"), bearer("admin-token"));
    let with = |token: &str, address| {
        let answer = ask(address, &[("authorization", token)]);
        let code = (answer.status != 200).then(|| answer.json()["error"]["code"].clone());
        (
            answer.status,
            code.unwrap_or_default()
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let opened = (200, String::new());
    assert_eq!(with(&metrics_token, own), opened);
    assert_eq!(with(&metrics_token, admin), opened);
    assert_eq!(with(&admin_token, admin), opened);
    let invalid = (401, "credentials_invalid".to_owned());
    assert_eq!(with(&admin_token, own), invalid);
    assert_eq!(with("Bearer nonsense", admin), invalid);
    for address in [own, admin] {
        let answer = ask(address, &[]);
        assert_eq!(answer.json()["error"]["code"], "credentials_missing");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"penstock-metrics\""));
        // With a token, the collector may name the server as it likes.
        let lines = format!("host: penstock.example\r\nauthorization: {metrics_token}\r\n");
        let answer = raw_with_host(address, "GET /metrics", &lines);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let headers = [("authorization", metrics_token.as_str())];
        let answer = common::call(address, "POST", "/metrics", &headers, Some(b"x"));
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    // The token of the metrics opens nothing else.
    let headers = [("authorization", metrics_token.as_str())];
    let answer = common::call(admin, "GET", "/admin/v1/keys", &headers, None);
    assert_eq!(answer.json()["error"]["code"], "credentials_invalid");
    let answer = common::call(own, "GET", "/admin/v1/keys", &headers, None);
    assert_eq!(answer.json()["error"]["code"], "unknown_path");
    assert_eq!(
        server.get("/metrics").status,
        404,
        "the public listener has none"
    );
}

#[test]
fn a_listener_without_a_token_refuses_what_a_web_page_can_send() {
    let (_server, metrics) = server("");
    assert_eq!(ask(metrics, &[]).status, 200);
    for lines in [
        format!("host: {metrics}\r\norigin: https://evil.example\r\n"),
        "host: evil.example\r\n".to_owned(),
    ] {
        let answer = raw_with_host(metrics, "GET /metrics", &lines);
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(answer.contains("permission_denied"), "{answer}");
    }
}

#[test]
fn the_names_of_triton_are_there_when_they_are_wanted() {
    let labels = [("model", "identity"), ("version", "1")];
    for (setting, expected) in [("", None), ("triton_names = true\n", Some(2.0))] {
        let server = Server::start_with(Options {
            policy_text: Some(format!("{OWN_LISTENER}{setting}")),
            tract: true,
            ..Options::default()
        });
        server.ready();
        for _ in 0..2 {
            assert_eq!(predict(&server, None, ONE_ITEM).status, 200);
        }
        let text = text_of(&ask(metrics_of(&server), &[]));
        let found = parse(&text, false).unwrap();
        assert_eq!(
            found.value("nv_inference_request_success", &labels),
            expected
        );
        assert_eq!(found.value("nv_inference_count", &labels), expected);
        let micros = found.value("nv_inference_request_duration_us", &labels);
        assert!(
            micros.is_some() == expected.is_some() && micros != Some(0.0),
            "{micros:?}"
        );
        let kind = found.families.get("nv_inference_request_success");
        assert_eq!(kind.is_some(), expected.is_some());
        assert!(kind.is_none_or(|kind| kind == "counter"));
    }
}

#[test]
fn an_operation_counts_by_its_end() {
    let (server, metrics) = server("");
    let headers = [
        ("content-type", "application/json"),
        ("prefer", "respond-async, wait=20"),
    ];
    let answer = server.call("POST", IDENTITY, &headers, Some(ONE_ITEM.as_bytes()));
    assert!(matches!(answer.status, 200 | 202), "{}", answer.json());
    let ended = [("result", "succeeded")];
    server.until("the operation has ended", || {
        scrape(metrics).value("penstock_operations_ended_total", &ended) == Some(1.0)
    });
    let found = scrape(metrics);
    assert_eq!(found.value("penstock_operations_queued", &[]), Some(0.0));
    server.until("no operation runs", || {
        scrape(metrics).value("penstock_operations_running", &[]) == Some(0.0)
    });
}

#[test]
fn the_alerts_fire_when_they_should_and_not_before() {
    let rules = root().join("deploy/prometheus");
    for arguments in [
        ["check", "rules", "rules.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let ran = Command::new("promtool")
            .args(arguments)
            .current_dir(&rules)
            .output();
        let ran = ran
            .expect("promtool of Debian's package `prometheus`; scripts/test puts it on the PATH");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(
            ran.status.success(),
            "{arguments:?}: {said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}

#[test]
fn promtool_finds_no_fault() {
    let (server, metrics) = server("");
    assert_eq!(predict(&server, None, ONE_ITEM).status, 200);
    assert_eq!(server.get("/nowhere").status, 404);
    let text = text_of(&ask(metrics, &[]));
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package `prometheus`; scripts/test puts it on the PATH");
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let checked = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
}
