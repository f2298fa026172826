//! Tests the gate over in-memory ports: answers of the model routes, and every reason to refuse a request.

use crate::gate_common::{IDENTITY, JSON, call, echo, request};
use penstock_gate::Gate;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use serde_json::{Value, json};

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
    // The fake engine knows only the model's name. Its first query about `b` concerns version 2.
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
fn outputs_that_break_the_contract_are_the_operators_fault_named_and_logged() {
    let datatype = penstock_tensor::Datatype::Fp32;
    let answers: [(&str, Vec<Tensor>, &str); 4] = [
        (
            "another shape",
            vec![tensor("b", datatype, &[1, 3])],
            "write shape = [\"N\", 3]",
        ),
        (
            "another number of items",
            vec![tensor("b", datatype, &[2, 4])],
            "with N = 1",
        ),
        (
            "another name",
            vec![tensor("c", datatype, &[1, 4])],
            "output \"b\" was not returned",
        ),
        (
            "a type of the same size",
            vec![tensor("b", penstock_tensor::Datatype::Int32, &[1, 4])],
            "write datatype = \"INT32\"",
        ),
    ];
    for (what, outputs, told) in answers {
        let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], move |_, _, _| {
            Ok(outputs.clone())
        });
        let body = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
        let call = request("POST", "/v1/models/identity:predict", JSON, body);
        let response = Gate::new(ports.clone()).handle(&call);
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, 500, "{what}: {value}");
        assert_eq!(value["error"]["code"], "model_contract_broken", "{what}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{what}: {message}");
        let logged = ports.logged.borrow();
        assert_eq!(logged.len(), 1, "{what}: {logged:?}");
        let line = "model identity version 1: output \"b\"";
        assert!(
            logged[0].starts_with(line) && logged[0].contains(told),
            "{logged:?}"
        );
    }
}

fn tensor(name: &str, datatype: penstock_tensor::Datatype, shape: &[u64]) -> Tensor {
    let elements: u64 = shape.iter().product();
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        data: vec![0; 4 * elements as usize].into(),
    }
}
