//! Tests the surfaces over in-memory ports: batches, embeddings, content with several parts, and versions outside the
//! path.

use penstock_core::ModelVersion;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_tensor::Tensor;
use penstock_testkit::ports::LONGEST;
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

const IDENTITY: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 2]
[limits]
max_items = 8
"#;

fn adapted(adapter: &str) -> String {
    format!(
        r#"
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
name = "{adapter}"
[limits]
max_items = 4
"#
    )
}

/// Returns a contract with an adapter that has more settings.
fn adapted_with(adapter: &str, more: &str) -> String {
    let name = format!("name = \"{adapter}\"\n");
    adapted(adapter).replace(&name, &format!("{name}{more}\n"))
}

/// Returns its inputs. A run with the value 666 in any item fails.
fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let poison = 666f32.to_le_bytes();
    let poisoned = |tensor: &Tensor| tensor.data.chunks(4).any(|bytes| bytes == poison);
    if inputs.iter().any(poisoned) {
        return Err(Failure {
            kind: FailureKind::Failed,
            message: "the runtime failed".into(),
            retry_after_ms: None,
        });
    }
    let rename = |mut tensor: Tensor| {
        tensor.name = if tensor.name == "a" { "b" } else { "y" }.into();
        tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}

fn ports() -> InMemory {
    InMemory::new(
        &[
            ("identity", IDENTITY, &["1", "2"]),
            ("lengths", &adapted("length"), &["1"]),
            ("vectors", &adapted("vectors"), &["1"]),
            (
                "ids",
                &adapted_with("vectors", "tokens = \"accept\""),
                &["1"],
            ),
            (
                "cuts",
                &adapted_with("vectors", "too_long = \"truncate\""),
                &["1"],
            ),
            ("pictures", &adapted("pictures"), &["1"]),
        ],
        echo,
    )
}

fn call_at(ports: &InMemory, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    Gate::new(ports.clone()).handle(&Request {
        method: "POST".into(),
        target: target.into(),
        headers: all
            .into_iter()
            .map(|(name, value)| Header {
                name: name.into(),
                value: value.as_bytes().to_vec(),
            })
            .collect(),
        body: body.to_vec(),
    })
}

fn call(target: &str, body: &Value) -> (u16, Value) {
    let response = call_at(&ports(), target, &[], body.to_string().as_bytes());
    let body = serde_json::from_slice(&response.body).expect("every body is JSON");
    (response.status, body)
}

#[test]
fn a_batch_runs_as_one_and_answers_in_order_with_an_id_each() {
    let ports = ports();
    let body = json!({ "requests": [
        { "id": "first", "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[3, 4], [5, 6]] } },
    ] });
    let target = "/v1/models/identity:batchPredict";
    let response = call_at(&ports, target, &[], body.to_string().as_bytes());
    assert_eq!(response.status, 200);
    assert_eq!(ports.runs.get(), 1);
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(value["results"][0]["id"], "first");
    assert_eq!(
        value["results"][0]["predictions"],
        json!([{ "b": [1.0, 2.0] }])
    );
    assert_eq!(
        value["results"][1]["predictions"],
        json!([{ "b": [3.0, 4.0] }, { "b": [5.0, 6.0] }])
    );
    assert_ne!(
        value["results"][0]["prediction_id"],
        value["results"][1]["prediction_id"]
    );
    assert_eq!(
        (&value["succeeded"], &value["failed"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(value["retry"], json!([]));
    assert_eq!(response.header("x-model-version"), Some("2"));
}

#[test]
fn what_is_wrong_with_one_request_of_a_batch_fails_it_alone() {
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[1, 2, 3]] } },
        { "inputs": { "a": [[666, 2]] } },
        { "inputs": { "nothing": 1 } },
        7,
        { "inputs": { "a": [[8, 9]] } },
    ] });
    let (status, value) = call("/v1/models/identity:batchPredict", &body);
    assert_eq!(status, 207, "{value}");
    let results = value["results"].as_array().unwrap();
    let statuses: Vec<u64> = results
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 422, 500, 422, 400, 200], "{value}");
    assert_eq!(results[1]["error"]["code"], "invalid_inputs");
    assert!(results[1]["error"]["details"][0]["pointer"].is_string());
    assert_eq!(results[5]["predictions"], json!([{ "b": [8.0, 9.0] }]));
    assert_eq!(
        (&value["succeeded"], &value["failed"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(
        value["retry"],
        json!([2]),
        "only what may fare better another time"
    );
}

#[test]
fn a_batch_that_is_none_is_refused_as_a_whole() {
    for (body, status, rule) in [
        (json!(3), 400, "wrong_type"),
        (json!({}), 400, "missing_member"),
        (json!({ "requests": [] }), 400, "empty"),
        (json!({ "requests": {} }), 400, "wrong_type"),
        (json!({ "requests": [], "more": 1 }), 400, "unknown_member"),
        (
            json!({ "requests": vec![json!({}); 9] }),
            422,
            "too_many_items",
        ),
        (
            json!({ "requests": vec![json!({ "inputs": { "a": [[1, 2], [3, 4], [5, 6]] } }); 3] }),
            422,
            "too_many_items",
        ),
    ] {
        let (got, value) = call("/v1/models/identity:batchPredict", &body);
        assert_eq!(got, status, "{value}");
        assert_eq!(value["error"]["details"][0]["rule"], rule, "{body}");
    }
    let response = call_at(
        &ports(),
        "/v1/models/identity:batchPredict",
        &[],
        b"{\"requests\":[",
    );
    assert_eq!(response.status, 400);
}

#[test]
fn content_of_text_or_tensors_is_predicted_like_what_it_stands_for() {
    let hello = [
        json!({ "content": [{ "type": "text", "text": "hello" }] }),
        json!({ "content": "hello" }),
        json!({ "content": { "type": "bytes", "data": "aGVsbG8=" } }),
        json!({ "content": [{ "type": "bytes", "url": "data:text/plain;base64,aGVsbG8=" }], "id": "x" }),
        json!({ "content": [{ "type": "text", "tokens": [1, 2, 3, 4, 5] }] }),
        json!({ "content": [{ "type": "text", "text": "hel" }, { "type": "text", "text": "lo" }] }),
    ];
    for body in hello {
        let (status, value) = call("/v1/models/lengths:predict", &body);
        assert_eq!(status, 200, "{body}: {value}");
        assert_eq!(value["predictions"], json!([{ "length": 5 }]), "{body}");
    }
    let tensor = json!({ "content": [
        { "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] },
    ] });
    let (status, value) = call("/v1/models/identity:predict", &tensor);
    assert_eq!(
        (status, &value["predictions"]),
        (200, &json!([{ "b": [1.0, 2.0] }]))
    );
    // A batch with both kinds of requests works too.
    let both = json!({ "requests": [{ "content": "hello" }, { "inputs": { "x": [[2]] } }] });
    let (status, value) = call("/v1/models/lengths:batchPredict", &both);
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["results"][0]["predictions"], json!([{ "length": 5 }]));
    assert_eq!(value["results"][1]["predictions"], json!([{ "y": [2.0] }]));
}

#[test]
fn content_that_is_wrong_is_refused_with_its_place() {
    for (model, content, status, pointer) in [
        ("lengths", json!([]), 400, "/content"),
        ("lengths", json!(7), 400, "/content"),
        (
            "lengths",
            json!([{ "type": "film" }]),
            400,
            "/content/0/type",
        ),
        ("lengths", json!([{ "type": "text" }]), 400, "/content/0"),
        (
            "lengths",
            json!([{ "type": "text", "text": "a", "tokens": [1] }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!([{ "type": "bytes", "data": "?" }]),
            400,
            "/content/0/data",
        ),
        (
            "lengths",
            json!([{ "type": "text", "text": "a", "colour": 1 }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!([{ "type": "image", "url": "https://example.com/a.png" }]),
            400,
            "/content/0/url",
        ),
        (
            "lengths",
            json!([{ "type": "text", "text": "" }]),
            422,
            "/content/0",
        ),
        ("identity", json!("text"), 422, "/content"),
        (
            "lengths",
            json!([
                { "type": "text", "text": "a" },
                { "type": "tensor", "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1] },
            ]),
            400,
            "/content",
        ),
        (
            "identity",
            json!([{ "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2] }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!(vec![json!({ "type": "text", "text": "a" }); 65]),
            400,
            "/content",
        ),
    ] {
        let body = json!({ "content": content });
        let (got, value) = call(&format!("/v1/models/{model}:predict"), &body);
        assert_eq!(got, status, "{body}: {value}");
        assert_eq!(value["error"]["details"][0]["pointer"], pointer, "{body}");
    }
    let image = json!({ "content": [{ "type": "image", "data": "AAAA" }] });
    assert_eq!(call("/v1/models/lengths:predict", &image).0, 415);
}

#[test]
fn an_adapter_may_ask_for_several_runs() {
    let ports = ports();
    let body = json!({ "content": "twice" }).to_string();
    let response = call_at(&ports, "/v1/models/lengths:predict", &[], body.as_bytes());
    assert_eq!((response.status, ports.runs.get()), (200, 2));
}

#[test]
fn embeddings_come_in_the_shape_of_openai_in_order_and_in_either_encoding() {
    let ask = |body: Value| call("/v1/embeddings", &body);
    let (status, value) = ask(json!({ "input": "hello", "model": "vectors" }));
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["object"], "list");
    assert_eq!(value["model"], "vectors");
    assert_eq!(
        value["data"],
        json!([{ "object": "embedding", "index": 0, "embedding": [5, 0.5] }])
    );
    assert_eq!(
        value["usage"],
        json!({ "prompt_tokens": 5, "total_tokens": 5 })
    );

    // Sends more inputs than fit into one run.
    let texts: Vec<String> = (1..=9).map(|length| "x".repeat(length)).collect();
    let body =
        json!({ "input": texts, "model": "vectors", "encoding_format": "base64", "user": "u" });
    let (status, value) = ask(body);
    assert_eq!(status, 200, "{value}");
    let data = value["data"].as_array().unwrap();
    assert_eq!(data.len(), 9);
    assert_eq!(data[8]["index"], 8);
    // 9.0 and 0.5 as little-endian floats.
    assert_eq!(data[8]["embedding"], "AAAQQQAAAD8=");
    assert_eq!(value["usage"]["total_tokens"], 45);

    for (input, count) in [(json!([1, 2, 3]), 1), (json!([[1, 2], [3]]), 2)] {
        let (status, value) = ask(json!({ "input": input, "model": "ids@1", "dimensions": 2 }));
        assert_eq!(status, 200, "{value}");
        assert_eq!(value["data"].as_array().unwrap().len(), count);
    }
}

#[test]
fn embeddings_that_cannot_be_given_are_refused_with_the_place() {
    for (body, status, pointer) in [
        (json!({ "input": "a" }), 400, "/model"),
        (json!({ "input": "a", "model": 3 }), 400, "/model"),
        (json!({ "model": "vectors" }), 400, "/input"),
        (json!({ "input": [], "model": "vectors" }), 400, "/input"),
        (json!({ "input": {}, "model": "vectors" }), 400, "/input"),
        (
            json!({ "input": ["a", 1], "model": "vectors" }),
            400,
            "/input/1",
        ),
        (
            json!({ "input": [1, "a"], "model": "vectors" }),
            400,
            "/input/1",
        ),
        (
            json!({ "input": [1, -1], "model": "vectors" }),
            400,
            "/input/1",
        ),
        (
            json!({ "input": [[1], []], "model": "vectors" }),
            400,
            "/input/1",
        ),
        (
            json!({ "input": "a", "model": "vectors", "encoding_format": "hex" }),
            400,
            "/encoding_format",
        ),
        (
            json!({ "input": "a", "model": "vectors", "dimensions": 3 }),
            422,
            "/dimensions",
        ),
        (
            json!({ "input": "a", "model": "vectors", "dimensions": 0 }),
            400,
            "/dimensions",
        ),
        (
            json!({ "input": "a", "model": "vectors", "colour": 0 }),
            400,
            "",
        ),
        (
            json!({ "input": vec!["a"; 2_049], "model": "vectors" }),
            422,
            "/input",
        ),
        (json!({ "input": "a", "model": "identity" }), 422, "/model"),
        (json!({ "input": "a", "model": "lengths" }), 422, "/model"),
        (json!({ "input": "a", "model": "pictures" }), 422, "/model"),
        (json!({ "input": [1], "model": "pictures" }), 422, "/input"),
        (
            json!({ "input": ["a", "b", "c", "d", ""], "model": "vectors" }),
            422,
            "/input/4",
        ),
        (json!({ "input": "", "model": "vectors" }), 422, "/input"),
        (
            json!({ "input": [""], "model": "vectors" }),
            422,
            "/input/0",
        ),
        (json!({ "input": null, "model": "vectors" }), 400, "/input"),
        (
            json!({ "input": "a", "model": "vectors", "truncate_prompt_tokens": 0 }),
            400,
            "/truncate_prompt_tokens",
        ),
        (
            json!({ "input": "a", "model": "vectors", "truncate_prompt_tokens": true }),
            400,
            "/truncate_prompt_tokens",
        ),
    ] {
        let (got, value) = call("/v1/embeddings", &body);
        assert_eq!(got, status, "{body}: {value}");
        assert_eq!(
            value["error"]["details"][0]["pointer"], pointer,
            "{body}: {value}"
        );
    }
    let (status, value) = call(
        "/v1/embeddings",
        &json!({ "input": "a", "model": "nobody" }),
    );
    assert_eq!(
        (status, &value["error"]["code"]),
        (404, &json!("unknown_model"))
    );
    let response = call_at(&ports(), "/v1/embeddings", &[], b"{\"input\":\"a\",");
    assert_eq!(response.status, 400);
}

#[test]
fn null_is_absent_for_every_optional_member_of_embeddings() {
    let (status, value) = call(
        "/v1/embeddings",
        &json!({
            "input": "hello", "model": "vectors", "encoding_format": null, "dimensions": null,
            "user": null, "truncate_prompt_tokens": null, "input_type": null,
        }),
    );
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["data"][0]["embedding"], json!([5, 0.5]));
}

#[test]
fn null_is_absent_for_every_optional_member_of_content() {
    let (status, value) = call(
        "/v1/models/lengths:predict",
        &json!({
            "id": null, "model_version": null,
            "content": [{ "type": "text", "text": "hello", "tokens": null, "media_type": null, "data": null }],
        }),
    );
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["predictions"][0]["length"], 5);
}

#[test]
fn a_fault_in_the_thirty_sixth_text_is_told_at_input_35_in_openais_form() {
    let mut texts = vec!["x"; 40];
    texts[35] = "";
    let (status, value) = call(
        "/v1/embeddings",
        &json!({ "input": texts, "model": "vectors" }),
    );
    let error = &value["error"];
    assert_eq!((status, &error["code"]), (422, &json!("invalid_inputs")));
    assert_eq!(error["details"][0]["pointer"], "/input/35");
    assert_eq!(error["message"], "`/input/35`: the content is empty");
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["param"], "input");
}

#[test]
fn token_ids_are_refused_unless_the_contract_says_whose_they_are() {
    for (input, pointer) in [
        (json!([1, 2, 3]), "/input"),
        (json!([[1, 2], [3]]), "/input/0"),
        (json!(["a", [3]]), "/input/1"),
    ] {
        let ports = ports();
        let body = json!({ "input": input, "model": "vectors" }).to_string();
        let response = call_at(&ports, "/v1/embeddings", &[], body.as_bytes());
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((response.status, ports.runs.get()), (422, 0), "{value}");
        let detail = &value["error"]["details"][0];
        assert_eq!(
            (&detail["rule"], &detail["pointer"]),
            (&json!("tokens_not_accepted"), &json!(pointer))
        );
        let message = value["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("check_embedding_ctx_length=False"),
            "{message}"
        );
    }
    // Tokens in content are accepted as ids of the model's vocabulary.
    let (status, value) = call(
        "/v1/models/lengths:predict",
        &json!({ "content": [{ "type": "text", "tokens": [1, 2] }] }),
    );
    assert_eq!(status, 200, "{value}");
}

#[test]
fn a_text_that_is_too_long_is_refused_as_openai_does_or_cut_where_that_is_asked_for() {
    let long = "x".repeat(LONGEST + 1);
    let ask = |model: &str, cut: Value| {
        let body = json!({ "input": ["a", long], "model": model, "truncate_prompt_tokens": cut });
        call("/v1/embeddings", &body)
    };
    let (status, value) = ask("vectors", Value::Null);
    let error = &value["error"];
    assert_eq!(
        (status, &error["code"], &error["param"]),
        (400, &json!("context_length_exceeded"), &json!("input"))
    );
    assert_eq!(error["details"][0]["pointer"], "/input/1");
    for (model, cut, length) in [
        ("vectors", json!(-1), LONGEST),
        ("vectors", json!(10), 10),
        ("cuts", Value::Null, LONGEST),
        ("cuts", json!(10), 10),
    ] {
        let (status, value) = ask(model, cut);
        assert_eq!(status, 200, "{value}");
        assert_eq!(value["data"][1]["embedding"][0], length, "{model}");
    }
    let content = json!({ "content": long });
    let (status, value) = call("/v1/models/lengths:predict", &content);
    assert_eq!(
        (status, &value["error"]["code"]),
        (422, &json!("invalid_inputs"))
    );
    let (status, value) = call("/v1/models/cuts:predict", &content);
    assert_eq!(status, 200, "{value}");
}

#[test]
fn openais_clients_find_the_models() {
    let get = |target: &str| {
        let response = Gate::new(ports()).handle(&Request {
            method: "GET".into(),
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
        });
        serde_json::from_slice::<Value>(&response.body).unwrap()
    };
    let list = get("/v1/models");
    assert_eq!(list["object"], "list");
    let ids = list["data"].as_array().unwrap().iter();
    let ids: Vec<&str> = ids.map(|model| model["id"].as_str().unwrap()).collect();
    let names = list["models"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(ids, names);
    let one = get("/v1/models/vectors");
    for member in ["id", "object", "created", "owned_by"] {
        let listed = list["data"].as_array().unwrap().iter();
        let listed = listed
            .clone()
            .find(|model| model["id"] == "vectors")
            .unwrap();
        assert_eq!(one[member], listed[member], "{member}");
    }
    assert_eq!(
        (&one["object"], &one["created"]),
        (&json!("model"), &json!(1_767_225_600))
    );
}

#[test]
fn one_idempotency_key_runs_once_however_the_path_is_spelt() {
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    let keyed = [("idempotency-key", "k")];
    let version = [("idempotency-key", "k"), ("x-model-version", "1")];
    // Each list contains spellings of the same call.
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let spellings: [&[(&str, Headers)]; 4] = [
        &[
            ("/v1/models/identity:predict", &keyed),
            ("/v1/models/identity%3Apredict", &keyed),
            ("/v1/models/identity%3apredict", &keyed),
            ("/v1/models/%69dentity:predict", &keyed),
            ("/%76%31/models/identity:%70redict", &keyed),
            ("/v1/models/identity:predict?", &keyed),
        ],
        &[
            ("/v1/models/identity@1:predict", &keyed),
            ("/v1/models/identity%401:predict", &keyed),
            ("/v1/models/identity/versions/1:predict", &keyed),
            ("/v1/models/identity/versions/%31%3Apredict", &keyed),
            ("/v1/models/identity:predict", &version),
        ],
        &[
            ("/v1/models/identity:predict?a=1&b=2", &keyed),
            ("/v1/models/identity:predict?b=2&a=1", &keyed),
            ("/v1/models/identity:predict?%62=%32&a=1&", &keyed),
        ],
        &[
            ("/v1/models/identity:predict?a=%26b%3D1", &keyed),
            ("/v1/models/identity:predict?%61=%26b=1", &keyed),
        ],
    ];
    for call in spellings {
        let ports = ports();
        ports.set_policy("[idempotency]\nenabled = true\n");
        for (at, (target, headers)) in call.iter().enumerate() {
            let response = call_at(&ports, target, headers, body);
            assert_eq!(response.status, 200, "{target}");
            let replayed = response.header("idempotency-replayed");
            assert_eq!(replayed, (at > 0).then_some("true"), "{target}");
        }
        assert_eq!(ports.runs.get(), 1);
    }
    // A different call with the same key is refused and does not run.
    let ports = ports();
    ports.set_policy("[idempotency]\nenabled = true\n");
    let first = call_at(&ports, "/v1/models/identity:predict", &keyed, body);
    assert_eq!(first.status, 200);
    for target in [
        "/v1/models/identity@1:predict",
        "/v1/models/identity/versions/2:predict",
        "/v1/models/identity:predict?a=1",
    ] {
        assert_eq!(
            call_at(&ports, target, &keyed, body).status,
            422,
            "{target}"
        );
    }
    assert_eq!(
        call_at(&ports, "/v1/models/identity:predict?%zz", &keyed, body).status,
        400
    );
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn limits_see_the_route_and_the_model_however_a_path_is_spelt() {
    let ports = ports();
    ports.set_policy(LIMITS);
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    for target in [
        "/v1/models/identity:predict",
        "/v1/models/%69dentity%3apredict",
        "/v1/models/identity@1%3Apredict",
        "/v1/models/identity/versions/1:predict",
    ] {
        assert_eq!(call_at(&ports, target, &[], body).status, 200, "{target}");
    }
    let log = ports.quota_log.borrow();
    let log: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("admit"))
        .collect();
    assert!(log.len() >= 4, "{log:?}");
    assert!(log.iter().all(|line| *line == log[0]), "{log:?}");
}

#[test]
fn a_wait_that_openais_clients_do_not_honour_says_not_to_retry() {
    let body = br#"{"input":"a","model":"vectors"}"#;
    for (retry_after_s, told) in [(59, None), (600, Some("false"))] {
        let ports = ports();
        ports.set_policy(&format!(
            "[cors]\nallowed_origins = [\"https://app.example\"]\n[[limits]]\nname = \"l\"\n\
             algorithm = \"token-bucket\"\nlimit = 1\nwindow_s = {retry_after_s}\n"
        ));
        assert_eq!(call_at(&ports, "/v1/embeddings", &[], body).status, 200);
        let headers = [("origin", "https://app.example")];
        let refused = call_at(&ports, "/v1/embeddings", &headers, body);
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("x-should-retry"), told, "{retry_after_s}");
        let exposed = refused.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("x-should-retry"), "{exposed}");
    }
}

#[test]
fn a_version_may_be_named_in_path_name_and_header_but_not_two_different_ones() {
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    for (target, header, status, version) in [
        ("/v1/models/identity:predict", None, 200, Some("2")),
        ("/v1/models/identity:predict", Some("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", None, 200, Some("1")),
        ("/v1/models/identity@1:predict", Some("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", Some("2"), 400, None),
        (
            "/v1/models/identity/versions/1:predict",
            Some("2"),
            400,
            None,
        ),
        ("/v1/models/identity@3:predict", None, 404, None),
        ("/v1/models/identity@:predict", None, 404, None),
        ("/v1/models/identity:predict", Some("7"), 404, None),
        ("/v2/models/identity@1/infer", Some("2"), 400, None),
    ] {
        let headers: Vec<(&str, &str)> =
            header.map(|v| ("x-model-version", v)).into_iter().collect();
        let response = call_at(&ports(), target, &headers, body);
        assert_eq!(response.status, status, "{target} {header:?}");
        assert_eq!(
            response.header("x-model-version"),
            version,
            "{target} {header:?}"
        );
        if status == 200 {
            let reason = response.header("x-model-version-reason");
            let pinned = header.is_some() || target.contains('@');
            assert_eq!(reason, Some(if pinned { "pinned" } else { "latest" }));
        }
    }
}

#[test]
fn a_version_may_be_named_in_the_body_and_must_be_the_one_of_the_path() {
    let tensor = json!({ "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] });
    for (target, version, status, answered) in [
        ("/v1/models/identity:predict", json!("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", json!("1"), 200, Some("1")),
        ("/v1/models/identity@2:predict", json!("1"), 400, None),
        ("/v1/models/identity:predict", json!("9"), 404, None),
        ("/v1/models/identity:predict", json!(1), 400, None),
        (
            "/v1/models/identity:predict",
            json!("1".repeat(65)),
            400,
            None,
        ),
    ] {
        for what in [
            json!({ "inputs": { "a": [[1, 2]] }, "model_version": version }),
            json!({ "content": [tensor], "model_version": version }),
        ] {
            let response = call_at(&ports(), target, &[], what.to_string().as_bytes());
            let got = response.status;
            // In content, a version that is too long counts as an unknown version.
            let too_long = version.as_str().is_some_and(|text| text.len() > 64);
            let status = match too_long && what.get("content").is_some() {
                true => 404,
                false => status,
            };
            let text = String::from_utf8_lossy(&response.body);
            assert_eq!(got, status, "{target} {what}: {text}");
            // A refusal before the body's version is read names the version that the path selects, so it is not
            // checked here.
            if answered.is_some() {
                assert_eq!(
                    response.header("x-model-version"),
                    answered,
                    "{target} {what}"
                );
            }
        }
    }
    let body = json!({ "requests": [{ "inputs": { "a": [[1, 2]] }, "model_version": "1" }] });
    let (status, value) = call("/v1/models/identity:batchPredict", &body);
    assert_eq!((status, &value["results"][0]["status"]), (207, &json!(400)));
}

#[test]
fn however_much_a_body_holds_no_more_of_it_is_built_than_is_taken() {
    let ids = |count: usize| format!("[{}]", vec!["7"; count].join(","));
    let lists = format!("[{}]", vec!["[0]"; 2_049].join(","));
    for (target, body, status, rule) in [
        (
            "/v1/models/lengths:predict",
            format!(
                "{{\"content\":{{\"type\":\"text\",\"tokens\":{}}}}}",
                ids(65_537)
            ),
            400,
            "too_many_tokens",
        ),
        (
            "/v1/models/lengths:predict",
            format!("{{\"content\":{}}}", ids(1_000_000)),
            400,
            "part_count",
        ),
        (
            "/v1/embeddings",
            format!("{{\"model\":\"vectors\",\"input\":{lists}}}"),
            422,
            "too_many_items",
        ),
        (
            "/v1/embeddings",
            format!("{{\"model\":\"ids\",\"input\":{}}}", ids(65_537)),
            400,
            "too_many_tokens",
        ),
    ] {
        let response = call_at(&ports(), target, &[], body.as_bytes());
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, status, "{value}");
        assert_eq!(value["error"]["details"][0]["rule"], rule, "{value}");
    }
}

#[test]
fn a_batch_of_which_nothing_ran_is_made_again_with_the_same_idempotency_key() {
    let full = Rc::new(Cell::new(true));
    let is_full = full.clone();
    let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], move |m, v, inputs| {
        if is_full.get() {
            return Err(Failure {
                kind: FailureKind::Overloaded,
                message: "the line is full".into(),
                retry_after_ms: None,
            });
        }
        echo(m, v, inputs)
    });
    ports.set_policy("[idempotency]\nenabled = true\n");
    let body = json!({ "requests": [{ "inputs": { "a": [[1, 2]] } }] }).to_string();
    let again = || {
        let key = [("idempotency-key", "one")];
        let target = "/v1/models/identity:batchPredict";
        call_at(&ports, target, &key, body.as_bytes())
    };
    assert_eq!(again().status, 207);
    full.set(false);
    let response = again();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("idempotency-replayed"), None);
    assert_eq!(again().header("idempotency-replayed"), Some("true"));
}

/// Returns cumulative sums over the batch, as `CumSum` does. The answer to an item depends on the items before it.
fn running_sum(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let sum = |mut tensor: Tensor| {
        tensor.name = if tensor.name == "a" { "b" } else { "y" }.into();
        let width = tensor.data.len() / 4 / tensor.shape[0].max(1) as usize;
        let mut sums = vec![0f32; width];
        for row in tensor.data.chunks_mut(4 * width) {
            for (sum, bytes) in sums.iter_mut().zip(row.as_chunks_mut::<4>().0) {
                *sum += f32::from_le_bytes(*bytes);
                *bytes = sum.to_le_bytes();
            }
        }
        tensor
    };
    Ok(inputs.into_iter().map(sum).collect())
}

fn dependent() -> InMemory {
    let models: [(&str, &str, &[&str]); 2] = [
        ("identity", IDENTITY, &["1"]),
        ("vectors", &adapted("vectors"), &["1"]),
    ];
    let ports = InMemory::new(&models, running_sum);
    ports.rows_depend.set(true);
    ports
}

#[test]
fn the_requests_of_a_batch_run_one_by_one_where_rows_depend_on_each_other() {
    let ports = dependent();
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[10, 20]] } },
        // A caller's own tensor of several rows is one run.
        { "inputs": { "a": [[100, 200], [1, 1]] } },
    ] });
    let target = "/v1/models/identity:batchPredict";
    let response = call_at(&ports, target, &[], body.to_string().as_bytes());
    assert_eq!(response.status, 200);
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    let predictions = |at: usize| value["results"][at]["predictions"].clone();
    assert_eq!(predictions(0), json!([{ "b": [1.0, 2.0] }]));
    assert_eq!(predictions(1), json!([{ "b": [10.0, 20.0] }]));
    assert_eq!(
        predictions(2),
        json!([{ "b": [100.0, 200.0] }, { "b": [101.0, 201.0] }])
    );
    assert_eq!(ports.runs.get(), 3);
}

#[test]
fn each_text_of_a_list_is_embedded_alone_where_rows_depend_on_each_other() {
    let alone = |text: &str| {
        let body = json!({ "input": text, "model": "vectors" }).to_string();
        let response = call_at(&dependent(), "/v1/embeddings", &[], body.as_bytes());
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        value["data"][0]["embedding"].clone()
    };
    let ports = dependent();
    // Sends more texts than fit into one run.
    let texts = ["a", "four", "three", "xy", "seven77"];
    let body = json!({ "input": texts, "model": "vectors" }).to_string();
    let response = call_at(&ports, "/v1/embeddings", &[], body.as_bytes());
    assert_eq!(response.status, 200);
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    for (at, text) in texts.iter().enumerate() {
        assert_eq!(value["data"][at]["embedding"], alone(text), "{text}");
    }
    assert_eq!(ports.runs.get(), texts.len() as u64);
    assert_eq!(
        value["usage"]["prompt_tokens"],
        json!(texts.iter().map(|text| text.len()).sum::<usize>())
    );
}
