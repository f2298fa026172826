//! Tests how the gate uses HTTP: announced bodies, `Content-Type`, `Accept`, `OPTIONS`, tags and compression.

use crate::gate_common::{borrowed, call, ports, request, told};
use penstock_gate::{Gate, Header};
use serde_json::{Value, json};

#[test]
fn a_body_that_was_only_announced_is_judged_and_nothing_is_run_or_charged() {
    let ports = ports();
    for (method, target, header, announced, status) in [
        (
            "POST",
            "/v1/models/identity:predict",
            ("x", "y"),
            "100",
            204,
        ),
        (
            "POST",
            "/v1/models/identity:predict",
            ("x", "y"),
            "null",
            204,
        ),
        ("POST", "/v2/models/identity/infer", ("x", "y"), "4096", 204),
        ("POST", "/v1/embeddings", ("x", "y"), "100000", 204),
        ("POST", "/v2/repository/index", ("x", "y"), "10", 204),
        ("POST", "/v2/models/identity/infer", ("x", "y"), "4097", 413),
        ("POST", "/v1/models/nope:predict", ("x", "y"), "10", 404),
        ("POST", "/nowhere", ("x", "y"), "10", 404),
        ("PUT", "/v2/models/identity/infer", ("x", "y"), "10", 405),
        ("POST", "/v1/models/broken:predict", ("x", "y"), "10", 503),
        (
            "POST",
            "/v1/models/identity:predict",
            ("accept", "text/html"),
            "10",
            406,
        ),
        (
            "POST",
            "/v1/models/identity:predict",
            ("content-encoding", "br"),
            "10",
            415,
        ),
        (
            "POST",
            "/v1/models/identity:predict",
            ("x-api-key", "pk_nonsense"),
            "10",
            401,
        ),
        // A signature may cover the body, which is not there yet.
        (
            "POST",
            "/v1/models/identity:predict",
            ("signature", "s=:AA==:"),
            "10",
            204,
        ),
    ] {
        let facts = told(&ports, &format!(r#"{{"asks":{{"bytes":{announced}}}}}"#));
        let mut headers = borrowed(&facts);
        headers.push(header);
        let response = Gate::new(ports.clone()).handle(&request(method, target, &headers, b""));
        assert_eq!(response.status, status, "{target} {header:?}");
        let goes_on = response.header("penstock-go-on").is_some();
        assert_eq!(goes_on, status == 204, "{target}");
    }
    assert_eq!(ports.runs.get(), 0);
}

#[test]
fn a_content_type_is_one_readable_value_or_the_body_is_not_read() {
    let body = br#"{"inputs":[[1,2,3,4]]}"#;
    let send = |lines: &[&[u8]], target: &str| {
        let mut request = request("POST", target, &[], body);
        request.headers = (lines.iter())
            .map(|line| Header {
                name: "content-type".into(),
                value: line.to_vec(),
            })
            .collect();
        let response = Gate::new(ports()).handle(&request);
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        let code = value["error"]["code"].as_str().map(str::to_owned);
        (response.status, code.unwrap_or_default())
    };
    let predict = "/v1/models/identity:predict";
    for (lines, status, code) in [
        (&[][..], 200, ""),
        (&[&b"application/json"[..]][..], 200, ""),
        (&[b"text/json"], 200, ""),
        (&[b"Text/JSON; charset=utf-8"], 200, ""),
        (&[b"application/json", b" application/json"], 200, ""),
        (
            &[b"application/json", b"text/plain"],
            400,
            "malformed_request",
        ),
        (
            &[b"text/plain", b"application/json"],
            400,
            "malformed_request",
        ),
        (
            &[b"application/json", b"application/json;a=b"],
            400,
            "malformed_request",
        ),
        (&[b"application/\xffjson"], 415, "unsupported_media_type"),
        (&[b"\x80"], 415, "unsupported_media_type"),
        (&[b"text/plain"], 415, "unsupported_media_type"),
    ] {
        assert_eq!(send(lines, predict), (status, code.into()), "{lines:?}");
    }
    // A model with an adapter accepts any content with a valid content type.
    let adapted = "/v1/models/adapted:predict";
    for (lines, status) in [
        (&[&b"text/plain"[..]][..], 200),
        (&[b"text/plain", b"text/html"], 400),
        (&[b"\xff"], 415),
    ] {
        assert_eq!(send(lines, adapted).0, status, "{lines:?}");
    }
}

#[test]
fn json_that_accept_excludes_is_406_and_errors_say_that_they_differ_by_accept() {
    for (accept, status) in [
        ("application/json;q=0, */*", 406),
        ("*/*, application/json;q=0", 406),
        ("application/json;q=0, application/problem+json", 406),
        ("application/problem+json", 200),
        ("*/*;q=0.1", 200),
    ] {
        let (response, _) = call("GET", "/v1/models", &[("accept", accept)], b"");
        assert_eq!(response.status, status, "{accept}");
    }
    for (method, target) in [
        ("GET", "/nowhere"),
        ("GET", "/v1/models/nope"),
        ("DELETE", "/v1/models"),
        ("POST", "/v1/models/identity:predict"),
        ("GET", "/v2/models/nope"),
    ] {
        let (response, _) = call(method, target, &[], b"");
        assert!(response.status >= 400);
        let vary = |h: &&Header| h.name == "vary" && h.value == b"accept";
        assert_eq!(response.headers.iter().filter(vary).count(), 1, "{target}");
    }
}

#[test]
fn options_of_the_whole_server_lists_the_methods_that_some_path_takes() {
    let response = Gate::new(ports()).handle(&request("OPTIONS", "*", &[], b""));
    assert_eq!((response.status, response.body.len()), (204, 0));
    assert_eq!(response.header("allow"), Some("GET, HEAD, POST, OPTIONS"));
    assert_eq!(call("GET", "*", &[], b"").0.status, 404);
}

#[test]
fn errors_are_written_in_the_style_asked_for() {
    let (response, value) = call(
        "GET",
        "/v1/models/nope",
        &[("accept", "application/problem+json")],
        b"",
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{value}"
    );
    assert_eq!(
        (&value["type"], &value["status"]),
        (&json!("/errors/unknown_model"), &json!(404))
    );
    let (_, value) = call("GET", "/v2/models/nope", &[], b"");
    assert_eq!(value["error"], "there is no model `nope`");
    let (_, entry) = call("GET", "/errors/unknown_model", &[], b"");
    assert_eq!(entry["status"], 404);
}

#[test]
fn metadata_is_tagged_and_compressed_and_calls_are_compressed_only() {
    let get = |target: &str, headers: &[(&str, &str)]| {
        Gate::new(ports()).handle(&request("GET", target, headers, b""))
    };
    for target in [
        "/v1/models",
        "/v1/models/identity",
        "/v2",
        "/v2/models/identity",
        "/errors",
        "/errors/internal",
        "/openapi.json",
        "/openapi.json?model=identity",
        "/docs",
    ] {
        let first = get(target, &[("accept-encoding", "gzip")]);
        assert_eq!(first.status, 200, "{target}");
        let tag = first.header("etag").expect(target);
        assert_eq!(first.header("cache-control"), Some("no-cache"), "{target}");
        let headers = [("accept-encoding", "gzip"), ("if-none-match", tag)];
        let again = get(target, &headers);
        assert_eq!((again.status, again.body.len()), (304, 0), "{target}");
        assert!(again.header("x-request-id").is_some());
        assert_ne!(get(target, &[("if-none-match", "\"x\"")]).status, 304);
    }
    for target in [
        "/healthz",
        "/ready",
        "/v2/models/identity/ready",
        "/v1/nothing",
    ] {
        assert_eq!(get(target, &[]).header("etag"), None, "{target}");
    }
    let rows = vec!["[1,2,3,4]"; 100].join(",");
    let body = format!(r#"{{"inputs":{{"a":[{rows}]}}}}"#);
    let headers = [
        ("content-type", "application/json"),
        ("accept-encoding", "zstd"),
        ("if-none-match", "*"),
    ];
    let target = "/v1/models/identity:predict";
    let response = Gate::new(ports()).handle(&request("POST", target, &headers, body.as_bytes()));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-encoding"), Some("zstd"));
    assert_eq!(response.header("etag"), None);
    let whole = zstd::decode_all(response.body.as_slice()).unwrap();
    let value: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(value["predictions"].as_array().map(Vec::len), Some(100));
}

#[test]
fn each_path_says_what_it_can_answer_with() {
    for (target, accept, status) in [
        ("/docs", "text/html", 200),
        ("/docs", "text/html,application/xhtml+xml,*/*;q=0.8", 200),
        ("/docs", "application/json", 406),
        ("/openapi.json", "application/json", 200),
        ("/openapi.json", "application/problem+json", 200),
        ("/openapi.json", "text/html", 406),
        ("/openapi.json?model=nothing", "*/*", 404),
        ("/openapi.json?model=identity&model=adapted", "*/*", 400),
        ("/openapi.json?other=1", "*/*", 400),
        ("/openapi.json?model=%ff", "*/*", 400),
        ("/openapi.json?model=broken", "*/*", 200),
    ] {
        let request = request("GET", target, &[("accept", accept)], b"");
        let response = Gate::new(ports()).handle(&request);
        assert_eq!(response.status, status, "{target} {accept}");
    }
}
