//! Tests calls through limits, idempotency and usage: the charges of each step, and the refunds.

use crate::gate_common::answer;
use penstock_gate::Response;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_testkit::models::{ECHO, echo};
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::rc::Rc;

const PREDICT: &str = "/v1/models/m:predict";
const BODY: &[u8] = br#"{"inputs":{"a":[[1,2],[3,4],[5,6]]}}"#;

fn failing(kind: FailureKind) -> InMemory {
    InMemory::new(&[("m", ECHO, &["1"])], move |_, _, _| {
        Err(Failure {
            kind,
            message: "it fails as it was told to".into(),
            retry_after_ms: None,
        })
    })
}

fn ports() -> InMemory {
    InMemory::new(&[("m", ECHO, &["1"])], echo)
}

fn ask(ports: &InMemory, target: &str, key: Option<&str>, body: &[u8]) -> (Response, Value) {
    ask_with(ports, target, key.map(|k| ("idempotency-key", k)), body)
}

fn ask_with(
    ports: &InMemory,
    target: &str,
    header: Option<(&str, &str)>,
    body: &[u8],
) -> (Response, Value) {
    let mut headers = vec![
        ("content-type", "application/json"),
        ("spin-client-addr", "192.0.2.7:4711"),
    ];
    headers.extend(header);
    let calls = ["predict", "Predict", "infer"];
    let calls = calls.iter().any(|word| target.contains(word));
    let method = if calls { "POST" } else { "GET" };
    answer(ports, method, target, &headers, body)
}

fn code(value: &Value) -> &str {
    value["error"]["code"].as_str().unwrap_or_default()
}

fn log(ports: &InMemory) -> Vec<String> {
    ports.quota_log.borrow().clone()
}

fn all_limits(ports: &InMemory) {
    ports.set_policy(LIMITS);
}

/// Allows one call in 14 seconds from each address.
const ONE_CALL: &str = "[[limits]]\nname = \"per-address\"\nper = [\"address\"]\nalgorithm = \"token-bucket\"\n\
     limit = 1\nwindow_s = 14\n";

/// Allows as many items in an hour as [`BODY`] has.
const THREE_ITEMS: &str =
    "[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 3\nwindow_s = 3600\n";

#[test]
fn a_repeated_call_is_replayed_byte_for_byte_and_costs_a_request_and_no_items() {
    let ports = ports();
    all_limits(&ports);
    let (first, body) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!(first.status, 200, "{body}");
    assert_eq!(first.header("idempotency-replayed"), None);
    let (second, _) = ask(&ports, PREDICT, Some("\"k\""), BODY);
    assert_eq!(second.status, 200);
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    for name in ["x-prediction-id", "x-model-version", "content-type"] {
        assert_eq!(second.header(name), first.header(name), "{name}");
        assert!(first.header(name).is_some(), "{name}");
    }
    assert_ne!(second.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(ports.runs.get(), 1);
    assert_eq!(
        log(&ports),
        [
            "admit predict m 192.0.2.7 36",
            "charge 3",
            "settle 0",
            "admit predict m 192.0.2.7 36",
            "settle 0"
        ]
    );
}

#[test]
fn one_key_for_two_calls_is_refused_and_other_routes_have_their_own_keys() {
    let ports = ports();
    assert_eq!(ask(&ports, PREDICT, Some("k"), BODY).0.status, 200);
    let other = br#"{"inputs":{"a":[[1,2]]}}"#;
    let (response, body) = ask(&ports, PREDICT, Some("k"), other);
    assert_eq!(
        (response.status, code(&body)),
        (422, "idempotency_key_reused")
    );
    let versioned = "/v1/models/m/versions/1:predict";
    let (response, body) = ask(&ports, versioned, Some("k"), BODY);
    assert_eq!(
        (response.status, code(&body)),
        (422, "idempotency_key_reused")
    );
    let batch = format!(r#"{{"requests":[{}]}}"#, std::str::from_utf8(BODY).unwrap());
    let (response, _) = ask(
        &ports,
        "/v1/models/m:batchPredict",
        Some("k"),
        batch.as_bytes(),
    );
    assert_eq!(response.status, 200);
    assert_eq!(response.header("idempotency-replayed"), None);
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn a_key_that_is_none_or_missing_where_it_is_required_is_a_400() {
    let ports = ports();
    let (response, body) = ask(&ports, PREDICT, Some("a, b"), BODY);
    assert_eq!(
        (response.status, code(&body)),
        (400, "idempotency_key_invalid")
    );
    ports.set_policy("[idempotency]\nrequired = [\"predict\"]\n");
    let (response, body) = ask(&ports, PREDICT, None, BODY);
    assert_eq!(
        (response.status, code(&body)),
        (400, "idempotency_key_missing")
    );
    assert_eq!(ask(&ports, PREDICT, Some("k"), BODY).0.status, 200);
    let infer = br#"{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;
    let (response, _) = ask(&ports, "/v2/models/m/infer", None, infer);
    assert_eq!(response.status, 200);
    ports.set_policy("[idempotency]\nenabled = false\n");
    assert_eq!(ask(&ports, PREDICT, Some("a, b"), BODY).0.status, 200);
}

#[test]
fn refusals_and_bad_bodies_are_not_kept_and_a_corrected_call_runs_with_the_same_key() {
    let ports = ports();
    let (response, body) = ask(&ports, PREDICT, Some("k"), br#"{"inputs":{"a":[[1]]}}"#);
    assert_eq!((response.status, code(&body)), (422, "invalid_inputs"));
    let (response, _) = ask(&ports, PREDICT, Some("k"), b"{");
    assert_eq!(response.status, 400);
    let (response, body) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!(response.status, 200, "{body}");
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn what_provably_did_not_run_gives_key_and_items_back_and_what_failed_is_replayed() {
    for (kind, status, kept) in [
        (FailureKind::NotReady, 503, false),
        (FailureKind::Overloaded, 503, false),
        (FailureKind::DeadlineExceeded, 504, false),
        (FailureKind::InputsRejected, 422, false),
        (FailureKind::Failed, 500, true),
    ] {
        let ports = failing(kind);
        all_limits(&ports);
        let (first, body) = ask(&ports, PREDICT, Some("k"), BODY);
        assert_eq!(first.status, status, "{body}");
        let (second, _) = ask(&ports, PREDICT, Some("k"), BODY);
        assert_eq!(second.status, status);
        assert_eq!(ports.runs.get(), if kept { 1 } else { 2 }, "{kind:?}");
        assert_eq!(second.header("idempotency-replayed").is_some(), kept);
        assert_eq!(second.body == first.body, kept, "{kind:?}");
        let refunds = log(&ports).iter().filter(|l| *l == "refund").count();
        let not_run = matches!(status, 503 | 504);
        assert_eq!(refunds, if not_run { 2 } else { 0 }, "{kind:?}");
    }
}

#[test]
fn a_refused_call_names_its_limit_and_leaves_the_key_free() {
    let ports = ports();
    ports.set_policy(ONE_CALL);
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
    let (response, body) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!((response.status, code(&body)), (429, "quota_exceeded"));
    assert_eq!(
        body["error"]["message"],
        "limit `per-address` of 1 requests in 14 s is used up; try again in 14 s"
    );
    assert_eq!(response.header("retry-after"), Some("14"));
    assert_eq!(
        response.header("ratelimit"),
        Some("\"per-address\";r=0;t=14")
    );
    ports.set_policy(THREE_ITEMS);
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
    assert_eq!(ask(&ports, PREDICT, Some("k"), BODY).0.status, 429);
    ports.set_policy("");
    let (response, _) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("idempotency-replayed"), None);
    assert_eq!(ports.runs.get(), 3);
}

#[test]
fn limits_are_asked_for_reading_too_but_not_for_probes() {
    let ports = ports();
    ports.set_policy(ONE_CALL);
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
    ports.quota_log.borrow_mut().clear();
    for target in [
        "/healthz",
        "/ready",
        "/v2/health/live",
        "/v2/health/ready",
        "/errors",
    ] {
        assert_eq!(ask(&ports, target, None, b"").0.status, 200, "{target}");
    }
    assert!(log(&ports).is_empty());
    for target in [
        "/v2",
        "/v1/models",
        "/v1/models/m",
        "/v2/models/m",
        "/v2/models/m/ready",
    ] {
        assert_eq!(ask(&ports, target, None, b"").0.status, 429, "{target}");
    }
    assert_eq!(log(&ports)[0], "admit models - 192.0.2.7 0");
}

#[test]
fn the_address_is_the_last_the_server_wrote_and_nothing_a_client_makes_up() {
    for (also, address) in [
        (Some("198.51.100.1:9"), "198.51.100.1"),
        (Some("2001:db8::1"), "2001:db8::1"),
        (Some("not an address"), "-"),
        (None, "192.0.2.7"),
    ] {
        let ports = ports();
        all_limits(&ports);
        let header = also.map(|also| ("spin-client-addr", also));
        ask_with(&ports, PREDICT, header, BODY);
        assert_eq!(log(&ports)[0], format!("admit predict m {address} 36"));
    }
}

#[test]
fn a_call_larger_than_a_limit_ever_allows_is_not_told_to_come_back() {
    let ports = ports();
    ports.set_policy(&THREE_ITEMS.replace("limit = 3", "limit = 2"));
    let (response, body) = ask(&ports, PREDICT, None, BODY);
    assert_eq!((response.status, code(&body)), (413, "body_too_large"));
    assert_eq!(response.header("retry-after"), None);
}

#[test]
fn a_limit_whose_store_does_not_answer_is_a_503_with_its_name_or_lets_the_call_by() {
    let ports = ports();
    ports.set_policy(ONE_CALL);
    ports.kv.set_failing(true);
    let (response, body) = ask(&ports, PREDICT, None, BODY);
    assert_eq!((response.status, code(&body)), (503, "store_unavailable"));
    assert_eq!(
        body["error"]["message"],
        "limit `per-address` cannot be checked at the moment; try again in 1 s"
    );
    assert_eq!(response.header("retry-after"), Some("1"));
    ports.set_policy(&format!("{ONE_CALL}on_store_failure = \"open\"\n"));
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
}

#[test]
fn a_pacing_limit_delays_the_call() {
    let ports = ports();
    ports.set_policy(
        "[[limits]]\nname = \"paced\"\nalgorithm = \"leaky-bucket\"\nlimit = 500\nwindow_s = 60\n",
    );
    for _ in 0..2 {
        assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
    }
    assert_eq!(ports.slept_ms.get(), 120);
}

#[test]
fn a_store_that_fails_after_the_run_hides_the_answer_unless_the_policy_is_open() {
    for (setting, status) in [("open", 200), ("closed", 503)] {
        let mut ports = ports();
        ports.set_policy(&format!(
            "[idempotency]\non_store_failure = \"{setting}\"\n"
        ));
        let kv = ports.kv.clone();
        ports.run = Rc::new(move |model, version, inputs| {
            kv.set_failing(true);
            echo(model, version, inputs)
        });
        let (response, body) = ask(&ports, PREDICT, Some("k"), BODY);
        assert_eq!(response.status, status, "{setting}: {body}");
        assert_eq!(ports.runs.get(), 1);
        if status == 503 {
            assert_eq!(code(&body), "store_unavailable");
            let message = body["error"]["message"].as_str().unwrap();
            let expected = "the call ran, but its result could not be recorded: ";
            assert!(message.starts_with(expected), "{message}");
        }
    }
}

#[test]
fn a_refusal_by_idempotency_says_what_to_do() {
    let ports = ports();
    ask(&ports, PREDICT, Some("k"), BODY);
    let (_, body) = ask(&ports, PREDICT, Some("k"), br#"{"inputs":{"a":[[1,2]]}}"#);
    assert_eq!(
        body["error"]["message"],
        "this idempotency key was used for a call with another query, content type or body; use a new key for a new call"
    );
    let mut running = self::ports();
    let again = running.clone();
    running.run = Rc::new(move |model, version, inputs| {
        let (response, body) = ask(&again, PREDICT, Some("k"), BODY);
        assert_eq!(
            (response.status, code(&body)),
            (409, "idempotency_in_flight")
        );
        assert_eq!(
            body["error"]["message"],
            "a call with this idempotency key is in progress; repeat it after Retry-After seconds to get its result"
        );
        assert_eq!(response.header("retry-after"), Some("1"));
        echo(model, version, inputs)
    });
    assert_eq!(ask(&running, PREDICT, Some("k"), BODY).0.status, 200);
}

#[test]
fn a_store_that_fails_closes_keyed_calls_or_lets_them_by_as_the_policy_says() {
    let ports = ports();
    ports.kv.set_failing(true);
    let (response, body) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!((response.status, code(&body)), (503, "store_unavailable"));
    assert!(response.header("retry-after").is_some());
    assert_eq!(ports.runs.get(), 0);
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 200);
    ports.set_policy("[idempotency]\non_store_failure = \"open\"\n");
    assert_eq!(ask(&ports, PREDICT, Some("k"), BODY).0.status, 200);
}

#[test]
fn an_answer_too_large_to_keep_is_remembered_as_done() {
    let ports = ports();
    ports.set_policy("[idempotency]\nmax_record_bytes = 50\n");
    let (first, _) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!(first.status, 200);
    let (second, body) = ask(&ports, PREDICT, Some("k"), BODY);
    assert_eq!((second.status, code(&body)), (409, "replay_unavailable"));
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains(first.header("x-prediction-id").unwrap()),
        "{message}"
    );
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn use_is_counted_by_model_and_reported_to_its_tenant() {
    let ports = ports();
    let (response, body) = ask(&ports, "/v1/usage", None, b"");
    assert_eq!((response.status, code(&body)), (404, "unknown_path"));
    ports.set_policy("[usage]\nenabled = true\n");
    for key in [None, Some("k"), Some("k")] {
        assert_eq!(ask(&ports, PREDICT, key, BODY).0.status, 200);
    }
    assert_eq!(ask(&ports, PREDICT, None, b"{").0.status, 400);
    // Unknown names are not counted. Otherwise callers could fill the report with arbitrary names.
    assert_eq!(
        ask(&ports, "/v1/models/x:predict", None, BODY).0.status,
        404
    );
    let (response, body) = ask(&ports, "/v1/usage", None, b"");
    assert_eq!(response.status, 200, "{body}");
    assert_eq!(
        body,
        json!({ "tenant": "anonymous", "usage": [{
            "date": "2026-01-01", "tenant": "anonymous", "model": "m",
            "requests": 4, "items": 6, "bytes": 3 * BODY.len() + 1, "compute_ms": 0.0,
        }]})
    );
    let (_, body) = ask(&ports, "/v1/usage?from=2026-01-02&to=2026-01-03", None, b"");
    assert_eq!(body["usage"], json!([]));
    for bad in [
        "from=x",
        "to=2026-02-30",
        "page_token=1",
        "days=3",
        "from=2026-01-02&to=2026-01-01",
        "from=2000-01-01",
        "page_token=a.b",
    ] {
        let (response, body) = ask(&ports, &format!("/v1/usage?{bad}"), None, b"");
        assert_eq!(
            (response.status, code(&body)),
            (400, "invalid_parameter"),
            "{bad}"
        );
    }
    ports.kv.set_failing(true);
    assert_eq!(ask(&ports, "/v1/usage", None, b"").0.status, 503);
    assert_eq!(ask(&ports, PREDICT, None, BODY).0.status, 503);
    // A call that ran nothing gets its usual answer.
    assert_eq!(ask(&ports, PREDICT, None, b"{").0.status, 400);
}

#[test]
fn a_policy_that_cannot_be_read_is_the_operators_fault_and_probes_still_answer() {
    let ports = ports();
    ports.set_policy("[idempotency]\nttl = 3\n");
    let (response, body) = ask(&ports, PREDICT, None, BODY);
    assert_eq!((response.status, code(&body)), (500, "internal"));
    assert!(!body["error"]["message"].as_str().unwrap().contains("ttl"));
    assert!(
        ports.logged.borrow()[0].contains("ttl"),
        "the operator is told, and strangers are not"
    );
    assert_eq!(ask(&ports, "/healthz", None, b"").0.status, 200);
}
