//! Every element type and every form of tensor, from a client to the model and back: as JSON, as bytes and over gRPC,
//! natively and in WebAssembly.

use crate::common;
use crate::support;

use common::{Options, Server, hyper_client};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use penstock_proto::inference as pb;
use prost::Message as _;
use serde_json::{Value, json};
use std::path::Path;
use support::{D, Node, onnx_bytes, onnx_type, p};

fn put(models: &Path, name: &str, graph: &[u8], contract: &str) {
    let version = models.join(name).join("1");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("model.onnx"), graph).unwrap();
    let contract = format!("description = \"for tests\"\n{contract}");
    std::fs::write(models.join(name).join("model.toml"), contract).unwrap();
}

fn serve(models: &Path, in_webassembly: bool) -> Server {
    let server = Server::start_with(Options {
        models: Some(models.to_owned()),
        in_webassembly,
        tract: in_webassembly,
        ..Options::default()
    });
    server.ready();
    server
}

/// A type, ONNX's number for it, two elements as JSON and as bytes.
type Case = (&'static str, u64, Value, Vec<u8>);

fn cases() -> Vec<Case> {
    fn le<const N: usize>(elements: [[u8; N]; 2]) -> Vec<u8> {
        elements.concat()
    }
    vec![
        ("BOOL", onnx_type::BOOL, json!([true, false]), vec![1, 0]),
        ("UINT8", onnx_type::UINT8, json!([0, 255]), vec![0, 255]),
        ("INT8", onnx_type::INT8, json!([-128, 127]), vec![128, 127]),
        (
            "UINT16",
            onnx_type::UINT16,
            json!([1, 65535]),
            le([1u16, 65535].map(u16::to_le_bytes)),
        ),
        (
            "INT16",
            onnx_type::INT16,
            json!([-32768, 32767]),
            le([-32768i16, 32767].map(i16::to_le_bytes)),
        ),
        (
            "UINT32",
            onnx_type::UINT32,
            json!([1, u32::MAX]),
            le([1, u32::MAX].map(u32::to_le_bytes)),
        ),
        (
            "INT32",
            onnx_type::INT32,
            json!([i32::MIN, i32::MAX]),
            le([i32::MIN, i32::MAX].map(i32::to_le_bytes)),
        ),
        (
            "UINT64",
            onnx_type::UINT64,
            json!([1, u64::MAX]),
            le([1, u64::MAX].map(u64::to_le_bytes)),
        ),
        (
            "INT64",
            onnx_type::INT64,
            json!([i64::MIN, i64::MAX]),
            le([i64::MIN, i64::MAX].map(i64::to_le_bytes)),
        ),
        (
            "FP16",
            onnx_type::FLOAT16,
            json!([1.5, -2.0]),
            vec![0, 0x3e, 0, 0xc0],
        ),
        (
            "BF16",
            onnx_type::BFLOAT16,
            json!([1.5, -2.0]),
            vec![0xc0, 0x3f, 0, 0xc0],
        ),
        (
            "FP32",
            onnx_type::FLOAT,
            json!([0.1, -2.0]),
            le([0.1f32, -2.0].map(f32::to_le_bytes)),
        ),
        (
            "FP64",
            onnx_type::DOUBLE,
            json!([0.1, 1e300]),
            le([0.1f64, 1e300].map(f64::to_le_bytes)),
        ),
        (
            "BYTES",
            onnx_type::STRING,
            json!(["h\u{fc}t\u{1f600}\u{0}", ""]),
            {
                let text = "h\u{fc}t\u{1f600}\u{0}".as_bytes();
                let mut data = (text.len() as u32).to_le_bytes().to_vec();
                data.extend_from_slice(text);
                data.extend_from_slice(&[0; 4]);
                data
            },
        ),
        ("INT2", onnx_type::INT2, json!([-2, 1]), vec![0xFE, 1]),
        ("UINT2", onnx_type::UINT2, json!([0, 3]), vec![0, 3]),
        ("INT4", onnx_type::INT4, json!([-8, 7]), vec![0xF8, 7]),
        ("UINT4", onnx_type::UINT4, json!([0, 15]), vec![0, 15]),
        (
            "FP8E4M3FN",
            onnx_type::FLOAT8E4M3FN,
            json!([448.0, -0.0625]),
            vec![0x7E, 0x98],
        ),
        (
            "FP8E4M3FNUZ",
            onnx_type::FLOAT8E4M3FNUZ,
            json!([240.0, -0.0625]),
            vec![0x7F, 0xA0],
        ),
        (
            "FP8E5M2",
            onnx_type::FLOAT8E5M2,
            json!([57344.0, -0.0625]),
            vec![0x7B, 0xAC],
        ),
        (
            "FP8E5M2FNUZ",
            onnx_type::FLOAT8E5M2FNUZ,
            json!([57344.0, -0.0625]),
            vec![0x7F, 0xB0],
        ),
    ]
}

fn identity_models(models: &Path, cases: &[Case]) {
    for (name, ty, ..) in cases {
        let dims = [D::S("N"), D::N(2)];
        let graph = match *ty > onnx_type::BFLOAT16 {
            true => support::there_and_back(*ty, &dims),
            false => onnx_bytes(
                &[Node("Identity", vec!["x"], vec!["y"])],
                &[p("x", *ty, &dims)],
                &[p("y", *ty, &dims)],
            ),
        };
        let port = |side: &str, port: &str| {
            format!("[[{side}]]\nname = \"{port}\"\ndatatype = \"{name}\"\nshape = [\"N\", 2]\n")
        };
        let contract = port("inputs", "x") + &port("outputs", "y");
        put(models, &name.to_lowercase(), &graph, &contract);
    }
}

/// Requests the one output over the protocol, with the input and the answer as bytes.
fn as_bytes(server: &Server, model: &str, datatype: &str, data: &[u8]) -> (Value, Vec<u8>) {
    let head = json!({
        "inputs": [{"name": "x", "datatype": datatype, "shape": [1, 2],
                    "parameters": {"binary_data_size": data.len()}}],
        "parameters": {"binary_data_output": true},
    })
    .to_string();
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
    ];
    let body = [head.as_bytes(), data].concat();
    let path = format!("/v2/models/{model}/infer");
    let answer = server.call("POST", &path, &headers, Some(&body));
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{model}: {text}");
    let length = answer.header("inference-header-content-length");
    let length: usize = length.expect("bytes").parse().unwrap();
    let (head, tail) = answer.bytes.split_at(length);
    (serde_json::from_slice(head).unwrap(), tail.to_vec())
}

/// One call of `ModelInfer`.
fn over_grpc(
    server: &Server,
    request: &pb::ModelInferRequest,
) -> Result<pb::ModelInferResponse, String> {
    hyper_client::runtime().block_on(async {
        let mut sender = hyper_client::to(server.address).await;
        let body = hyper_client::framed(&request.encode_to_vec());
        let address = server.address;
        let request = hyper::Request::post(format!(
            "http://{address}/inference.GRPCInferenceService/ModelInfer"
        ))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if body.len() < 5 {
            return Err(format!("{headers:?}"));
        }
        Ok(pb::ModelInferResponse::decode(&body[5..]).unwrap())
    })
}

fn every_type_goes_through(in_webassembly: bool, cases: Vec<Case>) {
    let models = tempfile::tempdir().unwrap();
    identity_models(models.path(), &cases);
    let server = serve(models.path(), in_webassembly);
    for (datatype, _, elements, data) in &cases {
        let model = datatype.to_lowercase();
        // The form of our own REST API.
        let body = json!({"inputs": {"x": [elements]}}).to_string();
        let answer = server.post_json(&format!("/v1/models/{model}:predict"), &body);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{datatype}: {text}");
        assert_eq!(
            answer.json()["predictions"][0]["y"],
            *elements,
            "{datatype}: {text}"
        );
        // The protocol's JSON.
        let input = json!({"name": "x", "datatype": datatype, "shape": [1, 2], "data": elements});
        let body = json!({"inputs": [input]}).to_string();
        let answer = server
            .post_json(&format!("/v2/models/{model}/infer"), &body)
            .json();
        let output = &answer["outputs"][0];
        assert_eq!(output["datatype"], *datatype, "{answer}");
        assert_eq!(output["data"], *elements, "{answer}");
        // The protocol's bytes.
        let (head, tail) = as_bytes(&server, &model, datatype, data);
        assert_eq!(head["outputs"][0]["datatype"], *datatype, "{head}");
        assert_eq!(tail, *data, "{datatype}");
        // gRPC, raw.
        let input = pb::model_infer_request::InferInputTensor {
            name: "x".into(),
            datatype: (*datatype).into(),
            shape: vec![1, 2],
            ..Default::default()
        };
        let request = pb::ModelInferRequest {
            model_name: model.clone(),
            inputs: vec![input],
            raw_input_contents: vec![data.clone().into()],
            ..Default::default()
        };
        let answer = over_grpc(&server, &request).unwrap_or_else(|e| panic!("{datatype}: {e}"));
        assert_eq!(answer.outputs[0].datatype, *datatype);
        assert_eq!(
            answer.raw_output_contents[0].as_ref(),
            data.as_slice(),
            "{datatype}"
        );
        // Its metadata has the same type.
        let metadata = server.get(&format!("/v2/models/{model}")).json();
        assert_eq!(metadata["inputs"][0]["datatype"], *datatype, "{metadata}");
    }
}

#[test]
fn every_type_is_answered_bit_for_bit_as_json_as_bytes_and_over_grpc() {
    every_type_goes_through(false, cases());
}

#[test]
fn every_type_that_tract_has_is_answered_bit_for_bit_in_webassembly() {
    let has =
        |(name, ty, ..): &Case| *ty <= onnx_type::DOUBLE.max(onnx_type::UINT64) && *name != "BYTES";
    every_type_goes_through(true, cases().into_iter().filter(has).collect());
}

#[test]
fn strings_that_are_no_utf_8_go_through_as_bytes_and_are_marked_in_json() {
    let models = tempfile::tempdir().unwrap();
    let strings = |(name, ..): &Case| *name == "BYTES";
    identity_models(
        models.path(),
        &cases().into_iter().filter(strings).collect::<Vec<_>>(),
    );
    let server = serve(models.path(), false);
    let data = [&[2, 0, 0, 0, 0xff, 0xfe][..], &[1, 0, 0, 0, b'a']].concat();
    assert_eq!(as_bytes(&server, "bytes", "BYTES", &data).1, data);
    // The same answer as JSON: U+FFFD stands for bytes that are not text.
    let head = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2],
                                  "parameters": {"binary_data_size": data.len()}}]})
    .to_string();
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
    ];
    let body = [head.as_bytes(), &data].concat();
    let answer = server.call("POST", "/v2/models/bytes/infer", &headers, Some(&body));
    assert_eq!(
        answer.json()["outputs"][0]["data"],
        json!(["\u{fffd}\u{fffd}", "a"])
    );
}

#[test]
fn strings_that_lie_about_their_lengths_are_refused_with_422() {
    let models = tempfile::tempdir().unwrap();
    let strings = |(name, ..): &Case| *name == "BYTES";
    identity_models(
        models.path(),
        &cases().into_iter().filter(strings).collect::<Vec<_>>(),
    );
    let server = serve(models.path(), false);
    for data in [
        &[255u8, 255, 255, 255, 0, 0, 0, 0][..],
        &[0, 0, 0, 0, 1, 0, 0, 0],
        &[0; 12],
        &[0; 9],
    ] {
        let head = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2],
                                      "parameters": {"binary_data_size": data.len()}}]})
        .to_string();
        let length = head.len().to_string();
        let headers = [
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", length.as_str()),
        ];
        let body = [head.as_bytes(), data].concat();
        let answer = server.call("POST", "/v2/models/bytes/infer", &headers, Some(&body));
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 422, "{data:?}: {text}");
        assert!(text.contains("4 bytes"), "{text}");
    }
    let answer = server.post_json(
        "/v1/models/bytes:predict",
        r#"{"inputs": {"x": [["a", 1]]}}"#,
    );
    assert_eq!(answer.status, 422);
    let answer = server.post_json(
        "/v1/models/bytes:predict",
        r#"{"inputs": {"x": [["a", "b"]]}}"#,
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn a_model_without_inputs_is_asked_with_nothing() {
    let models = tempfile::tempdir().unwrap();
    let contract = "inputs = []\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [3]\n";
    put(models.path(), "constant", &support::constant(3), contract);
    for in_webassembly in [false, true] {
        let server = serve(models.path(), in_webassembly);
        let answer = server.post_json("/v1/models/constant:predict", r#"{"inputs": {}}"#);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        assert_eq!(
            answer.json()["predictions"][0]["y"],
            json!([0.0, 1.0, 2.0]),
            "{text}"
        );
        let answer = server.post_json("/v2/models/constant/infer", r#"{"inputs": []}"#);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        let answer = server.post_json(
            "/v2/models/constant/infer",
            r#"{"inputs": [{"name": "x"}]}"#,
        );
        assert_eq!(answer.status, 400, "nothing is taken");
        let answer = server.post_json(
            "/v1/models/constant:batchPredict",
            r#"{"requests": [{"inputs": {}}, {"inputs": {}}]}"#,
        );
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        let grpc = pb::ModelInferRequest {
            model_name: "constant".into(),
            ..Default::default()
        };
        assert_eq!(
            over_grpc(&server, &grpc).expect("an answer").outputs.len(),
            1
        );
        assert_eq!(server.get("/openapi.json").status, 200);
    }
}

#[test]
fn an_optional_input_that_is_left_out_has_the_graphs_own_value() {
    let models = tempfile::tempdir().unwrap();
    let port = |side: &str, name: &str, more: &str| {
        format!("[[{side}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [3]\n{more}")
    };
    let contract = port("inputs", "x", "")
        + &port("inputs", "w", "optional = true\n")
        + &port("outputs", "y", "");
    put(
        models.path(),
        "defaulted",
        &support::defaulted(3),
        &contract,
    );
    let server = serve(models.path(), false);
    let predict = |body: Value| {
        let answer = server.post_json("/v1/models/defaulted:predict", &body.to_string());
        (answer.status, answer.json())
    };
    let (status, answer) = predict(json!({"inputs": {"x": [1, 1, 1]}}));
    assert_eq!(
        (status, &answer["predictions"][0]["y"]),
        (200, &json!([1.0, 2.0, 3.0])),
        "{answer}"
    );
    let (status, answer) = predict(json!({"inputs": {"w": [5, 5, 5], "x": [1, 1, 1]}}));
    assert_eq!(
        (status, &answer["predictions"][0]["y"]),
        (200, &json!([6.0, 6.0, 6.0])),
        "{answer}"
    );
    let (status, answer) = predict(json!({"inputs": {"w": [5, 5, 5]}}));
    assert_eq!(status, 422, "{answer}");
    // The present input comes as bytes, and does not count as the absent one.
    let data = [1f32, 2.0, 3.0].map(f32::to_le_bytes).concat();
    let head = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3],
                                  "parameters": {"binary_data_size": data.len()}}]})
    .to_string();
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
    ];
    let body = [head.as_bytes(), &data].concat();
    let answer = server.call("POST", "/v2/models/defaulted/infer", &headers, Some(&body));
    assert_eq!(answer.json()["outputs"][0]["data"], json!([1.0, 3.0, 5.0]));
    let grpc = pb::ModelInferRequest {
        model_name: "defaulted".into(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![3],
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    };
    let answer = over_grpc(&server, &grpc).expect("an answer");
    let expected = [1f32, 3.0, 5.0].map(f32::to_le_bytes).concat();
    assert_eq!(answer.raw_output_contents[0].as_ref(), expected);
}

#[test]
fn an_axis_is_empty_where_the_contract_lets_it_be_and_nowhere_else() {
    let models = tempfile::tempdir().unwrap();
    let shape = &[D::S("past"), D::N(2)];
    let graph = onnx_bytes(
        &[Node("Identity", vec!["x"], vec!["y"])],
        &[p("x", onnx_type::FLOAT, shape)],
        &[p("y", onnx_type::FLOAT, shape)],
    );
    let port = |side: &str, name: &str| {
        format!("[[{side}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [\"past\", 2]\n")
    };
    let contract = port("inputs", "x") + &port("outputs", "y");
    put(models.path(), "full", &graph, &contract);
    put(
        models.path(),
        "cache",
        &graph,
        &(contract + "[axes]\npast = { min = 0, max = 4 }\n"),
    );
    let server = serve(models.path(), false);
    let infer = |model: &str| {
        let body =
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 2], "data": []}]}"#;
        server.post_json(&format!("/v2/models/{model}/infer"), body)
    };
    let answer = infer("cache");
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(
        answer.json()["outputs"][0]["shape"],
        json!([0, 2]),
        "{text}"
    );
    assert_eq!(infer("full").status, 422);
    let predict = |body: &str| server.post_json("/v1/models/cache:predict", body);
    let answer = predict(r#"{"inputs": {"x": []}}"#);
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(answer.json()["predictions"][0]["y"], json!([]), "{text}");
    assert_eq!(predict(r#"{"inputs": {"x": [[1, 2]]}}"#).status, 200);
    assert_eq!(
        predict(r#"{"inputs": {"x": [[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]}}"#).status,
        422
    );
}

#[test]
fn a_table_of_80_columns_is_80_inputs() {
    let names: Vec<String> = (0..80).map(|index| format!("column_{index}")).collect();
    let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
    let shape = &[D::S("N"), D::N(1)];
    let inputs: Vec<_> = names
        .iter()
        .map(|name| p(name, onnx_type::FLOAT, shape))
        .collect();
    let graph = onnx_bytes(
        &[Node("Sum", names.clone(), vec!["y"])],
        &inputs,
        &[p("y", onnx_type::FLOAT, shape)],
    );
    let port = |side: &str, name: &str| {
        format!("[[{side}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [\"N\", 1]\n")
    };
    let contract: String = names.iter().map(|name| port("inputs", name)).collect();
    let models = tempfile::tempdir().unwrap();
    put(
        models.path(),
        "table",
        &graph,
        &(contract + &port("outputs", "y")),
    );
    let server = serve(models.path(), false);
    let columns: serde_json::Map<String, Value> = (names.iter().enumerate())
        .map(|(index, name)| ((*name).to_owned(), json!([[index]])))
        .collect();
    let answer = server.post_json(
        "/v1/models/table:predict",
        &json!({"inputs": columns}).to_string(),
    );
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(
        answer.json()["predictions"][0]["y"],
        json!([3160.0]),
        "{text}"
    );
}

/// The models of `scripts/make_type_models.py`, with the answers of ONNX Runtime for Python.
fn converted() -> std::path::PathBuf {
    common::root().join("tests/data/types")
}

fn is_near(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (Value::Number(got), Value::Number(expected)) => {
            let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
            (got - expected).abs() <= 1e-6 * expected.abs().max(1.0)
        }
        (Value::Array(got), Value::Array(expected)) => {
            got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| is_near(g, e))
        }
        _ => got == expected,
    }
}

#[test]
fn classifiers_encoders_and_text_pipelines_answer_what_their_runtime_answers() {
    let server = serve(&converted(), false);
    let mut answered = 0;
    for model in [
        "forest-zipmap",
        "forest-integers",
        "lightgbm-zipmap",
        "columns",
        "encoder",
        "texts",
    ] {
        let folder = converted().join(model);
        let cases = std::fs::read(folder.join("cases.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        let contract = server.get(&format!("/v1/models/{model}")).json();
        let labels: Vec<String> = contract["outputs"]
            .as_array()
            .unwrap_or_else(|| panic!("{model}: {contract}"))
            .iter()
            .find_map(|output| serde_json::from_value(output["labels"].clone()).ok())
            .unwrap_or_default();
        for case in &cases {
            let body = json!({"inputs": case["inputs"]}).to_string();
            let answer = server.post_json(&format!("/v1/models/{model}:predict"), &body);
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert_eq!(answer.status, 200, "{model}: {text}");
            let predictions = answer.json()["predictions"].clone();
            let outputs = case["outputs"].as_object().unwrap();
            for (name, values) in outputs {
                for (row, expected) in values.as_array().unwrap().iter().enumerate() {
                    // A map becomes the values of its keys, in the order of the labels.
                    let expected = match expected {
                        Value::Object(map) => {
                            labels.iter().map(|label| map[label].clone()).collect()
                        }
                        other => other.clone(),
                    };
                    let got = &predictions[row][name];
                    assert!(
                        is_near(got, &expected),
                        "{model} {name} {row}: {got}, not {expected}"
                    );
                    answered += 1;
                }
            }
            // The labels of the contract give the same label as the model's own output.
            let own = ["output_label", "label"]
                .iter()
                .find_map(|name| outputs.get(*name));
            for (row, own) in own
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .enumerate()
            {
                let own = own.as_str().map_or_else(|| own.to_string(), str::to_owned);
                assert_eq!(predictions[row]["label"], json!(own), "{model} {row}");
            }
        }
    }
    assert!(answered > 30, "{answered}");
    // Over the protocol, a sequence of maps is a tensor.
    let body = json!({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]});
    let answer = server
        .post_json("/v2/models/forest-zipmap/infer", &body.to_string())
        .json();
    assert_eq!(answer["outputs"][0]["data"], json!(["setosa"]), "{answer}");
    assert_eq!(answer["outputs"][1]["shape"], json!([1, 3]), "{answer}");
    assert_eq!(answer["outputs"][1]["datatype"], "FP32", "{answer}");
}

#[test]
fn sequences_of_tensors_go_in_and_out_as_elements_and_shapes() {
    let server = serve(&converted(), false);
    let predict = |shapes: Value| {
        let inputs = json!({
            "x": [[1, 2], [3, 4], [5, 6]],
            "given": [7, 8, 9], "given.shapes": shapes, "place": 1,
        });
        server.post_json(
            "/v1/models/sequence:predict",
            &json!({"inputs": inputs}).to_string(),
        )
    };
    let answer = predict(json!([[1], [2]]));
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    let prediction = answer.json()["predictions"][0].clone();
    assert_eq!(prediction["parts"], json!([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    assert_eq!(prediction["parts.shapes"], json!([[1, 2], [1, 2], [1, 2]]));
    assert_eq!(prediction["second"], json!([8, 9]));
    for wrong in [json!([[1], [3]]), json!([[1]]), json!([[-2], [2]])] {
        let answer = predict(wrong);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 422, "{text}");
        assert!(text.contains(".shapes"), "{text}");
    }
}

#[test]
fn labels_that_are_not_the_maps_keys_fail_the_load_and_name_the_keys() {
    let models = tempfile::tempdir().unwrap();
    let from = converted().join("forest-zipmap");
    let graph = std::fs::read(from.join("1/model.onnx")).unwrap();
    let contract = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let contract = contract.replace("description = \"forest-zipmap, for tests\"\n", "");
    put(models.path(), "good", &graph, &contract);
    put(
        models.path(),
        "swapped",
        &graph,
        &contract.replace("\"setosa\", \"versicolor\"", "\"versicolor\", \"setosa\""),
    );
    put(
        models.path(),
        "misnamed",
        &graph,
        &contract.replace("setosa", "sativa"),
    );
    let server = serve(models.path(), false);
    server.logged("classes are \"setosa\"");
    assert_eq!(server.get("/v2/models/misnamed/ready").status, 503);
    let body = r#"{"inputs": {"X": [[5.1, 3.5, 1.4, 0.2]]}}"#;
    for (model, expected) in [
        ("good", json!([1.0, 0.0, 0.0])),
        ("swapped", json!([0.0, 1.0, 0.0])),
    ] {
        let answer = server
            .post_json(&format!("/v1/models/{model}:predict"), body)
            .json();
        assert_eq!(answer["predictions"][0]["label"], "setosa", "{answer}");
        assert_eq!(
            answer["predictions"][0]["output_probability"], expected,
            "{answer}"
        );
    }
}
