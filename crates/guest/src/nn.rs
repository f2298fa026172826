//! Implements `wasi:nn` over the models in `/models`. The component is plugged into `inference` on hosts without
//! their own `wasi:nn`.
//!
//! It behaves like Penstock's own host and uses the same messages. Models are loaded only by name
//! (`<model>@<version>`, or `<model>` for its highest version). An error's data begins with `not_ready:` if a version
//! exists and is not ready. A tensor whose data does not fit its shape fails in `compute`, because a constructor
//! cannot fail.
//!
//! There is no queue, because a host gives an instance one request at a time. So no error begins with `queue_full:`.
//! A run cannot be cancelled, and nothing runs beside a request. Therefore a priority or timeout in a graph's name
//! has no effect, and shadow runs are refused.

use penstock_core::{GraphName, NnData, NnWord};
use penstock_nn::on_demand::{Limits, OnDemand, Opened};
use penstock_nn::{NnError, NnTensor, Rows, Unavailable};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:nn/component",
        path: ["../../wit/types", "../../wit/deps/nn", "../../wit/nn"],
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::nn::bindings",
    });
}

use bindings::exports::penstock::nn::{held, tensors};
use bindings::exports::wasi::nn::{errors, graph, inference, tensor};
use bindings::penstock::types::held::HeldBytes;

/// The path at which the manifest mounts the models.
const MODELS: &str = "/models";

/// The most bytes of tensors that an instance holds for its caller at once: the inputs of the largest call, and the
/// outputs of the call before it.
const MAX_HELD_BYTES: usize = 96 << 20;

thread_local! {
    static ENGINE: RefCell<OnDemand> = RefCell::new(OnDemand::new(MODELS, Limits::default()));
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The type that exports the interfaces.
pub struct Nn;

/// A tensor that the caller created or received.
pub struct Tensor {
    tensor: NnTensor,
    /// Set if the bytes were not kept, because all tensors together would exceed [`MAX_HELD_BYTES`].
    refused: bool,
}

/// A version that a caller opened. It stores the version's name and not the open model, so that a caller cannot keep
/// models open without bound.
pub struct Graph {
    model: String,
    version: u64,
    /// Whether the rows of each call are independent items that were combined to save runs.
    is_combined: bool,
}

/// A version that a caller may run.
pub struct Context {
    model: String,
    version: u64,
    is_combined: bool,
}

/// An error that is returned to a caller.
pub struct Error {
    code: errors::ErrorCode,
    data: String,
}

impl tensor::Guest for Nn {
    type Tensor = Tensor;
}

impl graph::Guest for Nn {
    type Graph = Graph;

    fn load(
        _builder: Vec<graph::GraphBuilder>,
        _encoding: graph::GraphEncoding,
        _target: graph::ExecutionTarget,
    ) -> Result<graph::Graph, errors::Error> {
        Err(raised(NnError::graph_in_bytes()))
    }

    fn load_by_name(name: String) -> Result<graph::Graph, errors::Error> {
        let GraphName {
            model,
            version,
            options,
        } = GraphName::parse(&name);
        let opened = opened(model, version)?;
        if options.shadow {
            return Err(raised(NnError::no_shadow_runs()));
        }
        Ok(graph::Graph::new(Graph {
            model: opened.model().to_owned(),
            version: opened.version(),
            is_combined: options.joined,
        }))
    }
}

impl inference::Guest for Nn {
    type GraphExecutionContext = Context;
}

impl errors::Guest for Nn {
    type Error = Error;
}

/// This host holds nothing, and the gate asks for nothing: `may-hold` of its requests is false. A tensor of a place has no data, so
/// that `compute` refuses it.
impl held::Guest for Nn {
    fn read(_place: HeldBytes) -> Vec<u8> {
        Vec::new()
    }

    fn suits(_place: HeldBytes, _rule: held::Rule) -> bool {
        false
    }

    fn create(
        dims: tensor::TensorDimensions,
        ty: tensors::ElementType,
        _place: HeldBytes,
    ) -> tensor::Tensor {
        tensor::Tensor::new(Tensor::made(dims, from_element(ty), Vec::new()))
    }

    fn keep(_value: tensor::TensorBorrow<'_>) -> Option<HeldBytes> {
        None
    }

    fn release(_item: u32) {}
}

impl tensors::Guest for Nn {
    fn create(
        dims: tensor::TensorDimensions,
        ty: tensors::ElementType,
        data: tensor::TensorData,
    ) -> tensor::Tensor {
        tensor::Tensor::new(Tensor::made(dims, from_element(ty), data))
    }

    fn type_of(value: tensor::TensorBorrow<'_>) -> tensors::ElementType {
        to_element(value.get::<Tensor>().tensor.ty)
    }

    fn compute(
        context: inference::GraphExecutionContextBorrow<'_>,
        inputs: Vec<inference::NamedTensor>,
    ) -> Result<Vec<inference::NamedTensor>, errors::Error> {
        Ok(given(context.get::<Context>().run(inputs)?))
    }
}

impl tensor::GuestTensor for Tensor {
    fn new(
        dims: tensor::TensorDimensions,
        ty: tensor::TensorType,
        data: tensor::TensorData,
    ) -> Self {
        Self::made(dims, from_wit(ty), data)
    }

    fn dimensions(&self) -> tensor::TensorDimensions {
        self.tensor.dims.clone()
    }

    fn ty(&self) -> tensor::TensorType {
        to_wit(self.tensor.ty)
    }

    fn data(&self) -> tensor::TensorData {
        self.tensor.data.to_vec()
    }
}

impl Tensor {
    fn made(dims: Vec<u32>, ty: penstock_nn::TensorType, data: Vec<u8>) -> Self {
        let tensor = NnTensor {
            ty,
            dims,
            data: data.into(),
        };
        let held = HELD_BYTES.get().saturating_add(tensor.data.len());
        if held > MAX_HELD_BYTES {
            return Self {
                tensor: NnTensor {
                    data: Vec::new().into(),
                    ..tensor
                },
                refused: true,
            };
        }
        Self::hold(tensor)
    }

    fn hold(tensor: NnTensor) -> Self {
        HELD_BYTES.set(HELD_BYTES.get().saturating_add(tensor.data.len()));
        Self {
            tensor,
            refused: false,
        }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        HELD_BYTES.set(HELD_BYTES.get().saturating_sub(self.tensor.data.len()));
    }
}

impl graph::GuestGraph for Graph {
    fn init_execution_context(&self) -> Result<inference::GraphExecutionContext, errors::Error> {
        Ok(inference::GraphExecutionContext::new(Context {
            model: self.model.clone(),
            version: self.version,
            is_combined: self.is_combined,
        }))
    }
}

impl inference::GuestGraphExecutionContext for Context {
    fn compute(
        &self,
        inputs: Vec<inference::NamedTensor>,
    ) -> Result<Vec<inference::NamedTensor>, errors::Error> {
        let outputs = penstock_nn::for_wasi_nn(self.run(inputs)?).map_err(raised)?;
        Ok(given(outputs))
    }
}

/// Converts outputs to the caller's handles.
fn given(outputs: Vec<(String, NnTensor)>) -> Vec<inference::NamedTensor> {
    let handle = |tensor| tensor::Tensor::new(Tensor::hold(tensor));
    outputs
        .into_iter()
        .map(|(name, tensor)| (name, handle(tensor)))
        .collect()
}

impl Context {
    fn run(
        &self,
        inputs: Vec<inference::NamedTensor>,
    ) -> Result<Vec<(String, NnTensor)>, errors::Error> {
        let mut named = Vec::with_capacity(inputs.len());
        for (name, handle) in inputs {
            let held: &Tensor = handle.get();
            if held.refused {
                return Err(raised(NnError::too_many_tensors(MAX_HELD_BYTES)));
            }
            // The bytes are shared and not copied. The tensor releases its share when its handle is dropped below.
            named.push((name, held.tensor.clone()));
        }
        let opened = opened(&self.model, Some(&self.version.to_string()))?;
        if self.is_combined
            && let Rows::Dependent(reason) = opened.rows()
        {
            return Err(errors::Error::new(Error {
                code: errors::ErrorCode::UnsupportedOperation,
                data: NnData {
                    word: NnWord::RowsDepend,
                    retry_after_ms: None,
                    message: reason,
                }
                .to_string(),
            }));
        }
        opened.infer(named).map_err(raised)
    }
}

impl errors::GuestError for Error {
    fn code(&self) -> errors::ErrorCode {
        self.code
    }

    fn data(&self) -> String {
        self.data.clone()
    }
}

fn opened(model: &str, version: Option<&str>) -> Result<Rc<Opened>, errors::Error> {
    ENGINE
        .with_borrow_mut(|engine| engine.get(model, version))
        .map_err(|unavailable| {
            errors::Error::new(match unavailable {
                Unavailable::UnknownModel(data) | Unavailable::UnknownVersion(data) => Error {
                    code: errors::ErrorCode::NotFound,
                    data,
                },
                Unavailable::Loading(reason)
                | Unavailable::Failed(reason)
                | Unavailable::Unloaded(reason) => Error {
                    code: errors::ErrorCode::RuntimeError,
                    data: NnData {
                        word: NnWord::NotReady,
                        retry_after_ms: None,
                        message: &reason,
                    }
                    .to_string(),
                },
            })
        })
}

fn raised(error: NnError) -> errors::Error {
    use errors::ErrorCode as Wit;
    use penstock_nn::ErrorCode as Own;
    errors::Error::new(Error {
        code: match error.code {
            Own::InvalidArgument => Wit::InvalidArgument,
            Own::InvalidEncoding => Wit::InvalidEncoding,
            Own::Timeout => Wit::Timeout,
            Own::RuntimeError => Wit::RuntimeError,
            Own::UnsupportedOperation => Wit::UnsupportedOperation,
            Own::TooLarge => Wit::TooLarge,
            Own::NotFound => Wit::NotFound,
            Own::Security => Wit::Security,
            Own::Unknown => Wit::Unknown,
        },
        data: error.message,
    })
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

fn to_wit(ty: penstock_nn::TensorType) -> tensor::TensorType {
    use penstock_nn::TensorType as Own;
    match ty {
        Own::Fp16 => tensor::TensorType::Fp16,
        Own::Fp32 => tensor::TensorType::Fp32,
        Own::Fp64 => tensor::TensorType::Fp64,
        Own::Bf16 => tensor::TensorType::Bf16,
        Own::U8 => tensor::TensorType::U8,
        Own::I32 => tensor::TensorType::I32,
        Own::I64 => tensor::TensorType::I64,
        // `compute` returns no such tensors. Only a tensor of `penstock:nn` can have this type, and callers query its
        // type there.
        other => panic!(
            "a tensor is {other}, which wasi:nn has no type for; ask penstock:nn/tensors for it"
        ),
    }
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
