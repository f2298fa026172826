//! Elements of less than a byte, as ONNX packs them: the first in the lowest bits.

/// Packs elements that have a byte each; bits that an element does not have are left out.
pub(super) fn pack(elements: &[u8], bits: u32) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    let each = (u8::BITS / bits) as usize;
    let byte = |group: &[u8]| {
        (group.iter().enumerate()).fold(0, |byte, (at, element)| {
            byte | (element & mask) << (at as u32 * bits)
        })
    };
    elements.chunks(each).map(byte).collect()
}

/// The elements of packed bytes, a byte each; `None` if there are fewer.
pub(super) fn unpack(packed: &[u8], bits: u32, count: usize, signed: bool) -> Option<Vec<u8>> {
    let each = (u8::BITS / bits) as usize;
    if packed.len() < count.div_ceil(each) {
        return None;
    }
    let free = u8::BITS - bits;
    let element = |at: usize| {
        let byte = packed.get(at / each).copied().unwrap_or_default();
        // Shifted to the top and back down, which extends the sign if there is one.
        let top = byte << (free - (at % each) as u32 * bits);
        match signed {
            true => (top.cast_signed() >> free).cast_unsigned(),
            false => top >> free,
        }
    };
    Some((0..count).map(element).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_as_they_were_packed() {
        for (bits, signed, elements) in [
            (4, false, &[0u8, 15, 1, 7, 9][..]),
            (4, true, &[0, 7, 0xF8, 0xFF, 3]),
            (2, false, &[0, 1, 2, 3, 3, 0]),
            (2, true, &[0, 1, 0xFE, 0xFF, 1]),
        ] {
            for count in 0..=elements.len() {
                let packed = pack(&elements[..count], bits);
                assert_eq!(packed.len(), count.div_ceil((8 / bits) as usize));
                let back = unpack(&packed, bits, count, signed);
                assert_eq!(back.as_deref(), Some(&elements[..count]));
            }
        }
        // ONNX, "4 bit integer types": the first element is in the low bits.
        assert_eq!(pack(&[1, 2, 3], 4), [0x21, 0x03]);
        assert_eq!(unpack(&[0x21], 4, 3, false), None);
    }
}
