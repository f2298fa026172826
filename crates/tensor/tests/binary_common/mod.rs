//! A contract, and requests of JSON and bytes.

use penstock_tensor::binary::{Framed, fill, frame, raw};
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Contract, InferRequest, Rejection, Unknown};

/// Unknown members are refused, so that tests see each of them; `lenient.rs` has the other mode.
pub fn parse_infer(
    body: &[u8],
    tail_bytes: u64,
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    penstock_tensor::parse_infer(body, tail_bytes, contract, Unknown::Refuse)
}

pub const TWO: &str = r#"
description = "numbers and strings"
[[inputs]]
name = "s"
datatype = "BYTES"
shape = ["N", 1]
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 2]
maximum = 10.0
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 3]
labels = ["apple", "pear", "plum"]
[[outputs]]
name = "t"
datatype = "BYTES"
shape = ["N"]
[batching]
priority_levels = 3
"#;

pub fn contract(text: &str) -> Contract {
    Contract::parse(text).unwrap()
}

pub fn one(datatype: &str, shape: &str, extra: &str) -> Contract {
    contract(&format!(
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = {shape}\n{extra}\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = {}\n",
        if shape.starts_with("[\"N\"") {
            "[\"N\"]"
        } else {
            "[1]"
        }
    ))
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn strings(values: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for value in values {
        assert!(push_byte_string(&mut data, value));
    }
    data
}

pub fn faults(rejection: &Rejection) -> Vec<(&str, &str)> {
    let violations = rejection.violations.iter();
    violations
        .map(|v| (v.pointer.as_str(), v.rule.as_str()))
        .collect()
}

/// A whole request, as the gate reads it.
pub fn read(
    length: Option<&str>,
    body: &[u8],
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    let (json, tail) = match frame(length, body)? {
        Framed::Json { json, tail } => (json, tail),
        Framed::Raw(body) => return raw(body, contract),
    };
    let mut request = parse_infer(json, tail.len() as u64, contract)?;
    fill(&mut request.inputs, &request.binary, tail, contract)?;
    Ok(request)
}

pub fn binary_input(name: &str, shape: &str, datatype: &str, bytes: &str) -> String {
    format!(
        "{{\"name\":\"{name}\",\"shape\":{shape},\"datatype\":\"{datatype}\",\"parameters\":{{\"binary_data_size\":{bytes}}}}}"
    )
}

pub fn request(inputs: &[String], more: &str) -> String {
    format!("{{\"inputs\":[{}]{more}}}", inputs.join(","))
}

pub fn asked(more: &str) -> Result<InferRequest, Rejection> {
    let inputs = [
        "{\"name\":\"s\",\"shape\":[1,1],\"datatype\":\"BYTES\",\"data\":[\"a\"]}".to_owned(),
        "{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}".to_owned(),
    ];
    parse_infer(request(&inputs, more).as_bytes(), 0, &contract(TWO))
}
