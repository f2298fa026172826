//! Operators that rearrange the axes of a value.

use super::reductions::reduced;
use super::value::{Case, Items, Length, Value, from_front, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn layout(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "Transpose" => {
                let x = operation.input(0)?;
                let rank = x.rank()?;
                let order: Vec<usize> = match operation.ints("perm")? {
                    None => (0..rank).rev().collect(),
                    Some(order) => {
                        let order = order.iter().map(|axis| from_front(*axis, rank));
                        order.collect::<Case<_>>()?
                    }
                };
                one(transposed(x, &order)?)
            }
            "Reshape" => {
                let x = operation.input(0)?;
                let zero = operation.int("allowzero", 0)? != 0;
                let given = operation.ints("shape")?;
                let target = match given {
                    Some(shape) => shape.iter().copied().map(Length::number).collect(),
                    None => {
                        let shape = operation.input(1)?.numbers.clone();
                        shape.ok_or("has a shape that is computed from values")?
                    }
                };
                let dims = x.dims()?;
                let target: Vec<Length> = (target.into_iter().enumerate())
                    .map(|(at, length)| match length.is(0) && !zero {
                        true => dims.get(at).cloned().unwrap_or(length),
                        false => length,
                    })
                    .collect();
                one(self.reshaped(x, &target)?)
            }
            "Flatten" => {
                let x = operation.input(0)?;
                let dims = x.dims()?;
                let axis = operation.int("axis", 1)?;
                let axis = match axis == dims.len() as i64 {
                    true => dims.len(),
                    false => from_front(axis, dims.len())?,
                };
                let halves = Length::product(&dims[..axis]).zip(Length::product(&dims[axis..]));
                let (front, back) = halves.ok_or("has too many axes")?;
                one(self.reshaped(x, &[front, back])?)
            }
            "Squeeze" | "Unsqueeze" => {
                let x = operation.input(0)?;
                let axes = operation.axes(1)?;
                one(match op {
                    "Squeeze" => squeezed(x, axes.as_deref())?,
                    _ => unsqueezed(x, &axes.ok_or("lacks its axes")?)?,
                })
            }
            "Expand" => {
                let shape = operation.input(1)?.numbers.clone();
                let shape = shape.ok_or("has a shape that is computed from values")?;
                one(self.expanded(operation.input(0)?, &shape)?)
            }
            "Tile" => {
                let x = operation.input(0)?;
                let times = operation.input(1)?.numbers.clone();
                let times = times.ok_or("has a shape that is computed from values")?;
                let mut dims = x.dims()?.to_vec();
                let mut items = x.items.clone();
                if times.len() != dims.len() {
                    return no("has a shape that does not fit its input");
                }
                for (at, times) in times.iter().enumerate() {
                    let is_repeated = self.has_items(times);
                    if x.axis() == Some(at) && !times.is(1) || is_repeated && items.is_some() {
                        return no("repeats the items of a run");
                    }
                    if is_repeated {
                        items = Some(Items::along(at));
                    }
                    dims[at] = match dims[at].times(times) {
                        Some(length) => length,
                        None => self.unknown(false),
                    };
                }
                one(Value::new(dims, items))
            }
            _ => Ok(None),
        }
    }

    /// A value in another shape.
    pub(super) fn reshaped(&mut self, value: &Value, target: &[Length]) -> Case<Value> {
        let dims = value.dims()?;
        let mut out = target.to_vec();
        if let Some(at) = out.iter().position(|length| length.is(-1)) {
            let others = out
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != at)
                .map(|(_, l)| l);
            let total = Length::product(dims);
            let rest = Length::product(others);
            let quotient = total.zip(rest).and_then(|(total, rest)| total.over(&rest));
            let is_explicit = (out.iter().enumerate()).any(|(i, l)| i != at && self.has_items(l));
            out[at] = match quotient {
                Some(length) => length,
                // If another axis has all items, this one has none of them.
                None if is_explicit || value.items.is_none() => self.unknown(false),
                None => return no("puts items into a shape that is not known"),
            };
        }
        if out.iter().any(|length| length.factor < 0) {
            return no("puts items into a shape that is not known");
        }
        let Some(items) = &value.items else {
            return Ok(Value::new(out, None));
        };
        let mut places = (0..out.len()).filter(|at| self.has_items(&out[*at]));
        let (Some(axis), None) = (places.next(), places.next()) else {
            return no("puts items into a shape that does not keep them apart");
        };
        let before = Length::product(&dims[..items.axis]).and_then(|l| l.times(&items.outer));
        let outer = before.zip(Length::product(&out[..axis]));
        let outer = outer.and_then(|(before, own)| before.over(&own));
        let apart = outer.filter(|outer| {
            self.is_of_items(&out[axis]) && out[axis].over(outer).is_some_and(|l| l.factor > 0)
        });
        match apart {
            Some(outer) => Ok(Value::new(out, Some(Items { axis, outer }))),
            None => no("puts items into a shape that does not keep them apart"),
        }
    }

    pub(super) fn expanded(&mut self, x: &Value, shape: &[Length]) -> Case<Value> {
        let mut items = None;
        for (axis, length) in shape.iter().enumerate() {
            if length.factor < 0 {
                return no("has a shape that is computed from values");
            }
            if self.has_items(length) {
                if items.is_some() || !self.is_of_items(length) {
                    return no("puts items into a shape that does not keep them apart");
                }
                items = Some(Items::along(axis));
            }
        }
        // Every part of the new shape is the same, so in which order its items stand is free: as those they meet.
        if let (Some(items), Some(own)) = (&mut items, &x.items) {
            items.outer = own.outer.clone();
        }
        self.broadcast(&[x, &Value::new(shape.to_vec(), items)])
    }
}

pub(super) fn transposed(value: &Value, order: &[usize]) -> Case<Value> {
    let dims = value.dims()?;
    if order.len() != dims.len() {
        return no("has an order of other axes than its input");
    }
    let items = match &value.items {
        None => None,
        Some(items) => {
            let axis = order.iter().position(|axis| *axis == items.axis);
            Some(items.moved(axis.ok_or("drops the axis that counts the items")?))
        }
    };
    Ok(Value::new(
        order.iter().map(|axis| dims[*axis].clone()).collect(),
        items,
    ))
}

pub(super) fn squeezed(value: &Value, axes: Option<&[i64]>) -> Case<Value> {
    let dims = value.dims()?;
    match axes {
        Some(axes) => reduced(value, Some(axes), false),
        // A run of one item would lose the axis that counts the items.
        None if value.items.is_some() => {
            no("drops every axis of length 1, also the one that counts the items")
        }
        None if dims.iter().all(|dim| dim.known().is_some()) => {
            let kept = dims.iter().filter(|dim| !dim.is(1));
            Ok(Value::new(kept.cloned().collect(), None))
        }
        None => Ok(Value::constant(None)),
    }
}

pub(super) fn unsqueezed(value: &Value, axes: &[i64]) -> Case<Value> {
    let mut dims = value.dims()?.to_vec();
    let rank = dims.len() + axes.len();
    let axes = axes.iter().map(|axis| from_front(*axis, rank));
    let mut axes: Vec<usize> = axes.collect::<Case<_>>()?;
    axes.sort_unstable();
    let mut items = value.items.clone();
    for axis in axes {
        if axis > dims.len() {
            return no("names an axis that its input does not have");
        }
        dims.insert(axis, Length::number(1));
        items = items.map(|items| items.moved(items.axis + usize::from(axis <= items.axis)));
    }
    Ok(Value::new(dims, items))
}
