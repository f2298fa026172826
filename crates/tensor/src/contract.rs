//! Decides what a model's contract may say: `models/<name>/model.toml`, parsed strictly, with every
//! fault found in one reading and each with its line, its column and its remedy.
//!
//! Unknown members are faults, because a misspelt limit that is silently ignored is worse than a
//! model that does not load.

use crate::datatype::Datatype;
use crate::fp8::Fp8;
use crate::number::narrowed;
use crate::rejection::excerpt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod engine;
mod explain;
mod moderation;
mod pipeline;
mod samples;

pub use engine::{Backend, Batching, Engine, FirstRun, Isolation, Padding, Precision, Provider};
pub use explain::{Baseline, Explain, Grid, Group, MAX_GROUPS};
pub use moderation::{Category, Moderation};
pub use pipeline::{MAX_STEPS, PipelineStep};
pub use samples::{MAX_SAMPLES, Sample, read_sample};

/// Default of `limits.max_body_bytes`: a batch of images as numbers fits, a disk image does not.
pub const DEFAULT_MAX_BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Default of `limits.max_items`: larger batches gain no throughput and hold the lane for long.
pub const DEFAULT_MAX_ITEMS: u64 = 256;
/// Most axes of one tensor; ONNX operators in use stop at eight or so.
pub const MAX_RANK: usize = 16;
/// Most inputs, and most outputs. Models of tables have an input for each column, so 80 are usual. Names are looked up one
/// by one, and a call is bounded by the square of this: 256 names of a few bytes are compared in some ten microseconds.
pub const MAX_TENSORS: usize = 256;
/// Longest name of a tensor: it is repeated in messages, metrics and responses.
pub const MAX_TENSOR_NAME_BYTES: usize = 256;
/// Longest name of a symbolic axis, an adapter or a configuration file.
pub const MAX_NAME_BYTES: usize = 64;
/// Largest file that an adapter reads: the tokenizer.json of a model of a hundred languages has 17 MB.
pub const MAX_ADAPTER_FILE_BYTES: u64 = 20 << 20;
/// Faults reported of one file; somebody who mends these reads it anew anyway.
pub const MAX_FAULTS: usize = 100;

/// What a model takes and gives, and how much of it.
///
/// ```
/// use penstock_tensor::Contract;
///
/// let text = r#"
/// description = "Hands its input back"
/// [[inputs]]
/// name = "a"
/// datatype = "FP32"
/// shape = ["N", 4]
/// [[outputs]]
/// name = "b"
/// datatype = "FP32"
/// shape = ["N", 4]
/// "#;
/// let contract = Contract::parse(text).unwrap();
/// assert_eq!(contract.inputs[0].name, "a");
///
/// // Everything that is wrong is reported at once, with its line.
/// let faults = Contract::parse(&text.replace("FP32", "FP33")).unwrap_err();
/// assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [5, 9]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contract {
    /// What the model does, for people.
    pub description: String,
    /// The format of the model's file.
    pub format: Format,
    /// What it takes, in the file's order; none for a model without inputs, which says `inputs = []`.
    pub inputs: Vec<TensorSpec>,
    /// What it gives, in the file's order; at least one.
    pub outputs: Vec<TensorSpec>,
    /// Bounds of symbolic axes, by axis name.
    pub axes: BTreeMap<String, AxisBounds>,
    /// The component that turns raw content into inputs, and outputs into an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Other models that its adapter runs, by the name of the step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pipeline: BTreeMap<String, PipelineStep>,
    /// What its classes mean for `/v1/moderations`; without it the model moderates nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moderation: Option<Moderation>,
    /// How its answers are explained; without it they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
    /// How much one request may bring.
    pub limits: Limits,
    /// What the native host does with the model.
    pub engine: Engine,
    /// How the native host joins the calls of several callers.
    pub batching: Batching,
    /// Inputs that are known to be valid. A server runs them before the model serves.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// The format of a model's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An ONNX graph, `model.onnx`.
    #[default]
    Onnx,
    /// OpenVINO's intermediate representation, `model.xml` and `model.bin`.
    Openvino,
}

impl Format {
    /// The name used in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Onnx => "onnx",
            Format::Openvino => "openvino",
        }
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements.
    pub datatype: Datatype,
    /// Its axes, outermost first; empty for a scalar.
    pub shape: Vec<Dim>,
    /// Least value of an element, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Bound>,
    /// Greatest value of an element, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Bound>,
    /// Inputs only: whether NaN and infinity may be sent. `minimum` and `maximum` then bound the finite elements.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_non_finite: bool,
    /// What it means, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Inputs: a call may leave it out, because the graph has a value for it. Outputs: an answer may be without it, because
    /// the graph declares it as an optional.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether one of its axes may be empty, as shape and `[axes]` say.
    #[serde(skip)]
    pub may_be_empty: bool,
    /// Outputs only: the name of each class along the last axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// The length of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this many elements; 0 for an axis that is always empty.
    Fixed(u64),
    /// As many as a request brings; the same name means the same number within a request.
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

/// How long a symbolic axis may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AxisBounds {
    /// Least length, 1 where the contract does not say; 0 for an axis that may be empty.
    pub min: u64,
    /// Greatest length; none when only the body's size bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// What the axis is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Which adapter serves the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdapterSpec {
    /// The adapter component's name.
    pub name: String,
    /// A file beside `model.toml` that is handed to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// A `tokenizer.json` beside `model.toml`, handed to it as the member `tokenizer` of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// A `config.json` as transformers writes it, handed to it as the member `model_config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_config: Option<String>,
    /// What becomes of token ids in `/v1/embeddings`.
    pub tokens: Tokens,
    /// What becomes of a text with more tokens than the model can read.
    pub too_long: TooLong,
}

impl AdapterSpec {
    /// The files beside `model.toml` that the adapter reads.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = [&self.config, &self.tokenizer, &self.model_config];
        files.into_iter().flatten().map(String::as_str)
    }
}

/// What becomes of token ids where a client sends them in place of a text. OpenAI's clients take a text apart by one of
/// OpenAI's vocabularies, also for models they do not know; ids of another vocabulary give a wrong vector and no error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// They are refused.
    #[default]
    Refuse,
    /// They are ids of the model's own vocabulary.
    Accept,
}

/// What becomes of a text with more tokens than the model can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is refused: the answer for its beginning would pass for one for the whole.
    #[default]
    Refuse,
    /// It is cut at its end.
    Truncate,
}

/// How much one request may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Largest body.
    pub max_body_bytes: u64,
    /// Longest batch axis.
    pub max_items: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            max_items: DEFAULT_MAX_ITEMS,
        }
    }
}

/// One thing wrong with a `model.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractFault {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for ContractFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}. {}",
            self.line, self.column, self.message, self.remedy
        )
    }
}

impl std::error::Error for ContractFault {}

impl TensorSpec {
    /// The shape as people write it, e.g. `[N, 2048]`.
    pub fn shape_text(&self) -> String {
        let axes: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        format!("[{}]", axes.join(", "))
    }

    /// Whether the elements' values are bounded.
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

/// A shape as the Open Inference Protocol carries it: a scalar is an axis of one element, because a model's configuration has no
/// tensor without axes (Triton's `reshape`).
pub fn wire_shape(shape: &[u64]) -> &[u64] {
    match shape {
        [] => &[1],
        shape => shape,
    }
}

/// The shape as the Open Inference Protocol's metadata gives it: `-1` for an axis of variable length, `[1]` for a scalar as in
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

impl Contract {
    /// Parses and checks a `model.toml`. Errors with everything wrong in it, in the order of the
    /// file, at most [`MAX_FAULTS`].
    pub fn parse(text: &str) -> Result<Contract, Vec<ContractFault>> {
        let mut reader = Reader {
            text,
            faults: Vec::new(),
        };
        let (document, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let message = format!("not TOML: {}", error.message());
            reader.fault(
                error.span().unwrap_or(0..0),
                message,
                "Correct it to valid TOML 1.0 (toml.io).",
            );
        }
        let contract = if syntax.is_empty() {
            reader.contract(&document)
        } else {
            None
        };
        match contract {
            Some(contract) if reader.faults.is_empty() => Ok(contract),
            _ => Err(reader.finish()),
        }
    }

    /// The symbolic axis that counts a request's items: the first axis of every input and every
    /// output, and an axis of nothing else. None when there is no such axis; then a request is one
    /// item, and items of several requests cannot be joined. An axis that may be empty counts no items, and a model without
    /// inputs has none.
    pub fn batch_axis(&self) -> Option<&str> {
        if self.inputs.is_empty() {
            return None;
        }
        let mut shapes = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .map(|spec| spec.shape.as_slice());
        let Some([Dim::Symbol(axis), ..]) = shapes.next() else {
            return None;
        };
        let leads = |shape: &[Dim]| {
            let mut dims = shape
                .iter()
                .map(|dim| matches!(dim, Dim::Symbol(name) if name == axis));
            dims.next() == Some(true) && !dims.any(|is_axis| is_axis)
        };
        let everywhere = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .all(|spec| leads(&spec.shape));
        let empty = self.axes.get(axis).is_some_and(|bounds| bounds.min == 0);
        (everywhere && !empty).then_some(axis.as_str())
    }

    /// Whether a request may bring tensors without elements.
    pub fn may_be_empty(&self) -> bool {
        self.inputs.iter().any(|spec| spec.may_be_empty)
    }

    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| spec.name == name)
    }

    /// The output of this name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|spec| spec.name == name)
    }

    /// The output whose classes have names; a contract has at most one.
    pub fn labelled_output(&self) -> Option<(&TensorSpec, &[String])> {
        self.outputs
            .iter()
            .find_map(|spec| Some((spec, spec.labels.as_deref()?)))
    }
}

/// Names `:predict` gives to what it derives from labels, so an output cannot have them too.
pub const DERIVED_MEMBERS: [&str; 3] = ["label", "confidence", "top"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
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

/// A table's members by name, the ones that were asked for struck off.
struct Members<'t, 'i> {
    /// Where the table is, for a member that is missing.
    span: Range<usize>,
    /// How to call it in a message.
    what: &'static str,
    entries: Vec<(&'t str, Range<usize>, &'t Spanned<DeValue<'i>>)>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Members<'t, 'i> {
    fn new(table: &'t DeTable<'i>, span: Range<usize>, what: &'static str) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
            .collect();
        Self {
            span,
            what,
            entries,
            known: Vec::new(),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(name);
        let index = self.entries.iter().position(|(key, ..)| *key == name)?;
        Some(self.entries.remove(index).2)
    }
}

/// Where the parts of a tensor's entry stand, for checks that span several of them.
struct Placed {
    spec: TensorSpec,
    name_span: Range<usize>,
    dim_spans: Vec<Range<usize>>,
    labels_span: Range<usize>,
    /// False where a part was faulty and replaced, so that checks on the whole are left out.
    whole: bool,
}

struct Reader<'i> {
    text: &'i str,
    faults: Vec<(usize, ContractFault)>,
}

impl<'i> Reader<'i> {
    fn fault(&mut self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let start = self
            .text
            .floor_char_boundary(span.start.min(self.text.len()));
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let fault = ContractFault {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message: message.into(),
            remedy: remedy.into(),
        };
        self.faults.push((start, fault));
    }

    fn finish(mut self) -> Vec<ContractFault> {
        self.faults.sort_by_key(|(start, _)| *start);
        self.faults.into_iter().map(|(_, fault)| fault).collect()
    }

    fn unknown_members(&mut self, members: Members<'_, '_>) {
        for (name, span, _) in members.entries {
            let message = format!("{} has no member {:?}", members.what, excerpt(name));
            let remedy = format!("Remove it, or use one of: {}.", members.known.join(", "));
            self.fault(span, message, remedy);
        }
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, name: &str, wanted: &str) {
        let found = type_name(value.get_ref());
        self.fault(
            value.span(),
            format!("{name} is {found}"),
            format!("Write {wanted}."),
        );
    }

    fn table<'t, 'v>(
        &mut self,
        value: &'t Spanned<DeValue<'v>>,
        name: &'static str,
    ) -> Option<Members<'t, 'v>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Members::new(table, value.span(), name)),
            _ => {
                self.wrong_type(value, name, "a table");
                None
            }
        }
    }

    fn string(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            _ => {
                self.wrong_type(value, name, "a string");
                None
            }
        }
    }

    fn missing(&mut self, members: &Members<'_, '_>, name: &str, remedy: &str) {
        self.fault(
            members.span.clone(),
            format!("{} has no {name}", members.what),
            remedy,
        );
    }

    /// An integer within `least..=greatest`.
    fn integer(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        (least, greatest): (i64, i64),
    ) -> Option<i64> {
        let wanted = if greatest == i64::MAX {
            format!("an integer of at least {least}")
        } else {
            format!("an integer from {least} to {greatest}")
        };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, name, &wanted);
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (least..=greatest).contains(&number) => Some(number),
            _ => {
                let found = excerpt(integer.as_str());
                self.fault(
                    value.span(),
                    format!("{name} is {found}"),
                    format!("Write {wanted}."),
                );
                None
            }
        }
    }

    fn count(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<u64> {
        self.integer(value, name, (1, i64::MAX))
            .and_then(|n| u64::try_from(n).ok())
    }

    fn word<T: Copy>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.string(value, name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("{name} is {:?}", excerpt(&text));
            self.fault(
                value.span(),
                message,
                format!("Write one of: {}.", known.join(", ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A name that is also a file name or an identifier: no separators, nothing hidden.
    fn plain_name(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        extra: &[u8],
    ) -> Option<String> {
        let text = self.string(value, name)?;
        let bytes = text.as_bytes();
        let plain = bytes.len() <= MAX_NAME_BYTES
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || extra.contains(b))
            && !text.contains("..");
        if !plain {
            let extra: Vec<String> = extra.iter().map(|b| char::from(*b).to_string()).collect();
            let remedy = format!(
                "Write 1 to {MAX_NAME_BYTES} letters, digits or any of {}, beginning with a letter \
                 or a digit, without \"..\".",
                extra.join(" ")
            );
            self.fault(
                value.span(),
                format!("{name} is {:?}", excerpt(&text)),
                remedy,
            );
            return None;
        }
        Some(text)
    }

    fn contract(&mut self, document: &Spanned<DeTable<'_>>) -> Option<Contract> {
        let mut members = Members::new(document.get_ref(), 0..0, "model.toml");
        let description = match members.take("description") {
            Some(value) => self.string(value, "description").unwrap_or_default(),
            None => {
                self.missing(
                    &members,
                    "description",
                    "Say in one sentence what the model does.",
                );
                String::new()
            }
        };
        let format = members
            .take("format")
            .and_then(|value| {
                let formats = [Format::Onnx, Format::Openvino].map(|f| (f.as_str(), f));
                self.word(value, "format", &formats)
            })
            .unwrap_or_default();
        let inputs = self.tensors(&mut members, Role::Input);
        let outputs = self.tensors(&mut members, Role::Output);
        let axes_value = members.take("axes");
        let adapter = members
            .take("adapter")
            .and_then(|value| self.adapter(value));
        let pipeline_value = members.take("pipeline");
        let pipeline = pipeline_value
            .map(|value| self.pipeline(value))
            .unwrap_or_default();
        if adapter.is_none()
            && let Some(value) = pipeline_value
        {
            let message = "there is a [pipeline] but no [adapter] to run its steps";
            self.fault(
                value.span(),
                message,
                "Name the adapter, or remove the pipeline.",
            );
        }
        let moderation = members
            .take("moderation")
            .and_then(|value| self.moderation(value));
        let explain_value = members.take("explain");
        let limits = members
            .take("limits")
            .map(|value| self.limits(value))
            .unwrap_or_default();
        let engine = members
            .take("engine")
            .map(|value| self.engine(value))
            .unwrap_or_default();
        let batching_value = members.take("batching");
        let samples_value = members.take("samples");
        let batching = batching_value
            .map(|value| self.batching(value))
            .unwrap_or_default();
        let axes = axes_value
            .map(|value| self.axes(value, &inputs, &outputs))
            .unwrap_or_default();
        self.unknown_members(members);
        self.labels(&outputs);
        let whole = inputs.iter().chain(&outputs).all(|placed| placed.whole);
        let empty = |dim: &Dim| match dim {
            Dim::Fixed(length) => *length == 0,
            Dim::Symbol(name) => axes.get(name).is_some_and(|bounds| bounds.min == 0),
        };
        let spec = |placed: &Placed| TensorSpec {
            may_be_empty: placed.spec.shape.iter().any(empty),
            ..placed.spec.clone()
        };
        let mut contract = Contract {
            description,
            format,
            inputs: inputs.iter().map(spec).collect(),
            outputs: outputs.iter().map(spec).collect(),
            axes,
            adapter,
            pipeline,
            moderation,
            explain: None,
            limits,
            engine,
            batching,
            samples: Vec::new(),
        };
        if whole {
            self.labelled_axes(&contract, &outputs);
            if let Some(value) = batching_value {
                self.batchable(&contract, value);
            }
            contract.explain = explain_value.and_then(|value| self.explain(&contract, value));
            if let Some(value) = samples_value {
                contract.samples = self.samples(&contract, value);
            }
        }
        Some(contract)
    }

    fn tensors(&mut self, members: &mut Members<'_, '_>, role: Role) -> Vec<Placed> {
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
            Some(value) => {
                name_span = value.span();
                name = self.string(value, "name").unwrap_or_default();
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
            }
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
        let optional = members.take("optional").and_then(|v| match v.get_ref() {
            DeValue::Boolean(optional) => Some(*optional),
            _ => {
                self.wrong_type(v, "optional", "true or false");
                None
            }
        });
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
        let fixed = spec.shape.iter().try_fold(1u64, |product, dim| match dim {
            Dim::Fixed(length) => product.checked_mul(*length),
            Dim::Symbol(_) => Some(product),
        });
        let bytes = fixed.and_then(|n| n.checked_mul(datatype.size_bytes().unwrap_or(1) as u64));
        if bytes.is_none_or(|bytes| i64::try_from(bytes).is_err()) {
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
            // TOML's integers end at 64 signed bits, so a bound of a UINT64 does too.
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

    fn strings(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<Vec<String>> {
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(value, name, "an array of strings");
            return None;
        };
        let mut strings = Vec::new();
        for entry in entries.iter() {
            strings.push(self.string(entry, "a label").unwrap_or_default());
        }
        Some(strings)
    }

    fn axes(
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

    fn adapter(&mut self, value: &Spanned<DeValue<'_>>) -> Option<AdapterSpec> {
        let mut members = self.table(value, "adapter")?;
        let name = match members.take("name") {
            Some(value) => self.plain_name(value, "the adapter's name", b"-_"),
            None => {
                self.missing(&members, "name", "Write the adapter component's name.");
                None
            }
        };
        let config = members
            .take("config")
            .and_then(|value| self.plain_name(value, "the adapter's config file", b"-_."));
        let mut file = |name: &'static str| {
            let value = members.take(name)?;
            self.plain_name(value, "the adapter's file", b"-_.")
        };
        let (tokenizer, model_config) = (file("tokenizer"), file("model_config"));
        let tokens = members.take("tokens").and_then(|value| {
            let words = [("refuse", Tokens::Refuse), ("accept", Tokens::Accept)];
            self.word(value, "tokens", &words)
        });
        let too_long = members.take("too_long").and_then(|value| {
            let words = [("refuse", TooLong::Refuse), ("truncate", TooLong::Truncate)];
            self.word(value, "too_long", &words)
        });
        self.unknown_members(members);
        Some(AdapterSpec {
            name: name?,
            config,
            tokenizer,
            model_config,
            tokens: tokens.unwrap_or_default(),
            too_long: too_long.unwrap_or_default(),
        })
    }

    fn limits(&mut self, value: &Spanned<DeValue<'_>>) -> Limits {
        let mut limits = Limits::default();
        let Some(mut members) = self.table(value, "limits") else {
            return limits;
        };
        if let Some(value) = members.take("max_body_bytes") {
            limits.max_body_bytes = self
                .count(value, "max_body_bytes")
                .unwrap_or(limits.max_body_bytes);
        }
        if let Some(value) = members.take("max_items") {
            limits.max_items = self.count(value, "max_items").unwrap_or(limits.max_items);
        }
        self.unknown_members(members);
        limits
    }

    /// What labels ask of outputs, apart from their axes.
    fn labels(&mut self, outputs: &[Placed]) {
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

    /// Labels count along the last axis, and each item must have one row of them.
    fn labelled_axes(&mut self, contract: &Contract, outputs: &[Placed]) {
        let batch_axis = contract.batch_axis();
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

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn as_f64(bound: Bound) -> f64 {
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
