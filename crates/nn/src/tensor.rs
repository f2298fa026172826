//! What a tensor is at the engine's border: wasi:nn's seven element types, dimensions as `u32`, and bytes,
//! little endian and row-major. Nothing here knows a backend.

use std::fmt;

use bytes::Bytes;

use crate::error::NnError;

/// The most dimensions a tensor may have. ONNX models stay below 8; the bound keeps a guest from making the
/// engine walk a list of a million ones.
pub const MAX_RANK: usize = 16;

/// wasi:nn's `tensor-type` (0.2.0-rc-2024-10-28), case for case. BOOL and INT8 travel as `U8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE 754 half precision.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// bfloat16.
    Bf16,
    /// Unsigned byte.
    U8,
    /// Signed 32 bit.
    I32,
    /// Signed 64 bit.
    I64,
}

impl TensorType {
    /// Every case, in WIT order.
    pub const ALL: [Self; 7] = [
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::U8,
        Self::I32,
        Self::I64,
    ];

    /// Bytes one element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 | Self::I32 => 4,
            Self::Fp64 | Self::I64 => 8,
        }
    }

    /// The name wasi:nn's WIT gives the case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::I64 => "I64",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tensor. The fields are open so that a host can move bytes in and out without a copy; the engine checks a
/// tensor again before it runs it, so a hand-made one that lies costs its caller an error and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NnTensor {
    /// Element type.
    pub ty: TensorType,
    /// Dimensions, outermost first; empty for a scalar.
    pub dims: Vec<u32>,
    /// Elements, little endian, row-major; `product(dims) * ty.size()` bytes.
    pub data: Bytes,
}

impl NnTensor {
    /// A tensor whose dimensions and bytes agree.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there are more than [`MAX_RANK`] dimensions, when their product does not fit the
    /// address space, or when the bytes are not `product(dims) * ty.size()` long.
    pub fn new(ty: TensorType, dims: Vec<u32>, data: impl Into<Bytes>) -> Result<Self, NnError> {
        let tensor = Self {
            ty,
            dims,
            data: data.into(),
        };
        tensor.check()?;
        Ok(tensor)
    }

    /// Whether dimensions and bytes agree; see [`NnTensor::new`] for the errors.
    pub fn check(&self) -> Result<(), NnError> {
        let expected = byte_len(self.ty, &self.dims)?;
        if expected == self.data.len() {
            return Ok(());
        }
        Err(NnError::invalid(format!(
            "{} of shape {} takes {expected} bytes but {} were sent; send the elements little endian, row-major, \
             without padding",
            self.ty,
            Shape(&self.dims),
            self.data.len()
        )))
    }
}

/// Bytes a tensor of this type and shape takes.
fn byte_len(ty: TensorType, dims: &[u32]) -> Result<usize, NnError> {
    if dims.len() > MAX_RANK {
        return Err(NnError::invalid(format!(
            "a tensor of {} dimensions was sent; at most {MAX_RANK} are taken",
            dims.len()
        )));
    }
    dims.iter()
        .try_fold(ty.size(), |bytes, dim| bytes.checked_mul(*dim as usize))
        // A slice may not be longer, and no allocator would give it.
        .filter(|bytes| *bytes <= isize::MAX as usize)
        .ok_or_else(|| {
            NnError::invalid(format!(
                "shape {} names more {ty} elements than memory can hold; send the shape of the bytes that follow",
                Shape(dims)
            ))
        })
}

/// A shape as it is written in messages: `[1,3,48,192]`.
pub(crate) struct Shape<'a>(pub &'a [u32]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if index > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

/// A tensor's elements as numbers; integers beyond 2^53 are rounded.
#[cfg(feature = "native")]
pub(crate) fn elements(tensor: &NnTensor) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, _) = data.as_chunks::<N>();
        chunks.iter().map(|chunk| read(*chunk)).collect()
    }
    let data = &tensor.data[..];
    match tensor.ty {
        TensorType::Fp16 => each(data, |b| half::f16::from_le_bytes(b).to_f64()),
        TensorType::Bf16 => each(data, |b| half::bf16::from_le_bytes(b).to_f64()),
        TensorType::Fp32 => each(data, |b| f64::from(f32::from_le_bytes(b))),
        TensorType::Fp64 => each(data, f64::from_le_bytes),
        TensorType::U8 => each(data, |b: [u8; 1]| f64::from(b[0])),
        TensorType::I32 => each(data, |b| f64::from(i32::from_le_bytes(b))),
        TensorType::I64 => each(data, |b| i64::from_le_bytes(b) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn a_scalar_has_no_dimensions_and_one_element() {
        assert!(NnTensor::new(TensorType::I64, vec![], vec![0u8; 8]).is_ok());
    }

    #[test]
    fn a_shape_whose_product_overflows_is_an_error_and_not_a_panic() {
        for dims in [
            vec![u32::MAX; 3],
            vec![u32::MAX; MAX_RANK],
            vec![1 << 31, 1 << 31, 2],
        ] {
            let error = NnTensor::new(TensorType::Fp64, dims, vec![0u8; 8]).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(
                error.message.contains("more FP64 elements"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn an_overflow_hidden_before_a_zero_is_still_refused() {
        assert!(
            NnTensor::new(
                TensorType::U8,
                vec![u32::MAX, u32::MAX, u32::MAX, 0],
                Bytes::new()
            )
            .is_err()
        );
    }

    #[test]
    fn bytes_that_do_not_fill_the_shape_are_refused_with_both_lengths() {
        let error = NnTensor::new(TensorType::Fp32, vec![2, 3], vec![0u8; 20]).unwrap_err();
        assert!(
            error.message.contains("[2,3] takes 24 bytes but 20"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_tensor_of_more_dimensions_than_the_bound_is_refused() {
        let dims = vec![1; MAX_RANK + 1];
        assert!(NnTensor::new(TensorType::U8, dims, vec![0u8]).is_err());
    }
}
