//! Decides from a graph's operators whether the rows of a batch are independent: whether the answer to one item is the
//! same whichever other items are in the run. Pure.
//!
//! The walk follows each value and notes along which axis the items lie. Every input begins with the axis of items.
//! An operator that reduces, normalises, quantises, sorts or scans along that axis makes rows dependent, and so does a
//! reshape that takes the items apart. Operators that this list does not know do too: a wrong "independent" would hand
//! one caller's numbers to another, and a wrong "dependent" only costs speed.
//!
//! The walk follows these facts:
//!
//! - **Lengths** are products of numbers and names (`Length`). The number of items is one of the names. So a reshape
//!   from `[N,S,384]` to `[N*S,384]` and back keeps the items in their order, and one to `[S,N*384]` does not.
//! - **Small whole numbers** (shapes, axes, constants) are computed, because they say where an operator works. A value
//!   that contains the number of items may be a size, and must not be computed with as data.
//! - **A value that mixes items** carries the reason. Only a reason that reaches an output counts.

mod arithmetic;
mod classical;
mod elementwise;
mod layout;
mod microsoft;
mod onnx;
mod parts;
mod products;
mod recurrent;
mod reductions;
mod spatial;
#[cfg(test)]
mod tests;
mod value;
mod walk;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

use super::port::Port;
pub(crate) use value::MAX_NUMBERS;
use value::{Followed, ITEMS, ItemIndexUse, Items, Length, Value};
pub(crate) use walk::Graph;
use walk::{MAX_FUNCTION_DEPTH, Walk, shown};

/// The dependence of the answer to an item on the other items of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// The answer does not depend on them, by the graph's operators.
    Independent,
    /// The answer depends on them, or that is not known; with the operator and the reason.
    Dependent(String),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Dependent("its operators are not known".into())
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Independent => f.write_str("its rows do not depend on each other"),
            Self::Dependent(reason) => f.write_str(reason),
        }
    }
}

/// Decides for each output of a graph whether its rows depend on each other.
pub(crate) fn rows(graph: &Graph<'_>) -> BTreeMap<String, Rows> {
    let mut walk = Walk {
        functions: (graph.functions.iter())
            .map(|function| ((function.domain.as_str(), function.name.as_str()), function))
            .collect(),
        steps: 0,
        // The first is the number of items.
        of_items: vec![true],
        computed: HashSet::new(),
        made: HashMap::new(),
    };
    let mut names = HashMap::new();
    let mut values: HashMap<String, Followed> = (graph.initials.iter())
        .map(|(name, initial)| (name.clone(), Ok(Rc::new(Value::of(initial)))))
        .collect();
    for port in graph.inputs {
        values.insert(port.name.clone(), walk.input(port, &mut names));
    }
    let walked = walk.nodes(graph.nodes, values, graph.opset, MAX_FUNCTION_DEPTH);
    let judged = |port: &Port| match &walked {
        Err(reason) => Rows::Dependent(reason.clone()),
        Ok(values) => match values.get(&port.name) {
            None => Rows::Dependent(format!("nothing makes output {}", shown(&port.name))),
            Some(Err(reason)) => Rows::Dependent(reason.to_string()),
            Some(Ok(value)) if value.place != ItemIndexUse::None => Rows::Dependent(format!(
                "output {} follows from the place of an item in its run, which an operator Range counts",
                shown(&port.name)
            )),
            Some(Ok(value)) => {
                let first = value.dims.as_ref().and_then(|dims| dims.first());
                let one_each =
                    first == Some(&Length::name(ITEMS)) && value.items == Some(Items::along(0));
                match one_each {
                    true => Rows::Independent,
                    false => Rows::Dependent(format!(
                        "output {} does not have one row for each item",
                        shown(&port.name)
                    )),
                }
            }
        },
    };
    (graph.outputs.iter())
        .map(|port| (port.name.clone(), judged(port)))
        .collect()
}
