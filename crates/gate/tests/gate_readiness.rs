//! Tests readiness: the models that the server waits for, the reasons, and the callers that see them.

use crate::gate_common::{IDENTITY, borrowed, echo, request, told};
use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Response};
use penstock_testkit::InMemory;
use serde_json::{Value, json};

#[test]
fn ready_names_the_folders_that_are_no_models_to_callers_who_may_know() {
    let models: &[(&str, &str, &[&str])] = &[
        (
            "MyModel",
            IDENTITY,
            &["20251129021500", "18446744073709551615"],
        ),
        ("_under", IDENTITY, &["1"]),
        ("-dash", IDENTITY, &["1"]),
        ("two words", IDENTITY, &["1"]),
        ("versionless", IDENTITY, &["01", "v2"]),
        (".git", IDENTITY, &["1"]),
    ];
    let ports = InMemory::new(models, echo);
    let ask = |method: &str, target: &str, body: &[u8]| {
        Gate::new(ports.clone()).handle(&request(method, target, &[], body))
    };
    let of = |response: &Response| -> Value { serde_json::from_slice(&response.body).unwrap() };
    let ready = of(&ask("GET", "/ready", b""));
    let skipped = ready["skipped"].as_array().unwrap();
    let folders: Vec<&Value> = skipped.iter().map(|one| &one["folder"]).collect();
    assert_eq!(folders, ["two words", "versionless"]);
    assert!(
        skipped[0]["reason"]
            .as_str()
            .unwrap()
            .contains("rename the folder")
    );
    assert!(
        skipped[1]["reason"]
            .as_str()
            .unwrap()
            .contains("without leading zeros")
    );
    let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    for (target, version) in [
        ("/v1/models/MyModel:predict", "18446744073709551615"),
        (
            "/v1/models/MyModel@20251129021500:predict",
            "20251129021500",
        ),
        ("/v1/models/_under:predict", "1"),
        ("/v1/models/-dash:predict", "1"),
    ] {
        let response = ask("POST", target, body);
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(
            response.header("x-model-version"),
            Some(version),
            "{target}"
        );
    }
    // Names are compared byte by byte.
    assert_eq!(ask("POST", "/v1/models/mymodel:predict", body).status, 404);
    let scoped = "[auth.anonymous]\nscopes = [\"predict\"]\nfrom = \"anywhere\"\n";
    scoped.clone_into(&mut ports.policy.borrow_mut());
    assert_eq!(of(&ask("GET", "/ready", b"")).get("skipped"), None);
}

/// Returns two models, of which `b` cannot run, and a policy.
fn one_of_two(policy: &str) -> InMemory {
    let mut ports = InMemory::new(&[("a", IDENTITY, &["1"]), ("b", IDENTITY, &["1"])], echo);
    ports.ready = std::rc::Rc::new(|model| match model {
        "b" => Err(Failure {
            kind: FailureKind::NotReady,
            message: "loading".into(),
            retry_after_ms: None,
        }),
        _ => Ok(()),
    });
    ports.set_policy(policy);
    ports
}

fn ask(ports: &InMemory, target: &str, headers: &[(&str, &str)]) -> (Response, Value) {
    let response = Gate::new(ports.clone()).handle(&request("GET", target, headers, b""));
    let value = serde_json::from_slice(&response.body).unwrap();
    (response, value)
}

#[test]
fn one_model_that_cannot_run_is_told_and_does_not_keep_the_server_from_being_ready() {
    let ports = one_of_two("");
    let (response, value) = ask(&ports, "/ready", &[]);
    assert_eq!((response.status, &value["ready"]), (200, &json!(true)));
    assert_eq!(
        value["models"],
        json!([
            {"name":"a","version":"1","ready":true,"required":false},
            {"name":"b","version":"1","ready":false,"required":false,"reason":"loading"},
        ])
    );
    let (_, listed) = ask(&ports, "/v1/models", &[]);
    let ready = |at: usize| listed["models"][at]["ready"].clone();
    assert_eq!((ready(0), ready(1)), (json!(true), json!(false)));
    for (target, status) in [
        ("/v2/health/ready", 200),
        ("/v2/health/live", 200),
        ("/healthz", 200),
        ("/v2/models/a/ready", 200),
        ("/v2/models/b/ready", 503),
        ("/v2/models/c/ready", 404),
    ] {
        assert_eq!(ask(&ports, target, &[]).0.status, status, "{target}");
    }
}

#[test]
fn ready_waits_for_the_models_that_the_operator_requires() {
    for (required, status) in [
        ("[]", 200),
        ("[\"a\"]", 200),
        ("[\"b\"]", 503),
        ("[\"a\", \"b\"]", 503),
        ("[\"*\"]", 503),
        ("[\"c\"]", 503),
    ] {
        let ports = one_of_two(&format!("[models]\nrequired = {required}\n"));
        for target in ["/ready", "/v2/health/ready"] {
            let (response, value) = ask(&ports, target, &[]);
            assert_eq!(response.status, status, "{required} {target}");
            assert_eq!(value["ready"], status == 200);
            let retry = (status == 503).then_some("2");
            assert_eq!(response.header("retry-after"), retry);
        }
    }
    let ports = one_of_two("[models]\nrequired = [\"c\"]\n");
    let (_, value) = ask(&ports, "/ready", &[]);
    assert_eq!(value["models"][2]["name"], "c");
    assert_eq!(value["models"][2]["required"], true);
    let reason = value["models"][2]["reason"].as_str().unwrap();
    assert!(reason.contains("no such model"), "{reason}");
    assert_eq!(
        ask(&ports, "/v2/health/ready", &[]).1,
        json!({"ready": false})
    );
}

#[test]
fn a_host_that_takes_no_new_work_is_not_ready_and_says_why_to_callers_that_may_know() {
    let ports = one_of_two("");
    let facts = told(&ports, r#"{"not_ready":"the server is stopping"}"#);
    let (response, value) = ask(&ports, "/ready", &borrowed(&facts));
    assert_eq!(response.status, 503);
    assert_eq!(value["reason"], "the server is stopping");
    assert_eq!(value["models"][0]["ready"], true);
    let (response, value) = ask(&ports, "/v2/health/ready", &borrowed(&facts));
    assert_eq!((response.status, value), (503, json!({"ready": false})));
    assert_eq!(ask(&ports, "/healthz", &borrowed(&facts)).0.status, 200);
    let forged = [("penstock-connection", r#"x {"not_ready":"x"}"#)];
    assert_eq!(ask(&ports, "/ready", &forged).0.status, 200);
}

#[test]
fn ready_tells_what_the_host_remarks_on_models_that_answer() {
    let mut ports = one_of_two("");
    let entry = |name: &str, reason: &str| json!({ "name": name, "version": "1", "state": "READY", "reason": reason });
    let remark = "tract answers differently";
    let mut index = json!([entry("a", remark), entry("hidden", "of another")]);
    index[0]["agreement"] = json!("differs");
    ports.control = Some(std::rc::Rc::new(penstock_testkit::ports::Control {
        index: index.to_string(),
        ..penstock_testkit::ports::Control::default()
    }));
    let (response, value) = ask(&ports, "/ready", &[]);
    assert_eq!(response.status, 200);
    assert_eq!(
        value["models"],
        json!([
            {"name":"a","version":"1","ready":true,"required":false,"reason":remark,"agreement":"differs"},
            {"name":"b","version":"1","ready":false,"required":false,"reason":"loading"},
        ])
    );
}
