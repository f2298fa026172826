//! Tensors on their way into a run and out of it, and the numbers that OpenVINO cannot carry.

use std::ptr;

use bytes::Bytes;
use openvino_sys as ov;
use openvino_sys::{ov_element_type_e as Element, ov_status_e as Status};

use super::handles::{Request, Tensor, check};
use super::ports::port_type;
use crate::backend::message;
use crate::backend::port::Port;
use crate::error::{NnError, quoted};
use crate::tensor::{NnTensor, TensorType};

/// Most dimensions of an output. Inputs may have fewer.
const MAX_OUTPUT_RANK: i64 = 64;

/// Refuses numbers that OpenVINO would silently cut to their lowest 32 bits.
pub fn within_32_bits(tensor: &NnTensor, port: &Port) -> Result<(), NnError> {
    fn beyond<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> i128) -> Option<i128> {
        let (elements, _) = data.as_chunks::<N>();
        let mut numbers = elements.iter().map(|bytes| read(*bytes));
        numbers.find(|number| i32::try_from(*number).is_err())
    }
    let found = match tensor.ty {
        TensorType::I64 => beyond(&tensor.data, |b| i64::from_le_bytes(b).into()),
        TensorType::U64 => beyond(&tensor.data, |b| u64::from_le_bytes(b).into()),
        TensorType::U32 => beyond(&tensor.data, |b| u32::from_le_bytes(b).into()),
        _ => None,
    };
    match found {
        None => Ok(()),
        Some(number) => Err(NnError::invalid(format!(
            "input {} holds {number}, and OpenVINO computes {} in signed 32 bits; send numbers from {} to {}",
            quoted(&port.name),
            tensor.ty,
            if tensor.ty == TensorType::I64 {
                i32::MIN
            } else {
                0
            },
            i32::MAX
        ))),
    }
}

/// Copies an output out of its request.
///
/// `left` is the part of the `most` bytes that the outputs may still take.
pub fn read(
    request: &Request,
    index: usize,
    port: &Port,
    most: usize,
    left: &mut usize,
) -> Result<NnTensor, NnError> {
    let wrong = |what: &str| NnError::runtime(format!("output {} {what}", quoted(&port.name)));
    let failed = |_: Status| wrong("cannot be read");
    let ty = port
        .ty
        .carried_as()
        .ok_or_else(|| wrong("has a type no tensor carries"))?;
    let mut tensor = ptr::null_mut();
    // SAFETY: the request is live and idle; the tensor is owned here.
    check(unsafe {
        ov::ov_infer_request_get_output_tensor_by_index(request.0, index, &mut tensor)
    })
    .map_err(failed)?;
    let tensor = Tensor(tensor);
    let mut raw = Element::DYNAMIC as u32;
    let mut shape = ov::ov_shape_t {
        rank: 0,
        dims: ptr::null_mut(),
    };
    let (mut len, mut data) = (0usize, ptr::null_mut());
    // SAFETY: the tensor is live; each call writes to the given place (the element type as a number, see `describe` in
    // `ports`). The shape has `rank` lengths and is freed; the data is `len` bytes and lives with the request, whose
    // instance is borrowed for this call.
    unsafe {
        check(ov::ov_tensor_get_element_type(
            tensor.0,
            (&raw mut raw).cast::<Element>(),
        ))
        .map_err(failed)?;
        if port_type(raw) != port.ty {
            return Err(wrong("has another type than the graph declares"));
        }
        check(ov::ov_tensor_get_byte_size(tensor.0, &mut len)).map_err(failed)?;
        *left = left
            .checked_sub(len)
            .ok_or_else(|| message::too_much_memory(most - *left + len, most))?;
        match check(ov::ov_tensor_get_shape(tensor.0, &mut shape)) {
            Ok(()) => {}
            // The C API has no shape without dimensions, which is a scalar's.
            Err(Status::INVALID_C_PARAM) if len == ty.size() => shape.rank = 0,
            Err(status) => return Err(failed(status)),
        }
        let dims = if shape.rank > MAX_OUTPUT_RANK {
            Err(wrong("has too many dimensions"))
        } else {
            (0..shape.rank.max(0) as usize)
                .map(|index| u32::try_from(*shape.dims.add(index)))
                .collect::<Result<Vec<u32>, _>>()
                .map_err(|_| wrong("has a dimension that does not fit 32 bits"))
        };
        if !shape.dims.is_null() {
            ov::ov_shape_free(&mut shape);
        }
        let bytes = if len == 0 {
            Bytes::new()
        } else {
            check(ov::ov_tensor_data(tensor.0, &mut data)).map_err(failed)?;
            Bytes::copy_from_slice(std::slice::from_raw_parts(data.cast::<u8>(), len))
        };
        let tensor = NnTensor::new(ty, dims?, bytes)
            .map_err(|_| wrong("has a length that does not fit its shape"))?;
        match saturated(&tensor) {
            false => Ok(tensor),
            true => Err(wrong(
                "holds the smallest 32-bit number, by which OpenVINO replaces INT64 numbers beyond 32 bits; load \
                 the model with backend = \"onnxruntime\"",
            )),
        }
    }
}

/// Returns whether an output of INT64 has an element that OpenVINO could not hold. It replaces numbers beyond 32 bits by the
/// smallest 32-bit number, which is hardly ever an answer.
fn saturated(tensor: &NnTensor) -> bool {
    let least = i64::from(i32::MIN).to_le_bytes();
    tensor.ty == TensorType::I64 && tensor.data.as_chunks::<8>().0.contains(&least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::port::PortType;

    #[test]
    fn a_number_beyond_32_bits_is_refused_and_named() {
        let port = Port {
            name: "ids".into(),
            ty: PortType::Tensor(TensorType::I64),
            dims: None,
        };
        let tensor = |value: i64| {
            NnTensor::new(TensorType::I64, vec![1], value.to_le_bytes().to_vec()).expect("sound")
        };
        for value in [i64::from(i32::MIN), 0, i64::from(i32::MAX)] {
            assert!(within_32_bits(&tensor(value), &port).is_ok());
        }
        for value in [i64::MIN, i64::from(i32::MAX) + 1] {
            let error = within_32_bits(&tensor(value), &port).expect_err("too far");
            assert!(error.message.contains(&value.to_string()), "{error}");
        }
    }
}
