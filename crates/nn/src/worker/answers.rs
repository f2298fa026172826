//! Reads a child's answer. The child may be broken, and may write to the memory while it is read.
//!
//! So types, shapes, places and the lengths of strings are copied before they are checked, and nothing that was checked
//! is read again from shared memory. Only elements of a fixed size are lent: if they change, their number still fits
//! the shape.

use std::sync::Arc;

use bytes::Bytes;

use super::shared::{Segment, Slice};
use super::wire::{self, Message};
use crate::error::NnError;
use crate::tensor::NnTensor;

/// From this size on an output is lent to the caller, not copied. A message below it is copied as a whole.
const LEND_BYTES: usize = 64 * 1024;

/// The largest answer that is lent: a larger one is copied, and its memory goes back to the system.
pub const LEND_AT_MOST: usize = 16 << 20;

/// The outputs, or the error, in an answer of `len` bytes; `None` if it is not an answer. `lends` if outputs may stay
/// in the segment until the caller drops them.
pub fn read(
    segment: &Arc<Segment>,
    len: usize,
    lends: bool,
) -> Option<Result<Vec<NnTensor>, NnError>> {
    if !segment.holds(len) {
        return None;
    }
    let head = if len <= LEND_BYTES {
        len
    } else {
        let start = segment.copy(0, wire::START)?;
        wire::head_len(*start.first_chunk()?)?.min(len)
    };
    let head = Bytes::from(segment.copy(0, head)?);
    let placed = match wire::read(&head, len)? {
        Message::Error(error) => return Some(Err(error)),
        Message::Tensors(placed) => placed,
    };
    let mut outputs = Vec::with_capacity(placed.len());
    for placed in placed {
        let end = placed.at.checked_add(placed.len)?;
        let data = if end <= head.len() {
            head.slice(placed.at..end)
        } else if lends && placed.len >= LEND_BYTES && placed.ty.is_fixed_size() {
            Bytes::from_owner(Slice::of(segment, placed.at, placed.len)?)
        } else {
            Bytes::from(segment.copy(placed.at, placed.len)?)
        };
        let tensor = NnTensor {
            ty: placed.ty,
            dims: placed.dims,
            data,
        };
        // An absent tensor is an optional output without a value.
        if !tensor.is_absent() {
            tensor.check().ok()?;
        }
        outputs.push(tensor);
    }
    Some(Ok(outputs))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::tensor::{TensorType, push_string};

    fn put(segment: &Segment, tensors: &[NnTensor]) -> usize {
        let size = wire::tensors_size(tensors);
        segment.grow(size).unwrap();
        // SAFETY: no other thread or process reads or writes the segment.
        assert!(wire::put_tensors(tensors, unsafe {
            segment.bytes_mut(size)
        }));
        size
    }

    fn floats(elements: usize) -> NnTensor {
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|at| (at as f32).to_le_bytes())
            .collect();
        NnTensor::new(TensorType::Fp32, vec![elements as u32], bytes).unwrap()
    }

    fn strings(elements: usize) -> NnTensor {
        let mut bytes = Vec::new();
        for at in 0..elements {
            push_string(&mut bytes, &vec![b'x'; at % 50]).unwrap();
        }
        NnTensor::new(TensorType::Bytes, vec![elements as u32], bytes).unwrap()
    }

    /// Whether the bytes of each tensor lie in the segment.
    fn lent(segment: &Segment, tensors: &[NnTensor]) -> Vec<bool> {
        let base = segment.base() as usize;
        let of = |tensor: &NnTensor| tensor.data.as_ptr() as usize;
        tensors
            .iter()
            .map(|tensor| (base..base + super::super::shared::RESERVED).contains(&of(tensor)))
            .collect()
    }

    #[test]
    fn only_large_outputs_of_fixed_size_are_lent_and_only_where_they_may_be() {
        let segment = Segment::new().unwrap();
        let sent = [floats(10), floats(100_000), strings(5_000), floats(0)];
        let len = put(&segment, &sent);
        for (lends, expected) in [
            (true, [false, true, false, false]),
            (false, [false, false, false, false]),
        ] {
            let read = read(&segment, len, lends).unwrap().unwrap();
            assert_eq!(read, sent);
            assert_eq!(lent(&segment, &read), expected);
        }
        let small = [floats(10), strings(20)];
        let len = put(&segment, &small);
        assert_eq!(read(&segment, len, true), Some(Ok(small.to_vec())));
        assert_eq!(read(&segment, usize::MAX, true), None);
        assert_eq!(read(&segment, 7, true), None);
    }

    #[test]
    fn an_error_is_read_to_a_bound() {
        let segment = Segment::new().unwrap();
        let bytes = wire::error(&NnError::runtime("x".repeat(1 << 20)));
        segment.grow(bytes.len()).unwrap();
        // SAFETY: no other thread or process reads or writes the segment.
        unsafe { segment.bytes_mut(bytes.len()) }.copy_from_slice(&bytes);
        let error = read(&segment, bytes.len(), true).unwrap().unwrap_err();
        assert!((60_000..70_000).contains(&error.message.len()));
    }

    /// SplitMix64.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn what_a_broken_child_writes_while_it_is_read_is_refused_or_true_to_its_shape() {
        let segment = Segment::new().unwrap();
        let theirs = Segment::of(segment.fd().try_clone_to_owned().unwrap()).unwrap();
        let sent = [floats(20_000), strings(2_000), floats(3)];
        let len = put(&segment, &sent);
        let over = AtomicBool::new(false);
        let (mut taken, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seed = 1;
                let mut whole = theirs.copy(0, len).unwrap();
                while !over.load(Ordering::Relaxed) {
                    // Mostly in the head; now and then everything is right again.
                    let at = random(&mut seed) as usize % if seed & 4 == 0 { 200 } else { len };
                    let value = random(&mut seed) as u8;
                    let before = std::mem::replace(&mut whole[at], value);
                    for byte in [value, before] {
                        // SAFETY: within the segment. The test writes it while it is read on purpose.
                        unsafe { theirs.base().add(at).write_volatile(byte) };
                        std::thread::yield_now();
                    }
                    whole[at] = before;
                }
            });
            let mut seed = 2;
            for _ in 0..3_000 {
                let len = match random(&mut seed) % 4 {
                    0 => random(&mut seed) as usize % (2 * len),
                    _ => len,
                };
                match read(&segment, len, seed & 1 == 0) {
                    Some(Ok(tensors)) => {
                        taken += 1;
                        for tensor in tensors.iter().filter(|tensor| !tensor.is_absent()) {
                            assert_eq!(tensor.check(), Ok(()));
                        }
                    }
                    Some(Err(_)) | None => refused += 1,
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(taken > 0 && refused > 0, "{taken} {refused}");
    }
}
