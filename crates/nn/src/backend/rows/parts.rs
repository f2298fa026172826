//! Operators that concatenate values, or take parts of them.

use super::value::{
    ALONG, Case, ITEMS, ItemIndexUse, Items, Length, Value, WHOLE_AXIS, from_front, no,
};
use super::walk::{Operation, Walk};
use crate::backend::cost::Attribute;

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn parts(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "Concat" => {
                let all: Vec<&Value> = operation.given().collect();
                let first = operation.input(0)?;
                let axis = from_front(operation.int("axis", 1)?, first.rank()?)?;
                if all.len() == 1 {
                    return one(first.clone());
                }
                if all.iter().any(|value| value.axis() == Some(axis)) {
                    return no("puts other values beside the items of a run");
                }
                let mut sum = Length::number(0);
                let mut others = Vec::new();
                for value in &all {
                    if value.rank()? != first.rank()? {
                        return no("has inputs of different numbers of axes");
                    }
                    let length = value.dims()?[axis].clone();
                    sum = self.computed("Add", &[sum, length]);
                    let mut value = (*value).clone();
                    if let Some(dims) = &mut value.dims {
                        dims[axis] = Length::number(1);
                    }
                    others.push(value);
                }
                let mut value = self.broadcast(&others.iter().collect::<Vec<_>>())?;
                if let Some(dims) = &mut value.dims {
                    dims[axis] = sum;
                }
                one(value)
            }
            "Split" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let axis = from_front(operation.int("axis", 0)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("takes the items of a run apart");
                }
                let count = operation.node.outputs.len();
                let given = match operation.ints("split")? {
                    Some(parts) => Some(parts.iter().copied().map(Length::number).collect()),
                    None => operation.get(1).and_then(|parts| parts.numbers.clone()),
                };
                let length = x.dims()?[axis].over(&Length::number(count as i64));
                let mut outputs = Vec::new();
                for at in 0..count {
                    let part = match (&given, &length) {
                        (Some(parts), _) => parts.get(at).cloned(),
                        (None, length) if operation.get(1).is_none() => length.clone(),
                        _ => None,
                    };
                    let mut value = x.clone();
                    let part = part.unwrap_or_else(|| self.unknown(false));
                    if let Some(dims) = &mut value.dims {
                        dims[axis] = part;
                    }
                    outputs.push(value);
                }
                Ok(Some(outputs))
            }
            "Slice" => one(self.sliced(operation)?),
            "Pad" => one(self.padded(operation)?),
            "Gather" => one(gathered(operation)?),
            "GatherElements" | "ScatterElements" | "Scatter" => {
                let x = operation.input(0)?;
                let axis = from_front(operation.int("axis", 0)?, x.rank()?)?;
                let (items, dims) = (&x.items, x.dims()?);
                let place = items
                    .as_ref()
                    .ok_or("takes elements of a constant by place")?;
                for value in operation.given().skip(1) {
                    if value.items != *items || value.dims()?[place.axis] != dims[place.axis] {
                        return no("takes elements by their place among the items");
                    }
                }
                if place.axis == axis {
                    return no("takes elements by their place among the items");
                }
                one(match op {
                    "GatherElements" => operation.input(1)?.clone(),
                    _ => x.clone(),
                })
            }
            "GatherND" => {
                let (x, at) = (operation.input(0)?, operation.input(1)?);
                let depth = at.dims()?.last().and_then(Length::known);
                let depth = usize::try_from(depth.unwrap_or(-1));
                let depth = depth.map_err(|_| "has indices of unknown length")?;
                let shared = operation.int("batch_dims", 0)?;
                let sound = match (x.axis(), at.axis()) {
                    // Each item takes elements of its own row.
                    (Some(0), Some(axis)) if at.place == ItemIndexUse::First => {
                        shared == 0
                            && axis + 1 < at.rank()?
                            && x.items == Some(Items::along(0))
                            && x.dims()?[0] == Length::name(ITEMS)
                    }
                    _ if at.place != ItemIndexUse::None => false,
                    (None, Some(axis)) => shared == 0 && axis + 1 < at.rank()?,
                    (Some(0), Some(0)) => {
                        shared >= 1 && x.dims()?[0] == at.dims()?[0] && x.items == at.items
                    }
                    _ => false,
                };
                let taken = usize::try_from(shared).unwrap_or(0) + depth;
                if !sound || taken > x.rank()? {
                    return no("takes elements by their place among the items");
                }
                let mut dims = at.dims()?[..at.rank()? - 1].to_vec();
                dims.extend_from_slice(&x.dims()?[taken..]);
                one(Value::new(dims, at.items.clone()))
            }
            "Compress" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                let Some(Attribute::Int(axis)) = operation.node.attributes.get("axis") else {
                    return no("takes elements by their place among the items");
                };
                let axis = from_front(*axis, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("takes elements by their place among the items");
                }
                let mut dims = x.dims()?.to_vec();
                dims[axis] = self.unknown(false);
                one(Value::new(dims, x.items.clone()))
            }
            "ReverseSequence" => {
                let (x, lengths) = (operation.input(0)?, operation.input(1)?);
                let rank = x.rank()?;
                let of_items = from_front(operation.int("batch_axis", 1)?, rank)?;
                if x.axis() != Some(of_items)
                    || lengths.axis() != Some(0)
                    || lengths.dims()?[0] != x.dims()?[of_items]
                {
                    return no(ALONG);
                }
                one(x.clone())
            }
            "NonZero" | "Unique" | "NonMaxSuppression" => {
                no("gives as many rows as it finds in all items of a run")
            }
            _ => Ok(None),
        }
    }

    pub(super) fn sliced(&mut self, operation: &Operation<'_>) -> Case<Value> {
        let x = operation.input(0)?;
        let rank = x.rank()?;
        let list = |at: usize, name: &str| -> Case<Option<Vec<Length>>> {
            if let Some(value) = operation.get(at) {
                if value.items.is_some() {
                    return no("takes a part that follows from items");
                }
                return Ok(value.numbers.clone());
            }
            let attribute = operation.ints(name)?;
            Ok(attribute.map(|list| list.iter().copied().map(Length::number).collect()))
        };
        let (starts, ends) = (list(1, "starts")?, list(2, "ends")?);
        let has_axes = operation.get(3).is_some() || operation.ints("axes")?.is_some();
        let axes: Vec<usize> = match (list(3, "axes")?, has_axes) {
            (Some(axes), _) => {
                let axes = axes.iter().map(|axis| match axis.known() {
                    Some(axis) => from_front(axis, rank),
                    None => no("has axes that are computed"),
                });
                axes.collect::<Case<_>>()?
            }
            (None, true) => return no("has axes that are computed"),
            (None, false) => {
                let count = starts.as_ref().or(ends.as_ref()).map_or(rank, Vec::len);
                (0..count.min(rank)).collect()
            }
        };
        let has_steps = operation.get(4).is_some();
        let steps = list(4, "steps")?;
        let mut dims = x.dims()?.to_vec();
        for (index, axis) in axes.iter().enumerate() {
            let of = |list: &Option<Vec<Length>>| {
                list.as_ref().and_then(|list| list.get(index).cloned())
            };
            let (start, end) = (of(&starts), of(&ends));
            let step = match has_steps {
                true => of(&steps).and_then(|step| step.known()),
                false => Some(1),
            };
            let length = dims[*axis].clone();
            let begins = start.as_ref().is_some_and(|start| start.is(0));
            let ends = end.as_ref().is_some_and(|end| {
                *end == length || end.known().is_some_and(|end| end >= WHOLE_AXIS)
            });
            if begins && ends && step == Some(1) {
                continue;
            }
            if x.axis() == Some(*axis) {
                return no("takes a part of the items of a run");
            }
            for bound in [&start, &end].into_iter().flatten() {
                if self.has_items(bound) {
                    return no("takes a part that follows from the number of items");
                }
            }
            let known = || -> Option<i64> {
                let length = length.known()?;
                let at = |bound: &Option<Length>| -> Option<i64> {
                    let at = bound.as_ref()?.known()?;
                    let from = if at < 0 { at.checked_add(length)? } else { at };
                    Some(from.clamp(0, length))
                };
                let step = step.filter(|step| *step > 0)?;
                let count = (at(&end)? - at(&start)?).max(0);
                Some(count.checked_add(step - 1)? / step)
            };
            dims[*axis] = match known() {
                Some(length) => Length::number(length),
                None => self.unknown(false),
            };
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    pub(super) fn padded(&mut self, operation: &Operation<'_>) -> Case<Value> {
        let x = operation.input(0)?;
        operation.constant(1)?;
        let rank = x.rank()?;
        let pads: Option<Vec<Length>> = match operation.get(1) {
            Some(pads) => pads.numbers.clone(),
            None => {
                let list = match operation.ints("pads")? {
                    None => operation.ints("paddings")?,
                    list => list,
                };
                list.map(|list| list.iter().copied().map(Length::number).collect())
            }
        };
        let axes: Vec<usize> = match operation.get(3) {
            None => (0..rank).collect(),
            Some(axes) => {
                let axes = axes.known().ok_or("has axes that are computed")?;
                let axes = axes.iter().map(|axis| from_front(*axis, rank));
                axes.collect::<Case<_>>()?
            }
        };
        let mut dims = x.dims()?.to_vec();
        for (index, axis) in axes.iter().enumerate() {
            let pair = pads.as_ref().and_then(|pads| {
                let before = pads.get(index)?.clone();
                Some([before, pads.get(index + axes.len())?.clone()])
            });
            let none = (pair.as_ref()).is_some_and(|pair| pair.iter().all(|pad| pad.is(0)));
            if none {
                continue;
            }
            if x.axis() == Some(*axis) {
                return no("adds rows to the items of a run");
            }
            if pair.iter().flatten().any(|pad| self.has_items(pad)) {
                return no("computes with the number of items in the run");
            }
            let length = match pair {
                Some([before, after]) => {
                    let sum = self.computed("Add", &[before, after]);
                    self.computed("Add", &[dims[*axis].clone(), sum])
                }
                None => self.unknown(false),
            };
            dims[*axis] = length;
        }
        Ok(Value::new(dims, x.items.clone()))
    }
}

pub(super) fn gathered(operation: &Operation<'_>) -> Case<Value> {
    let (x, at) = (operation.input(0)?, operation.input(1)?);
    let axis = from_front(operation.int("axis", 0)?, x.rank()?)?;
    let (dims, places) = (x.dims()?, at.dims()?);
    let out = [&dims[..axis], places, &dims[axis + 1..]].concat();
    let items = match (&x.items, &at.items) {
        (None, None) => None,
        (None, Some(items)) => Some(items.moved(axis + items.axis)),
        (Some(items), None) if items.axis == axis => {
            return no("takes some of the items of a run by their place");
        }
        (Some(items), None) if items.axis < axis => Some(items.clone()),
        (Some(items), None) => Some(items.moved(items.axis + places.len() - 1)),
        (Some(_), Some(_)) => return no("takes elements of every item for each item"),
    };
    Ok(Value::new(out, items))
}
