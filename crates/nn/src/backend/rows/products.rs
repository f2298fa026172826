//! Products of matrices.

use std::collections::HashMap;

use super::layout::transposed;
use super::value::{ALONG, Case, Items, Length, UNKNOWN, Value, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn products(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "MatMul" => one(self.matmul(operation.input(0)?, operation.input(1)?)?),
            "MatMulInteger" | "QLinearMatMul" => {
                let (b, zeros): (usize, &[usize]) = match op {
                    "MatMulInteger" => (1, &[2]),
                    _ => (3, &[1, 2, 6, 7]),
                };
                for at in zeros {
                    if operation.get(*at).is_some_and(|zero| !zero.is_single()) {
                        return no("has a scale or zero point for each row");
                    }
                }
                let scales = (0..operation.inputs.len()).filter(|at| *at != 0 && *at != b);
                if scales
                    .filter_map(|at| operation.get(at))
                    .any(|v| v.items.is_some())
                {
                    return no("has a scale or zero point that follows from items");
                }
                one(self.matmul(operation.input(0)?, operation.input(b)?)?)
            }
            "Gemm" => {
                let a = Self::turned(operation.input(0)?, operation.int("transA", 0)? != 0)?;
                let b = Self::turned(operation.input(1)?, operation.int("transB", 0)? != 0)?;
                if a.rank()? != 2 || b.rank()? != 2 {
                    return no("multiplies values of other than two axes");
                }
                let product = self.matmul(&a, &b)?;
                match operation.get(2) {
                    Some(c) => one(self.broadcast(&[&product, c])?),
                    None => one(product),
                }
            }
            "Einsum" => one(einsum(operation)?),
            "Trilu" => {
                let x = operation.input(0)?;
                operation.constant(1)?;
                if x.axis()
                    .is_some_and(|axis| axis + 2 >= x.rank().unwrap_or(0))
                {
                    return no(ALONG);
                }
                one(x.clone())
            }
            "Det" => {
                let x = operation.input(0)?;
                let kept = x.rank()?.saturating_sub(2);
                if x.axis().is_some_and(|axis| axis >= kept) {
                    return no(ALONG);
                }
                one(Value::new(x.dims()?[..kept].to_vec(), x.items.clone()))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn matmul(&mut self, a: &Value, b: &Value) -> Case<Value> {
        let (ra, rb) = (a.rank()?, b.rank()?);
        if ra == 0 || rb == 0 {
            return no("multiplies a value without axes");
        }
        if a.axis() == Some(ra - 1) || (rb >= 2 && b.axis() == Some(rb - 2)) {
            return no("sums over the items of a run");
        }
        if rb == 1 && b.items.is_some() {
            return no("sums over the items of a run");
        }
        let own = |value: &Value, count: usize| -> Case<Value> {
            let dims = value.dims()?;
            let leading = &dims[..dims.len().saturating_sub(count)];
            let items = value
                .items
                .clone()
                .filter(|items| items.axis < leading.len());
            Ok(Value::new(leading.to_vec(), items))
        };
        let (lead_a, lead_b) = (own(a, 2)?, own(b, 2)?);
        let of_rows = ra >= 2 && a.axis() == Some(ra - 2);
        let of_columns = rb >= 2 && b.axis() == Some(rb - 1);
        if (of_rows && b.items.is_some()) || (of_columns && a.items.is_some()) {
            return no("multiplies items with items");
        }
        let leading = self.broadcast(&[&lead_a, &lead_b])?;
        let mut dims = leading.dims()?.to_vec();
        let mut items = leading.items;
        if ra >= 2 {
            if of_rows {
                items = a.items.as_ref().map(|items| items.moved(dims.len()));
            }
            dims.push(a.dims()?[ra - 2].clone());
        }
        if rb >= 2 {
            if of_columns {
                items = b.items.as_ref().map(|items| items.moved(dims.len()));
            }
            dims.push(b.dims()?[rb - 1].clone());
        }
        Ok(Value::new(dims, items))
    }

    /// The same value with its last two axes swapped, where `is_turned`.
    pub(super) fn turned(value: &Value, is_turned: bool) -> Case<Value> {
        let rank = value.rank()?;
        if !is_turned || rank < 2 {
            return Ok(value.clone());
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        transposed(value, &order)
    }
}

pub(super) fn einsum(operation: &Operation<'_>) -> Case<Value> {
    let equation: String = operation.text("equation", "")?.split_whitespace().collect();
    let Some((left, right)) = equation.split_once("->") else {
        return no("has an equation without a result");
    };
    let terms: Vec<&str> = left.split(',').collect();
    if equation.contains('.') || terms.len() != operation.inputs.len() || !equation.is_ascii() {
        return no("has an equation that cannot be read here");
    }
    let mut letter = None;
    let mut lengths: HashMap<char, Length> = HashMap::new();
    let mut outer = None;
    for (at, term) in terms.iter().enumerate() {
        let value = operation.input(at)?;
        let dims = value.dims()?;
        if term.len() != dims.len() {
            return no("has an equation that does not fit its inputs");
        }
        for (axis, own) in term.chars().enumerate() {
            if value.axis() == Some(axis) {
                if *letter.get_or_insert(own) != own || term.matches(own).count() != 1 {
                    return no("puts items along two axes");
                }
                let items = value.items.clone().ok_or(UNKNOWN)?;
                let before = outer.get_or_insert((items.outer.clone(), dims[axis].clone()));
                if *before != (items.outer, dims[axis].clone()) {
                    return no("puts items beside others in another order");
                }
            }
            let length = lengths.entry(own).or_insert_with(|| dims[axis].clone());
            if length.is(1) {
                *length = dims[axis].clone();
            }
        }
    }
    let out: Option<Vec<Length>> = right
        .chars()
        .map(|own| lengths.get(&own).cloned())
        .collect();
    let out = out.ok_or("has an equation that cannot be read here")?;
    let (Some(letter), Some((outer, _))) = (letter, outer) else {
        return Ok(Value::new(out, None));
    };
    for (at, term) in terms.iter().enumerate() {
        let value = operation.input(at)?;
        if value.items.is_none() && term.contains(letter) {
            return no("puts items beside a value that has a length of its own there");
        }
    }
    if right.matches(letter).count() != 1 {
        return no("sums over the items of a run");
    }
    let axis = right.find(letter).ok_or("sums over the items of a run")?;
    Ok(Value::new(out, Some(Items { axis, outer })))
}
