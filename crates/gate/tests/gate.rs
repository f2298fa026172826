//! Tests the gate over in-memory ports: every step of a request, and every reason to end it.

use penstock_core::ModelVersion;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use penstock_testkit::models::ADAPTED;
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

/// Returns the header in which the host states facts about a connection, with its token.
fn told(ports: &InMemory, facts: &str) -> [(&'static str, String); 1] {
    let token = "0123456789abcdef0123456789abcdef";
    ports
        .environment
        .borrow_mut()
        .insert("PENSTOCK_HOST_TOKEN".into(), token.into());
    [("penstock-connection", format!("{token} {facts}"))]
}

fn borrowed<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(n, v)| (*n, v.as_str())).collect()
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
        data: vec![0; 4 * elements as usize],
    }
}

#[test]
fn ready_tells_what_the_host_remarks_on_models_that_answer() {
    let mut ports = one_of_two("");
    let entry = |name: &str, reason: &str| json!({ "name": name, "version": "1", "state": "READY", "reason": reason });
    let remark = "tract answers differently";
    let index = json!([entry("a", remark), entry("hidden", "of another")]);
    ports.control = Some(std::rc::Rc::new(penstock_testkit::ports::Control {
        index: index.to_string(),
        ..penstock_testkit::ports::Control::default()
    }));
    let (response, value) = ask(&ports, "/ready", &[]);
    assert_eq!(response.status, 200);
    assert_eq!(
        value["models"],
        json!([
            {"name":"a","version":"1","ready":true,"required":false,"reason":remark},
            {"name":"b","version":"1","ready":false,"required":false,"reason":"loading"},
        ])
    );
}
