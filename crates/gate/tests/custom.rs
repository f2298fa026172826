//! Tests the operator's own policy, which decides after the limits and before the body is read.

use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_policy::custom::words::{RawHeaders, Refusal, RefusalKind};
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

fn send(ports: &InMemory, method: &str, target: &str, more: &[(&str, &str)]) -> (Response, Value) {
    let headers = [("content-type", "application/json")].iter().chain(more);
    let request = Request {
        method: method.into(),
        target: target.into(),
        headers: headers
            .map(|(name, value)| Header {
                name: (*name).into(),
                value: (*value).into(),
            })
            .collect(),
        body: match method {
            "POST" => BODY.to_vec(),
            _ => Vec::new(),
        },
    };
    let response = Gate::new(ports.clone()).handle(&request);
    let body = serde_json::from_slice(&response.body).expect("every body is JSON");
    (response, body)
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
    let (answer, _) = send(&ports, "POST", &format!("{PREDICT}?explain=false"), &shown);
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
            let (answer, body) = send(&ports, "POST", PREDICT, &[]);
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
    let statuses = [(); 3].map(|()| send(&ports, "POST", PREDICT, &[]).0.status);
    assert_eq!(statuses, [200, 429, 429]);
    assert_eq!(log(&ports).len(), 2, "{:?}", log(&ports));
}

#[test]
fn a_header_of_the_policy_changes_none_of_the_answer_and_a_bad_one_is_logged() {
    let ports = with(ScriptedPolicy::new(&[], |_| {
        let headers = [
            ("x-good", "1"),
            ("x-model-version", "9"),
            ("content-length", "5"),
            ("x-split", "1\r\nx-more: 1"),
        ];
        let headers = headers.into_iter();
        Ok(headers
            .map(|(name, value)| (name.into(), value.into()))
            .collect())
    }));
    let (answer, _) = send(&ports, "POST", PREDICT, &[]);
    let values = |name: &str| -> Vec<String> {
        let found = answer.headers.iter().filter(|header| header.name == name);
        found
            .map(|h| String::from_utf8_lossy(&h.value).into_owned())
            .collect()
    };
    assert_eq!(answer.status, 200);
    assert_eq!(
        (values("x-good"), values("x-model-version")),
        (vec!["1".into()], vec!["1".into()])
    );
    assert!(values("content-length").is_empty() && values("x-split").is_empty());
    let logged = ports.logged.borrow();
    assert!(
        logged.iter().any(|line| line.contains("`content-length`")),
        "{logged:?}"
    );
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
        send(&ports, "POST", PREDICT, &[]);
        let end = log(&ports).pop().unwrap();
        assert!(
            end.ends_with(&format!("failed: {failed}")),
            "{kind:?}: {end}"
        );
    }

    let ports = with(policy());
    send(&ports, "POST", "/v1/models/nobody:predict", &[]);
    send(&ports, "GET", "/v1/models", &[]);
    let key = [("idempotency-key", "k1")];
    send(&ports, "POST", PREDICT, &key);
    let (replay, _) = send(&ports, "POST", PREDICT, &key);
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
    assert_eq!(send(&ports, "POST", PREDICT, &[]).0.status, 200);
    assert!(log(&ports).is_empty());
    let ports = with(refusing(RefusalKind::Forbidden));
    assert_eq!(send(&ports, "GET", "/ready", &[]).0.status, 200);
    assert!(log(&ports).is_empty());
}
