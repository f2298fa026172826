//! The format of a cached result: tensors, so that one result serves JSON, binary and gRPC.
//!
//! A result is the number of tensors, then name, datatype, shape and bytes of each, all little-endian and with their
//! lengths. Bytes that do not parse into whole tensors are no result.

use super::settings::MAX_RESULT_BYTES;
use penstock_tensor::contract::{MAX_RANK, MAX_TENSORS};
use penstock_tensor::{Datatype, Tensor};

/// The size of an encoded result in bytes.
pub fn encoded_bytes(outputs: &[Tensor]) -> u64 {
    let each = outputs.iter().map(|tensor| {
        let lengths = 4 + 1 + 1 + 8 * tensor.shape.len() + 8;
        (lengths + tensor.name.len()) as u64 + tensor.data.len() as u64
    });
    2 + each.sum::<u64>()
}

/// Encodes a result; `None` if it is larger than `max_bytes` or not a result of a model.
pub fn encode(outputs: &[Tensor], max_bytes: u64) -> Option<Vec<u8>> {
    let bytes = encoded_bytes(outputs);
    if bytes > max_bytes.min(MAX_RESULT_BYTES) || outputs.len() > MAX_TENSORS {
        return None;
    }
    let mut out = Vec::with_capacity(usize::try_from(bytes).ok()?);
    out.extend_from_slice(&u16::try_from(outputs.len()).ok()?.to_le_bytes());
    for tensor in outputs {
        let place = Datatype::ALL.iter().position(|d| *d == tensor.datatype)?;
        out.extend_from_slice(&u32::try_from(tensor.name.len()).ok()?.to_le_bytes());
        out.extend_from_slice(tensor.name.as_bytes());
        out.push(u8::try_from(place).ok()?);
        out.push(u8::try_from(tensor.shape.len()).ok()?);
        for axis in &tensor.shape {
            out.extend_from_slice(&axis.to_le_bytes());
        }
        out.extend_from_slice(&(tensor.data.len() as u64).to_le_bytes());
        out.extend_from_slice(&tensor.data);
    }
    Some(out)
}

/// Decodes a result; `None` if it is not whole.
pub fn decode(bytes: &[u8]) -> Option<Vec<Tensor>> {
    let mut reader = Reader(bytes);
    let count = usize::from(u16::from_le_bytes(reader.array()?));
    if count > MAX_TENSORS {
        return None;
    }
    let mut outputs = Vec::with_capacity(count);
    for _ in 0..count {
        let length = u32::from_le_bytes(reader.array()?);
        let name = reader.bytes(u64::from(length))?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let [place, rank] = reader.array()?;
        let datatype = *Datatype::ALL.get(usize::from(place))?;
        if usize::from(rank) > MAX_RANK {
            return None;
        }
        let mut shape = Vec::with_capacity(usize::from(rank));
        for _ in 0..rank {
            shape.push(u64::from_le_bytes(reader.array()?));
        }
        let length = u64::from_le_bytes(reader.array()?);
        let data = reader.bytes(length)?.to_vec();
        let tensor = Tensor {
            name,
            datatype,
            shape,
            data: data.into(),
        };
        if !tensor.is_consistent() {
            return None;
        }
        outputs.push(tensor);
    }
    reader.0.is_empty().then_some(outputs)
}

/// The bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outputs() -> Vec<Tensor> {
        vec![
            Tensor {
                name: "scores".into(),
                datatype: Datatype::Fp32,
                shape: vec![1, 2],
                data: vec![0, 0, 128, 63, 0, 0, 192, 127].into(),
            },
            Tensor {
                name: "né".into(),
                datatype: Datatype::Bytes,
                shape: vec![],
                data: vec![1, 0, 0, 0, 9].into(),
            },
            Tensor {
                name: String::new(),
                datatype: Datatype::Int64,
                shape: vec![0, 7],
                data: vec![].into(),
            },
        ]
    }

    #[test]
    fn a_result_reads_back_as_it_was() {
        let outputs = outputs();
        let kept = encode(&outputs, 1 << 16).unwrap();
        assert_eq!(kept.len() as u64, encoded_bytes(&outputs));
        assert_eq!(decode(&kept), Some(outputs));
        assert_eq!(decode(&encode(&[], 100).unwrap()), Some(Vec::new()));
    }

    #[test]
    fn a_result_that_is_too_large_is_not_kept() {
        let outputs = outputs();
        let bytes = encoded_bytes(&outputs);
        assert!(encode(&outputs, bytes).is_some());
        assert_eq!(encode(&outputs, bytes - 1), None);
    }

    #[test]
    fn a_result_that_is_cut_or_lengthened_is_none() {
        let kept = encode(&outputs(), 1 << 16).unwrap();
        for end in 0..kept.len() {
            assert_eq!(decode(&kept[..end]), None, "cut at {end}");
        }
        let mut longer = kept.clone();
        longer.push(0);
        assert_eq!(decode(&longer), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_whole_result_or_none(
            at in 0usize..64, with in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut kept = encode(&outputs(), 1 << 16).unwrap();
            let at = at % kept.len();
            kept[at] = with;
            for bytes in [&kept, &noise] {
                if let Some(outputs) = decode(bytes) {
                    prop_assert!(outputs.iter().all(Tensor::is_consistent));
                    prop_assert_eq!(encode(&outputs, 1 << 16), Some(bytes.clone()));
                }
            }
        }
    }
}
