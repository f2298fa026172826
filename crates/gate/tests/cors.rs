//! Tests the CORS headers for pages of other origins, on every path and for every kind of answer.

use crate::gate_common::send;
use penstock_gate::Response;
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::{InMemory, LIMITS};

const MODEL: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
"#;

const POLICY: &str = "[cors]\nallowed_origins = [\"https://app.example\"]\n";
const APP: (&str, &str) = ("origin", "https://app.example");
const EVIL: (&str, &str) = ("origin", "https://evil.example");
const ASKED: (&str, &str) = ("access-control-request-method", "POST");

fn ports(policy: &str) -> InMemory {
    let ports = InMemory::new(
        &[("m", MODEL, &["1"])],
        |_, _, inputs: Vec<Tensor>| -> Result<Vec<Tensor>, Failure> { Ok(inputs) },
    );
    ports.set_policy(policy);
    ports
}

fn cors(response: &Response) -> Vec<(&str, &str)> {
    let headers = response
        .headers
        .iter()
        .filter(|header| header.name == "vary" || header.name.starts_with("access-control-"));
    headers
        .map(|header| {
            (
                header.name.as_str(),
                std::str::from_utf8(&header.value).unwrap(),
            )
        })
        .collect()
}

const PATHS: [(&str, &str); 14] = [
    ("/healthz", "GET, HEAD"),
    ("/ready", "GET, HEAD"),
    ("/errors", "GET, HEAD"),
    ("/errors/internal", "GET, HEAD"),
    ("/v1/usage", "GET, HEAD"),
    ("/v1/models", "GET, HEAD"),
    ("/v1/models/m", "GET, HEAD"),
    ("/v1/models/m:predict", "POST"),
    ("/v2", "GET, HEAD"),
    ("/v2/health/live", "GET, HEAD"),
    ("/v2/health/ready", "GET, HEAD"),
    ("/v2/models/m", "GET, HEAD"),
    ("/v2/models/m/ready", "GET, HEAD"),
    ("/v2/models/m/infer", "POST"),
];

#[test]
fn options_is_answered_on_every_path_and_404_on_others() {
    for (path, allow) in PATHS {
        let response = send(&ports(""), "OPTIONS", path, &[], b"");
        assert_eq!(
            (response.status, response.header("allow")),
            (204, Some(allow)),
            "{path}"
        );
        assert_eq!(
            (response.body.len(), response.header("content-type")),
            (0, None)
        );
        assert!(response.header("x-request-id").is_some());
    }
    for path in ["/", "/v3", "**", "/v1/models/m:explode"] {
        assert_eq!(
            send(&ports(""), "OPTIONS", path, &[], b"").status,
            404,
            "{path}"
        );
    }
    assert_eq!(
        send(&ports(""), "options", "/healthz", &[], b"").status,
        405
    );
}

#[test]
fn a_preflight_is_told_the_methods_of_its_path() {
    for (path, methods) in PATHS {
        let response = send(&ports(POLICY), "OPTIONS", path, &[APP, ASKED], b"");
        assert_eq!(response.status, 204);
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-methods", methods),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path} {name}");
        }
        let allowed = response.header("access-control-allow-headers").unwrap();
        assert!(allowed.contains("authorization") && allowed.contains("content-encoding"));
    }
    let refused = send(
        &ports(POLICY),
        "OPTIONS",
        "/v1/models/m:predict",
        &[EVIL, ASKED],
        b"",
    );
    assert_eq!(
        (refused.status, cors(&refused)),
        (204, vec![("vary", "origin")])
    );
    let denied = send(
        &ports(""),
        "OPTIONS",
        "/v1/models/m:predict",
        &[APP, ASKED],
        b"",
    );
    assert_eq!((denied.status, cors(&denied)), (204, vec![]));
}

#[test]
fn a_preflight_asks_no_limit_and_no_store() {
    let ports = ports(POLICY);
    ports.kv.set_failing(true);
    ports.add_policy(LIMITS);
    let response = send(
        &ports,
        "OPTIONS",
        "/v1/models/m:predict",
        &[APP, ASKED],
        b"",
    );
    assert_eq!(response.status, 204);
    assert!(ports.quota_log.borrow().is_empty());
}

#[test]
fn every_answer_to_an_allowed_page_can_be_read_by_it_errors_included() {
    let good = br#"{"inputs":{"a":[[1,2]]}}"#;
    let refused = ports(POLICY);
    refused.add_policy("[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 3\n");
    let path = "/v1/models/m:predict";
    assert_eq!(send(&refused, "POST", path, &[], good).status, 200);
    let ports = ports(POLICY);
    for (ports, method, path, body, status) in [
        (&ports, "POST", "/v1/models/m:predict", &good[..], 200),
        (&ports, "GET", "/v1/models", b"", 200),
        (&ports, "HEAD", "/healthz", b"", 200),
        (&ports, "POST", "/v1/models/m:predict", b"{", 400),
        (&ports, "GET", "/nowhere", b"", 404),
        (&ports, "DELETE", "/v1/models/m", b"", 405),
        (&refused, "POST", "/v1/models/m:predict", good, 429),
    ] {
        let response = send(ports, method, path, &[APP], body);
        assert_eq!(response.status, status);
        let mut found = cors(&response);
        // The form of errors also depends on `Accept`.
        if status >= 400 {
            assert_eq!(found.remove(0), ("vary", "accept"));
        }
        assert_eq!(
            found[0],
            ("access-control-allow-origin", "https://app.example")
        );
        assert_eq!(found[1], ("vary", "origin"));
        assert_eq!(
            (found[2].0, found.len()),
            ("access-control-expose-headers", 3)
        );
        let response = send(ports, method, path, &[EVIL], body);
        let mut found = cors(&response);
        if status >= 400 {
            assert_eq!(found.remove(0), ("vary", "accept"));
        }
        assert_eq!((response.status, found), (status, vec![("vary", "origin")]));
    }
}

#[test]
fn without_an_origin_a_call_says_nothing_and_what_caches_keep_says_that_it_varies() {
    let good = br#"{"inputs":{"a":[[1,2]]}}"#;
    let ports = ports(POLICY);
    assert_eq!(
        cors(&send(&ports, "POST", "/v1/models/m:predict", &[], good)),
        []
    );
    assert_eq!(
        cors(&send(&ports, "GET", "/v1/models", &[], b"")),
        [("vary", "origin")]
    );
    ports.set_policy("[cors]\nallowed_origins = [\"*\"]\nexposed_headers = []\n");
    for headers in [&[][..], &[EVIL], &[("origin", "null")]] {
        let response = send(&ports, "GET", "/v1/models", headers, b"");
        assert_eq!(cors(&response), [("access-control-allow-origin", "*")]);
    }
}

#[test]
fn a_policy_that_cannot_be_read_allows_no_page_anything() {
    let ports = ports("[cors]\nallowed_origins = [\"*\", \"https://app.example\"]\n");
    for (method, path) in [("GET", "/healthz"), ("OPTIONS", "/v1/models/m:predict")] {
        let response = send(&ports, method, path, &[APP, ASKED], b"");
        assert!((200..300).contains(&response.status));
        assert_eq!(cors(&response), []);
    }
}
