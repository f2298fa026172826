//! The contract of a model, `models/<name>/model.toml`. It is parsed strictly. All faults are found at once, each with its
//! line, its column and its remedy.
//!
//! Unknown members are faults: a misspelt limit that is silently ignored is worse than a model that does not load.

use serde::Serialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod adapter;
mod engine;
mod explain;
mod moderation;
mod pipeline;
mod reader;
mod samples;
mod tensors;

pub use adapter::{AdapterSpec, MAX_ADAPTER_FILE_BYTES, Tokens, TooLong};
pub use engine::{
    Backend, Batching, Engine, FirstRun, Isolation, MAX_OPERATOR_LIBRARIES, Padding, Precision,
    Provider,
};
pub use explain::{Baseline, Explain, Grid, Group, MAX_GROUPS};
pub use moderation::{Category, Moderation};
pub use pipeline::{MAX_STEPS, PipelineStep};
pub use reader::{ContractFault, MAX_FAULTS, MAX_NAME_BYTES};
pub use samples::{MAX_SAMPLES, Sample, read_sample};
pub(crate) use tensors::round_to;
pub use tensors::{
    AxisBounds, Bound, DERIVED_MEMBERS, Dim, MAX_RANK, MAX_TENSOR_NAME_BYTES, MAX_TENSORS,
    TensorSpec, dims_oip, wire_shape,
};

use reader::{Members, Reader};
use tensors::{Placed, Role};

/// Default of `limits.max_body_bytes`, 16 MiB. A batch of images as numbers fits into it.
pub const DEFAULT_MAX_BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Default of `limits.max_items`: items of a call. Larger batches gain no throughput and occupy the instance for a long time.
pub const DEFAULT_MAX_ITEMS: u64 = 256;

/// The contract of a model: its inputs, outputs and limits.
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
    /// A description of the model, for readers.
    pub description: String,
    /// The format of the model's file.
    pub format: Format,
    /// The inputs, in the file's order. A model without inputs has `inputs = []`.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, in the file's order; at least one.
    pub outputs: Vec<TensorSpec>,
    /// Bounds of symbolic axes, by axis name.
    pub axes: BTreeMap<String, AxisBounds>,
    /// The adapter that turns content into inputs, and outputs into an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Other models that the adapter runs, by the name of the step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pipeline: BTreeMap<String, PipelineStep>,
    /// The meaning of its classes for `/v1/moderations`; `None` if the model cannot moderate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moderation: Option<Moderation>,
    /// The settings for explanations; `None` if its answers cannot be explained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
    /// The limits of one request.
    pub limits: Limits,
    /// The settings for runs on the native host.
    pub engine: Engine,
    /// The settings for dynamic batching on the native host.
    pub batching: Batching,
    /// Example inputs that meet the contract. A server runs them before the model serves.
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

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Largest body in bytes.
    pub max_body_bytes: u64,
    /// The most items of a call: the greatest length of the batch axis.
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

impl Contract {
    /// Parses and checks a `model.toml`. Errors with all its faults in the order of the file, at most [`MAX_FAULTS`].
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

    /// The batch axis, which counts a request's items: the symbolic axis that is the first axis of every input and output,
    /// and no other axis of them. `None` if there is no such axis; then a request is one item, and requests cannot share a
    /// run. An axis that may be empty is no batch axis, and a model without inputs has none.
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

    /// Returns whether a request may contain tensors without elements.
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

impl Reader<'_> {
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
            self.labelled_axes(contract.batch_axis(), &outputs);
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
}
