//! Operators that work on each element by itself, and those that make values.

use super::value::{Case, ITEMS, ItemIndexUse, Items, Length, MAX_NUMBERS, Value, from_front, no};
use super::walk::{Operation, Walk, is_elementwise};
use crate::backend::cost::Attribute;

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn elementwise(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "Constant" => {
                let value = match (
                    operation.node.attributes.iter().next(),
                    operation.node.attributes.len(),
                ) {
                    (Some((_, Attribute::Tensor(initial))), 1) => Value::of(initial),
                    (Some((_, Attribute::Int(value))), 1) => {
                        Value::numbers(vec![Length::number(*value)], false)
                    }
                    (Some((_, Attribute::Ints(values))), 1) if values.len() <= MAX_NUMBERS => {
                        let numbers = values.iter().copied().map(Length::number);
                        Value::numbers(numbers.collect(), true)
                    }
                    (Some((_, Attribute::Float(_))), 1) => Value::new(Vec::new(), None),
                    (Some((_, Attribute::Floats(values))), 1) => {
                        Value::new(vec![Length::number(values.len() as i64)], None)
                    }
                    _ => Value::constant(None),
                };
                one(value)
            }
            "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot"
            | "Cast" | "CastLike" | "Ceil" | "Celu" | "Cos" | "Cosh" | "Elu" | "Erf" | "Exp"
            | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish" | "Identity" | "IsInf" | "IsNaN"
            | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Not" | "Reciprocal" | "Relu" | "Round"
            | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh" | "Softplus" | "Softsign"
            | "Sqrt" | "Swish" | "Tan" | "Tanh" | "ThresholdedRelu" => {
                let x = operation.input(0)?;
                one(x.clone())
            }
            op if is_elementwise(op) => {
                // Before opset 7 these two attributes said along which axis.
                if ["axis", "broadcast"]
                    .iter()
                    .any(|name| operation.node.attributes.contains_key(*name))
                {
                    return no("has an attribute that opset 7 removed");
                }
                let all: Vec<&Value> = operation.given().collect();
                one(self.broadcast(&all)?)
            }
            "Clip" => {
                if operation.given().skip(1).any(|bound| !bound.is_single()) {
                    return no("has bounds of more than one element");
                }
                operation.constant(1)?;
                one(operation.input(0)?.clone())
            }
            "Dropout" => {
                let training = match operation.get(2) {
                    None => false,
                    Some(value) => value.known() != Some(vec![0]),
                };
                if training || operation.node.attributes.contains_key("is_test") {
                    return no("may draw random numbers");
                }
                let x = operation.input(0)?.clone();
                Ok(Some(vec![x; operation.node.outputs.len()]))
            }
            "ConstantOfShape" => {
                let Some(shape) = operation.input(0)?.numbers.clone() else {
                    operation.constant(0)?;
                    return one(Value::constant(None));
                };
                one(self.expanded(&Value::new(Vec::new(), None), &shape)?)
            }
            "Range" => {
                operation.constant(0)?;
                let limit = match operation.get(1).and_then(|limit| limit.numbers.as_deref()) {
                    Some([limit])
                        if operation.input(0)?.known() == Some(vec![0])
                            && operation.input(2)?.known() == Some(vec![1]) =>
                    {
                        Some(limit.clone())
                    }
                    _ => None,
                };
                if limit == Some(Length::name(ITEMS)) {
                    let mut places = Value::new(vec![Length::name(ITEMS)], Some(Items::along(0)));
                    places.place = ItemIndexUse::Index;
                    return one(places);
                }
                if self.counts_items(operation.input(1)?) {
                    return no("computes with the number of items in the run");
                }
                let length = match limit {
                    Some(limit) => limit,
                    None => self.unknown(false),
                };
                one(Value::new(vec![length], None))
            }
            "OneHot" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let axis = operation.int("axis", -1)?;
                let rank = x.rank()? + 1;
                let at = from_front(axis, rank)?;
                let mut dims = x.dims()?.to_vec();
                let depth = operation
                    .get(1)
                    .and_then(|d| d.numbers.as_ref()?.first().cloned());
                dims.insert(
                    at,
                    match depth {
                        Some(depth) => depth,
                        None => self.unknown(false),
                    },
                );
                let items = x
                    .items
                    .as_ref()
                    .map(|items| items.moved(items.axis + usize::from(at <= items.axis)));
                one(Value::new(dims, items))
            }
            "DynamicQuantizeLinear" => {
                let x = operation.input(0)?;
                if x.items.is_some() {
                    return no("takes one scale over all items of a run");
                }
                let single = Value::new(Vec::new(), None);
                Ok(Some(vec![
                    Value::constant(x.dims.clone()),
                    single.clone(),
                    single,
                ]))
            }
            "QuantizeLinear" | "DequantizeLinear" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let scale = operation.input(1)?;
                if let (Some(axis), false) = (x.axis(), scale.is_single()) {
                    let own = from_front(operation.int("axis", 1)?, x.rank()?)?;
                    // A scale of several axes goes with blocks of the input.
                    if own == axis || scale.rank()? > 1 {
                        return no("has a scale for each item");
                    }
                }
                one(x.clone())
            }
            _ => Ok(None),
        }
    }
}
