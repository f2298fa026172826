//! A contract, and requests of JSON and bytes.

use penstock_tensor::binary::{Framed, fill, frame, raw};
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Buffer, Contract, HostBytes, InferRequest, Rejection, Unknown, ValueRule};
use std::ops::Range;
use std::sync::{Arc, Mutex};

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

/// A whole request, as the gate reads it. The bytes may lie here or in the host, with the same result.
pub fn read(
    length: Option<&str>,
    body: &[u8],
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    let here = read_buffer(length, body.into(), contract);
    let there = read_buffer(length, Host::new(body).buffer(), contract);
    assert_eq!(here, there);
    here
}

fn read_buffer(
    length: Option<&str>,
    body: Buffer,
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    let json_bytes = match frame(length, body.len())? {
        Framed::Json { json_bytes } => json_bytes,
        Framed::Raw => return raw(&body, contract),
    };
    let json = body.part(0..json_bytes).unwrap();
    let mut request = parse_infer(&json, (body.len() - json_bytes) as u64, contract)?;
    let tail = (&body, json_bytes);
    fill(&mut request.inputs, &request.binary, tail, contract)?;
    Ok(request)
}

/// A host with a body, which notes the ranges that are copied out of it.
#[derive(Debug)]
pub struct Host {
    pub bytes: Vec<u8>,
    pub copied: Mutex<Vec<Range<usize>>>,
}

impl Host {
    pub fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            bytes: bytes.to_vec(),
            copied: Mutex::default(),
        })
    }

    pub fn buffer(self: &Arc<Self>) -> Buffer {
        Buffer::held(self.clone(), self.bytes.len())
    }
}

impl HostBytes for Host {
    fn item(&self) -> u32 {
        0
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let range = offset..offset + length;
        self.copied.lock().unwrap().push(range.clone());
        self.bytes[range].to_vec()
    }

    fn suits(&self, offset: usize, length: usize, rule: &ValueRule) -> bool {
        rule.suits(&self.bytes[offset..offset + length])
    }

    fn hand_over(&self) {}
}

/// The parts of a body that are copied out of the host while it is read and checked.
pub fn copied(length: &str, body: &[u8], contract: &Contract) -> Vec<Range<usize>> {
    let host = Host::new(body);
    read_buffer(Some(length), host.buffer(), contract).unwrap();
    let copied = host.copied.lock().unwrap();
    copied.clone()
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
