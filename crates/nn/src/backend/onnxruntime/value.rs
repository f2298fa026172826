//! A value of ONNX Runtime, its types, and the results of calls into the library.

use std::ffi::CStr;

use ort::ortsys;
use ort::sys::{self, ONNXTensorElementDataType as Element, OrtErrorCode};
use ort::value::TensorElementType;

use crate::backend::message::presentable;
use crate::backend::port::PortType;
use crate::error::{ErrorCode, NnError};
use crate::tensor::TensorType;

/// Most dimensions of an output. Inputs may have fewer.
pub(super) const MAX_OUTPUT_RANK: usize = 64;

/// An OrtValue that is released when it is dropped.
pub(super) struct Value(pub(super) *mut sys::OrtValue);

impl Drop for Value {
    fn drop(&mut self) {
        if !self.0.is_null() {
            ortsys![unsafe ReleaseValue(self.0)];
        }
    }
}

/// Element type and dimensions of a tensor.
pub(super) fn describe(
    info: *const sys::OrtTensorTypeAndShapeInfo,
) -> Result<(Element, Vec<i64>), NnError> {
    let mut element = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    let mut rank = 0usize;
    // SAFETY: `info` is live; each call writes to where it is told, `GetDimensions` no more than `rank` values.
    check(ortsys![unsafe GetTensorElementType(info, &mut element)])?;
    check(ortsys![unsafe GetDimensionsCount(info, &mut rank)])?;
    if rank > MAX_OUTPUT_RANK {
        return Err(NnError::runtime(format!("an output has {rank} dimensions")));
    }
    let mut dims = vec![0i64; rank];
    check(ortsys![unsafe GetDimensions(info, dims.as_mut_ptr(), rank)])?;
    Ok((element, dims))
}

/// A status as a result; the status is released.
pub(super) fn check(status: sys::OrtStatusPtr) -> Result<(), NnError> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null is live until it is released, below.
    let (code, message) = unsafe {
        let api = ort::api();
        let message = (api.GetErrorMessage)(status.0);
        let message = if message.is_null() {
            String::new()
        } else {
            CStr::from_ptr(message).to_string_lossy().into_owned()
        };
        let code = (api.GetErrorCode)(status.0);
        (api.ReleaseStatus)(status.0);
        (code, message)
    };
    let code = match code {
        OrtErrorCode::ORT_INVALID_ARGUMENT => ErrorCode::InvalidArgument,
        OrtErrorCode::ORT_NOT_IMPLEMENTED => ErrorCode::UnsupportedOperation,
        _ => ErrorCode::RuntimeError,
    };
    Err(NnError::new(code, presentable(&message)))
}

pub(super) fn port_type(ty: TensorElementType) -> PortType {
    use TensorElementType as T;
    match ty {
        T::Float16 => PortType::Tensor(TensorType::Fp16),
        T::Float32 => PortType::Tensor(TensorType::Fp32),
        T::Float64 => PortType::Tensor(TensorType::Fp64),
        T::Bfloat16 => PortType::Tensor(TensorType::Bf16),
        T::Uint8 => PortType::Tensor(TensorType::U8),
        T::Int32 => PortType::Tensor(TensorType::I32),
        T::Int64 => PortType::Tensor(TensorType::I64),
        T::Bool => PortType::Tensor(TensorType::Bool),
        T::Int8 => PortType::Tensor(TensorType::I8),
        T::Uint16 => PortType::Tensor(TensorType::U16),
        T::Int16 => PortType::Tensor(TensorType::I16),
        T::Uint32 => PortType::Tensor(TensorType::U32),
        T::Uint64 => PortType::Tensor(TensorType::U64),
        T::String => PortType::Tensor(TensorType::Bytes),
        T::Int2 => PortType::Tensor(TensorType::I2),
        T::Uint2 => PortType::Tensor(TensorType::U2),
        T::Int4 => PortType::Tensor(TensorType::I4),
        T::Uint4 => PortType::Tensor(TensorType::U4),
        T::Float8E4M3FN => PortType::Tensor(TensorType::Fp8E4m3fn),
        T::Float8E4M3FNUZ => PortType::Tensor(TensorType::Fp8E4m3fnuz),
        T::Float8E5M2 => PortType::Tensor(TensorType::Fp8E5m2),
        T::Float8E5M2FNUZ => PortType::Tensor(TensorType::Fp8E5m2fnuz),
        T::Complex64 | T::Complex128 => PortType::Other("a complex number"),
        _ => PortType::Other("a number of less than a byte or of a rare format"),
    }
}

/// ONNX Runtime's number for each type that a tensor carries.
pub(super) const ELEMENTS: [(Element, TensorType); 22] = [
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        TensorType::Fp16,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        TensorType::Fp32,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        TensorType::Fp64,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        TensorType::Bf16,
    ),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, TensorType::U8),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        TensorType::I32,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        TensorType::I64,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        TensorType::Bool,
    ),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, TensorType::I8),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        TensorType::I16,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        TensorType::U16,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        TensorType::U32,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        TensorType::U64,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        TensorType::Bytes,
    ),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2, TensorType::I2),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2, TensorType::U2),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4, TensorType::I4),
    (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4, TensorType::U4),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        TensorType::Fp8E4m3fn,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        TensorType::Fp8E4m3fnuz,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        TensorType::Fp8E5m2,
    ),
    (
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        TensorType::Fp8E5m2fnuz,
    ),
];

pub(super) fn type_of(element: Element) -> Option<TensorType> {
    let found = ELEMENTS.iter().find(|(known, _)| *known == element);
    found.map(|(_, ty)| *ty)
}

pub(super) fn element(ty: PortType) -> Element {
    (ELEMENTS.iter())
        .find(|(_, known)| ty == PortType::Tensor(*known))
        .map_or(
            Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
            |(element, _)| *element,
        )
}
