//! Recurrent operators.

use super::value::{Case, Items, Length, Value, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn recurrences(&mut self, operation: &Operation<'_>) -> Case<Option<Vec<Value>>> {
        match operation.node.op.as_str() {
            "LSTM" | "GRU" | "RNN" => self.recurrent(operation).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn recurrent(&mut self, operation: &Operation<'_>) -> Case<Vec<Value>> {
        let x = operation.input(0)?;
        let layout = operation.int("layout", 0)? != 0;
        let axis = if layout { 0 } else { 1 };
        if x.rank()? != 3 {
            return no("has an input of other than three axes");
        }
        if x.items.is_none() {
            return no("runs on a constant");
        }
        if x.items != Some(Items::along(axis)) {
            return no("goes from one item of a run to the next");
        }
        for (at, value) in operation.inputs.iter().enumerate().skip(1) {
            let Some(value) = value else { continue };
            let wanted = match at {
                // Lengths of the sequences, and states.
                4 => Some(0),
                5 | 6 => Some(axis),
                _ => None,
            };
            match (&value.items, wanted) {
                (Some(items), Some(wanted)) if *items == Items::along(wanted) => {
                    if value.dims()?[wanted] != x.dims()?[axis] {
                        return no("has states of another number of items");
                    }
                }
                (None, None) => {}
                _ => return no("has states that do not go with the items of a run"),
            }
        }
        let (count, length) = (x.dims()?[axis].clone(), x.dims()?[1 - axis].clone());
        let both = operation.text("direction", "forward")? == "bidirectional";
        let directions = Length::number(if both { 2 } else { 1 });
        let hidden = Length::number(operation.int("hidden_size", 0)?);
        let (all, last) = match layout {
            false => (
                Value::new(
                    vec![length, directions.clone(), count.clone(), hidden.clone()],
                    Some(Items::along(2)),
                ),
                Value::new(vec![directions, count, hidden], Some(Items::along(1))),
            ),
            true => (
                Value::new(
                    vec![count.clone(), length, directions.clone(), hidden.clone()],
                    Some(Items::along(0)),
                ),
                Value::new(vec![count, directions, hidden], Some(Items::along(0))),
            ),
        };
        Ok(vec![all, last.clone(), last])
    }
}
