//! What the engine asks of a runtime: load a graph, say what goes in and out of it, and run it. Everything a
//! backend must not be trusted with (waiting, refusing, counting, catching its panics, checking what a guest
//! sent) is done once, in [`crate::model`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use penstock_tensor::contract::{Format, Precision, Provider};

use crate::error::{NnError, listed, quoted};
use crate::tensor::{NnTensor, TensorType};

pub use cost::Cost;
pub use graph::Graph;
#[cfg(feature = "native")]
pub(crate) use onnx_file::Composed;
pub use rows::Rows;
pub use versions::Reads;

pub(crate) mod cost;
mod graph;
mod onnx_file;
#[cfg(feature = "native")]
pub mod onnxruntime;
#[cfg(feature = "native")]
pub mod openvino;
#[cfg(feature = "native")]
mod packed;
#[cfg(feature = "native")]
mod quiet;
mod rows;
#[cfg(any(test, feature = "scripted"))]
pub mod scripted;
pub mod tract;
pub mod versions;

/// An element type of a graph's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortType {
    /// A tensor of this type.
    Tensor(TensorType),
    /// A type that no tensor carries, under ONNX's name for it ("a complex number", "a sequence").
    Other(&'static str),
}

impl PortType {
    /// The type that a tensor for this port has, or `None` where there is none.
    pub const fn carried_as(self) -> Option<TensorType> {
        match self {
            Self::Tensor(ty) => Some(ty),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tensor(ty) => ty.as_str(),
            Self::Other(name) => name,
        })
    }
}

/// One dimension of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// This many, always.
    Fixed(u32),
    /// Chosen by each call; the graph's name for it, empty where the graph gives none.
    Symbolic(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbolic(name) if name.is_empty() => f.write_str("?"),
            Self::Symbolic(name) => f.write_str(name),
        }
    }
}

/// One input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The graph's name for it.
    pub name: String,
    /// Element type.
    pub ty: PortType,
    /// Dimensions, outermost first; `None` where the graph does not even say how many there are.
    pub dims: Option<Vec<Dim>>,
}

impl Port {
    /// The port's shape as it is written in messages: `[N,3,48,192]`.
    pub fn shape_text(&self) -> String {
        match &self.dims {
            None => "of any shape".into(),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(","))
            }
        }
    }
}

/// Where a graph comes from.
#[derive(Debug, Clone)]
pub enum GraphSource {
    /// An ONNX file; weights it keeps in files beside it are found. Or, for OpenVINO, a file whose name ends in
    /// `.xml`, with its weights in the `.bin` of the same name.
    File(PathBuf),
    /// An ONNX file's bytes, weights included.
    Bytes(Bytes),
}

impl From<&Path> for GraphSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

/// How a graph is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Calls that may run at once; `None` for the number of cores.
    pub lanes: Option<usize>,
    /// Threads one call may spread over inside one operator. ONNX Runtime and OpenVINO have them; tract runs a
    /// call on one thread.
    pub intra_op_threads: usize,
    /// What ONNX Runtime computes on. One that is not there is an error of the load.
    pub provider: Provider,
    /// Which device, in the backend's own words; its first where none is named.
    pub device: Option<String>,
    /// Whether the runtime may compute in fewer bits than the graph says.
    pub precision: Precision,
    /// Whether inputs may hold NaN and infinity. A backend that would answer those with confident numbers refuses the
    /// graph then.
    pub non_finite: bool,
    /// Outputs to compute, by name; `None` for all. What is left out is neither computed nor checked, which
    /// lets a graph be served that also has outputs no tensor carries.
    pub outputs: Option<Vec<String>>,
    /// Inputs, by name, that a call may leave out because the graph has a value for them.
    pub optional_inputs: Vec<String>,
    /// The order of the classes of outputs that are maps, by output.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Whether a call may send tensors without elements.
    pub empty_inputs: bool,
    /// Libraries of operators beside ONNX's own, for ONNX Runtime. Loading one runs its code, so paths come from the
    /// operator of the server and never from a model.
    pub operator_libraries: Vec<PathBuf>,
    /// Calls that may wait for a lane; the next is refused.
    pub queue_max: usize,
    /// Levels of priority.
    pub priority_levels: u8,
    /// The priority of a call that names none, 1 the first to run; the last where none is given.
    pub default_priority: Option<u8>,
    /// How calls share runs, or why they do not.
    #[cfg(feature = "native")]
    pub joining: Result<crate::join::Joining, String>,
    /// Bytes that one run may hold together, outputs and the values between its operators, weights and inputs not
    /// counted; `None` for as many as it takes. A run that needs more fails with `TooLarge`. ONNX Runtime and tract
    /// refuse before they take the memory; OpenVINO can only look at its outputs afterwards.
    pub working_bytes: Option<usize>,
}

/// Default of [`LoadOptions::queue_max`]: at a millisecond a call and two lanes the last in line waits an
/// eighth of a second, which is about where a caller is better served by a refusal it can retry elsewhere.
pub const QUEUE_MAX: usize = 256;

/// Operators that hand the values of their first input on as they are.
pub(crate) const SAME_VALUES: [&str; 7] = [
    "Cast",
    "CastLike",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Reshape",
];

/// Operators that keep the lengths of their first input. A quantised table goes through them before it is looked into.
pub(crate) const SAME_LENGTHS: [&str; 4] =
    ["Cast", "DequantizeLinear", "Identity", "QuantizeLinear"];

/// Default of [`LoadOptions::working_bytes`]. The largest answer a guest may have is a quarter of its memory, 64 MiB by
/// default; a run holds more only between its operators. A batch of 32 texts of 512 tokens on MiniLM, the largest that
/// is usual, takes about 0.9 GB in its attention layers.
pub const RUN_MEMORY_BYTES: usize = 1 << 30;

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            lanes: None,
            intra_op_threads: 1,
            provider: Provider::Cpu,
            device: None,
            precision: Precision::Exact,
            non_finite: false,
            outputs: None,
            optional_inputs: Vec::new(),
            labels: BTreeMap::new(),
            empty_inputs: false,
            operator_libraries: Vec::new(),
            queue_max: QUEUE_MAX,
            priority_levels: 1,
            default_priority: None,
            #[cfg(feature = "native")]
            joining: Err("it was not asked for".into()),
            working_bytes: Some(RUN_MEMORY_BYTES),
        }
    }
}

impl LoadOptions {
    /// The number of lanes asked for, or one a core.
    pub fn lane_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.lanes.unwrap_or_else(cores).max(1)
    }
}

/// A runtime that loads graphs.
pub trait Backend: Send + Sync {
    /// The name `model.toml` knows it by.
    fn name(&self) -> &'static str;

    /// The runtime's own version.
    fn version(&self) -> String;

    /// Which versions of ONNX it reads; none where it is for tests and reads what it is given. Asked only of graphs for
    /// which [`versions::is_recent`] holds, because the answer may take time.
    fn reads(&self) -> Option<Reads> {
        None
    }

    /// Whether what it loads lies in the memory of this process, so that the process' own account tells what a load
    /// takes.
    fn loads_into_this_process(&self) -> bool {
        false
    }

    /// The file the runtime comes from, where it is not built in.
    fn library(&self) -> Option<PathBuf> {
        None
    }

    /// Reads and optimises a graph. Blocks, for seconds where the graph is large.
    ///
    /// # Errors
    ///
    /// With what the runtime cannot do with this graph, and no path in it.
    fn load(&self, graph: &GraphSource, options: &LoadOptions)
    -> Result<Arc<dyn Session>, NnError>;
}

/// A loaded graph: weights and plans, shared by every lane.
pub trait Session: Send + Sync {
    /// What goes in, in the graph's order.
    fn inputs(&self) -> &[Port];

    /// What comes out, in the graph's order, without what [`LoadOptions::outputs`] leaves out.
    fn outputs(&self) -> &[Port];

    /// Whether the graph has a value for this input, so that a run may leave it out ([`NnTensor::is_absent`]).
    fn has_default(&self, _input: usize) -> bool {
        false
    }

    /// A lane of its own: whatever one call at a time needs beside the weights.
    fn lane(&self) -> Result<Box<dyn Lane>, NnError>;

    /// What the time of a run follows from. Only where values have no part in it may short runs happen on a server
    /// thread, in a guest's fiber. A run that can turn into something long and deep, such as compiling the graph
    /// anew, must not.
    fn cost(&self) -> Cost {
        Cost::default()
    }

    /// Whether the answer to an item depends on the other items of its run. Only where it does not may calls share one.
    fn rows(&self) -> Rows {
        Rows::default()
    }

    /// Bytes the loaded graph holds, where the runtime tells; else its file's size is taken for it.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether runs happen in another process.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Why no call would be answered now, where the process that runs the graph ended and is not back soon.
    fn refuses(&self) -> Option<String> {
        None
    }

    /// The process that runs the graph, where it is not this one.
    #[cfg(feature = "native")]
    fn process(&self) -> Option<crate::worker::ProcessStats> {
        None
    }
}

/// The right to run one call at a time.
pub trait Lane: Send {
    /// Runs the graph. Blocks.
    ///
    /// `inputs` are one a port, in the port's order, of the port's type and rank, and true to their own
    /// length; the model has checked that. One that is absent belongs to an input with a default. The answer has one
    /// tensor an output port, in that order; an absent one for an optional output without a value.
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError>;

    /// Hands a run to the process it happens in, and waits for at most `at_most`. True where [`Lane::run`] on the same
    /// inputs, which must be called next, comes back at once or runs on the calling thread; false where it waits for
    /// another process. `run` need not be called next where this was false before anything was handed over.
    fn begin(&mut self, inputs: &[NnTensor], at_most: std::time::Duration) -> bool {
        let _ = (inputs, at_most);
        true
    }

    /// Whether the last run waited for its process to be started again, so that its time says nothing of the model.
    fn waited(&self) -> bool {
        false
    }

    /// What ends a run of this lane from another thread, where the runtime has such a thing. Asked for once,
    /// when the lane is made.
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }
}

/// Ends a lane's run early.
pub trait Interrupt: Send + Sync {
    /// Makes the run of the lane that goes on, or is about to begin, end soon with an error. May come at any time.
    fn interrupt(&self);

    /// Forgets an interrupt that came too late for the run it was meant for. Called before each run that may be
    /// ended early; a run does not do it by itself, or it would forget one that came just before it.
    fn reset(&self);

    /// Ends a run that goes on after [`Interrupt::interrupt`], at the cost of the process that it happens in. False
    /// where that is this process, and nothing was done.
    fn kill(&self) -> bool {
        false
    }
}

/// The backends of this process.
#[derive(Clone, Default)]
pub struct Backends {
    /// In order of preference.
    present: Vec<Arc<dyn Backend>>,
    /// Those that could be named but are not here, with the reason.
    absent: Vec<(&'static str, String)>,
}

impl Backends {
    /// tract, which is always built in.
    pub fn builtin() -> Self {
        Self {
            present: vec![Arc::new(tract::Tract)],
            absent: vec![
                (ONNXRUNTIME, NO_ONNXRUNTIME.into()),
                (OPENVINO, NO_OPENVINO.into()),
            ],
        }
    }

    /// tract, and ONNX Runtime from the library at `path`.
    ///
    /// # Errors
    ///
    /// As [`Backends::with`].
    #[cfg(feature = "native")]
    pub fn with_onnxruntime(path: &Path) -> Result<Self, NnError> {
        Self::with(Some(path), None)
    }

    /// Every backend there is a library for, in the order `auto` prefers them: ONNX Runtime, which runs the most
    /// graphs; OpenVINO; and tract, which needs no library.
    ///
    /// # Errors
    ///
    /// When a library cannot be loaded; see [`onnxruntime::OnnxRuntime::load`] and [`openvino::OpenVino::load`]. A
    /// server told to use a library should stop there. One that may go on without it leaves it out and calls
    /// [`Backends::explain`].
    #[cfg(feature = "native")]
    pub fn with(onnxruntime: Option<&Path>, openvino: Option<&Path>) -> Result<Self, NnError> {
        let mut backends = Self::builtin();
        if let Some(path) = openvino {
            backends = backends.prefer(openvino::OpenVino::load(path)?);
        }
        if let Some(path) = onnxruntime {
            backends = backends.prefer(onnxruntime::OnnxRuntime::load(path)?);
        }
        Ok(backends)
    }

    /// Puts `backend` before all others.
    #[must_use]
    pub fn prefer(mut self, backend: Arc<dyn Backend>) -> Self {
        self.absent.retain(|(name, _)| *name != backend.name());
        self.present.retain(|other| other.name() != backend.name());
        self.present.insert(0, backend);
        self
    }

    /// Notes why a backend is not here, for whoever asks for it by name.
    #[must_use]
    pub fn explain(mut self, name: &'static str, reason: impl Into<String>) -> Self {
        self.absent.retain(|(other, _)| *other != name);
        self.absent.push((name, reason.into()));
        self
    }

    /// The backend `model.toml` asks for: the most preferred for `auto`, else the one of that name.
    ///
    /// # Errors
    ///
    /// `NotFound` when the named backend is not here. There is no falling back to another: numbers may differ
    /// between backends, so which one answers is the operator's decision.
    pub fn choose(&self, asked: &str) -> Result<Arc<dyn Backend>, NnError> {
        let names = || self.present.iter().map(|backend| backend.name());
        let found = if asked == AUTO {
            self.present.first()
        } else {
            self.present.iter().find(|backend| backend.name() == asked)
        };
        found.cloned().ok_or_else(|| {
            let reason = self
                .absent
                .iter()
                .find(|(name, _)| *name == asked)
                .map_or("", |(_, reason)| reason.as_str());
            let colon = if reason.is_empty() { "" } else { ": " };
            NnError::not_found(format!(
                "backend {asked:?} is not available{colon}{reason}; this server has {}",
                listed(names())
            ))
        })
    }

    /// The backend for a graph in `format`: as [`Backends::choose`], and OpenVINO where the graph is in OpenVINO's
    /// own format and the choice is left to the server.
    ///
    /// # Errors
    ///
    /// As [`Backends::choose`]; `UnsupportedOperation` when the named backend does not read the format.
    pub fn choose_for(&self, asked: &str, format: Format) -> Result<Arc<dyn Backend>, NnError> {
        match (format, asked) {
            (Format::Openvino, AUTO | OPENVINO) => self.choose(OPENVINO),
            (Format::Openvino, other) => Err(NnError::unsupported(format!(
                "format = \"openvino\" is read by OpenVINO alone, and backend is {other:?}; write backend = \
                 \"openvino\", or export the graph as ONNX"
            ))),
            (Format::Onnx, asked) => self.choose(asked),
        }
    }

    /// The backends that may load `graph`, the most preferred first: as [`Backends::choose_for`], without those that are
    /// too old for it. Where the choice is left to the server there may be several. Returns with them why others, more
    /// preferred, are left out.
    ///
    /// # Errors
    ///
    /// As [`Backends::choose_for`]; `UnsupportedOperation` when every one is too old for the graph, with the versions that
    /// each reads.
    pub fn choose_for_graph(
        &self,
        asked: &str,
        format: Format,
        graph: Option<&Graph>,
    ) -> Result<(Arc<dyn Backend>, Option<String>), NnError> {
        let chosen = self.choose_for(asked, format)?;
        let Some(graph) =
            graph.filter(|graph| format == Format::Onnx && versions::is_recent(graph))
        else {
            return Ok((chosen, None));
        };
        let others: &[Arc<dyn Backend>] = if asked == AUTO { &self.present } else { &[] };
        let mut refusals: Vec<String> = Vec::new();
        for backend in std::iter::once(&chosen).chain(others) {
            let Some(why) = backend.reads().and_then(|reads| reads.refusal(graph)) else {
                let refusals = (!refusals.is_empty()).then(|| refusals.join("; "));
                return Ok((backend.clone(), refusals));
            };
            let why = format!("{} {} {why}", backend.name(), backend.version());
            if !refusals.contains(&why) {
                refusals.push(why);
            }
        }
        Err(NnError::unsupported(format!(
            "the graph is newer than the backend reads: {}; export it for an older opset, or give the server a newer \
             library (scripts/runtime fetches ONNX Runtime)",
            refusals.join("; ")
        )))
    }

    /// The backends, most preferred first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.present.iter()
    }

    /// The other backends that read a graph in `format`, most preferred first.
    pub fn others(&self, than: &str, format: Format) -> Vec<Arc<dyn Backend>> {
        let reads = |backend: &&Arc<dyn Backend>| {
            backend.name() != than && (format == Format::Onnx || backend.name() == OPENVINO)
        };
        self.present.iter().filter(reads).cloned().collect()
    }

    /// Names and versions, most preferred first, for the start-up banner.
    pub fn list(&self) -> Vec<(&'static str, String)> {
        self.present
            .iter()
            .map(|backend| (backend.name(), backend.version()))
            .collect()
    }
}

/// Leaves in `outputs` what the options ask for, in the graph's order.
pub(crate) fn select_outputs(
    outputs: &mut Vec<Port>,
    options: &LoadOptions,
) -> Result<(), NnError> {
    let Some(wanted) = &options.outputs else {
        return Ok(());
    };
    if let Some(missing) = wanted
        .iter()
        .find(|name| outputs.iter().all(|port| port.name != **name))
    {
        return Err(NnError::not_found(format!(
            "the graph has no output {}; it has {}",
            quoted(missing),
            listed(outputs.iter().map(|port| port.name.as_str()))
        )));
    }
    outputs.retain(|port| wanted.contains(&port.name));
    Ok(())
}

/// Why a run was ended that wanted to hold `wanted` bytes.
pub(crate) fn too_much_memory(wanted: usize, most: usize) -> NnError {
    NnError::too_large(format!(
        "the model's run needs {wanted} bytes of memory and may use {most}: send fewer or smaller items, or ask the \
         operator to raise models.run_memory_bytes, or run_memory_bytes of [engine] in model.toml"
    ))
}

/// Refuses a device for a backend that computes on the processor: what is asked for must not be dropped in silence.
pub(crate) fn only_the_processor(backend: &str, options: &LoadOptions) -> Result<(), NnError> {
    let asked = match (options.provider, &options.device) {
        (Provider::Cpu, None) => return Ok(()),
        (Provider::Cpu, Some(device)) => format!("device = {}", quoted(device)),
        (provider, _) => format!("provider = {:?}", provider.as_str()),
    };
    Err(NnError::unsupported(format!(
        "{asked} is asked for, and {backend} here computes on the processor alone; remove it, or choose the backend or \
         provider that has it"
    )))
}

/// The name `model.toml` knows ONNX Runtime by, whether it is built in or not.
pub const ONNXRUNTIME: &str = "onnxruntime";

/// The name `model.toml` knows OpenVINO by, whether it is built in or not.
pub const OPENVINO: &str = "openvino";

/// What `model.toml` writes when it leaves the choice to the server.
pub const AUTO: &str = "auto";

const NO_ONNXRUNTIME: &str =
    "no ONNX Runtime library was given; set PENSTOCK_ONNXRUNTIME to the path of libonnxruntime.so";

const NO_OPENVINO: &str = "no OpenVINO library was given; set PENSTOCK_OPENVINO to the path of libopenvino_c.so, or \
                           start with scripts/up --with openvino";

/// The longest message a backend may add to an error of ours. A longer one is cut in its middle: runtimes say where
/// they were first and why they stopped last.
const MAX_BACKEND_MESSAGE_CHARS: usize = 480;

/// How many of those are the message's beginning.
const MESSAGE_HEAD_CHARS: usize = 160;

/// Bytes of a message that are looked at, from its beginning and from its end.
const MAX_LOOKED_AT_BYTES: usize = 16 * 1024;

/// A backend's own message, fit for a caller: one line, bounded, and without the places in the runtime's
/// source or on this machine's disk that runtimes like to mention.
pub(crate) fn presentable(message: &str) -> String {
    let head_end = message.floor_char_boundary(MAX_LOOKED_AT_BYTES);
    let tail_start = message.ceil_char_boundary(message.len().saturating_sub(MAX_LOOKED_AT_BYTES));
    let whole = tail_start < head_end;
    let (head, tail) = match whole {
        true => (message, ""),
        false => (&message[..head_end], &message[tail_start..]),
    };
    let mut text = String::new();
    for word in head.split_whitespace().chain(tail.split_whitespace()) {
        // "/onnxruntime_src/onnxruntime/core/…/tensor.cc:42" and "/srv/models/m/1/model.onnx"; a node's name
        // ("/encoder/layer.0/MatMul") is worth keeping and has no file's ending.
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/' && c != '.');
        let names_a_file = bare.contains('/')
            && (bare.starts_with("/onnxruntime_src")
                || [
                    ".cc", ".cpp", ".h", ".hpp", ".rs", ".onnx", ".so", ".data", "_data", ".xml",
                    ".bin",
                ]
                .iter()
                .any(|end| {
                    bare.split(':')
                        .next()
                        .is_some_and(|path| path.ends_with(end))
                        || bare.contains(&format!("{end}:"))
                }));
        if names_a_file {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    cut_in_the_middle(text)
}

/// `text` without its middle where it is too long. Words stay whole, so that a number is never cut.
fn cut_in_the_middle(text: String) -> String {
    let chars = text.chars().count();
    if chars <= MAX_BACKEND_MESSAGE_CHARS {
        return text;
    }
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let tail_chars = MAX_BACKEND_MESSAGE_CHARS - MESSAGE_HEAD_CHARS;
    let (head_end, tail_start) = (byte(MESSAGE_HEAD_CHARS), byte(chars - tail_chars));
    // A word that is longer than its part of the message is cut all the same.
    let head = &text[..head_end];
    let head = head.rfind(' ').map_or(head, |space| &head[..space]);
    let tail = &text[tail_start..];
    let tail = tail.find(' ').map_or(tail, |space| &tail[space + 1..]);
    format!("{head} … {tail}")
}

/// Whether a run failed because of a value that the caller sent: an index, as far as runtimes say so.
pub(crate) fn blames_an_index(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "out of bounds",
        "out of data bounds",
        "out of range",
        "out-of-bounds",
        "invalid index",
        "invalid indices",
        "must be less than axis length",
    ]
    .iter()
    .any(|part| message.contains(part))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    presentable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_asked_for_by_name_and_missing_is_an_error_that_says_why() {
        let backends = Backends::builtin();
        assert_eq!(
            backends.choose("auto").ok().map(|b| b.name()),
            Some("tract")
        );
        let error = backends
            .choose("onnxruntime")
            .err()
            .expect("no library was given");
        assert!(
            error.message.contains("PENSTOCK_ONNXRUNTIME"),
            "{}",
            error.message
        );
        assert!(
            error.message.contains("this server has \"tract\""),
            "{}",
            error.message
        );
        let error = backends
            .choose("openvino")
            .err()
            .expect("no library was given");
        assert!(
            error.message.contains("PENSTOCK_OPENVINO"),
            "{}",
            error.message
        );
        let error = backends.choose("torch").err().expect("no such backend");
        assert!(
            error
                .message
                .contains("\"torch\" is not available; this server"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_graph_in_openvinos_format_goes_to_openvino_or_nowhere() {
        let backends = Backends::builtin();
        let chosen = |asked, format| backends.choose_for(asked, format).map(|b| b.name());
        assert_eq!(chosen("auto", Format::Onnx), Ok("tract"));
        for asked in ["auto", "openvino"] {
            let error = chosen(asked, Format::Openvino).expect_err("no library was given");
            assert!(error.message.contains("PENSTOCK_OPENVINO"), "{error}");
        }
        let error = chosen("tract", Format::Openvino).expect_err("it reads ONNX");
        assert!(error.message.contains("by OpenVINO alone"), "{error}");
    }

    #[test]
    fn a_backends_message_loses_its_paths_and_keeps_its_node_names() {
        let text = presentable(
            "Non-zero status code returned while running MatMul node. Name:'/encoder/layer.0/MatMul' Status Message: \
             /onnxruntime_src/onnxruntime/core/providers/cpu/math/matmul_helper.h:60 void Compute(...) \
             left operand\n cannot broadcast; Load model from /srv/models/m/1/model.onnx failed",
        );
        assert!(text.contains("'/encoder/layer.0/MatMul'"), "{text}");
        assert!(
            !text.contains("/onnxruntime_src") && !text.contains("/srv") && !text.contains('\n'),
            "{text}"
        );
        assert!(presentable(&"x".repeat(100_000)).chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3);
        assert!(
            presentable(&"x y ".repeat(10_000)).chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3
        );
    }
    #[test]
    fn a_long_message_keeps_its_cause_at_the_end_and_every_number_whole() {
        for filler in [100, 3_000, 100_000] {
            let message = format!(
                "Non-zero status code returned while running Gather node. Name:'Gather_12345' {} indices element out \
                 of data bounds, idx=123456789 must be within the inclusive range [-30522,30521]",
                "while at it ".repeat(filler / 12)
            );
            let text = presentable(&message);
            assert!(
                text.starts_with("Non-zero status code") && text.contains("'Gather_12345'"),
                "{text}"
            );
            assert!(
                text.ends_with("idx=123456789 must be within the inclusive range [-30522,30521]"),
                "{text}"
            );
            assert!(
                text.chars().count() <= MAX_BACKEND_MESSAGE_CHARS + 3,
                "{text}"
            );
        }
        let numbers: Vec<String> = (100_000..100_200).map(|n| n.to_string()).collect();
        let text = presentable(&numbers.join(" "));
        assert!(
            text.split(' ').all(|word| word == "…" || word.len() == 6),
            "{text}"
        );
        assert!(text.ends_with("100199"), "{text}");
    }
}
