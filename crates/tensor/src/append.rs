//! Appends short texts.

/// The longest text that is better copied in pieces.
pub(crate) const MAX_SHORT_BYTES: usize = 64;

/// Appends a short text, such as a number. In WebAssembly a copy of a length that is not known in advance is a call of the host's
/// runtime, which takes longer than the few bytes. So this copies pieces whose lengths are known.
#[inline(always)]
pub(crate) fn push_short(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some((piece, rest)) = text.split_first_chunk::<16>() {
        out.extend_from_slice(piece);
        text = rest;
    }
    macro_rules! piece {
        ($bytes:literal) => {
            if let Some((piece, rest)) = text.split_first_chunk::<$bytes>() {
                out.extend_from_slice(piece);
                text = rest;
            }
        };
    }
    piece!(8);
    piece!(4);
    piece!(2);
    if let [last] = text {
        out.push(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_appended_whole() {
        let text: Vec<u8> = (0..100).collect();
        for length in 0..text.len() {
            let mut out = b"before".to_vec();
            push_short(&mut out, &text[..length]);
            assert_eq!(out, [b"before", &text[..length]].concat(), "{length}");
        }
    }
}
