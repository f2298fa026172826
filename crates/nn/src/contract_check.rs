//! Compares a graph with its `model.toml`, and derives from the contract the outputs to compute and a harmless first
//! call. Only this file of the crate knows contracts.
//!
//! A contract may promise less than the graph can do (a fixed length where the graph takes any), never more.

use half::{bf16, f16};
#[cfg(feature = "native")]
use penstock_tensor::contract::FirstRun;
use penstock_tensor::contract::{Bound, Contract, Dim as Axis, TensorSpec};
use penstock_tensor::datatype::Datatype;
use penstock_tensor::fp8::Fp8;

use crate::backend::{Dim, LoadOptions, Port, PortType, RUN_MEMORY_BYTES};
#[cfg(feature = "native")]
use crate::batching::{DynamicBatching, MAX_TOKENS, Padding};
use crate::error::{NnError, listed, quoted};
use crate::tensor::{NnTensor, TensorType, push_string};

/// All differences between contract and graph, each with its remedy; empty if they agree. The shapes of outputs are
/// left out: runs decide about those ([`output_shape`]).
///
/// `outputs` may leave out outputs that the contract does not name.
pub fn check(contract: &Contract, inputs: &[Port], outputs: &[Port]) -> Vec<String> {
    let mut faults = Vec::new();
    side("input", &contract.inputs, inputs, &mut faults);
    for port in inputs
        .iter()
        .filter(|port| contract.input(&port.name).is_none())
    {
        faults.push(format!(
            "the graph's input {} ({} {}) is not in model.toml; add an [[inputs]] table for it",
            quoted(&port.name),
            port.ty,
            port.shape_text()
        ));
    }
    side("output", &contract.outputs, outputs, &mut faults);
    faults
}

fn side(role: &str, specs: &[TensorSpec], ports: &[Port], faults: &mut Vec<String>) {
    for spec in specs {
        let name = quoted(&spec.name);
        let Some(port) = ports.iter().find(|port| port.name == spec.name) else {
            faults.push(format!(
                "the graph has no {role} {name}; its {role}s are {}: correct the name in model.toml",
                listed(ports.iter().map(|port| port.name.as_str()))
            ));
            continue;
        };
        if PortType::Tensor(tensor_type(spec.datatype)) != port.ty {
            let remedy = match port.ty {
                PortType::Tensor(ty) => format!("write datatype = \"{ty}\""),
                PortType::Other(_) => "no tensor carries that".into(),
            };
            faults.push(format!(
                "{role} {name} is {} in model.toml and {} in the graph; {remedy}",
                spec.datatype, port.ty
            ));
        }
        if role == "input" {
            shape(role, spec, port, &|_| false, faults);
        }
    }
}

/// The difference between contract and graph in the shape of an output, with the remedy.
pub fn output_shape(contract: &Contract, spec: &TensorSpec, port: &Port) -> Option<String> {
    // An axis that only outputs have promises no length, so a fixed length meets it.
    let free = |symbol: &str| {
        let mut of_inputs = contract.inputs.iter().flat_map(|spec| &spec.shape);
        of_inputs.all(|axis| !matches!(axis, Axis::Symbol(name) if name == symbol))
    };
    let mut faults = Vec::new();
    shape("output", spec, port, &free, &mut faults);
    (!faults.is_empty()).then(|| faults.join("; "))
}

fn shape(
    role: &str,
    spec: &TensorSpec,
    port: &Port,
    free: &dyn Fn(&str) -> bool,
    faults: &mut Vec<String>,
) {
    let name = quoted(&spec.name);
    let Some(dims) = &port.dims else { return };
    if dims.len() != spec.shape.len() {
        faults.push(format!(
            "{role} {name} has shape {} in model.toml and {} in the graph, which has {} dimensions; write as many",
            spec.shape_text(),
            port.shape_text(),
            dims.len()
        ));
        return;
    }
    for (index, (axis, dim)) in spec.shape.iter().zip(dims).enumerate() {
        let Dim::Fixed(length) = dim else { continue };
        match axis {
            Axis::Fixed(promised) if *promised != u64::from(*length) => faults.push(format!(
                "{role} {name}: dimension {index} is {promised} in model.toml and {length} in the graph; write {length}"
            )),
            Axis::Symbol(symbol) if !free(symbol) => faults.push(format!(
                "{role} {name}: dimension {index} is {symbol:?} in model.toml, any length, and fixed at {length} in \
                 the graph; write {length}, or export the model with a dynamic axis there"
            )),
            Axis::Fixed(_) | Axis::Symbol(_) => {}
        }
    }
}

/// The load options that a contract asks for.
pub fn options(contract: &Contract, queue_max: usize) -> LoadOptions {
    LoadOptions {
        instances: contract.engine.lanes.map(usize::from),
        intra_op_threads: contract.engine.intra_op_threads.map_or(1, usize::from),
        provider: contract.engine.provider.unwrap_or_default(),
        device: contract.engine.device.clone(),
        precision: contract.engine.precision,
        non_finite: contract.inputs.iter().any(|spec| spec.allow_non_finite),
        outputs: Some(
            contract
                .outputs
                .iter()
                .map(|spec| spec.name.clone())
                .collect(),
        ),
        optional_inputs: (contract.inputs.iter())
            .filter(|spec| spec.optional)
            .map(|spec| spec.name.clone())
            .collect(),
        labels: (contract.outputs.iter())
            .filter_map(|spec| Some((spec.name.clone(), spec.labels.clone()?)))
            .collect(),
        empty_inputs: contract.may_be_empty(),
        // Only the server knows their files.
        operator_libraries: Vec::new(),
        queue_max: contract
            .engine
            .queue_max
            .map_or(queue_max, |most| most as usize),
        priority_levels: contract.batching.priority_levels,
        default_priority: contract.batching.default_priority,
        #[cfg(feature = "native")]
        batching: batching(contract),
        working_bytes: Some(RUN_MEMORY_BYTES),
    }
}

/// The options of dynamic batching that a contract asks for, or the reason that calls do not share runs.
#[cfg(feature = "native")]
fn batching(contract: &Contract) -> Result<DynamicBatching, String> {
    let batching = &contract.batching;
    if contract.engine.first_run == FirstRun::Skip {
        return Err("model.toml has first_run = \"skip\", so shared runs were not tried".into());
    }
    if contract.may_be_empty() {
        return Err("model.toml lets an axis be empty".into());
    }
    let Some(batch_axis) = contract.batch_axis() else {
        return Err(
            "model.toml names no axis that comes first in every input and output and nowhere else"
                .into(),
        );
    };
    let axis_of = |spec: &TensorSpec, axis: &str| {
        (spec.shape.iter()).position(|dim| matches!(dim, Axis::Symbol(name) if name == axis))
    };
    debug_assert!(
        contract
            .inputs
            .iter()
            .all(|spec| axis_of(spec, batch_axis) == Some(0))
    );
    let padding = batching.padding.as_ref().map(|padding| Padding {
        inputs: (contract.inputs.iter())
            .filter_map(|spec| {
                let axis = axis_of(spec, &padding.axis)?;
                let value = padding.values.get(&spec.name).copied().unwrap_or_default();
                Some((spec.name.clone(), (axis, encode(spec.datatype, value))))
            })
            .collect(),
        outputs: (contract.outputs.iter())
            .filter_map(|spec| Some((spec.name.clone(), axis_of(spec, &padding.axis)?)))
            .collect(),
        max_tokens: padding.max_tokens.unwrap_or(MAX_TOKENS),
    });
    let default = DynamicBatching::default();
    let ms = |ms: f64| std::time::Duration::from_secs_f64(ms / 1e3);
    // A run of several is no larger than one call may be.
    let of_axis = contract.axes.get(batch_axis).and_then(|bounds| bounds.max);
    let most = contract.limits.max_items.min(of_axis.unwrap_or(u64::MAX));
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    Ok(DynamicBatching {
        max_items: batching.max_items.unwrap_or(default.max_items).min(most),
        max_bytes: default.max_bytes,
        max_queue_delay: batching.max_wait_ms.map_or(default.max_queue_delay, ms),
        preferred: batching.preferred_items.clone(),
        target: batching.latency_target_ms.map(ms),
        // A padded axis is summed in another order, and the operator asked for it.
        exact: padding.is_none() && !batching.is_required,
        padding,
        shares: batching.enabled,
        allow_dependent_rows: batching.allow_dependent_rows,
    })
}

/// The largest tensor made up to warm a model; a contract whose least input is larger is mistaken.
pub(crate) const MAX_EXAMPLE_BYTES: usize = 1 << 30;

/// Most numbers of [`Fill::List`]: as many as a shape has axes.
pub(crate) const MAX_FILL_LIST: usize = 16;

/// The elements of a made-up tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fill {
    /// The minimum; without one zero, or the maximum if that is below zero.
    Least,
    /// One, or the end of the range that is nearest to it.
    Ones,
    /// The middle of the range, or the value of [`Fill::Ones`] if the range has one end only.
    Middle,
    /// 0, 1, 2, …, within the range, starting over after 100.
    Ramp,
    /// Values that look random within the range, the same for the same seed.
    Random(u64),
    /// These numbers, repeated; or one number shared among all elements, see [`shared`].
    List(Vec<f64>),
}

/// The smallest call that the contract allows: symbolic axes at their minimum, and every element at its minimum, or
/// zero without one.
///
/// # Errors
///
/// When a tensor of the contract is larger than memory should hold.
pub fn example(contract: &Contract) -> Result<Vec<(String, NnTensor)>, NnError> {
    example_of_lengths(contract, &|symbol| {
        contract.axes.get(symbol).map_or(1, |bounds| bounds.min)
    })
}

/// The same with other lengths of symbolic axes.
///
/// # Errors
///
/// As [`example`].
pub(crate) fn example_of_lengths(
    contract: &Contract,
    length: &dyn Fn(&str) -> u64,
) -> Result<Vec<(String, NnTensor)>, NnError> {
    contract
        .inputs
        .iter()
        .map(|spec| Ok((spec.name.clone(), example_of(contract, spec, length)?)))
        .collect()
}

fn example_of(
    contract: &Contract,
    spec: &TensorSpec,
    length: &dyn Fn(&str) -> u64,
) -> Result<NnTensor, NnError> {
    filled(contract, spec, length, &Fill::Least, MAX_EXAMPLE_BYTES)
}

/// A tensor of at most `most` bytes whose elements are within their bounds. `length` gives the lengths of symbolic
/// axes. The shapes of a sequence are those of its elements, for every `fill`.
pub(crate) fn filled(
    contract: &Contract,
    spec: &TensorSpec,
    length: &dyn Fn(&str) -> u64,
    fill: &Fill,
    most: usize,
) -> Result<NnTensor, NnError> {
    if let Some(shapes) = sequence_shapes(contract, spec, length, most) {
        return shapes;
    }
    let (low, high) = range(spec);
    let least = spec.minimum.map(|_| low);
    let within = |value: f64| {
        let value = least.map_or(value, |least| value.max(least));
        high.map_or(value, |high| value.min(high))
    };
    let middle = match (least, high) {
        (Some(low), Some(high)) => low + (high - low) / 2.0,
        _ => 1.0,
    };
    let middle = if spec.datatype.is_float() {
        middle
    } else {
        middle.floor()
    };
    let mut seed = match fill {
        Fill::Random(seed) => *seed,
        _ => 0,
    };
    let (from, to) = (within(low.max(0.0)), high.unwrap_or(low + 1.0));
    made(spec, length, most, |count| {
        let mut element = |index: usize| match fill {
            Fill::Least => low,
            Fill::Ones => within(1.0),
            Fill::Middle => within(middle),
            Fill::Ramp => within((index % 100) as f64),
            Fill::Random(_) => {
                let value = from + random(&mut seed) * (to - from).clamp(0.0, SAMPLE_WIDTH);
                if spec.datatype.is_float() {
                    value
                } else {
                    value.floor()
                }
            }
            Fill::List(list) => within(match shared(list) {
                Some(whole) => {
                    let share = (whole / count as f64).floor();
                    if index + 1 == count {
                        whole - share * (count - 1) as f64
                    } else {
                        share
                    }
                }
                None => list
                    .get(index % list.len().max(1))
                    .copied()
                    .unwrap_or_default(),
            }),
        };
        match fill {
            // One element is repeated and not computed each time: the least input may be large.
            Fill::Least | Fill::Ones | Fill::Middle => {
                encode(spec.datatype, element(0)).repeat(count)
            }
            _ => (0..count)
                .flat_map(|index| encode(spec.datatype, element(index)))
                .collect(),
        }
    })
}

/// SplitMix64, from 0 to 1: enough for numbers that must differ and nothing more.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The pattern of the elements of a made-up row.
#[cfg(feature = "native")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Elements {
    /// As callers send them: random within their bounds. Inputs of zeros and ones are all ones, because most are masks,
    /// and a row that masks everything has no answer that means anything.
    Usual,
    /// Usual elements, and elements of a ten-thousandth of the size, if that is within the bounds.
    Small,
    /// Elements of either sign and of sizes from a thousandth to a thousand, if that is within the bounds.
    Spread,
    /// Floating-point numbers are this, or the nearest that the bounds allow; others are as usual.
    All(f64),
    /// The least of their bounds, or of the usual numbers of their type.
    Least,
    /// The greatest of their bounds, or of the usual numbers of their type.
    Greatest,
}

/// A call that the contract allows, of the least number of items; the same one for the same `seed`. `length` gives the
/// length of each symbolic axis except the first. `None` if no input can have such elements.
///
/// # Errors
///
/// As [`example`].
#[cfg(feature = "native")]
pub fn row(
    contract: &Contract,
    elements: Elements,
    seed: u64,
    length: &dyn Fn(&str) -> u64,
) -> Result<Option<Vec<(String, NnTensor)>>, NnError> {
    let mut state = seed;
    let mut random = move || random(&mut state);
    let is_real = |spec: &TensorSpec| spec.datatype.is_float();
    if !matches!(
        elements,
        Elements::Usual | Elements::Least | Elements::Greatest
    ) && !contract.inputs.iter().any(is_real)
    {
        return Ok(None);
    }
    let batch = contract.batch_axis();
    let length = |symbol: &str| match Some(symbol) == batch {
        true => contract.axes.get(symbol).map_or(1, |bounds| bounds.min),
        false => length(symbol),
    };
    let rows = contract.inputs.iter().map(|spec| {
        if let Some(shapes) = sequence_shapes(contract, spec, &length, MAX_EXAMPLE_BYTES) {
            return Ok((spec.name.clone(), shapes?));
        }
        let (low, high) = range(spec);
        let width = (high.unwrap_or(low + 1.0) - low).min(SAMPLE_WIDTH);
        let is_mask =
            !is_real(spec) && (spec.datatype == Datatype::Bool || (low, high) == (0.0, Some(1.0)));
        let bounded = |value: f64| {
            let least = spec.minimum.map_or(f64::NEG_INFINITY, real);
            let most = spec.maximum.map_or(f64::INFINITY, real);
            match value.is_finite() {
                // Only an input whose contract lets them in has NaN and infinity in a call.
                false if spec.allow_non_finite => value,
                false => 1.0f64.clamp(least, most),
                true => value.clamp(least, most),
            }
        };
        let tensor = made(spec, &length, MAX_EXAMPLE_BYTES, |count| {
            let mut data = Vec::new();
            for _ in 0..count {
                let value = match (is_real(spec), elements) {
                    (_, Elements::Least) if spec.minimum.is_some() => low,
                    (_, Elements::Greatest) if spec.maximum.is_some() => {
                        low.max(high.unwrap_or(low))
                    }
                    (true, Elements::Least) => bounded(-LARGE_ELEMENT),
                    (true, Elements::Greatest) => bounded(LARGE_ELEMENT),
                    (true, Elements::All(value)) => bounded(value),
                    (true, Elements::Small) => bounded((low + random() * width) * 1e-4),
                    (true, Elements::Spread) => {
                        bounded((random() - 0.5) * 10f64.powf(random() * 6.0 - 3.0))
                    }
                    (true, Elements::Usual) => low + random() * width,
                    (false, _) if is_mask => 1.0,
                    (false, _) => low + (random() * (width + 1.0)).floor(),
                };
                data.extend_from_slice(&encode(spec.datatype, value));
            }
            data
        })?;
        Ok((spec.name.clone(), tensor))
    });
    rows.collect::<Result<_, _>>().map(Some)
}

/// The shapes of a sequence's tensors, if `spec` is the input that carries them (docs/TYPES.md): the first tensor has
/// all elements, the others have none. Zeros would contradict the made-up elements.
pub(crate) fn sequence_shapes(
    contract: &Contract,
    spec: &TensorSpec,
    length: &dyn Fn(&str) -> u64,
    most: usize,
) -> Option<Result<NnTensor, NnError>> {
    let elements = contract.input(spec.name.strip_suffix(".shapes")?)?;
    let ([elements], [_, axes], Datatype::Int64) =
        (&elements.shape[..], &spec.shape[..], spec.datatype)
    else {
        return None;
    };
    let length_of = |axis: &Axis| match axis {
        Axis::Fixed(length) => *length,
        Axis::Symbol(symbol) => length(symbol),
    };
    let elements = i64::try_from(length_of(elements)).unwrap_or(i64::MAX);
    let axes = usize::try_from(length_of(axes))
        .unwrap_or(usize::MAX)
        .max(1);
    Some(made(spec, length, most, |lengths| {
        let length = |at: usize| match (at, at % axes) {
            (0, _) => elements,
            (_, 0) => 0,
            _ => 1,
        };
        (0..lengths)
            .flat_map(|at| length(at).to_le_bytes())
            .collect()
    }))
}

/// The size of elements without bounds: values as they come from callers that forget to scale.
#[cfg(feature = "native")]
pub const LARGE_ELEMENT: f64 = 1e4;

/// The distance between the elements of a row if their bounds are far apart.
const SAMPLE_WIDTH: f64 = 65_536.0;

/// The least and the greatest value of a tensor's elements. Without a least value it is zero, or the greatest if that
/// is less.
pub(crate) fn range(spec: &TensorSpec) -> (f64, Option<f64>) {
    let high = spec.maximum.map(real);
    let low = (spec.minimum.map(real)).unwrap_or_else(|| high.map_or(0.0, |high| high.min(0.0)));
    (low, high)
}

fn real(bound: Bound) -> f64 {
    match bound {
        Bound::Integer(value) => value as f64,
        Bound::Real(value) => value,
    }
}

/// A tensor with one item, of the lengths `length` gives symbolic axes. `fill` makes so many elements.
pub(crate) fn made(
    spec: &TensorSpec,
    length: &dyn Fn(&str) -> u64,
    most: usize,
    fill: impl FnOnce(usize) -> Vec<u8>,
) -> Result<NnTensor, NnError> {
    let name = || quoted(&spec.name);
    let ty = tensor_type(spec.datatype);
    let too_large = || {
        NnError::new(
            crate::error::ErrorCode::TooLarge,
            format!("the shape of input {} takes more than {most} bytes", name()),
        )
    };
    let length = |axis: &Axis| match axis {
        Axis::Fixed(length) => *length,
        Axis::Symbol(symbol) => length(symbol),
    };
    let dims: Vec<u32> = (spec.shape.iter())
        .map(|axis| u32::try_from(length(axis)).map_err(|_| too_large()))
        .collect::<Result<_, _>>()?;
    let bytes = (dims.iter())
        .try_fold(ty.size(), |bytes, dim| bytes.checked_mul(*dim as usize))
        .filter(|bytes| *bytes <= most)
        .ok_or_else(too_large)?;
    NnTensor::new(ty, dims, fill(bytes / ty.size()))
}

/// One element as it lies in memory. The bounds of a contract are values of its datatype, so that nothing is cut
/// off here.
pub(crate) fn encode(datatype: Datatype, value: f64) -> Vec<u8> {
    // A made-up ramp exceeds types of a few bits.
    let value = match datatype.narrow_range() {
        Some((least, greatest)) => value.clamp(least.into(), greatest.into()),
        None => value,
    };
    match datatype {
        Datatype::Fp16 => f16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        Datatype::Fp32 => (value as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => value.to_le_bytes().to_vec(),
        Datatype::Int8 => (value as i8).to_le_bytes().to_vec(),
        Datatype::Int16 => (value as i16).to_le_bytes().to_vec(),
        Datatype::Int32 => (value as i32).to_le_bytes().to_vec(),
        Datatype::Int64 => (value as i64).to_le_bytes().to_vec(),
        Datatype::Uint16 => (value as u16).to_le_bytes().to_vec(),
        Datatype::Uint32 => (value as u32).to_le_bytes().to_vec(),
        Datatype::Uint64 => (value as u64).to_le_bytes().to_vec(),
        Datatype::Int2 | Datatype::Int4 => (value as i8).to_le_bytes().to_vec(),
        Datatype::Bool | Datatype::Uint8 | Datatype::Uint2 | Datatype::Uint4 => vec![value as u8],
        Datatype::Fp8E4m3fn | Datatype::Fp8E4m3fnuz | Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => {
            Fp8::of(datatype)
                .map(|format| format.saturated(value))
                .into_iter()
                .collect()
        }
        Datatype::Bytes => {
            // Zero is the empty string: of all strings it is the one that most models take.
            let text = if value == 0.0 {
                String::new()
            } else {
                value.to_string()
            };
            let mut element = Vec::new();
            // A number's digits are always short enough.
            let _ = push_string(&mut element, text.as_bytes());
            element
        }
    }
}

/// The engine's name for a contract's datatype.
pub fn tensor_type(datatype: Datatype) -> TensorType {
    match datatype {
        Datatype::Bool => TensorType::Bool,
        Datatype::Uint8 => TensorType::U8,
        Datatype::Uint16 => TensorType::U16,
        Datatype::Uint32 => TensorType::U32,
        Datatype::Uint64 => TensorType::U64,
        Datatype::Int8 => TensorType::I8,
        Datatype::Int16 => TensorType::I16,
        Datatype::Int32 => TensorType::I32,
        Datatype::Int64 => TensorType::I64,
        Datatype::Fp16 => TensorType::Fp16,
        Datatype::Bf16 => TensorType::Bf16,
        Datatype::Fp32 => TensorType::Fp32,
        Datatype::Fp64 => TensorType::Fp64,
        Datatype::Bytes => TensorType::Bytes,
        Datatype::Int2 => TensorType::I2,
        Datatype::Uint2 => TensorType::U2,
        Datatype::Int4 => TensorType::I4,
        Datatype::Uint4 => TensorType::U4,
        Datatype::Fp8E4m3fn => TensorType::Fp8E4m3fn,
        Datatype::Fp8E4m3fnuz => TensorType::Fp8E4m3fnuz,
        Datatype::Fp8E5m2 => TensorType::Fp8E5m2,
        Datatype::Fp8E5m2fnuz => TensorType::Fp8E5m2fnuz,
    }
}

/// The datatype that a contract has for a port; `None` if it has none.
pub fn datatype_of(ty: PortType) -> Option<Datatype> {
    let ty = ty.carried_as()?;
    (Datatype::ALL.iter())
        .find(|datatype| tensor_type(**datatype) == ty)
        .copied()
}

/// The last entry of a list whose first number is to be shared among all elements.
pub(crate) const SHARE: f64 = f64::NEG_INFINITY;

/// The number that a list shares among a tensor's elements, if it is such a list; see [`SHARE`].
pub(crate) fn shared(list: &[f64]) -> Option<f64> {
    match list {
        [whole, SHARE] => Some(*whole),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(text: &str) -> Contract {
        Contract::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn port(name: &str, ty: PortType, dims: Vec<Dim>) -> Port {
        Port {
            name: name.into(),
            ty,
            dims: Some(dims),
        }
    }

    const FP32: PortType = PortType::Tensor(TensorType::Fp32);
    const I64: PortType = PortType::Tensor(TensorType::I64);

    const TEXT: &str = r#"
        description = "for tests"
        format = "onnx"
        [[inputs]]
        name = "x"
        datatype = "FP32"
        shape = ["N", 4]
        minimum = -1.5
        [[outputs]]
        name = "y"
        datatype = "INT64"
        shape = ["N"]
        [axes]
        N = { min = 2, max = 8 }
    "#;

    fn n() -> Dim {
        Dim::Symbolic("batch".into())
    }

    #[test]
    fn a_graph_that_can_do_what_the_contract_promises_passes() {
        let contract = contract(TEXT);
        let (x, y) = (
            port("x", FP32, vec![n(), Dim::Fixed(4)]),
            port("y", I64, vec![n()]),
        );
        assert_eq!(
            check(&contract, &[x], std::slice::from_ref(&y)),
            Vec::<String>::new()
        );
        let wider = port("x", FP32, vec![n(), n()]);
        assert_eq!(
            check(&contract, &[wider], std::slice::from_ref(&y)),
            Vec::<String>::new()
        );
        let shapeless = Port {
            dims: None,
            ..port("x", FP32, vec![])
        };
        assert_eq!(check(&contract, &[shapeless], &[y]), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_reported_at_once_and_says_what_to_write() {
        let contract = contract(TEXT);
        let x = port(
            "x",
            PortType::Tensor(TensorType::I32),
            vec![Dim::Fixed(1), Dim::Fixed(5)],
        );
        let z = port("mask", I64, vec![n()]);
        let faults = check(&contract, &[x, z], &[port("out", I64, vec![n()])]);
        let text = faults.join("\n");
        for part in [
            "input \"x\" is FP32 in model.toml and INT32 in the graph; write datatype = \"INT32\"",
            "dimension 0 is \"N\" in model.toml, any length, and fixed at 1",
            "dimension 1 is 4 in model.toml and 5 in the graph; write 5",
            "input \"mask\" (INT64 [batch]) is not in model.toml",
            "no output \"y\"; its outputs are \"out\"",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(faults.len(), 5, "{text}");
    }

    #[test]
    fn another_number_of_dimensions_is_reported_once() {
        let contract = contract(TEXT);
        let faults = check(
            &contract,
            &[port("x", FP32, vec![n()])],
            &[port("y", I64, vec![n()])],
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("which has 1 dimensions"), "{faults:?}");
    }

    #[test]
    fn every_datatype_is_carried_under_its_own_name() {
        for datatype in Datatype::ALL {
            let name = datatype.as_str();
            assert_eq!(tensor_type(*datatype).as_str(), name);
            let contract = contract(&TEXT.replace("INT64", name));
            let x = port("x", FP32, vec![n(), Dim::Fixed(4)]);
            let ty = PortType::Tensor(tensor_type(*datatype));
            let faults = check(&contract, &[x], &[port("y", ty, vec![n()])]);
            assert!(faults.is_empty(), "{name}: {faults:?}");
        }
        assert_eq!(TensorType::ALL.len(), Datatype::ALL.len());
    }

    #[test]
    fn a_type_that_no_tensor_carries_is_named() {
        let x = port("x", FP32, vec![n(), Dim::Fixed(4)]);
        let y = port("y", PortType::Other("a complex number"), vec![n()]);
        let faults = check(&contract(TEXT), &[x], &[y]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("a complex number"), "{faults:?}");
    }

    #[test]
    fn examples_and_samples_of_every_datatype_are_as_long_as_their_shape() {
        for datatype in Datatype::ALL {
            let text = TEXT
                .replace("FP32", datatype.as_str())
                .replace("minimum = -1.5", "");
            let contract = contract(&text);
            let (_, tensor) = &example(&contract).expect("sound")[0];
            assert_eq!(tensor.check(), Ok(()), "{datatype}");
            #[cfg(feature = "native")]
            {
                let made = row(&contract, Elements::Usual, 1, &|_| 1).expect("sound");
                let (_, tensor) = &made.expect("every type has usual elements")[0];
                assert_eq!(tensor.check(), Ok(()), "{datatype}");
            }
        }
    }

    #[test]
    fn the_example_is_the_least_call_the_contract_allows() {
        let example = example(&contract(TEXT)).expect("the contract is sound");
        let (name, tensor) = &example[0];
        assert_eq!(
            (name.as_str(), tensor.ty, tensor.dims.as_slice()),
            ("x", TensorType::Fp32, &[2, 4][..])
        );
        assert!(
            tensor
                .data
                .chunks(4)
                .all(|element| element == (-1.5f32).to_le_bytes())
        );
    }

    #[test]
    fn the_example_of_a_sequence_has_the_shapes_of_its_elements() {
        let text = r#"
            description = "for tests"
            [[inputs]]
            name = "s"
            datatype = "FP32"
            shape = ["elements"]
            [[inputs]]
            name = "s.shapes"
            datatype = "INT64"
            shape = [2, 3]
            [[outputs]]
            name = "y"
            datatype = "FP32"
            shape = []
            [axes]
            elements = { min = 5 }
        "#;
        let example = example(&contract(text)).expect("sound");
        let expected: Vec<u8> = [5i64, 1, 1, 0, 1, 1]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        assert_eq!(&example[1].1.data[..], expected);
    }

    #[test]
    fn an_example_that_would_fill_memory_is_an_error() {
        let text = TEXT.replace("[\"N\", 4]", "[\"N\", 40000, 40000]");
        assert!(example(&contract(&text)).is_err());
    }
}
