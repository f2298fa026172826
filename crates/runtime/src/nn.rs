//! `wasi:nn@0.2.0-rc-2024-10-28` for guests, over the engine in `penstock-nn`.
//!
//! Models are loaded by name only: a request never uploads a graph. `compute` is an async host function, so a guest
//! that waits for a model holds no thread. Nothing that a guest passes can make the host panic: an invalid tensor
//! becomes an error of `compute`.
//!
//! If `wasi:nn` has no error code for a case, the error's data names it: see [`penstock_core::nn_data`].
//!
//! A call uses the deadline and the cancellation of its request. It waits in a model's queue until the request's
//! deadline, and no longer than its caller waits. If the caller disconnects during a run, the run finishes if a retry
//! may get the answer (`Idempotency-Key`), and is cancelled otherwise. In both cases `compute` returns, so that the
//! policies in the guest return their charges. A graph's name may ask for less time, another priority, or shadow runs.
//! `compute` of a shadow run returns at once with nothing ([`penstock_nn::shadow`]). Shadow runs outlive the request
//! and delay nobody, and a stopping server does not wait for them.
//!
//! The bytes of a tensor are copied once from the guest's memory to the engine's, and once back. That is why
//! `tensor.data` is not the generated one, which would make the host copy them a second time.

use crate::held::{HeldBytes, OverLimit};
use crate::items::HeldItems;
use crate::request::RequestContext;
use bytes::Bytes;
use penstock_core::nn_data::MAX_RETRY_AFTER_MS;
use penstock_core::{GraphName, GraphOptions, NnData, NnWord, ShadowTensor};
use penstock_nn::{
    CallOptions, EngineRefusal, ErrorCode, Handle, NnError, NnTensor, Repository, Snapshot,
    Unavailable,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::StoreContextMut;
use wasmtime::component::{Component, HasData, Linker, Resource, ResourceTable};

#[allow(missing_docs)]
mod bindings {
    wasmtime::component::bindgen!({
        world: "penstock:nn/host",
        path: ["../../wit/types", "../../wit/deps/nn", "../../wit/nn"],
        with: {
            "wasi:nn/graph.graph": super::Graph,
            "wasi:nn/tensor.tensor": super::Tensor,
            "wasi:nn/inference.graph-execution-context": super::Context,
            "wasi:nn/errors.error": super::Error,
        },
        imports: {
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            "penstock:nn/tensors.compute": async | trappable,
            default: trappable,
        },
    });
}

mod held;

use bindings::penstock::nn::tensors;
use bindings::wasi::nn::{errors, graph, inference, tensor};

/// The interface by which bytes of a request stay in the host.
pub const HELD: &str = "penstock:nn/held@0.1.0";
/// The interface by which a component opens models of the host.
const GRAPHS: &str = "wasi:nn/graph@0.2.0-rc-2024-10-28";

/// Returns whether the parts of a composed component may leave bytes in the host: its gate can ask for them, and its models
/// run in this host. An inference that runs models in WebAssembly has tensors of its own.
pub fn may_hold(component: &Component) -> bool {
    let (engine, of_type) = (component.engine(), component.component_type());
    [HELD, GRAPHS]
        .iter()
        .all(|interface| of_type.get_import(engine, interface).is_some())
}

/// A run's outputs, in the guest's table.
type Given = Vec<(String, Resource<Tensor>)>;

/// The outputs of one run may take one part in this many of an instance's memory: the gate holds them as blocks, as
/// tensors and as JSON.
const OUTPUT_SHARE: usize = 4;

/// Most characters of a guest's name in a message.
const MAX_SHOWN_CHARS: usize = 80;

/// A tensor of a guest. Its declared type and shape are checked when it is used.
pub struct Tensor(NnTensor);
/// A model that a guest opened, and the options of its calls. It keeps nothing in memory: each call asks for the
/// serving version.
pub struct Graph(Handle, GraphOptions);
/// A model that a guest may run.
pub struct Context(Handle, GraphOptions);
/// An error that is being returned to a guest.
pub struct Error {
    code: errors::ErrorCode,
    data: String,
}

/// The state of an instance for `wasi:nn`, without its handles: the models, and the request that it serves.
pub struct NnCtx {
    repository: Arc<Repository>,
    /// The catalogue that the instance sees for its whole life.
    snapshot: Option<Arc<Snapshot>>,
    /// The request that is served now. `None` before the first.
    request: Option<RequestContext>,
    /// The bytes that the host holds for the current request.
    items: HeldItems,
}

impl NnCtx {
    /// The context of a new instance. An instance sees one catalogue all its life, so the contracts that it read stay
    /// valid for it.
    pub fn new(repository: Arc<Repository>, snapshot: Option<Arc<Snapshot>>) -> Self {
        Self {
            repository,
            snapshot,
            request: None,
            items: HeldItems::default(),
        }
    }

    /// Begins the next request. `body` is its body, if the host holds it.
    pub fn begin_request(&mut self, request: RequestContext, body: Option<Bytes>) {
        self.request = Some(request);
        self.items.begin(body);
    }

    /// The generation of the catalogue that the instance sees, if it sees one.
    pub fn generation(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.generation())
    }

    /// Returns whether the models have changed since the instance was made. Then its remembered contracts are outdated.
    pub fn is_behind(&self) -> bool {
        self.generation()
            .is_some_and(|generation| generation != self.repository.generation())
    }
}

/// The view of an instance for the functions of `wasi:nn`.
pub struct NnView<'a> {
    /// The models and the request.
    pub ctx: &'a mut NnCtx,
    /// The table with the instance's handles.
    pub table: &'a mut ResourceTable,
    /// The bytes that the host holds for the instance.
    pub held: &'a mut HeldBytes,
}

/// Lets the generated code make a view.
struct HasNn;

impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Adds `wasi:nn` and `penstock:nn` to a linker. `view` makes the view of an instance's state.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    tensor::add_to_linker::<_, HasNn>(linker, view)?;
    linker.allow_shadowing(true);
    // A share of the bytes goes to wasmtime, which copies them into the guest's memory.
    linker
        .instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?
        .func_wrap(
            "[method]tensor.data",
            move |mut store: StoreContextMut<'_, T>, (tensor,): (Resource<Tensor>,)| {
                Ok((view(store.data_mut()).table.get(&tensor)?.0.data.clone(),))
            },
        )?;
    linker.allow_shadowing(false);
    bindings::penstock::nn::held::add_to_linker::<_, HasNn>(linker, view)?;
    linker.allow_shadowing(true);
    linker.instance(HELD)?.func_wrap(
        "read",
        move |mut store: StoreContextMut<'_, T>,
              (place,): (bindings::penstock::types::held::HeldBytes,)| {
            Ok((view(store.data_mut()).read_held(place)?,))
        },
    )?;
    linker.allow_shadowing(false);
    graph::add_to_linker::<_, HasNn>(linker, view)?;
    inference::add_to_linker::<_, HasNn>(linker, view)?;
    tensors::add_to_linker::<_, HasNn>(linker, view)?;
    errors::add_to_linker::<_, HasNn>(linker, view)
}

impl NnView<'_> {
    /// Takes over the bytes of a tensor, within the limit of one instance.
    fn hold_tensor(&mut self, tensor: NnTensor) -> wasmtime::Result<Resource<Tensor>> {
        self.held
            .take(tensor.data.len())
            .map_err(|OverLimit { held, limit }| {
                wasmtime::format_err!(
                    "the instance holds {held} bytes of tensors; the limit is {limit}"
                )
            })?;
        Ok(self.table.push(Tensor(tensor))?)
    }

    fn release_tensor(&mut self, handle: Resource<Tensor>) -> wasmtime::Result<NnTensor> {
        let Tensor(tensor) = self.table.delete(handle)?;
        self.held.release(tensor.data.len());
        Ok(tensor)
    }

    fn fail(&mut self, error: Error) -> wasmtime::Result<Resource<Error>> {
        Ok(self.table.push(error)?)
    }
}

impl From<NnError> for Error {
    fn from(error: NnError) -> Self {
        use errors::ErrorCode as Wit;
        use penstock_nn::ErrorCode as Own;
        let code = match error.code {
            Own::InvalidArgument => Wit::InvalidArgument,
            Own::InvalidEncoding => Wit::InvalidEncoding,
            Own::Timeout => Wit::Timeout,
            Own::RuntimeError => Wit::RuntimeError,
            Own::UnsupportedOperation => Wit::UnsupportedOperation,
            Own::TooLarge => Wit::TooLarge,
            Own::NotFound => Wit::NotFound,
            Own::Security => Wit::Security,
            Own::Unknown => Wit::Unknown,
        };
        let word = match error.refusal {
            Some(EngineRefusal::QueueFull | EngineRefusal::Shed) => Some(NnWord::QueueFull),
            Some(EngineRefusal::NotReady | EngineRefusal::Ended) => Some(NnWord::NotReady),
            Some(EngineRefusal::RowsDepend) => Some(NnWord::RowsDepend),
            Some(EngineRefusal::Deadline | EngineRefusal::Gone) | None => None,
        };
        // Rounded up: a caller that retries too early is refused again.
        let retry_after_ms = error.retry_after.map(|wait| {
            u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(MAX_RETRY_AFTER_MS)
        });
        let data = match word {
            Some(word) => NnData {
                word,
                retry_after_ms,
                message: &error.message,
            }
            .to_string(),
            None => error.message,
        };
        Self { code, data }
    }
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::UnknownModel(data) | Unavailable::UnknownVersion(data) => Self {
                code: errors::ErrorCode::NotFound,
                data,
            },
            Unavailable::Loading(reason)
            | Unavailable::Failed(reason)
            | Unavailable::Unloaded(reason) => Self {
                code: errors::ErrorCode::RuntimeError,
                data: NnData {
                    word: NnWord::NotReady,
                    retry_after_ms: None,
                    message: &reason,
                }
                .to_string(),
            },
        }
    }
}

impl tensor::Host for NnView<'_> {}

impl tensor::HostTensor for NnView<'_> {
    fn new(
        &mut self,
        dims: Vec<u32>,
        ty: tensor::TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<Tensor>> {
        // A constructor cannot fail in WIT, so a tensor with a wrong shape fails in `compute`.
        self.hold_tensor(NnTensor {
            ty: from_wit(ty),
            dims,
            data: Bytes::from(data),
        })
    }

    fn dimensions(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.0.dims.clone())
    }

    fn ty(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<tensor::TensorType> {
        to_wit(self.table.get(&tensor)?.0.ty)
    }

    fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u8>> {
        // The linker has another one. This is here because the generated trait has it.
        Ok(self.table.get(&tensor)?.0.data.to_vec())
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        self.release_tensor(tensor).map(drop)
    }
}

impl tensors::Host for NnView<'_> {
    fn create(
        &mut self,
        dims: Vec<u32>,
        ty: tensors::ElementType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<Tensor>> {
        self.hold_tensor(NnTensor {
            ty: from_element(ty),
            dims,
            data: Bytes::from(data),
        })
    }

    fn type_of(&mut self, value: Resource<Tensor>) -> wasmtime::Result<tensors::ElementType> {
        Ok(to_element(self.table.get(&value)?.0.ty))
    }

    async fn compute(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> wasmtime::Result<Result<Vec<(String, Resource<Tensor>)>, Resource<Error>>> {
        let computed = self.computed(context, inputs).await?;
        self.give(computed)
    }
}

impl graph::Host for NnView<'_> {
    fn load(
        &mut self,
        _builder: Vec<Vec<u8>>,
        _encoding: graph::GraphEncoding,
        _target: graph::ExecutionTarget,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<Error>>> {
        Ok(Err(self.fail(NnError::graph_in_bytes().into())?))
    }

    fn load_by_name(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<Error>>> {
        let GraphName {
            model,
            version,
            options,
        } = GraphName::parse(&name);
        match (self.ctx.repository).handle_in(self.ctx.snapshot.as_deref(), model, version) {
            Ok(handle) => Ok(Ok(self.table.push(Graph(handle, options))?)),
            Err(unavailable) => Ok(Err(self.fail(unavailable.into())?)),
        }
    }
}

impl graph::HostGraph for NnView<'_> {
    fn init_execution_context(
        &mut self,
        graph: Resource<Graph>,
    ) -> wasmtime::Result<Result<Resource<Context>, Resource<Error>>> {
        let Graph(handle, options) = self.table.get(&graph)?;
        let context = Context(handle.clone(), *options);
        Ok(Ok(self.table.push(context)?))
    }

    fn drop(&mut self, graph: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for NnView<'_> {}

impl inference::HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> wasmtime::Result<Result<Vec<(String, Resource<Tensor>)>, Resource<Error>>> {
        let computed = self.computed(context, inputs).await?;
        let carried = computed.and_then(|outputs| Ok(penstock_nn::for_wasi_nn(outputs)?));
        self.give(carried)
    }

    fn drop(&mut self, context: Resource<Context>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

impl NnView<'_> {
    /// Runs a model on tensors, and drops these.
    async fn computed(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> wasmtime::Result<Result<Vec<(String, NnTensor)>, Error>> {
        let Context(handle, asked) = self.table.get(&context)?;
        let (handle, asked) = (handle.clone(), *asked);
        let mut named = Vec::with_capacity(inputs.len());
        for (name, handle) in inputs {
            named.push((name, self.release_tensor(handle)?));
        }
        if asked.shadow {
            return Ok(match shadow(&handle, named) {
                Ok(()) => Ok(Vec::new()),
                Err(error) => Err(error.into()),
            });
        }
        Ok(run(&handle, named, asked, self.ctx.request.clone()).await)
    }

    /// Gives a run's outputs to the guest, within its memory.
    fn give(
        &mut self,
        computed: Result<Vec<(String, NnTensor)>, Error>,
    ) -> wasmtime::Result<Result<Given, Resource<Error>>> {
        let outputs = match computed {
            Ok(outputs) => outputs,
            Err(error) => return Ok(Err(self.fail(error)?)),
        };
        let bytes: usize = outputs.iter().map(|(_, tensor)| tensor.data.len()).sum();
        let most = self.held.limit() / OUTPUT_SHARE;
        if bytes > most {
            // The guest could not hold them beside its answer, and would trap.
            let data = format!(
                "the model's outputs have {bytes} bytes in all; at most {most} are accepted from one call: send \
                 fewer items, or ask the operator to raise instances.memory_bytes"
            );
            let error = Error {
                code: errors::ErrorCode::TooLarge,
                data,
            };
            return Ok(Err(self.fail(error)?));
        }
        let mut handles = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            handles.push((name, self.hold_tensor(tensor)?));
        }
        Ok(Ok(handles))
    }
}

/// Hands a shadow run to the engine: inputs and expected outputs, which their names distinguish.
fn shadow(handle: &Handle, tensors: Vec<(String, NnTensor)>) -> Result<(), NnError> {
    let (mut inputs, mut expected) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        match ShadowTensor::parse(&name) {
            Some(ShadowTensor::Input(name)) => inputs.push((name.to_owned(), tensor)),
            Some(ShadowTensor::Expected(name)) => expected.push((name.to_owned(), tensor)),
            None => {
                let start: String = name.chars().take(MAX_SHOWN_CHARS).collect();
                return Err(NnError::invalid(format!(
                    "a shadow run was given {start:?}; name its tensors input/<name> and expected/<name>"
                )));
            }
        }
    }
    handle.shadow(inputs, expected)
}

/// Runs a model with the options of the current request and of the graph's name. The time to load an evicted model
/// counts as the request's own.
async fn run(
    handle: &Handle,
    inputs: Vec<(String, NnTensor)>,
    asked: GraphOptions,
    request: Option<RequestContext>,
) -> Result<Vec<(String, NnTensor)>, Error> {
    let allowed =
        (asked.timeout_ms).map(|ms| Instant::now() + Duration::from_millis(u64::from(ms)));
    let Some(RequestContext {
        deadline,
        cancellation,
        repeatable,
    }) = request
    else {
        let model = handle.model().await?;
        let options = CallOptions {
            deadline: allowed,
            priority: asked.priority,
            is_combined: asked.joined,
            ..CallOptions::default()
        };
        return Ok(model.infer_with(inputs, options).await?);
    };
    let deadline = allowed.map_or(deadline, |allowed| allowed.min(deadline));
    if cancellation.is_cancelled() {
        return Err(gone().into());
    }
    let begun = Arc::new(AtomicBool::new(false));
    let options = CallOptions {
        deadline: Some(deadline),
        begun: Some(begun.clone()),
        priority: asked.priority,
        is_combined: asked.joined,
    };
    let mut answer = std::pin::pin!(async {
        let model = match tokio::time::timeout_at(deadline, handle.model()).await {
            Ok(model) => model?,
            Err(_) => return Err(still_loading().into()),
        };
        Ok(model.infer_with(inputs, options).await?)
    });
    tokio::select! {
        // A finished answer is used, even if the caller has disconnected meanwhile.
        biased;
        answer = &mut answer => return answer,
        () = cancellation.cancelled() => {}
    }
    if repeatable && begun.load(Ordering::Acquire) {
        return answer.await;
    }
    // Dropping the answer leaves the queue, or tells the engine that nobody waits for the run.
    Err(gone().into())
}

fn still_loading() -> NnError {
    NnError {
        code: ErrorCode::Timeout,
        message:
            "the deadline passed while the model was brought back into memory; allow more time"
                .to_owned(),
        refusal: Some(EngineRefusal::Deadline),
        retry_after: None,
    }
}

fn gone() -> NnError {
    NnError {
        code: ErrorCode::Timeout,
        message: "the caller disconnected before the model answered; the call was cancelled"
            .to_owned(),
        refusal: Some(EngineRefusal::Gone),
        retry_after: None,
    }
}

impl errors::Host for NnView<'_> {}

impl errors::HostError for NnView<'_> {
    fn code(&mut self, error: Resource<Error>) -> wasmtime::Result<errors::ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<Error>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    fn drop(&mut self, error: Resource<Error>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}

fn from_wit(ty: tensor::TensorType) -> penstock_nn::TensorType {
    use penstock_nn::TensorType as Own;
    match ty {
        tensor::TensorType::Fp16 => Own::Fp16,
        tensor::TensorType::Fp32 => Own::Fp32,
        tensor::TensorType::Fp64 => Own::Fp64,
        tensor::TensorType::Bf16 => Own::Bf16,
        tensor::TensorType::U8 => Own::U8,
        tensor::TensorType::I32 => Own::I32,
        tensor::TensorType::I64 => Own::I64,
    }
}

fn to_wit(ty: penstock_nn::TensorType) -> wasmtime::Result<tensor::TensorType> {
    use penstock_nn::TensorType as Own;
    Ok(match ty {
        Own::Fp16 => tensor::TensorType::Fp16,
        Own::Fp32 => tensor::TensorType::Fp32,
        Own::Fp64 => tensor::TensorType::Fp64,
        Own::Bf16 => tensor::TensorType::Bf16,
        Own::U8 => tensor::TensorType::U8,
        Own::I32 => tensor::TensorType::I32,
        Own::I64 => tensor::TensorType::I64,
        // Tensors from `compute` have none of these. Only tensors of `penstock:nn` have, and their type is read there.
        other => {
            return Err(wasmtime::format_err!(
                "wasi:nn has no type for a tensor of {other}; get it through penstock:nn/tensors"
            ));
        }
    })
}

fn from_element(ty: tensors::ElementType) -> penstock_nn::TensorType {
    use penstock_nn::TensorType as Own;
    match ty {
        tensors::ElementType::Fp16 => Own::Fp16,
        tensors::ElementType::Fp32 => Own::Fp32,
        tensors::ElementType::Fp64 => Own::Fp64,
        tensors::ElementType::Bf16 => Own::Bf16,
        tensors::ElementType::Uint8 => Own::U8,
        tensors::ElementType::Int32 => Own::I32,
        tensors::ElementType::Int64 => Own::I64,
        tensors::ElementType::BoolValue => Own::Bool,
        tensors::ElementType::Int8 => Own::I8,
        tensors::ElementType::Int16 => Own::I16,
        tensors::ElementType::Uint16 => Own::U16,
        tensors::ElementType::Uint32 => Own::U32,
        tensors::ElementType::Uint64 => Own::U64,
        tensors::ElementType::Bytes => Own::Bytes,
        tensors::ElementType::Int2 => Own::I2,
        tensors::ElementType::Uint2 => Own::U2,
        tensors::ElementType::Int4 => Own::I4,
        tensors::ElementType::Uint4 => Own::U4,
        tensors::ElementType::Fp8E4m3fn => Own::Fp8E4m3fn,
        tensors::ElementType::Fp8E4m3fnuz => Own::Fp8E4m3fnuz,
        tensors::ElementType::Fp8E5m2 => Own::Fp8E5m2,
        tensors::ElementType::Fp8E5m2fnuz => Own::Fp8E5m2fnuz,
    }
}

fn to_element(ty: penstock_nn::TensorType) -> tensors::ElementType {
    use penstock_nn::TensorType as Own;
    match ty {
        Own::Fp16 => tensors::ElementType::Fp16,
        Own::Fp32 => tensors::ElementType::Fp32,
        Own::Fp64 => tensors::ElementType::Fp64,
        Own::Bf16 => tensors::ElementType::Bf16,
        Own::U8 => tensors::ElementType::Uint8,
        Own::I32 => tensors::ElementType::Int32,
        Own::I64 => tensors::ElementType::Int64,
        Own::Bool => tensors::ElementType::BoolValue,
        Own::I8 => tensors::ElementType::Int8,
        Own::I16 => tensors::ElementType::Int16,
        Own::U16 => tensors::ElementType::Uint16,
        Own::U32 => tensors::ElementType::Uint32,
        Own::U64 => tensors::ElementType::Uint64,
        Own::Bytes => tensors::ElementType::Bytes,
        Own::I2 => tensors::ElementType::Int2,
        Own::U2 => tensors::ElementType::Uint2,
        Own::I4 => tensors::ElementType::Int4,
        Own::U4 => tensors::ElementType::Uint4,
        Own::Fp8E4m3fn => tensors::ElementType::Fp8E4m3fn,
        Own::Fp8E4m3fnuz => tensors::ElementType::Fp8E4m3fnuz,
        Own::Fp8E5m2 => tensors::ElementType::Fp8E5m2,
        Own::Fp8E5m2fnuz => tensors::ElementType::Fp8E5m2fnuz,
    }
}
