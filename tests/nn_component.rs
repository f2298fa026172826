//! Models run in WebAssembly, as on a host without wasi:nn, and give the same answers as native ones.
//!
//! Identity is compared bit for bit. The others sum in another order than the native backends do: probabilities may
//! differ by [`CLOSE`] from native tract, which is the same code, and by [`NEAR`] from ONNX Runtime.

use crate::common;

use common::{Options, Response, Server, root};
use serde_json::{Value, json};
use std::path::Path;

/// Largest difference of a probability from native tract's.
const CLOSE: f64 = 1e-4;
/// Largest difference of a probability from ONNX Runtime's.
const NEAR: f64 = 1e-3;

fn component() -> Server {
    Server::start_with(Options {
        in_webassembly: true,
        tract: true,
        ..Options::default()
    })
}

fn tensor(name: &str, datatype: &str, shape: &[usize], element: impl Fn(usize) -> f64) -> Value {
    let data: Vec<f64> = (0..shape.iter().product()).map(element).collect();
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": data })
}

fn infer(server: &Server, model: &str, input: &Value) -> Response {
    let body = json!({ "inputs": [input] }).to_string();
    server.post_json(&format!("/v2/models/{model}/infer"), &body)
}

fn numbers(answer: &Response) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", text(answer));
    let value = answer.json();
    let outputs = value["outputs"].as_array().unwrap().iter();
    outputs
        .flat_map(|output| output["data"].as_array().unwrap())
        .map(|number| number.as_f64().unwrap())
        .collect()
}

fn text(answer: &Response) -> String {
    String::from_utf8_lossy(&answer.bytes).into_owned()
}

#[test]
fn answers_equal_those_of_the_native_backends() {
    let component = component();
    let wave = |i: usize| f64::from((i as f32 * 0.37).sin());
    let edges = [
        0.0,
        -0.0,
        f64::from(f32::MIN_POSITIVE),
        f64::from(f32::from_bits(1)),
        f64::from(f32::MAX),
        f64::from(f32::MIN),
        0.1,
        1.0 / 3.0,
    ];
    let inputs = [
        ("identity", tensor("a", "FP32", &[2, 4], |i| edges[i])),
        (
            "digits",
            tensor("pixels", "FP32", &[1, 64], |i| (i * 7 % 17) as f64),
        ),
        (
            "digits",
            tensor("pixels", "FP32", &[3, 64], |i| (i * 5 % 17) as f64),
        ),
        (
            "magika",
            tensor("bytes", "INT32", &[1, 2048], |i| (i * 31 % 257) as f64),
        ),
        ("cls", tensor("x", "FP32", &[1, 3, 48, 192], wave)),
        // Another shape of the same model, and back.
        ("cls", tensor("x", "FP32", &[2, 3, 32, 64], wave)),
        ("cls", tensor("x", "FP32", &[1, 3, 48, 192], wave)),
    ];
    for (server, tolerance) in [
        (
            Server::start_with(Options {
                tract: true,
                ..Options::default()
            }),
            CLOSE,
        ),
        (Server::start(), NEAR),
    ] {
        for (model, input) in &inputs {
            let here = numbers(&infer(&component, model, input));
            let there = numbers(&infer(&server, model, input));
            assert_eq!(here.len(), there.len(), "{model}");
            for (a, b) in here.iter().zip(&there) {
                if *model == "identity" {
                    assert_eq!((*a as f32).to_bits(), (*b as f32).to_bits(), "{a} {b}");
                } else {
                    assert!((a - b).abs() <= tolerance, "{model}: {a} here, {b} there");
                }
            }
        }
    }
    // Through the adapter too.
    let python = std::fs::read(root().join("scripts/make_models.py")).unwrap();
    let answer = component.post(
        "/v1/models/magika:predict",
        "application/octet-stream",
        &python,
    );
    assert_eq!(answer.json()["predictions"][0]["label"], "python");
    assert!(
        component
            .logged("models are")
            .contains("opened by the components"),
        "the host runs no models"
    );
}

/// A models directory with these models of the repository, and one whose graph is no graph.
fn models(folder: &Path) {
    for name in ["identity", "digits", "broken"] {
        let from = root().join("models").join(name.replace("broken", "digits"));
        let version = folder.join(name).join("1");
        std::fs::create_dir_all(&version).unwrap();
        std::fs::copy(
            from.join("model.toml"),
            folder.join(name).join("model.toml"),
        )
        .unwrap();
        let graph = version.join("model.onnx");
        match name {
            "broken" => std::fs::write(graph, b"not a graph").unwrap(),
            _ => drop(std::fs::copy(from.join("1/model.onnx"), graph).unwrap()),
        }
    }
}

#[test]
fn a_model_that_cannot_serve_is_reported_as_by_the_native_host() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let options = |in_webassembly| Options {
        in_webassembly,
        tract: true,
        models: Some(folder.path().to_owned()),
        ..Options::default()
    };
    let (component, native) = (
        Server::start_with(options(true)),
        Server::start_with(options(false)),
    );
    let good = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    let state = |server: &Server| -> (u16, Vec<(Value, Value)>, String) {
        let answer = server.get("/ready");
        let value = answer.json();
        let models = value["models"].as_array().unwrap();
        let states = (models.iter())
            .map(|model| (model["name"].clone(), model["ready"].clone()))
            .collect();
        let broken = models.iter().find(|model| model["name"] == "broken");
        let reason = broken.unwrap()["reason"].as_str().unwrap_or_default();
        (answer.status, states, reason.to_owned())
    };
    let (here, there) = (state(&component), state(&native));
    assert_eq!((here.0, &here.1), (there.0, &there.1));
    assert_eq!(here.0, 200, "the others run");
    assert!(here.2.contains("not an ONNX file"), "{}", here.2);
    for (path, body) in [
        ("/v1/models/identity:predict", good),
        ("/v1/models/broken:predict", r#"{"inputs":{"pixels":[]}}"#),
        ("/v1/models/nope:predict", good),
        ("/v2/models/identity/versions/9/infer", "{}"),
        ("/v2/models/identity/versions/0/infer", "{}"),
        ("/v2/models/identity/versions/..%2F1/infer", "{}"),
        ("/v1/models/..%2Fidentity:predict", good),
        ("/v1/models/..:predict", good),
        ("/v1/models/%2Fmodels%2Fidentity:predict", good),
        ("/v1/models/identity%00:predict", good),
        ("/v1/models/identity@1:predict", good),
        ("/v2/models/../penstock.toml/infer", "{}"),
    ] {
        let (a, b) = (
            component.post_json(path, body),
            native.post_json(path, body),
        );
        assert_eq!(a.status, b.status, "{path}: {} / {}", text(&a), text(&b));
        assert!(a.status < 600 && a.status != 500, "{path}: {}", text(&a));
    }
    let digits: Vec<f64> = vec![1.0; 64];
    let broken = component.post_json(
        "/v1/models/broken:predict",
        &json!({ "inputs": { "pixels": [digits] } }).to_string(),
    );
    assert_eq!(broken.status, 503, "{}", text(&broken));
    // The same instance continues to answer.
    assert_eq!(
        component
            .post_json("/v1/models/identity:predict", good)
            .status,
        200
    );
}

#[test]
fn a_model_that_tract_cannot_run_is_not_ready_and_others_are() {
    let server = component();
    let value = server.get("/ready").json();
    for model in value["models"].as_array().unwrap() {
        let reason = model["reason"].as_str().unwrap_or_default();
        if model["name"] == "silero-vad" {
            assert_eq!(model["ready"], false);
            assert!(reason.contains("first run"), "{reason}");
        } else {
            assert_eq!(model["ready"], true, "{model}");
        }
    }
    let inputs = json!({ "inputs": [
        tensor("input", "FP32", &[1, 576], |_| 0.0),
        tensor("state", "FP32", &[2, 1, 128], |_| 0.0),
        { "name": "sr", "datatype": "INT64", "shape": [], "data": [16000] },
    ] });
    let answer = server.post_json("/v2/models/silero-vad/infer", &inputs.to_string());
    assert_eq!(answer.status, 503, "{}", text(&answer));
}

#[test]
fn a_call_that_would_not_fit_is_refused_and_the_instance_lives() {
    let server = component();
    // Within the contract and within a body's limit, but between its operators it needs more than an instance may use.
    let (items, side) = (64, 200);
    let zeros = "0,".repeat(items * 3 * side * side);
    let body = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{items},3,{side},{side}],"data":[{}]}}]}}"#,
        zeros.trim_end_matches(',')
    );
    let answer = server.post_json("/v2/models/cls/infer", &body);
    assert_eq!(answer.status, 422, "{}", text(&answer));
    assert!(
        text(&answer).contains("bytes of memory and may use"),
        "{}",
        text(&answer)
    );
    let small = infer(
        &server,
        "identity",
        &tensor("a", "FP32", &[1, 4], |i| i as f64),
    );
    assert_eq!(numbers(&small), [0.0, 1.0, 2.0, 3.0]);
}
