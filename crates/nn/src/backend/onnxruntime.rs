//! ONNX Runtime, from a shared library named at start, on the processor or on another of its providers.
//!
//! Decisions:
//!
//! - **The library is examined before the `ort` crate sees it.** `ort` panics where a library lacks the API it
//!   was built for, and asks only for the version string before it goes on; here the library must hand out API
//!   24 before anything else is called on it, and everything that is wrong with it is an error naming the path.
//! - **One session a model, shared by its lanes.** ONNX Runtime documents `Run` as safe to call at once on one
//!   session, and the CPU provider is; weights and their prepacked copies are then in memory once, and a model
//!   loads once however many lanes it has. `ort`'s `Session::run` takes `&mut self` because of other providers,
//!   so `Run` is called on the C API here. It is the same for the other providers: ONNX Runtime itself takes turns
//!   for one that does not allow calls at once, CUDA's keeps a stream a thread, TensorRT's takes turns inside. A
//!   session a lane would hold the weights on the device as many times.
//! - **A provider that is asked for computes, or the load fails.** It must be among those the library was built with,
//!   and must register; both are checked before a graph is read. Single operators that a device does not have run on
//!   the processor, as ONNX Runtime always does it: `session.disable_cpu_ep_fallback` would refuse nearly every graph
//!   that computes a shape.
//! - **The precision the graph has**, unless the contract says `precision = "fast"`. TF32 is off on CUDA, no provider is
//!   told to use FP16, and what ONNX Runtime does by itself to be faster is off ([`EXACT`]): which device a server has
//!   must not change its answers.
//! - **A run can be ended early**, between two operators, by its own run options.
//! - **A run's memory is bounded** ([`LoadOptions::working_bytes`]) and given back: see [`allocator`].
//! - **Inputs are borrowed, outputs copied at most once.** ONNX Runtime reads a guest's bytes where they lie,
//!   or in an aligned copy where they lie badly. Small outputs are copied out; from [`LEND_OUTPUT_BYTES`] on
//!   the caller gets ONNX Runtime's own buffer, released when the last reference to it goes.

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use ort::environment::Environment;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::sys;
use ort::value::ValueType;
use ort::{AsPointer, ep, ortsys};
use penstock_tensor::contract::{Precision, Provider};

use value::{Value, check, describe, element, port_type, type_of};
use values::Kind;

use super::cost::Cost;
use super::message::{panic_text, presentable};
use super::options::{GraphSource, LoadOptions};
use super::port::{Dim, Port, PortType};
use super::rows::Rows;
use super::session::{Backend, Interrupt, Lane, Session};
use super::versions::Reads;
use super::{onnx_file, packed, versions};
use crate::error::{ErrorCode, NnError, listed, quoted};
use crate::tensor::{NnTensor, TensorType};

mod allocator;
mod value;
mod values;

/// The name `model.toml` knows the backend by.
pub const NAME: &str = super::names::ONNXRUNTIME;

/// The version of ONNX Runtime's C API this crate calls; the `ort` feature `api-24` is the other half.
const API_VERSION: u32 = 24;

/// From this size on an output is lent to the caller, not copied: below it a copy costs less than the
/// bookkeeping and gives the buffer back to the session at once.
pub const LEND_OUTPUT_BYTES: usize = 64 * 1024;

/// The session options of the precision the graph has. Those that are ONNX Runtime's defaults today are set all the same.
///
/// `session.x64quantprecision` is left alone: it would keep U8 by S8 products from overflowing 16 bits on x86 processors
/// without VNNI, and ONNX Runtime 1.29 does not survive it on some graphs.
const EXACT: &[(&str, &str)] = &[
    // By default DequantizeLinear with MatMul becomes MatMulNBits with 8-bit activations, up to 3e-2 off.
    ("session.qdq_matmulnbits_accuracy_level", "0"),
    ("mlas.enable_gemm_fastmath_arm64_bfloat16", "0"),
    ("mlas.use_lut_gemm", "0"),
    ("optimization.enable_gelu_approximation", "0"),
    ("optimization.enable_cast_chain_elimination", "0"),
];

/// What ONNX Runtime says of a run that its options ended; it has no code for it.
const TERMINATED: &str = "due to terminate flag";

/// The loaded library. There is one in a process, because ONNX Runtime and `ort` keep global state.
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    path: PathBuf,
    /// Describes CPU memory to `CreateTensorWithDataAsOrtValue`; made once, never released.
    cpu: CpuMemory,
    /// Whether sessions take their memory from [`allocator`].
    counts_memory: bool,
    /// Which versions of ONNX it reads, found by loading the smallest graph of each.
    reads: OnceLock<Reads>,
}

/// The largest version that is asked about; ONNX adds one or two opsets a year and had 28 in 2026.
const MOST_PROBED: u64 = 127;

#[derive(Clone, Copy)]
struct CpuMemory(*const sys::OrtMemoryInfo);
// SAFETY: an OrtMemoryInfo is never written after it was made, and this one is never released.
unsafe impl Send for CpuMemory {}
// SAFETY: as above.
unsafe impl Sync for CpuMemory {}

static LOADED: Mutex<Option<Arc<OnnxRuntime>>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the library at `path`, or returns the one loaded before from the same path.
    ///
    /// Loading runs the library's own start-up code, so the path must come from the operator.
    ///
    /// # Errors
    ///
    /// Naming the path, when there is no such file, when it is no ONNX Runtime, when it is older than the
    /// API this server speaks, and when another library was loaded before.
    pub fn load(path: &Path) -> Result<Arc<Self>, NnError> {
        let shown = path.display();
        let absolute = path.canonicalize().map_err(|error| {
            NnError::not_found(format!(
                "ONNX Runtime's library {shown} cannot be opened: {error}; give the path of libonnxruntime.so"
            ))
        })?;
        let mut loaded = LOADED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(runtime) = &*loaded {
            if runtime.path == absolute {
                return Ok(runtime.clone());
            }
            return Err(NnError::unsupported(format!(
                "ONNX Runtime was already loaded from {}; a process can load one library, so {shown} takes a restart",
                runtime.path.display()
            )));
        }
        let version = examine(&absolute)?;
        let failed = |what: String| {
            NnError::runtime(format!(
                "ONNX Runtime's library {shown} does not start: {what}"
            ))
        };
        let made = catch_unwind(AssertUnwindSafe(
            || -> Result<(Environment, CpuMemory, bool), String> {
                let environment = ort::init_from(&absolute)
                    .map_err(|error| error.to_string())?
                    .with_name("penstock")
                    .with_telemetry(false)
                    .build()
                    .map_err(|error| error.to_string())?;
                // Every error comes back as a status and is reported once, by whoever asked; a line on standard
                // error for each bad request would only let guests fill the log.
                if std::env::var_os("ORT_LOG").is_none() {
                    environment.set_log_level(LogLevel::Fatal);
                }
                let cpu = cpu_memory(sys::OrtAllocatorType::OrtArenaAllocator)?;
                let device = cpu_memory(sys::OrtAllocatorType::OrtDeviceAllocator)?;
                let counting = allocator::make(&absolute, device);
                if let Some(allocator) = counting {
                    // SAFETY: environment and allocator live as long as the process.
                    let status = ortsys![unsafe RegisterAllocator(
                        environment.ptr().cast_mut(),
                        allocator
                    )];
                    check(status).map_err(|error| error.message)?;
                }
                Ok((environment, CpuMemory(cpu), counting.is_some()))
            },
        ));
        let (environment, cpu, counts_memory) = match made {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(failed(error)),
            Err(panic) => return Err(failed(panic_text(&*panic))),
        };
        let runtime = Arc::new(Self {
            environment,
            version,
            path: absolute,
            cpu,
            counts_memory,
            reads: OnceLock::new(),
        });
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    fn builder(
        &self,
        options: &LoadOptions,
        providers: &[ExecutionProviderDispatch],
    ) -> Result<SessionBuilder, String> {
        let text = |error: ort::Error<SessionBuilder>| error.to_string();
        let builder = SessionBuilder::new(&self.environment)
            .map_err(|error| error.to_string())?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(text)?
            .with_intra_threads(options.intra_op_threads.max(1))
            .map_err(text)?
            // Waiting threads must not burn the cores the server answers on.
            .with_intra_op_spinning(false)
            .map_err(text)?
            .with_inter_op_spinning(false)
            .map_err(text)?
            .with_inter_threads(1)
            .map_err(text)?
            .with_execution_providers(providers)
            .map_err(text)?
            .with_config_entry(
                "session.use_env_allocators",
                if self.counts_memory { "1" } else { "0" },
            )
            .map_err(text)?;
        match options.precision {
            Precision::Exact => EXACT.iter().try_fold(builder, |builder, (key, value)| {
                builder.with_config_entry(*key, *value).map_err(text)
            }),
            Precision::Fast => Ok(builder),
        }
    }

    fn open(&self, graph: &GraphSource, options: &LoadOptions) -> Result<Arc<Shared>, NnError> {
        let declared = onnx_file::examine(graph)?;
        let rows = declared.rows(options);
        let cost = match options.provider {
            Provider::Cpu => declared.cost,
            provider => {
                // They build kernels and plans for new shapes during a run, and wait for a device that others use.
                Cost::Values(format!(
                    "provider {} may prepare itself in a run",
                    provider.as_str()
                ))
            }
        };
        let asked = asked_providers(options)?;
        let available = available_providers()?;
        for provider in &asked {
            provider.is_among(&available)?;
        }
        let providers: Vec<ExecutionProviderDispatch> =
            asked.iter().map(AskedProvider::dispatch).collect();
        let mut builder =
            self.builder(options, &providers)
                .map_err(|error| match asked.first() {
                    Some(provider) => provider.does_not_start(&error),
                    None => NnError::runtime(presentable(&error)),
                })?;
        for library in &options.operator_libraries {
            builder = builder.with_operator_library(library).map_err(|error| {
                NnError::unsupported(format!(
                    "the operator library {} cannot be loaded: {}; correct [models.operators] in the server's settings",
                    quoted(&library.file_name().unwrap_or_default().to_string_lossy()),
                    presentable(error.message())
                ))
            })?;
        }
        let session = match graph {
            GraphSource::File(path) => builder.commit_from_file(path),
            GraphSource::Bytes(bytes) => builder.commit_from_memory(bytes),
        }
        .map_err(|error| {
            let code = match error.code() {
                ort::ErrorCode::InvalidProtobuf | ort::ErrorCode::InvalidGraph => {
                    ErrorCode::InvalidEncoding
                }
                ort::ErrorCode::NoSuchFile => ErrorCode::NotFound,
                ort::ErrorCode::NotImplemented => ErrorCode::UnsupportedOperation,
                _ => ErrorCode::RuntimeError,
            };
            NnError::new(
                code,
                format!(
                    "ONNX Runtime cannot load the graph: {}{}",
                    presentable(error.message()),
                    missing_locale(error.message())
                ),
            )
        })?;
        let mut entries: Vec<Entry> = (session.inputs().iter().enumerate())
            .map(|(index, outlet)| {
                let given = || has_shape(&session, index, Side::Input);
                Entry::new(outlet.name(), outlet.dtype(), given, None)
            })
            .collect();
        // An input that the graph gives a value of its own is one of the model's where the contract names it.
        for given in session.overridable_initializers() {
            if options
                .optional_inputs
                .iter()
                .any(|name| name == given.name())
            {
                entries.push(Entry {
                    has_default: true,
                    ..Entry::new(given.name(), given.dtype(), || true, None)
                });
            }
        }
        let mut exits: Vec<Entry> = (session.outputs().iter().enumerate())
            .map(|(index, outlet)| {
                let given = || has_shape(&session, index, Side::Output);
                let labels = options.labels.get(outlet.name()).cloned();
                Entry::new(outlet.name(), outlet.dtype(), given, labels)
            })
            .collect();
        let mut outputs: Vec<Port> = exits.iter().flat_map(|exit| exit.ports.clone()).collect();
        super::options::select_outputs(&mut outputs, options)?;
        for exit in &mut exits {
            exit.wanted = (exit.ports.iter())
                .map(|port| outputs.iter().any(|wanted| wanted.name == port.name))
                .collect();
        }
        exits.retain(|exit| exit.wanted.contains(&true));
        let inputs: Vec<Port> = entries
            .iter()
            .flat_map(|entry| entry.ports.clone())
            .collect();
        for ports in [&inputs, &outputs] {
            let named = |at: usize| ports[..at].iter().any(|port| port.name == ports[at].name);
            if let Some(at) = (0..ports.len()).find(|at| named(*at)) {
                return Err(NnError::unsupported(format!(
                    "the graph has two inputs or outputs for the name {}; rename one",
                    quoted(&ports[at].name)
                )));
            }
        }
        let names = |entries: &[Entry]| -> Result<Vec<CString>, NnError> {
            (entries.iter())
                .map(|entry| CString::new(entry.name.as_str()))
                .collect::<Result<_, _>>()
                .map_err(|_| {
                    NnError::new(
                        ErrorCode::InvalidEncoding,
                        "a port's name holds a zero byte; rename it",
                    )
                })
        };
        Ok(Arc::new(Shared {
            input_names: names(&entries)?,
            output_names: names(&exits)?,
            entries,
            exits,
            session,
            inputs,
            outputs,
            cpu: self.cpu,
            most_bytes: options.working_bytes.unwrap_or(usize::MAX),
            cost,
            rows,
        }))
    }
}

/// What describes the processor's memory to ONNX Runtime, never released.
fn cpu_memory(kind: sys::OrtAllocatorType) -> Result<*const sys::OrtMemoryInfo, String> {
    let mut info = ptr::null_mut();
    // SAFETY: the call writes one pointer to where it is told.
    let status = ortsys![unsafe CreateCpuMemoryInfo(
        kind,
        sys::OrtMemType::OrtMemTypeDefault,
        &mut info,
    )];
    check(status).map_err(|error| error.message)?;
    Ok(info)
}

/// Looks at a library without calling anything on it but its version, and returns that.
fn examine(path: &Path) -> Result<String, NnError> {
    let shown = path.display();
    let wrong = |what: String| {
        NnError::unsupported(format!(
            "ONNX Runtime's library {shown} cannot be used: {what}; give the libonnxruntime.so of ONNX Runtime \
             1.{API_VERSION} or later, for this machine's processor"
        ))
    };
    // SAFETY: runs the library's initialisers; that the operator names a library fit to run is the contract of
    // `OnnxRuntime::load`.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| wrong(format!("it does not load ({error})")))?;
    // SAFETY: the signature is the one ONNX Runtime has exported under this name since 1.0.
    let base = unsafe {
        library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase\0")
    }
    .map_err(|_| wrong("it does not export OrtGetApiBase, so it is not ONNX Runtime".into()))?;
    // SAFETY: takes nothing, returns a pointer to a static or null.
    let base =
        unsafe { base().as_ref() }.ok_or_else(|| wrong("OrtGetApiBase returns null".into()))?;
    // SAFETY: both functions take a version number or nothing and return pointers to statics or null.
    let (version, api) = unsafe { ((base.GetVersionString)(), (base.GetApi)(API_VERSION)) };
    let version = if version.is_null() {
        "unknown".into()
    } else {
        // SAFETY: a non-null version string is a static C string.
        unsafe { CStr::from_ptr(version) }
            .to_string_lossy()
            .into_owned()
    };
    if api.is_null() {
        return Err(wrong(format!(
            "it is version {version}, which does not have API {API_VERSION}"
        )));
    }
    // `ort` compares the minor number of this string and nothing else; agree with it beforehand.
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < API_VERSION) {
        return Err(wrong(format!("it says it is version {version:?}")));
    }
    Ok(version)
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn reads(&self) -> Option<Reads> {
        Some(*self.reads.get_or_init(|| {
            let options = LoadOptions::default();
            let loads = |ir, opset| {
                let graph = GraphSource::Bytes(versions::smallest(ir, opset).into());
                self.load(&graph, &options).is_ok()
            };
            let (ir, opset) = (versions::ALWAYS_READ_IR, versions::ALWAYS_READ_OPSET);
            Reads {
                opset: versions::newest(opset, MOST_PROBED, |opset| loads(ir, opset)),
                ir: versions::newest(ir, MOST_PROBED, |ir| loads(ir, opset)),
                strict: true,
            }
        }))
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
        // `ort` panics on a few things a graph can declare (an element type it has no name for).
        match catch_unwind(AssertUnwindSafe(|| self.open(graph, options))) {
            Ok(Ok(shared)) => Ok(Arc::new(OrtSession(shared))),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(NnError::unsupported(format!(
                "ONNX Runtime cannot describe the graph: {}",
                panic_text(&*panic)
            ))),
        }
    }
}

/// A provider as a contract asks for it.
#[derive(Debug, PartialEq)]
struct AskedProvider {
    provider: Provider,
    /// ONNX Runtime's name for it.
    name: &'static str,
    /// Its options, in ONNX Runtime's words; the first says which device.
    options: Vec<(&'static str, String)>,
}

/// The providers a contract asks for, the first to take what it can; none is the processor.
fn asked_providers(options: &LoadOptions) -> Result<Vec<AskedProvider>, NnError> {
    let number = || -> Result<String, NnError> {
        let device = options.device.as_deref().unwrap_or("0");
        // ONNX Runtime reads a C int.
        let number = device.parse::<u16>().map_err(|_| {
            NnError::invalid(format!(
                "device = {} is not a device of provider = {:?}; write its number, \"0\" for the first",
                quoted(device),
                options.provider.as_str()
            ))
        })?;
        Ok(number.to_string())
    };
    let exact = options.precision == Precision::Exact;
    let cuda = |device: String| AskedProvider {
        provider: Provider::Cuda,
        name: "CUDAExecutionProvider",
        options: vec![
            ("device_id", device),
            // Its default is to double what it holds each time; models share the device.
            ("arena_extend_strategy", "kSameAsRequested".into()),
            // Its default tries every algorithm for each new shape, and batches come in all sizes.
            ("cudnn_conv_algo_search", "HEURISTIC".into()),
            ("use_tf32", if exact { "0" } else { "1" }.into()),
        ],
    };
    Ok(match options.provider {
        Provider::Cpu => {
            super::options::only_the_processor(NAME, options)?;
            vec![]
        }
        Provider::Cuda => vec![cuda(number()?)],
        Provider::Tensorrt => {
            let device = number()?;
            let tensorrt = AskedProvider {
                provider: Provider::Tensorrt,
                name: "TensorrtExecutionProvider",
                options: vec![("device_id", device.clone())],
            };
            vec![tensorrt, cuda(device)]
        }
        Provider::Openvino => {
            let device = options.device.as_deref().unwrap_or("CPU");
            let kind = device.split(['.', ':', ',']).next().unwrap_or_default();
            if device.contains([':', ',']) || ["AUTO", "HETERO", "MULTI", "BATCH"].contains(&kind) {
                return Err(NnError::invalid(format!(
                    "device = {} leaves the choice of a device to OpenVINO; name one, such as \"CPU\" or \"GPU.0\"",
                    quoted(device)
                )));
            }
            let mut asked = vec![
                ("device_type", device.to_owned()),
                (
                    "num_of_threads",
                    options.intra_op_threads.max(1).to_string(),
                ),
                // The option is one byte.
                ("num_streams", options.lane_count().min(255).to_string()),
            ];
            if exact {
                asked.push(("precision", "ACCURACY".into()));
            }
            vec![AskedProvider {
                provider: Provider::Openvino,
                name: "OpenVINOExecutionProvider",
                options: asked,
            }]
        }
    })
}

impl AskedProvider {
    fn dispatch(&self) -> ExecutionProviderDispatch {
        fn with<P: ArbitrarilyConfigurableExecutionProvider>(
            provider: P,
            options: &[(&'static str, String)],
        ) -> P {
            (options.iter()).fold(provider, |provider, (key, value)| {
                provider.with_arbitrary_config(*key, value)
            })
        }
        let dispatch = match self.provider {
            Provider::Cpu => ep::CPU::default().build(),
            Provider::Cuda => with(ep::CUDA::default(), &self.options).build(),
            Provider::Tensorrt => with(ep::TensorRT::default(), &self.options).build(),
            Provider::Openvino => with(ep::OpenVINO::default(), &self.options).build(),
        };
        // `ort`'s default is to go on without it.
        dispatch.error_on_failure()
    }

    /// What the operator needs so that the provider is there.
    fn remedy(&self) -> &'static str {
        match self.provider {
            Provider::Cpu => "",
            Provider::Cuda => {
                "give --onnxruntime a library built with CUDA (PyPI's onnxruntime-gpu holds one, with \
                 libonnxruntime_providers_cuda.so beside it) and install the NVIDIA driver, CUDA and cuDNN it names"
            }
            Provider::Tensorrt => {
                "give --onnxruntime a library built with TensorRT (PyPI's onnxruntime-gpu holds one, with \
                 libonnxruntime_providers_tensorrt.so beside it) and install the NVIDIA driver, CUDA, cuDNN and \
                 TensorRT it names"
            }
            Provider::Openvino => {
                "give --onnxruntime a library built with OpenVINO (PyPI's onnxruntime-openvino holds one), or load \
                 the model on OpenVINO itself with backend = \"openvino\""
            }
        }
    }

    /// Whether the library was built with it.
    fn is_among(&self, available: &[String]) -> Result<(), NnError> {
        if available.iter().any(|name| name == self.name) {
            return Ok(());
        }
        Err(NnError::unsupported(format!(
            "provider = {:?} is asked for, and this ONNX Runtime library was built without it; it has {}. To have it, \
             {}; or remove the provider",
            self.provider.as_str(),
            listed(available.iter().map(String::as_str)),
            self.remedy()
        )))
    }

    fn does_not_start(&self, error: &str) -> NnError {
        let device = self.options.first().map_or("", |(_, device)| device);
        NnError::unsupported(format!(
            "provider = {:?} is asked for on device = {device:?} and does not start: {}. Name a device that is there; to \
             have the provider, {}; or remove it",
            self.provider.as_str(),
            presentable(error),
            self.remedy()
        ))
    }
}

/// The providers the library was built with, under ONNX Runtime's names.
fn available_providers() -> Result<Vec<String>, NnError> {
    let mut names = ptr::null_mut();
    let mut count = 0;
    // SAFETY: the call writes a list of `count` C strings, which is given back below.
    check(ortsys![unsafe GetAvailableProviders(&mut names, &mut count)])?;
    let listed = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: as above.
        .map(|index| unsafe { CStr::from_ptr(*names.add(index)) })
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    check(ortsys![unsafe ReleaseAvailableProviders(names, count)])?;
    Ok(listed)
}

struct OrtSession(Arc<Shared>);

/// A session and what every call on it needs.
struct Shared {
    session: ort::session::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    entries: Vec<Entry>,
    exits: Vec<Entry>,
    cpu: CpuMemory,
    /// Bytes a run may hold: outputs, and values between operators.
    most_bytes: usize,
    cost: Cost,
    rows: Rows,
}

/// One input or output of the graph, and the ports that carry it.
struct Entry {
    name: String,
    kind: Kind,
    ports: Vec<Port>,
    /// Outputs: which of the ports are given out.
    wanted: Vec<bool>,
    /// Outputs that are maps: the order of their columns.
    labels: Option<Vec<String>>,
    /// Inputs: whether the graph has a value for it.
    has_default: bool,
    /// Whether the graph declares it as optional.
    optional: bool,
}

impl Entry {
    fn new(
        name: &str,
        ty: &ValueType,
        has_shape: impl FnOnce() -> bool,
        labels: Option<Vec<String>>,
    ) -> Self {
        let (optional, inner) = match ty {
            ValueType::Optional(inner) => (true, &**inner),
            ty => (false, ty),
        };
        let (kind, ports) = match Kind::of(inner) {
            None => (
                Kind::Tensor,
                vec![Port {
                    name: name.to_owned(),
                    ty: PortType::Other(
                        "a sequence, map or optional of a type that no tensor carries",
                    ),
                    dims: None,
                }],
            ),
            Some(Kind::Tensor) => {
                let mut port = port(name, inner, has_shape);
                if optional {
                    // ONNX Runtime tells no shape of what an optional holds.
                    port.dims = None;
                }
                (Kind::Tensor, vec![port])
            }
            Some(kind) => {
                let ports = kind.ports(name, labels.as_deref());
                (kind, ports)
            }
        };
        Self {
            name: name.to_owned(),
            wanted: vec![true; ports.len()],
            kind,
            ports,
            labels,
            has_default: false,
            optional,
        }
    }
}

impl Session for OrtSession {
    fn has_default(&self, input: usize) -> bool {
        let mut flags = (self.0.entries.iter())
            .flat_map(|entry| std::iter::repeat_n(entry.has_default, entry.ports.len()));
        flags.nth(input).unwrap_or(false)
    }

    fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    fn cost(&self) -> Cost {
        self.0.cost.clone()
    }

    fn rows(&self) -> Rows {
        self.0.rows.clone()
    }

    fn lane(&self) -> Result<Box<dyn Lane>, NnError> {
        Ok(Box::new(OrtLane {
            input_names: self
                .0
                .input_names
                .iter()
                .map(|name| name.as_ptr())
                .collect(),
            output_names: self
                .0
                .output_names
                .iter()
                .map(|name| name.as_ptr())
                .collect(),
            run: Arc::new(Run::new()?),
            shared: self.0.clone(),
        }))
    }
}

struct OrtLane {
    shared: Arc<Shared>,
    /// Into `shared`'s names, in the form `Run` wants them.
    input_names: Vec<*const c_char>,
    output_names: Vec<*const c_char>,
    run: Arc<Run>,
}

// SAFETY: the pointers lead into `shared`, which is Send and Sync, is held for as long and never written.
unsafe impl Send for OrtLane {}

/// What a lane's runs are told, shared with whoever may end one.
struct Run {
    options: *mut sys::OrtRunOptions,
}

// SAFETY: after they were made, only the options' flag is written, which `Run` reads while it may be; that is what ONNX
// Runtime documents `RunOptionsSetTerminate` for.
unsafe impl Send for Run {}
// SAFETY: as above.
unsafe impl Sync for Run {}

impl Run {
    fn new() -> Result<Self, NnError> {
        let mut options = ptr::null_mut();
        // SAFETY: the call writes one pointer to where it is told.
        check(ortsys![unsafe CreateRunOptions(&mut options)])?;
        Ok(Self { options })
    }
}

impl Interrupt for Run {
    fn interrupt(&self) {
        // SAFETY: the options are live. The call has no way to fail but a status nobody could act upon.
        let _ = check(ortsys![unsafe RunOptionsSetTerminate(self.options)]);
    }

    fn reset(&self) {
        // SAFETY: as above.
        let _ = check(ortsys![unsafe RunOptionsUnsetTerminate(self.options)]);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        ortsys![unsafe ReleaseRunOptions(self.options)];
    }
}

impl Lane for OrtLane {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let shared = &*self.shared;
        if inputs.len() != shared.inputs.len() {
            return Err(NnError::invalid(format!(
                "the graph takes {} inputs and {} were given",
                shared.inputs.len(),
                inputs.len()
            )));
        }
        // Aligned copies of what lies badly, and the tensors of sequences; they must outlive the values.
        let mut copies: Vec<Vec<u64>> = Vec::new();
        let mut parts: Vec<Value> = Vec::new();
        let mut values: Vec<Value> = Vec::with_capacity(inputs.len());
        // The names of what is sent, where that is not everything.
        let mut names: Option<Vec<*const c_char>> = None;
        let mut rest = inputs;
        for (index, entry) in shared.entries.iter().enumerate() {
            let (own, others) = rest.split_at(entry.kind.width().min(rest.len()));
            rest = others;
            if own.iter().any(NnTensor::is_absent) {
                names.get_or_insert_with(|| self.input_names[..index].to_vec());
                continue;
            }
            if let Some(names) = &mut names {
                names.push(self.input_names[index]);
            }
            values.push(match (&entry.kind, own) {
                (Kind::Tensor, [tensor]) => borrowed(shared.cpu, tensor, &mut copies)?,
                (Kind::Sequence(_), [elements, shapes]) => {
                    elements.check()?;
                    shapes.check()?;
                    let from = parts.len();
                    for part in values::parts(elements, shapes)? {
                        // The part shares the input's bytes.
                        parts.push(borrowed(shared.cpu, &part, &mut copies)?);
                    }
                    values::sequence(&parts[from..])?
                }
                _ => {
                    return Err(NnError::unsupported(format!(
                        "input {} is a map, which no tensors are made into; export the model with tensors there",
                        quoted(&entry.name)
                    )));
                }
            });
        }
        let input_names = names.as_ref().unwrap_or(&self.input_names);
        let mut outputs: Vec<Value> = (shared.exits.iter())
            .map(|_| Value(ptr::null_mut()))
            .collect();
        // SAFETY: `Value` is one pointer, `Run` reads `inputs` and writes one owned value for each output
        // name; concurrent calls on one session are allowed (see the module's page). The session pointer is
        // `*mut` in C and not written through.
        let (status, usage) = allocator::metered(shared.most_bytes, || {
            ortsys![unsafe Run(
                shared.session.ptr().cast_mut(),
                self.run.options.cast_const(),
                input_names.as_ptr(),
                values.as_ptr().cast::<*const sys::OrtValue>(),
                values.len(),
                self.output_names.as_ptr(),
                self.output_names.len(),
                outputs.as_mut_ptr().cast::<*mut sys::OrtValue>(),
            )]
        });
        check(status).map_err(|error| match usage.wanted {
            _ if error.message.contains(TERMINATED) => NnError::runtime("the run was ended early"),
            Some(wanted) => super::message::too_much_memory(wanted, shared.most_bytes),
            // Some operators report an index as a failure of their own.
            None if super::message::blames_an_index(&error.message) => {
                NnError::invalid(error.message)
            }
            None => error,
        })?;
        // The memory inputs were read from; an output that lies in it (a graph may hand an input straight
        // through) must be copied, because that memory goes with the call.
        let borrowed: Vec<std::ops::Range<usize>> = (inputs.iter())
            .map(|tensor| span(&tensor.data))
            .chain(copies.iter().map(|copy| {
                let start = copy.as_ptr() as usize;
                start..start + size_of_val(copy.as_slice())
            }))
            .collect();
        let mut tensors = Vec::with_capacity(shared.outputs.len());
        for (value, exit) in outputs.into_iter().zip(&shared.exits) {
            if let (Kind::Tensor, [port], false) = (&exit.kind, &exit.ports[..], exit.optional) {
                tensors.push(read(value, port, &borrowed, &self.shared)?);
                continue;
            }
            let named = |mut error: NnError| {
                error.message = format!("output {}: {}", quoted(&exit.name), error.message);
                error
            };
            let read = match &exit.kind {
                _ if exit.optional && !values::is_there(&value).map_err(named)? => {
                    let absent = |port: &Port| {
                        NnTensor::absent(port.ty.carried_as().unwrap_or(TensorType::Bytes))
                    };
                    exit.ports.iter().map(absent).collect()
                }
                Kind::Tensor => vec![read(value, &exit.ports[0], &borrowed, &self.shared)?],
                Kind::Sequence(ty) => {
                    values::read_sequence(&value, *ty, shared.most_bytes).map_err(named)?
                }
                Kind::Maps {
                    key,
                    value: of,
                    list,
                } => {
                    let labels = exit.labels.as_deref();
                    values::read_maps(&value, (*key, *of, *list), labels, shared.most_bytes)
                        .map_err(named)?
                }
            };
            let wanted = read.into_iter().zip(&exit.wanted);
            tensors.extend(wanted.filter(|(_, wanted)| **wanted).map(|(read, _)| read));
        }
        Ok(tensors)
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.run.clone())
    }
}

/// A value of a tensor's own bytes, or of an aligned copy of them. Both must outlive it. Strings are always copied.
fn borrowed(
    cpu: CpuMemory,
    tensor: &NnTensor,
    copies: &mut Vec<Vec<u64>>,
) -> Result<Value, NnError> {
    tensor.check()?;
    if tensor.ty == TensorType::Bytes {
        return values::strings(&tensor.dims, &tensor.data);
    }
    let mut data = tensor.data.as_ptr();
    let mut len = tensor.data.len();
    if let Some(bits) = tensor.ty.packed_bits() {
        let packed = packed::pack(&tensor.data, bits);
        len = packed.len();
        let mut copy = vec![0u64; len.div_ceil(size_of::<u64>())];
        // SAFETY: `copy` is at least as long as the bytes and overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(packed.as_ptr(), copy.as_mut_ptr().cast::<u8>(), len) };
        data = copy.as_ptr().cast();
        copies.push(copy);
    } else if data.align_offset(tensor.ty.size()) != 0 {
        let mut copy = vec![0u64; tensor.data.len().div_ceil(size_of::<u64>())];
        // SAFETY: `copy` is at least as long as the bytes and overlaps nothing.
        unsafe {
            ptr::copy_nonoverlapping(data, copy.as_mut_ptr().cast::<u8>(), tensor.data.len());
        };
        data = copy.as_ptr().cast();
        copies.push(copy);
    }
    let mut dims = [0i64; crate::tensor::MAX_RANK];
    for (to, from) in dims.iter_mut().zip(&tensor.dims) {
        *to = i64::from(*from);
    }
    let mut value = ptr::null_mut();
    // SAFETY: `data` is aligned for the element and, by `check`, as long as the shape says, packed where elements are; it outlives the value, by
    // this function's contract. ONNX Runtime does not write to inputs, so that the bytes are shared with others is of
    // no consequence. `check` also bounds the rank.
    let status = ortsys![unsafe CreateTensorWithDataAsOrtValue(
        cpu.0,
        data.cast_mut().cast::<c_void>(),
        len,
        dims.as_ptr(),
        tensor.dims.len(),
        element(PortType::Tensor(tensor.ty)),
        &mut value,
    )];
    check(status)?;
    Ok(Value(value))
}

fn span(bytes: &[u8]) -> std::ops::Range<usize> {
    let start = bytes.as_ptr() as usize;
    start..start + bytes.len()
}

/// Makes a tensor of an output value.
fn read(
    value: Value,
    port: &Port,
    borrowed: &[std::ops::Range<usize>],
    shared: &Arc<Shared>,
) -> Result<NnTensor, NnError> {
    let wrong = |what: &str| NnError::runtime(format!("output {} {what}", quoted(&port.name)));
    if value.0.is_null() {
        return Err(wrong("was not produced"));
    }
    let mut info = ptr::null_mut();
    // SAFETY: `value` is a live value; a value that is no tensor makes the call fail.
    check(ortsys![unsafe GetTensorTypeAndShape(value.0, &mut info)])?;
    let described = describe(info);
    ortsys![unsafe ReleaseTensorTypeAndShapeInfo(info)];
    let (element, dims) = described?;
    let ty = type_of(element).ok_or_else(|| wrong("has a type no tensor carries"))?;
    let dims: Vec<u32> = (dims.iter())
        .map(|dim| u32::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("has a dimension that does not fit 32 bits"))?;
    if ty == TensorType::Bytes {
        let elements = dims.iter().map(|dim| *dim as usize).product();
        let data = values::read_strings(&value, elements, shared.most_bytes)?;
        return NnTensor::new(ty, dims, data)
            .map_err(|_| wrong("is not as long as its shape says"));
    }
    let mut len = 0usize;
    let mut data = ptr::null_mut();
    // SAFETY: `value` is a live tensor of a type with a fixed size, by the test above.
    check(ortsys![unsafe GetTensorSizeInBytes(value.0, &mut len)])?;
    check(ortsys![unsafe GetTensorMutableData(value.0, &mut data)])?;
    let data = data.cast::<u8>().cast_const();
    let bytes = if len == 0 || data.is_null() {
        Bytes::new()
    } else {
        let lent = Lent {
            data,
            len,
            _value: value,
            _shared: shared.clone(),
        };
        if let Some(bits) = ty.packed_bits() {
            let count =
                (dims.iter()).try_fold(1usize, |count, dim| count.checked_mul(*dim as usize));
            let signed = matches!(ty, TensorType::I2 | TensorType::I4);
            // The allocator counted them packed.
            if let Some(count) = count.filter(|count| *count > shared.most_bytes) {
                return Err(super::message::too_much_memory(count, shared.most_bytes));
            }
            let data = count.and_then(|count| packed::unpack(lent.as_ref(), bits, count, signed));
            let data = data.ok_or_else(|| wrong("is not as long as its shape says"))?;
            return NnTensor::new(ty, dims, data);
        }
        let at = span(lent.as_ref());
        let ours = borrowed
            .iter()
            .any(|range| range.start < at.end && at.start < range.end);
        if len < LEND_OUTPUT_BYTES || ours {
            Bytes::copy_from_slice(lent.as_ref())
        } else {
            Bytes::from_owner(lent)
        }
    };
    let tensor = NnTensor {
        ty,
        dims,
        data: bytes,
    };
    tensor
        .check()
        .map_err(|_| wrong("is not as long as its shape says"))?;
    Ok(tensor)
}

/// What to do where a graph wants a locale that the machine lacks; empty for other messages. `StringNormalizer` wants
/// `en_US.UTF-8` where the graph names none, and small container images have no locale but `C`.
fn missing_locale(message: &str) -> String {
    const BEFORE: &str = "Failed to construct locale with name:";
    let Some((_, rest)) = message.split_once(BEFORE) else {
        return String::new();
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    let name: String = rest.chars().take_while(|c| is_part(*c)).collect();
    format!(
        "; an operator such as StringNormalizer wants the locale {name}, which this machine does not have. Install the \
         locale, or set the operator's attribute `locale` to \"C.UTF-8\" in the graph"
    )
}

/// An output in ONNX Runtime's memory, kept with the value that owns it and the session that value came from.
struct Lent {
    data: *const u8,
    len: usize,
    _value: Value,
    _shared: Arc<Shared>,
}

// SAFETY: the memory is only read, and values may be released on any thread (the arena has a lock).
unsafe impl Send for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: ONNX Runtime says the tensor is `len` bytes at `data`, and `_value` keeps it.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

enum Side {
    Input,
    Output,
}

/// Whether the graph gives a port a shape; without one ONNX Runtime reports the dimensions of a scalar.
fn has_shape(session: &ort::session::Session, index: usize, side: Side) -> bool {
    let mut info = ptr::null_mut();
    let status = match side {
        Side::Input => ortsys![unsafe SessionGetInputTypeInfo(session.ptr(), index, &mut info)],
        Side::Output => ortsys![unsafe SessionGetOutputTypeInfo(session.ptr(), index, &mut info)],
    };
    if check(status).is_err() || info.is_null() {
        return false;
    }
    let mut tensor = ptr::null();
    let status = ortsys![unsafe CastTypeInfoToTensorInfo(info, &mut tensor)];
    // SAFETY: the tensor info lives as long as the type info it came from, which is released last.
    let given = check(status).is_ok()
        && !tensor.is_null()
        && ortsys![unsafe TensorTypeAndShape_HasShape(tensor)];
    ortsys![unsafe ReleaseTypeInfo(info)];
    given
}

fn port(name: &str, ty: &ValueType, has_shape: impl FnOnce() -> bool) -> Port {
    let name = name.to_owned();
    let ValueType::Tensor {
        ty,
        shape,
        dimension_symbols,
    } = ty
    else {
        return Port {
            name,
            ty: PortType::Other("a sequence, map or optional"),
            dims: None,
        };
    };
    let dims = (shape.iter().enumerate())
        .map(|(index, size)| match u32::try_from(*size) {
            Ok(size) => Dim::Fixed(size),
            Err(_) => Dim::Symbolic(dimension_symbols.get(index).cloned().unwrap_or_default()),
        })
        .collect::<Vec<_>>();
    let dims = if dims.is_empty() && !has_shape() {
        None
    } else {
        Some(dims)
    };
    Port {
        name,
        ty: port_type(*ty),
        dims,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(provider: Provider, device: Option<&str>) -> Result<Vec<AskedProvider>, NnError> {
        asked_providers(&LoadOptions {
            provider,
            device: device.map(str::to_owned),
            lanes: Some(3),
            intra_op_threads: 2,
            ..LoadOptions::default()
        })
    }

    fn option<'a>(asked: &'a AskedProvider, key: &str) -> Option<&'a str> {
        let found = asked.options.iter().find(|(other, _)| *other == key);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_locale_that_the_machine_lacks_is_named_with_a_remedy() {
        let said = "…: Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid";
        let remedy = missing_locale(said);
        assert!(
            remedy.contains("the locale en_US.UTF-8, which") && remedy.contains("C.UTF-8"),
            "{remedy}"
        );
        assert_eq!(missing_locale("no such node"), "");
    }

    #[test]
    fn each_provider_is_asked_for_by_its_name_and_on_the_device_that_is_named() {
        assert_eq!(asked(Provider::Cpu, None), Ok(vec![]));
        let cuda = asked(Provider::Cuda, None).expect("sound");
        assert_eq!((cuda.len(), cuda[0].name), (1, "CUDAExecutionProvider"));
        assert_eq!(option(&cuda[0], "device_id"), Some("0"));
        assert_eq!(option(&cuda[0], "use_tf32"), Some("0"));
        let tensorrt = asked(Provider::Tensorrt, Some("1")).expect("sound");
        let names: Vec<&str> = tensorrt.iter().map(|asked| asked.name).collect();
        assert_eq!(
            names,
            ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        );
        for asked in &tensorrt {
            assert_eq!(option(asked, "device_id"), Some("1"), "{asked:?}");
        }
        let openvino = asked(Provider::Openvino, Some("GPU.1")).expect("sound");
        assert_eq!(openvino[0].name, "OpenVINOExecutionProvider");
        assert_eq!(option(&openvino[0], "device_type"), Some("GPU.1"));
        assert_eq!(option(&openvino[0], "num_streams"), Some("3"));
        assert_eq!(option(&openvino[0], "num_of_threads"), Some("2"));
        let openvino = asked(Provider::Openvino, None).expect("sound");
        assert_eq!(option(&openvino[0], "device_type"), Some("CPU"));
    }

    #[test]
    fn a_device_that_is_none_of_the_providers_is_an_error() {
        for (provider, device) in [
            (Provider::Cpu, "0"),
            (Provider::Cuda, "GPU"),
            (Provider::Cuda, "-1"),
            (Provider::Tensorrt, "70000"),
            (Provider::Openvino, "AUTO"),
            (Provider::Openvino, "HETERO:GPU,CPU"),
        ] {
            let error = asked(provider, Some(device)).expect_err(device);
            assert!(error.message.contains(device), "{error}");
        }
    }
}
