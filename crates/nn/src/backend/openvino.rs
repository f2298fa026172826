//! OpenVINO, from a shared library named at start: graphs in ONNX and in its own format (`model.xml` with
//! `model.bin`), on the device the contract names.
//!
//! Decisions:
//!
//! - **The C API, through `openvino-sys`.** The `openvino` crate above it copies every input, compiles without
//!   properties and panics on what a library may answer; docs/decisions/0011 has the list. The library is examined
//!   before that crate sees it, as ONNX Runtime's is, because what it lacks would be a panic there.
//! - **One compiled model, an infer request a lane.** Weights are in memory once. The model is compiled for as many
//!   streams as it has lanes, and for no more threads than there are cores, so that lanes do not take each other's.
//! - **The precision the graph has**, unless the contract says `precision = "fast"`. OpenVINO may compute FP32 graphs in
//!   BF16 or FP16 where a device is quicker at it, and quantise activations beside 8-bit weights. It is told not to: which
//!   device a server has must not change its answers.
//! - **One device, and that one.** `AUTO`, `HETERO` and the other names that choose a device themselves are refused,
//!   and so is a device that is not there.
//! - **A run can be ended early.** It is started and waited for, and cancelled between two operators.
//! - **A graph of open shapes is compiled anew after a run that did not end well.** The CPU plugin keeps shapes from run
//!   to run, and a run that fails or is cancelled in the middle leaves them as they are: later, sound calls then fail
//!   (seen with 2026.4.1; the suite has it). So the compiled model is thrown away, by the call that spoilt it, and what
//!   ran on it meanwhile runs again. Ending such a run early costs a compilation, so it is ended only once it has taken
//!   as long as that: at worst twice what would have been best. A graph without open shapes has neither trouble.
//! - **What the CPU cannot carry is refused, not narrowed.** OpenVINO's CPU plugin computes INT64 in 32 bits and FP64
//!   in FP32. FP64 ports are refused when the graph is loaded; a number beyond 32 bits in an INT64 input is the
//!   caller's error. Inside the graph they are as OpenVINO has them.
//! - **An error's text is told only when it must be ours.** The library keeps one last message for the process. With
//!   other calls under way it may be another caller's, so the general description is told then.
//! - **Inputs are borrowed, outputs copied once.** A request's output memory is written again by its next run.
//!   Outputs that [`LoadOptions::outputs`] leaves out are computed all the same: the C API cannot take one away.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openvino_sys as ov;
use openvino_sys::{ov_element_type_e as Element, ov_status_e as Status};
use penstock_tensor::contract::{Precision, Provider};

use super::cost::Cost;
use super::message::{panic_text, presentable};
use super::onnx_file;
use super::options::{GraphSource, LoadOptions};
use super::port::{Dim, Port, PortType};
use super::rows::Rows;
use super::session::{Backend, Interrupt, Lane, Session};
use super::versions::Reads;
use crate::error::{ErrorCode, NnError, listed, quoted};
use crate::tensor::{NnTensor, TensorType};

mod refused;

/// The name `model.toml` knows the backend by.
pub const NAME: &str = super::names::OPENVINO;

/// The device of a model whose contract names none.
pub const DEFAULT_DEVICE: &str = "CPU";

/// The release whose C API this crate calls; the first with compile properties that are not variadic.
const NEEDED: &str = "2026.4";

/// Outputs may have more dimensions than inputs may, but not without end.
const MAX_OUTPUT_RANK: i64 = 64;

/// Outputs beyond which a lane's request is made anew, so that what one large run took is given back. Making one takes
/// about a millisecond, and computing so many bytes far longer.
const KEPT_OUTPUT_BYTES: usize = 32 << 20;

/// How often a call is run when others spoil the compiled model it runs on, each time on a new one. Several callers
/// would have to send what fails within each of its runs.
const MAX_TRIES: usize = 3;

/// The functions called here. A library that lacks one is refused before `openvino-sys` would panic about it.
const FUNCTIONS: &[&str] = &[
    "ov_available_devices_free",
    "ov_compiled_model_create_infer_request",
    "ov_compiled_model_free",
    "ov_core_compile_model_props",
    "ov_core_create",
    "ov_core_get_available_devices",
    "ov_core_read_model",
    "ov_core_read_model_from_memory_buffer",
    "ov_core_set_properties",
    "ov_free",
    "ov_get_last_err_msg",
    "ov_get_openvino_version",
    "ov_infer_request_cancel",
    "ov_infer_request_free",
    "ov_infer_request_get_output_tensor_by_index",
    "ov_infer_request_set_input_tensor_by_index",
    "ov_infer_request_start_async",
    "ov_infer_request_wait",
    "ov_infer_request_wait_for",
    "ov_model_const_input_by_index",
    "ov_model_const_output_by_index",
    "ov_model_free",
    "ov_model_inputs_size",
    "ov_model_is_dynamic",
    "ov_model_outputs_size",
    "ov_output_const_port_free",
    "ov_partial_shape_free",
    "ov_port_get_any_name",
    "ov_port_get_element_type",
    "ov_port_get_partial_shape",
    "ov_shape_free",
    "ov_tensor_create_from_host_ptr",
    "ov_tensor_data",
    "ov_tensor_free",
    "ov_tensor_get_byte_size",
    "ov_tensor_get_element_type",
    "ov_tensor_get_shape",
    "ov_version_free",
];

/// The loaded library. There is one in a process, because `openvino-sys` holds one.
pub struct OpenVino {
    core: *mut ov::ov_core_t,
    version: String,
    path: PathBuf,
    devices: Vec<String>,
    /// One graph at a time is read and compiled, so that what the library says of it is said of it.
    loading: Mutex<()>,
}

// SAFETY: ov::Core is documented as safe to use from several threads at once, and this one is never released.
unsafe impl Send for OpenVino {}
// SAFETY: as above.
unsafe impl Sync for OpenVino {}

static LOADED: Mutex<Option<Arc<OpenVino>>> = Mutex::new(None);

impl OpenVino {
    /// Loads the library at `path`, or returns the one loaded before from the same path. What OpenVINO loads itself
    /// (its core, frontends, plugins and TBB) it finds beside it.
    ///
    /// Loading runs the library's own start-up code, so the path must come from the operator.
    ///
    /// # Errors
    ///
    /// Naming the path, when there is no such file, when it is no OpenVINO, when it is older than the API this server
    /// speaks, when it finds no device, and when another library was loaded before.
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
                "OpenVINO was already loaded from {}; a process can load one library, so {shown} takes a restart",
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

    /// The devices there are, as a contract names them.
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
            // The library reads a description of nothing as a graph of nothing.
            return Err(NnError::new(
                ErrorCode::InvalidEncoding,
                "OpenVINO cannot load the graph: it has no output",
            ));
        }
        let mut outputs = all_outputs.clone();
        super::options::select_outputs(&mut outputs, options)?;
        let fp64 = PortType::Tensor(TensorType::Fp64);
        if let Some(port) = (inputs.iter().chain(&outputs)).find(|port| port.ty == fp64) {
            return Err(NnError::unsupported(format!(
                "OpenVINO computes FP64 in FP32, and {} is FP64; load the graph with backend = \"onnxruntime\", or \
                 export it with FP32 there",
                quoted(&port.name)
            )));
        }
        let strings = PortType::Tensor(TensorType::Bytes);
        if let Some(port) = (inputs.iter().chain(&outputs)).find(|port| port.ty == strings) {
            return Err(NnError::unsupported(format!(
                "OpenVINO has no strings in its C interface that a run could give out, and {} is BYTES; load the graph with \
                 backend = \"onnxruntime\"",
                quoted(&port.name)
            )));
        }
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

/// Whether a graph's file is in OpenVINO's own format, by its name.
fn is_own_format(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "xml")
}

/// How a model is compiled: a stream a lane, and threads for all of them together.
fn properties(device: &str, options: &LoadOptions) -> Vec<(CString, CString)> {
    let lanes = options.lane_count();
    let mode = match options.precision {
        // The CPU plugin then also leaves activations as they are beside 8-bit weights (DYNAMIC_QUANTIZATION_GROUP_SIZE
        // 0) and key-value caches in FP32; INFERENCE_PRECISION_HINT = f32 alone does neither.
        Precision::Exact => c"ACCURACY",
        Precision::Fast => c"PERFORMANCE",
    };
    let mut properties = vec![(c"EXECUTION_MODE_HINT".to_owned(), mode.to_owned())];
    let mut set = |key: &CStr, value: String| {
        // A number or a word of ours has no zero byte.
        properties.push((key.to_owned(), CString::new(value).unwrap_or_default()));
    };
    if device == DEFAULT_DEVICE {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = lanes
            .saturating_mul(options.intra_op_threads.max(1))
            .min(cores);
        set(c"NUM_STREAMS", lanes.min(threads).to_string());
        set(c"INFERENCE_NUM_THREADS", threads.to_string());
        // Threads bound to cores would keep to them while the server's own work is there.
        set(c"ENABLE_CPU_PINNING", "NO".into());
    } else {
        let hint = if lanes == 1 { "LATENCY" } else { "THROUGHPUT" };
        set(c"PERFORMANCE_HINT", hint.into());
        set(c"PERFORMANCE_HINT_NUM_REQUESTS", lanes.to_string());
    }
    properties
}

/// Looks at a library without calling anything on it but its version, and returns that.
fn examine(path: &Path) -> Result<String, NnError> {
    let shown = path.display();
    let wrong = |what: String| {
        NnError::unsupported(format!(
            "OpenVINO's library {shown} cannot be used: {what}; give the libopenvino_c.so of OpenVINO {NEEDED} or \
             later, for this machine's processor, with the rest of OpenVINO beside it"
        ))
    };
    // SAFETY: runs the library's initialisers; that the operator names a library fit to run is the contract of
    // `OpenVino::load`.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| wrong(format!("it does not load ({error})")))?;
    let has = |name: &str| {
        // SAFETY: the symbol is looked up and not used.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_ok()
    };
    if !has("ov_get_openvino_version") {
        return Err(wrong(
            "it does not export ov_get_openvino_version, so it is not OpenVINO's C library".into(),
        ));
    }
    // SAFETY: the signatures are the ones OpenVINO has exported under these names since 2022.1.
    let version = unsafe {
        let get = library
            .get::<unsafe extern "C" fn(*mut ov::ov_version_t) -> c_int>(
                b"ov_get_openvino_version\0",
            )
            .map_err(|error| wrong(error.to_string()))?;
        let free = library
            .get::<unsafe extern "C" fn(*mut ov::ov_version_t)>(b"ov_version_free\0")
            .map_err(|error| wrong(error.to_string()))?;
        let mut version = ov::ov_version_t {
            buildNumber: ptr::null(),
            description: ptr::null(),
        };
        if get(&mut version) != 0 || version.buildNumber.is_null() {
            return Err(wrong("it does not say its version".into()));
        }
        let text = CStr::from_ptr(version.buildNumber)
            .to_string_lossy()
            .into_owned();
        free(&mut version);
        text
    };
    // "2026.4.1-22982-…": what stands before the build's number.
    let release = version.split('-').next().unwrap_or_default().to_owned();
    if let Some(missing) = FUNCTIONS.iter().find(|name| !has(name)) {
        return Err(wrong(format!(
            "it is version {release:?} and has no {missing}"
        )));
    }
    // `openvino-sys` takes two numbers for granted in this string.
    let mut numbers = release.split('.').map(str::parse::<u32>);
    if !matches!((numbers.next(), numbers.next()), (Some(Ok(_)), Some(Ok(_)))) {
        return Err(wrong(format!("it says it is version {version:?}")));
    }
    Ok(release)
}

/// Makes the one core of this process, and asks which devices it has.
fn start(path: &Path) -> Result<(*mut ov::ov_core_t, Vec<String>), String> {
    ov::library::load_from(path)?;
    let attempt = Attempt::begin();
    let failed = |status| attempt.reason(status);
    let mut core = ptr::null_mut();
    // SAFETY: writes one pointer; the library was just loaded with every function there is here.
    check(unsafe { ov::ov_core_create(&mut core) }).map_err(failed)?;
    // A weights file that is written over while the server runs must not become the model's weights, nor end the
    // process; read in whole, it cannot.
    let no_mapping = ov::ov_property_t {
        key: c"ENABLE_MMAP".as_ptr(),
        value: c"NO".as_ptr().cast(),
    };
    // SAFETY: one property, live for the call; a null device stands for the core itself.
    check(unsafe { ov::ov_core_set_properties(core, ptr::null(), 1, &no_mapping) })
        .map_err(failed)?;
    let mut found = ov::ov_available_devices_t {
        devices: ptr::null_mut(),
        size: 0,
    };
    // SAFETY: fills in a list that is freed below.
    check(unsafe { ov::ov_core_get_available_devices(core, &mut found) }).map_err(failed)?;
    let devices = (0..found.size)
        // SAFETY: the list has `size` C strings.
        .map(|index| unsafe { CStr::from_ptr(*found.devices.add(index)) })
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    // SAFETY: the list came from the library and is not used after.
    unsafe { ov::ov_available_devices_free(&mut found) };
    Ok((core, devices))
}

/// The newest opset that graphs are handed to it in whatever their operators. It reads any (measured with 2026.4.1: opsets
/// 1 to 29, IR 1 to 16), and would take an operator that has changed since for what it was.
pub const TESTED_OPSET: u64 = 26;

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

/// Handles of the library's, released when they go.
macro_rules! owned {
    ($($name:ident($handle:ty), $free:path;)+) => {$(
        struct $name(*mut $handle);

        impl Drop for $name {
            fn drop(&mut self) {
                if !self.0.is_null() {
                    // SAFETY: the handle came from the library, is owned here alone and not used after.
                    unsafe { $free(self.0) };
                }
            }
        }
    )+};
}

owned! {
    Model(ov::ov_model_t), ov::ov_model_free;
    CompiledModel(ov::ov_compiled_model_t), ov::ov_compiled_model_free;
    Request(ov::ov_infer_request_t), ov::ov_infer_request_free;
    Tensor(ov::ov_tensor_t), ov::ov_tensor_free;
    ConstPort(ov::ov_output_const_port_t), ov::ov_output_const_port_free;
}

/// What the library says goes in and out of a model.
struct Found {
    inputs: Ports,
    outputs: Ports,
}

struct Ports(Vec<Port>);

impl Found {
    fn of(model: &Model) -> Result<Self, Status> {
        // SAFETY: the model is live; each call writes one number or one handle, which `ConstPort` owns.
        unsafe {
            let (mut inputs, mut outputs) = (0, 0);
            check(ov::ov_model_inputs_size(model.0, &mut inputs))?;
            check(ov::ov_model_outputs_size(model.0, &mut outputs))?;
            let input = |index| {
                let mut port = ptr::null_mut();
                check(ov::ov_model_const_input_by_index(model.0, index, &mut port))?;
                describe(&ConstPort(port))
            };
            let output = |index| {
                let mut port = ptr::null_mut();
                check(ov::ov_model_const_output_by_index(
                    model.0, index, &mut port,
                ))?;
                describe(&ConstPort(port))
            };
            Ok(Self {
                inputs: Ports((0..inputs).map(input).collect::<Result<_, _>>()?),
                outputs: Ports((0..outputs).map(output).collect::<Result<_, _>>()?),
            })
        }
    }
}

impl Ports {
    /// Holds what the library found against what the file declares. The library drops the names of open dimensions
    /// and may give two ports one name, so the file's description is the one that is used; both count alike.
    fn agree(&self, what: &str, declared: &[Port]) -> Result<(), NnError> {
        let moved = |(index, port): (usize, &Port)| {
            let named = declared.iter().position(|other| other.name == port.name);
            named.is_some_and(|named| named != index)
        };
        let retyped = |(found, declared): (&Port, &Port)| {
            found.ty != declared.ty && !matches!(found.ty, PortType::Other(_))
        };
        if self.0.len() != declared.len()
            || self.0.iter().enumerate().any(moved)
            || self.0.iter().zip(declared).any(retyped)
        {
            return Err(NnError::unsupported(format!(
                "OpenVINO makes other {what} of the graph than it declares; load it with backend = \"onnxruntime\""
            )));
        }
        Ok(())
    }
}

/// A port of a model.
fn describe(port: &ConstPort) -> Result<Port, Status> {
    let mut name = ptr::null_mut();
    let mut raw = Element::DYNAMIC as u32;
    let mut shape = ov::ov_partial_shape_t {
        rank: ov::ov_dimension_t { min: 0, max: 0 },
        dims: ptr::null_mut(),
    };
    // SAFETY: the port is live; each call writes where it is told. The element type is read as the number it is,
    // because a newer library may have one that the enumeration lacks. What is handed out is freed.
    unsafe {
        check(ov::ov_port_get_element_type(
            port.0,
            (&raw mut raw).cast::<Element>(),
        ))?;
        // A port that has no name is an error of the call and a port without a name here.
        let name = match check(ov::ov_port_get_any_name(port.0, &mut name)) {
            Ok(()) => take_text(name),
            Err(_) => String::new(),
        };
        check(ov::ov_port_get_partial_shape(port.0, &mut shape))?;
        let dims = (shape.rank.min == shape.rank.max && shape.rank.min >= 0).then(|| {
            (0..shape.rank.min as usize)
                .map(|index| {
                    let dim = *shape.dims.add(index);
                    match u32::try_from(dim.min) {
                        Ok(length) if dim.min == dim.max => Dim::Fixed(length),
                        _ => Dim::Symbolic(String::new()),
                    }
                })
                .collect()
        });
        ov::ov_partial_shape_free(&mut shape);
        Ok(Port {
            name,
            ty: port_type(raw),
            dims,
        })
    }
}

struct OvSession(Arc<Graph>);

/// A graph and what every call on it needs.
struct Graph {
    core: Core,
    device: CString,
    properties: Vec<(CString, CString)>,
    /// Whether a length in the graph is known only when it runs.
    open_shapes: bool,
    /// What a graph of open shapes is compiled anew from; its weights are shared with what is compiled where the
    /// device leaves them as they are. Not from the file, which may have changed.
    model: Option<Model>,
    /// What runs begin on; there from the load on.
    current: Mutex<Option<Arc<Compiled>>>,
    inputs: Vec<Port>,
    /// Indices that are held against lengths before OpenVINO sees them.
    guards: Vec<refused::Guard>,
    outputs: Vec<Port>,
    elements: Vec<Element>,
    /// Where each of `outputs` stands among all the graph has.
    output_at: Vec<usize>,
    /// Bytes that the outputs of a run may have together. What is between the operators cannot be bounded here.
    most_bytes: usize,
    cost: Cost,
    rows: Rows,
}

#[derive(Clone, Copy)]
struct Core(*mut ov::ov_core_t);

/// A compiled model.
struct Compiled {
    model: CompiledModel,
    /// What compiling took.
    took: Duration,
    /// Whether a run on it ended badly, so that it is to be used no more.
    spoilt: AtomicBool,
    /// Runs begun on it so far, and those under way.
    begun: AtomicU64,
    under_way: AtomicUsize,
}

/// A run on a compiled model, from its first call of the library to its last.
struct OneOf<'a> {
    compiled: &'a Compiled,
    number: u64,
    began_alone: bool,
}

impl<'a> OneOf<'a> {
    fn begin(compiled: &'a Compiled) -> Self {
        let others = compiled.under_way.fetch_add(1, Ordering::SeqCst);
        Self {
            compiled,
            number: compiled.begun.fetch_add(1, Ordering::SeqCst) + 1,
            began_alone: others == 0,
        }
    }

    /// Whether no other run was under way on the same compiled model since this one began.
    fn was_alone(&self) -> bool {
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
    fn compile(&self, model: &Model) -> Result<Compiled, Status> {
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

    fn current(&self) -> Result<Arc<Compiled>, NnError> {
        lock(&self.current)
            .clone()
            .ok_or_else(|| NnError::runtime("the graph is not compiled"))
    }

    /// Compiles the graph anew, unless another call already did.
    fn renew(&self, spoilt: &Arc<Compiled>) -> Result<(), NnError> {
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
    fn request(&self) -> Result<Request, NnError> {
        let attempt = Attempt::begin();
        let mut request = ptr::null_mut();
        // SAFETY: the model is live; the request is owned by who asked.
        check(unsafe { ov::ov_compiled_model_create_infer_request(self.model.0, &mut request) })
            .map_err(|status| {
                NnError::runtime(format!(
                    "OpenVINO cannot make a lane for the graph: {}",
                    attempt.reason(status)
                ))
            })?;
        Ok(Request(request))
    }
}

impl Session for OvSession {
    fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    fn rows(&self) -> Rows {
        self.0.rows.clone()
    }

    fn cost(&self) -> Cost {
        match self.0.open_shapes {
            true => Cost::Values("a run that fails on open shapes compiles the graph anew".into()),
            false => self.0.cost.clone(),
        }
    }

    fn lane(&self) -> Result<Box<dyn Lane>, NnError> {
        let compiled = self.0.current()?;
        Ok(Box::new(OvLane {
            request: compiled.request()?,
            compiled,
            graph: self.0.clone(),
            progress: Arc::new(Switch(Mutex::new(Progress::Idle))),
        }))
    }
}

struct OvLane {
    /// Before what it was made from, so that it goes first.
    request: Request,
    compiled: Arc<Compiled>,
    graph: Arc<Graph>,
    progress: Arc<Switch>,
}

// SAFETY: the request is used by its lane, one call at a time. From other threads it is only cancelled, which
// ov::InferRequest allows while it runs; see `Progress`.
unsafe impl Send for OvLane {}

/// Through this a lane's run is ended early.
struct Switch(Mutex<Progress>);

/// How far a lane's run is.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Idle,
    /// The lane prepares its run, or it is too early to end it.
    Begun,
    /// The library runs this request, which lives until the lane says that it is idle.
    Started(*mut ov::ov_infer_request_t),
    /// It is to end.
    Ended,
}

// SAFETY: the pointer is used under the switch's lock alone, while the lane waits for what it leads to.
unsafe impl Send for Progress {}

impl Interrupt for Switch {
    fn interrupt(&self) {
        let mut progress = lock(&self.0);
        match *progress {
            // The lane looks before it begins, and again before it waits.
            Progress::Idle | Progress::Begun | Progress::Ended => *progress = Progress::Ended,
            Progress::Started(request) => {
                *progress = Progress::Ended;
                // SAFETY: the request is live and runs. An error would mean that it has just ended.
                unsafe { ov::ov_infer_request_cancel(request) };
            }
        }
    }

    fn reset(&self) {
        *lock(&self.0) = Progress::Idle;
    }
}

/// How a run went wrong.
enum Fault {
    /// Before it was started.
    Refused(NnError),
    /// While it ran.
    Failed(NnError),
}

impl Lane for OvLane {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let graph = self.graph.clone();
        if inputs.len() != graph.inputs.len() {
            return Err(NnError::invalid(format!(
                "the graph takes {} inputs and {} were given",
                graph.inputs.len(),
                inputs.len()
            )));
        }
        for guard in &graph.guards {
            guard.check(&graph.inputs, inputs)?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let current = graph.current()?;
            if !Arc::ptr_eq(&current, &self.compiled) {
                self.request = current.request()?;
                self.compiled = current;
            }
            {
                let mut progress = lock(&self.progress.0);
                if *progress == Progress::Ended {
                    return Err(NnError::runtime("the run was ended early"));
                }
                *progress = Progress::Begun;
            }
            let compiled = self.compiled.clone();
            let one = OneOf::begin(&compiled);
            let outcome = self.start(inputs);
            let alone = one.was_alone();
            drop(one);
            let ended = {
                let mut progress = lock(&self.progress.0);
                std::mem::replace(&mut *progress, Progress::Idle) == Progress::Ended
            };
            let spoilt = || graph.open_shapes && self.compiled.spoilt.load(Ordering::SeqCst);
            match outcome {
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Failed(_)) if ended => {
                    graph.renew(&self.compiled)?;
                    return Err(NnError::runtime("the run was ended early"));
                }
                // Another call's failure may be the reason.
                Err(Fault::Failed(_)) | Ok(()) if spoilt() && tries < MAX_TRIES => {}
                // The other call may have failed first and not have said so yet.
                Err(Fault::Failed(_)) if graph.open_shapes && !alone && tries < MAX_TRIES => {
                    graph.renew(&self.compiled)?;
                }
                Err(Fault::Failed(error)) => {
                    graph.renew(&self.compiled)?;
                    return Err(error);
                }
                Ok(()) => {
                    let mut left = graph.most_bytes;
                    let outputs: Result<Vec<NnTensor>, NnError> =
                        (graph.outputs.iter().zip(&graph.output_at))
                            .map(|(port, index)| {
                                read(&self.request, *index, port, graph.most_bytes, &mut left)
                            })
                            .collect();
                    // A request holds its outputs until its next run, and the CPU plugin what it computed them
                    // from for as long as the compiled model is there.
                    if outputs.is_err() && graph.open_shapes {
                        graph.renew(&self.compiled)?;
                        self.compiled = graph.current()?;
                    }
                    if outputs.is_err() || graph.most_bytes - left > KEPT_OUTPUT_BYTES {
                        self.request = self.compiled.request()?;
                    }
                    return outputs;
                }
            }
        }
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.progress.clone())
    }
}

impl OvLane {
    /// Sets the inputs, runs, and waits for the end.
    fn start(&self, inputs: &[NnTensor]) -> Result<(), Fault> {
        let attempt = Attempt::begin();
        let wrong = |status: Status| {
            let code = match status {
                Status::PARAMETER_MISMATCH | Status::INVALID_C_PARAM => ErrorCode::InvalidArgument,
                Status::NOT_IMPLEMENTED => ErrorCode::UnsupportedOperation,
                _ => ErrorCode::RuntimeError,
            };
            NnError::new(
                code,
                format!("OpenVINO cannot run the graph: {}", attempt.reason(status)),
            )
        };
        let refused = |status: Status| Fault::Refused(wrong(status));
        // Aligned copies of what lies badly; they and the inputs outlive the run, which is waited for below.
        let mut copies: Vec<Vec<u64>> = Vec::new();
        let ports = (self.graph.inputs.iter()).zip(&self.graph.elements);
        for (index, (tensor, (port, element))) in inputs.iter().zip(ports).enumerate() {
            tensor.check().map_err(Fault::Refused)?;
            within_32_bits(tensor, port).map_err(Fault::Refused)?;
            let mut data = tensor.data.as_ptr();
            if data.align_offset(tensor.ty.size()) != 0 {
                let mut copy = vec![0u64; tensor.data.len().div_ceil(size_of::<u64>())];
                // SAFETY: `copy` is at least as long as the bytes and overlaps nothing.
                unsafe {
                    ptr::copy_nonoverlapping(
                        data,
                        copy.as_mut_ptr().cast::<u8>(),
                        tensor.data.len(),
                    );
                }
                data = copy.as_ptr().cast();
                copies.push(copy);
            }
            let mut dims = [0i64; crate::tensor::MAX_RANK];
            for (to, from) in dims.iter_mut().zip(&tensor.dims) {
                *to = i64::from(*from);
            }
            let shape = ov::ov_shape_t {
                rank: tensor.dims.len() as i64,
                dims: dims.as_mut_ptr(),
            };
            let mut made = ptr::null_mut();
            // SAFETY: `data` is aligned for the element and, by `check`, as long as the shape says; the shape is
            // copied. OpenVINO reads inputs and does not write to them (the suite looks), so that the bytes are
            // shared with others is of no consequence.
            check(unsafe {
                ov::ov_tensor_create_from_host_ptr(
                    *element,
                    shape,
                    data.cast_mut().cast::<c_void>(),
                    &mut made,
                )
            })
            .map_err(refused)?;
            let made = Tensor(made);
            // SAFETY: both handles are live; the request keeps a reference of its own. After the run it still points
            // at these bytes, and looks at them again only in a run, which sets every input anew.
            check(unsafe {
                ov::ov_infer_request_set_input_tensor_by_index(self.request.0, index, made.0)
            })
            .map_err(refused)?;
        }
        // SAFETY: the request is live, idle and has all its inputs.
        check(unsafe { ov::ov_infer_request_start_async(self.request.0) }).map_err(refused)?;
        let failed = |status: Status| Fault::Failed(wrong(status));
        if self.graph.open_shapes {
            let grace = i64::try_from(self.compiled.took.as_millis()).unwrap_or(i64::MAX);
            // SAFETY: the request is live and was started.
            match unsafe { ov::ov_infer_request_wait_for(self.request.0, grace.max(1)) } {
                Status::RESULT_NOT_READY => {}
                status => return check(status).map_err(failed),
            }
        }
        {
            let mut progress = lock(&self.progress.0);
            match *progress {
                // SAFETY: the request is live and was started.
                Progress::Ended => unsafe {
                    ov::ov_infer_request_cancel(self.request.0);
                },
                _ => *progress = Progress::Started(self.request.0),
            }
        }
        // SAFETY: the request is live and was started; whatever comes of it, it is idle again afterwards.
        check(unsafe { ov::ov_infer_request_wait(self.request.0) }).map_err(failed)
    }
}

/// Refuses what OpenVINO would cut to its lowest 32 bits without a word.
fn within_32_bits(tensor: &NnTensor, port: &Port) -> Result<(), NnError> {
    fn beyond<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> i128) -> Option<i128> {
        let (elements, _) = data.as_chunks::<N>();
        let mut numbers = elements.iter().map(|bytes| read(*bytes));
        numbers.find(|number| i32::try_from(*number).is_err())
    }
    let found = match tensor.ty {
        TensorType::I64 => beyond(&tensor.data, |b| i64::from_le_bytes(b).into()),
        TensorType::U64 => beyond(&tensor.data, |b| u64::from_le_bytes(b).into()),
        TensorType::U32 => beyond(&tensor.data, |b| u32::from_le_bytes(b).into()),
        _ => None,
    };
    match found {
        None => Ok(()),
        Some(number) => Err(NnError::invalid(format!(
            "input {} holds {number}, and OpenVINO computes {} in signed 32 bits; send numbers from {} to {}",
            quoted(&port.name),
            tensor.ty,
            if tensor.ty == TensorType::I64 {
                i32::MIN
            } else {
                0
            },
            i32::MAX
        ))),
    }
}

/// Copies an output out of its request.
///
/// `left` is what the outputs may still take of `most` bytes in all.
fn read(
    request: &Request,
    index: usize,
    port: &Port,
    most: usize,
    left: &mut usize,
) -> Result<NnTensor, NnError> {
    let wrong = |what: &str| NnError::runtime(format!("output {} {what}", quoted(&port.name)));
    let failed = |_: Status| wrong("cannot be read");
    let ty = port
        .ty
        .carried_as()
        .ok_or_else(|| wrong("has a type no tensor carries"))?;
    let mut tensor = ptr::null_mut();
    // SAFETY: the request is live and idle; the tensor is owned here.
    check(unsafe {
        ov::ov_infer_request_get_output_tensor_by_index(request.0, index, &mut tensor)
    })
    .map_err(failed)?;
    let tensor = Tensor(tensor);
    let mut raw = Element::DYNAMIC as u32;
    let mut shape = ov::ov_shape_t {
        rank: 0,
        dims: ptr::null_mut(),
    };
    let (mut len, mut data) = (0usize, ptr::null_mut());
    // SAFETY: the tensor is live; each call writes where it is told (the element type as the number it is, see
    // `describe`). The shape has `rank` lengths and is freed; the data is `len` bytes and lives with the request,
    // whose lane is borrowed for this call.
    unsafe {
        check(ov::ov_tensor_get_element_type(
            tensor.0,
            (&raw mut raw).cast::<Element>(),
        ))
        .map_err(failed)?;
        if port_type(raw) != port.ty {
            return Err(wrong("came with another type than the graph declares"));
        }
        check(ov::ov_tensor_get_byte_size(tensor.0, &mut len)).map_err(failed)?;
        *left = left
            .checked_sub(len)
            .ok_or_else(|| super::message::too_much_memory(most - *left + len, most))?;
        match check(ov::ov_tensor_get_shape(tensor.0, &mut shape)) {
            Ok(()) => {}
            // The C API has no shape without dimensions, which is a scalar's.
            Err(Status::INVALID_C_PARAM) if len == ty.size() => shape.rank = 0,
            Err(status) => return Err(failed(status)),
        }
        let dims = if shape.rank > MAX_OUTPUT_RANK {
            Err(wrong("has more dimensions than can be taken"))
        } else {
            (0..shape.rank.max(0) as usize)
                .map(|index| u32::try_from(*shape.dims.add(index)))
                .collect::<Result<Vec<u32>, _>>()
                .map_err(|_| wrong("has a dimension that does not fit 32 bits"))
        };
        if !shape.dims.is_null() {
            ov::ov_shape_free(&mut shape);
        }
        let bytes = if len == 0 {
            Bytes::new()
        } else {
            check(ov::ov_tensor_data(tensor.0, &mut data)).map_err(failed)?;
            Bytes::copy_from_slice(std::slice::from_raw_parts(data.cast::<u8>(), len))
        };
        let tensor = NnTensor::new(ty, dims?, bytes)
            .map_err(|_| wrong("is not as long as its shape says"))?;
        match saturated(&tensor) {
            false => Ok(tensor),
            true => Err(wrong(
                "holds the least number of 32 bits, with which OpenVINO stands for INT64 numbers beyond 32 bits; load \
                 the model with backend = \"onnxruntime\"",
            )),
        }
    }
}

/// Whether an output of INT64 has an element that OpenVINO could not hold. It converts what is beyond 32 bits to the least
/// number of 32 bits, which is hardly ever an answer.
fn saturated(tensor: &NnTensor) -> bool {
    let least = i64::from(i32::MIN).to_le_bytes();
    tensor.ty == TensorType::I64 && tensor.data.as_chunks::<8>().0.contains(&least)
}

/// Calls begun so far, and those under way: by these an attempt knows whether the library's one last message can be
/// another's.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// A load or a run, from its first call of the library to its last.
struct Attempt {
    number: u64,
    began_alone: bool,
}

impl Attempt {
    fn begin() -> Self {
        let others = UNDER_WAY.fetch_add(1, Ordering::SeqCst);
        Self {
            number: BEGUN.fetch_add(1, Ordering::SeqCst) + 1,
            began_alone: others == 0,
        }
    }

    /// What went wrong, in words fit for a caller.
    fn reason(&self, status: Status) -> String {
        // SAFETY: the library hands out a copy of its own, or null.
        let message = unsafe { take_text(ov::ov_get_last_err_msg().cast_mut()) };
        // In this order: what began after the message was read did not write it.
        let alone = self.began_alone && BEGUN.load(Ordering::SeqCst) == self.number;
        let told = if alone {
            plain(&message)
        } else {
            String::new()
        };
        if told.is_empty() {
            general(status).into()
        } else {
            told
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A message of the library without the places in its source and the headings of its layers.
fn plain(message: &str) -> String {
    let lines: Vec<&str> = (message.lines())
        .map(|line| match line.find(" failed at src/") {
            Some(_) if line.starts_with("Check '") => {
                line.split_once(": ").map_or("", |(_, rest)| rest)
            }
            _ => line,
        })
        .filter(|line| {
            !["Exception from src/", "FrontEnd API failed with"]
                .iter()
                .any(|heading| line.starts_with(heading))
        })
        .collect();
    presentable(&lines.join(" "))
}

/// A status in words.
fn general(status: Status) -> &'static str {
    match status {
        Status::NOT_IMPLEMENTED => "it lacks something the graph needs",
        Status::PARAMETER_MISMATCH | Status::OUT_OF_BOUNDS => "the inputs do not fit the graph",
        Status::INFER_CANCELLED => "the run was cancelled",
        _ => {
            "it failed, and other calls were under way, so that its message may be theirs; try it alone"
        }
    }
}

/// A text the library handed out, freed.
///
/// # Safety
///
/// `text` is null or came from the library and is not used after.
unsafe fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the contract above it is a live C string of the library's.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        ov::ov_free(text);
        owned
    }
}

fn text(text: &str) -> Result<CString, NnError> {
    CString::new(text).map_err(|_| NnError::invalid("a name holds a zero byte; rename it"))
}

fn check(status: Status) -> Result<(), Status> {
    match status {
        Status::OK => Ok(()),
        other => Err(other),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Refuses types of a byte and less. OpenVINO reads some of them, each by another version, and gives out few.
fn no_small_types<'p>(mut ports: impl Iterator<Item = &'p Port>) -> Result<(), NnError> {
    let is_small = |ty: TensorType| ty.packed_bits().is_some() || ty.fp8().is_some();
    match ports.find(|port| port.ty.carried_as().is_some_and(is_small)) {
        Some(port) => Err(NnError::unsupported(format!(
            "this server gives OpenVINO no {} tensors, and {} is one; load the graph with backend = \"onnxruntime\"",
            port.ty,
            quoted(&port.name)
        ))),
        None => Ok(()),
    }
}

/// OpenVINO's number for an element type.
fn port_type(raw: u32) -> PortType {
    const TYPES: [(Element, PortType); 14] = [
        (Element::OV_BOOLEAN, PortType::Tensor(TensorType::Bool)),
        (Element::BF16, PortType::Tensor(TensorType::Bf16)),
        (Element::F16, PortType::Tensor(TensorType::Fp16)),
        (Element::F32, PortType::Tensor(TensorType::Fp32)),
        (Element::F64, PortType::Tensor(TensorType::Fp64)),
        (Element::I8, PortType::Tensor(TensorType::I8)),
        (Element::I16, PortType::Tensor(TensorType::I16)),
        (Element::I32, PortType::Tensor(TensorType::I32)),
        (Element::I64, PortType::Tensor(TensorType::I64)),
        (Element::U8, PortType::Tensor(TensorType::U8)),
        (Element::U16, PortType::Tensor(TensorType::U16)),
        (Element::U32, PortType::Tensor(TensorType::U32)),
        (Element::U64, PortType::Tensor(TensorType::U64)),
        (Element::STRING, PortType::Tensor(TensorType::Bytes)),
    ];
    (TYPES.iter())
        .find(|(element, _)| *element as u32 == raw)
        .map_or(
            PortType::Other("a number of less than a byte or of a rare format"),
            |(_, ty)| *ty,
        )
}

fn element(ty: PortType) -> Element {
    match ty {
        PortType::Tensor(TensorType::Fp16) => Element::F16,
        PortType::Tensor(TensorType::Fp32) => Element::F32,
        PortType::Tensor(TensorType::Fp64) => Element::F64,
        PortType::Tensor(TensorType::Bf16) => Element::BF16,
        PortType::Tensor(TensorType::U8) => Element::U8,
        PortType::Tensor(TensorType::I32) => Element::I32,
        PortType::Tensor(TensorType::I64) => Element::I64,
        PortType::Tensor(TensorType::Bool) => Element::OV_BOOLEAN,
        PortType::Tensor(TensorType::I8) => Element::I8,
        PortType::Tensor(TensorType::I16) => Element::I16,
        PortType::Tensor(TensorType::U16) => Element::U16,
        PortType::Tensor(TensorType::U32) => Element::U32,
        PortType::Tensor(TensorType::U64) => Element::U64,
        PortType::Tensor(TensorType::Bytes) => Element::STRING,
        // Refused when the graph is loaded.
        PortType::Tensor(
            TensorType::I2
            | TensorType::U2
            | TensorType::I4
            | TensorType::U4
            | TensorType::Fp8E4m3fn
            | TensorType::Fp8E4m3fnuz
            | TensorType::Fp8E5m2
            | TensorType::Fp8E5m2fnuz,
        )
        | PortType::Other(_) => Element::DYNAMIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(device: &str, lanes: usize, threads: usize) -> Vec<(String, String)> {
        let options = LoadOptions {
            lanes: Some(lanes),
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
    fn lanes_and_their_threads_never_outnumber_the_cores() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for (lanes, threads) in [(1, 1), (1, 64), (64, 1), (64, 64), (usize::MAX, usize::MAX)] {
            let set = set("CPU", lanes, threads);
            let number = |key| value(&set, key).and_then(|text| text.parse::<usize>().ok());
            let (streams, all) = (number("NUM_STREAMS"), number("INFERENCE_NUM_THREADS"));
            assert!(all.is_some_and(|all| (1..=cores).contains(&all)), "{set:?}");
            assert!(streams <= all && streams <= Some(lanes), "{set:?}");
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

    #[test]
    fn a_message_loses_its_source_lines_and_paths_and_keeps_what_it_says() {
        let text = plain(
            "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'util::file_exists(path)' failed at \
             src/frontends/common/src/frontend.cpp:117:\nFrontEnd API failed with GeneralFailure:\nonnx: Could not \
             open the file: \"/srv/models/m/1/model.onnx\"\n\n",
        );
        assert_eq!(text, "onnx: Could not open the file:");
    }

    #[test]
    fn a_number_beyond_32_bits_is_refused_and_named() {
        let port = Port {
            name: "ids".into(),
            ty: PortType::Tensor(TensorType::I64),
            dims: None,
        };
        let tensor = |value: i64| {
            NnTensor::new(TensorType::I64, vec![1], value.to_le_bytes().to_vec()).expect("sound")
        };
        for value in [i64::from(i32::MIN), 0, i64::from(i32::MAX)] {
            assert!(within_32_bits(&tensor(value), &port).is_ok());
        }
        for value in [i64::MIN, i64::from(i32::MAX) + 1] {
            let error = within_32_bits(&tensor(value), &port).expect_err("too far");
            assert!(error.message.contains(&value.to_string()), "{error}");
        }
    }
}
