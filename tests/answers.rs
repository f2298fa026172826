//! An answer over HTTP meets the model's contract and has the numbers that the graph computes. Otherwise there is no answer.

use crate::common;
use crate::support::graphs;

use common::{Options, Response, Server, onnxruntime, root};
use graphs::{FLOAT, INT64, file_of, graph, int, node, open_matrix, value};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn write(folder: &Path, file: &str, content: impl AsRef<[u8]>) {
    let file = folder.join(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

fn model(folder: &Path, name: &str, file: &[u8], contract: &str) {
    let contract = format!("description = \"for tests\"\n{contract}");
    write(folder, &format!("{name}/1/model.onnx"), file);
    write(folder, &format!("{name}/model.toml"), contract);
}

fn port(side: &str, name: &str, datatype: &str, shape: &str, more: &str) -> String {
    format!("[[{side}]]\nname = \"{name}\"\ndatatype = \"{datatype}\"\nshape = {shape}\n{more}")
}

/// Three columns under two labels.
fn two_labels(folder: &Path) {
    let nodes = [node("Softmax", &["x"], &["y"], &[int("axis", 1)])];
    let file = file_of(
        &graph(&nodes, &[], &[open_matrix("x")], &[open_matrix("y")]),
        17,
    );
    let labels = "labels = [\"no\", \"yes\"]\n";
    let contract = [
        port("inputs", "x", "FP32", "[\"N\", 3]", ""),
        port("outputs", "y", "FP32", "[\"N\", 2]", labels),
    ];
    model(folder, "two-labels", &file, &contract.concat());
}

/// The caller decides the number of columns. The contract promises one, which is the result of the first run.
fn columns(folder: &Path) {
    let nodes = [node("TopK", &["x", "k"], &["y", "i"], &[])];
    let inputs = [value("x", FLOAT, &[1, 3]), value("k", INT64, &[1])];
    let file = file_of(
        &graph(&nodes, &[], &inputs, &[value("y", FLOAT, &[1, 0])]),
        17,
    );
    let contract = [
        port("inputs", "x", "FP32", "[1, 3]", ""),
        port("inputs", "k", "INT64", "[1]", "minimum = 1\nmaximum = 3\n"),
        port("outputs", "y", "FP32", "[1, 1]", ""),
    ];
    model(folder, "columns", &file, &contract.concat());
}

/// 0 / 0 is NaN in ONNX Runtime, and Sigmoid of it 4.5e-7 in tract.
fn disagrees(folder: &Path) {
    let nodes = [
        node("Div", &["x", "x"], &["d"], &[]),
        node("Sigmoid", &["d"], &["y"], &[]),
    ];
    let shape = [0, 2];
    let file = graph(
        &nodes,
        &[],
        &[value("x", FLOAT, &shape)],
        &[value("y", FLOAT, &shape)],
    );
    let contract = [
        port("inputs", "x", "FP32", "[\"N\", 2]", ""),
        port("outputs", "y", "FP32", "[\"N\", 2]", ""),
    ];
    model(folder, "disagrees", &file_of(&file, 17), &contract.concat());
}

fn identity(folder: &Path, name: &str, more: &str) {
    let file = std::fs::read(root().join("models/identity/1/model.onnx")).unwrap();
    let contract = [
        port("inputs", "a", "FP32", "[\"N\", 4]", more),
        port("outputs", "b", "FP32", "[\"N\", 4]", ""),
    ];
    model(folder, name, &file, &contract.concat());
}

fn start(folder: &Path, policy: &'static str, in_webassembly: bool) -> Server {
    Server::start_with(Options {
        models: Some(folder.to_owned()),
        policy: Some(policy),
        in_webassembly,
        ..Options::default()
    })
}

/// The entry of a model in `/ready`.
fn readiness(server: &Server, model: &str) -> Value {
    let said = server.get("/ready").json();
    let models = said["models"].as_array().unwrap();
    let found = models.iter().find(|entry| entry["name"] == model);
    found.unwrap_or_else(|| panic!("{said}")).clone()
}

#[test]
fn two_labels_over_three_columns_are_never_answered() {
    for in_webassembly in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        two_labels(folder.path());
        let server = start(folder.path(), "", in_webassembly);
        let answer = server.post_json("/v1/models/two-labels:predict", r#"{"inputs":[[0,0,9]]}"#);
        assert_eq!(
            answer.status,
            503,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let told = answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        for part in [
            "output \"y\" was returned as [",
            "write shape = [\"N\", 3] and 3 labels",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let ready = readiness(&server, "two-labels");
        assert_eq!(ready["ready"], false, "{ready}");
    }
}

fn top(server: &Server, k: u64) -> Response {
    let body = json!({"inputs": {"x": [[3, 1, 2]], "k": [k]}}).to_string();
    server.post_json("/v1/models/columns:predict", &body)
}

#[test]
fn an_output_that_breaks_the_contract_is_an_error_of_the_operators_and_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    columns(folder.path());
    let server = start(
        folder.path(),
        "[[cache]]\nmodel = \"columns\"\nttl_s = 60\n",
        false,
    );
    server.logged("model columns version 1: ready");
    let first = top(&server, 1).json();
    assert_eq!(first["predictions"][0]["y"], json!([[3.0]]), "{first}");
    // The result cache does not keep it either.
    for _ in 0..2 {
        let answer = top(&server, 2);
        assert_eq!(answer.status, 500);
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "model_contract_broken", "{error}");
        let told = error["message"].as_str().unwrap();
        assert!(
            told.contains("output \"y\" was returned as [1, 2]"),
            "{told}"
        );
        assert!(told.contains("write shape = [1, 2]"), "{told}");
    }
    server.logged("the call was answered with model_contract_broken");
    let infer = json!({"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [3, 1, 2]},
        {"name": "k", "datatype": "INT64", "shape": [1], "data": [3]},
    ]});
    let answer = server.post_json("/v2/models/columns/infer", &infer.to_string());
    assert_eq!(answer.status, 500);
    assert!(answer.json()["error"].as_str().unwrap().contains("[1, 3]"));
    assert_eq!(top(&server, 1).status, 200, "the others are answered");
}

/// A call with one binary input of four numbers.
fn binary(server: &Server, model: &str, numbers: [f32; 4]) -> Response {
    let head = json!({
        "inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "b", "parameters": {"binary_data": true}}],
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
    ];
    server.call(
        "POST",
        &format!("/v2/models/{model}/infer"),
        &headers,
        Some(&body),
    )
}

#[test]
fn nan_and_infinity_are_refused_as_bytes_unless_the_contract_lets_them_in() {
    let folder = tempfile::tempdir().unwrap();
    identity(folder.path(), "finite", "");
    identity(folder.path(), "any", "allow_non_finite = true\n");
    let server = start(folder.path(), "", false);
    server.logged("model finite version 1: ready");
    server.logged("model any version 1: ready");
    for (bad, shown) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let numbers = [1.0, 2.0, bad, 4.0];
        let answer = binary(&server, "finite", numbers);
        assert_eq!(answer.status, 422);
        let told = answer.json()["error"].as_str().unwrap().to_owned();
        let expected = format!("input \"a\" has the value {shown} at [0, 2]; send a finite number");
        assert!(told.contains(&expected), "{told}");
        let answer = binary(&server, "any", numbers);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let echoed: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        assert!(answer.bytes.ends_with(&echoed), "bit for bit");
    }
    assert_eq!(
        binary(&server, "finite", [1.0, 2.0, f32::MAX, -0.0]).status,
        200
    );
}

/// The result of the comparison in the background.
fn compared(server: &Server, model: &str) -> String {
    common::until_found(|| {
        let ready = readiness(server, model);
        match ready["agreement"].as_str() {
            Some("pending") => Err(ready),
            Some(result) => Ok(result.to_owned()),
            None => panic!("{ready}"),
        }
    })
}

#[test]
fn a_model_without_another_backend_serves_and_is_told_to_be_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    identity(folder.path(), "same", "");
    let server = Server::start_with(Options {
        models: Some(folder.path().to_owned()),
        policy: Some("[models]\ncompare = \"warn\"\n"),
        tract: true,
        ..Options::default()
    });
    server.ready();
    assert_eq!(compared(&server, "same"), "unknown");
    let line = server.logged("model same version 1: ready");
    assert!(!line.contains("compared"), "{line}");
}

#[test]
fn a_model_that_another_backend_answers_differently_is_told_of_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    disagrees(folder.path());
    identity(folder.path(), "same", "");
    let server = start(folder.path(), "[models]\ncompare = \"warn\"\n", false);
    server.ready();
    // Both serve before they are compared.
    for name in ["disagrees", "same"] {
        let ready = readiness(&server, name);
        assert_eq!(ready["ready"], true, "{ready}");
        assert!(ready["agreement"].is_string(), "{ready}");
    }
    assert_eq!(compared(&server, "same"), "agrees");
    assert_eq!(compared(&server, "disagrees"), "differs");
    server.logged("model disagrees version 1: tract answers differently: output \"y\" is NaN here");
    let ready = readiness(&server, "disagrees");
    assert_eq!(ready["ready"], true);
    let told = ready["reason"].as_str().unwrap();
    assert!(
        told.contains("tract answers differently: output \"y\""),
        "{told}"
    );
    assert_eq!(readiness(&server, "same").get("reason"), None);
    let index = server.post_json("/v2/repository/index", "{}").json();
    let mut entries = index.as_array().unwrap().iter();
    let entry = entries.find(|entry| entry["name"] == "same").unwrap();
    assert_eq!(entry["agreement"], "agrees", "{index}");
    drop(server);

    let server = start(folder.path(), "[models]\ncompare = \"refuse\"\n", false);
    server.logged("model disagrees: not served");
    server.logged("model same version 1: ready");
    let ready = readiness(&server, "disagrees");
    assert_eq!(ready["ready"], false);
    let told = ready["reason"].as_str().unwrap();
    assert!(told.contains("tract answers differently"), "{told}");
}

#[test]
fn check_compares_where_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    disagrees(folder.path());
    identity(folder.path(), "same", "");
    let check = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .current_dir(root())
            .env_remove("PENSTOCK_OPENVINO")
            .arg("check")
            .arg("--onnxruntime")
            .arg(onnxruntime())
            .arg("--models")
            .arg(folder.path())
            .args(more)
            .output()
            .expect("the command runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (found, _) = check(&[]);
    assert!(!found.contains("tract"), "{found}");
    let (found, beside) = check(&["--compare"]);
    assert!(
        found.contains("warning") && found.contains("tract answers differently"),
        "{found}"
    );
    assert!(beside.contains("tract agrees in"), "{beside}");
}
