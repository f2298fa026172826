//! Tensors on their way into a run and out of it: inputs are borrowed, outputs copied or lent.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use bytes::Bytes;
use ort::ortsys;

use super::graph::Shared;
use super::library::CpuMemory;
use super::value::{Value, check, describe, element, type_of};
use super::values;
use crate::backend::port::{Port, PortType};
use crate::backend::{message, packed};
use crate::error::{NnError, quoted};
use crate::tensor::{NnTensor, TensorType};

/// From this size on an output is lent to the caller, not copied: below it a copy costs less than the
/// bookkeeping and gives the buffer back to the session at once.
pub const LEND_OUTPUT_BYTES: usize = 64 * 1024;

/// A value of a tensor's own bytes, or of an aligned copy of them. Both must outlive it. Strings are always copied.
pub fn borrowed(
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
    // SAFETY: `data` is aligned for the element and, by `check`, as long as the shape says, packed where elements are;
    // it outlives the value, by this function's contract. ONNX Runtime does not write to inputs, so that the bytes are
    // shared with others is of no consequence. `check` also bounds the rank.
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

pub fn span(bytes: &[u8]) -> std::ops::Range<usize> {
    let start = bytes.as_ptr() as usize;
    start..start + bytes.len()
}

/// Makes a tensor of an output value.
pub fn read(
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
            .map_err(|_| wrong("has a length that does not fit its shape"));
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
                return Err(message::too_much_memory(count, shared.most_bytes));
            }
            let data = count.and_then(|count| packed::unpack(lent.as_ref(), bits, count, signed));
            let data = data.ok_or_else(|| wrong("has a length that does not fit its shape"))?;
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
        .map_err(|_| wrong("has a length that does not fit its shape"))?;
    Ok(tensor)
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
