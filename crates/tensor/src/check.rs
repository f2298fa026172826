//! Checks tensors against a contract: shapes, axes shared between tensors, and the range of values. Requests are checked
//! while they are parsed. This module also checks the tensors of adapters and models.

use crate::contract::{Bound, Contract, Dim, TensorSpec, round_to};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::finite;
use crate::fp8::Fp8;
use crate::rejection::{Rejection, Violations};
use crate::rule::ValueRule;
use crate::tensor::Tensor;
use penstock_core::Violation;
use penstock_core::violation::escape_pointer_token;

/// Checks a model's inputs as an adapter made them: each input of the contract once, optional ones at most once, and no others,
/// their datatypes, shapes, axes and value ranges. Pointers are `/inputs/<name>/…`. Errors with
/// `InvalidInputs`.
pub fn check_tensors(tensors: &[Tensor], contract: &Contract) -> Result<(), Rejection> {
    check(tensors, contract, Role::Input, None)
}

/// Checks the inputs of a call like [`check_tensors`], if the client sent them as bytes. `place` gives the pointer to the
/// tensor of an index in `tensors`. The pointer ends there, and the message names the wrong element.
pub fn check_tensors_at(
    tensors: &[Tensor],
    contract: &Contract,
    place: &dyn Fn(usize) -> String,
) -> Result<(), Rejection> {
    check(tensors, contract, Role::Input, Some(place))
}

/// Checks a model's outputs like [`check_tensors`] does inputs. An axis may be empty, because a
/// detector may find nothing. `[axes]` and `limits.max_items` do not apply: they bound requests.
/// Pointers are `/outputs/<name>/…`.
pub fn check_outputs(tensors: &[Tensor], contract: &Contract) -> Result<(), Rejection> {
    check(tensors, contract, Role::Output, None)
}

/// The side of a model: tensors go in, or come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Input,
    Output,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Input => "input",
            Role::Output => "output",
        }
    }
}

fn check(
    tensors: &[Tensor],
    contract: &Contract,
    role: Role,
    place: Option<&dyn Fn(usize) -> String>,
) -> Result<(), Rejection> {
    let specs = match role {
        Role::Input => &contract.inputs,
        Role::Output => &contract.outputs,
    };
    let word = role.word();
    let pointer = |index: usize, name: &str| match place {
        Some(place) => place(index),
        None => format!("/{word}s/{}", escape_pointer_token(&excerpt(name))),
    };
    let mut sink = Violations::default();
    let mut shaped: Vec<Shaped<'_>> = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        if !specs.iter().any(|spec| spec.name == tensor.name) {
            let at = || pointer(index, &tensor.name);
            sink.contract(|| unknown_tensor(at(), &tensor.name, specs, role));
        }
    }
    for spec in specs {
        let placed = tensors.iter().enumerate();
        let mut of_name = placed.filter(|(_, tensor)| tensor.name == spec.name);
        let Some((index, tensor)) = of_name.next() else {
            if spec.optional {
                continue;
            }
            sink.contract(|| missing_tensor(format!("/{word}s"), spec, role));
            continue;
        };
        let at = || pointer(index, &spec.name);
        if of_name.next().is_some() {
            sink.contract(|| {
                let message = format!(
                    "{word} {:?} is given more than once; give it once",
                    spec.name
                );
                Violation::new(at(), "duplicate_tensor", "each tensor once", message)
            });
        }
        if tensor.datatype != spec.datatype {
            sink.contract(|| wrong_datatype(at(), spec, tensor.datatype.as_str(), role));
            continue;
        }
        if !consistent(tensor, role, &mut sink, at) {
            continue;
        }
        let fits = shape(spec, &tensor.shape, role, &mut sink, at);
        if fits {
            shaped.push(Shaped {
                spec,
                shape: tensor.shape.clone(),
                pointer: at(),
            });
        }
        elements(spec, tensor, role, &mut sink, place.is_some(), at);
    }
    axes(contract, &shaped, role, &mut sink);
    sink.finish()
}

/// Checks that a tensor has as many well-formed elements as its shape requires.
pub(crate) fn consistent(
    tensor: &Tensor,
    role: Role,
    sink: &mut Violations,
    pointer: impl Fn() -> String,
) -> bool {
    let consistent = tensor.is_consistent();
    if !consistent {
        sink.contract(|| {
            let (word, datatype) = (role.word(), tensor.datatype);
            let what = match datatype {
                Datatype::Bytes => {
                    "; write each element as its length in 4 bytes, little-endian, and then its bytes"
                }
                _ => "; make data and shape agree",
            };
            let message = format!(
                "{word} {:?} has {} bytes, which do not match shape {} with datatype {datatype}{what}",
                tensor.name,
                tensor.data.len(),
                shape_text(&tensor.shape),
            );
            Violation::new(
                pointer(),
                "wrong_count",
                "as many bytes as shape and datatype need",
                message,
            )
        });
    }
    consistent
}

/// The place of an element in the request.
pub(crate) struct At {
    pointer: String,
    /// The element, if the pointer leads to bytes with many elements: ` at [0, 3]`.
    element: String,
}

impl From<String> for At {
    fn from(pointer: String) -> Self {
        Self {
            pointer,
            element: String::new(),
        }
    }
}

/// Checks the values of a consistent tensor's elements. Those that were sent `as_bytes` have no pointers of their own.
pub(crate) fn elements(
    spec: &TensorSpec,
    tensor: &Tensor,
    role: Role,
    sink: &mut Violations,
    as_bytes: bool,
    pointer: impl Fn() -> String,
) {
    let at = |index: u64| match as_bytes {
        false => format!("{}{}", pointer(), nested_index(index, &tensor.shape)).into(),
        true => {
            let path = nested_index(index, &tensor.shape);
            let path = path.trim_start_matches('/').replace('/', ", ");
            At {
                pointer: pointer(),
                element: format!(" at [{path}]"),
            }
        }
    };
    if role == Role::Input
        && let Some(rule) = ValueRule::of(spec)
        && tensor.data.host_suits(&rule) == Some(true)
    {
        return;
    }
    values(spec, &tensor.data, role, sink, at);
}

/// Checks the values of elements.
fn values(
    spec: &TensorSpec,
    data: &[u8],
    role: Role,
    sink: &mut Violations,
    at: impl Fn(u64) -> At,
) {
    if spec.datatype == Datatype::Bool
        && let Some(index) = data.iter().position(|byte| *byte > 1)
    {
        sink.contract(|| {
            let At { pointer, element } = at(index as u64);
            let message = format!(
                "{} {:?} holds the byte {}{element} as a BOOL; write 0 or 1",
                role.word(),
                spec.name,
                data.get(index).copied().unwrap_or_default()
            );
            Violation::new(pointer, "out_of_range", "0 or 1", message)
        });
    }
    if let Some((least, greatest)) = spec.datatype.narrow_range() {
        let outside = |byte: &u8| !(least..=greatest).contains(&byte.cast_signed());
        if let Some(index) = data.iter().position(outside) {
            sink.contract(|| {
                let At { pointer, element } = at(index as u64);
                let message = format!(
                    "{} {:?} holds {}{element} as {}; write an integer from {least} to {greatest} in a byte of its own",
                    role.word(),
                    spec.name,
                    data.get(index).copied().unwrap_or_default().cast_signed(),
                    spec.datatype,
                );
                let expected = format!("an integer from {least} to {greatest}");
                Violation::new(pointer, "out_of_range", expected, message)
            });
        }
    }
    if role == Role::Input && !spec.allow_non_finite {
        finite(spec, data, sink, &at);
    }
    range(spec, data, role, sink, at);
}

/// The elements that are checked against a rule before the result is looked at.
const RULE_STEP_ELEMENTS: usize = 16 << 10;

impl ValueRule {
    /// The rule of an input. `None` if a bound of it is no `f64`.
    fn of(spec: &TensorSpec) -> Option<Self> {
        let exact = |bound: Option<Bound>| match bound {
            None => Some(None),
            Some(Bound::Real(bound)) => Some(Some(bound)),
            Some(Bound::Integer(bound)) => {
                let real = bound as f64;
                (real as i128 == i128::from(bound)).then_some(Some(real))
            }
        };
        Some(Self {
            datatype: spec.datatype,
            finite: !spec.allow_non_finite,
            minimum: exact(spec.minimum)?,
            maximum: exact(spec.maximum)?,
        })
    }

    /// Returns whether each element meets the rule. It is the same check as of bytes that lie here.
    pub fn suits(&self, data: &[u8]) -> bool {
        let bound = |bound: Option<f64>| bound.map(Bound::Real);
        let spec = TensorSpec {
            name: String::new(),
            datatype: self.datatype,
            shape: Vec::new(),
            minimum: bound(self.minimum),
            maximum: bound(self.maximum),
            allow_non_finite: !self.finite,
            description: None,
            optional: false,
            may_be_empty: true,
            labels: None,
        };
        // In steps, so that a fault at the start ends it.
        let step = self.datatype.size_bytes().unwrap_or(1) * RULE_STEP_ELEMENTS;
        data.chunks(step).all(|data| {
            let mut sink = Violations::default();
            let at = |_| String::new().into();
            values(&spec, data, Role::Input, &mut sink, at);
            sink.finish().is_ok()
        })
    }
}

/// Reports each element that is NaN or infinite.
fn finite(spec: &TensorSpec, data: &[u8], sink: &mut Violations, at: &impl Fn(u64) -> At) {
    if !finite::any_non_finite(spec.datatype, data) {
        return;
    }
    for (index, found) in finite::non_finite(spec.datatype, data) {
        sink.contract(|| {
            let At { pointer, element } = at(index as u64);
            let message = format!(
                "input {:?} has the value {found}{element}; send a finite number. To accept NaN and infinity, the \
                 operator writes allow_non_finite = true for this input in model.toml",
                spec.name
            );
            Violation::new(pointer, NOT_FINITE, "a finite number", message)
        });
    }
}

/// The rule of a violation for an element that is NaN or infinite.
pub const NOT_FINITE: &str = "not_finite";

/// A tensor whose rank and fixed axes are right.
pub(crate) struct Shaped<'c> {
    pub(crate) spec: &'c TensorSpec,
    pub(crate) shape: Vec<u64>,
    /// The pointer for violations of its axes.
    pub(crate) pointer: String,
}

/// Writes a shape as text, for messages: `[2, 3]`.
pub(crate) fn shape_text(shape: &[u64]) -> String {
    let axes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", axes.join(", "))
}

/// `/i/j/k` for the element at `index` in row-major order; a flat `/index` if the shape does not allow it.
pub(crate) fn nested_index(index: u64, shape: &[u64]) -> String {
    let (mut rest, mut tokens) = (index, Vec::new());
    for axis in shape.iter().rev() {
        let Some(here) = rest.checked_rem(*axis) else {
            return format!("/{index}");
        };
        tokens.push(here);
        rest /= axis;
    }
    tokens
        .iter()
        .rev()
        .map(|token| format!("/{token}"))
        .collect()
}

pub(crate) fn wrong_datatype(
    pointer: String,
    spec: &TensorSpec,
    found: &str,
    role: Role,
) -> Violation {
    let message = format!(
        "{} {:?} has datatype {}; send {}",
        role.word(),
        spec.name,
        excerpt(found),
        spec.datatype
    );
    Violation::new(pointer, "wrong_datatype", spec.datatype.as_str(), message)
}

pub(crate) fn missing_tensor(pointer: String, spec: &TensorSpec, role: Role) -> Violation {
    let word = role.word();
    let expected = format!("{} of shape {}", spec.datatype, spec.shape_text());
    let message = format!("{word} {:?} is missing; send it as {expected}", spec.name);
    Violation::new(pointer, format!("missing_{word}"), expected, message)
}

pub(crate) fn unknown_tensor(
    pointer: String,
    name: &str,
    specs: &[TensorSpec],
    role: Role,
) -> Violation {
    let word = role.word();
    let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let expected = format!("one of: {}", known.join(", "));
    let message = format!(
        "the model has no {word} {:?}; its {word}s are: {}",
        excerpt(name),
        known.join(", ")
    );
    Violation::new(pointer, format!("unknown_{word}"), expected, message)
}

/// Checks the rank, the fixed axes, and for inputs that no axis is empty where the contract has none that may be.
pub(crate) fn shape(
    spec: &TensorSpec,
    shape: &[u64],
    role: Role,
    sink: &mut Violations,
    pointer: impl Fn() -> String,
) -> bool {
    let fits = shape.len() == spec.shape.len()
        && shape.iter().zip(&spec.shape).all(|(found, dim)| match dim {
            Dim::Fixed(length) => found == length,
            Dim::Symbol(_) => true,
        });
    let empty_axis = match role {
        Role::Input if spec.may_be_empty => None,
        Role::Input => shape.iter().position(|axis| *axis == 0),
        Role::Output => None,
    };
    if let Some(axis) = empty_axis {
        sink.contract(|| {
            let message = format!(
                "input {:?} is empty: its shape {} has no elements along axis {axis}; send at least one",
                spec.name,
                shape_text(shape)
            );
            Violation::new(pointer(), "empty_tensor", spec.shape_text(), message)
        });
        return false;
    }
    if !fits {
        sink.contract(|| {
            let message = format!(
                "{} {:?} has shape {}; send {}",
                role.word(),
                spec.name,
                shape_text(shape),
                spec.shape_text()
            );
            Violation::new(pointer(), "wrong_shape", spec.shape_text(), message)
        });
    }
    fits
}

/// Checks that each symbolic axis has one length throughout, and for inputs its bounds.
pub(crate) fn axes(contract: &Contract, tensors: &[Shaped<'_>], role: Role, sink: &mut Violations) {
    let batch_axis = contract.batch_axis();
    let mut lengths: Vec<(&str, u64, &str)> = Vec::new();
    for tensor in tensors {
        for (dim, found) in tensor.spec.shape.iter().zip(&tensor.shape) {
            let Dim::Symbol(axis) = dim else { continue };
            let name = tensor.spec.name.as_str();
            if let Some((_, length, first)) = lengths.iter().find(|(known, ..)| known == axis) {
                if length != found {
                    sink.contract(|| {
                        let message = format!(
                            "axis {axis} is {found} in {} {name:?} and {length} in {first:?}; make \
                             them equal",
                            role.word()
                        );
                        let expected = format!("{axis} = {length}");
                        Violation::new(tensor.pointer.clone(), "axis_mismatch", expected, message)
                    });
                }
                continue;
            }
            lengths.push((axis, *found, name));
            if role == Role::Output {
                continue;
            }
            if Some(axis.as_str()) == batch_axis && *found > contract.limits.max_items {
                sink.contract(|| {
                    let limit = contract.limits.max_items;
                    let message = format!(
                        "input {name:?} has {found} items; send at most {limit} in one request"
                    );
                    let expected = format!("at most {limit} items");
                    Violation::new(tensor.pointer.clone(), "too_many_items", expected, message)
                });
            }
            let bounds = contract.axes.get(axis);
            let (min, max) = bounds.map_or((1, None), |bounds| (bounds.min, bounds.max));
            if *found < min || max.is_some_and(|max| *found > max) {
                sink.contract(|| {
                    let expected = match max {
                        Some(max) => format!("{axis} from {min} to {max}"),
                        None => format!("{axis} of at least {min}"),
                    };
                    let message =
                        format!("axis {axis} of input {name:?} is {found}; send {expected}");
                    Violation::new(
                        tensor.pointer.clone(),
                        "axis_out_of_range",
                        expected,
                        message,
                    )
                });
            }
        }
    }
}

/// Checks every element against `minimum` and `maximum`. The bounds are rounded to the datatype
/// first, so that an FP32 element written as `0.1` meets `maximum = 0.1`. NaN and infinity in an input are
/// checked by [`finite`]; in an output, NaN meets no bound.
pub(crate) fn range(
    spec: &TensorSpec,
    data: &[u8],
    role: Role,
    sink: &mut Violations,
    at: impl Fn(u64) -> At,
) {
    if !spec.has_range() {
        return;
    }
    let mut report = |index: usize, found: String| {
        sink.contract(|| {
            let expected = range_text(spec);
            let At { pointer, element } = at(index as u64);
            let message = format!(
                "{} {:?} has the value {found}{element}; send {expected}",
                role.word(),
                spec.name
            );
            Violation::new(pointer, "out_of_range", expected, message)
        });
    };
    macro_rules! integers {
        ($type:ty) => {{
            let (least, greatest) = integer_bounds(spec);
            // A bound of the contract fits the datatype, so this loses nothing.
            let least = <$type>::try_from(least).unwrap_or(<$type>::MIN);
            let greatest = <$type>::try_from(greatest).unwrap_or(<$type>::MAX);
            let outside = |bytes: &[u8; size_of::<$type>()]| {
                let value = <$type>::from_le_bytes(*bytes);
                (value < least) | (value > greatest)
            };
            in_doubt(data, outside, |index, bytes| {
                report(index, <$type>::from_le_bytes(bytes).to_string());
            });
        }};
    }
    macro_rules! floats {
        ($float:ty, $read:expr) => {{
            let (least, greatest) = real_bounds(spec);
            // The bounds are values of the datatype, so both comparisons are exact in it.
            let (low, high) = (least as $float, greatest as $float);
            let outside = |bytes: &[u8; size_of::<$float>()]| {
                let value = <$float>::from_le_bytes(*bytes);
                !((value >= low) & (value <= high))
            };
            floats!(judge outside, $read)
        }};
        (half $read:expr) => {{
            let (least, greatest) = real_bounds(spec);
            let outside = |bytes: &[u8; 2]| {
                let value: f64 = $read(*bytes);
                !((value >= least) & (value <= greatest))
            };
            floats!(judge outside, $read)
        }};
        (judge $outside:ident, $read:expr) => {
            in_doubt(data, $outside, |index, bytes| {
                let value: f64 = $read(bytes);
                if value.is_finite() || role == Role::Output {
                    report(index, value.to_string());
                }
            })
        };
    }
    match spec.datatype {
        Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Fp16 => floats!(half | bytes | half::f16::from_le_bytes(bytes).to_f64()),
        Datatype::Bf16 => floats!(half | bytes | half::bf16::from_le_bytes(bytes).to_f64()),
        Datatype::Fp32 => floats!(f32, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Datatype::Fp64 => floats!(f64, f64::from_le_bytes),
        Datatype::Int2 | Datatype::Int4 => integers!(i8),
        Datatype::Uint2 | Datatype::Uint4 => integers!(u8),
        Datatype::Bool | Datatype::Bytes => {}
        Datatype::Fp8E4m3fn | Datatype::Fp8E4m3fnuz | Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => {
            if let Some(format) = Fp8::of(spec.datatype) {
                let (least, greatest) = real_bounds(spec);
                let outside = |[byte]: &[u8; 1]| {
                    let value = format.to_f64(*byte);
                    !((value >= least) & (value <= greatest))
                };
                floats!(judge outside, |[byte]: [u8; 1]| format.to_f64(byte))
            }
        }
    }
}

/// Elements that are compared before the result is evaluated: enough for long vector loops, and few enough that an early
/// violation costs little.
const BLOCK_ELEMENTS: usize = 1024;

/// Reports each element that is `outside`, with its place. If none is, which is usual, it takes one pass without branches,
/// which compilers turn into vector instructions.
fn in_doubt<const N: usize>(
    data: &[u8],
    outside: impl Fn(&[u8; N]) -> bool,
    mut found: impl FnMut(usize, [u8; N]),
) {
    let elements = data.as_chunks::<N>().0;
    for (number, block) in elements.chunks(BLOCK_ELEMENTS).enumerate() {
        if !block.iter().fold(false, |any, bytes| any | outside(bytes)) {
            continue;
        }
        for (index, bytes) in block.iter().enumerate().filter(|(_, bytes)| outside(bytes)) {
            found(number * BLOCK_ELEMENTS + index, *bytes);
        }
    }
}

/// The range of values as text.
pub(crate) fn range_text(spec: &TensorSpec) -> String {
    match (spec.minimum, spec.maximum) {
        (Some(least), Some(greatest)) => format!("a value from {least} to {greatest}"),
        (Some(least), None) => format!("a value of at least {least}"),
        (None, Some(greatest)) => format!("a value of at most {greatest}"),
        (None, None) => "any value".to_owned(),
    }
}

fn integer_bounds(spec: &TensorSpec) -> (i128, i128) {
    let value = |bound: Option<Bound>, none: i128| match bound {
        Some(Bound::Integer(bound)) => i128::from(bound),
        Some(Bound::Real(bound)) => bound as i128,
        None => none,
    };
    let (least, greatest) = spec
        .datatype
        .integer_range()
        .unwrap_or((i128::MIN, i128::MAX));
    (value(spec.minimum, least), value(spec.maximum, greatest))
}

fn real_bounds(spec: &TensorSpec) -> (f64, f64) {
    let value = |bound: Option<Bound>, none: f64| match bound {
        Some(Bound::Integer(bound)) => round_to(spec.datatype, bound as f64),
        Some(Bound::Real(bound)) => round_to(spec.datatype, bound),
        None => none,
    };
    (
        value(spec.minimum, f64::NEG_INFINITY),
        value(spec.maximum, f64::INFINITY),
    )
}

/// A value within the range. It replaces an element that could not be parsed, so that it is not reported twice.
pub(crate) fn placeholder(spec: &TensorSpec) -> Vec<u8> {
    let real = || {
        let (least, greatest) = real_bounds(spec);
        0f64.max(least).min(greatest)
    };
    let integer = || {
        let (least, greatest) = integer_bounds(spec);
        0i128.max(least).min(greatest)
    };
    match spec.datatype {
        Datatype::Fp16 => half::f16::from_f64(real()).to_le_bytes().to_vec(),
        Datatype::Bf16 => half::bf16::from_f64(real()).to_le_bytes().to_vec(),
        Datatype::Fp32 => (real() as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => real().to_le_bytes().to_vec(),
        other if let Some(format) = Fp8::of(other) => vec![format.saturated(real())],
        // An element of no bytes still has a length before it.
        Datatype::Bytes => vec![0; crate::tensor::BYTES_PREFIX_BYTES],
        other => {
            let mut bytes = integer().to_le_bytes().to_vec();
            bytes.truncate(other.size_bytes().unwrap_or(0));
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_outside_is_found_with_its_place_and_no_other() {
        let count = 2 * BLOCK_ELEMENTS + 7;
        let mut values = vec![0.5f32; count];
        let bad = [0, 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, count - 1];
        let strange = [-0.1, 1.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for (at, value) in bad.into_iter().zip(strange) {
            values[at] = value;
        }
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let outside = |bytes: &[u8; 4]| {
            let value = f32::from_le_bytes(*bytes);
            !(0.0..=1.0).contains(&value)
        };
        let mut found = Vec::new();
        in_doubt(&data, outside, |at, _| found.push(at));
        assert_eq!(found, bad);
    }
}
