//! Models that several tests use: their contracts, and the functions that run in their place.

use penstock_gate::ports::Failure;
use penstock_tensor::{ModelVersion, Tensor};

/// The contract of a model with two numbers per item in `a`, and the same two in `b`.
pub const ECHO: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 2]
"#;

/// The contract of a model behind the adapter `length` of [`crate::InMemory`].
pub const ADAPTED: &str = r#"
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
name = "length"
"#;

/// Runs the model of [`ECHO`]: it returns its input as `b`.
pub fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let rename = |tensor: Tensor| Tensor {
        name: "b".into(),
        ..tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}
