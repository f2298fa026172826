//! Generates examples from a contract. The server accepts these bodies as they are.

use penstock_tensor::contract::{Bound, Dim};
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Map, Value, json};

/// The most elements of all inputs of an example together. Longer examples do not help readers.
pub const MAX_EXAMPLE_ELEMENTS: u64 = 4_096;

/// Returns the lengths of an input's axes in an example: the smallest allowed.
fn lengths(spec: &TensorSpec, contract: &Contract) -> Vec<u64> {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => *length,
        Dim::Symbol(axis) => contract.axes.get(axis).map_or(1, |bounds| bounds.min),
    };
    spec.shape.iter().map(length).collect()
}

/// Returns whether the inputs are small enough for an example.
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

/// Returns an example element: 1 if the range contains it, else the bound of the range that is nearer to 1.
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

/// Returns a body of `:predict`; `None` if it would be too long.
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

/// Returns a body of the Open Inference Protocol's `infer`; `None` if it would be too long.
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
