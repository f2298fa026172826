//! Indices outside of their tensor. OpenVINO answers 0 for those of `Gather` and `GatherND`, where ONNX Runtime fails;
//! on the other operators OpenVINO fails too. So an index that callers send is checked against the lengths in each
//! call. A graph is refused if it computes the index from values that callers send, or if the index points into a
//! computed tensor of unknown length.
//!
//! `crate::index_bounds` checks indices of `Gather` against tables of the graph, for every backend. They are left out
//! here.

use std::collections::HashMap;

use super::shapes::{Shapes, producers, unbounded};
use crate::backend::onnx_file::structure::{Operator, Structure};
use crate::backend::operators::{SAME_LENGTHS, SAME_VALUES};
use crate::backend::port::{Port, PortType};
use crate::error::{NnError, quoted};
use crate::tensor::{NnTensor, TensorType};

/// Operators that hand elements on as they are, each in its place.
const SAME_PLACES: &[&str] = &["Cast", "Identity"];
/// Operators whose outputs a graph keeps within bounds by itself.
const LIMITS: &[&str] = &["Clip", "Mod"];

/// An index that is checked against lengths in each call.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Guard {
    /// The graph's input that is the index.
    index: usize,
    /// The tensor that the indices point into.
    data: Data,
    /// Whether the numbers of its last axis form one index together, each for a different axis.
    tuple: bool,
    /// The axis that the first number leads into.
    axis: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Data {
    /// The graph's input of this number.
    Input(usize),
    /// A constant of these lengths.
    Lengths(Vec<u64>),
}

/// The guards of a graph whose inputs have the order of `ports`, or the operator whose index cannot be checked, with
/// the fault.
pub(in super::super) fn guards<'s>(
    structure: &'s Structure,
    ports: &[Port],
) -> Result<Vec<Guard>, (&'s Operator, &'static str)> {
    let producers = producers(structure);
    let mut shapes = Shapes::of(structure);
    let mut guards = Vec::new();
    for operator in &structure.operators {
        shapes.infer(operator);
        let tuple = operator.is("GatherND");
        if !tuple && !operator.is("Gather") {
            continue;
        }
        let (Some(data), Some(index)) = (operator.input(0), operator.input(1)) else {
            continue;
        };
        if !unbounded(structure, &producers, index, LIMITS) {
            continue;
        }
        let same = if tuple { SAME_PLACES } else { &SAME_VALUES };
        let place = |name: &str| ports.iter().position(|port| port.name == name);
        let is_whole = |at: &usize| {
            matches!(
                ports[*at].ty,
                PortType::Tensor(TensorType::I64 | TensorType::I32)
            )
        };
        let sent = origin(&producers, index, same)
            .and_then(place)
            .filter(is_whole);
        let Some(index) = sent else {
            return Err((
                operator,
                "answers 0 for an index outside of its table, and the graph computes the index from what callers send",
            ));
        };
        // Also of a table that the graph computes, as a quantised one is before it is looked into.
        let lengths = || shapes.get(data)?.into_iter().collect::<Option<Vec<u64>>>();
        // `crate::index_bounds` has tables that are initializers, or were before they changed their type.
        let table = origin(&producers, data, &SAME_LENGTHS);
        if !tuple && table.is_some_and(|table| place(table).is_none()) {
            continue;
        }
        let data = match place(data) {
            Some(input) => Data::Input(input),
            None => match lengths() {
                Some(lengths) => Data::Lengths(lengths),
                None => {
                    return Err((
                        operator,
                        "answers 0 for an index outside of its table, and callers send the index into a table whose \
                         length the graph computes",
                    ));
                }
            },
        };
        let axis = match tuple {
            true => operator.integer("batch_dims").unwrap_or(0),
            false => operator.integer("axis").unwrap_or(0),
        };
        guards.push(Guard {
            index,
            data,
            tuple,
            axis,
        });
    }
    Ok(guards)
}

/// The name from which a value's elements come unchanged, through these operators.
fn origin<'s>(
    producers: &HashMap<&'s str, &'s Operator>,
    mut name: &'s str,
    same: &[&str],
) -> Option<&'s str> {
    // A graph that goes round is no graph, and still must not hang a load.
    for _ in 0..=producers.len() {
        let Some(producer) = producers.get(name) else {
            return Some(name);
        };
        if !same.iter().any(|op| producer.is(op)) {
            return None;
        }
        name = producer.input(0)?;
    }
    None
}

impl Guard {
    /// Refuses an index that is outside.
    pub fn check(&self, ports: &[Port], inputs: &[NnTensor]) -> Result<(), NnError> {
        let Some(index) = inputs.get(self.index) else {
            return Ok(());
        };
        let lengths: Vec<i64> = match &self.data {
            Data::Input(at) => {
                let dims = inputs.get(*at).map_or(&[][..], |data| &data.dims);
                dims.iter().map(|dim| i64::from(*dim)).collect()
            }
            Data::Lengths(lengths) => (lengths.iter())
                .map(|length| i64::try_from(*length).unwrap_or(i64::MAX))
                .collect(),
        };
        let rank = i64::try_from(lengths.len()).unwrap_or(i64::MAX);
        let axis = if self.axis < 0 {
            self.axis + rank
        } else {
            self.axis
        };
        let Ok(axis) = usize::try_from(axis) else {
            return Ok(());
        };
        let numbers = match (self.tuple, index.dims.last()) {
            (true, Some(numbers)) => (*numbers).max(1) as usize,
            _ => 1,
        };
        let outside = |(at, value): &(usize, i64)| {
            let length = lengths.get(axis + at % numbers).copied();
            // OpenVINO itself fails on an axis that is not there.
            length.is_some_and(|length| !(-length..length).contains(value))
        };
        let Some((at, value)) = elements(index).enumerate().find(outside) else {
            return Ok(());
        };
        Err(NnError::invalid(format!(
            "input {} holds {value} at element {at}, and the model looks it up among {} elements; send -{1} to {}",
            quoted(ports.get(self.index).map_or("", |port| &port.name)),
            lengths[axis + at % numbers],
            lengths[axis + at % numbers] - 1
        )))
    }
}

/// The elements of an index: INT64 and INT32 are all that ONNX allows.
fn elements(tensor: &NnTensor) -> Box<dyn Iterator<Item = i64> + '_> {
    match tensor.ty {
        TensorType::I64 => {
            let (eight, _) = tensor.data.as_chunks::<8>();
            Box::new(eight.iter().map(|bytes| i64::from_le_bytes(*bytes)))
        }
        TensorType::I32 => {
            let (four, _) = tensor.data.as_chunks::<4>();
            Box::new(four.iter().map(|bytes| i32::from_le_bytes(*bytes).into()))
        }
        _ => Box::new(std::iter::empty()),
    }
}
