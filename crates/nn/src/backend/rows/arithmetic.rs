//! Whole numbers that a graph computes: shapes, axes, and indices.

use super::value::{Case, Length, MAX_NUMBERS, Value};
use super::walk::{Operation, Walk};
use crate::backend::cost::{Attribute, Initial};

impl Walk<'_> {
    /// Whole numbers computed from whole numbers; `None` for everything else.
    pub(super) fn arithmetic(&mut self, operation: &Operation<'_>) -> Case<Option<Value>> {
        let op = operation.node.op.as_str();
        if op == "Shape" {
            let Some(dims) = operation.input(0)?.dims.clone() else {
                return Ok(None);
            };
            if dims.len() > MAX_NUMBERS {
                return Ok(None);
            }
            let clamp = |at: i64| {
                let rank = dims.len() as i64;
                (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize
            };
            let (start, end) = (
                clamp(operation.int("start", 0)?),
                clamp(operation.int("end", i64::MAX)?),
            );
            let numbers = dims.get(start..end).unwrap_or_default().to_vec();
            return Ok(Some(Value::numbers(numbers, true)));
        }
        if op == "Size" {
            let dims = operation.input(0)?.dims.as_ref();
            let size = dims.and_then(Length::product);
            return Ok(size.map(|size| Value::numbers(vec![size], false)));
        }
        if op == "ConstantOfShape" {
            let wanted = operation.input(0)?.known();
            let value = match operation.node.attributes.get("value") {
                Some(Attribute::Tensor(Initial {
                    ints: Some(ints), ..
                })) => ints.first().copied(),
                // Without one it is the floating-point number 0.
                _ => None,
            };
            return Ok(match (wanted.as_deref(), value) {
                (Some([count]), Some(value)) if (0..=MAX_NUMBERS as i64).contains(count) => {
                    let numbers = vec![Length::number(value); *count as usize];
                    Some(Value::numbers(numbers, true))
                }
                _ => None,
            });
        }
        let lists: Option<Vec<&Vec<Length>>> = (operation.inputs.iter())
            .map(|value| value.as_ref()?.numbers.as_ref())
            .collect();
        let Some(lists) = lists.filter(|lists| !lists.is_empty()) else {
            return Ok(None);
        };
        let first = operation.input(0)?;
        let is_list = operation.given().any(|value| value.rank() == Ok(1));
        let all_known = || {
            let known = lists.iter().skip(1).map(|list| {
                let numbers = list.iter().map(Length::known);
                numbers.collect::<Option<Vec<i64>>>()
            });
            known.collect::<Option<Vec<Vec<i64>>>>()
        };
        let numbers = match op {
            "Identity" => lists[0].clone(),
            // INT32 and INT64. A number that becomes a fraction is data.
            "Cast" if matches!(operation.int("to", 0)?, 6 | 7) => lists[0].clone(),
            "Squeeze" | "Unsqueeze" => {
                let list = op == "Unsqueeze";
                let fits = match list {
                    true => first.rank()? == 0,
                    false => lists[0].len() == 1,
                };
                return Ok(fits.then(|| Value::numbers(lists[0].clone(), list)));
            }
            "Reshape" => match &operation.input(1)?.known().as_deref() {
                Some([-1]) => return Ok(Some(Value::numbers(lists[0].clone(), true))),
                Some([count]) if *count == lists[0].len() as i64 => {
                    return Ok(Some(Value::numbers(lists[0].clone(), true)));
                }
                Some([]) if lists[0].len() == 1 => {
                    return Ok(Some(Value::numbers(lists[0].clone(), false)));
                }
                _ => return Ok(None),
            },
            "Concat" => lists.iter().flat_map(|list| (*list).clone()).collect(),
            "Gather" => {
                let Some(indices) = all_known() else {
                    return Ok(None);
                };
                let count = lists[0].len() as i64;
                let one = |at: &i64| {
                    let at = if *at < 0 { at + count } else { *at };
                    lists[0].get(usize::try_from(at).ok()?).cloned()
                };
                let taken: Option<Vec<Length>> = indices[0].iter().map(one).collect();
                let is_list = operation.input(1)?.rank()? == 1;
                return Ok(taken.map(|numbers| Value::numbers(numbers, is_list)));
            }
            "Slice" if operation.inputs.len() >= 3 => {
                let Some(rest) = all_known() else {
                    return Ok(None);
                };
                let count = lists[0].len() as i64;
                let step = rest
                    .get(3)
                    .and_then(|steps| steps.first())
                    .copied()
                    .unwrap_or(1);
                let (&[start], &[end]) = (&rest[0][..], &rest[1][..]) else {
                    return Ok(None);
                };
                if step != 1 {
                    return Ok(None);
                }
                let at = |at: i64| (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
                let numbers = lists[0].get(at(start)..at(end)).unwrap_or_default();
                return Ok(Some(Value::numbers(numbers.to_vec(), true)));
            }
            "ReduceProd" if operation.inputs.len() == 1 => {
                let product = Length::product(lists[0]);
                let keeps = operation.int("keepdims", 1)? != 0;
                return Ok(product.map(|product| Value::numbers(vec![product], keeps)));
            }
            "Neg" | "Abs" | "Not" | "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min"
            | "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or"
            | "Where" => {
                let count = lists.iter().map(|list| list.len()).max().unwrap_or(0);
                if lists
                    .iter()
                    .any(|list| list.len() != count && list.len() != 1)
                {
                    return Ok(None);
                }
                let at = |list: &[Length], index: usize| list[index.min(list.len() - 1)].clone();
                let mut numbers = Vec::with_capacity(count);
                for index in 0..count {
                    let row: Vec<Length> = lists.iter().map(|list| at(list, index)).collect();
                    numbers.push(self.computed(op, &row));
                }
                numbers
            }
            _ => return Ok(None),
        };
        if numbers.len() > MAX_NUMBERS {
            return Ok(None);
        }
        let is_list = is_list || op == "Concat";
        Ok(Some(Value::numbers(numbers, is_list)))
    }

    /// One whole number of others.
    pub(super) fn computed(&mut self, op: &str, row: &[Length]) -> Length {
        let known: Option<Vec<i64>> = row.iter().map(Length::known).collect();
        let truth = |is: bool| Some(i64::from(is));
        if let Some(known) = known {
            let found = match (op, &known[..]) {
                ("Neg", [a]) => a.checked_neg(),
                ("Abs", [a]) => a.checked_abs(),
                ("Not", [a]) => truth(*a == 0),
                ("Add", [a, b]) => a.checked_add(*b),
                ("Sub", [a, b]) => a.checked_sub(*b),
                ("Mul", [a, b]) => a.checked_mul(*b),
                ("Div", [a, b]) => a.checked_div(*b),
                // The sign of the remainder depends on an attribute.
                ("Mod", [a, b]) if *a >= 0 && *b > 0 => Some(a % b),
                ("Max", all) => all.iter().max().copied(),
                ("Min", all) => all.iter().min().copied(),
                ("Equal", [a, b]) => truth(a == b),
                ("Less", [a, b]) => truth(a < b),
                ("LessOrEqual", [a, b]) => truth(a <= b),
                ("Greater", [a, b]) => truth(a > b),
                ("GreaterOrEqual", [a, b]) => truth(a >= b),
                ("And", [a, b]) => truth(*a != 0 && *b != 0),
                ("Or", [a, b]) => truth(*a != 0 || *b != 0),
                ("Where", [test, yes, no]) => Some(if *test != 0 { *yes } else { *no }),
                _ => None,
            };
            if let Some(found) = found {
                return Length::number(found);
            }
        }
        let found = match (op, row) {
            ("Mul", [a, b]) => a.times(b),
            ("Div", [a, b]) => a.over(b),
            ("Neg", [a]) => a.times(&Length::number(-1)),
            ("Add" | "Sub", [a, b]) if b.is(0) => Some(a.clone()),
            ("Add", [a, b]) if a.is(0) => Some(b.clone()),
            ("Max" | "Min", [a, b]) if a == b => Some(a.clone()),
            ("Max" | "Min", [a]) => Some(a.clone()),
            // The length of an axis is never negative.
            ("Equal", [a, b]) => {
                let is_length =
                    |l: &Length| l.factor > 0 && !l.names.iter().any(|n| self.computed.contains(n));
                let is_negative = |l: &Length| l.known().is_some_and(|number| number < 0);
                let differ = (is_length(a) && is_negative(b)) || (is_negative(a) && is_length(b));
                differ.then(|| Length::number(0))
            }
            ("Where", [test, yes, no]) => match test.known() {
                Some(0) => Some(no.clone()),
                Some(_) => Some(yes.clone()),
                None if yes == no => Some(yes.clone()),
                None => None,
            },
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
        let of_items = row.iter().any(|length| self.has_items(length));
        let op = match op {
            "Add" => "Add",
            "Sub" => "Sub",
            "Div" => "Div",
            _ => "",
        };
        if op.is_empty() || row.len() != 2 {
            let length = self.unknown(of_items);
            self.computed.insert(length.names[0]);
            return length;
        }
        let key = (op, row[0].clone(), row[1].clone());
        if let Some(name) = self.made.get(&key) {
            return Length::name(*name);
        }
        let length = self.unknown(of_items);
        self.computed.insert(length.names[0]);
        self.made.insert(key, length.names[0]);
        length
    }
}
