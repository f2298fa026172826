//! Tests the surface of OpenAI's clients over in-memory ports: embeddings, their refusals, and the list of models.

use crate::gate_common::answer;
use crate::surfaces_common::{call, call_at, dependent, ports};
use penstock_testkit::ports::LONGEST;
use serde_json::{Value, json};

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
    let get = |target: &str| answer(&ports(), "GET", target, &[], b"").1;
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
