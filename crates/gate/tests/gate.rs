//! The gate over in-memory ports: every step of its flow, and everything that can stop it.

use penstock_core::ModelVersion;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use serde_json::{Value, json};

const IDENTITY: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 4]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 4]
[limits]
max_body_bytes = 4096
"#;

const ADAPTED: &str = r#"
description = "has an adapter"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 1]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 1]
[adapter]
name = "length"
"#;

fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let rename = |mut t: Tensor| {
        t.name = if t.name == "a" {
            "b".into()
        } else {
            "y".into()
        };
        t
    };
    Ok(inputs.into_iter().map(rename).collect())
}

fn ports() -> InMemory {
    InMemory::new(
        &[
            ("identity", IDENTITY, &["1", "2", "10"]),
            ("adapted", ADAPTED, &["1"]),
            ("broken", "description = 3", &["1"]),
            ("empty", IDENTITY, &[]),
            ("Not A Model", IDENTITY, &["1"]),
        ],
        echo,
    )
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    Request {
        method: method.into(),
        target: target.into(),
        headers: headers
            .iter()
            .map(|(n, v)| Header {
                name: (*n).into(),
                value: v.as_bytes().to_vec(),
            })
            .collect(),
        body: body.to_vec(),
    }
}

fn call(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> (Response, Value) {
    let response = Gate::new(ports()).handle(&request(method, target, headers, body));
    let body = serde_json::from_slice(&response.body).expect("every body is JSON");
    (response, body)
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[test]
fn predict_answers_with_ids_the_version_and_one_prediction_for_each_item() {
    let body = br#"{"inputs":{"a":[[1,2,3,4],[5,6,7,8]]},"id":"mine"}"#;
    let (response, value) = call("POST", "/v1/models/identity:predict", JSON, body);
    assert_eq!(response.status, 200, "{value}");
    assert_eq!(value["predictions"][1]["b"], json!([5.0, 6.0, 7.0, 8.0]));
    assert_eq!(
        (&value["model"], &value["model_version"]),
        (&json!("identity"), &json!("10"))
    );
    assert_eq!(value["id"], "mine");
    assert_eq!(response.header("x-model-version"), Some("10"));
    assert_eq!(
        response.header("x-prediction-id"),
        value["prediction_id"].as_str()
    );
    assert_eq!(
        response.header("x-request-id"),
        value["request_id"].as_str()
    );
    assert!(value["latency_ms"].is_number());
}

#[test]
fn a_pinned_version_is_the_one_that_answers() {
    for (target, version) in [
        ("/v1/models/identity/versions/2:predict", "2"),
        ("/v1/models/identity:predict", "10"),
    ] {
        let (response, _) = call("POST", target, JSON, br#"{"inputs":{"a":[[1,2,3,4]]}}"#);
        assert_eq!(response.header("x-model-version"), Some(version));
    }
}

#[test]
fn infer_speaks_the_open_inference_protocol() {
    let body = br#"{"id":"7","inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[{"name":"b"}]}"#;
    let (response, value) = call("POST", "/v2/models/identity/versions/1/infer", JSON, body);
    assert_eq!(response.status, 200, "{value}");
    assert_eq!(
        (&value["model_name"], &value["model_version"]),
        (&json!("identity"), &json!("1"))
    );
    assert_eq!(value["id"], "7");
    let output = &value["outputs"][0];
    assert_eq!(
        (&output["name"], &output["datatype"]),
        (&json!("b"), &json!("FP32"))
    );
    assert_eq!(
        (&output["shape"], &output["data"]),
        (&json!([1, 4]), &json!([1.0, 2.0, 3.0, 4.0]))
    );
}

#[test]
fn metadata_names_versions_and_ports() {
    let (_, v2) = call("GET", "/v2/models/identity", &[], b"");
    assert_eq!(v2["versions"], json!(["1", "2", "10"]));
    assert_eq!(
        v2["inputs"],
        json!([{"name":"a","datatype":"FP32","shape":[-1,4]}])
    );
    let (_, v1) = call("GET", "/v1/models/identity", &[], b"");
    assert_eq!(v1["limits"]["max_body_bytes"], 4096);
    assert_eq!(v1["inputs"][0]["shape"], json!(["N", 4]));
    let (_, list) = call("GET", "/v1/models", &[], b"");
    let names: Vec<&Value> = list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["name"])
        .collect();
    assert_eq!(
        names,
        ["adapted", "broken", "identity"],
        "folders that are no models are left out"
    );
    let (_, server) = call("GET", "/v2/", &[], b"");
    assert_eq!(server["name"], "penstock");
}

#[test]
fn an_adapter_turns_content_into_an_answer() {
    let predict = |content_type: &str, body: &[u8]| {
        call(
            "POST",
            "/v1/models/adapted:predict",
            &[("content-type", content_type)],
            body,
        )
    };
    let (_, value) = predict("text/plain", b"abc");
    assert_eq!(value["predictions"], json!([{"length": 3}]), "{value}");
    let (_, value) = predict("application/x-www-form-urlencoded", b"abcd");
    assert_eq!(value["predictions"], json!([{"length": 4}]));
    let (_, value) = predict("text/plain", b"known");
    assert_eq!(value["predictions"], json!([{"label": "known"}]));
    let (_, value) = predict("application/json", br#"{"inputs":{"x":[[9]]}}"#);
    assert_eq!(
        value["predictions"],
        json!([{"y": [9.0]}]),
        "JSON means tensors, also here"
    );
    let (response, value) = predict("image/png", b"abc");
    assert_eq!(
        (response.status, &value["error"]["code"]),
        (415, &json!("unsupported_media_type"))
    );
    let (response, value) = predict("text/plain", b"");
    assert_eq!(
        (response.status, &value["error"]["details"][0]["rule"]),
        (422, &json!("invalid_content"))
    );
    let (response, value) = predict("text/plain", b"broken");
    assert_eq!(
        (response.status, &value["error"]["code"]),
        (500, &json!("internal"))
    );
}

#[test]
fn each_mistake_has_its_own_answer() {
    let predict = "/v1/models/identity:predict";
    let good: &[u8] = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    let large = vec![b' '; 5000];
    for (method, target, headers, body, status, code) in [
        ("GET", "/nowhere", &[][..], &b""[..], 404, "unknown_path"),
        ("GET", predict, &[], b"", 405, "method_not_allowed"),
        (
            "POST",
            "/v1/models/nope:predict",
            JSON,
            good,
            404,
            "unknown_model",
        ),
        (
            "POST",
            "/v1/models/..%2F..%2Fetc:predict",
            JSON,
            good,
            404,
            "unknown_model",
        ),
        (
            "POST",
            "/v1/models/identity/versions/3:predict",
            JSON,
            good,
            404,
            "unknown_version",
        ),
        (
            "POST",
            "/v1/models/identity/versions/01:predict",
            JSON,
            good,
            404,
            "unknown_version",
        ),
        ("POST", predict, JSON, b"{", 400, "malformed_json"),
        ("POST", predict, JSON, b"", 400, "malformed_json"),
        ("POST", predict, JSON, b"[]", 400, "invalid_body"),
        (
            "POST",
            predict,
            JSON,
            br#"{"inputs":{"a":[[1,2,3]]}}"#,
            422,
            "invalid_inputs",
        ),
        (
            "POST",
            predict,
            JSON,
            br#"{"inputs":{"b":[[1,2,3,4]]}}"#,
            422,
            "invalid_inputs",
        ),
        ("POST", predict, JSON, &large, 413, "body_too_large"),
        (
            "POST",
            predict,
            &[("content-type", "text/plain")],
            good,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            predict,
            &[
                ("content-type", "application/json"),
                ("content-encoding", "br"),
            ],
            good,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            predict,
            &[
                ("content-type", "application/json"),
                ("accept", "text/html"),
            ],
            good,
            406,
            "not_acceptable",
        ),
        (
            "POST",
            "/v1/models/broken:predict",
            JSON,
            good,
            503,
            "model_not_ready",
        ),
        (
            "POST",
            "/v1/models/empty:predict",
            JSON,
            good,
            404,
            "unknown_model",
        ),
        ("GET", "/errors/nope", &[], b"", 404, "unknown_path"),
    ] {
        let (response, value) = call(method, target, headers, body);
        assert_eq!(
            (response.status, &value["error"]["code"]),
            (status, &json!(code)),
            "{target} {value}"
        );
        assert!(response.header("x-request-id").is_some());
    }
}

#[test]
fn what_exists_is_named_when_what_was_asked_for_does_not() {
    let (_, value) = call("GET", "/v1/models/nope", &[], b"");
    assert_eq!(
        value["error"]["available"],
        json!(["adapted", "broken", "identity"])
    );
    let (_, value) = call("GET", "/v2/models/identity/versions/9", &[], b"");
    assert_eq!(value["available"], json!(["1", "2", "10", "latest"]));
    let (response, _) = call("DELETE", "/v1/models", &[], b"");
    assert_eq!(response.header("allow"), Some("GET, HEAD"));
}

#[test]
fn a_callers_request_id_is_kept_and_an_unusable_one_replaced() {
    let (response, value) = call("GET", "/nowhere", &[("x-request-id", "mine-1")], b"");
    assert_eq!(response.header("x-request-id"), Some("mine-1"));
    assert_eq!(value["error"]["request_id"], "mine-1");
    let (response, _) = call("GET", "/healthz", &[("x-request-id", "not mine")], b"");
    assert!(response.header("x-request-id").unwrap().starts_with("req_"));
}

#[test]
fn each_failure_of_a_model_has_its_status_and_never_runs_twice() {
    use FailureKind::*;
    for (kind, status, code, retry) in [
        (NotReady, 503, "model_not_ready", true),
        (Overloaded, 503, "overloaded", true),
        (DeadlineExceeded, 504, "deadline_exceeded", false),
        (InputsRejected, 422, "model_rejected_inputs", false),
        (Failed, 500, "inference_failed", false),
    ] {
        let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], move |_, _, _| {
            Err(Failure {
                kind,
                message: "scripted".into(),
                retry_after_ms: None,
            })
        });
        let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
        let response = Gate::new(ports.clone()).handle(&request(
            "POST",
            "/v1/models/identity:predict",
            JSON,
            body,
        ));
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            (response.status, &value["error"]["code"]),
            (status, &json!(code))
        );
        assert_eq!(response.header("retry-after").is_some(), retry, "{code}");
        assert_eq!(ports.runs.get(), 1);
    }
}

#[test]
fn a_runtime_failure_on_sizes_the_caller_chose_is_the_callers() {
    let open = IDENTITY.replace("[\"N\", 4]", "[\"N\", \"W\"]");
    let ports = InMemory::new(&[("open", open.as_str(), &["1"])], |_, _, _| {
        Err(Failure {
            kind: FailureKind::Failed,
            message: "W is too large".into(),
            retry_after_ms: None,
        })
    });
    let body = br#"{"inputs":{"a":[[1,2,3,4,5]]}}"#;
    let response = Gate::new(ports).handle(&request("POST", "/v1/models/open:predict", JSON, body));
    assert_eq!(response.status, 422);
}

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
    let scoped =
        "[auth.anonymous]\nscopes = [\"ready\", \"models:MyModel\"]\nfrom = \"anywhere\"\n";
    scoped.clone_into(&mut ports.policy.borrow_mut());
    assert_eq!(of(&ask("GET", "/ready", b"")).get("skipped"), None);
}

#[test]
fn ready_is_503_until_every_version_of_every_model_could_run() {
    let mut ports = InMemory::new(&[("a", IDENTITY, &["1"]), ("b", IDENTITY, &["1"])], echo);
    let ask = |ports: &InMemory, target: &str| {
        Gate::new(ports.clone()).handle(&request("GET", target, &[], b""))
    };
    assert_eq!(ask(&ports, "/ready").status, 200);
    ports.ready = std::rc::Rc::new(|model| {
        if model == "b" {
            Err(Failure {
                kind: FailureKind::NotReady,
                message: "loading".into(),
                retry_after_ms: None,
            })
        } else {
            Ok(())
        }
    });
    let response = ask(&ports, "/ready");
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("2"))
    );
    assert_eq!(
        value["models"][1],
        json!({"name":"b","version":"1","ready":false,"reason":"loading"})
    );
    for (target, status) in [
        ("/v2/health/ready", 503),
        ("/v2/health/live", 200),
        ("/healthz", 200),
        ("/v2/models/a/ready", 200),
        ("/v2/models/b/ready", 503),
        ("/v2/models/c/ready", 404),
    ] {
        assert_eq!(ask(&ports, target).status, status, "{target}");
    }
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
fn numbers_json_cannot_say_are_null_and_counted() {
    let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], |_, _, mut inputs| {
        inputs[0].name = "b".into();
        inputs[0].data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        inputs[0].data[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
        Ok(inputs)
    });
    let mut gate = Gate::new(ports);
    let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    let response = gate.handle(&request("POST", "/v1/models/identity:predict", JSON, body));
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(value["predictions"][0]["b"], json!([null, 2.0, null, 4.0]));
    assert_eq!(value["non_finite"], 2);
    let body = br#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let response = gate.handle(&request("POST", "/v2/models/identity/infer", JSON, body));
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(value["parameters"]["non_finite"], "2");
}

#[test]
fn a_version_the_engine_has_not_loaded_takes_no_call_that_did_not_pin_it() {
    let mut ports = InMemory::new(
        &[("a", IDENTITY, &["1"]), ("b", IDENTITY, &["1", "2"])],
        echo,
    );
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = asked.clone();
    // The fake engine is asked by name only; the first question about `b` is about version 2.
    ports.ready = std::rc::Rc::new(move |_| {
        count.set(count.get() + 1);
        match count.get() {
            1 => Err(Failure {
                kind: FailureKind::NotReady,
                message: "not loaded".into(),
                retry_after_ms: None,
            }),
            _ => Ok(()),
        }
    });
    let mut gate = Gate::new(ports);
    let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    for _ in 0..3 {
        let response = gate.handle(&request("POST", "/v1/models/b:predict", JSON, body));
        assert_eq!(response.header("x-model-version"), Some("1"));
    }
    assert_eq!(
        asked.get(),
        2,
        "once it is known, the engine is not asked again"
    );
}

#[test]
fn the_engines_own_wait_is_told_in_whole_seconds_and_the_default_where_it_has_none() {
    for (kind, retry_after_ms, seconds) in [
        (FailureKind::Overloaded, None, "1"),
        (FailureKind::Overloaded, Some(0), "1"),
        (FailureKind::Overloaded, Some(250), "1"),
        (FailureKind::Overloaded, Some(1_000), "1"),
        (FailureKind::Overloaded, Some(1_001), "2"),
        (FailureKind::Overloaded, Some(u64::MAX), "3600"),
        (FailureKind::NotReady, None, "2"),
        (FailureKind::NotReady, Some(8_400), "9"),
    ] {
        let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], move |_, _, _| {
            Err(Failure {
                kind,
                message: "scripted".into(),
                retry_after_ms,
            })
        });
        let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
        let path = "/v1/models/identity:predict";
        let response = Gate::new(ports).handle(&request("POST", path, JSON, body));
        assert_eq!(response.status, 503);
        assert_eq!(response.header("retry-after"), Some(seconds));
    }
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
