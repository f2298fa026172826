//! The settings of the native engine in `model.toml`: the runtime, the concurrent runs, and the batching of calls. Other
//! hosts ignore them.

use super::Contract;
use super::reader::Reader;
use super::tensors::{Dim, MAX_TENSORS};
use serde::Serialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::DeValue;

/// Largest queue of a model. Each waiting call holds its tensors.
pub const MAX_QUEUE: u32 = 65_536;
/// Largest batch, in items.
pub const MAX_BATCH_ITEMS: u32 = 65_536;
/// Longest queue delay, in milliseconds.
pub const MAX_WAIT_MS: f64 = 10_000.0;
/// Most levels of priority. Each has its own queue.
pub const MAX_PRIORITY_LEVELS: u8 = 16;
/// Most preferred batch sizes. Forming a batch walks through all of them.
pub const MAX_PREFERRED: usize = 16;
/// Most tokens of a padded run.
pub const MAX_TOKENS: u64 = 1 << 30;

/// The settings for runs on the native host. Other hosts ignore them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// The library that runs the graph.
    pub backend: Backend,
    /// The execution provider of ONNX Runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The device of the provider or of OpenVINO: `0`, `GPU.1`, `NPU`; `None` for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The precision: `Fast` lets a runtime trade exactness for speed.
    #[serde(skip_serializing_if = "Precision::is_exact")]
    pub precision: Precision,
    /// Concurrent runs; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<u16>,
    /// Threads within one run; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intra_op_threads: Option<u16>,
    /// Calls that may wait in the queue; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
    /// Bytes that one run may allocate, without weights and inputs; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_memory_bytes: Option<u64>,
    /// Libraries of further operators for the graph, by their names in the server's settings (`[models.operators]`). A
    /// contract cannot name a file, because a library runs its code in the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<String>,
    /// Whether it is never evicted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// The trial run before the model serves.
    #[serde(skip_serializing_if = "FirstRun::is_required")]
    pub first_run: FirstRun,
    /// The isolation of its runtime; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Bytes of private memory that its process may map; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_memory_bytes: Option<u64>,
}

/// The trial run of a model before it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstRun {
    /// The model is run on the contract's samples, or on inputs that the server generates. If it fails on all of them, it
    /// does not serve.
    #[default]
    Required,
    /// The model is not run. The first call shows whether it works, and its calls do not share runs.
    Skip,
}

impl FirstRun {
    fn is_required(&self) -> bool {
        *self == FirstRun::Required
    }

    /// The name used in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            FirstRun::Required => "required",
            FirstRun::Skip => "skip",
        }
    }
}

/// The isolation of a model's runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The model runs in its own process: a crash affects only the model's calls.
    Process,
    /// The model runs on threads of the server.
    Thread,
}

impl Isolation {
    /// All values, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Process, Self::Thread];

    /// The name used in `model.toml` and `penstock.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::Process => "process",
            Isolation::Thread => "thread",
        }
    }
}

/// The least memory of a process, in bytes. The library of a runtime takes a large part of it.
const MIN_PROCESS_MEMORY_BYTES: i64 = 64 << 20;
/// Most libraries of operators for one model. A single one contains all of onnxruntime-extensions.
pub const MAX_OPERATOR_LIBRARIES: usize = 16;

/// The least memory of a run, in bytes. Runtimes take some of it for themselves.
const MIN_RUN_MEMORY_BYTES: i64 = 1 << 20;

/// The library that runs a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The best one the host has.
    #[default]
    Auto,
    /// ONNX Runtime, loaded as a shared library.
    Onnxruntime,
    /// OpenVINO, loaded as a shared library.
    Openvino,
    /// The library tract, which is pure Rust and built in.
    Tract,
}

impl Backend {
    /// All values, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Onnxruntime, Self::Openvino, Self::Tract];

    /// The name used in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Onnxruntime => "onnxruntime",
            Backend::Openvino => "openvino",
            Backend::Tract => "tract",
        }
    }
}

/// The precision in which a runtime computes, beside the one that the graph declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The precision of the graph.
    #[default]
    Exact,
    /// The runtime's own choice: 8-bit activations with 8-bit weights, BF16, TF32.
    Fast,
}

impl Precision {
    /// All values, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Fast];

    /// The name used in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Precision::Exact => "exact",
            Precision::Fast => "fast",
        }
    }

    /// Returns whether it is the default.
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// An execution provider of ONNX Runtime. A configured provider that is missing is an error; the CPU never replaces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor of the machine. This is the default.
    #[default]
    Cpu,
    /// NVIDIA's CUDA, on a GPU.
    Cuda,
    /// TensorRT, with CUDA for operators that it does not support.
    Tensorrt,
    /// OpenVINO, inside ONNX Runtime.
    Openvino,
}

impl Provider {
    /// All values, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cuda, Self::Tensorrt, Self::Openvino];

    /// The name used in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::Tensorrt => "tensorrt",
            Provider::Openvino => "openvino",
        }
    }
}

/// The settings for dynamic batching on the native host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batching {
    /// Whether calls are batched, if the model allows it.
    pub enabled: bool,
    /// Whether the contract asks for it; then a model that does not allow it is a fault.
    #[serde(skip)]
    pub is_required: bool,
    /// Whether calls and items may share a run although the answer to an item then depends on the others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_dependent_rows: bool,
    /// Most items of one batch; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u32>,
    /// Longest queue delay in milliseconds; `None` for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait_ms: Option<f64>,
    /// Batch sizes at which the model is fastest, ascending. A batch has one of them if possible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferred_items: Vec<u32>,
    /// The target latency of a call, queue time included. Above it, batches are made smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_target_ms: Option<f64>,
    /// Levels of priority; 1 is the first to run.
    pub priority_levels: u8,
    /// The level of a call without a priority; `None` for the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_priority: Option<u8>,
    /// The axis in which calls may differ, and its padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            enabled: true,
            is_required: false,
            allow_dependent_rows: false,
            max_items: None,
            max_wait_ms: None,
            preferred_items: Vec::new(),
            latency_target_ms: None,
            priority_levels: 1,
            default_priority: None,
            padding: None,
        }
    }
}

/// An axis along which the calls of a batch are padded to the longest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Padding {
    /// The name of the axis in the shapes of inputs.
    pub axis: String,
    /// The padding value of each input; 0 for others.
    pub values: BTreeMap<String, f64>,
    /// Most elements of that axis in one run, padding included: items times the longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
}

type Value<'v> = Spanned<DeValue<'v>>;

impl Reader<'_> {
    pub(super) fn engine(&mut self, value: &Value<'_>) -> Engine {
        let mut engine = Engine::default();
        let Some(mut members) = self.table(value, "engine") else {
            return engine;
        };
        if let Some(value) = members.take("backend") {
            let words = Backend::ALL.map(|b| (b.as_str(), b));
            engine.backend = self.word(value, "backend", &words).unwrap_or_default();
        }
        if let Some(value) = members.take("provider") {
            let words = Provider::ALL.map(|p| (p.as_str(), p));
            engine.provider = self.word(value, "provider", &words);
            if !matches!(engine.backend, Backend::Auto | Backend::Onnxruntime) {
                self.fault(
                    value.span(),
                    format!("provider is given for backend {:?}", engine.backend.as_str()),
                    "Only ONNX Runtime has providers: remove it, or write backend = \"onnxruntime\".",
                );
            }
        }
        if let Some(value) = members.take("precision") {
            let words = Precision::ALL.map(|p| (p.as_str(), p));
            engine.precision = self.word(value, "precision", &words).unwrap_or_default();
        }
        if let Some(value) = members.take("device") {
            engine.device = self.plain_name(value, "device", b"-_.:,");
        }
        let mut threads = |reader: &mut Self, name: &'static str| {
            let number = reader.integer(members.take(name)?, name, (1, i64::from(u16::MAX)))?;
            u16::try_from(number).ok()
        };
        engine.lanes = threads(self, "lanes");
        engine.intra_op_threads = threads(self, "intra_op_threads");
        engine.queue_max = members
            .take("queue_max")
            .and_then(|value| self.upto(value, "queue_max", MAX_QUEUE));
        engine.run_memory_bytes = members
            .take("run_memory_bytes")
            .and_then(|value| {
                self.integer(value, "run_memory_bytes", (MIN_RUN_MEMORY_BYTES, i64::MAX))
            })
            .and_then(|bytes| u64::try_from(bytes).ok());
        if let Some(value) = members.take("isolation") {
            let words = Isolation::ALL.map(|i| (i.as_str(), i));
            engine.isolation = self.word(value, "isolation", &words);
        }
        engine.process_memory_bytes = members
            .take("process_memory_bytes")
            .and_then(|value| {
                let limits = (MIN_PROCESS_MEMORY_BYTES, i64::MAX);
                self.integer(value, "process_memory_bytes", limits)
            })
            .and_then(|bytes| u64::try_from(bytes).ok());
        if let Some(value) = members.take("operators") {
            let names = self.strings(value, "operators").unwrap_or_default();
            if names.len() > MAX_OPERATOR_LIBRARIES {
                let message = format!("operators names {} libraries", names.len());
                let remedy = format!("Name at most {MAX_OPERATOR_LIBRARIES}.");
                self.fault(value.span(), message, remedy);
            } else if !matches!(engine.backend, Backend::Auto | Backend::Onnxruntime) {
                let message = format!(
                    "operators is given for backend {:?}",
                    engine.backend.as_str()
                );
                let remedy = "Only ONNX Runtime takes libraries of operators: write backend = \"onnxruntime\".";
                self.fault(value.span(), message, remedy);
            }
            engine.operators = names;
        }
        if let Some(value) = members.take("pinned") {
            engine.pinned = self.boolean(value, "pinned").unwrap_or_default();
        }
        if let Some(value) = members.take("first_run") {
            let words = [FirstRun::Required, FirstRun::Skip].map(|word| (word.as_str(), word));
            engine.first_run = self.word(value, "first_run", &words).unwrap_or_default();
        }
        self.unknown_members(members);
        engine
    }

    pub(super) fn batching(&mut self, value: &Value<'_>) -> Batching {
        let mut batching = Batching::default();
        let Some(mut members) = self.table(value, "batching") else {
            return batching;
        };
        if let Some(value) = members.take("enabled") {
            batching.enabled = self.boolean(value, "enabled").unwrap_or(true);
            batching.is_required = batching.enabled;
        }
        if let Some(value) = members.take("allow_dependent_rows") {
            batching.allow_dependent_rows = self
                .boolean(value, "allow_dependent_rows")
                .unwrap_or_default();
        }
        batching.max_items = members
            .take("max_items")
            .and_then(|value| self.upto(value, "max_items", MAX_BATCH_ITEMS));
        batching.max_wait_ms = members
            .take("max_wait_ms")
            .and_then(|value| self.number(value, "max_wait_ms", (0.0, MAX_WAIT_MS)));
        batching.latency_target_ms = members
            .take("latency_target_ms")
            .and_then(|value| self.number(value, "latency_target_ms", (0.001, 3_600_000.0)));
        if let Some(value) = members.take("preferred_items") {
            batching.preferred_items = self.preferred(value);
            let most = batching.max_items.unwrap_or(MAX_BATCH_ITEMS);
            if batching.preferred_items.iter().any(|size| *size > most) {
                self.fault(
                    value.span(),
                    format!("preferred_items has a size above max_items, {most}"),
                    "Raise max_items, or remove the size.",
                );
            }
        }
        if let Some(value) = members.take("priority_levels") {
            batching.priority_levels = self
                .upto(value, "priority_levels", u32::from(MAX_PRIORITY_LEVELS))
                .and_then(|levels| u8::try_from(levels).ok())
                .unwrap_or(1);
        }
        batching.default_priority = members.take("default_priority").and_then(|value| {
            let level = self.upto(
                value,
                "default_priority",
                u32::from(batching.priority_levels),
            )?;
            u8::try_from(level).ok()
        });
        batching.padding = members
            .take("padding")
            .and_then(|value| self.padding(value));
        self.unknown_members(members);
        batching
    }

    fn padding(&mut self, value: &Value<'_>) -> Option<Padding> {
        let mut members = self.table(value, "batching.padding")?;
        let axis = match members.take("axis") {
            Some(value) => self.string(value, "axis"),
            None => {
                self.missing(
                    &members,
                    "axis",
                    "Write the symbolic axis to pad, for example axis = \"S\".",
                );
                None
            }
        };
        let mut values = BTreeMap::new();
        if let Some(value) = members.take("values") {
            match value.get_ref() {
                DeValue::Table(table) if table.len() <= MAX_TENSORS => {
                    for (input, value) in table {
                        let limits = (f64::MIN, f64::MAX);
                        if let Some(number) = self.number(value, "a padding value", limits) {
                            values.insert(input.get_ref().as_ref().to_owned(), number);
                        }
                    }
                }
                _ => self.wrong_type(value, "values", "a table with one number per input"),
            }
        }
        let max_tokens = members.take("max_tokens").and_then(|value| {
            let number = self.integer(value, "max_tokens", (1, MAX_TOKENS as i64))?;
            u64::try_from(number).ok()
        });
        self.unknown_members(members);
        Some(Padding {
            axis: axis?,
            values,
            max_tokens,
        })
    }

    /// Checks padding against the whole contract: there is a batch axis, and the padded axis is another axis of an input.
    pub(super) fn batchable(&mut self, contract: &Contract, value: &Value<'_>) {
        let Some(padding) = &contract.batching.padding else {
            return;
        };
        let has = |shape: &[Dim]| {
            shape
                .iter()
                .any(|dim| matches!(dim, Dim::Symbol(name) if *name == padding.axis))
        };
        let Some(batch_axis) = contract.batch_axis() else {
            return self.fault(
                value.span(),
                "batching.padding is given for a model whose calls cannot share a run",
                "Give every input and output the same symbolic first axis, or remove the padding.",
            );
        };
        if padding.axis == batch_axis {
            return self.fault(
                value.span(),
                format!(
                    "batching.padding pads {:?}, the batch axis",
                    padding.axis
                ),
                "Name an axis whose length differs between calls, such as the length of a sequence.",
            );
        }
        if !contract.inputs.iter().any(|spec| has(&spec.shape)) {
            return self.fault(
                value.span(),
                format!(
                    "batching.padding pads {:?}, which is not an axis of any input",
                    padding.axis
                ),
                "Name a symbolic axis of the inputs.",
            );
        }
        let twice = |shape: &[Dim]| {
            let of_axis = |dim: &&Dim| matches!(dim, Dim::Symbol(name) if *name == padding.axis);
            shape.iter().filter(of_axis).count() > 1
        };
        if (contract.inputs.iter().chain(&contract.outputs)).any(|spec| twice(&spec.shape)) {
            self.fault(
                value.span(),
                format!("a tensor has the axis {:?} twice", padding.axis),
                "Remove the padding: only an axis that a tensor has once can be padded.",
            );
        }
        for input in padding.values.keys() {
            if !contract.input(input).is_some_and(|spec| has(&spec.shape)) {
                let message = format!(
                    "batching.padding.values names {:?}, which is not an input with the axis {:?}",
                    crate::excerpt::excerpt(input),
                    padding.axis
                );
                self.fault(value.span(), message, "Name an input that has the axis.");
            }
        }
    }

    fn preferred(&mut self, value: &Value<'_>) -> Vec<u32> {
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(value, "preferred_items", "a list of sizes");
            return Vec::new();
        };
        let sizes: Vec<u32> = entries
            .iter()
            .filter_map(|entry| self.upto(entry, "a preferred size", MAX_BATCH_ITEMS))
            .collect();
        if sizes.len() > MAX_PREFERRED || !sizes.is_sorted_by(|a, b| a < b) {
            self.fault(
                value.span(),
                "preferred_items is not a short ascending list",
                format!("Write at most {MAX_PREFERRED} sizes, each larger than the one before."),
            );
        }
        sizes
    }

    fn upto(&mut self, value: &Value<'_>, name: &str, greatest: u32) -> Option<u32> {
        let number = self.integer(value, name, (1, i64::from(greatest)))?;
        u32::try_from(number).ok()
    }
}
