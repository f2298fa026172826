//! Tests the disclosure rules in each form of answers.

use crate::gate_common::answer;
use penstock_core::ModelVersion;
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use penstock_testkit::models::ADAPTED;
use serde_json::{Value, json};

const MODEL: &str = r#"
description = "gives back what it gets as scores"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 3]
[[outputs]]
name = "prob"
datatype = "FP32"
shape = ["N", 3]
labels = ["cat", "dog", "cow"]
"#;

const BODY: &str = r#"{"inputs":{"x":[[0.26,0.61,0.13],[0.51,0.09,0.4]]}}"#;

fn ports(policy: &str) -> InMemory {
    let run = |model: &str, _: ModelVersion, inputs: Vec<Tensor>| -> Result<Vec<Tensor>, Failure> {
        let output = if model == "adapted" { "y" } else { "prob" };
        let rename = |mut tensor: Tensor| {
            tensor.name = output.into();
            tensor
        };
        Ok(inputs.into_iter().map(rename).collect())
    };
    let ports = InMemory::new(&[("cls", MODEL, &["1"]), ("adapted", ADAPTED, &["1"])], run);
    ports.set_policy(policy);
    ports
}

fn post(ports: &InMemory, target: &str, headers: &[(&str, &str)], body: &str) -> Value {
    answer(ports, "POST", target, headers, body.as_bytes()).1
}

fn predicted(policy: &str) -> Value {
    post(&ports(policy), "/v1/models/cls:predict", &[], BODY)["predictions"].clone()
}

#[test]
fn predictions_tell_what_the_entry_for_the_model_and_the_tier_leaves() {
    let whole = predicted("");
    assert_eq!(whole[0]["confidence"], 0.61);
    for other in [
        "[[disclosure]]\nmodels = [\"other\"]\ntop = 1\n",
        "[[disclosure]]\ntiers = [\"premium\"]\ntop = 1\n",
    ] {
        assert_eq!(predicted(other), whole);
    }
    let rounded = predicted(
        "[[disclosure]]\nmodels = [\"cls*\"]\ntiers = [\"anonymous\"]\nround_decimals = 1\n",
    );
    assert_eq!(
        rounded[0],
        json!({
            "prob": [0.3, 0.6, 0.1], "label": "dog", "confidence": 0.6,
            "top": [
                {"label": "dog", "confidence": 0.6}, {"label": "cat", "confidence": 0.3},
                {"label": "cow", "confidence": 0.1},
            ],
        })
    );
    let top = predicted("[[disclosure]]\ntop = 1\n");
    assert_eq!(
        top[1],
        json!({
            "prob": [0.51, 0.0, 0.0], "label": "cat", "confidence": 0.51,
            "top": [{"label": "cat", "confidence": 0.51}],
        })
    );
    assert_eq!(
        predicted("[[disclosure]]\noutputs = [\"prob\"]\nwithhold_scores = true\n"),
        json!([
            {"prob": [0.0, 1.0, 0.0], "label": "dog", "top": [{"label": "dog"}]},
            {"prob": [1.0, 0.0, 0.0], "label": "cat", "top": [{"label": "cat"}]},
        ])
    );
}

#[test]
fn the_label_is_the_models_even_where_told_scores_no_longer_tell_it() {
    // Two buckets between 0 and 1: the first item's scores become 0.25, 0.75, 0.25, and the second's 0.75, 0.25,
    // 0.25.
    let body = r#"{"inputs":{"x":[[0.1,0.2,0.3],[0.6,0.7,0.1]]}}"#;
    let ports = ports("[[disclosure]]\nbuckets = 2\n");
    let found = post(&ports, "/v1/models/cls:predict", &[], body)["predictions"].clone();
    assert_eq!(
        (&found[0]["prob"], &found[0]["label"]),
        (&json!([0.25, 0.25, 0.25]), &json!("cow"))
    );
    assert_eq!(
        (&found[1]["prob"], &found[1]["label"]),
        (&json!([0.75, 0.75, 0.25]), &json!("dog"))
    );
}

#[test]
fn infer_tells_no_more_than_predict() {
    let body = r#"{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[0.26,0.61,0.13,0.51,0.09,0.4]}]}"#;
    for (policy, data) in [
        ("buckets = 10", json!([0.25, 0.65, 0.15, 0.55, 0.05, 0.45])),
        (
            "withhold_scores = true",
            json!([0.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
        ),
        (
            "outputs = [\"other\"]\ntop = 1",
            json!([0.26, 0.61, 0.13, 0.51, 0.09, 0.4]),
        ),
    ] {
        let ports = ports(&format!("[[disclosure]]\n{policy}\n"));
        let found = post(&ports, "/v2/models/cls/infer", &[], body);
        assert_eq!(found["outputs"][0]["data"], data, "{policy}");
    }
}

#[test]
fn an_adapter_sees_whole_scores_and_what_it_says_of_them_is_cut() {
    // The adapter answers `{"length": 3}` from the model's output for three letters.
    let said = |policy: &str| {
        let headers = [("content-type", "text/plain")];
        post(
            &ports(policy),
            "/v1/models/adapted:predict",
            &headers,
            "abc",
        )["predictions"]
            .clone()
    };
    assert_eq!(
        said("[[disclosure]]\nbuckets = 2\n"),
        json!([{"length": 3}]),
        "not a score by its name"
    );
    assert_eq!(
        said("[[disclosure]]\noutputs = [\"length\"]\nbuckets = 2\n"),
        json!([{"length": 0.75}])
    );
    assert_eq!(
        said("[[disclosure]]\noutputs = [\"length\"]\nwithhold_scores = true\n"),
        json!([{}])
    );
    let ports = ports("[[disclosure]]\ntop = 1\n");
    let broken = post(
        &ports,
        "/v1/models/adapted:predict",
        &[("content-type", "text/plain")],
        "broken",
    );
    assert_eq!(broken["error"]["code"], "internal");
}

#[test]
fn what_is_replayed_is_what_was_told() {
    let ports = ports("[[disclosure]]\nwithhold_scores = true\n");
    let keyed = [("idempotency-key", "k")];
    let first = post(&ports, "/v1/models/cls:predict", &keyed, BODY);
    let second = post(&ports, "/v1/models/cls:predict", &keyed, BODY);
    assert_eq!(first, second);
    assert_eq!(first["predictions"][0]["prob"], json!([0.0, 1.0, 0.0]));
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn a_fault_in_an_entry_refuses_calls_instead_of_telling_everything() {
    let ports = ports("[[disclosure]]\nbuckets = 1\n");
    let found = post(&ports, "/v1/models/cls:predict", &[], BODY);
    assert_eq!(found["error"]["code"], "internal");
    assert!(ports.logged.borrow()[0].contains("disclosure[0].buckets"));
    assert_eq!(ports.runs.get(), 0);
}
