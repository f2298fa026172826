//! A tensor at the engine's border: the element types of the Open Inference Protocol, dimensions as `u32`, and bytes,
//! little endian and row-major. Nothing here knows a backend.

use std::fmt;

use bytes::Bytes;
use penstock_tensor::fp8::Fp8;

use crate::error::NnError;

/// The most dimensions a tensor may have. ONNX models stay below 8; the bound keeps a guest from making the
/// engine walk a list of a million ones.
pub const MAX_RANK: usize = 16;

/// Bytes of the length before each element of a `BYTES` tensor, little endian, as in the Open Inference Protocol.
pub const BYTES_PREFIX_BYTES: usize = 4;

/// The type of a tensor's elements. The first seven are those of wasi:nn's `tensor-type` (0.2.0-rc-2024-10-28), in its
/// order. `penstock:nn/tensors` carries all of them.
///
/// ```
/// use penstock_nn::TensorType;
///
/// assert_eq!(TensorType::Fp32.as_str(), "FP32");
/// assert_eq!(TensorType::Fp32.size(), 4);
/// assert!(TensorType::WASI.contains(&TensorType::Fp32));
/// assert!(!TensorType::WASI.contains(&TensorType::Bool));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE 754 half precision, 2 bytes.
    Fp16,
    /// IEEE 754 single precision, 4 bytes.
    Fp32,
    /// IEEE 754 double precision, 8 bytes.
    Fp64,
    /// The format bfloat16: the upper half of an FP32 number, 2 bytes.
    Bf16,
    /// Unsigned integer, 1 byte.
    U8,
    /// Signed integer, 4 bytes.
    I32,
    /// Signed integer, 8 bytes.
    I64,
    /// One byte, 0 or 1.
    Bool,
    /// Signed integer, 1 byte.
    I8,
    /// Signed integer, 2 bytes.
    I16,
    /// Unsigned integer, 2 bytes.
    U16,
    /// Unsigned integer, 4 bytes.
    U32,
    /// Unsigned integer, 8 bytes.
    U64,
    /// Strings of bytes: each element is its length as 4 little-endian bytes, and then that many bytes.
    Bytes,
    /// Signed 2 bit, one byte for each element.
    I2,
    /// Unsigned 2 bit, one byte for each element.
    U2,
    /// Signed 4 bit, one byte for each element.
    I4,
    /// Unsigned 4 bit, one byte for each element.
    U4,
    /// 8-bit float, see [`Fp8::E4m3fn`].
    Fp8E4m3fn,
    /// 8-bit float, see [`Fp8::E4m3fnuz`].
    Fp8E4m3fnuz,
    /// 8-bit float, see [`Fp8::E5m2`].
    Fp8E5m2,
    /// 8-bit float, see [`Fp8::E5m2fnuz`].
    Fp8E5m2fnuz,
}

impl TensorType {
    /// Every case, in the order of `penstock:nn/tensors`.
    pub const ALL: [Self; 22] = [
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::U8,
        Self::I32,
        Self::I64,
        Self::Bool,
        Self::I8,
        Self::I16,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::Bytes,
        Self::I2,
        Self::U2,
        Self::I4,
        Self::U4,
        Self::Fp8E4m3fn,
        Self::Fp8E4m3fnuz,
        Self::Fp8E5m2,
        Self::Fp8E5m2fnuz,
    ];

    /// The cases that wasi:nn has, in its order.
    pub const WASI: [Self; 7] = [
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::U8,
        Self::I32,
        Self::I64,
    ];

    /// Bytes one element takes. An element of `BYTES` takes at least these, the length before it.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::Bool | Self::I8 => 1,
            Self::I2 | Self::U2 | Self::I4 | Self::U4 => 1,
            Self::Fp8E4m3fn | Self::Fp8E4m3fnuz | Self::Fp8E5m2 | Self::Fp8E5m2fnuz => 1,
            Self::Fp16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::Fp32 | Self::I32 | Self::U32 => 4,
            Self::Fp64 | Self::I64 | Self::U64 => 8,
            Self::Bytes => BYTES_PREFIX_BYTES,
        }
    }

    /// Bits of an element if several share a byte in a runtime's memory. In a tensor each element has one byte.
    pub const fn packed_bits(self) -> Option<u32> {
        match self {
            Self::I2 | Self::U2 => Some(2),
            Self::I4 | Self::U4 => Some(4),
            _ => None,
        }
    }

    /// The format of an 8-bit float; `None` for every other type.
    pub const fn fp8(self) -> Option<Fp8> {
        match self {
            Self::Fp8E4m3fn => Some(Fp8::E4m3fn),
            Self::Fp8E4m3fnuz => Some(Fp8::E4m3fnuz),
            Self::Fp8E5m2 => Some(Fp8::E5m2),
            Self::Fp8E5m2fnuz => Some(Fp8::E5m2fnuz),
            _ => None,
        }
    }

    /// Returns whether it is an integer of less than a byte or a float of one byte. Few runtimes compute with these.
    pub const fn is_small(self) -> bool {
        self.packed_bits().is_some() || self.fp8().is_some()
    }

    /// Returns whether every element takes [`TensorType::size`] bytes.
    pub const fn is_fixed_size(self) -> bool {
        !matches!(self, Self::Bytes)
    }

    /// Returns whether the elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Self::Fp16
                | Self::Bf16
                | Self::Fp32
                | Self::Fp64
                | Self::Fp8E4m3fn
                | Self::Fp8E4m3fnuz
                | Self::Fp8E5m2
                | Self::Fp8E5m2fnuz
        )
    }

    /// The name that `model.toml` and the Open Inference Protocol have for the type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::U8 => "UINT8",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::Bool => "BOOL",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::Bytes => "BYTES",
            Self::I2 => "INT2",
            Self::U2 => "UINT2",
            Self::I4 => "INT4",
            Self::U4 => "UINT4",
            Self::Fp8E4m3fn => "FP8E4M3FN",
            Self::Fp8E4m3fnuz => "FP8E4M3FNUZ",
            Self::Fp8E5m2 => "FP8E5M2",
            Self::Fp8E5m2fnuz => "FP8E5M2FNUZ",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tensor of a call. The fields are open so that a host can move bytes in and out without a copy. The engine checks a
/// tensor again before it runs it, so a wrong tensor costs its caller only an error.
///
/// ```
/// use penstock_nn::{ErrorCode, NnTensor, TensorType};
///
/// let elements: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let row = NnTensor::new(TensorType::Fp32, vec![1, 2], elements).unwrap();
/// assert_eq!(row.data.len(), 8);
///
/// let short = NnTensor::new(TensorType::Fp32, vec![1, 3], row.data).unwrap_err();
/// assert_eq!(short.code, ErrorCode::InvalidArgument);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NnTensor {
    /// The type of its elements.
    pub ty: TensorType,
    /// Dimensions, outermost first; empty for a scalar.
    pub dims: Vec<u32>,
    /// Elements, little endian, row-major; `product(dims) * ty.size()` bytes where elements have a fixed size.
    pub data: Bytes,
}

impl NnTensor {
    /// A tensor whose dimensions and bytes agree.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there are more than [`MAX_RANK`] dimensions, when their product does not fit the
    /// address space, or when the bytes are not exactly the elements that the shape asks for.
    pub fn new(ty: TensorType, dims: Vec<u32>, data: impl Into<Bytes>) -> Result<Self, NnError> {
        let tensor = Self {
            ty,
            dims,
            data: data.into(),
        };
        tensor.check()?;
        Ok(tensor)
    }

    /// The tensor of an absent optional input or output: it has no dimensions and no element.
    pub const fn absent(ty: TensorType) -> Self {
        Self {
            ty,
            dims: Vec::new(),
            data: Bytes::new(),
        }
    }

    /// Returns whether the tensor is absent. A scalar has an element, and a tensor without elements has a
    /// dimension.
    pub fn is_absent(&self) -> bool {
        self.dims.is_empty() && self.data.is_empty()
    }

    /// Checks that dimensions and bytes agree; see [`NnTensor::new`] for the errors.
    pub fn check(&self) -> Result<(), NnError> {
        let expected = byte_len(self.ty, &self.dims)?;
        if !self.ty.is_fixed_size() {
            return self.check_strings(expected / self.ty.size());
        }
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

impl NnTensor {
    /// Checks that a `BYTES` tensor holds exactly so many whole elements.
    fn check_strings(&self, expected: usize) -> Result<(), NnError> {
        let mut strings = Strings::new(&self.data);
        let found = strings.by_ref().count();
        if found == expected && strings.is_complete() {
            return Ok(());
        }
        let cut = if strings.is_complete() {
            String::new()
        } else {
            format!(
                "and {} bytes that are not a whole element",
                strings.rest.len()
            )
        };
        Err(NnError::invalid(format!(
            "BYTES of shape {} has {expected} elements but {found} were sent{cut}; send each element as its length in 4 \
             little-endian bytes, and then its bytes",
            Shape(&self.dims)
        )))
    }
}

/// The elements of a `BYTES` tensor, in order. Ends at the first element that is cut short.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Strings<'a> {
    /// Starts at the first element.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Returns whether nothing is left.
    pub fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<BYTES_PREFIX_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (element, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(element)
    }
}

/// Appends one element of a `BYTES` tensor. An error when it is longer than 4 GiB.
pub fn push_string(data: &mut Vec<u8>, element: &[u8]) -> Result<(), NnError> {
    let length = u32::try_from(element.len())
        .map_err(|_| NnError::too_large("an element of BYTES is longer than 4 GiB"))?;
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(element);
    Ok(())
}

/// Bytes a tensor of this type and shape takes, at least.
fn byte_len(ty: TensorType, dims: &[u32]) -> Result<usize, NnError> {
    if dims.len() > MAX_RANK {
        return Err(NnError::invalid(format!(
            "a tensor of {} dimensions was sent; at most {MAX_RANK} are accepted",
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

/// A tensor's elements as numbers; integers beyond 2^53 are rounded. A byte string becomes a number that two strings
/// share only by accident, so that strings can be compared and nothing else.
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
        TensorType::U8 | TensorType::Bool => each(data, |b: [u8; 1]| f64::from(b[0])),
        TensorType::U2 | TensorType::U4 => each(data, |b: [u8; 1]| f64::from(b[0])),
        TensorType::I8 | TensorType::I2 | TensorType::I4 => {
            each(data, |b| f64::from(i8::from_le_bytes(b)))
        }
        TensorType::Fp8E4m3fn
        | TensorType::Fp8E4m3fnuz
        | TensorType::Fp8E5m2
        | TensorType::Fp8E5m2fnuz => match tensor.ty.fp8() {
            Some(format) => each(data, |[byte]: [u8; 1]| format.to_f64(byte)),
            None => Vec::new(),
        },
        TensorType::I16 => each(data, |b| f64::from(i16::from_le_bytes(b))),
        TensorType::U16 => each(data, |b| f64::from(u16::from_le_bytes(b))),
        TensorType::U32 => each(data, |b| f64::from(u32::from_le_bytes(b))),
        TensorType::U64 => each(data, |b| u64::from_le_bytes(b) as f64),
        TensorType::Bytes => Strings::new(data)
            .map(|element| {
                let mut hasher = std::hash::DefaultHasher::new();
                std::hash::Hash::hash(element, &mut hasher);
                std::hash::Hasher::finish(&hasher) as f64
            })
            .collect(),
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
    fn a_bytes_tensor_holds_exactly_the_elements_its_shape_asks_for() {
        let mut data = Vec::new();
        for element in [&b"ab"[..], b"", "é".as_bytes(), b"\xff"] {
            push_string(&mut data, element).expect("short");
        }
        let strings = |dims: &[u32], data: &[u8]| {
            NnTensor::new(TensorType::Bytes, dims.to_vec(), data.to_vec())
        };
        assert!(strings(&[2, 2], &data).is_ok());
        assert!(strings(&[0], &[]).is_ok());
        assert!(strings(&[], &[0; 4]).is_ok());
        for (dims, data) in [
            (&[3][..], &data[..]),
            (&[5], &data),
            (&[4], &data[..data.len() - 1]),
            (&[1], &[255, 255, 255, 255]),
            (&[], &[]),
        ] {
            let error = strings(dims, data).expect_err("not what the shape asks for");
            assert!(error.message.contains("little-endian"), "{error}");
        }
    }

    #[test]
    fn a_tensor_of_more_dimensions_than_the_bound_is_refused() {
        let dims = vec![1; MAX_RANK + 1];
        assert!(NnTensor::new(TensorType::U8, dims, vec![0u8]).is_err());
    }
}
