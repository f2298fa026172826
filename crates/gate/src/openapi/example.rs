//! Makes examples from a contract: bodies that the server takes as they are.

use penstock_tensor::contract::{Bound, Dim};
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Map, Value, json};

/// The most elements all inputs of an example have together; longer ones help nobody who reads.
pub const MAX_EXAMPLE_ELEMENTS: u64 = 4_096;

/// The lengths of an input's axes in an example: the least there may be.
fn lengths(spec: &TensorSpec, contract: &Contract) -> Vec<u64> {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => *length,
        Dim::Symbol(axis) => contract.axes.get(axis).map_or(1, |bounds| bounds.min),
    };
    spec.shape.iter().map(length).collect()
}

/// Whether the inputs are few enough to be written out.
fn is_short(contract: &Contract) -> bool {
    let elements = contract.inputs.iter().try_fold(0u64, |sum, spec| {
        let lengths = lengths(spec, contract);
        let product = lengths
            .iter()
            .try_fold(1u64, |product, length| product.checked_mul(*length))?;
        sum.checked_add(product)
    });
    elements.is_some_and(|elements| elements <= MAX_EXAMPLE_ELEMENTS)
}

/// An element: 1 where the range has it, else the end of the range that is nearer.
fn element(spec: &TensorSpec) -> Value {
    match spec.datatype {
        Datatype::Bool => json!(true),
        Datatype::Bytes => json!("text"),
        _ => {
            let value = |bound: Bound| match bound {
                Bound::Integer(bound) => bound as f64,
                Bound::Real(bound) => bound,
            };
            let above = spec.minimum.filter(|least| value(*least) > 1.0);
            let below = spec.maximum.filter(|greatest| value(*greatest) < 1.0);
            above.or(below).map_or(json!(1), |bound| json!(bound))
        }
    }
}

fn nested(element: &Value, lengths: &[u64]) -> Value {
    match lengths {
        [] => element.clone(),
        [length, rest @ ..] => {
            let inner = nested(element, rest);
            (0..*length).map(|_| inner.clone()).collect()
        }
    }
}

/// A body of `:predict`; `None` where it would be too long.
pub fn predict(contract: &Contract) -> Option<Value> {
    if !is_short(contract) {
        return None;
    }
    let inputs: Map<String, Value> = contract
        .inputs
        .iter()
        .map(|spec| {
            let value = nested(&element(spec), &lengths(spec, contract));
            (spec.name.clone(), value)
        })
        .collect();
    Some(json!({ "inputs": inputs }))
}

/// A body of the Open Inference Protocol's `infer`; `None` where it would be too long.
pub fn infer(contract: &Contract) -> Option<Value> {
    if !is_short(contract) {
        return None;
    }
    let inputs: Vec<Value> = contract
        .inputs
        .iter()
        .map(|spec| {
            let lengths = lengths(spec, contract);
            let elements: u64 = lengths.iter().product();
            json!({
                "name": spec.name,
                "datatype": spec.datatype.as_str(),
                "shape": lengths,
                "data": nested(&element(spec), &[elements]),
            })
        })
        .collect();
    Some(json!({ "inputs": inputs }))
}
