//! Explains one answer of a model: decides the runs, and computes the explanation from their outputs.
//!
//! The method is occlusion. Each group of features is hidden in turn: a baseline replaces its elements. The attribution of
//! the group is the fall of the explained class's value. For a linear model this is exactly weight times (value minus
//! baseline). The item and its variants with hidden groups are items of a batch, so they run together.
//!
//! Memory holds one batch at a time, within `limits.max_items` and the bytes of one body. All batches together have at most
//! [`MAX_TOTAL_BYTES`].

use crate::contract::{Baseline, Bound, Contract, Dim, Explain, TensorSpec};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::fp8::Fp8;
use crate::rejection::{Rejection, Violations};
use crate::render::{as_f64, write_name, write_string};
use crate::tensor::Tensor;
use penstock_core::Violation;
use penstock_core::violation::escape_pointer_token;
use std::ops::Range;

/// The most bytes of inputs of one explanation. Copying more takes longer than callers wait.
pub const MAX_TOTAL_BYTES: u64 = 1 << 30;

/// Most labels that the error for an unknown label lists.
const MAX_LABELS_LISTED: usize = 16;

/// The runs of one explanation.
#[derive(Debug)]
pub struct Plan<'a> {
    inputs: &'a [Tensor],
    output: &'a TensorSpec,
    /// The baselines, for each input with hidden elements.
    baselines: Vec<Standin<'a>>,
    groups: Vec<Hidden>,
    /// The requested class, if any.
    asked: Option<usize>,
    items_per_batch: u64,
}

#[derive(Debug)]
struct Standin<'a> {
    input: &'a str,
    kind: &'static str,
    value: f64,
    bytes: Vec<u8>,
}

/// A group of elements of one input.
#[derive(Clone, Debug, PartialEq)]
struct Hidden {
    name: String,
    /// The index of the input in the contract.
    input: usize,
    place: Region,
}

#[derive(Clone, Debug, PartialEq)]
enum Region {
    /// Elements of an item, in row-major order.
    Range(Range<u64>),
    /// Rows and columns of every plane of an item.
    Cell {
        rows: Range<u64>,
        columns: Range<u64>,
        height: u64,
        width: u64,
    },
}

/// The attribution of each group to the value of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    output: String,
    class: usize,
    label: Option<String>,
    /// The value of the class without hidden elements.
    pub base: f64,
    single: bool,
    baselines: Vec<(String, &'static str, f64)>,
    groups: Vec<Attributed>,
    items: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Attributed {
    name: String,
    input: String,
    cell: Option<(Range<u64>, Range<u64>)>,
    attribution: f64,
}

fn refused(pointer: String, rule: &str, expected: String, message: String) -> Rejection {
    let mut sink = Violations::default();
    sink.contract(|| Violation::new(pointer, rule, expected, message.clone()));
    sink.finish().err().unwrap_or(Rejection {
        code: penstock_core::Code::InvalidInputs,
        message,
        violations: Vec::new(),
        omitted: 0,
    })
}

fn pointer(input: &str) -> String {
    format!("/inputs/{}", escape_pointer_token(&excerpt(input)))
}

/// The elements of one item: the shape without the batch axis.
fn item_elements(tensor: &Tensor) -> u64 {
    let item = tensor.shape.get(1..).unwrap_or_default();
    crate::tensor::elements(item).unwrap_or(0)
}

impl<'a> Plan<'a> {
    /// Plans the runs for inputs that meet the contract. `target` names the explained class: a label if the output has
    /// labels, else an index. `None` explains the class with the greatest value.
    ///
    /// `None` if the contract has no `[explain]`.
    pub fn new(
        contract: &'a Contract,
        inputs: &'a [Tensor],
        target: Option<&str>,
    ) -> Option<Result<Self, Rejection>> {
        let explain = contract.explain.as_ref()?;
        let output = contract.output(&explain.target)?;
        Some(Self::of(contract, explain, output, inputs, target))
    }

    fn of(
        contract: &'a Contract,
        explain: &'a Explain,
        output: &'a TensorSpec,
        inputs: &'a [Tensor],
        target: Option<&str>,
    ) -> Result<Self, Rejection> {
        if let Some(tensor) = inputs.iter().find(|t| t.shape.first() != Some(&1)) {
            let message = format!(
                "input {:?} has {} items; only one item can be explained; send one",
                tensor.name,
                tensor.shape.first().copied().unwrap_or(0)
            );
            let (rule, expected) = ("too_many_items", "1 item".to_owned());
            return Err(refused(pointer(&tensor.name), rule, expected, message));
        }
        let asked = target.map(|target| class_of(output, target)).transpose()?;
        let groups = groups(contract, explain, inputs);
        let item_bytes: u64 = inputs.iter().map(|tensor| tensor.data.len() as u64).sum();
        let items = 1 + groups.len() as u64;
        if item_bytes.saturating_mul(items) > MAX_TOTAL_BYTES {
            let first = inputs.first().map_or("", |tensor| tensor.name.as_str());
            let message = format!(
                "an explanation of {item_bytes} bytes of inputs in {} groups takes more than {MAX_TOTAL_BYTES} bytes \
                 in total; send a smaller item",
                groups.len()
            );
            let expected = format!("at most {} bytes of inputs", MAX_TOTAL_BYTES / items);
            return Err(refused(pointer(first), "too_large", expected, message));
        }
        let mut baselines = Vec::new();
        for (at, tensor) in inputs.iter().enumerate() {
            if groups.iter().any(|group| group.input == at) {
                let baseline = explain.baseline.get(&tensor.name);
                baselines.push(standin(tensor, *baseline.unwrap_or(&Baseline::ZERO))?);
            }
        }
        // A caller could send as much in one call.
        let fit = contract.limits.max_body_bytes / item_bytes.max(1);
        Ok(Self {
            inputs,
            output,
            baselines,
            groups,
            asked,
            items_per_batch: fit.min(contract.limits.max_items).max(1),
        })
    }

    /// The number of items: the original item, and one for each group.
    pub fn items(&self) -> u64 {
        1 + self.groups.len() as u64
    }

    /// Returns the name of the explained output. The other outputs are needed only from the first batch, if the prediction is
    /// returned too: its first item is the original item.
    pub fn output(&self) -> &'a str {
        &self.output.name
    }

    /// The batches to run, in order. Each is built when it is requested.
    pub fn batches(&self) -> impl Iterator<Item = Vec<Tensor>> + '_ {
        let items = self.items();
        let step = self.items_per_batch;
        let starts = (0..items.div_ceil(step)).map(move |batch| batch * step);
        starts.map(move |start| self.batch(start..items.min(start.saturating_add(step))))
    }

    fn batch(&self, items: Range<u64>) -> Vec<Tensor> {
        let count = usize::try_from(items.end - items.start).unwrap_or(0);
        let one = |(at, tensor): (usize, &Tensor)| {
            let mut data = Vec::with_capacity(tensor.data.len().saturating_mul(count));
            for item in items.clone() {
                let begins = data.len();
                data.extend_from_slice(&tensor.data);
                let group = item
                    .checked_sub(1)
                    .and_then(|group| self.groups.get(usize::try_from(group).ok()?));
                if let Some(group) = group.filter(|group| group.input == at)
                    && let Some(standin) = self.baselines.iter().find(|s| s.input == tensor.name)
                    && let Some(copy) = data.get_mut(begins..)
                {
                    group.place.hide(copy, &standin.bytes);
                }
            }
            let mut shape = tensor.shape.clone();
            if let Some(first) = shape.first_mut() {
                *first = count as u64;
            }
            Tensor {
                name: tensor.name.clone(),
                datatype: tensor.datatype,
                shape,
                data: data.into(),
            }
        };
        self.inputs.iter().enumerate().map(one).collect()
    }

    /// The explained class, from the outputs of the first batch. Rejects a requested class that does not exist.
    pub fn class(&self, first: &[Tensor]) -> Result<usize, Rejection> {
        let values = self.rows(first).and_then(|mut rows| rows.next());
        let values: Vec<f64> = values.into_iter().flatten().collect();
        match self.asked {
            Some(class) if class < values.len() => Ok(class),
            Some(class) => {
                let expected = format!("a class below {}", values.len());
                let message = format!(
                    "output {:?} has {} classes, numbered from 0; class {class} does not exist",
                    self.output.name,
                    values.len()
                );
                Err(refused(String::new(), "unknown_target", expected, message))
            }
            None => {
                let mut best: Option<(usize, f64)> = None;
                for (class, value) in values.into_iter().enumerate() {
                    if !value.is_nan() && best.is_none_or(|(_, most)| value > most) {
                        best = Some((class, value));
                    }
                }
                // Without numbers, nothing of the first class is explained.
                Ok(best.map_or(0, |(class, _)| class))
            }
        }
    }

    /// The values of each item's classes.
    fn rows<'t>(
        &self,
        outputs: &'t [Tensor],
    ) -> Option<impl Iterator<Item = impl Iterator<Item = f64> + 't> + 't> {
        let tensor = outputs.iter().find(|t| t.name == self.output.name)?;
        let datatype = self.output.datatype;
        let size = datatype.size_bytes()?;
        if tensor.datatype != datatype || !tensor.is_consistent() {
            return None;
        }
        let row_bytes = usize::try_from(item_elements(tensor))
            .ok()?
            .checked_mul(size)?;
        let rows = (row_bytes > 0).then(|| tensor.data.chunks_exact(row_bytes));
        Some(rows.into_iter().flatten().map(move |row| {
            let elements = row.chunks_exact(size);
            elements.map(move |bytes| as_f64(datatype, bytes).unwrap_or(f64::NAN))
        }))
    }

    /// The explanation from the outputs of all batches, in their order. `None` if they do not fit the batches.
    pub fn attribute(&self, class: usize, outputs: &[Vec<Tensor>]) -> Option<Explanation> {
        let mut values = Vec::with_capacity(self.groups.len() + 1);
        for outputs in outputs {
            for mut row in self.rows(outputs)? {
                values.push(row.nth(class)?);
            }
        }
        let (base, hidden) = values.split_first()?;
        if hidden.len() != self.groups.len() {
            return None;
        }
        let label = self.output.labels.as_ref();
        let attributed = |(group, value): (&Hidden, &f64)| {
            let input = self.inputs.get(group.input)?;
            let cell = match &group.place {
                Region::Range(_) => None,
                Region::Cell { rows, columns, .. } => Some((rows.clone(), columns.clone())),
            };
            Some(Attributed {
                name: group.name.clone(),
                input: input.name.clone(),
                cell,
                attribution: base - value,
            })
        };
        let groups: Option<Vec<_>> = self.groups.iter().zip(hidden).map(attributed).collect();
        let baselines = self.baselines.iter();
        Some(Explanation {
            output: self.output.name.clone(),
            class,
            label: label.and_then(|labels| labels.get(class).cloned()),
            base: *base,
            single: matches!(
                self.output.datatype,
                Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32
            ) || Fp8::of(self.output.datatype).is_some(),
            baselines: baselines
                .map(|s| (s.input.to_owned(), s.kind, s.value))
                .collect(),
            groups: groups?,
            items: self.items(),
        })
    }
}

/// The class that a caller requests.
fn class_of(output: &TensorSpec, target: &str) -> Result<usize, Rejection> {
    let unknown = |expected: String, known: String| {
        let message = format!(
            "output {:?} has no class {:?}; {known}",
            output.name,
            excerpt(target)
        );
        refused(String::new(), "unknown_target", expected, message)
    };
    if let Some(labels) = &output.labels {
        return labels.iter().position(|l| l == target).ok_or_else(|| {
            let mut known: Vec<&str> = labels.iter().map(String::as_str).collect();
            known.truncate(MAX_LABELS_LISTED);
            let more = if labels.len() > known.len() {
                ", …"
            } else {
                ""
            };
            let known = format!("its labels are: {}{more}", known.join(", "));
            unknown("one of the output's labels".to_owned(), known)
        });
    }
    let classes = match output.shape.last() {
        Some(Dim::Fixed(length)) if output.shape.len() > 1 => Some(*length),
        Some(_) if output.shape.len() > 1 => None,
        _ => Some(1),
    };
    let digits = !target.is_empty() && target.bytes().all(|b| b.is_ascii_digit());
    let class = digits.then(|| target.parse::<u64>().ok()).flatten();
    match class {
        Some(class) if classes.is_none_or(|classes| class < classes) => {
            Ok(usize::try_from(class).unwrap_or(usize::MAX))
        }
        _ => {
            let expected = match classes {
                Some(classes) => format!("a number below {classes}"),
                None => "the number of a class".to_owned(),
            };
            let known = format!("write {expected}");
            Err(unknown(expected, known))
        }
    }
}

/// The groups that are hidden in turn. Elements that an item lacks belong to no group. Groups without elements are left
/// out.
fn groups(contract: &Contract, explain: &Explain, inputs: &[Tensor]) -> Vec<Hidden> {
    let mut groups = Vec::new();
    let index = |name: &str| inputs.iter().position(|tensor| tensor.name == name);
    for group in &explain.groups {
        let Some(input) = index(&group.input) else {
            continue;
        };
        let end = group.end.min(item_elements(&inputs[input]));
        if group.start < end {
            groups.push(Hidden {
                name: group.name.clone(),
                input,
                place: Region::Range(group.start..end),
            });
        }
    }
    if let Some(grid) = &explain.grid
        && let Some(input) = index(&grid.input)
    {
        let shape = inputs[input].shape.get(1..).unwrap_or_default();
        let (height, width) = match (shape, grid.width) {
            ([.., last], Some(width)) if last.is_multiple_of(width) => (last / width.max(1), width),
            ([.., height, width], None) => (*height, *width),
            _ => (0, 0),
        };
        // More cells than elements would leave some empty.
        let (down, across) = (grid.rows.min(height), grid.columns.min(width));
        // Neither product overflows: both are at most the elements of an existing tensor, times 256.
        let part = |at: u64, of: u64, length: u64| at * length / of..(at + 1) * length / of;
        for row in 0..down {
            for column in 0..across {
                groups.push(Hidden {
                    name: format!("r{row}c{column}"),
                    input,
                    place: Region::Cell {
                        rows: part(row, down, height),
                        columns: part(column, across, width),
                        height,
                        width,
                    },
                });
            }
        }
    }
    if explain.groups.is_empty() && explain.grid.is_none() {
        for (input, tensor) in inputs.iter().enumerate() {
            let Some(spec) = contract.input(&tensor.name) else {
                continue;
            };
            if matches!(spec.datatype, Datatype::Bool | Datatype::Bytes) {
                continue;
            }
            for element in 0..item_elements(tensor).min(crate::contract::MAX_GROUPS) {
                groups.push(Hidden {
                    name: format!("{}[{element}]", excerpt(&tensor.name)),
                    input,
                    place: Region::Range(element..element + 1),
                });
            }
        }
    }
    groups
}

impl Region {
    /// Replaces the hidden elements of an item by a baseline.
    fn hide(&self, item: &mut [u8], baseline: &[u8]) {
        let size = baseline.len();
        let elements = (item.len() / size.max(1)) as u64;
        let mut fill = |range: Range<u64>| {
            let at = |element: u64| {
                usize::try_from(element)
                    .unwrap_or(usize::MAX)
                    .saturating_mul(size)
            };
            let Some(hidden) = item.get_mut(at(range.start)..at(range.end)) else {
                return;
            };
            for element in hidden.chunks_exact_mut(size) {
                element.copy_from_slice(baseline);
            }
        };
        match self {
            Region::Range(range) => fill(range.clone()),
            Region::Cell {
                rows,
                columns,
                height,
                width,
            } => {
                let plane = height.saturating_mul(*width).max(1);
                let planes = elements / plane;
                for plane_start in (0..planes).map(|index| index * plane) {
                    for row in rows.clone() {
                        let start = plane_start + row * width;
                        fill(start + columns.start..start + columns.end);
                    }
                }
            }
        }
    }
}

/// The baseline of an input in its datatype.
fn standin(tensor: &Tensor, baseline: Baseline) -> Result<Standin<'_>, Rejection> {
    let size = tensor.datatype.size_bytes().unwrap_or(1);
    let (kind, value) = match baseline {
        Baseline::Constant(Bound::Integer(value)) => ("constant", Bound::Integer(value)),
        Baseline::Constant(Bound::Real(value)) => ("constant", Bound::Real(value)),
        Baseline::Mean => {
            let elements = tensor.data.chunks_exact(size);
            let count = elements.len().max(1) as f64;
            let sum: f64 = elements
                .map(|bytes| as_f64(tensor.datatype, bytes).unwrap_or(0.0))
                .sum();
            ("mean", Bound::Real(sum / count))
        }
    };
    let bytes = match (value, tensor.datatype.integer_range()) {
        (Bound::Integer(value), Some(_)) => Some(integer_bytes(value.into(), size)),
        (Bound::Real(value), Some((least, greatest))) => {
            let whole = (value.round() as i128).clamp(least, greatest);
            Some(integer_bytes(whole, size))
        }
        (Bound::Integer(value), None) => real_bytes(tensor.datatype, value as f64),
        (Bound::Real(value), None) => real_bytes(tensor.datatype, value),
    };
    let read = bytes.as_deref().and_then(|b| as_f64(tensor.datatype, b));
    match (bytes, read) {
        (Some(bytes), Some(value)) if value.is_finite() => Ok(Standin {
            input: &tensor.name,
            kind,
            value,
            bytes,
        }),
        _ => {
            let message = format!(
                "the mean of input {:?} is not a finite number; send finite values",
                tensor.name
            );
            let expected = "finite numbers".to_owned();
            Err(refused(
                pointer(&tensor.name),
                "not_finite",
                expected,
                message,
            ))
        }
    }
}

fn integer_bytes(value: i128, size: usize) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.truncate(size);
    bytes
}

fn real_bytes(datatype: Datatype, value: f64) -> Option<Vec<u8>> {
    Some(match datatype {
        Datatype::Fp16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Fp32 => (value as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => value.to_le_bytes().to_vec(),
        _ => vec![Fp8::of(datatype)?.saturated(value)],
    })
}

fn write_number(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_range(out: &mut Vec<u8>, range: &Range<u64>) {
    out.extend_from_slice(format!("[{},{}]", range.start, range.end).as_bytes());
}

impl Explanation {
    /// The sum of all attributions. It equals the difference to the baseline if the groups do not interact.
    pub fn sum(&self) -> f64 {
        self.groups.iter().map(|group| group.attribution).sum()
    }

    /// The name and the attribution of each group.
    pub fn attributions(&self) -> impl Iterator<Item = (&str, f64)> {
        self.groups.iter().map(|g| (g.name.as_str(), g.attribution))
    }

    /// Writes the explanation as a JSON object. Ranges end before their second number; numbers that are not finite become
    /// `null`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        write_name(out, "method");
        write_string(out, "occlusion");
        write_name(out, "output");
        write_string(out, &self.output);
        write_name(out, "target");
        match &self.label {
            Some(label) => write_string(out, label),
            None => out.extend_from_slice(self.class.to_string().as_bytes()),
        }
        write_name(out, "target_index");
        out.extend_from_slice(self.class.to_string().as_bytes());
        write_name(out, "base_score");
        match self.single && self.base.is_finite() {
            // Written with the precision of the model's own type.
            true => {
                let text = zmij::Buffer::new()
                    .format_finite(self.base as f32)
                    .to_owned();
                out.extend_from_slice(text.as_bytes());
            }
            false => write_number(out, self.base),
        }
        write_name(out, "baseline");
        out.push(b'{');
        for (input, kind, value) in &self.baselines {
            write_name(out, input);
            out.extend_from_slice(b"{\"kind\":");
            write_string(out, kind);
            out.extend_from_slice(b",\"value\":");
            write_number(out, *value);
            out.push(b'}');
        }
        out.push(b'}');
        write_name(out, "items");
        out.extend_from_slice(self.items.to_string().as_bytes());
        write_name(out, "attributions");
        out.push(b'[');
        for (at, group) in self.groups.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'{');
            write_name(out, "name");
            write_string(out, &group.name);
            write_name(out, "input");
            write_string(out, &group.input);
            if let Some((rows, columns)) = &group.cell {
                write_name(out, "rows");
                write_range(out, rows);
                write_name(out, "columns");
                write_range(out, columns);
            }
            write_name(out, "attribution");
            write_number(out, group.attribution);
            out.push(b'}');
        }
        out.push(b']');
        write_name(out, "sum");
        write_number(out, self.sum());
        out.push(b'}');
    }
}
