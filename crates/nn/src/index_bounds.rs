//! Inputs that a graph uses as indices into its own tables, and the ranges of these indices.
//!
//! ONNX Runtime refuses an index outside of the table. tract panics, and OpenVINO answers with other numbers. So an
//! input that goes straight into `Gather` or a similar operator is checked against the table before any backend sees
//! it. Every backend then refuses it in the same words, and nothing is logged. An index that the graph computes first
//! is left to the backend.

use std::collections::BTreeMap;

use crate::backend::{Graph, Port, SAME_LENGTHS, SAME_VALUES};
use crate::error::{NnError, quoted};
use crate::tensor::{NnTensor, TensorType};

/// The bounds of each input that is an index, by its place among the graph's inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct IndexBounds(Vec<(usize, u64)>);

impl IndexBounds {
    /// The bounds of `graph`, whose inputs have the order of `ports`.
    pub fn of(graph: &Graph, ports: &[Port]) -> Self {
        let mut named: BTreeMap<&str, usize> = (ports.iter().enumerate())
            .map(|(index, port)| (port.name.as_str(), index))
            .collect();
        let mut made: BTreeMap<&str, &[u64]> = BTreeMap::new();
        let mut bounds: BTreeMap<usize, u64> = BTreeMap::new();
        for node in graph.nodes().iter().filter(|node| node.domain.is_empty()) {
            let input = |at: usize| node.inputs.get(at).map(String::as_str);
            let output = node.outputs.first().map_or("", String::as_str);
            let table = |name: &str| graph.table(name).or_else(|| made.get(name).copied());
            if matches!(&*node.op, "Gather" | "GatherElements")
                && let (Some(looked_into), Some(indices)) = (input(0), input(1))
                && let (Some(lengths), Some(port)) = (table(looked_into), named.get(indices))
            {
                let axis = graph.axis(output).unwrap_or(0);
                let rank = i64::try_from(lengths.len()).unwrap_or(i64::MAX);
                let at = if axis < 0 { axis + rank } else { axis };
                let length = usize::try_from(at).ok().and_then(|at| lengths.get(at));
                if let Some(length) = length {
                    let known = bounds.entry(*port).or_insert(*length);
                    *known = (*known).min(*length);
                }
            }
            let lengths = input(0).and_then(table);
            if SAME_LENGTHS.contains(&&*node.op)
                && let Some(lengths) = lengths
            {
                made.insert(output, lengths);
            }
            if SAME_VALUES.contains(&&*node.op)
                && let Some(port) = input(0).and_then(|name| named.get(name)).copied()
            {
                named.insert(output, port);
            }
        }
        Self(bounds.into_iter().collect())
    }

    /// The length of the table that each input leads into, by the input's name.
    #[cfg(feature = "native")]
    pub fn by_name(&self, ports: &[Port]) -> BTreeMap<String, u64> {
        (self.0.iter())
            .filter_map(|(index, length)| Some((ports.get(*index)?.name.clone(), *length)))
            .collect()
    }

    /// Refuses inputs with an index that is outside of its table.
    pub fn check(&self, ports: &[Port], inputs: &[NnTensor]) -> Result<(), NnError> {
        for (index, length) in &self.0 {
            let (Some(port), Some(tensor)) = (ports.get(*index), inputs.get(*index)) else {
                continue;
            };
            let Ok(length) = i64::try_from(*length) else {
                continue;
            };
            let outside = |value: i64| !(-length..length).contains(&value);
            let data = &tensor.data[..];
            let found = match tensor.ty {
                TensorType::I64 => first(data, i64::from_le_bytes, outside),
                TensorType::I32 => first(data, |b| i32::from_le_bytes(b).into(), outside),
                TensorType::I16 => first(data, |b| i16::from_le_bytes(b).into(), outside),
                TensorType::I8 | TensorType::I2 | TensorType::I4 => {
                    first(data, |b| i8::from_le_bytes(b).into(), outside)
                }
                TensorType::U2 | TensorType::U4 => {
                    first(data, |b| u8::from_le_bytes(b).into(), outside)
                }
                TensorType::U8 => first(data, |b| u8::from_le_bytes(b).into(), outside),
                TensorType::U16 => first(data, |b| u16::from_le_bytes(b).into(), outside),
                TensorType::U32 => first(data, |b| u32::from_le_bytes(b).into(), outside),
                TensorType::U64 => {
                    let read = |b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX);
                    first(data, read, outside)
                }
                // Graphs turn these types into places in several ways.
                TensorType::Fp16
                | TensorType::Bf16
                | TensorType::Fp32
                | TensorType::Fp64
                | TensorType::Bool
                | TensorType::Bytes
                | TensorType::Fp8E4m3fn
                | TensorType::Fp8E4m3fnuz
                | TensorType::Fp8E5m2
                | TensorType::Fp8E5m2fnuz => None,
            };
            if let Some((at, value)) = found {
                return Err(NnError::invalid(format!(
                    "input {} holds {value} at element {at}, and the model looks it up in a table of {length}; send 0 to {}",
                    quoted(&port.name),
                    length - 1
                )));
            }
        }
        Ok(())
    }
}
/// The first element outside of the table, and its place.
fn first<const N: usize>(
    data: &[u8],
    read: impl Fn([u8; N]) -> i64,
    is_so: impl Fn(i64) -> bool,
) -> Option<(usize, i64)> {
    let (elements, _) = data.as_chunks::<N>();
    (elements.iter().map(|bytes| read(*bytes)).enumerate()).find(|(_, value)| is_so(*value))
}
