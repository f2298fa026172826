//! Models in memory and requests to a gate over them.

use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use penstock_testkit::models::ADAPTED;
pub use penstock_testkit::{request, send};
use serde_json::Value;

pub const IDENTITY: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 4]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 4]
[limits]
max_body_bytes = 4096
"#;

pub fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let rename = |mut t: Tensor| {
        t.name = if t.name == "a" {
            "b".into()
        } else {
            "y".into()
        };
        t
    };
    Ok(inputs.into_iter().map(rename).collect())
}

pub fn ports() -> InMemory {
    InMemory::new(
        &[
            ("identity", IDENTITY, &["1", "2", "10"]),
            ("adapted", ADAPTED, &["1"]),
            ("broken", "description = 3", &["1"]),
            ("empty", IDENTITY, &[]),
            ("Not A Model", IDENTITY, &["1"]),
        ],
        echo,
    )
}

/// Sends a request whose answer is JSON.
pub fn answer(
    ports: &InMemory,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Response, Value) {
    let response = send(ports, method, target, headers, body);
    let value = json_of(&response);
    (response, value)
}

/// The JSON of an answer.
#[track_caller]
pub fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&response.body)))
}

pub fn call(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Response, Value) {
    answer(&ports(), method, target, headers, body)
}

pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Returns the header in which the host states facts about a connection, with its token.
pub fn told(ports: &InMemory, facts: &str) -> [(&'static str, String); 1] {
    let token = "0123456789abcdef0123456789abcdef";
    ports
        .environment
        .borrow_mut()
        .insert("PENSTOCK_HOST_TOKEN".into(), token.into());
    [("penstock-connection", format!("{token} {facts}"))]
}

pub fn borrowed<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(n, v)| (*n, v.as_str())).collect()
}
