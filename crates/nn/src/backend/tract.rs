//! tract: inference in Rust, always built in, so that a server starts on a machine with no native library.
//!
//! Decisions:
//!
//! - **One plan for every shape if tract can make one.** Symbolic dimensions stay symbolic through optimisation. If
//!   tract cannot do that (an operator needs numbers), each new shape gets a plan, and the [`MAX_PLANS`] last used are
//!   kept. Making a plan takes as long as loading. A caller that sends a new shape each time pays for it in latency, on
//!   its own instance; memory stays bounded.
//! - **A symbolic plan runs only shapes that were checked.** tract checks inputs against their own declared shapes and
//!   trusts its conclusions: given `[N,K] × [L,M]` it concludes `K = L`, and runs a call in which they differ over
//!   memory that is not the tensor's. So the graph's shapes are inferred once with the numbers of each new set of input
//!   shapes, and a contradiction is the caller's error.
//! - **A fresh state for each call.** A plan's state can carry values of recurrent operators from one run to the next;
//!   it must never carry them between callers.
//! - **The memory of a run is known before it starts** from the shapes of the plan's own values. So where memory is
//!   bounded ([`LoadOptions::working_bytes`]), a call is refused instead of ending in the middle. It is counted once
//!   for each new set of input shapes.
//! - **Types that tract lacks are refused at load.** That is bfloat16, and strings, which its operators lack.
//! - **Graphs that tract answers wrong are refused at load**: see [`refused`].

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{self, type_proto};
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, OutletId,
    SymbolScope, TDim, TValue, TVec, Tensor, TractError, TypedRunnableModel,
};
use tract_onnx::tract_hir::infer::Factoid;

use super::cost::Cost;
use super::message::{panic_text, presentable};
use super::options::{GraphSource, LoadOptions};
use super::port::{Dim, Port, PortType};
use super::rows::Rows;
use super::session::{Backend, Instance, Interrupt, Session};
use super::versions::Reads;
use crate::allocation::can_allocate;
use crate::error::{ErrorCode, NnError, listed, quoted};
use crate::tensor::{NnTensor, TensorType};

mod memory;
mod refused;
mod softmax;

/// The name `model.toml` knows the backend by.
pub const NAME: &str = "tract";

/// Most plans of a model that needs one for each shape. In the worst case a plan holds its own copy of the weights, so
/// a model may be in memory as many times.
pub const MAX_PLANS: usize = 8;

/// Most sets of input shapes that are remembered as checked. With them a model with one plan need not infer shapes for
/// each call. When so many are known all are forgotten; a caller that never repeats a shape gains nothing from it and
/// cannot make it grow.
pub const MAX_VETTED_SHAPES: usize = 1024;

/// The release this crate is built with; tract does not export its own. A test compares it with Cargo.lock.
pub const VERSION: &str = "0.23.9";

/// The newest opset whose operators `scripts/tract-conformance` compares with the ONNX project's own results (onnx
/// 1.23.2). tract itself reads any.
pub const TESTED_OPSET: u64 = 28;

/// The backend; it has no state.
#[derive(Debug, Clone, Copy)]
pub struct Tract;

impl Backend for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.into()
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

    fn runs_on_calling_thread(&self, _options: &LoadOptions) -> bool {
        true
    }

    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        load(graph, options, Refusals::Act)
    }
}

/// tract without the refusals of graphs that it answers wrong. Only for finding such graphs.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct AsItIs;

impl Backend for AsItIs {
    fn name(&self) -> &'static str {
        "tract-as-it-is"
    }

    fn version(&self) -> String {
        VERSION.into()
    }

    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        load(graph, options, Refusals::Ignore)
    }
}

/// The treatment of graphs that tract answers wrong.
#[derive(Clone, Copy, PartialEq)]
enum Refusals {
    Act,
    Ignore,
}

fn load(
    graph: &GraphSource,
    options: &LoadOptions,
    refusals: Refusals,
) -> Result<Arc<dyn Session>, NnError> {
    // tract asserts in places about graphs it has not met.
    match catch_unwind(AssertUnwindSafe(|| open(graph, options, refusals))) {
        Ok(Ok(graph)) => Ok(Arc::new(TractSession(Arc::new(graph)))),
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(NnError::unsupported(format!(
            "tract gives up on the graph ({}); load it with backend = \"onnxruntime\"",
            panic_text(&*panic)
        ))),
    }
}

type Plan = Arc<TypedRunnableModel>;

/// A parsed graph and the plans made of it.
struct Graph {
    model: InferenceModel,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    plans: Plans,
    cost: Cost,
    rows: Rows,
    working_bytes: Option<usize>,
    /// Whether the size of every value follows from the shapes of the inputs. Else each run is watched.
    sizes_follow_from_shapes: bool,
}

enum Plans {
    /// The graph leaves no dimension open; inputs are checked against it before they come here.
    Fixed(Plan),
    /// One plan for every shape, and the shapes known to make sense.
    Symbolic(Plan, Mutex<HashSet<Shapes>>),
    /// One plan for each shape, the last used last.
    PerShape(Mutex<Vec<(Shapes, Plan)>>),
}

/// The shape of each input.
type Shapes = Vec<Vec<u32>>;

struct TractSession(Arc<Graph>);

impl Session for TractSession {
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
        self.0.cost.clone()
    }

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        Ok(Box::new(TractInstance(self.0.clone(), Arc::default())))
    }
}

struct TractInstance(Arc<Graph>, Arc<Stop>);

/// Ends a run between two operators of the plan. An operator itself, and the body of a `Scan`, run to their end.
#[derive(Default)]
struct Stop(AtomicBool);

impl Interrupt for Stop {
    fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Instance for TractInstance {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let graph = &*self.0;
        let plan = graph.plan_for(inputs)?;
        let values = (inputs.iter().zip(&graph.inputs))
            .map(|(tensor, port)| to_tract(tensor, port))
            .collect::<Result<TVec<TValue>, _>>()?;
        // If sizes follow from shapes, they were checked when the plan was chosen.
        let most = graph
            .working_bytes
            .filter(|_| !graph.sizes_follow_from_shapes);
        let stop = &self.1.0;
        let run = || memory::run(&plan, values, most, stop);
        #[cfg(feature = "native")]
        let ran = super::quiet::caught(run).unwrap_or_else(|panic| {
            Err(TractError::msg(format!("a panic: {}", panic_text(&*panic))))
        });
        #[cfg(not(feature = "native"))]
        let ran = run();
        let outputs = ran.map_err(|error| match stop.load(Ordering::Relaxed) {
            true => NnError::runtime(memory::ENDED_EARLY),
            false => graph.failed(&error),
        })?;
        if outputs.len() != graph.outputs.len() {
            return Err(NnError::runtime(
                "tract produced another number of outputs than the graph has",
            ));
        }
        outputs
            .into_iter()
            .zip(&graph.outputs)
            .map(|(value, port)| from_tract(&value, port))
            .collect()
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.1.clone())
    }
}

impl Graph {
    fn plan_for(&self, inputs: &[NnTensor]) -> Result<Plan, NnError> {
        let shapes = || -> Shapes { inputs.iter().map(|tensor| tensor.dims.clone()).collect() };
        match &self.plans {
            Plans::Fixed(plan) => Ok(plan.clone()),
            Plans::Symbolic(plan, vetted) => {
                let shapes = shapes();
                if !lock(vetted).contains(&shapes) {
                    self.with_shapes(&shapes)
                        .and_then(|mut model| model.analyse(false).map(drop))
                        .map_err(misfit)?;
                    self.affordable(plan, &shapes)?;
                    let mut vetted = lock(vetted);
                    if vetted.len() >= MAX_VETTED_SHAPES {
                        vetted.clear();
                    }
                    vetted.insert(shapes);
                }
                Ok(plan.clone())
            }
            Plans::PerShape(kept) => {
                let shapes = shapes();
                let known = {
                    let mut plans = lock(kept);
                    (plans.iter().position(|(key, _)| *key == shapes)).map(|at| {
                        let entry = plans.remove(at);
                        let plan = entry.1.clone();
                        plans.push(entry);
                        plan
                    })
                };
                if let Some(plan) = known {
                    return Ok(plan);
                }
                // Made outside the lock: another instance with a known shape must not wait for it. Two instances may
                // make the same plan at once; the second replaces the first.
                let plan = (self.with_shapes(&shapes))
                    .and_then(|model| model.into_optimized()?.into_runnable())
                    .map_err(misfit)?;
                self.affordable(&plan, &shapes)?;
                let mut plans = lock(kept);
                plans.retain(|(key, _)| *key != shapes);
                if plans.len() >= MAX_PLANS {
                    plans.remove(0);
                }
                plans.push((shapes, plan.clone()));
                Ok(plan)
            }
        }
    }

    /// Refuses shapes on which a run would take more memory than it may.
    fn affordable(&self, plan: &Plan, shapes: &Shapes) -> Result<(), NnError> {
        let Some(most) = self.working_bytes else {
            return Ok(());
        };
        let needed = memory::needed(plan, shapes);
        if needed <= most && can_allocate(needed) {
            return Ok(());
        }
        Err(super::message::too_much_memory(needed, most))
    }

    fn failed(&self, error: &TractError) -> NnError {
        match (error.downcast_ref::<memory::TooMuch>(), self.working_bytes) {
            (Some(too_much), Some(most)) => super::message::too_much_memory(too_much.wanted, most),
            _ => {
                let text = text_of(error);
                match super::message::blames_an_index(&text) {
                    true => NnError::invalid(format!(
                        "an index in the inputs does not fit the graph: {text}"
                    )),
                    false => NnError::runtime(format!("tract: {text}")),
                }
            }
        }
    }

    /// The graph with numbers for its inputs' dimensions. Weights are shared with the original.
    fn with_shapes(&self, shapes: &Shapes) -> Result<InferenceModel, TractError> {
        let mut model = self.model.clone();
        for (index, (shape, port)) in shapes.iter().zip(&self.inputs).enumerate() {
            let dims: Vec<TDim> = shape
                .iter()
                .map(|dim| TDim::from(i64::from(*dim)))
                .collect();
            let fact = match datum_type(port.ty) {
                Some(ty) => InferenceFact::dt_shape(ty, dims),
                None => InferenceFact::shape(dims),
            };
            model.set_input_fact(index, fact)?;
        }
        Ok(model)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn misfit(error: TractError) -> NnError {
    NnError::invalid(format!(
        "the graph cannot take inputs of these shapes together: {}",
        text_of(&error)
    ))
}

/// Refuses a graph with values that no node produces, or with operators that tract does not have.
fn is_complete(model: &InferenceModel, unresolved_inputs: &[String]) -> Result<(), NnError> {
    if !unresolved_inputs.is_empty() {
        return Err(NnError::new(
            ErrorCode::InvalidEncoding,
            format!(
                "the graph uses values nothing produces: {}",
                listed(unresolved_inputs.iter().map(String::as_str))
            ),
        ));
    }
    let missing: Vec<&str> = (model.nodes().iter())
        .filter(|node| node.op.name().starts_with("Unimplemented"))
        .map(|node| &*node.name)
        .collect();
    if !missing.is_empty() {
        return Err(NnError::unsupported(format!(
            "tract does not implement the operators at {}; load the graph with backend = \"onnxruntime\"",
            listed(missing.into_iter())
        )));
    }
    Ok(())
}

fn open(source: &GraphSource, options: &LoadOptions, refusals: Refusals) -> Result<Graph, NnError> {
    super::options::only_the_processor(NAME, options)?;
    let declared = super::onnx_file::examine(source)?;
    let (rows, cost) = (declared.rows(options), declared.cost);
    // The file's notes about values between nodes name open dimensions, and those would contradict the numbers of a
    // call.
    let onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let (proto, dir) = proto_of(&onnx, source)?;
    let declared = (proto.graph.as_ref())
        .ok_or_else(|| NnError::new(ErrorCode::InvalidEncoding, "the ONNX file holds no graph"))?;
    let functions = proto.functions.iter().flat_map(|function| &function.node);
    let rows = softmax::rounded(rows, declared.node.iter().chain(functions));
    let initialized = |name: &str| {
        declared
            .initializer
            .iter()
            .any(|tensor| tensor.name == name)
    };
    let inputs: Vec<Port> = (declared.input.iter())
        .filter(|info| !initialized(&info.name))
        .map(port)
        .collect();
    let all_outputs: Vec<Port> = declared.output.iter().map(port).collect();
    let mut outputs = all_outputs.clone();
    super::options::select_outputs(&mut outputs, options)?;
    if let Some(port) = (inputs.iter().chain(&outputs)).find(|port| datum_type(port.ty).is_none()) {
        return Err(NnError::unsupported(format!(
            "tract has no {} tensors, and {} is one; load the graph with backend = \"onnxruntime\"",
            port.ty,
            quoted(&port.name)
        )));
    }

    let parsed = onnx.parse(&proto, dir).map_err(unsupported)?;
    if refusals == Refusals::Act {
        let mut analysed = None;
        if options.non_finite {
            refused::loses_nan(&proto)?;
        }
        refused::check(&proto, |name| {
            // Only graphs with an operator of the table come here.
            let model = analysed.get_or_insert_with(|| {
                let mut model = parsed.model.clone();
                // Facts found before a fault are still right.
                let _ = model.analyse(true);
                model
            });
            known(&parsed.outlets_by_name, model, name)
        })?;
    }
    // The weights have been copied from it, and the next step copies them again.
    drop(proto);
    let mut model = parsed.model;
    is_complete(&model, &parsed.unresolved_inputs)?;
    let chosen: Vec<_> = (model
        .output_outlets()
        .map_err(unsupported)?
        .iter()
        .zip(&all_outputs))
    .filter(|(_, port)| outputs.contains(port))
    .map(|(outlet, _)| *outlet)
    .collect();
    model.select_output_outlets(&chosen).map_err(unsupported)?;

    let plans = plans_of(&model, &inputs)?;
    let sizes_follow_from_shapes = match &plans {
        Plans::Fixed(plan) | Plans::Symbolic(plan, _) => memory::follows_from_shapes(plan),
        // Not all of the plans are known.
        Plans::PerShape(_) => false,
    };
    let cost = match (&plans, cost) {
        (Plans::Symbolic(..), Cost::Shapes) => Cost::EachShape,
        (Plans::PerShape(_), _) => Cost::Values("a run on a new shape makes a new plan".into()),
        (_, cost) => cost,
    };
    let graph = Graph {
        model,
        inputs,
        outputs,
        plans,
        cost,
        rows,
        working_bytes: options.working_bytes,
        sizes_follow_from_shapes,
    };
    if let Plans::Fixed(plan) = &graph.plans {
        graph.affordable(plan, &Shapes::new())?;
    }
    Ok(graph)
}

fn unreadable(error: TractError) -> NnError {
    NnError::new(
        ErrorCode::InvalidEncoding,
        format!("the graph is not an ONNX file: {}", text_of(&error)),
    )
}

fn unsupported(error: TractError) -> NnError {
    NnError::unsupported(format!(
        "tract cannot load the graph: {}; load it with backend = \"onnxruntime\"",
        text_of(&error)
    ))
}

/// The file as it is written, and the folder that its weights are in.
fn proto_of<'s>(
    onnx: &tract_onnx::Onnx,
    source: &'s GraphSource,
) -> Result<(pb::ModelProto, Option<&'s str>), NnError> {
    match source {
        GraphSource::File(path) => {
            if !path.is_file() {
                return Err(NnError::not_found("the graph's file does not exist"));
            }
            let proto = onnx.proto_model_for_path(path).map_err(unreadable)?;
            Ok((proto, path.parent().and_then(Path::to_str)))
        }
        GraphSource::Bytes(bytes) => {
            let proto = onnx.proto_model_for_read(&mut &bytes[..]);
            Ok((proto.map_err(unreadable)?, None))
        }
    }
}

/// One plan for every shape where tract can make one.
fn plans_of(model: &InferenceModel, inputs: &[Port]) -> Result<Plans, NnError> {
    let fixed = inputs.iter().all(|port| {
        port.dims
            .as_ref()
            .is_some_and(|dims| dims.iter().all(|dim| matches!(dim, Dim::Fixed(_))))
    });
    let ranked = inputs.iter().all(|port| port.dims.is_some());
    let one = if ranked {
        let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<Plan, TractError> {
            symbolic(model.clone(), inputs)?
                .into_optimized()?
                .into_runnable()
        }));
        match attempt {
            Ok(Ok(plan)) => Some(plan),
            Ok(Err(error)) if fixed => return Err(unsupported(error)),
            Err(panic) if fixed => std::panic::resume_unwind(panic),
            // It may work with numbers. The warm-up run shows that before the model is ready.
            Ok(Err(_)) | Err(_) => None,
        }
    } else {
        None
    };
    Ok(match one {
        Some(plan) if fixed => Plans::Fixed(plan),
        Some(plan) => Plans::Symbolic(plan, Mutex::default()),
        None => Plans::PerShape(Mutex::default()),
    })
}

/// The facts about a value that analysis found.
fn known(
    outlets: &HashMap<String, OutletId>,
    model: &InferenceModel,
    name: &str,
) -> refused::Known {
    let fact = (outlets.get(name)).and_then(|outlet| model.outlet_fact(*outlet).ok());
    refused::Known {
        ty: fact.and_then(|fact| fact.datum_type.concretize()),
        value: fact.and_then(|fact| fact.value.concretize()),
    }
}

/// Gives every dimension the graph leaves open a symbol, also those it has no name for.
fn symbolic(mut model: InferenceModel, inputs: &[Port]) -> Result<InferenceModel, TractError> {
    let scope: SymbolScope = model.symbols.clone();
    for (index, port) in inputs.iter().enumerate() {
        let (Some(dims), Some(ty)) = (&port.dims, datum_type(port.ty)) else {
            continue;
        };
        if !dims
            .iter()
            .any(|dim| matches!(dim, Dim::Symbolic(name) if !is_plain(name)))
        {
            continue;
        }
        let dims: Vec<TDim> = (dims.iter())
            .map(|dim| match dim {
                Dim::Fixed(size) => TDim::from(i64::from(*size)),
                Dim::Symbolic(name) if is_plain(name) => TDim::from(scope.sym(name)),
                Dim::Symbolic(_) => TDim::from(scope.new_with_prefix("open")),
            })
            .collect();
        model.set_input_fact(index, InferenceFact::dt_shape(ty, dims))?;
    }
    Ok(model)
}

/// Returns whether an axis' name is one symbol, and not an expression or nothing.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn port(info: &pb::ValueInfoProto) -> Port {
    let name = info.name.clone();
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|ty| ty.value.as_ref())
    else {
        return Port {
            name,
            ty: PortType::Other("a sequence, map or optional"),
            dims: None,
        };
    };
    let dims = tensor.shape.as_ref().map(|shape| {
        (shape.dim.iter())
            .map(|dim| match &dim.value {
                Some(DimValue::DimValue(size)) => {
                    u32::try_from(*size).map_or_else(|_| Dim::Symbolic(String::new()), Dim::Fixed)
                }
                Some(DimValue::DimParam(name)) => Dim::Symbolic(name.clone()),
                None => Dim::Symbolic(String::new()),
            })
            .collect()
    });
    Port {
        name,
        ty: port_type(tensor.elem_type),
        dims,
    }
}

fn port_type(element: i32) -> PortType {
    super::onnx_file::port_type(u64::try_from(element).unwrap_or_default())
}

fn datum_type(ty: PortType) -> Option<DatumType> {
    match ty {
        PortType::Tensor(TensorType::Fp16) => Some(DatumType::F16),
        PortType::Tensor(TensorType::Fp32) => Some(DatumType::F32),
        PortType::Tensor(TensorType::Fp64) => Some(DatumType::F64),
        PortType::Tensor(TensorType::U8) => Some(DatumType::U8),
        PortType::Tensor(TensorType::I32) => Some(DatumType::I32),
        PortType::Tensor(TensorType::I64) => Some(DatumType::I64),
        PortType::Tensor(TensorType::Bool) => Some(DatumType::Bool),
        PortType::Tensor(TensorType::I8) => Some(DatumType::I8),
        PortType::Tensor(TensorType::I16) => Some(DatumType::I16),
        PortType::Tensor(TensorType::U16) => Some(DatumType::U16),
        PortType::Tensor(TensorType::U32) => Some(DatumType::U32),
        PortType::Tensor(TensorType::U64) => Some(DatumType::U64),
        // tract's strings reach few operators, and none that this server has seen answer right.
        PortType::Tensor(TensorType::Bf16 | TensorType::Bytes) | PortType::Other(_) => None,
        // The small types, which no operator of tract computes with.
        PortType::Tensor(_) => None,
    }
}

fn to_tract(tensor: &NnTensor, port: &Port) -> Result<TValue, NnError> {
    tensor.check()?;
    let ty = datum_type(port.ty)
        .ok_or_else(|| NnError::unsupported("tract has no tensor of this type"))?;
    if ty == DatumType::Bool && !tensor.data.iter().all(|byte| *byte <= 1) {
        return Err(NnError::invalid(format!(
            "input {} is BOOL and holds a byte that is not 0 or 1",
            quoted(&port.name)
        )));
    }
    let shape: Vec<usize> = tensor.dims.iter().map(|dim| *dim as usize).collect();
    // SAFETY: every pattern of bits is a value of the types `datum_type` returns but for BOOL, whose bytes
    // were just seen to be 0 or 1; that length and shape agree is checked twice, here and by tract.
    let made = unsafe { Tensor::from_raw_dt(ty, &shape, &tensor.data) };
    made.map(TValue::from)
        .map_err(|error| NnError::invalid(text_of(&error)))
}

fn from_tract(value: &TValue, port: &Port) -> Result<NnTensor, NnError> {
    let wrong = |what: String| NnError::runtime(format!("output {} {what}", quoted(&port.name)));
    let (Some(ty), Some(datum)) = (port.ty.carried_as(), datum_type(port.ty)) else {
        return Err(wrong("has a type no tensor carries".into()));
    };
    let dims: Vec<u32> = (value.shape().iter())
        .map(|dim| u32::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("has a dimension that does not fit 32 bits".into()))?;
    // Shape arithmetic is done in tract's own integer type, and quantised bytes carry their parameters.
    let data = if value.datum_type().unquantized() == datum {
        Bytes::copy_from_slice(value.as_bytes())
    } else {
        let cast = value
            .cast_to_dt(datum)
            .map_err(|error| wrong(format!("is no {}: {}", port.ty, text_of(&error))))?;
        Bytes::copy_from_slice(cast.as_bytes())
    };
    NnTensor::new(ty, dims, data)
        .map_err(|_| wrong("has a length that does not fit its shape".into()))
}

/// tract's errors are chains: the innermost has the reason and the outermost the place.
fn text_of(error: &TractError) -> String {
    let root = error.root_cause().to_string();
    let top = error.to_string();
    presentable(&if root == top {
        root
    } else {
        format!("{root} ({top})")
    })
}
