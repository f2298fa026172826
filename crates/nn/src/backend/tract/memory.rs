//! The memory of a run on tract, computed before the run takes it.
//!
//! Decisions:
//!
//! - **tract allocates from the process' allocator, which must not fail.** So a run is bounded by the memory that its
//!   values will take, not by the memory it took.
//! - **Most graphs are judged once for each set of input shapes.** The sizes of their values follow from those shapes
//!   ([`needed`]).
//! - **Graphs whose sizes follow from values are judged at each node** ([`run`]): `Range` makes as many numbers as its
//!   inputs say. The other operators of that kind make no more than a small multiple of their inputs. Expand,
//!   ConstantOfShape and Tile by a value cannot be loaded on tract.
//! - The bodies of Scan and If count with their outputs only.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use tract_onnx::prelude::{
    SymbolValues, TDim, TValue, TVec, Tensor, TractError, TractResult, TypedRunnableModel,
};
use tract_onnx::tract_core::internal::{Symbol, TypedNode};
use tract_onnx::tract_core::ops::array::{DynTile, Range};
use tract_onnx::tract_core::plan::eval;

/// The error of a run that wanted to hold more than it may.
#[derive(Debug)]
pub struct TooMuch {
    /// The bytes it wanted to hold.
    pub wanted: usize,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the run needs {} bytes", self.wanted)
    }
}

impl std::error::Error for TooMuch {}

/// Returns whether the size of every value follows from the shapes of the inputs.
pub fn follows_from_shapes(plan: &TypedRunnableModel) -> bool {
    let model = plan.model();
    let mut known: HashSet<Symbol> = HashSet::new();
    for outlet in model.input_outlets().into_iter().flatten() {
        if let Ok(fact) = model.outlet_fact(*outlet) {
            for dim in fact.shape.iter() {
                if let TDim::Sym(symbol) = dim {
                    known.insert(symbol.clone());
                }
            }
        }
    }
    (model.nodes().iter())
        .flat_map(|node| &node.outputs)
        .all(|output| {
            (output.fact.shape.iter())
                .all(|dim| dim.symbols().iter().all(|symbol| known.contains(symbol)))
        })
}

/// Bytes of the values that are alive together at the worst moment of a run, weights not counted. A value whose
/// length only the run will tell counts for nothing.
pub fn needed(plan: &TypedRunnableModel, shapes: &[Vec<u32>]) -> usize {
    let model = plan.model();
    let mut values = SymbolValues::default();
    for (outlet, shape) in (model.input_outlets().into_iter().flatten()).zip(shapes) {
        let Ok(fact) = model.outlet_fact(*outlet) else {
            continue;
        };
        for (dim, length) in fact.shape.iter().zip(shape) {
            if let TDim::Sym(symbol) = dim {
                values.set(symbol, i64::from(*length));
            }
        }
    }
    let mut alive = Alive::of(plan);
    let mut most = 0;
    for node in plan.order_without_consts() {
        let made = (model.node(*node).outputs.iter())
            .map(|output| {
                bytes_of(
                    output.fact.shape.iter(),
                    output.fact.datum_type.size_of(),
                    &values,
                )
                .unwrap_or(0)
            })
            .fold(0, usize::saturating_add);
        most = most.max(alive.total.saturating_add(made));
        alive.made(plan, *node, made);
    }
    most
}

/// The message of a run that was ended early.
pub const ENDED_EARLY: &str = "the run was ended early";

/// Runs a plan on these inputs. It stops before the node that would make it hold more than `most` bytes, with a [`TooMuch`],
/// and
/// before the next node once `stop` is set. An operator itself, and the body of a `Scan`, run to their end.
pub fn run(
    plan: &std::sync::Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
    most: Option<usize>,
    stop: &AtomicBool,
) -> TractResult<TVec<TValue>> {
    let mut watched = most.map(|most| (most, Alive::of(plan)));
    let check = |most: usize, wanted: usize| match wanted > most {
        true => Err(TractError::new(TooMuch { wanted })),
        false => Ok(()),
    };
    plan.spawn()?
        .run_plan_with_eval(inputs, |context, state, node, inputs| {
            if stop.load(Ordering::Relaxed) {
                return Err(TractError::msg(ENDED_EARLY));
            }
            let Some((most, alive)) = &mut watched else {
                return eval(context, state, node, inputs);
            };
            let expected = expected(node, &inputs, context.symbols);
            check(*most, alive.total.saturating_add(expected))?;
            let outputs = eval(context, state, node, inputs)?;
            let made = outputs
                .iter()
                .map(|value| bytes(value))
                .fold(0, usize::saturating_add);
            check(*most, alive.total.saturating_add(made))?;
            alive.made(plan, node.id, made);
            Ok::<_, TractError>(outputs)
        })
}

/// The memory of the values that are still needed.
struct Alive {
    /// Bytes of each node's values.
    bytes: Vec<usize>,
    /// The step after which a node's values are not needed any more.
    last_use: Vec<usize>,
    step: usize,
    total: usize,
}

impl Alive {
    fn of(plan: &TypedRunnableModel) -> Self {
        let model = plan.model();
        let order = plan.order_without_consts();
        let mut last_use = vec![0; model.nodes().len()];
        for (step, node) in order.iter().enumerate() {
            for input in &model.node(*node).inputs {
                last_use[input.node] = step;
            }
        }
        for outlet in model.output_outlets().into_iter().flatten() {
            last_use[outlet.node] = order.len();
        }
        Self {
            bytes: vec![0; model.nodes().len()],
            last_use,
            step: 0,
            total: 0,
        }
    }

    /// The next step has made values of `bytes` bytes.
    fn made(&mut self, plan: &TypedRunnableModel, node: usize, bytes: usize) {
        self.bytes[node] = bytes;
        self.total = self.total.saturating_add(bytes);
        let inputs = plan.model().node(node).inputs.iter();
        for done in inputs.map(|input| input.node).chain([node]) {
            if self.last_use[done] <= self.step {
                self.total = self
                    .total
                    .saturating_sub(std::mem::take(&mut self.bytes[done]));
            }
        }
        self.step += 1;
    }
}

/// Bytes that a node is about to make: from the declaration of its outputs, or from its inputs if those decide.
fn expected(node: &TypedNode, inputs: &[TValue], symbols: &SymbolValues) -> usize {
    (node.outputs.iter())
        .map(|output| {
            let size = output.fact.datum_type.size_of();
            let elements = || {
                if node.op_is::<Range>() {
                    range_length(inputs)
                } else if node.op_is::<DynTile>() {
                    tiled_length(inputs)
                } else {
                    None
                }
            };
            bytes_of(output.fact.shape.iter(), size, symbols)
                .or_else(|| elements().map(|elements| elements.saturating_mul(size)))
                .unwrap_or(0)
        })
        .fold(0, usize::saturating_add)
}

/// Bytes of a tensor of this shape; `None` if a dimension is not known.
fn bytes_of<'a>(
    dims: impl Iterator<Item = &'a TDim>,
    element: usize,
    symbols: &SymbolValues,
) -> Option<usize> {
    let mut bytes = element;
    for dim in dims {
        let length = dim.eval(symbols).to_i64().ok()?;
        bytes = bytes.saturating_mul(usize::try_from(length).unwrap_or(0));
    }
    Some(bytes)
}

fn bytes(value: &Tensor) -> usize {
    value.len().saturating_mul(value.datum_type().size_of())
}

/// Elements of `Range(start, limit, delta)`.
fn range_length(inputs: &[TValue]) -> Option<usize> {
    let number = |at: usize| -> Option<f64> { inputs.get(at)?.cast_to_scalar::<f64>().ok() };
    let length = ((number(1)? - number(0)?) / number(2)?).ceil();
    // A cast of a negative number or NaN gives zero, of an infinite one the largest.
    Some(length as usize)
}

/// Elements of `Tile(input, repeats)`.
fn tiled_length(inputs: &[TValue]) -> Option<usize> {
    let repeats = inputs.get(1)?.cast_to::<i64>().ok()?;
    let repeats = repeats
        .try_as_plain_ram()
        .ok()?
        .as_slice::<i64>()
        .ok()?
        .to_vec();
    let elements = inputs.first()?.len();
    Some((repeats.into_iter()).fold(elements, |elements, times| {
        elements.saturating_mul(usize::try_from(times).unwrap_or(0))
    }))
}
