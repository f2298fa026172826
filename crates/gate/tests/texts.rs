//! Tests the surfaces over texts and pairs over in-memory ports: classes, moderations, reranking and scores.

use crate::surfaces_common::call_at;
use penstock_core::ModelVersion;
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use serde_json::{Value, json};

fn contract(adapter: &str, more: &str) -> String {
    format!(
        r#"
description = "reads texts"
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
{more}
"#
    )
}

const MODERATION: &str = r#"
[moderation.categories]
rambling = { label = "long", threshold = 0.3 }
terse = "short"
"#;

/// Returns its inputs. Version 7 of `double` adds each input to itself.
fn echo(model: &str, version: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let doubles = model == "double" && version.to_string() == "7";
    let rename = |mut tensor: Tensor| {
        tensor.name = "y".into();
        if doubles {
            let (numbers, _) = tensor.data.as_chunks_mut::<4>();
            for number in numbers {
                *number = (f32::from_le_bytes(*number) * 2.0).to_le_bytes();
            }
        }
        tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}

fn ports() -> InMemory {
    InMemory::new(
        &[
            ("classes", &contract("classes", ""), &["1"]),
            ("moderator", &contract("classes", MODERATION), &["1"]),
            ("pairs", &contract("pairs", ""), &["1"]),
            ("vectors", &contract("vectors", MODERATION), &["1"]),
            ("pictures", &contract("pictures", ""), &["1"]),
            (
                "piped",
                &contract("pipeline", "[pipeline]\nsecond = \"double@7\""),
                &["1"],
            ),
            (
                "lost",
                &contract("pipeline", "[pipeline]\nsecond = \"nothing@1\""),
                &["1"],
            ),
            ("unnamed", &contract("pipeline", ""), &["1"]),
            ("double", &contract("length", ""), &["7"]),
            (
                "cuts",
                &contract("pairs", "").replace("\"pairs\"", "\"pairs\"\ntoo_long = \"truncate\""),
                &["1"],
            ),
        ],
        echo,
    )
}

fn call(target: &str, body: &Value) -> (u16, Value) {
    let response = call_at(&ports(), target, &[], body.to_string().as_bytes());
    (
        response.status,
        serde_json::from_slice(&response.body).unwrap(),
    )
}

#[test]
fn classes_come_in_the_shape_of_vllm_in_the_order_of_the_inputs() {
    let body = json!({ "model": "classes", "input": ["a".repeat(75), "b", "c", "d", "e", "f"] });
    let (status, value) = call("/v1/classify", &body);
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["object"], "list");
    assert_eq!(value["model"], "classes");
    assert_eq!(
        value["usage"],
        json!({ "prompt_tokens": 80, "total_tokens": 80 })
    );
    let data = value["data"].as_array().unwrap();
    assert_eq!(data.len(), 6);
    assert_eq!(data[0]["label"], "long");
    assert_eq!(data[0]["probs"], json!([0.75, 0.25]));
    assert_eq!(data[0]["num_classes"], 2);
    assert_eq!(
        data[0]["scores"][1],
        json!({ "label": "short", "score": 0.25 })
    );
    assert_eq!(
        (data[5]["index"].as_u64(), data[5]["label"].as_str()),
        (Some(5), Some("short"))
    );
}

#[test]
fn classes_come_in_the_shape_of_text_embeddings_inference_where_its_member_is_sent() {
    let one = json!([{ "label": "long", "score": 0.5 }, { "label": "short", "score": 0.5 }]);
    let text = "a".repeat(50);
    let (status, value) = call(
        "/v1/classify",
        &json!({ "model": "classes", "inputs": text, "truncate": true }),
    );
    assert_eq!((status, &value), (200, &one));
    let inputs = json!([[text], ["a".repeat(20), "b".repeat(30)]]);
    let (status, value) = call(
        "/v1/classify",
        &json!({ "model": "classes", "inputs": inputs }),
    );
    assert_eq!((status, value), (200, json!([one, one])));
}

#[test]
fn moderations_flag_by_the_thresholds_of_the_contract() {
    let body = json!({ "model": "moderator", "input": ["a".repeat(40), "a".repeat(25)] });
    let (status, value) = call("/v1/moderations", &body);
    assert_eq!(status, 200, "{value}");
    let results = value["results"].as_array().unwrap();
    assert_eq!(results[0]["flagged"], true);
    assert_eq!(
        results[0]["categories"],
        json!({ "rambling": true, "terse": true })
    );
    assert_eq!(
        results[1]["categories"],
        json!({ "rambling": false, "terse": true })
    );
    assert_eq!(
        results[1]["category_scores"],
        json!({ "rambling": 0.25, "terse": 0.75 })
    );
    assert_eq!(
        results[1]["category_applied_input_types"]["terse"],
        json!(["text"])
    );
    let parts =
        json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b".repeat(80) }]);
    let (status, value) = call(
        "/v1/moderations",
        &json!({ "model": "moderator", "input": parts }),
    );
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["results"].as_array().unwrap().len(), 1);
    assert_eq!(
        value["results"][0]["categories"],
        json!({ "rambling": true, "terse": true })
    );
}

#[test]
fn documents_are_ranked_best_first_in_the_shape_of_cohere() {
    let documents = json!(["bb", { "text": "dddd" }, "a", "ccc", "ccc"]);
    let body = json!({ "model": "pairs", "query": "q", "documents": documents, "top_n": 4, "return_documents": true });
    for path in ["/v1/rerank", "/v2/rerank"] {
        let (status, value) = call(path, &body);
        assert_eq!(status, 200, "{value}");
        let told: Vec<(u64, f64, &str)> = value["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                (
                    one["index"].as_u64().unwrap(),
                    one["relevance_score"].as_f64().unwrap(),
                    one["document"]["text"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (1, 5.0, "dddd"),
                (3, 4.0, "ccc"),
                (4, 4.0, "ccc"),
                (0, 3.0, "bb")
            ]
        );
        assert!(
            value["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("pred_"))
        );
        assert_eq!(value["usage"]["total_tokens"], 18);
    }
    let (status, value) = call(
        "/v1/rerank",
        &json!({ "model": "pairs", "query": "q", "texts": ["a", "bb"], "return_text": true }),
    );
    let expected =
        json!([{ "index": 1, "score": 3, "text": "bb" }, { "index": 0, "score": 2, "text": "a" }]);
    assert_eq!((status, value), (200, expected));
}

#[test]
fn scores_are_of_one_text_with_others_or_of_as_many_with_as_many() {
    for (first, second, expected) in [
        (json!("a"), json!("bb"), vec![3.0]),
        (
            json!("a"),
            json!(["b", "bb", "b", "b", "b"]),
            vec![2.0, 3.0, 2.0, 2.0, 2.0],
        ),
        (json!(["a", "aa"]), json!(["b", "bb"]), vec![2.0, 4.0]),
    ] {
        let (status, value) = call(
            "/v1/score",
            &json!({ "model": "pairs", "text_1": first, "text_2": second }),
        );
        assert_eq!(status, 200, "{value}");
        let scores: Vec<f64> = value["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["score"].as_f64().unwrap())
            .collect();
        assert_eq!(scores, expected);
    }
}

/// A path, a body, and the status and the place of its refusal.
type Refused = (&'static str, Value, u16, &'static str);

fn wrong_classifications_and_moderations() -> Vec<Refused> {
    vec![
        ("/v1/classify", json!({ "input": "a" }), 400, "/model"),
        ("/v1/classify", json!({ "model": "classes" }), 400, "/input"),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": "a", "inputs": "a" }),
            400,
            "/inputs",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": ["a", 1] }),
            400,
            "/input/1",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": ["a", ""] }),
            422,
            "/input/1",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "inputs": ["a", "b"] }),
            400,
            "/inputs/0",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "inputs": [["a", "b", "c"]] }),
            400,
            "/inputs/0",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "inputs": [["a"], []] }),
            400,
            "/inputs/1",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": vec!["a"; 2049] }),
            422,
            "/input",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": "a", "raw_scores": true }),
            422,
            "/raw_scores",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": "a", "more": 1 }),
            400,
            "",
        ),
        (
            "/v1/classify",
            json!({ "model": "classes", "input": "a".repeat(2 << 20) }),
            400,
            "/input",
        ),
        (
            "/v1/classify",
            json!({ "model": "vectors", "input": "a" }),
            422,
            "/model",
        ),
        (
            "/v1/classify",
            json!({ "model": "pictures", "input": "a" }),
            422,
            "/model",
        ),
        ("/v1/classify", json!([1]), 400, "/model"),
        (
            "/v1/moderations",
            json!({ "model": "classes", "input": "a" }),
            422,
            "/model",
        ),
        (
            "/v1/moderations",
            json!({ "model": "vectors", "input": "a" }),
            422,
            "/model",
        ),
        (
            "/v1/moderations",
            json!({ "model": "moderator" }),
            400,
            "/input",
        ),
        (
            "/v1/moderations",
            json!({ "model": "moderator", "input": [{ "type": "image_url", "image_url": { "url": "x" } }] }),
            400,
            "/input/0/type",
        ),
    ]
}

fn wrong_rankings_and_scores() -> Vec<Refused> {
    vec![
        (
            "/v1/rerank",
            json!({ "model": "pairs", "documents": ["a"] }),
            400,
            "/query",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q" }),
            400,
            "/documents",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q", "documents": [] }),
            400,
            "/documents",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q", "documents": ["a", { "title": "b" }] }),
            400,
            "/documents/1",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q", "documents": ["a"], "texts": ["a"] }),
            400,
            "/texts",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q", "documents": ["a"], "top_n": 0 }),
            400,
            "/top_n",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "", "documents": ["a"] }),
            422,
            "/query",
        ),
        (
            "/v1/rerank",
            json!({ "model": "pairs", "query": "q".repeat(100_000), "documents": vec!["a"; 2048] }),
            422,
            "/query",
        ),
        (
            "/v1/rerank",
            json!({ "model": "classes", "query": "q", "documents": ["a"] }),
            422,
            "/model",
        ),
        (
            "/v1/score",
            json!({ "model": "pairs", "text_1": ["a", "b"], "text_2": ["a"] }),
            422,
            "/text_2",
        ),
        (
            "/v1/score",
            json!({ "model": "pairs", "text_1": "a" }),
            400,
            "/text_2",
        ),
        (
            "/v1/score",
            json!({ "model": "pairs", "text_1": "a", "text_2": ["b", "c".repeat(2 << 20)] }),
            400,
            "/text_2/1",
        ),
    ]
}

#[test]
fn what_cannot_be_answered_is_refused_with_its_place() {
    let refused = wrong_classifications_and_moderations().into_iter();
    for (path, body, status, pointer) in refused.chain(wrong_rankings_and_scores()) {
        let (got, value) = call(path, &body);
        let told = value["error"]["details"][0].clone();
        let short: String = body.to_string().chars().take(120).collect();
        assert_eq!(got, status, "{path} {short}: {value}");
        let place = told["field"].as_str().or(told["pointer"].as_str());
        if !(path == "/v1/classify" && body.is_array()) {
            assert_eq!(place, Some(pointer), "{path} {short}: {value}");
        }
    }
}

#[test]
fn a_text_is_cut_where_the_contract_or_the_call_says_so() {
    let long = "a".repeat(2 << 20);
    let (status, _) = call(
        "/v1/score",
        &json!({ "model": "cuts", "text_1": "q", "text_2": long }),
    );
    assert_eq!(status, 200);
    for more in [
        json!({ "truncate": true }),
        json!({ "truncate_prompt_tokens": -1 }),
    ] {
        let mut body = json!({ "model": "pairs", "query": "q", "documents": [long] });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert_eq!(call("/v1/rerank", &body).0, 200);
    }
}

#[test]
fn a_body_that_is_no_json_is_told_so_on_every_surface() {
    for path in ["/v1/classify", "/v1/moderations", "/v1/rerank", "/v1/score"] {
        for body in [&b"{"[..], b"", b"{\"model\":\"pairs\",", b"\xff"] {
            let response = call_at(&ports(), path, &[], body);
            assert_eq!(response.status, 400, "{path} {body:?}");
        }
    }
}

#[test]
fn a_pipeline_runs_its_steps_at_the_versions_that_the_contract_pins() {
    let ports = ports();
    let body = json!({ "requests": [{ "content": "abc" }, { "content": "a" }] });
    let response = call_at(
        &ports,
        "/v1/models/piped:batchPredict",
        &[],
        body.to_string().as_bytes(),
    );
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(response.status, 200, "{value}");
    let text = value.to_string();
    assert!(
        text.contains("{\"length\":6}") && text.contains("{\"length\":2}"),
        "{text}"
    );
    for (model, status, said) in [
        ("lost", 503, "the step `second`"),
        ("unnamed", 500, "the step `second`"),
    ] {
        let response = call_at(
            &ports,
            &format!("/v1/models/{model}:predict"),
            &[],
            br#"{"content":"abc"}"#,
        );
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, status, "{text}");
        assert!(text.contains(said) || status == 500, "{text}");
    }
}
