//! Operators that reduce, normalise, sum up or sort along axes.

use super::value::{Case, Length, Value, from_front, no};
use super::walk::{Operation, Walk};
use crate::backend::cost::Attribute;

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn reductions(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax"
            | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
                let x = operation.input(0)?;
                let axes = operation.axes(1)?.filter(|axes| !axes.is_empty());
                if axes.is_none() && operation.int("noop_with_empty_axes", 0)? != 0 {
                    return one(x.clone());
                }
                let keeps = operation.int("keepdims", 1)? != 0;
                one(reduced(x, axes.as_deref(), keeps)?)
            }
            "ArgMax" | "ArgMin" => {
                let axis = operation.int("axis", 0)?;
                let keeps = operation.int("keepdims", 1)? != 0;
                one(reduced(operation.input(0)?, Some(&[axis]), keeps)?)
            }
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                let x = operation.input(0)?;
                // Before opset 13 it normalises over this axis and all behind it.
                let old = operation.opset < 13;
                let axis = from_front(operation.int("axis", if old { 1 } else { -1 })?, x.rank()?)?;
                let crosses = (x.axis()).is_some_and(|own| own == axis || (old && own > axis));
                if crosses {
                    return no("normalises over the items of a run");
                }
                one(x.clone())
            }
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let axis = from_front(operation.int("axis", -1)?, x.rank()?)?;
                if x.axis().is_some_and(|own| own >= axis) {
                    return no("normalises over the items of a run");
                }
                let mut rest = x.clone();
                for dim in rest
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(axis))
                {
                    *dim = Length::number(1);
                }
                Ok(Some(vec![x.clone(), rest.clone(), rest]))
            }
            "LpNormalization" => {
                let x = operation.input(0)?;
                let axis = from_front(operation.int("axis", -1)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("normalises over the items of a run");
                }
                one(x.clone())
            }
            "MeanVarianceNormalization" => {
                let x = operation.input(0)?;
                let axes = operation.ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
                reduced(x, Some(&axes), true)?;
                one(x.clone())
            }
            "CumSum" | "CumProd" => {
                let x = operation.input(0)?;
                let axis = match operation.input(1)?.known().as_deref() {
                    Some([axis]) => from_front(*axis, x.rank()?)?,
                    _ => return no("has an axis that is computed"),
                };
                if x.axis() == Some(axis) {
                    return no("sums over the items of a run");
                }
                one(x.clone())
            }
            "TopK" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let axis = from_front(operation.int("axis", -1)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("sorts the items of a run");
                }
                let mut dims = x.dims()?.to_vec();
                let count = match operation.node.attributes.get("k") {
                    Some(Attribute::Int(k)) => Some(Length::number(*k)),
                    _ => operation
                        .get(1)
                        .and_then(|k| k.numbers.as_ref()?.first().cloned()),
                };
                dims[axis] = match count {
                    Some(count) => count,
                    None => self.unknown(false),
                };
                let value = Value::new(dims, x.items.clone());
                Ok(Some(vec![value.clone(), value]))
            }
            _ => Ok(None),
        }
    }
}

/// A value without these axes, or with a length of 1 there; without any where `axes` is `None`.
pub(super) fn reduced(value: &Value, axes: Option<&[i64]>, keeps: bool) -> Case<Value> {
    let dims = value.dims()?;
    let axes: Vec<usize> = match axes {
        None => (0..dims.len()).collect(),
        Some(axes) => {
            let axes = axes.iter().map(|axis| from_front(*axis, dims.len()));
            axes.collect::<Case<_>>()?
        }
    };
    if value.axis().is_some_and(|axis| axes.contains(&axis)) {
        return no("reduces over the items of a run");
    }
    if keeps {
        let kept = dims
            .iter()
            .enumerate()
            .map(|(at, dim)| match axes.contains(&at) {
                true => Length::number(1),
                false => dim.clone(),
            });
        return Ok(Value::new(kept.collect(), value.items.clone()));
    }
    let kept = dims.iter().enumerate().filter(|(at, _)| !axes.contains(at));
    let dims = kept.map(|(_, dim)| dim.clone()).collect();
    let items = value.items.as_ref().map(|items| {
        let before = axes.iter().filter(|axis| **axis < items.axis);
        let mut before: Vec<&usize> = before.collect();
        before.sort_unstable();
        before.dedup();
        items.moved(items.axis - before.len())
    });
    Ok(Value::new(dims, items))
}
