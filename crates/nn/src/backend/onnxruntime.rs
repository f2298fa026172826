//! ONNX Runtime, from a shared library named at start, on the processor or on another execution provider.
//!
//! Decisions:
//!
//! - **The library is examined before the `ort` crate sees it.** `ort` panics if a library lacks the API it was built
//!   for, and checks only the version string beforehand. So the library must provide API 24 before anything else is
//!   called on it. Every fault of the library is an error that names the path.
//! - **One session for each model, shared by its instances.** ONNX Runtime documents `Run` as safe to call concurrently
//!   on one session, and the CPU provider is. So weights and their prepacked copies are in memory once, and a model
//!   loads once for all of its instances. `ort`'s `Session::run` takes `&mut self` because of other providers, so `Run`
//!   is called on the C API here. The other providers are safe too: ONNX Runtime serialises calls on a provider that
//!   does not allow concurrent ones, CUDA's keeps a stream for each thread, TensorRT's serialises inside. A session for
//!   each instance would hold the weights on the device several times.
//! - **A requested provider is used, or the load fails.** The library must have been built with it, and it must
//!   register; both are checked before a graph is read. Single operators that a device does not have run on the
//!   processor, as ONNX Runtime always does it: `session.disable_cpu_ep_fallback` would refuse nearly every graph that
//!   computes a shape.
//! - **The precision of the graph**, unless the contract has `precision = "fast"`. TF32 is off on CUDA, no provider is
//!   told to use FP16, and ONNX Runtime's own shortcuts are off ([`EXACT`]). The device of a server must not change its
//!   answers.
//! - **A run can be ended early**, between two operators, by its own run options.
//! - **A run's memory is bounded** ([`LoadOptions::working_bytes`]) and given back: see [`allocator`].
//! - **Inputs are borrowed, outputs are copied at most once.** ONNX Runtime reads a guest's bytes in place, or from an
//!   aligned copy if they are not aligned. Small outputs are copied. From [`LEND_OUTPUT_BYTES`] on, the caller gets
//!   ONNX Runtime's own buffer, which is released with its last reference.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::sys;
use ort::{AsPointer, ortsys};
use penstock_tensor::contract::{Precision, Provider};

use graph::{Entry, Shared, Side, has_shape};
use library::{CpuMemory, cpu_memory, examine, missing_locale};
use providers::{AskedProvider, asked_providers, available_providers};
use session::OrtSession;
pub use tensors::LEND_OUTPUT_BYTES;
use value::check;

use super::cost::Cost;
use super::message::{panic_text, presentable};
use super::options::{GraphSource, LoadOptions};
use super::port::Port;
use super::session::{Backend, Session};
use super::versions::Reads;
use super::{onnx_file, versions};
use crate::error::{ErrorCode, NnError, quoted};

mod allocator;
mod graph;
mod library;
mod providers;
mod session;
mod tensors;
mod value;
mod values;

/// The name `model.toml` knows the backend by.
pub const NAME: &str = super::names::ONNXRUNTIME;

/// The session options of the precision the graph has. Those that are ONNX Runtime's defaults today are set all the
/// same.
///
/// `session.x64quantprecision` is left alone: it would keep U8 by S8 products from overflowing 16 bits on x86
/// processors without VNNI, and ONNX Runtime 1.29 does not survive it on some graphs.
const EXACT: &[(&str, &str)] = &[
    // By default DequantizeLinear with MatMul becomes MatMulNBits with 8-bit activations, up to 3e-2 off.
    ("session.qdq_matmulnbits_accuracy_level", "0"),
    ("mlas.enable_gemm_fastmath_arm64_bfloat16", "0"),
    ("mlas.use_lut_gemm", "0"),
    ("optimization.enable_gelu_approximation", "0"),
    ("optimization.enable_cast_chain_elimination", "0"),
];

/// ONNX Runtime keeps equal constants once, and BatchNormalization in training mode writes the new running values over the old
/// ones. Together, each call would change scale and bias for the next (`findings/onnxruntime-batchnorm-remembers-requests.sh`).
/// No precision of the contract allows that.
const INDEPENDENT: (&str, &str) = (
    "optimization.disable_specified_optimizers",
    "ConstantSharing",
);

/// The loaded library of ONNX Runtime. There is one in a process, because ONNX Runtime and `ort` keep global state.
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    path: PathBuf,
    /// Describes CPU memory to `CreateTensorWithDataAsOrtValue`; made once, never released.
    cpu: CpuMemory,
    /// Whether sessions take their memory from [`allocator`].
    counts_memory: bool,
    /// The versions of ONNX it reads, found by loading the smallest graph of each.
    reads: OnceLock<Reads>,
}

/// The largest version that is asked about; ONNX adds one or two opsets a year and had 28 in 2026.
const MOST_PROBED: u64 = 127;

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
                "ONNX Runtime was already loaded from {}; a process can load one library; restart it to load {shown}",
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
                // Every error comes back as a status and is reported once, by the function that asked. A line on
                // standard error for each bad request would only let guests fill the log.
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
            .map_err(text)?
            .with_config_entry(INDEPENDENT.0, INDEPENDENT.1)
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
        .map_err(|error| cannot_load(&error))?;
        let mut entries: Vec<Entry> = (session.inputs().iter().enumerate())
            .map(|(index, outlet)| {
                let given = || has_shape(&session, index, Side::Input);
                Entry::new(outlet.name(), outlet.dtype(), given, None)
            })
            .collect();
        // An input with a default in the graph is one of the model's inputs if the contract names it.
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
            has_distinct_names(ports)?;
        }
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

/// Converts the error of a load.
fn cannot_load(error: &ort::Error) -> NnError {
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
}

/// Refuses ports of which two have one name.
fn has_distinct_names(ports: &[Port]) -> Result<(), NnError> {
    let is_repeated = |at: &usize| ports[..*at].iter().any(|port| port.name == ports[*at].name);
    match (0..ports.len()).find(is_repeated) {
        None => Ok(()),
        Some(at) => Err(NnError::unsupported(format!(
            "the graph has two inputs or outputs for the name {}; rename one",
            quoted(&ports[at].name)
        ))),
    }
}

/// Returns the names of entries as ONNX Runtime takes them.
fn names(entries: &[Entry]) -> Result<Vec<CString>, NnError> {
    (entries.iter())
        .map(|entry| CString::new(entry.name.as_str()))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            NnError::new(
                ErrorCode::InvalidEncoding,
                "a port's name holds a zero byte; rename it",
            )
        })
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

    fn runs_on_calling_thread(&self, options: &LoadOptions) -> bool {
        options.intra_op_threads <= 1
            && options.provider == Provider::Cpu
            && options.device.is_none()
            // These may start threads of their own.
            && options.operator_libraries.is_empty()
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
