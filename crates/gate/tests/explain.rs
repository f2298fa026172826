//! Tests explanations over in-memory ports: their runs, their cost, and their content.

use crate::gate_common::answer;
use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::ports::Failure;
use penstock_tensor::{Datatype, Tensor};
use penstock_testkit::models::ADAPTED;
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};

/// A model with two classes: the first is the sum of the inputs, the second is twice the second input.
const MODEL: &str = r#"
description = "adds up"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 3]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 2]
labels = ["sum", "second"]
[[outputs]]
name = "z"
datatype = "FP32"
shape = ["N", 1]
[explain]
baseline = { a = 1 }
[limits]
max_items = 3
"#;

const EXPLAIN: &str = "/v1/models/m:explain";
const PREDICT: &str = "/v1/models/m:predict?explain=true";

fn run(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let input = &inputs[0];
    let numbers: Vec<f32> = (input.data.as_chunks::<4>().0.iter())
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let tensor = |name: &str, width: u64, values: Vec<f32>| Tensor {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: vec![input.shape[0], width],
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    if input.name == "x" {
        return Ok(vec![tensor(
            "y",
            1,
            numbers.iter().map(|n| n * 2.0).collect(),
        )]);
    }
    let rows = numbers.chunks(3);
    let classes = rows
        .clone()
        .flat_map(|row| [row.iter().sum(), row[1] * 2.0]);
    Ok(vec![
        tensor("y", 2, classes.collect()),
        tensor("z", 1, rows.map(|row| row[0]).collect()),
    ])
}

fn ports() -> InMemory {
    let bare = MODEL.replace("[explain]\nbaseline = { a = 1 }\n", "");
    let adapted = format!("{ADAPTED}[explain]\n");
    let ports = InMemory::new(
        &[
            ("m", MODEL, &["1"]),
            ("bare", &bare, &["1"]),
            ("lengths", &adapted, &["1"]),
        ],
        run,
    );
    ports.set_policy(LIMITS);
    ports
}

fn post(ports: &InMemory, target: &str, content_type: &str, body: &[u8]) -> (Response, Value) {
    answer(
        ports,
        "POST",
        target,
        &[("content-type", content_type)],
        body,
    )
}

fn explain(ports: &InMemory, target: &str, row: [f32; 3]) -> (u16, Value) {
    let body = json!({ "id": "mine", "inputs": { "a": [row] } }).to_string();
    let (response, value) = post(ports, target, "application/json", body.as_bytes());
    (response.status, value)
}

fn values(explanation: &Value) -> Vec<f64> {
    let groups = explanation["attributions"].as_array().expect("a list");
    groups
        .iter()
        .map(|g| g["attribution"].as_f64().expect("a number"))
        .collect()
}

#[test]
fn an_item_is_explained_in_batches_that_cost_an_item_for_each_group() {
    let ports = ports();
    let (status, value) = explain(&ports, EXPLAIN, [4.0, 2.0, 8.0]);
    assert_eq!(status, 200, "{value}");
    let told = &value["explanation"];
    assert_eq!(
        (&told["method"], &told["target"]),
        (&json!("occlusion"), &json!("sum"))
    );
    assert_eq!(told["base_score"], json!(14.0));
    assert_eq!(
        told["baseline"],
        json!({ "a": { "kind": "constant", "value": 1.0 } })
    );
    assert_eq!(values(told), [3.0, 1.0, 7.0]);
    assert_eq!(told["sum"], json!(11.0));
    assert_eq!(
        (&value["id"], &value["model"]),
        (&json!("mine"), &json!("m"))
    );
    assert!(value.get("predictions").is_none() && value["prediction_id"].is_string());
    // Four items run, three of them in one batch.
    assert_eq!(ports.runs.get(), 2);
    let log = ports.quota_log.borrow().join("; ");
    assert!(log.contains("charge 4") && !log.contains("refund"), "{log}");
    assert!(log.contains("admit explain m"), "{log}");
}

#[test]
fn a_prediction_can_be_explained_with_it_and_another_class_can_be_asked_for() {
    let ports = ports();
    let (status, value) = explain(&ports, &format!("{PREDICT}&target=second"), [4.0, 2.0, 8.0]);
    assert_eq!(status, 200, "{value}");
    let prediction = &value["predictions"][0];
    assert_eq!(prediction["y"], json!([14.0, 4.0]));
    assert_eq!(
        (&prediction["z"], &prediction["label"]),
        (&json!([4.0]), &json!("sum"))
    );
    assert_eq!(value["predictions"].as_array().map(Vec::len), Some(1));
    assert_eq!(values(&value["explanation"]), [0.0, 2.0, 0.0]);
    let (status, value) = explain(
        &ports,
        "/v1/models/m:predict?explain=false",
        [4.0, 2.0, 8.0],
    );
    assert!(status == 200 && value.get("explanation").is_none());
}

#[test]
fn what_cannot_be_explained_says_why_and_runs_nothing() {
    let ports = ports();
    let one = r#"{"inputs":{"a":[[1,2,3]]}}"#;
    for (target, body, status, code) in [
        ("/v1/models/bare:explain", one, 404, "unknown_path"),
        (
            "/v1/models/bare:predict?explain=true",
            one,
            400,
            "invalid_parameter",
        ),
        (
            "/v1/models/m:predict?explain=yes",
            one,
            400,
            "invalid_parameter",
        ),
        (
            "/v1/models/m:explain?target=third",
            one,
            422,
            "invalid_inputs",
        ),
        (
            "/v1/models/m:explain?target=%zz",
            one,
            400,
            "invalid_parameter",
        ),
        (
            "/v1/models/m:explain?target=%ff",
            one,
            400,
            "invalid_parameter",
        ),
        (
            EXPLAIN,
            r#"{"inputs":{"a":[[1,2,3],[1,2,3]]}}"#,
            422,
            "invalid_inputs",
        ),
        (
            EXPLAIN,
            r#"{"inputs":{"a":[[1,2]]}}"#,
            422,
            "invalid_inputs",
        ),
        (EXPLAIN, "{", 400, "malformed_json"),
        ("/v1/models/none:explain", one, 404, "unknown_model"),
    ] {
        let (response, value) = post(&ports, target, "application/json", body.as_bytes());
        let found = (response.status, value["error"]["code"].as_str());
        assert_eq!(found, (status, Some(code)), "{target}: {value}");
    }
    assert_eq!(ports.runs.get(), 0);
}

#[test]
fn an_explanation_tells_no_more_of_scores_than_the_caller_may_know() {
    let ports = ports();
    ports.set_policy("[[disclosure]]\nround_decimals = 0\n");
    let (_, value) = explain(&ports, PREDICT, [4.25, 2.125, 8.0]);
    let told = &value["explanation"];
    // The values before rounding are 14.375, 11.125, 13.25 and 7.375.
    assert_eq!(told["base_score"], json!(14.0));
    assert_eq!(values(told), [3.0, 1.0, 7.0]);
    assert_eq!(value["predictions"][0]["y"], json!([14.0, 4.0]));
    ports.set_policy("[[disclosure]]\nwithhold_scores = true\n");
    let (_, value) = explain(&ports, EXPLAIN, [4.25, 2.125, 8.0]);
    assert_eq!(values(&value["explanation"]), [0.0, 0.0, 0.0]);
}

#[test]
fn an_explanation_comes_from_the_cache_where_the_model_has_one() {
    let ports = ports();
    ports.set_policy("[[cache]]\nmodel = \"m\"\n");
    let body = json!({ "inputs": { "a": [[4, 2, 8]] } }).to_string();
    let post = |target| post(&ports, target, "application/json", body.as_bytes());
    let (first, one) = post(EXPLAIN);
    assert_eq!(
        first.header("cache-status"),
        Some("penstock; fwd=miss; stored")
    );
    // The same runs explain another class.
    let (second, other) = post("/v1/models/m:explain?target=second");
    assert_eq!(second.header("cache-status"), Some("penstock; hit; ttl=60"));
    assert_eq!(values(&one["explanation"]), [3.0, 1.0, 7.0]);
    assert_eq!(values(&other["explanation"]), [0.0, 2.0, 0.0]);
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn what_an_adapter_made_of_content_is_explained_too() {
    let ports = ports();
    let target = "/v1/models/lengths:predict?explain=true";
    let (response, value) = post(&ports, target, "text/plain", b"four");
    assert_eq!(response.status, 200, "{value}");
    assert_eq!(value["predictions"].as_array().map(Vec::len), Some(1));
    assert_eq!(values(&value["explanation"]), [8.0]);
    assert_eq!(value["explanation"]["attributions"][0]["name"], "x[0]");
}

#[test]
fn a_models_description_says_how_it_is_explained() {
    let (_, value) = answer(&ports(), "GET", "/v1/models/m", &[], b"");
    assert_eq!(
        value["explain"],
        json!({ "target": "y", "baseline": { "a": 1 } })
    );
}

#[test]
fn explanations_are_for_who_may_have_them_in_either_form() {
    let ports = ports();
    let one = br#"{"inputs":{"a":[[1,2,3]]}}"#;
    for (scope, plain, explained) in [("predict", 200, 401), ("*", 200, 200)] {
        ports.set_policy(&format!(
            "[auth.anonymous]\nscopes = [\"{scope}\"]\nfrom = \"anywhere\"\n"
        ));
        for (target, status) in [
            ("/v1/models/m:predict", plain),
            (PREDICT, explained),
            (EXPLAIN, explained),
        ] {
            let (response, value) = post(&ports, target, "application/json", one);
            assert_eq!(response.status, status, "{scope} {target}: {value}");
        }
    }
}

#[test]
fn the_rows_of_an_explanation_run_one_by_one_where_they_depend_on_each_other() {
    let (together, apart) = (ports(), ports());
    apart.rows_depend.set(true);
    for target in [EXPLAIN, PREDICT] {
        let row = [4.0, 2.0, 8.0];
        let (expected, told) = (
            explain(&together, target, row),
            explain(&apart, target, row),
        );
        assert_eq!((expected.0, told.0), (200, 200), "{}", told.1);
        assert_eq!(expected.1["explanation"], told.1["explanation"]);
        assert_eq!(expected.1["predictions"], told.1["predictions"]);
    }
    assert_eq!((together.runs.get(), apart.runs.get()), (4, 8));
}
