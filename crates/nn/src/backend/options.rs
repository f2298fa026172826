//! The source of a graph and the options of a load, with the checks of options that all backends share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use penstock_tensor::contract::{Precision, Provider};

use super::port::Port;
use crate::error::{NnError, listed, quoted};

/// A graph to load, as a file or as bytes.
#[derive(Debug, Clone)]
pub enum GraphSource {
    /// An ONNX file; its external weights are found in its folder. Or, for OpenVINO, a file whose name ends in `.xml`,
    /// with its weights in the `.bin` of the same name.
    File(PathBuf),
    /// An ONNX file's bytes, weights included.
    Bytes(Bytes),
}

impl From<&Path> for GraphSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

/// The options for loading a graph. A model's contract and the host's settings give them.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Calls that may run at once; `None` for the number of cores.
    pub instances: Option<usize>,
    /// Threads one call may spread over inside one operator. ONNX Runtime and OpenVINO have them; tract runs a
    /// call on one thread.
    pub intra_op_threads: usize,
    /// ONNX Runtime's execution provider. A missing one is an error of the load.
    pub provider: Provider,
    /// The device, in the backend's own words; the backend's first device if none is named.
    pub device: Option<String>,
    /// The precision: `Fast` lets the runtime compute in fewer bits than the graph has.
    pub precision: Precision,
    /// Whether inputs may hold NaN and infinity. A backend that would answer those with confident numbers refuses the
    /// graph then.
    pub non_finite: bool,
    /// Outputs to compute, by name; `None` for all. Other outputs are neither computed nor checked, so a graph can be
    /// served although no tensor carries some of its outputs.
    pub outputs: Option<Vec<String>>,
    /// Inputs, by name, that a call may leave out because the graph has a value for them.
    pub optional_inputs: Vec<String>,
    /// The order of the classes of outputs that are maps, by output.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Whether a call may send tensors without elements.
    pub empty_inputs: bool,
    /// Libraries of operators in addition to ONNX's own, for ONNX Runtime. Loading one runs its code, so paths come
    /// from the operator of the server and never from a model.
    pub operator_libraries: Vec<PathBuf>,
    /// Calls that may wait for an instance; the next is refused.
    pub queue_max: usize,
    /// Number of levels of priority in the queue; 1 is the first to run.
    pub priority_levels: u8,
    /// The priority of a call that names none; 1 runs first. Without a value, calls get the last priority.
    pub default_priority: Option<u8>,
    /// The options of dynamic batching, or the reason that calls do not share runs.
    #[cfg(feature = "native")]
    pub batching: Result<crate::batching::DynamicBatching, String>,
    /// Bytes that one run may hold together, outputs and the values between its operators, weights and inputs not
    /// counted; `None` for as many as it takes. A run that needs more fails with `TooLarge`. ONNX Runtime and tract
    /// refuse before they take the memory; OpenVINO can only look at its outputs afterwards.
    pub working_bytes: Option<usize>,
}

/// Default of [`LoadOptions::queue_max`], in calls: with a millisecond for each call and two instances, the last call in the
/// queue waits an eighth of a second. A longer wait is worse for a caller than a refusal that it can retry elsewhere.
pub const QUEUE_MAX: usize = 256;

/// Default of [`LoadOptions::working_bytes`]: 1 GiB. The largest answer a guest may have is a quarter of its memory, 64 MiB
/// by default; a run holds more only between its operators. A batch of 32 texts of 512 tokens on MiniLM, the largest that is
/// usual, takes about 0.9 GB in its attention layers.
pub const RUN_MEMORY_BYTES: usize = 1 << 30;

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            instances: None,
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
            batching: Err("it was not asked for".into()),
            working_bytes: Some(RUN_MEMORY_BYTES),
        }
    }
}

impl LoadOptions {
    /// The number of instances asked for, or one a core.
    pub fn instance_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.instances.unwrap_or_else(cores).max(1)
    }
}

/// Keeps in `outputs` the outputs that the options ask for, in the graph's order.
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

/// Refuses a device for a backend that computes on the processor: a requested device must not be ignored silently.
pub(crate) fn only_the_processor(backend: &str, options: &LoadOptions) -> Result<(), NnError> {
    let asked = match (options.provider, &options.device) {
        (Provider::Cpu, None) => return Ok(()),
        (Provider::Cpu, Some(device)) => format!("device = {}", quoted(device)),
        (provider, _) => format!("provider = {:?}", provider.as_str()),
    };
    Err(NnError::unsupported(format!(
        "{asked} is requested, but {backend} computes only on the processor here; remove it, or choose the backend or \
         provider that has it"
    )))
}
