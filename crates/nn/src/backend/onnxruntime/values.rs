//! ONNX Runtime's values that are no plain tensors of numbers: strings, sequences and maps. This decides which tensors
//! carry them across the engine's border, and makes one of the other.
//!
//! - A **string** tensor is a `BYTES` tensor: each element is its length and its bytes.
//! - A **sequence** of tensors `s` is two tensors. `s` has the elements of all, one after another, with one axis.
//!   `s.shapes` is INT64 of shape `[tensors, axes]` and has the shape of each. A tensor with fewer axes than the others
//!   has −1 in the places it does not use, at the end.
//! - A **map**, or a sequence of them, as classifiers make of their probabilities: `m` has the values, a row for each
//!   map, and `m.keys` the keys of the columns. Where the contract gives the output labels, columns come in the labels'
//!   order.

use std::ffi::{c_char, c_void};
use std::ptr;

use ort::ortsys;
use ort::sys::{self, ONNXTensorElementDataType as Element, ONNXType};
use ort::value::{TensorElementType, ValueType};

use super::value::{MAX_OUTPUT_RANK, Value, check, describe, port_type, type_of};
use crate::backend::port::{Dim, Port, PortType};
use crate::error::{NnError, listed, quoted};
use crate::tensor::{BYTES_PREFIX_BYTES, MAX_RANK, NnTensor, Strings, TensorType, push_string};

/// Most tensors of a sequence, in or out. Each is a value of ONNX Runtime that takes some hundred bytes.
pub const MAX_SEQUENCE: usize = 65_536;

/// Most maps of a sequence: rows of a batch. Each costs three values of ONNX Runtime to read.
const MAX_MAPS: usize = 1 << 20;

/// The kind of an input or output of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One tensor, which the port describes.
    Tensor,
    /// A list of tensors of one type.
    Sequence(TensorType),
    /// Maps whose keys and values have these types; a single map unless `list`.
    Maps {
        key: TensorType,
        value: TensorType,
        list: bool,
    },
}

impl Kind {
    /// The kind of a type of `ort`, optional values included; `None` for types that no tensors carry.
    pub fn of(ty: &ValueType) -> Option<Self> {
        // A sequence's elements are copied as they lie in memory, and elements of less than a byte are packed there.
        let carried = |ty: &TensorElementType| {
            let ty = port_type(*ty).carried_as();
            ty.filter(|ty| ty.packed_bits().is_none())
        };
        let maps = |key: &TensorElementType, value: &TensorElementType, list| {
            Some(Self::Maps {
                key: carried(key)?,
                value: carried(value)?,
                list,
            })
        };
        match ty {
            ValueType::Tensor { .. } => Some(Self::Tensor),
            ValueType::Map { key, value } => maps(key, value, false),
            ValueType::Sequence(inner) => match &**inner {
                ValueType::Tensor { ty, .. } => Some(Self::Sequence(carried(ty)?)),
                ValueType::Map { key, value } => maps(key, value, true),
                _ => None,
            },
            ValueType::Optional(inner) => match &**inner {
                ValueType::Optional(_) => None,
                inner => Self::of(inner),
            },
        }
    }

    /// The number of ports that carry it.
    pub fn width(&self) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Sequence(_) | Self::Maps { .. } => 2,
        }
    }

    /// The ports that carry an input or output called `name`, if it is not a single tensor.
    pub fn ports(&self, name: &str, labels: Option<&[String]>) -> Vec<Port> {
        let open = || Dim::Symbolic(String::new());
        let port = |name: String, ty, dims| Port {
            name,
            ty: PortType::Tensor(ty),
            dims: Some(dims),
        };
        match self {
            Self::Tensor => Vec::new(),
            Self::Sequence(ty) => vec![
                port(name.to_owned(), *ty, vec![open()]),
                port(
                    format!("{name}.shapes"),
                    TensorType::I64,
                    vec![open(), open()],
                ),
            ],
            Self::Maps { key, value, list } => {
                let columns = labels
                    .and_then(|labels| u32::try_from(labels.len()).ok())
                    .map_or_else(open, Dim::Fixed);
                let mut dims = vec![columns.clone()];
                if *list {
                    dims.insert(0, open());
                }
                vec![
                    port(name.to_owned(), *value, dims),
                    port(format!("{name}.keys"), *key, vec![columns]),
                ]
            }
        }
    }
}

fn default_allocator() -> Result<*mut sys::OrtAllocator, NnError> {
    let mut allocator = ptr::null_mut();
    // SAFETY: the call writes one pointer, to an allocator that lives as long as the library.
    check(ortsys![unsafe GetAllocatorWithDefaultOptions(&mut allocator)])?;
    Ok(allocator)
}

/// A tensor of strings, which ONNX Runtime owns.
pub fn strings(dims: &[u32], data: &[u8]) -> Result<Value, NnError> {
    let mut shape = [0i64; MAX_RANK];
    for (to, from) in shape.iter_mut().zip(dims) {
        *to = i64::from(*from);
    }
    let allocator = default_allocator()?;
    let mut value = ptr::null_mut();
    // SAFETY: the shape has `dims.len()` lengths, at most `MAX_RANK` by the tensor's own check.
    check(ortsys![unsafe CreateTensorAsOrtValue(
        allocator,
        shape.as_ptr(),
        dims.len(),
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        &mut value,
    )])?;
    let value = Value(value);
    for (index, element) in Strings::new(data).enumerate() {
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: the value is a live string tensor. The call gives the element this length and returns its address. It
        // fails for an index beyond the shape.
        check(ortsys![unsafe GetResizedStringTensorElementBuffer(
            value.0,
            index,
            element.len(),
            &mut buffer
        )])?;
        if !element.is_empty() {
            // SAFETY: the buffer has `element.len()` bytes and overlaps nothing of ours.
            unsafe {
                ptr::copy_nonoverlapping(element.as_ptr(), buffer.cast::<u8>(), element.len());
            }
        }
    }
    Ok(value)
}

/// The elements of a tensor of strings, as a `BYTES` tensor holds them. `most` bounds their bytes.
pub fn read_strings(value: &Value, elements: usize, most: usize) -> Result<Vec<u8>, NnError> {
    let mut len = 0usize;
    // SAFETY: `value` is a live tensor of strings.
    check(ortsys![unsafe GetStringTensorDataLength(value.0, &mut len)])?;
    let wanted = elements
        .saturating_mul(BYTES_PREFIX_BYTES)
        .saturating_add(len);
    if wanted > most {
        return Err(crate::backend::message::too_much_memory(wanted, most));
    }
    if elements == 0 {
        return Ok(Vec::new());
    }
    let mut text = vec![0u8; len];
    let mut offsets = vec![0usize; elements];
    // SAFETY: both buffers have the length that the call is told; there is one offset for each element.
    check(ortsys![unsafe GetStringTensorContent(
        value.0,
        text.as_mut_ptr().cast::<c_void>(),
        len,
        offsets.as_mut_ptr(),
        elements
    )])?;
    let mut data = Vec::with_capacity(wanted);
    for (index, from) in offsets.iter().enumerate() {
        let to = offsets.get(index + 1).copied().unwrap_or(len);
        let element = text
            .get(*from..to)
            .ok_or_else(|| NnError::runtime("ONNX Runtime returned offsets beyond its strings"))?;
        push_string(&mut data, element)?;
    }
    Ok(data)
}

/// The shapes of a sequence's tensors, and the range of each tensor's elements. `elements` is the number of all
/// elements.
fn shapes_of(shapes: &NnTensor, elements: usize) -> Result<Vec<Vec<u32>>, NnError> {
    let wrong = |what: String| {
        NnError::invalid(format!(
            "the sequence's .shapes {what}; send one row for each tensor: its lengths, and then -1 for axes that it \
             does not have"
        ))
    };
    let [tensors, axes] = shapes.dims[..] else {
        return Err(wrong("does not have two axes".into()));
    };
    let (tensors, axes) = (tensors as usize, axes as usize);
    if tensors > MAX_SEQUENCE || axes > MAX_RANK {
        return Err(wrong(format!(
            "names {tensors} tensors of {axes} axes, and at most {MAX_SEQUENCE} of {MAX_RANK} are accepted"
        )));
    }
    if tensors == 0 {
        return Err(wrong(
            "names no tensor, and ONNX Runtime accepts no empty sequence from a caller".into(),
        ));
    }
    let (lengths, _) = shapes.data.as_chunks::<8>();
    let mut found = Vec::with_capacity(tensors);
    let mut left = elements;
    for row in 0..tensors {
        let lengths = lengths.get(row * axes..(row + 1) * axes).unwrap_or(&[]);
        let mut lengths = lengths.iter().map(|length| i64::from_le_bytes(*length));
        let mut shape = Vec::with_capacity(axes);
        for length in lengths.by_ref() {
            if length == -1 {
                break;
            }
            let length = u32::try_from(length)
                .map_err(|_| wrong(format!("holds the length {length} in row {row}")))?;
            shape.push(length);
        }
        if lengths.any(|length| length != -1) {
            return Err(wrong(format!("has a length after a -1 in row {row}")));
        }
        let needed = (shape.iter()).try_fold(1usize, |all, length| {
            all.checked_mul(usize::try_from(*length).ok()?)
        });
        left = needed
            .and_then(|needed| left.checked_sub(needed))
            .ok_or_else(|| wrong(format!("asks for more than the {elements} elements sent")))?;
        found.push(shape);
    }
    if left > 0 {
        return Err(wrong(format!(
            "asks for {left} elements fewer than the {elements} sent"
        )));
    }
    Ok(found)
}

/// The tensors of a sequence, as the two tensors that carry it say.
pub fn parts(values: &NnTensor, shapes: &NnTensor) -> Result<Vec<NnTensor>, NnError> {
    let elements: usize = values.dims.iter().map(|dim| *dim as usize).product();
    let mut strings = Strings::new(&values.data);
    let mut from = 0;
    shapes_of(shapes, elements)?
        .into_iter()
        .map(|dims| {
            let elements: usize = dims.iter().map(|dim| *dim as usize).product();
            let bytes = match values.ty {
                TensorType::Bytes => (strings.by_ref().take(elements))
                    .map(|element| element.len() + BYTES_PREFIX_BYTES)
                    .sum(),
                ty => elements * ty.size(),
            };
            // The lengths add up to the elements, and the tensor was checked to hold them.
            let data = values.data.slice(from..from + bytes);
            from += bytes;
            NnTensor::new(values.ty, dims, data)
        })
        .collect()
}

/// A sequence value of the values of its tensors.
pub fn sequence(parts: &[Value]) -> Result<Value, NnError> {
    let mut value = ptr::null_mut();
    // SAFETY: `Value` is one pointer to a live value; the call reads the number that it is told.
    check(ortsys![unsafe CreateValue(
        parts.as_ptr().cast::<*const sys::OrtValue>(),
        parts.len(),
        ONNXType::ONNX_TYPE_SEQUENCE,
        &mut value
    )])?;
    Ok(Value(value))
}

/// Returns whether an optional value is there.
pub fn is_there(value: &Value) -> Result<bool, NnError> {
    if value.0.is_null() {
        return Ok(false);
    }
    let mut there = 0;
    // SAFETY: `value` is a live value.
    check(ortsys![unsafe HasValue(value.0, &mut there)])?;
    Ok(there != 0)
}

fn count(value: &Value) -> Result<usize, NnError> {
    let mut count = 0;
    // SAFETY: `value` is a live value; one that has no parts makes the call fail.
    check(ortsys![unsafe GetValueCount(value.0, &mut count)])?;
    Ok(count)
}

fn part(value: &Value, index: usize) -> Result<Value, NnError> {
    let allocator = default_allocator()?;
    let index = i32::try_from(index).map_err(|_| NnError::runtime("a sequence is too long"))?;
    let mut found = ptr::null_mut();
    // SAFETY: `value` is a live value; an index it does not have makes the call fail. The part is owned.
    check(ortsys![unsafe GetValue(value.0, index, allocator, &mut found)])?;
    Ok(Value(found))
}

/// Copies a tensor of at most `most` bytes out of the runtime.
fn copied(value: &Value, most: usize) -> Result<NnTensor, NnError> {
    let mut info = ptr::null_mut();
    // SAFETY: `value` is a live value; one that is no tensor makes the call fail.
    check(ortsys![unsafe GetTensorTypeAndShape(value.0, &mut info)])?;
    let described = describe(info);
    ortsys![unsafe ReleaseTensorTypeAndShapeInfo(info)];
    let (element, dims) = described?;
    let ty = type_of(element)
        .ok_or_else(|| NnError::runtime("a sequence holds a type that no tensor carries"))?;
    let dims: Vec<u32> = (dims.iter())
        .map(|dim| u32::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_| NnError::runtime("a sequence holds a dimension that does not fit 32 bits"))?;
    let elements: usize = dims.iter().map(|dim| *dim as usize).product();
    if ty == TensorType::Bytes {
        return NnTensor::new(ty, dims, read_strings(value, elements, most)?);
    }
    let mut data = ptr::null_mut();
    let bytes = elements.saturating_mul(ty.size());
    if bytes > most {
        return Err(crate::backend::message::too_much_memory(bytes, most));
    }
    if bytes == 0 {
        return NnTensor::new(ty, dims, Vec::new());
    }
    // SAFETY: `value` is a live tensor of a type with a fixed size.
    check(ortsys![unsafe GetTensorMutableData(value.0, &mut data)])?;
    // SAFETY: the tensor has so many elements of that size, and lives until this returns.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>().cast_const(), bytes) };
    NnTensor::new(ty, dims, data.to_vec())
}

/// The two tensors that carry a sequence.
pub fn read_sequence(value: &Value, ty: TensorType, most: usize) -> Result<Vec<NnTensor>, NnError> {
    let tensors = count(value)?;
    if tensors > MAX_SEQUENCE {
        return Err(NnError::too_large(format!(
            "the sequence has {tensors} tensors; at most {MAX_SEQUENCE} are returned"
        )));
    }
    let mut data = Vec::new();
    let mut shapes = Vec::with_capacity(tensors);
    let mut elements = 0u64;
    for index in 0..tensors {
        let tensor = copied(&part(value, index)?, most.saturating_sub(data.len()))?;
        if tensor.ty != ty || tensor.dims.len() > MAX_OUTPUT_RANK {
            return Err(NnError::runtime(
                "a sequence holds another type than it declares",
            ));
        }
        elements = elements.saturating_add(tensor.dims.iter().map(|dim| u64::from(*dim)).product());
        data.extend_from_slice(&tensor.data);
        shapes.push(tensor.dims);
    }
    let elements = u32::try_from(elements)
        .map_err(|_| NnError::too_large("the sequence has more than 2^32 elements"))?;
    let axes = shapes.iter().map(Vec::len).max().unwrap_or(0);
    let mut lengths = Vec::with_capacity(tensors * axes * size_of::<i64>());
    for shape in &shapes {
        let shape = shape.iter().map(|length| i64::from(*length));
        for length in shape.chain(std::iter::repeat(-1)).take(axes) {
            lengths.extend_from_slice(&length.to_le_bytes());
        }
    }
    Ok(vec![
        NnTensor::new(ty, vec![elements], data)?,
        NnTensor::new(TensorType::I64, vec![tensors as u32, axes as u32], lengths)?,
    ])
}

/// Returns the key of a map as text, for labels and messages.
fn key_text(ty: TensorType, key: &[u8]) -> String {
    match (ty, <[u8; 8]>::try_from(key)) {
        (TensorType::I64, Ok(key)) => i64::from_le_bytes(key).to_string(),
        _ => String::from_utf8_lossy(key).into_owned(),
    }
}

/// The elements of a tensor of keys.
fn keys_of(tensor: &NnTensor) -> Vec<Vec<u8>> {
    match tensor.ty {
        TensorType::Bytes => Strings::new(&tensor.data).map(<[u8]>::to_vec).collect(),
        ty => tensor.data.chunks(ty.size()).map(<[u8]>::to_vec).collect(),
    }
}

/// The two tensors that carry maps: their values, and the keys of the columns. `labels` give the columns' order.
pub fn read_maps(
    value: &Value,
    (key, of, list): (TensorType, TensorType, bool),
    labels: Option<&[String]>,
    most: usize,
) -> Result<Vec<NnTensor>, NnError> {
    let maps = if list { count(value)? } else { 1 };
    if maps > MAX_MAPS {
        return Err(NnError::too_large(format!(
            "the output has {maps} maps; at most {MAX_MAPS} are returned"
        )));
    }
    // The order of each map's elements in the columns. It is the same for all maps that a classifier makes.
    let mut columns: Vec<Vec<u8>> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    let mut data = Vec::new();
    for index in 0..maps {
        let inner;
        let map = if list {
            inner = part(value, index)?;
            &inner
        } else {
            value
        };
        let keys = copied(&part(map, 0)?, most)?;
        let values = copied(&part(map, 1)?, most)?;
        if keys.ty != key || values.ty != of || !of.is_fixed_size() {
            return Err(NnError::runtime("a map holds other types than it declares"));
        }
        let keys = keys_of(&keys);
        if index == 0 {
            order = match labels {
                None => (0..keys.len()).collect(),
                Some(labels) => in_order(key, &keys, labels)?,
            };
            columns = keys;
        } else if keys != columns {
            return Err(NnError::runtime(
                "the maps of one answer have different keys, so they are not rows of one table",
            ));
        }
        let elements: Vec<&[u8]> = values.data.chunks(of.size()).collect();
        if data.len() + values.data.len() > most {
            return Err(crate::backend::message::too_much_memory(
                data.len() + values.data.len(),
                most,
            ));
        }
        for at in &order {
            data.extend_from_slice(elements.get(*at).copied().unwrap_or_default());
        }
    }
    let width = match labels {
        // Without maps nothing tells how many columns there are but the labels.
        Some(labels) if maps == 0 => labels.len(),
        _ => order.len(),
    };
    let mut dims = vec![width as u32];
    let mut names = Vec::new();
    for at in &order {
        match key {
            TensorType::Bytes => push_string(&mut names, &columns[*at])?,
            _ => names.extend_from_slice(&columns[*at]),
        }
    }
    let keys = NnTensor::new(key, vec![order.len() as u32], names)?;
    if list {
        dims.insert(0, maps as u32);
    }
    Ok(vec![NnTensor::new(of, dims, data)?, keys])
}

/// The key for each label.
fn in_order(ty: TensorType, keys: &[Vec<u8>], labels: &[String]) -> Result<Vec<usize>, NnError> {
    let texts: Vec<String> = keys.iter().map(|key| key_text(ty, key)).collect();
    let order: Option<Vec<usize>> = (labels.iter())
        .map(|label| texts.iter().position(|text| text == label))
        .collect();
    match order {
        Some(order) if labels.len() == keys.len() => Ok(order),
        _ => Err(NnError::runtime(format!(
            "the model's classes are {}, and labels in model.toml are {}; write labels = [{}]",
            listed(texts.iter().map(String::as_str)),
            listed(labels.iter().map(String::as_str)),
            texts
                .iter()
                .map(|text| quoted(text))
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(dims: [u32; 2], lengths: &[i64]) -> NnTensor {
        let data: Vec<u8> = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        NnTensor::new(TensorType::I64, dims.to_vec(), data).expect("sound")
    }

    #[test]
    fn a_sequence_comes_apart_into_the_tensors_its_shapes_name() {
        let values = NnTensor::new(
            TensorType::U16,
            vec![5],
            vec![0u8, 0, 1, 0, 2, 0, 3, 0, 4, 0],
        );
        let values = values.expect("sound");
        let found = parts(&values, &lengths([3, 2], &[2, -1, 1, 3, 0, 7])).expect("sound");
        let shapes: Vec<&[u32]> = found.iter().map(|part| &part.dims[..]).collect();
        assert_eq!(shapes, [&[2][..], &[1, 3], &[0, 7]]);
        assert_eq!(&found[1].data[..], [2, 0, 3, 0, 4, 0]);
    }

    #[test]
    fn a_sequence_of_strings_comes_apart_between_its_elements() {
        let mut data = Vec::new();
        for text in ["a", "", "ccc"] {
            push_string(&mut data, text.as_bytes()).expect("short");
        }
        let values = NnTensor::new(TensorType::Bytes, vec![3], data).expect("sound");
        let found = parts(&values, &lengths([2, 1], &[2, 1])).expect("sound");
        assert_eq!(&found[0].data[..], [1, 0, 0, 0, b'a', 0, 0, 0, 0]);
        assert_eq!(&found[1].data[..], [3, 0, 0, 0, b'c', b'c', b'c']);
    }

    #[test]
    fn shapes_that_do_not_fit_the_elements_are_refused() {
        let values = NnTensor::new(TensorType::U8, vec![4], vec![0u8; 4]).expect("sound");
        for (dims, given) in [
            ([1, 1], &[5i64][..]),
            ([1, 1], &[3]),
            ([1, 2], &[-1, 4]),
            ([1, 1], &[-2]),
            ([2, 2], &[i64::from(u32::MAX), i64::from(u32::MAX), 1, 1]),
            ([0, 0], &[]),
        ] {
            let error = parts(&values, &lengths(dims, given)).expect_err("does not fit");
            assert!(error.message.contains(".shapes"), "{given:?}: {error}");
        }
    }

    #[test]
    fn labels_must_be_the_keys_in_some_order() {
        let keys = vec![b"b".to_vec(), b"a".to_vec()];
        let label = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).into()).collect() };
        let order = |names: &[&str]| in_order(TensorType::Bytes, &keys, &label(names));
        assert_eq!(order(&["a", "b"]), Ok(vec![1, 0]));
        for wrong in [&["a"][..], &["a", "c"], &["a", "b", "c"]] {
            let error = order(wrong).expect_err("other classes");
            assert!(error.message.contains("labels = ["), "{error}");
        }
        let keys = vec![7i64.to_le_bytes().to_vec()];
        assert_eq!(
            in_order(TensorType::I64, &keys, &label(&["7"])),
            Ok(vec![0])
        );
    }
}
