//! Checks a run's outputs against the contract: each is present, with its datatype, its shape, and as many classes as labels.
//! If a model breaks its contract, its answer is not returned, and the operator must correct it. Otherwise two labels over
//! three columns would name a class that the contract does not declare.
//!
//! For valid outputs the check compares lengths and names, and allocates nothing.

use crate::check::shape_text;
use crate::contract::{Contract, Dim, TensorSpec};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::tensor::{Tensor, elements};

/// The number of axes whose lengths need no allocation. Contracts have one to four.
const INLINE_AXES: usize = 8;

/// The lengths of symbolic axes in one call.
#[derive(Clone, Debug, Default)]
pub struct Lengths<'c> {
    first: [Option<(&'c str, u64)>; INLINE_AXES],
    more: Vec<(&'c str, u64)>,
}

impl<'c> Lengths<'c> {
    /// The lengths in a call with these inputs, which meet the contract. Inputs are pairs of a name and a shape.
    pub fn of<'t, S>(contract: &'c Contract, inputs: impl Iterator<Item = (&'t str, S)>) -> Self
    where
        S: IntoIterator<Item = u64>,
    {
        let mut lengths = Self::default();
        for (name, shape) in inputs {
            let Some(spec) = contract.input(name) else {
                continue;
            };
            for (dim, length) in spec.shape.iter().zip(shape) {
                if let Dim::Symbol(axis) = dim {
                    lengths.meets(axis, length);
                }
            }
        }
        lengths
    }

    fn known(&self) -> impl Iterator<Item = (&'c str, u64)> {
        let more = self.more.iter().copied();
        self.first.iter().copied().flatten().chain(more)
    }

    fn get(&self, axis: &str) -> Option<u64> {
        let mut known = self.known();
        known.find_map(|(name, length)| (name == axis).then_some(length))
    }

    /// Returns whether an axis has this length. An axis without a length gets it.
    fn meets(&mut self, axis: &'c str, length: u64) -> bool {
        if let Some(known) = self.get(axis) {
            return known == length;
        }
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some((axis, length)),
            None => self.more.push((axis, length)),
        }
        true
    }
}

/// Checks outputs against the contract, and sets the contract's datatype of each, because `wasi:nn` transports BOOL and INT8
/// as bytes. `wanted` are the requested outputs; empty for all.
///
/// # Errors
///
/// A sentence with the output, the expected and the actual value, and the remedy. It is for the operator, and may be shown to
/// a caller.
pub fn settle<'c>(
    contract: &'c Contract,
    mut lengths: Lengths<'c>,
    wanted: &[String],
    outputs: &mut [Tensor],
) -> Result<(), String> {
    for spec in &contract.outputs {
        if !wanted.is_empty() && !wanted.contains(&spec.name) {
            continue;
        }
        let Some(tensor) = outputs.iter_mut().find(|tensor| tensor.name == spec.name) else {
            if spec.optional {
                continue;
            }
            return Err(format!(
                "output {:?} was not returned, and model.toml says {} {}; correct the graph, or remove the output \
                 from model.toml",
                spec.name,
                spec.datatype,
                spec.shape_text()
            ));
        };
        if !carries(tensor.datatype, spec.datatype) {
            return Err(format!(
                "output {:?} was returned as {}, and model.toml says {}; write datatype = \"{}\", or correct the \
                 graph",
                spec.name, tensor.datatype, spec.datatype, tensor.datatype
            ));
        }
        if let Some(breach) = shape(spec, &tensor.shape, &mut lengths) {
            return Err(breach);
        }
        let size = spec.datatype.size_bytes().map(|size| size as u64);
        let bytes = size.zip(elements(&tensor.shape));
        let bytes = bytes.and_then(|(size, elements)| size.checked_mul(elements));
        if size.is_some() && bytes != Some(tensor.data.len() as u64) {
            return Err(format!(
                "output {:?} was returned with {} bytes, which do not match the {} elements of {}; this is a fault \
                 of the runtime: try another backend",
                spec.name,
                tensor.data.len(),
                spec.datatype,
                shape_text(&tensor.shape)
            ));
        }
        tensor.datatype = spec.datatype;
    }
    Ok(())
}

/// Returns whether a tensor with the datatype `found` can have the datatype `promised`.
fn carries(found: Datatype, promised: Datatype) -> bool {
    found == promised
        || (found == Datatype::Uint8 && matches!(promised, Datatype::Bool | Datatype::Int8))
}

/// The fault of an output's shape, with the correct one; `None` if it meets the contract. Axes without a length get theirs
/// from it.
pub fn shape<'c>(spec: &'c TensorSpec, found: &[u64], lengths: &mut Lengths<'c>) -> Option<String> {
    let fits = found.len() == spec.shape.len()
        && (spec.shape.iter().zip(found)).all(|(dim, length)| match dim {
            Dim::Fixed(promised) => promised == length,
            Dim::Symbol(axis) => lengths.meets(axis, *length),
        });
    let labels = spec.labels.as_ref().map(|labels| labels.len() as u64);
    let classes = found.last().copied();
    if fits && (labels.is_none() || labels == classes) {
        return None;
    }
    Some(breach(spec, found, lengths, labels.zip(classes)))
}

fn breach(
    spec: &TensorSpec,
    found: &[u64],
    lengths: &Lengths<'_>,
    classes: Option<(u64, u64)>,
) -> String {
    let known: Vec<String> = (spec.shape.iter())
        .filter_map(|dim| match dim {
            Dim::Symbol(axis) => Some(format!("{axis} = {}", lengths.get(axis)?)),
            Dim::Fixed(_) => None,
        })
        .collect();
    let with = match known.is_empty() {
        true => String::new(),
        false => format!(" with {}", known.join(", ")),
    };
    let labels = match classes {
        Some((labels, classes)) if labels != classes => {
            format!(" and {classes} labels where there are {labels}")
        }
        _ => String::new(),
    };
    format!(
        "output {:?} was returned as {}, and model.toml says {}{with}; write shape = {}{labels}, or correct the \
         graph",
        excerpt(&spec.name),
        shape_text(found),
        spec.shape_text(),
        remedy(spec, found, lengths)
    )
}

/// Returns the correct shape for a message: the name of an input's axis with the same length, each once, or else a number.
fn remedy(spec: &TensorSpec, found: &[u64], lengths: &Lengths<'_>) -> String {
    let same_rank = found.len() == spec.shape.len();
    let mut free: Vec<(&str, u64)> = lengths.known().collect();
    let written = found.iter().enumerate().map(|(at, length)| {
        let dim = spec.shape.get(at).filter(|_| same_rank);
        match dim {
            Some(Dim::Fixed(promised)) if promised == length => return length.to_string(),
            Some(Dim::Symbol(axis)) if lengths.get(axis) == Some(*length) => {
                free.retain(|(name, _)| name != axis);
                return format!("{axis:?}");
            }
            // The length differs from the contract's axis, so it is another axis. A length of one is rarely a
            // coincidence: write it as a number.
            Some(Dim::Symbol(_)) if *length == 1 => return length.to_string(),
            Some(Dim::Symbol(axis)) => return format!("{:?}", format!("{axis}_{at}")),
            _ => {}
        }
        match free.iter().position(|(_, other)| other == length) {
            Some(at) => format!("{:?}", free.remove(at).0),
            None => length.to_string(),
        }
    });
    let written: Vec<String> = written.collect();
    format!("[{}]", written.join(", "))
}
