//! The inputs and outputs of a contract: names, datatypes, shapes, ranges, axes and labels.

use super::reader::{MAX_NAME_BYTES, Members, Reader};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::fp8::Fp8;
use crate::number::narrowed;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

/// Most axes of one tensor. ONNX operators in use have about eight at most.
pub const MAX_RANK: usize = 16;
/// Most inputs, and most outputs. Models of tables have an input for each column; 80 are usual. Names are compared one by
/// one, so the cost of a call is bounded by the square of this, some ten microseconds.
pub const MAX_TENSORS: usize = 256;
/// Longest name of a tensor, in bytes. Messages, metrics and answers repeat it.
pub const MAX_TENSOR_NAME_BYTES: usize = 256;

/// Members that `:predict` derives from labels. An output cannot have these names.
pub const DERIVED_MEMBERS: [&str; 3] = ["label", "confidence", "top"];

/// One input or output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(JsonSchema),
    schemars(rename = "TensorContract")
)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements.
    pub datatype: Datatype,
    /// Its axes, outermost first; empty for a scalar. A name stands for any length within its bounds in `axes`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "lengths"))]
    pub shape: Vec<Dim>,
    /// Least value of an element, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub minimum: Option<Bound>,
    /// Greatest value of an element, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub maximum: Option<Bound>,
    /// Inputs only: whether NaN and infinity may be sent. `minimum` and `maximum` then bound the finite elements.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_non_finite: bool,
    /// A description, for readers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Inputs: a call may omit it, because the graph has a default. Outputs: an answer may lack it, because the graph
    /// declares it as optional.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether one of its axes may be empty, by its shape and `[axes]`.
    #[serde(skip)]
    pub may_be_empty: bool,
    /// Outputs only: the name of each class along the last axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// Returns the schema of a shape: numbers, and names of axes.
#[cfg(feature = "schema")]
fn lengths(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "items": { "type": ["integer", "string"] } })
}

/// The length of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this many elements; 0 for an axis that is always empty.
    Fixed(u64),
    /// As many as a request has. The same name means the same length within a request.
    Symbol(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(length) => length.fmt(f),
            Dim::Symbol(name) => f.write_str(name),
        }
    }
}

/// One end of a range of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Bound {
    /// For an integer datatype.
    Integer(i64),
    /// For a floating-point datatype; finite.
    Real(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Integer(bound) => bound.fmt(f),
            Bound::Real(bound) => bound.fmt(f),
        }
    }
}

/// The bounds of a symbolic axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AxisBounds {
    /// Least length, 1 by default; 0 for an axis that may be empty.
    pub min: u64,
    /// Greatest length; `None` if only the size of the body bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// A description of the axis, for readers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl TensorSpec {
    /// The shape as text, e.g. `[N, 2048]`.
    pub fn shape_text(&self) -> String {
        let axes: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        format!("[{}]", axes.join(", "))
    }

    /// Returns whether the elements' values are bounded.
    pub fn has_range(&self) -> bool {
        self.minimum.is_some() || self.maximum.is_some()
    }

    /// The product of the fixed axes: the elements of the smallest tensor that fits.
    pub(crate) fn least_elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dim| match dim {
            Dim::Fixed(length) => product.saturating_mul(*length),
            Dim::Symbol(_) => product,
        })
    }
}

/// A shape in the Open Inference Protocol. A scalar is an axis of one element there, because a model's configuration has no
/// tensors without axes (Triton's `reshape`).
pub fn wire_shape(shape: &[u64]) -> &[u64] {
    match shape {
        [] => &[1],
        shape => shape,
    }
}

/// A shape in the metadata of the Open Inference Protocol: `-1` for an axis of variable length, `[1]` for a scalar as in
/// [`wire_shape`].
pub fn dims_oip(spec: &TensorSpec) -> Vec<i64> {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
        Dim::Symbol(_) => -1,
    };
    match spec.shape.as_slice() {
        [] => vec![1],
        shape => shape.iter().map(length).collect(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Input,
    Output,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Input => "input",
            Role::Output => "output",
        }
    }
}

/// A tensor's entry with the places of its parts, for checks that span several parts.
pub(super) struct Placed {
    pub(super) spec: TensorSpec,
    pub(super) name_span: Range<usize>,
    pub(super) dim_spans: Vec<Range<usize>>,
    pub(super) labels_span: Range<usize>,
    /// False if a part had a fault and was replaced; then checks of the whole are skipped.
    pub(super) whole: bool,
}

impl Reader<'_> {
    pub(super) fn tensors(&mut self, members: &mut Members<'_, '_>, role: Role) -> Vec<Placed> {
        let (key, header) = match role {
            Role::Input => ("inputs", "[[inputs]]"),
            Role::Output => ("outputs", "[[outputs]]"),
        };
        let entries = match members.take(key) {
            Some(value) => match value.get_ref() {
                DeValue::Array(entries) => entries,
                _ => {
                    self.wrong_type(value, key, &format!("one {header} table per entry"));
                    return Vec::new();
                }
            },
            None => {
                let none = match role {
                    Role::Input => "; write inputs = [] for a model without inputs",
                    Role::Output => "",
                };
                let remedy = format!("Describe each {} in a {header} table{none}.", role.word());
                self.missing(members, key, &remedy);
                return Vec::new();
            }
        };
        if entries.is_empty() && role == Role::Output {
            let remedy = format!("Describe each {} in a {header} table.", role.word());
            self.missing(members, key, &remedy);
        }
        let mut tensors: Vec<Placed> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if index >= MAX_TENSORS {
                let message = format!("more than {MAX_TENSORS} {key}");
                self.fault(entry.span(), message, "Split the model, or join tensors.");
                break;
            }
            let Some(placed) = self.tensor(entry, role) else {
                continue;
            };
            if tensors
                .iter()
                .any(|other| other.spec.name == placed.spec.name)
            {
                let message = format!("{} {:?} is described twice", role.word(), placed.spec.name);
                self.fault(placed.name_span.clone(), message, "Keep one of the two.");
            }
            tensors.push(placed);
        }
        tensors
    }

    fn tensor(&mut self, entry: &Spanned<DeValue<'_>>, role: Role) -> Option<Placed> {
        let what = match role {
            Role::Input => "an input",
            Role::Output => "an output",
        };
        let faults_before = self.faults.len();
        let mut members = self.table(entry, what)?;
        let (mut name, mut name_span) = (String::new(), entry.span());
        match members.take("name") {
            Some(value) => (name, name_span) = (self.tensor_name(value), value.span()),
            None => self.missing(&members, "name", "Write the tensor's name in the graph."),
        }
        let mut datatype = Datatype::Fp32;
        match members.take("datatype") {
            Some(value) => {
                let words: Vec<_> = Datatype::ALL.iter().map(|d| (d.as_str(), *d)).collect();
                datatype = self.word(value, "datatype", &words).unwrap_or(datatype);
            }
            None => self.missing(&members, "datatype", "Write e.g. datatype = \"FP32\"."),
        }
        let (mut shape, mut dim_spans) = (Vec::new(), Vec::new());
        match members.take("shape") {
            Some(value) => (shape, dim_spans) = self.shape(value),
            None => self.missing(
                &members,
                "shape",
                "Write e.g. shape = [\"N\", 4]; [] is a scalar.",
            ),
        }
        let datatype_known = self.faults.len() == faults_before;
        let minimum = members
            .take("minimum")
            .map(|v| (v, self.bound(v, "minimum", datatype, datatype_known)));
        let maximum = members
            .take("maximum")
            .map(|v| (v, self.bound(v, "maximum", datatype, datatype_known)));
        if let (Some((value, Some(least))), Some((_, Some(greatest)))) = (&minimum, &maximum)
            && as_f64(*least) > as_f64(*greatest)
        {
            let message = format!("minimum {least} is greater than maximum {greatest}");
            self.fault(value.span(), message, "Swap them, or correct one.");
        }
        let mut allow_non_finite = false;
        if role == Role::Input
            && let Some(value) = members.take("allow_non_finite")
        {
            allow_non_finite = self.boolean(value, "allow_non_finite").unwrap_or_default();
            if allow_non_finite && datatype_known && !datatype.is_float() {
                self.fault(
                    value.span(),
                    format!("allow_non_finite is given for {datatype}"),
                    "Remove it: only floating-point numbers can be NaN or infinite.",
                );
            }
        }
        let description = members
            .take("description")
            .and_then(|v| self.string(v, "description"));
        let optional = members.take("optional").and_then(|v| self.optional(v));
        let (mut labels, mut labels_span) = (None, entry.span());
        if role == Role::Output
            && let Some(value) = members.take("labels")
        {
            labels_span = value.span();
            labels = self.strings(value, "labels");
        }
        self.unknown_members(members);
        let spec = TensorSpec {
            name,
            datatype,
            shape,
            minimum: minimum.and_then(|(_, bound)| bound),
            maximum: maximum.and_then(|(_, bound)| bound),
            allow_non_finite,
            description,
            optional: optional.unwrap_or_default(),
            may_be_empty: false,
            labels,
        };
        let whole = self.faults.len() == faults_before;
        if !fits_in_63_bits(&spec) {
            let span = dim_spans.first().cloned().unwrap_or_else(|| entry.span());
            let message = format!(
                "a tensor of shape {} has more bytes than 2^63",
                spec.shape_text()
            );
            self.fault(span, message, "Write the shape that the graph declares.");
        }
        Some(Placed {
            spec,
            name_span,
            dim_spans,
            labels_span,
            whole,
        })
    }

    fn optional(&mut self, value: &Spanned<DeValue<'_>>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(optional) => Some(*optional),
            _ => {
                self.wrong_type(value, "optional", "true or false");
                None
            }
        }
    }

    fn tensor_name(&mut self, value: &Spanned<DeValue<'_>>) -> String {
        let name = self.string(value, "name").unwrap_or_default();
        let fits = (1..=MAX_TENSOR_NAME_BYTES).contains(&name.len());
        if matches!(value.get_ref(), DeValue::String(_))
            && (!fits || name.chars().any(char::is_control))
        {
            let message = format!("name is {:?}", excerpt(&name));
            let remedy = format!(
                "Write the tensor's name in the graph: 1 to {MAX_TENSOR_NAME_BYTES} bytes \
                 without control characters."
            );
            self.fault(value.span(), message, remedy);
        }
        name
    }

    fn shape(&mut self, value: &Spanned<DeValue<'_>>) -> (Vec<Dim>, Vec<Range<usize>>) {
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(
                value,
                "shape",
                "an array such as [\"N\", 4]; [] is a scalar",
            );
            return Default::default();
        };
        if entries.len() > MAX_RANK {
            let message = format!("shape has {} axes", entries.len());
            self.fault(value.span(), message, format!("Use at most {MAX_RANK}."));
            return Default::default();
        }
        let (mut dims, mut spans) = (Vec::new(), Vec::new());
        for entry in entries.iter() {
            let dim = match entry.get_ref() {
                DeValue::String(name) if is_axis_name(name) => {
                    Dim::Symbol(name.as_ref().to_owned())
                }
                DeValue::String(name) => {
                    let message = format!("an axis is named {:?}", excerpt(name));
                    let remedy = format!(
                        "Name it with 1 to {MAX_NAME_BYTES} letters, digits and '_', not beginning \
                         with a digit, or give its length as an integer."
                    );
                    self.fault(entry.span(), message, remedy);
                    continue;
                }
                DeValue::Integer(_) => {
                    match self.integer(entry, "the length of an axis", (0, i64::MAX)) {
                        Some(length) => Dim::Fixed(length.unsigned_abs()),
                        None => continue,
                    }
                }
                _ => {
                    let wanted = "its length as an integer, or its name as a string";
                    self.wrong_type(entry, "an axis", wanted);
                    continue;
                }
            };
            dims.push(dim);
            spans.push(entry.span());
        }
        (dims, spans)
    }

    fn bound(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        datatype: Datatype,
        datatype_known: bool,
    ) -> Option<Bound> {
        if !datatype_known {
            return None;
        }
        if let Some((least, greatest)) = datatype.integer_range() {
            // TOML's integers have 64 signed bits, so a bound of a UINT64 does too.
            let least = i64::try_from(least).unwrap_or(i64::MIN);
            let greatest = i64::try_from(greatest).unwrap_or(i64::MAX);
            let label = format!("{name} for {datatype}");
            return self
                .integer(value, &label, (least, greatest))
                .map(Bound::Integer);
        }
        if !datatype.is_float() {
            let message = format!("{name} is given for {datatype}");
            self.fault(
                value.span(),
                message,
                "Remove it: only numbers have a range.",
            );
            return None;
        }
        let number = match value.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
                .ok()
                .map(|n| n as f64),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type(value, name, "a number");
                return None;
            }
        };
        match number {
            Some(number) if round_to(datatype, number).is_finite() => Some(Bound::Real(number)),
            _ => {
                let message = format!("{name} is out of the range of {datatype}");
                self.fault(
                    value.span(),
                    message,
                    "Write a finite number the datatype can hold.",
                );
                None
            }
        }
    }

    pub(super) fn axes(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        inputs: &[Placed],
        outputs: &[Placed],
    ) -> BTreeMap<String, AxisBounds> {
        let mut axes = BTreeMap::new();
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, "axes", "a table of symbolic axes");
            return axes;
        };
        let used: Vec<&str> = inputs
            .iter()
            .chain(outputs)
            .flat_map(|placed| &placed.spec.shape)
            .filter_map(|dim| match dim {
                Dim::Symbol(name) => Some(name.as_str()),
                Dim::Fixed(_) => None,
            })
            .collect();
        for (key, entry) in table.iter() {
            let name = key.get_ref().as_ref();
            if !used.contains(&name) {
                let message = format!("no tensor has an axis {:?}", excerpt(name));
                self.fault(
                    key.span(),
                    message,
                    "Remove the entry, or name the axis in a shape.",
                );
            }
            let Some(mut members) = self.table(entry, "an axis") else {
                continue;
            };
            let min = members.take("min").map(|v| {
                let min = self.integer(v, "min", (0, i64::MAX));
                (v, min.map(i64::unsigned_abs))
            });
            let max = members.take("max").and_then(|v| self.count(v, "max"));
            let description = members
                .take("description")
                .and_then(|v| self.string(v, "description"));
            self.unknown_members(members);
            if let (Some((value, Some(min))), Some(max)) = (&min, max)
                && *min > max
            {
                let message = format!("min {min} is greater than max {max}");
                self.fault(value.span(), message, "Swap them, or correct one.");
            }
            let min = min.and_then(|(_, min)| min).unwrap_or(1);
            axes.insert(
                name.to_owned(),
                AxisBounds {
                    min,
                    max,
                    description,
                },
            );
        }
        axes
    }

    /// Checks the labels of outputs, apart from their axes.
    pub(super) fn labels(&mut self, outputs: &[Placed]) {
        let mut labelled = outputs.iter().filter(|placed| placed.spec.labels.is_some());
        if labelled.next().is_none() {
            return;
        }
        for placed in labelled {
            let message = format!(
                "output {:?} and another output both have labels",
                placed.spec.name
            );
            let remedy = "Keep the labels of one output: an answer has one label for each item.";
            self.fault(placed.labels_span.clone(), message, remedy);
        }
        for placed in outputs {
            if DERIVED_MEMBERS.contains(&placed.spec.name.as_str()) {
                let message = format!(
                    "an output is named {:?}, a member that predictions of a model with labels already have",
                    placed.spec.name
                );
                let remedy = "Rename the output in the graph, or remove the labels.";
                self.fault(placed.name_span.clone(), message, remedy);
            }
        }
    }

    /// Checks the axes of labelled outputs: labels count along the last axis, and each item has one row of them.
    pub(super) fn labelled_axes(&mut self, batch_axis: Option<&str>, outputs: &[Placed]) {
        for placed in outputs {
            let Some(labels) = &placed.spec.labels else {
                continue;
            };
            let span = placed.labels_span.clone();
            if labels.is_empty() {
                self.fault(
                    span,
                    "labels is empty",
                    "List the classes, or remove labels.",
                );
                continue;
            }
            if matches!(placed.spec.datatype, Datatype::Bytes | Datatype::Bool) {
                let message = format!("labels are given for {}", placed.spec.datatype);
                self.fault(
                    span,
                    message,
                    "Remove them: labels need numbers to compare.",
                );
                continue;
            }
            let shape = placed.spec.shape.as_slice();
            let (Some((last, outer)), Some(last_span)) =
                (shape.split_last(), placed.dim_spans.last())
            else {
                self.fault(span, "labels are given for a scalar", "Leave them out.");
                continue;
            };
            let is_batch =
                |dim: &Dim| matches!(dim, Dim::Symbol(n) if Some(n.as_str()) == batch_axis);
            if is_batch(last)
                || !outer
                    .iter()
                    .all(|dim| is_batch(dim) || *dim == Dim::Fixed(1))
            {
                let message = format!("labels are given for shape {}", placed.spec.shape_text());
                let remedy = "Remove them: labels need one row of classes for each item.";
                self.fault(span, message, remedy);
                continue;
            }
            if let Dim::Fixed(length) = last
                && labels.len() as u64 != *length
            {
                let message = format!("{} labels for an axis of length {length}", labels.len());
                let line = self.text.get(..last_span.start).unwrap_or_default();
                let line = line.bytes().filter(|b| *b == b'\n').count() + 1;
                let remedy = format!("Give one label for each class; the axis is on line {line}.");
                self.fault(span, message, remedy);
            }
        }
    }
}

fn is_axis_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && bytes
            .first()
            .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

pub(super) fn as_f64(bound: Bound) -> f64 {
    match bound {
        Bound::Integer(bound) => bound as f64,
        Bound::Real(bound) => bound,
    }
}

/// The value nearest to `number` in a floating-point datatype.
pub(crate) fn round_to(datatype: Datatype, number: f64) -> f64 {
    match datatype {
        Datatype::Fp16 => narrowed::<10, 5>(number),
        Datatype::Bf16 => narrowed::<7, 8>(number),
        Datatype::Fp32 => f64::from(number as f32),
        _ => Fp8::of(datatype).map_or(number, |format| format.nearest(number)),
    }
}

/// Returns whether a tensor with the fixed lengths of this shape has fewer than 2^63 bytes.
fn fits_in_63_bits(spec: &TensorSpec) -> bool {
    let fixed = spec.shape.iter().try_fold(1u64, |product, dim| match dim {
        Dim::Fixed(length) => product.checked_mul(*length),
        Dim::Symbol(_) => Some(product),
    });
    let size = spec.datatype.size_bytes().unwrap_or(1) as u64;
    let bytes = fixed.and_then(|n| n.checked_mul(size));
    bytes.is_some_and(|bytes| i64::try_from(bytes).is_ok())
}
