//! Models with and without adapters, and calls of them, for the tests of surfaces.

use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_tensor::Tensor;
use penstock_testkit::{InMemory, send};
use serde_json::Value;

pub const IDENTITY: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 2]
[limits]
max_items = 8
"#;

pub fn adapted(adapter: &str) -> String {
    format!(
        r#"
description = "has an adapter"
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
"#
    )
}

/// Returns a contract with an adapter that has more settings.
pub fn adapted_with(adapter: &str, more: &str) -> String {
    let name = format!("name = \"{adapter}\"\n");
    adapted(adapter).replace(&name, &format!("{name}{more}\n"))
}

/// Returns its inputs. A run with the value 666 in any item fails.
pub fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let poison = 666f32.to_le_bytes();
    let poisoned = |tensor: &Tensor| tensor.data.chunks(4).any(|bytes| bytes == poison);
    if inputs.iter().any(poisoned) {
        return Err(Failure {
            kind: FailureKind::Failed,
            message: "the runtime failed".into(),
            retry_after_ms: None,
        });
    }
    let rename = |mut tensor: Tensor| {
        tensor.name = if tensor.name == "a" { "b" } else { "y" }.into();
        tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}

pub fn ports() -> InMemory {
    InMemory::new(
        &[
            ("identity", IDENTITY, &["1", "2"]),
            ("lengths", &adapted("length"), &["1"]),
            ("vectors", &adapted("vectors"), &["1"]),
            (
                "ids",
                &adapted_with("vectors", "tokens = \"accept\""),
                &["1"],
            ),
            (
                "cuts",
                &adapted_with("vectors", "too_long = \"truncate\""),
                &["1"],
            ),
            ("pictures", &adapted("pictures"), &["1"]),
        ],
        echo,
    )
}

/// Posts a body: JSON, unless the headers say otherwise.
pub fn call_at(ports: &InMemory, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut all = headers.to_vec();
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        all.push(("content-type", "application/json"));
    }
    send(ports, "POST", target, &all, body)
}

pub fn call(target: &str, body: &Value) -> (u16, Value) {
    let response = call_at(&ports(), target, &[], body.to_string().as_bytes());
    let body = serde_json::from_slice(&response.body).expect("every body is JSON");
    (response.status, body)
}

/// Returns cumulative sums over the batch, as `CumSum` does. The answer to an item depends on the items before it.
pub fn running_sum(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let sum = |mut tensor: Tensor| {
        tensor.name = if tensor.name == "a" { "b" } else { "y" }.into();
        let width = tensor.data.len() / 4 / tensor.shape[0].max(1) as usize;
        let mut sums = vec![0f32; width];
        for row in tensor.data.chunks_mut(4 * width) {
            for (sum, bytes) in sums.iter_mut().zip(row.as_chunks_mut::<4>().0) {
                *sum += f32::from_le_bytes(*bytes);
                *bytes = sum.to_le_bytes();
            }
        }
        tensor
    };
    Ok(inputs.into_iter().map(sum).collect())
}

pub fn dependent() -> InMemory {
    let models: [(&str, &str, &[&str]); 2] = [
        ("identity", IDENTITY, &["1"]),
        ("vectors", &adapted("vectors"), &["1"]),
    ];
    let ports = InMemory::new(&models, running_sum);
    ports.rows_depend.set(true);
    ports
}
