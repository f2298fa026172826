//! The representation of a tensor: little-endian, row-major bytes, as in the binary extension of the Open Inference
//! Protocol. So nothing is converted between the wire and a runtime.

use crate::buffer::Buffer;
use crate::datatype::Datatype;

/// Bytes of the length that precedes each element of a `BYTES` tensor.
pub const BYTES_PREFIX_BYTES: usize = 4;

/// A named, typed block of numbers or byte strings.
///
/// ```
/// use penstock_tensor::{Datatype, Tensor};
///
/// let tensor = Tensor {
///     name: "a".into(),
///     datatype: Datatype::Fp32,
///     shape: vec![1, 2],
///     data: [1.0f32, 2.0].iter().flat_map(|number| number.to_le_bytes()).collect(),
/// };
/// assert_eq!(tensor.elements(), Some(2));
/// assert!(tensor.is_consistent());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The input's or output's name in the contract.
    pub name: String,
    /// The type of every element.
    pub datatype: Datatype,
    /// Elements along each axis, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Elements in row-major order, little-endian. `BOOL` is one byte, 0 or 1. A `BYTES` element is a
    /// little-endian `u32` length in bytes, then that many bytes.
    pub data: Buffer,
}

impl Tensor {
    /// The number of elements of the shape; `None` if it exceeds `u64`.
    pub fn elements(&self) -> Option<u64> {
        elements(&self.shape)
    }

    /// Returns whether `data` has exactly as many well-formed elements as `shape` requires.
    pub fn is_consistent(&self) -> bool {
        let Some(elements) = self.elements() else {
            return false;
        };
        match self.datatype.size_bytes() {
            Some(size) => elements.checked_mul(size as u64) == Some(self.data.len() as u64),
            None => {
                let mut strings = ByteStrings::new(&self.data);
                let found = strings.by_ref().count() as u64;
                strings.is_complete() && found == elements
            }
        }
    }
}

/// The message about an input with an axis that a runtime, which counts in 32 bits, cannot take.
pub fn axis_too_long(input: &str) -> String {
    format!("input `{input}` has an axis longer than {}", u32::MAX)
}

/// The number of elements of a shape, 1 for `[]`; `None` if it exceeds `u64`. An axis of length 0 makes it 0, for all lengths
/// of the other axes.
pub fn elements(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1u64, |product, axis| product.checked_mul(*axis))
}

/// The elements of a `BYTES` tensor's data, in order; ends at the first truncated one.
#[derive(Clone, Debug)]
pub struct ByteStrings<'a> {
    rest: &'a [u8],
}

impl<'a> ByteStrings<'a> {
    /// Starts at the first element of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Returns whether no byte is left. After the last element, false means that the tensor is truncated.
    pub fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (prefix, rest) = self.rest.split_first_chunk::<BYTES_PREFIX_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
        let (element, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(element)
    }
}

/// Appends one element of a `BYTES` tensor. Returns false and appends nothing if its length exceeds `u32`; no body limit is
/// that large.
pub fn push_byte_string(data: &mut Vec<u8>, element: &[u8]) -> bool {
    let Ok(length) = u32::try_from(element.len()) else {
        return false;
    };
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(element);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_whose_product_overflows_has_no_number_of_elements() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[u64::MAX, 2]), None);
        assert_eq!(elements(&[1 << 32, 1 << 32]), None);
        assert_eq!(elements(&[u64::MAX, 2, 0]), Some(0));
    }

    #[test]
    fn byte_strings_end_at_an_element_that_is_cut_short() {
        let mut data = Vec::new();
        assert!(push_byte_string(&mut data, b"ab"));
        assert!(push_byte_string(&mut data, b""));
        let mut whole = ByteStrings::new(&data);
        assert_eq!(whole.by_ref().collect::<Vec<_>>(), [&b"ab"[..], b""]);
        assert!(whole.is_complete());
        data.extend_from_slice(&[9, 0, 0, 0, 1]);
        let mut cut = ByteStrings::new(&data);
        assert_eq!(cut.by_ref().count(), 2);
        assert!(!cut.is_complete());
    }

    #[test]
    fn a_tensor_is_consistent_only_with_as_much_data_as_its_shape_asks_for() {
        let tensor = |datatype, shape: &[u64], data: &[u8]| Tensor {
            name: "x".into(),
            datatype,
            shape: shape.to_vec(),
            data: data.into(),
        };
        assert!(tensor(Datatype::Fp32, &[], &[0; 4]).is_consistent());
        assert!(tensor(Datatype::Fp32, &[0, 7], &[]).is_consistent());
        assert!(!tensor(Datatype::Fp32, &[2], &[0; 4]).is_consistent());
        assert!(!tensor(Datatype::Uint8, &[u64::MAX, u64::MAX], &[]).is_consistent());
        assert!(!tensor(Datatype::Fp64, &[1 << 61], &[]).is_consistent());
        assert!(tensor(Datatype::Bytes, &[1], &[1, 0, 0, 0, 9]).is_consistent());
        assert!(!tensor(Datatype::Bytes, &[1], &[1, 0, 0, 0]).is_consistent());
    }
}
