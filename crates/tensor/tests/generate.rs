//! Bodies and answers of Triton's generate extension.

use penstock_core::Code;
use penstock_tensor::generate::{event, render};
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Contract, Datatype, InferRequest, Rejection, Tensor, Unknown, generate};
use serde_json::{Value, json};

/// Unknown members are refused, so that tests see each of them; `lenient.rs` has the other mode.
fn parse(body: &[u8], contract: &Contract) -> Result<InferRequest, Rejection> {
    generate::parse(body, contract, Unknown::Refuse)
}

const TEXT: &str = r#"
description = "text in"
[[inputs]]
name = "text_input"
datatype = "BYTES"
shape = ["N", 1]
[[inputs]]
name = "temperature"
datatype = "FP32"
shape = ["N", 1]
minimum = 0.0
[[outputs]]
name = "text_output"
datatype = "BYTES"
shape = ["N", 1]
[batching]
priority_levels = 2
"#;

fn contract(text: &str) -> Contract {
    Contract::parse(text).unwrap()
}

fn one(datatype: &str, shape: &str) -> Contract {
    let out = if shape.starts_with("[\"N\"") {
        "[\"N\", 2]"
    } else {
        "[2]"
    };
    contract(&format!(
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = {shape}\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = {out}\n"
    ))
}

fn faults(rejection: &Rejection) -> Vec<(&str, &str)> {
    let violations = rejection.violations.iter();
    violations
        .map(|v| (v.pointer.as_str(), v.rule.as_str()))
        .collect()
}

#[test]
fn members_are_inputs_and_so_are_parameters_that_are_named_like_one() {
    let body = r#"{"text_input":"client input","parameters":{"temperature":0,"priority":2,"timeout":9},"id":"7"}"#;
    let read = parse(body.as_bytes(), &contract(TEXT)).unwrap();
    let mut text = Vec::new();
    push_byte_string(&mut text, b"client input");
    assert_eq!(read.inputs[0].data, text);
    assert_eq!(read.inputs[1].data, 0f32.to_le_bytes());
    assert!(read.inputs.iter().all(|tensor| tensor.shape == [1, 1]));
    assert_eq!(
        (read.id.as_deref(), read.priority, read.timeout_us),
        (Some("7"), Some(2), Some(9))
    );
    assert!(read.outputs.is_empty() && read.binary.is_empty() && !read.binary_outputs);
}

#[test]
fn a_value_may_be_bare_flat_one_item_or_whole() {
    for (shape, value, expected) in [
        ("[]", "7", vec![]),
        ("[1]", "7", vec![1]),
        ("[\"N\"]", "7", vec![1]),
        ("[\"N\", \"T\", \"U\"]", "7", vec![1, 1, 1]),
        ("[3]", "[1,2,3]", vec![3]),
        ("[\"N\"]", "[1,2,3]", vec![3]),
        ("[\"N\", 3]", "[1,2,3]", vec![1, 3]),
        ("[\"N\", 3]", "[1,2,3,4,5,6]", vec![2, 3]),
        ("[\"N\", 3]", "[[1,2,3],[4,5,6]]", vec![2, 3]),
        ("[\"N\", \"T\"]", "[1,2,3]", vec![1, 3]),
        ("[\"N\", 2, 2]", "[[1,2],[3,4]]", vec![1, 2, 2]),
        ("[\"N\", 2, 2]", "[1,2,3,4]", vec![1, 2, 2]),
        ("[\"N\", 2, 2]", "[[[1,2],[3,4]]]", vec![1, 2, 2]),
    ] {
        let body = format!("{{\"x\":{value}}}");
        let read = parse(body.as_bytes(), &one("INT32", shape))
            .unwrap_or_else(|e| panic!("{shape} {value}: {e}"));
        assert_eq!(read.inputs[0].shape, expected, "{shape} {value}");
        assert!(read.inputs[0].is_consistent());
    }
}

#[test]
fn every_refusal_of_a_generate_body_has_its_pointer_and_rule() {
    use Code::{InvalidBody as Form, InvalidInputs as Inputs, MalformedJson as Syntax};
    let text = contract(TEXT);
    for (body, code, expected) in [
        ("", Syntax, vec![("", "json_syntax")]),
        (
            "{\"text_input\":\"a\",\"text_input\":\"b\"}",
            Syntax,
            vec![("", "duplicate_member")],
        ),
        ("[]", Form, vec![("", "wrong_type")]),
        ("\"text\"", Form, vec![("", "wrong_type")]),
        (
            "{}",
            Inputs,
            vec![("", "missing_input"), ("", "missing_input")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":1,\"temperatur/\":1}",
            Inputs,
            vec![("/temperatur~1", "unknown_input")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":1,\"parameters\":{\"temperature\":1}}",
            Inputs,
            vec![("/parameters/temperature", "duplicate_input")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":1,\"parameters\":{\"top_k\":1,\"sequence_id\":1,\"binary_data_output\":true,\"priority\":-1}}",
            Form,
            vec![
                ("/parameters/top_k", "unknown_parameter"),
                ("/parameters/sequence_id", "not_supported"),
                ("/parameters/binary_data_output", "not_supported"),
                ("/parameters/priority", "wrong_type"),
            ],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":1,\"parameters\":[],\"id\":7}",
            Form,
            vec![("/parameters", "wrong_type"), ("/id", "wrong_type")],
        ),
        (
            "{\"text_input\":7,\"temperature\":\"hot\"}",
            Inputs,
            vec![
                ("/text_input", "wrong_datatype"),
                ("/temperature", "wrong_datatype"),
            ],
        ),
        (
            "{\"text_input\":null,\"temperature\":{}}",
            Inputs,
            vec![
                ("/text_input", "wrong_datatype"),
                ("/temperature", "wrong_datatype"),
            ],
        ),
        (
            "{\"text_input\":[],\"temperature\":1}",
            Inputs,
            vec![("/text_input", "empty_tensor")],
        ),
        (
            "{\"text_input\":[[]],\"temperature\":1}",
            Inputs,
            vec![("/text_input", "empty_tensor")],
        ),
        (
            "{\"text_input\":[\"a\",\"b\"],\"temperature\":1}",
            Inputs,
            vec![("/temperature", "axis_mismatch")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":-1}",
            Inputs,
            vec![("/temperature", "out_of_range")],
        ),
        (
            "{\"text_input\":[\"a\",\"b\"],\"temperature\":[1,-1]}",
            Inputs,
            vec![("/temperature/1", "out_of_range")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":[[[1]]]}",
            Inputs,
            vec![("/temperature", "wrong_shape")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":[1,[2]]}",
            Inputs,
            vec![("/temperature/1", "ragged")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":[[1],[2,3]]}",
            Inputs,
            vec![("/temperature/1", "ragged")],
        ),
        (
            "{\"text_input\":\"a\",\"temperature\":[[1,2]]}",
            Inputs,
            vec![("/temperature", "wrong_shape")],
        ),
    ] {
        let rejection = parse(body.as_bytes(), &text).expect_err(body);
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (code, expected),
            "{body}"
        );
    }
    let rejection = parse(b"{\"x\":[1,2,3,4]}", &one("INT32", "[3]")).unwrap_err();
    assert_eq!(faults(&rejection), [("/x", "wrong_shape")]);
    let rejection = parse(b"{\"x\":[1,2,3,4]}", &one("INT32", "[\"N\", 3]")).unwrap_err();
    assert_eq!(faults(&rejection), [("/x", "wrong_count")]);
    let rejection = parse(b"{\"x\":7}", &one("INT32", "[3]")).unwrap_err();
    assert_eq!(faults(&rejection), [("/x", "wrong_count")]);
}

fn floats(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor {
        name: "y".into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

#[test]
fn an_answer_has_each_output_by_its_name() {
    let contract = contract(TEXT);
    let mut data = Vec::new();
    push_byte_string(&mut data, b"model\noutput");
    let text = Tensor {
        name: "text_output".into(),
        datatype: Datatype::Bytes,
        shape: vec![1, 1],
        data: data.into(),
    };
    let outputs = [text, floats(&[1, 2], &[1.0, f32::NAN])];
    let body = render("m", "1", Some("i"), &outputs, &contract, 0);
    assert!(!body.contains(&b'\n'));
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({"model_name": "m", "model_version": "1", "id": "i", "text_output": "model\noutput", "y": [1.0, null], "non_finite": 1})
    );
    assert_eq!(event(b"{}"), b"data: {}\n\n");
    let batch = render(
        "m",
        "1",
        None,
        &[floats(&[2, 1], &[1.0, 2.0])],
        &contract,
        0,
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&batch).unwrap(),
        json!({"model_name": "m", "model_version": "1", "y": [[1.0], [2.0]]})
    );
    // Parsers read two members of one name differently.
    let named = Tensor {
        name: "id".into(),
        ..floats(&[], &[3.0])
    };
    let body = render("m", "1", Some("i"), &[named], &one("FP32", "[1]"), 0);
    assert_eq!(
        body,
        b"{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":3.0}"
    );
}
