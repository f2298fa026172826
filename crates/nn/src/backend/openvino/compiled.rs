//! A graph compiled for a device, and compiled again after a run that spoilt it.

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openvino_sys as ov;
use openvino_sys::{ov_element_type_e as Element, ov_status_e as Status};
use penstock_tensor::contract::Precision;

use super::attempt::Attempt;
use super::handles::{CompiledModel, Model, Request, check, lock};
use super::refused::Guard;
use crate::backend::cost::Cost;
use crate::backend::options::LoadOptions;
use crate::backend::port::Port;
use crate::backend::rows::Rows;
use crate::error::NnError;

/// The device of a model whose contract names none.
pub const DEFAULT_DEVICE: &str = "CPU";

/// The properties that a model is compiled with: one stream for each instance, and threads for all of them together.
pub fn properties(device: &str, options: &LoadOptions) -> Vec<(CString, CString)> {
    let instances = options.instance_count();
    let mode = match options.precision {
        // The CPU plugin then also leaves activations of 8-bit weights unchanged (DYNAMIC_QUANTIZATION_GROUP_SIZE 0)
        // and keeps key-value caches in FP32; INFERENCE_PRECISION_HINT = f32 alone does neither.
        Precision::Exact => c"ACCURACY",
        Precision::Fast => c"PERFORMANCE",
    };
    let mut properties = vec![(c"EXECUTION_MODE_HINT".to_owned(), mode.to_owned())];
    let mut set = |key: &CStr, value: String| {
        // Our numbers and words have no zero byte.
        properties.push((key.to_owned(), CString::new(value).unwrap_or_default()));
    };
    if device == DEFAULT_DEVICE {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = instances
            .saturating_mul(options.intra_op_threads.max(1))
            .min(cores);
        set(c"NUM_STREAMS", instances.min(threads).to_string());
        set(c"INFERENCE_NUM_THREADS", threads.to_string());
        // Threads bound to cores would keep to them while the server's own work is there.
        set(c"ENABLE_CPU_PINNING", "NO".into());
    } else {
        let hint = if instances == 1 {
            "LATENCY"
        } else {
            "THROUGHPUT"
        };
        set(c"PERFORMANCE_HINT", hint.into());
        set(c"PERFORMANCE_HINT_NUM_REQUESTS", instances.to_string());
    }
    properties
}

/// A graph with the data that every call on it needs.
pub struct Graph {
    pub core: Core,
    pub device: CString,
    pub properties: Vec<(CString, CString)>,
    /// Whether a length in the graph is known only when it runs.
    pub open_shapes: bool,
    /// The source that a graph of open shapes is compiled from again. Its weights are shared with the compiled model if
    /// the device leaves them as they are. The file is not read again, because it may have changed.
    pub model: Option<Model>,
    /// The compiled model that new runs use. It exists from the load on.
    pub current: Mutex<Option<Arc<Compiled>>>,
    pub inputs: Vec<Port>,
    /// Indices that are checked against lengths before OpenVINO sees them.
    pub guards: Vec<Guard>,
    pub outputs: Vec<Port>,
    pub elements: Vec<Element>,
    /// The position of each of `outputs` among all outputs of the graph.
    pub output_at: Vec<usize>,
    /// Bytes that the outputs of a run may have together. The values between operators cannot be bounded here.
    pub most_bytes: usize,
    pub cost: Cost,
    pub rows: Rows,
}

#[derive(Clone, Copy)]
pub struct Core(pub *mut ov::ov_core_t);

/// A model compiled for a device, with the state of its runs.
pub struct Compiled {
    pub model: CompiledModel,
    /// The time that compiling took.
    pub took: Duration,
    /// Whether a run on it failed or was cancelled, so that it must not be used any more.
    pub spoilt: AtomicBool,
    /// Runs begun on it so far, and those under way.
    pub begun: AtomicU64,
    pub under_way: AtomicUsize,
}

/// A run on a compiled model, from its first call of the library to its last.
pub struct OneOf<'a> {
    compiled: &'a Compiled,
    number: u64,
    began_alone: bool,
}

impl<'a> OneOf<'a> {
    pub fn begin(compiled: &'a Compiled) -> Self {
        let others = compiled.under_way.fetch_add(1, Ordering::SeqCst);
        Self {
            compiled,
            number: compiled.begun.fetch_add(1, Ordering::SeqCst) + 1,
            began_alone: others == 0,
        }
    }

    /// Returns whether no other run was under way on the same compiled model since this one began.
    pub fn was_alone(&self) -> bool {
        self.began_alone && self.compiled.begun.load(Ordering::SeqCst) == self.number
    }
}

impl Drop for OneOf<'_> {
    fn drop(&mut self) {
        self.compiled.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

// SAFETY: ov::Core, ov::Model and ov::CompiledModel are documented as safe to compile and to make requests of from
// several threads at once; nothing else is done with them, and compiling is under `current`'s lock.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}
// SAFETY: as above.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}

impl Graph {
    pub fn compile(&self, model: &Model) -> Result<Compiled, Status> {
        let started = Instant::now();
        let properties: Vec<ov::ov_property_t> = (self.properties.iter())
            .map(|(key, value)| ov::ov_property_t {
                key: key.as_ptr(),
                value: value.as_ptr().cast(),
            })
            .collect();
        let mut compiled = ptr::null_mut();
        // SAFETY: all pointers are live for the call; the result is owned by `CompiledModel`.
        check(unsafe {
            ov::ov_core_compile_model_props(
                self.core.0,
                model.0,
                self.device.as_ptr(),
                properties.len(),
                properties.as_ptr(),
                &mut compiled,
            )
        })?;
        Ok(Compiled {
            model: CompiledModel(compiled),
            took: started.elapsed(),
            spoilt: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
        })
    }

    pub fn current(&self) -> Result<Arc<Compiled>, NnError> {
        lock(&self.current)
            .clone()
            .ok_or_else(|| NnError::runtime("the graph is not compiled"))
    }

    /// Compiles the graph again, unless another call already did.
    pub fn renew(&self, spoilt: &Arc<Compiled>) -> Result<(), NnError> {
        let Some(model) = &self.model else {
            return Ok(());
        };
        spoilt.spoilt.store(true, Ordering::SeqCst);
        let mut current = lock(&self.current);
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, spoilt))
        {
            let attempt = Attempt::begin();
            let compiled = self.compile(model).map_err(|status| {
                NnError::runtime(format!(
                    "OpenVINO cannot compile the graph again: {}",
                    attempt.reason(status)
                ))
            })?;
            *current = Some(Arc::new(compiled));
        }
        Ok(())
    }
}

impl Compiled {
    pub fn request(&self) -> Result<Request, NnError> {
        let attempt = Attempt::begin();
        let mut request = ptr::null_mut();
        // SAFETY: the model is live; the caller owns the request.
        check(unsafe { ov::ov_compiled_model_create_infer_request(self.model.0, &mut request) })
            .map_err(|status| {
                NnError::runtime(format!(
                    "OpenVINO cannot make an instance for the graph: {}",
                    attempt.reason(status)
                ))
            })?;
        Ok(Request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(device: &str, instances: usize, threads: usize) -> Vec<(String, String)> {
        let options = LoadOptions {
            instances: Some(instances),
            intra_op_threads: threads,
            ..LoadOptions::default()
        };
        let text = |text: CString| text.into_string().expect("ASCII");
        properties(device, &options)
            .into_iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect()
    }

    fn value(properties: &[(String, String)], key: &str) -> Option<String> {
        let found = properties.iter().find(|(other, _)| other == key);
        found.map(|(_, value)| value.clone())
    }

    #[test]
    fn instances_and_their_threads_never_outnumber_the_cores() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for (instances, threads) in [(1, 1), (1, 64), (64, 1), (64, 64), (usize::MAX, usize::MAX)] {
            let set = set("CPU", instances, threads);
            let number = |key| value(&set, key).and_then(|text| text.parse::<usize>().ok());
            let (streams, all) = (number("NUM_STREAMS"), number("INFERENCE_NUM_THREADS"));
            assert!(all.is_some_and(|all| (1..=cores).contains(&all)), "{set:?}");
            assert!(streams <= all && streams <= Some(instances), "{set:?}");
        }
        assert_eq!(
            value(&set("CPU", 1, 1), "INFERENCE_NUM_THREADS"),
            Some("1".into())
        );
    }

    #[test]
    fn every_device_keeps_the_graphs_precision() {
        for device in ["CPU", "GPU", "NPU"] {
            let set = set(device, 2, 1);
            assert_eq!(value(&set, "EXECUTION_MODE_HINT"), Some("ACCURACY".into()));
        }
        let gpu = set("GPU.1", 3, 1);
        assert_eq!(
            value(&gpu, "PERFORMANCE_HINT_NUM_REQUESTS"),
            Some("3".into())
        );
        assert_eq!(
            value(&gpu, "INFERENCE_NUM_THREADS"),
            None,
            "the processor's alone"
        );
    }
}
