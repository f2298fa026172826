//! Checks that the numbers of a tensor are finite. JSON cannot express NaN or infinity; bytes can.
//!
//! A number is NaN or infinite exactly where all bits of its exponent are set. Adding one to the lowest bit of the
//! exponent then carries into the sign's place, so one `and`, one `add` and one `or` for each element decide for a
//! whole block. Compilers turn that into vector instructions, also in WebAssembly: 600 KB take tens of microseconds.

use crate::datatype::Datatype;
use crate::fp8::Fp8;

/// Bytes that are checked before the result is evaluated: enough for long vector loops, and few enough that an early NaN
/// ends the pass early.
const BLOCK_BYTES: usize = 4096;

/// Returns whether an element is NaN or infinite. False for types other than floating-point numbers.
pub fn any_non_finite(datatype: Datatype, data: &[u8]) -> bool {
    macro_rules! any {
        ($bits:ty, $exponent:expr) => {{
            const EXPONENT: $bits = $exponent;
            const ONE: $bits = EXPONENT & EXPONENT.wrapping_neg();
            const CARRY: $bits = EXPONENT.wrapping_add(ONE);
            data.chunks(BLOCK_BYTES).any(|block| {
                let elements = block.as_chunks::<{ size_of::<$bits>() }>().0;
                let carried = elements.iter().fold(0, |carried, bytes| {
                    carried | (<$bits>::from_le_bytes(*bytes) & EXPONENT).wrapping_add(ONE)
                });
                carried & CARRY != 0
            })
        }};
    }
    match datatype {
        Datatype::Fp16 => any!(u16, 0x7C00),
        Datatype::Bf16 => any!(u16, 0x7F80),
        Datatype::Fp32 => any!(u32, 0x7F80_0000),
        Datatype::Fp64 => any!(u64, 0x7FF0_0000_0000_0000),
        _ => Fp8::of(datatype).is_some_and(|format| {
            let is_finite: [bool; 256] =
                std::array::from_fn(|byte| format.to_f64(byte as u8).is_finite());
            data.iter().any(|byte| !is_finite[usize::from(*byte)])
        }),
    }
}

/// The elements that are NaN or infinite, with their places in row-major order.
pub fn non_finite(datatype: Datatype, data: &[u8]) -> impl Iterator<Item = (usize, f64)> {
    let size = datatype.size_bytes().unwrap_or(1);
    let value = move |bytes: &[u8]| match (datatype, bytes) {
        (Datatype::Fp16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f64(),
        (Datatype::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f64(),
        (Datatype::Fp32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        (Datatype::Fp64, bytes) => bytes.try_into().map_or(0.0, f64::from_le_bytes),
        (datatype, &[byte]) => Fp8::of(datatype).map_or(0.0, |format| format.to_f64(byte)),
        _ => 0.0,
    };
    data.chunks_exact(size)
        .map(value)
        .enumerate()
        .filter(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    const FLOATS: [Datatype; 4] = [
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
    ];

    fn bytes(datatype: Datatype, value: f64) -> Vec<u8> {
        match datatype {
            Datatype::Fp16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Datatype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Datatype::Fp32 => (value as f32).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        }
    }

    #[test]
    fn nan_and_infinity_are_found_wherever_they_stand() {
        for datatype in FLOATS {
            let size = bytes(datatype, 0.0).len();
            // More than two blocks, and an odd rest.
            let count = 2 * BLOCK_BYTES / size + 7;
            let sound: Vec<u8> = (0..count)
                .flat_map(|at| bytes(datatype, (at % 61) as f64 - 30.5))
                .collect();
            assert!(!any_non_finite(datatype, &sound), "{datatype}");
            for bad in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, 1, count / 2, count - 1] {
                    let mut data = sound.clone();
                    data[at * size..][..size].copy_from_slice(&bytes(datatype, bad));
                    assert!(any_non_finite(datatype, &data), "{datatype} {bad} at {at}");
                    let found: Vec<_> = non_finite(datatype, &data).collect();
                    assert_eq!(found.len(), 1, "{datatype} {bad} at {at}");
                    assert_eq!((found[0].0, found[0].1.is_nan()), (at, bad.is_nan()));
                }
            }
        }
    }

    #[test]
    fn every_finite_number_is_let_in() {
        // All 16-bit patterns, against the types' own opinion.
        for bits in 0..=u16::MAX {
            let data = bits.to_le_bytes();
            let half = f16::from_bits(bits).is_finite();
            let brain = bf16::from_bits(bits).is_finite();
            assert_eq!(any_non_finite(Datatype::Fp16, &data), !half, "{bits:#x}");
            assert_eq!(any_non_finite(Datatype::Bf16, &data), !brain, "{bits:#x}");
        }
        for value in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45] {
            assert!(!any_non_finite(Datatype::Fp32, &value.to_le_bytes()));
        }
        for value in [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -0.0, 5e-324] {
            assert!(!any_non_finite(Datatype::Fp64, &value.to_le_bytes()));
        }
    }

    #[test]
    fn other_types_have_no_such_elements() {
        for datatype in Datatype::ALL {
            if !datatype.is_float() {
                assert!(!any_non_finite(*datatype, &[0xFF; 64]), "{datatype}");
            }
        }
    }
}
