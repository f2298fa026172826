//! Tests the operator's own policy, which decides after the limits and before the body is read.

use crate::gate_common::{JSON, answer, send};
use penstock_gate::Response;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_policy::custom::words::{Call, RawHeaders, Refusal, RefusalKind};
use penstock_testkit::models::{ECHO, echo};
use penstock_testkit::{InMemory, ScriptedPolicy};
use serde_json::Value;

const PREDICT: &str = "/v1/models/m:predict";
const BODY: &[u8] = br#"{"inputs":{"a":[[1,2],[3,4]]}}"#;

fn with(policy: ScriptedPolicy) -> InMemory {
    let mut ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
    ports.custom = policy;
    ports
}

fn ask(ports: &InMemory, method: &str, target: &str, more: &[(&str, &str)]) -> (Response, Value) {
    let headers = [JSON, more].concat();
    let body = if method == "POST" { BODY } else { b"" };
    answer(ports, method, target, &headers, body)
}

fn log(ports: &InMemory) -> Vec<String> {
    ports.custom.log.borrow().clone()
}

fn header(name: &str, value: &str) -> RawHeaders {
    vec![(name.to_owned(), value.as_bytes().to_vec())]
}

fn refusing(kind: RefusalKind) -> ScriptedPolicy {
    ScriptedPolicy::new(&[], move |_| {
        Err(Refusal {
            kind,
            message: "not on Sundays".to_owned(),
            retry_after_s: 7,
            headers: header("x-day", "sunday"),
        })
    })
}

#[test]
fn a_call_shows_the_headers_that_the_policy_names() {
    let named = ["x-team", "penstock-connection"];
    let ports = with(ScriptedPolicy::new(&named, |call| {
        let team = call.headers.iter().find(|(name, _)| *name == "x-team");
        Ok(team.map_or_else(Vec::new, |(_, team)| {
            vec![("x-seen".to_owned(), team.to_vec())]
        }))
    }));
    let shown = [
        ("x-team", "red"),
        ("x-other", "1"),
        ("penstock-connection", "{}"),
    ];
    let (answer, _) = ask(&ports, "POST", &format!("{PREDICT}?explain=false"), &shown);
    assert_eq!((answer.status, answer.header("x-seen")), (200, Some("red")));
    let admitted =
        "admit anonymous predict m POST /v1/models/m:predict?explain=false 30 [\"x-team\"]";
    let [first, second] = &log(&ports)[..] else {
        panic!("{:?}", log(&ports))
    };
    assert_eq!(first, admitted);
    assert!(
        second.starts_with("settle 2 items, ") && second.ends_with("failed: false"),
        "{second}"
    );
}

#[test]
fn a_refusal_runs_nothing_and_says_what_the_policy_says() {
    let kinds = [
        (RefusalKind::Forbidden, 403, "permission_denied", None),
        (RefusalKind::UsedUp, 429, "quota_exceeded", Some("7")),
        (
            RefusalKind::StoreFailed,
            503,
            "store_unavailable",
            Some("7"),
        ),
    ];
    for (kind, status, code, retry_after) in kinds {
        let ports = with(refusing(kind));
        ports.set_policy("[[limits]]\nname = \"busy\"\nalgorithm = \"concurrency\"\nlimit = 1\n");
        for _ in 0..3 {
            let (answer, body) = ask(&ports, "POST", PREDICT, &[]);
            assert_eq!(answer.status, status, "{body}");
            assert_eq!(body["error"]["code"], code);
            assert_eq!(body["error"]["message"], "not on Sundays");
            assert_eq!(answer.header("retry-after"), retry_after);
            assert_eq!(answer.header("x-day"), Some("sunday"));
        }
        assert_eq!(ports.runs.get(), 0);
        // Each call returns its place to the concurrency limit.
        let limits = ports.quota_log.borrow().clone();
        assert_eq!(
            limits.iter().filter(|entry| *entry == "settle 0").count(),
            3
        );
    }
}

#[test]
fn a_call_that_a_limit_refuses_never_reaches_the_policy() {
    let ports = with(ScriptedPolicy::new(&[], |_| Ok(Vec::new())));
    ports.set_policy("[[limits]]\nname = \"one\"\nlimit = 1\nwindow_s = 60\n");
    let statuses = [(); 3].map(|()| ask(&ports, "POST", PREDICT, &[]).0.status);
    assert_eq!(statuses, [200, 429, 429]);
    assert_eq!(log(&ports).len(), 2, "{:?}", log(&ports));
}

/// Headers that a policy may not set, because they belong to the server, and one that it may.
const HEADERS: [(&str, &str); 10] = [
    ("x-good", "1"),
    ("x-model-version", "9"),
    ("x-request-id", "mine"),
    ("x-prediction-id", "mine"),
    ("x-ratelimit-limit", "9"),
    ("access-control-allow-origin", "*"),
    ("vary", "cookie"),
    ("www-authenticate", "Basic"),
    ("content-length", "5"),
    ("x-split", "1\r\nx-more: 1"),
];

#[test]
fn a_header_of_the_policy_changes_none_of_the_answer_and_bad_ones_are_logged() {
    let headers = || -> RawHeaders {
        let headers = HEADERS.iter().chain([&("x-good", "2")]);
        let raw = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        headers.map(raw).collect()
    };
    let refuse = move |_: &Call<'_>| {
        Err(Refusal {
            kind: RefusalKind::Forbidden,
            message: "closed".to_owned(),
            retry_after_s: 0,
            headers: headers(),
        })
    };
    let policies = [
        (200, ScriptedPolicy::new(&[], move |_| Ok(headers()))),
        (403, ScriptedPolicy::new(&[], refuse)),
    ];
    for (status, policy) in policies {
        let ports = with(policy);
        ports.set_policy(
            "[cors]\nallowed_origins = [\"https://a.example\"]\n[[limits]]\nname = \"l\"\nlimit = 5\nwindow_s = 60\n",
        );
        let more = [("origin", "https://a.example"), ("accept-encoding", "gzip")];
        let (answer, _) = ask(&ports, "POST", PREDICT, &more);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-good"), Some("1"));
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("https://a.example")
        );
        for header in &answer.headers {
            let value = String::from_utf8_lossy(&header.value).into_owned();
            let times = answer
                .headers
                .iter()
                .filter(|other| other.name == header.name)
                .count();
            // `vary` is a list, and each line adds to it.
            assert!(
                times == 1 || header.name == "vary",
                "{}: {times} times",
                header.name
            );
            let theirs = HEADERS
                .iter()
                .any(|(name, text)| *name == header.name && *text == value);
            assert!(
                !theirs || header.name == "x-good",
                "{}: {value}",
                header.name
            );
        }
        let logged = ports.logged.borrow();
        let line = logged
            .iter()
            .find(|line| line.contains("custom policy"))
            .unwrap();
        for name in ["content-length", "x-request-id", "x-split", "vary", "twice"] {
            assert!(line.contains(name), "{name}: {line}");
        }
    }
}

#[test]
fn every_surface_asks_once_for_a_call() {
    let several = r#"{"requests":[{"inputs":{"a":[[1,2]]}},{"inputs":{"a":[[3,4]]}}]}"#;
    let infer = r#"{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;
    for (target, route, body) in [
        ("/v1/models/m:batchPredict", "predict", several),
        ("/v2/models/m/infer", "infer", infer),
        (
            "/v1/models/m:predict?explain=true",
            "explain",
            r#"{"inputs":{"a":[[1,2]]}}"#,
        ),
    ] {
        let ports = with(ScriptedPolicy::new(&[], |_| Ok(header("x-custom", "1"))));
        let response = send(&ports, "POST", target, JSON, body.as_bytes());
        assert_eq!(response.header("x-custom"), Some("1"), "{target}");
        let log = log(&ports);
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(
            log[0].starts_with(&format!("admit anonymous {route} m ")),
            "{log:?}"
        );
    }
}

#[test]
fn a_policy_that_cannot_be_opened_fails_calls_and_no_probe() {
    let ports = with(ScriptedPolicy {
        fault: Some("`custom.limit` is missing".to_owned()),
        ..ScriptedPolicy::default()
    });
    let (answer, body) = ask(&ports, "POST", PREDICT, &[]);
    assert_eq!(
        (answer.status, body["error"]["code"].as_str()),
        (500, Some("internal"))
    );
    assert!(!body.to_string().contains("custom.limit"), "{body}");
    assert!(
        ports
            .logged
            .borrow()
            .iter()
            .any(|line| line.contains("`custom.limit` is missing"))
    );
    assert_eq!(ask(&ports, "GET", "/healthz", &[]).0.status, 200);
}

#[test]
fn every_admitted_call_is_settled_however_it_ends() {
    let policy = || ScriptedPolicy::new(&[], |_| Ok(Vec::new()));
    // The last run failed; a refused input and a full queue are no fault of the model.
    let failures = [
        (FailureKind::Failed, true),
        (FailureKind::NotReady, true),
        (FailureKind::InputsRejected, false),
        (FailureKind::Overloaded, false),
    ];
    for (kind, failed) in failures {
        let mut ports = InMemory::new(&[("m", ECHO, &["1"])], move |_, _, _| {
            Err(Failure {
                kind,
                message: "it fails".into(),
                retry_after_ms: None,
            })
        });
        ports.custom = policy();
        ask(&ports, "POST", PREDICT, &[]);
        let end = log(&ports).pop().unwrap();
        assert!(
            end.ends_with(&format!("failed: {failed}")),
            "{kind:?}: {end}"
        );
    }

    let ports = with(policy());
    ask(&ports, "POST", "/v1/models/nobody:predict", &[]);
    ask(&ports, "GET", "/v1/models", &[]);
    let key = [("idempotency-key", "k1")];
    ask(&ports, "POST", PREDICT, &key);
    let (replay, _) = ask(&ports, "POST", PREDICT, &key);
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    let log = log(&ports);
    let ends: Vec<&str> = log
        .iter()
        .skip(1)
        .step_by(2)
        .map(|entry| &entry[..14])
        .collect();
    assert_eq!(
        ends,
        [
            "settle 0 items",
            "settle 0 items",
            "settle 2 items",
            "settle 0 items"
        ],
        "{log:?}"
    );
    assert!(
        log[2].starts_with("admit anonymous models - GET /v1/models"),
        "{log:?}"
    );
}

#[test]
fn the_built_in_policy_is_asked_nothing_and_probes_never_are() {
    let ports = with(ScriptedPolicy::default());
    assert_eq!(ask(&ports, "POST", PREDICT, &[]).0.status, 200);
    assert!(log(&ports).is_empty());
    let ports = with(refusing(RefusalKind::Forbidden));
    assert_eq!(ask(&ports, "GET", "/ready", &[]).0.status, 200);
    assert!(log(&ports).is_empty());
}
