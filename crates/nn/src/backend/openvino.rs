//! OpenVINO, from a shared library named at start: graphs in ONNX and in its own format (`model.xml` with `model.bin`),
//! on the device that the contract names.
//!
//! Decisions:
//!
//! - **The C API, through `openvino-sys`.** The `openvino` crate above it copies every input, compiles without
//!   properties and panics on some answers of a library; docs/decisions/0011 has the list. The library is examined
//!   before that crate sees it, as ONNX Runtime's is, because a missing function would be a panic there.
//! - **One compiled model, and an infer request for each instance.** Weights are in memory once. The model is compiled
//!   with as many streams as it has instances, and with no more threads than there are cores, so that instances do not
//!   compete for them.
//! - **The precision of the graph**, unless the contract has `precision = "fast"`. OpenVINO may compute FP32 graphs in
//!   BF16 or FP16 if a device is faster at it, and quantise activations of 8-bit weights. It is told not to: the device
//!   of a server must not change its answers.
//! - **Exactly the named device.** `AUTO`, `HETERO` and the other names that choose a device themselves are refused,
//!   and so is a device that does not exist.
//! - **A run can be ended early.** It is started and waited for, and cancelled between two operators.
//! - **A graph of open shapes is compiled again after a run that failed or was cancelled.** The CPU plugin keeps shapes
//!   from run to run, and such a run leaves them in a bad state: later, sound calls then fail (seen with 2026.4.1; the
//!   suite has it). So the call that spoilt the compiled model replaces it, and the other runs on it are repeated.
//!   Ending such a run early costs a compilation. So it is ended only once it has taken as long as a compilation: at
//!   worst twice the best time. A graph without open shapes has neither problem.
//! - **Numbers that the CPU cannot carry are refused, not narrowed.** OpenVINO's CPU plugin computes INT64 in 32 bits
//!   and FP64 in FP32. FP64 ports are refused when the graph is loaded; a number beyond 32 bits in an INT64 input is
//!   the caller's error. Inside the graph OpenVINO narrows them.
//! - **An error's text is shown only if it must be this call's.** The library keeps one last message for the process.
//!   While other calls run, the message may be another caller's, so a general description is shown.
//! - **Inputs are borrowed, outputs are copied once.** A request's output memory is written again by its next run.
//!   Outputs that [`LoadOptions::outputs`] leaves out are still computed: the C API cannot remove one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex};

use openvino_sys as ov;
use openvino_sys::ov_status_e as Status;
use penstock_tensor::contract::Provider;

use attempt::Attempt;
pub use compiled::DEFAULT_DEVICE;
use compiled::{Core, Graph, properties};
use handles::{Model, check, lock, text};
use library::{examine, start};
use ports::{Found, element, no_small_types};
use session::OvSession;

use super::cost::Cost;
use super::message::panic_text;
use super::onnx_file;
use super::options::{GraphSource, LoadOptions};
use super::port::{Port, PortType};
use super::rows::Rows;
use super::session::{Backend, Session};
use super::versions::Reads;
use crate::error::{ErrorCode, NnError, listed, quoted};
use crate::tensor::TensorType;

mod attempt;
mod compiled;
mod handles;
mod library;
mod ports;
mod refused;
mod session;
mod tensors;

/// The name `model.toml` knows the backend by.
pub const NAME: &str = super::names::OPENVINO;

/// The loaded library of OpenVINO. There is one in a process, because `openvino-sys` holds one.
pub struct OpenVino {
    core: *mut ov::ov_core_t,
    version: String,
    path: PathBuf,
    devices: Vec<String>,
    /// One graph at a time is read and compiled, so that the library's last message belongs to it.
    loading: Mutex<()>,
}

// SAFETY: ov::Core is documented as safe to use from several threads at once, and this one is never released.
unsafe impl Send for OpenVino {}
// SAFETY: as above.
unsafe impl Sync for OpenVino {}

static LOADED: Mutex<Option<Arc<OpenVino>>> = Mutex::new(None);

impl OpenVino {
    /// Loads the library at `path`, or returns the one loaded before from the same path. OpenVINO's own libraries (its
    /// core, frontends, plugins and TBB) must be in the same folder.
    ///
    /// Loading runs the library's own start-up code, so the path must come from the operator.
    ///
    /// # Errors
    ///
    /// Naming the path, when there is no such file, when it is not OpenVINO, when it is older than the API of this
    /// server, when it finds no device, and when another library was loaded before.
    pub fn load(path: &Path) -> Result<Arc<Self>, NnError> {
        let shown = path.display();
        let absolute = path.canonicalize().map_err(|error| {
            NnError::not_found(format!(
                "OpenVINO's library {shown} cannot be opened: {error}; give the path of libopenvino_c.so.<version>, \
                 with the rest of OpenVINO beside it, or run scripts/up --with openvino"
            ))
        })?;
        let mut loaded = lock(&LOADED);
        if let Some(runtime) = &*loaded {
            if runtime.path == absolute {
                return Ok(runtime.clone());
            }
            return Err(NnError::unsupported(format!(
                "OpenVINO was already loaded from {}; a process can load one library; restart it to load {shown}",
                runtime.path.display()
            )));
        }
        let version = examine(&absolute)?;
        let failed = |what: String| {
            NnError::runtime(format!(
                "OpenVINO's library {shown} does not start: {what}; give one with its own libopenvino.so, plugins \
                 and frontends beside it"
            ))
        };
        let started = catch_unwind(AssertUnwindSafe(|| start(&absolute)));
        let (core, devices) = match started {
            Ok(Ok(started)) => started,
            Ok(Err(what)) => return Err(failed(what)),
            Err(panic) => return Err(failed(panic_text(&*panic))),
        };
        if devices.is_empty() {
            return Err(failed("it finds no device to compute on".into()));
        }
        let runtime = Arc::new(Self {
            core,
            version,
            path: absolute,
            devices,
            loading: Mutex::new(()),
        });
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// The existing devices, by the names that a contract uses.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// The device a contract asks for.
    fn device<'a>(&self, asked: Option<&'a str>) -> Result<&'a str, NnError> {
        let asked = asked.unwrap_or(DEFAULT_DEVICE);
        // Of several of a kind ("GPU.0", "GPU.1") the kind's own name is the first.
        let there = |device: &String| {
            device == asked
                || (device.strip_prefix(asked)).is_some_and(|number| number.starts_with('.'))
        };
        if self.devices.iter().any(there) {
            return Ok(asked);
        }
        Err(NnError::unsupported(format!(
            "OpenVINO has no device {} here; it has {}. Name one of these in [engine] device, or install the driver \
             and OpenVINO's plugin of the one you want",
            quoted(asked),
            listed(self.devices.iter().map(String::as_str))
        )))
    }

    fn open(&self, graph: &GraphSource, options: &LoadOptions) -> Result<Graph, NnError> {
        if options.provider != Provider::Cpu {
            return Err(NnError::unsupported(format!(
                "provider = {:?} is ONNX Runtime's, and the model runs on OpenVINO; name a device instead, or write \
                 backend = \"onnxruntime\"",
                options.provider.as_str()
            )));
        }
        let device = self.device(options.device.as_deref())?;
        let own_format = matches!(graph, GraphSource::File(path) if is_own_format(path));
        let mut guards = Vec::new();
        let declared = if own_format {
            None
        } else {
            let declared = onnx_file::examine(graph)?;
            no_small_types(declared.inputs.iter().chain(&declared.outputs))?;
            if let Some(structure) = onnx_file::structure::structure(graph) {
                guards = refused::check(&structure, &declared.inputs, options.non_finite)?;
            }
            Some(declared)
        };
        let _turn = lock(&self.loading);
        let attempt = Attempt::begin();
        let cannot = |status: Status| {
            let code = match status {
                Status::NOT_IMPLEMENTED => ErrorCode::UnsupportedOperation,
                _ => ErrorCode::InvalidEncoding,
            };
            NnError::new(
                code,
                format!("OpenVINO cannot load the graph: {}", attempt.reason(status)),
            )
        };
        let model = self.read(graph, own_format, &cannot)?;
        let found = Found::of(&model).map_err(&cannot)?;
        let (inputs, all_outputs, cost, rows) = match declared {
            Some(declared) => {
                found.inputs.agree("inputs", &declared.inputs)?;
                found.outputs.agree("outputs", &declared.outputs)?;
                let rows = declared.rows(options);
                (declared.inputs, declared.outputs, declared.cost, rows)
            }
            None => {
                let unread = Cost::Values("its operators are in OpenVINO's own format".into());
                let rows = Rows::Dependent(
                    "its operators are in OpenVINO's own format, which is not read here; export it as ONNX".into(),
                );
                (found.inputs.0, found.outputs.0, unread, rows)
            }
        };
        if all_outputs.is_empty() {
            // The library reads an empty description as an empty graph.
            return Err(NnError::new(
                ErrorCode::InvalidEncoding,
                "OpenVINO cannot load the graph: it has no output",
            ));
        }
        let mut outputs = all_outputs.clone();
        super::options::select_outputs(&mut outputs, options)?;
        no_fp64_and_no_strings(inputs.iter().chain(&outputs))?;
        let output_at = (all_outputs.iter().enumerate())
            .filter(|(_, port)| outputs.contains(port))
            .map(|(index, _)| index)
            .collect();
        let mut graph = Graph {
            core: Core(self.core),
            device: text(device)?,
            properties: properties(device, options),
            // SAFETY: the model is live.
            open_shapes: unsafe { ov::ov_model_is_dynamic(model.0) },
            model: None,
            current: Mutex::new(None),
            elements: inputs.iter().map(|port| element(port.ty)).collect(),
            inputs,
            guards,
            outputs,
            output_at,
            most_bytes: options.working_bytes.unwrap_or(usize::MAX),
            cost,
            rows,
        };
        let compiled = graph.compile(&model).map_err(|status| {
            let mut error = cannot(status);
            if error.code == ErrorCode::InvalidEncoding {
                // It was read, so it is a graph; this device cannot run it.
                error.code = ErrorCode::UnsupportedOperation;
            }
            error
        })?;
        graph.current = Mutex::new(Some(Arc::new(compiled)));
        graph.model = graph.open_shapes.then_some(model);
        Ok(graph)
    }

    fn read(
        &self,
        graph: &GraphSource,
        own_format: bool,
        cannot: &dyn Fn(Status) -> NnError,
    ) -> Result<Model, NnError> {
        let mut model = ptr::null_mut();
        let status = match graph {
            GraphSource::File(path) => {
                if !path.is_file() {
                    return Err(NnError::not_found("the graph's file does not exist"));
                }
                let of = |path: &Path| text(&path.to_string_lossy());
                let weights = path.with_extension("bin");
                let weights = match own_format && weights.is_file() {
                    true => Some(of(&weights)?),
                    false => None,
                };
                let path = of(path)?;
                // SAFETY: both paths are live C strings or null, which stands for none.
                unsafe {
                    ov::ov_core_read_model(
                        self.core,
                        path.as_ptr(),
                        weights.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
                        &mut model,
                    )
                }
            }
            // SAFETY: the bytes are as long as is said; null stands for no weights apart.
            GraphSource::Bytes(bytes) => unsafe {
                ov::ov_core_read_model_from_memory_buffer(
                    self.core,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    ptr::null(),
                    &mut model,
                )
            },
        };
        check(status).map_err(cannot)?;
        Ok(Model(model))
    }
}

/// Returns whether a graph's file is in OpenVINO's own format, by its name.
fn is_own_format(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "xml")
}

/// The newest opset whose graphs it gets without a check of their operators. It reads any opset (measured with
/// 2026.4.1: opsets 1 to 29, IR 1 to 16), and would compute an operator that has changed since in the old way.
pub const TESTED_OPSET: u64 = 26;

/// Refuses ports of the types that OpenVINO does not compute as such.
fn no_fp64_and_no_strings<'a>(
    mut ports: impl Iterator<Item = &'a Port> + Clone,
) -> Result<(), NnError> {
    let fp64 = PortType::Tensor(TensorType::Fp64);
    if let Some(port) = ports.clone().find(|port| port.ty == fp64) {
        return Err(NnError::unsupported(format!(
            "OpenVINO computes FP64 in FP32, and {} is FP64; load the graph with backend = \"onnxruntime\", or export \
             it with FP32 there",
            quoted(&port.name)
        )));
    }
    let strings = PortType::Tensor(TensorType::Bytes);
    if let Some(port) = ports.find(|port| port.ty == strings) {
        return Err(NnError::unsupported(format!(
            "OpenVINO's C interface cannot return strings, and {} is BYTES; load the graph with \
             backend = \"onnxruntime\"",
            quoted(&port.name)
        )));
    }
    Ok(())
}

impl Backend for OpenVino {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn reads(&self) -> Option<Reads> {
        Some(Reads {
            opset: TESTED_OPSET,
            ir: u64::MAX,
            strict: false,
        })
    }

    fn loads_into_this_process(&self) -> bool {
        true
    }

    fn library(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        Ok(Arc::new(OvSession(Arc::new(self.open(graph, options)?))))
    }
}
