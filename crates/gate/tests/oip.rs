//! Tests the Open Inference Protocol with Triton's extensions over in-memory ports: binary tensors, classes, priority
//! and timeout, `generate`, and the configuration of models.

use crate::gate_common::{json_of, send};
use flate2::Compression;
use flate2::write::GzEncoder;
use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::ports::Failure;
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Datatype, Tensor};
use penstock_testkit::InMemory;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write;

const SCORES: &str = r#"
description = "gives back what it gets as scores, and the number of items"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 3]
allow_non_finite = true
[[outputs]]
name = "scores"
datatype = "FP32"
shape = ["N", 3]
labels = ["cat", "dog", "cow"]
[[outputs]]
name = "count"
datatype = "INT64"
shape = ["N"]
[limits]
max_body_bytes = 4096
max_items = 8
[batching]
priority_levels = 4
"#;

const TEXT: &str = r#"
description = "gives back its text"
[[inputs]]
name = "text_input"
datatype = "BYTES"
shape = ["N", 1]
[[inputs]]
name = "temperature"
datatype = "FP32"
shape = ["N", 1]
[[outputs]]
name = "text_output"
datatype = "BYTES"
shape = ["N", 1]
"#;

fn run(model: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let mut inputs = inputs;
    if model == "text" {
        let mut text = inputs.swap_remove(0);
        text.name = "text_output".into();
        return Ok(vec![text]);
    }
    let mut scores = inputs.remove(0);
    scores.name = "scores".into();
    let items = scores.shape[0];
    let count = Tensor {
        name: "count".into(),
        datatype: Datatype::Int64,
        shape: vec![items],
        data: items.to_le_bytes().repeat(items as usize).into(),
    };
    Ok(vec![scores, count])
}

fn ports() -> InMemory {
    InMemory::new(&[("m", SCORES, &["1", "2"]), ("text", TEXT, &["1"])], run)
}

fn post(ports: &InMemory, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    send(ports, "POST", target, headers, body)
}

fn infer(headers: &[(&str, &str)], body: &[u8]) -> Response {
    post(&ports(), "/v2/models/m/infer", headers, body)
}

/// Returns the JSON of an answer and the bytes after it.
fn cut(response: &Response) -> (Value, &[u8]) {
    let length: usize = response.header(LENGTH).expect("a length").parse().unwrap();
    let (json, tail) = response.body.split_at(length);
    (serde_json::from_slice(json).unwrap(), tail)
}

const LENGTH: &str = "inference-header-content-length";
const OCTETS: &str = "application/octet-stream";

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

const X: [f32; 6] = [0.25, 0.5, 0.125, 3.0, -1.0, 2.0];

/// Returns a request with the bytes of `x` after its JSON, and the JSON's length.
fn binary_request(more: &str) -> (Vec<u8>, String) {
    let json = format!(
        "{{\"id\":\"7\",\"inputs\":[{{\"name\":\"x\",\"shape\":[2,3],\"datatype\":\"FP32\",\
         \"parameters\":{{\"binary_data_size\":24}}}}]{more}}}"
    );
    (
        [json.as_bytes(), &floats(&X)].concat(),
        json.len().to_string(),
    )
}

const ALL_BINARY: &str = ",\"parameters\":{\"binary_data_output\":true}";

#[test]
fn tensors_go_in_and_out_as_bytes_behind_the_json() {
    let (body, length) = binary_request(ALL_BINARY);
    let response = infer(&[("content-type", OCTETS), (LENGTH, &length)], &body);
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some(OCTETS));
    let (json, tail) = cut(&response);
    assert_eq!(
        (&json["id"], &json["model_name"], &json["model_version"]),
        (&json!("7"), &json!("m"), &json!("2"))
    );
    assert_eq!(
        json["outputs"],
        json!([
            {"name": "scores", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
            {"name": "count", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        ])
    );
    assert_eq!(tail, [floats(&X), 2u64.to_le_bytes().repeat(2)].concat());
    assert_eq!(
        response.header("x-prediction-id"),
        json["parameters"]["prediction_id"].as_str()
    );
}

#[test]
fn each_output_has_the_form_that_is_asked_for_it() {
    let (body, length) = binary_request(
        ",\"outputs\":[{\"name\":\"count\",\"parameters\":{\"binary_data\":true}},{\"name\":\"scores\"}]",
    );
    let response = infer(&[(LENGTH, &length)], &body);
    let (json, tail) = cut(&response);
    assert_eq!(json["outputs"][0]["data"], json!(X.map(f64::from)));
    assert_eq!(
        json["outputs"][1]["parameters"],
        json!({"binary_data_size": 16})
    );
    assert_eq!(tail.len(), 16);
    // An answer without binary outputs is only JSON.
    let (body, length) = binary_request(",\"outputs\":[{\"name\":\"count\"}]");
    let response = infer(&[(LENGTH, &length)], &body);
    assert_eq!(
        (response.header("content-type"), response.header(LENGTH)),
        (Some("application/json"), None)
    );
    assert_eq!(json_of(&response)["outputs"][0]["data"], json!([2, 2]));
}

#[test]
fn a_caller_who_accepts_no_json_gets_every_output_as_bytes() {
    let json = br#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}],"outputs":[{"name":"scores"}]}"#;
    let response = infer(&[("accept", OCTETS)], json);
    assert_eq!(cut(&response).1, floats(&[1.0, 2.0, 3.0]));
    for accept in [
        "*/*",
        "application/json",
        "application/octet-stream, application/json;q=0.1",
    ] {
        let response = infer(&[("accept", accept)], json);
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{accept}"
        );
    }
    assert_eq!(infer(&[("accept", "text/html")], json).status, 406);
    let predict = post(
        &ports(),
        "/v1/models/m:predict",
        &[("accept", OCTETS)],
        b"{}",
    );
    assert_eq!(predict.status, 406);
}

#[test]
fn the_length_counts_the_json_before_it_is_compressed() {
    let (body, length) = binary_request(ALL_BINARY);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&body).unwrap();
    let zstd = zstd::encode_all(body.as_slice(), 3).unwrap();
    for (coding, compressed) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let headers = [("content-encoding", coding), (LENGTH, length.as_str())];
        let response = infer(&headers, &compressed);
        assert_eq!(response.status, 200, "{coding} {response:?}");
        assert_eq!(cut(&response).1.len(), 40);
        let whole = (body.len() + 1).to_string();
        let response = infer(
            &[("content-encoding", coding), (LENGTH, &whole)],
            &compressed,
        );
        assert_eq!(
            (response.status, &json_of(&response)["code"]),
            (400, &json!("malformed_request"))
        );
    }
}

#[test]
fn a_raw_body_is_the_one_input_and_is_answered_with_bytes() {
    let response = infer(&[("content-type", OCTETS), (LENGTH, "0")], &floats(&X));
    assert_eq!(response.status, 200, "{response:?}");
    let (json, tail) = cut(&response);
    assert_eq!(json["outputs"][0]["shape"], json!([2, 3]));
    assert_eq!(&tail[..24], floats(&X));
    for (body, code) in [
        (&floats(&X)[..20], "invalid_inputs"),
        (b"", "invalid_inputs"),
        (b"{}", "invalid_inputs"),
    ] {
        let response = infer(&[(LENGTH, "0")], body);
        assert_eq!(
            (response.status, &json_of(&response)["code"]),
            (422, &json!(code)),
            "{body:?}"
        );
    }
    let response = post(
        &ports(),
        "/v2/models/text/infer",
        &[(LENGTH, "0")],
        b"two inputs",
    );
    assert_eq!(response.status, 422);
    assert!(
        json_of(&response)["error"]
            .as_str()
            .unwrap()
            .contains("text_input, temperature")
    );
}

#[test]
fn a_body_that_is_not_what_its_header_says_is_refused() {
    let (body, length) = binary_request("");
    let json_length: usize = length.parse().unwrap();
    type Case<'t> = (Vec<(&'t str, &'t str)>, Vec<u8>, u16, &'t str);
    let cases: Vec<Case<'_>> = vec![
        (vec![], body.clone(), 400, "malformed_json"),
        (vec![(LENGTH, "1")], body.clone(), 400, "malformed_json"),
        (vec![(LENGTH, "-1")], body.clone(), 400, "malformed_request"),
        (
            vec![(LENGTH, "many")],
            body.clone(),
            400,
            "malformed_request",
        ),
        (vec![(LENGTH, "")], body.clone(), 400, "malformed_request"),
        (
            vec![(LENGTH, "99999999999999999999")],
            body.clone(),
            400,
            "malformed_request",
        ),
        (
            vec![(LENGTH, &length), (LENGTH, &length)],
            body.clone(),
            400,
            "malformed_request",
        ),
        (
            vec![(LENGTH, &length)],
            body[..body.len() - 1].to_vec(),
            400,
            "invalid_body",
        ),
        (
            vec![(LENGTH, &length)],
            [body.as_slice(), b"x"].concat(),
            400,
            "invalid_body",
        ),
        (
            vec![(LENGTH, &length)],
            body[..json_length].to_vec(),
            400,
            "invalid_body",
        ),
        (
            vec![(LENGTH, "5")],
            b"\xFF{}{}tail".to_vec(),
            400,
            "malformed_json",
        ),
        (
            vec![("content-type", "image/png"), (LENGTH, "0")],
            floats(&X),
            415,
            "unsupported_media_type",
        ),
        (
            vec![("content-type", "application/x-www-form-urlencoded")],
            b"{}".to_vec(),
            415,
            "unsupported_media_type",
        ),
        // Some clients send this.
        (
            vec![("content-type", OCTETS)],
            b"{}".to_vec(),
            400,
            "invalid_body",
        ),
    ];
    for (headers, body, status, code) in cases {
        let response = infer(&headers, &body);
        let told = json_of(&response);
        assert_eq!(
            (response.status, &told["code"]),
            (status, &json!(code)),
            "{headers:?} {told}"
        );
        assert!(told["error"].is_string());
    }
    let large = vec![0; 5000];
    assert_eq!(infer(&[(LENGTH, "0")], &large).status, 413);
}

#[test]
fn outputs_are_told_as_classes_with_the_contracts_labels() {
    let asked = ",\"outputs\":[{\"name\":\"scores\",\"parameters\":{\"classification\":2}}]";
    let (body, length) = binary_request(asked);
    let output = json_of(&infer(&[(LENGTH, &length)], &body))["outputs"][0].clone();
    assert_eq!(
        output,
        json!({"name": "scores", "datatype": "BYTES", "shape": [2, 2],
            "data": ["0.5:1:dog", "0.25:0:cat", "3.0:0:cat", "2.0:2:cow"]})
    );
    let (body, length) = binary_request(&format!("{asked}{ALL_BINARY}"));
    let response = infer(&[(LENGTH, &length)], &body);
    let (json, tail) = cut(&response);
    let mut expected = Vec::new();
    for class in ["0.5:1:dog", "0.25:0:cat", "3.0:0:cat", "2.0:2:cow"] {
        push_byte_string(&mut expected, class.as_bytes());
    }
    assert_eq!(
        json["outputs"][0]["parameters"],
        json!({"binary_data_size": expected.len()})
    );
    assert_eq!(tail, expected);
}

#[test]
fn classes_tell_no_more_than_the_scores_that_go_out() {
    let ports = ports();
    ports.set_policy("[[disclosure]]\nwithhold_scores = true\n");
    let body = br#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[0.3,0.1,0.6]}],
        "outputs":[{"name":"scores","parameters":{"classification":3}}]}"#;
    let answer = json_of(&post(&ports, "/v2/models/m/infer", &[], body));
    let classes = answer["outputs"][0]["data"].clone();
    let plain = br#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[0.3,0.1,0.6]}],"outputs":[{"name":"scores"}]}"#;
    let scores =
        json_of(&post(&ports, "/v2/models/m/infer", &[], plain))["outputs"][0]["data"].clone();
    assert_eq!(scores, json!([0.0, 0.0, 1.0]));
    assert_eq!(classes, json!(["1.0:2:cow", "0.0:0:cat", "0.0:1:dog"]));
    let exact = post(&ports, "/v2/models/m/infer", &[("accept", OCTETS)], plain);
    assert_eq!(cut(&exact).1, floats(&[0.0, 0.0, 1.0]));
}

#[test]
fn a_call_waits_in_the_line_it_asks_for() {
    for (parameters, priority) in [
        ("{}", None),
        ("{\"priority\":2,\"timeout\":5000}", Some(2)),
        ("{\"priority\":9}", None),
    ] {
        let ports = ports();
        let (body, length) = binary_request(&format!(",\"parameters\":{parameters}"));
        let response = post(&ports, "/v2/models/m/infer", &[(LENGTH, &length)], &body);
        assert_eq!(
            (response.status, ports.priority.get()),
            (200, priority),
            "{parameters}"
        );
    }
}

#[test]
fn a_binary_answer_is_replayed_whole() {
    let ports = ports();
    ports.set_policy("[idempotency]\nenabled = true\n");
    let (body, length) = binary_request(ALL_BINARY);
    let headers = [("idempotency-key", "k-1"), (LENGTH, length.as_str())];
    let first = post(&ports, "/v2/models/m/infer", &headers, &body);
    let second = post(&ports, "/v2/models/m/infer", &headers, &body);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(
        (cut(&first), first.header("content-type")),
        (cut(&second), second.header("content-type"))
    );
    assert_eq!(ports.runs.get(), 1);
    // The same bytes with another JSON length are another call.
    let headers = [("idempotency-key", "k-1"), (LENGTH, "0")];
    assert_eq!(
        post(&ports, "/v2/models/m/infer", &headers, &body).status,
        422
    );
}

#[test]
fn numbers_that_json_cannot_say_go_out_as_bytes_and_are_counted_only_as_json() {
    let nan = floats(&[f32::NAN, 1.0, f32::INFINITY]);
    let (json, tail) = {
        let response = infer(&[(LENGTH, "0")], &nan);
        let (json, tail) = cut(&response);
        (json, tail.to_vec())
    };
    assert_eq!(
        (&json["parameters"]["non_finite"], &tail[..12]),
        (&Value::Null, nan.as_slice())
    );
    let body = [
        br#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}"#.as_slice(),
        &nan,
    ]
    .concat();
    let answer = json_of(&infer(&[(LENGTH, &(body.len() - 12).to_string())], &body));
    assert_eq!(answer["outputs"][0]["data"], json!([null, 1.0, null]));
    assert_eq!(answer["parameters"]["non_finite"], "2");
}

#[test]
fn generate_takes_and_gives_one_object() {
    let body = br#"{"text_input":"what now","parameters":{"temperature":0.5},"id":"g"}"#;
    let expected =
        json!({"model_name": "text", "model_version": "1", "id": "g", "text_output": "what now"});
    let response = post(
        &ports(),
        "/v2/models/text/generate",
        &[("content-type", "application/json")],
        body,
    );
    assert_eq!(
        (response.status, response.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(json_of(&response), expected);
    assert!(response.header("x-prediction-id").is_some());
    for accept in [
        "text/event-stream",
        "*/*",
        "application/json, text/event-stream",
    ] {
        let response = post(
            &ports(),
            "/v2/models/text/versions/1/generate_stream",
            &[("accept", accept)],
            body,
        );
        assert_eq!(
            response.header("content-type"),
            Some("text/event-stream; charset=utf-8")
        );
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        let event = text
            .strip_prefix("data: ")
            .and_then(|t| t.strip_suffix("\n\n"))
            .unwrap();
        assert_eq!(serde_json::from_str::<Value>(event).unwrap(), expected);
    }
    // The stream of `generate` is that of an operation.
    let created = post(
        &ports(),
        "/v2/models/text/generate",
        &[("accept", "text/event-stream")],
        body,
    );
    let text = String::from_utf8(created.body.to_vec()).unwrap();
    assert!(text.contains("event: operation.created\n"), "{text}");
    let json = [("accept", "application/json")];
    let refused = post(&ports(), "/v2/models/text/generate_stream", &json, body);
    assert_eq!(refused.status, 406);
    let m = post(
        &ports(),
        "/v2/models/m/generate",
        &[],
        br#"{"x":[1,2,3,4,5,6]}"#,
    );
    assert_eq!(
        json_of(&m),
        json!({"model_name": "m", "model_version": "2", "scores": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "count": [2, 2]})
    );
}

#[test]
fn what_generate_refuses_is_answered_as_an_error_before_any_event() {
    for target in [
        "/v2/models/text/generate",
        "/v2/models/text/generate_stream",
    ] {
        for (body, status, code) in [
            ("", 400, "malformed_json"),
            ("[]", 400, "invalid_body"),
            ("{}", 422, "invalid_inputs"),
            ("{\"text_input\":\"a\"}", 422, "invalid_inputs"),
            (
                "{\"text_input\":\"a\",\"temperature\":1,\"parameters\":{\"priority\":\"x\"}}",
                400,
                "invalid_body",
            ),
            (
                "{\"text_input\":\"a\",\"temperature\":1,\"sequence_id\":7}",
                501,
                "not_supported",
            ),
        ] {
            let response = post(&ports(), target, &[], body.as_bytes());
            assert_eq!(
                (response.status, &json_of(&response)["code"]),
                (status, &json!(code)),
                "{target} {body}"
            );
            assert_eq!(response.header("content-type"), Some("application/json"));
        }
        let response = post(&ports(), &target.replace("text", "none"), &[], b"{}");
        assert_eq!(response.status, 404);
    }
}

#[test]
fn a_models_configuration_is_shown_for_each_version() {
    let get = |target: &str| send(&ports(), "GET", target, &[], b"");
    for target in ["/v2/models/m/config", "/v2/models/m/versions/2/config"] {
        let response = get(target);
        let config = json_of(&response);
        assert_eq!(
            (response.status, response.header("x-model-version")),
            (200, Some("2"))
        );
        assert_eq!(
            (&config["name"], &config["max_batch_size"]),
            (&json!("m"), &json!(0))
        );
        // `count` has only the batch axis, so dims are whole shapes, as in the metadata.
        assert_eq!(
            config["input"],
            json!([{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}])
        );
        assert_eq!(
            config["output"][1],
            json!({"name": "count", "data_type": "TYPE_INT64", "dims": [-1]})
        );
        let metadata = json_of(&get(target.trim_end_matches("/config")));
        for (kind, named) in [("input", "inputs"), ("output", "outputs")] {
            for at in 0..metadata[named].as_array().unwrap().len() {
                assert_eq!(config[kind][at]["dims"], metadata[named][at]["shape"]);
            }
        }
        assert_eq!(
            config["version_policy"],
            json!({"specific": {"versions": [1, 2]}})
        );
    }
    assert_eq!(get("/v2/models/m/versions/9/config").status, 404);
    assert_eq!(get("/v2/models/none/config").status, 404);
    let wrong = send(&ports(), "POST", "/v2/models/m/config", &[], b"");
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let extensions = json_of(&get("/v2"))["extensions"].clone();
    assert!(
        extensions
            .as_array()
            .unwrap()
            .contains(&json!("binary_tensor_data"))
    );
}

const SCALAR: &str = r#"
description = "gives back a scalar"
[[inputs]]
name = "sr"
datatype = "INT64"
shape = []
[[outputs]]
name = "sr"
datatype = "INT64"
shape = []
"#;

#[test]
fn metadata_configuration_requests_and_answers_agree_on_a_scalar() {
    let echo = |_: &str, _: ModelVersion, inputs: Vec<Tensor>| Ok(inputs);
    let ports = InMemory::new(&[("scalar", SCALAR, &["1"])], echo);
    let get = |target: &str| json_of(&send(&ports, "GET", target, &[], b""));
    let metadata = get("/v2/models/scalar");
    let config = get("/v2/models/scalar/config");
    for (kind, named) in [("input", "inputs"), ("output", "outputs")] {
        assert_eq!(metadata[named][0]["shape"], json!([1]));
        assert_eq!(config[kind][0]["dims"], json!([1]));
        assert_eq!(config[kind][0]["reshape"], json!({"shape": []}));
    }
    for shape in ["[1]", "[]"] {
        let body = format!(
            r#"{{"inputs":[{{"name":"sr","shape":{shape},"datatype":"INT64","data":[16000]}}]}}"#
        );
        let response = post(&ports, "/v2/models/scalar/infer", &[], body.as_bytes());
        let output = &json_of(&response)["outputs"][0];
        assert_eq!(output["shape"], json!([1]), "{shape}");
        assert_eq!(output["data"], json!([16000]));
    }
}

const PLAIN: &str = r#""inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]"#;

#[test]
fn a_model_and_version_in_the_body_must_agree_with_the_path() {
    let ask = |target: &str, more: &str| {
        post(
            &ports(),
            target,
            &[],
            format!("{{{more}{PLAIN}}}").as_bytes(),
        )
    };
    let path = "/v2/models/m/infer";
    for (target, more, version) in [
        (path, "\"model_name\":\"m\",", "2"),
        (path, "\"model_name\":null,\"model_version\":null,", "2"),
        (path, "\"model_name\":\"\",\"model_version\":\"\",", "2"),
        (path, "\"model_version\":\"1\",", "1"),
        (
            "/v2/models/m/versions/1/infer",
            "\"model_version\":\"1\",",
            "1",
        ),
    ] {
        let response = ask(target, more);
        assert_eq!(response.status, 200, "{more}");
        assert_eq!(response.header("x-model-version"), Some(version), "{more}");
    }
    let other = ask(path, "\"model_name\":\"text\",");
    let error = json_of(&other);
    assert_eq!(
        (other.status, &error["code"]),
        (400, &json!("invalid_body"))
    );
    assert_eq!(error["details"][0]["pointer"], "/model_name");
    let other = ask("/v2/models/m/versions/1/infer", "\"model_version\":\"2\",");
    assert_eq!(
        (other.status, &json_of(&other)["code"]),
        (400, &json!("invalid_parameter"))
    );
    assert_eq!(ask(path, "\"model_version\":\"9\",").status, 404);
    let generate = br#"{"x":[1,2,3],"model_name":"text"}"#;
    assert_eq!(
        post(&ports(), "/v2/models/m/generate", &[], generate).status,
        400
    );
}

#[test]
fn what_other_servers_clients_send_is_ignored_unless_the_operator_wants_it_refused() {
    let body = format!(
        "{{\"id\":null,\"parameters\":{{\"content_type\":\"np\",\"headers\":{{\"a\":1}}}},\"outputs\":null,\"raw\":1,{PLAIN}}}"
    );
    let lenient = ports();
    assert_eq!(
        post(&lenient, "/v2/models/m/infer", &[], body.as_bytes()).status,
        200
    );
    let strict = ports();
    let policy = strict.policy.borrow().clone();
    let policy = format!("{policy}\n[validation]\nunknown_members = \"refuse\"\n");
    *strict.policy.borrow_mut() = policy;
    let response = post(&strict, "/v2/models/m/infer", &[], body.as_bytes());
    assert_eq!(response.status, 400);
    let error = json_of(&response);
    let details = error["details"].as_array().unwrap();
    let pointers: Vec<&Value> = details.iter().map(|detail| &detail["pointer"]).collect();
    assert_eq!(pointers, ["/parameters/headers", "/raw"]);
    for (target, body) in [
        (
            "/v2/models/text/generate",
            r#"{"text_input":"a","temperature":1,"stream":false}"#,
        ),
        ("/v2/repository/index", r#"{"ready":null,"more":1}"#),
    ] {
        let status = |ports| post(ports, target, &[], body.as_bytes()).status;
        assert!(status(&strict) >= 400 && status(&strict) < 500, "{target}");
        assert_ne!(status(&lenient), status(&strict), "{target}");
    }
    for ports in [&lenient, &strict] {
        let body = format!("{{\"parameters\":{{\"sequence_id\":7}},{PLAIN}}}");
        let response = post(ports, "/v2/models/m/infer", &[], body.as_bytes());
        assert_eq!(
            (response.status, &json_of(&response)["code"]),
            (501, &json!("not_supported"))
        );
    }
}

#[test]
fn an_extension_that_is_not_served_is_501_and_named() {
    for (method, path, word) in [
        (
            "GET",
            "/v2/systemsharedmemory/status",
            "system shared memory",
        ),
        (
            "POST",
            "/v2/systemsharedmemory/region/r/register",
            "system shared memory",
        ),
        ("GET", "/v2/cudasharedmemory/status", "CUDA shared memory"),
        ("GET", "/v2/trace/setting", "trace"),
        ("POST", "/v2/models/m/trace/setting", "trace"),
        ("POST", "/v2/logging", "logging"),
    ] {
        let response = send(&ports(), method, path, &[], b"{}");
        let error = json_of(&response);
        assert_eq!(
            (response.status, &error["code"]),
            (501, &json!("not_supported"))
        );
        assert!(error["error"].as_str().unwrap().contains(word), "{error}");
    }
}

#[test]
fn what_v2_says_of_models_is_not_compressed_for_clients_that_inflate_only_inference() {
    let many: Vec<String> = (0..200).map(|n| format!("\"label{n}\"")).collect();
    let text = format!(
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", 200]\n\
         [[outputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", 200]\nlabels = [{}]\n",
        many.join(",")
    );
    let echo = |_: &str, _: ModelVersion, inputs: Vec<Tensor>| Ok(inputs);
    let versions: Vec<String> = (1..300).map(|n| n.to_string()).collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    let ports = InMemory::new(&[("m", text.as_str(), versions.as_slice())], echo);
    let asks = [("accept-encoding", "gzip, deflate")];
    let get = |path: &str| send(&ports, "GET", path, &asks, b"");
    for path in ["/v2/models/m", "/v2/models/m/config"] {
        let response = get(path);
        assert!(response.body.len() > 1024, "{path}");
        assert_eq!(response.header("content-encoding"), None, "{path}");
    }
    assert_eq!(get("/v1/models").header("content-encoding"), Some("gzip"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_header_and_no_bytes_are_the_servers_fault(
        length in prop::option::of(prop_oneof!["[0-9]{1,3}", "[ -~]{0,8}"]),
        body in prop::collection::vec(any::<u8>(), 0..80),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let (good, own) = binary_request(ALL_BINARY);
        let length = length.unwrap_or(own);
        let body = if whole { good[..cut.index(good.len() + 1)].to_vec() } else { body };
        for target in ["/v2/models/m/infer", "/v2/models/text/infer", "/v2/models/text/generate"] {
            let response = post(&ports(), target, &[(LENGTH, &length)], &body);
            // A parameter of the caller causes 501.
            let fault = response.status >= 500 && response.status != 501;
            prop_assert!(!fault, "{} {:?}", target, response);
            match response.header(LENGTH) {
                Some(_) => { cut_is_sound(&response); }
                None => { json_of(&response); }
            }
        }
    }
}

fn cut_is_sound(response: &Response) {
    let (json, tail) = cut(response);
    let sizes = json["outputs"].as_array().unwrap().iter();
    let claimed: u64 = sizes
        .filter_map(|output| output["parameters"]["binary_data_size"].as_u64())
        .sum();
    assert_eq!(claimed, tail.len() as u64);
}
