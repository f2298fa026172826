//! The alphabet of byte-level vocabularies (GPT-2): a printable character for each byte.

use super::chars::Ch;

/// The character of a byte.
fn spelling(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // The other bytes follow after the first 256 characters, in their order.
        0x00..=0x20 => shifted(u32::from(byte)),
        0x7f..=0xa0 => shifted(0x21 + u32::from(byte) - 0x7f),
        0xad => shifted(0x43),
    }
}

fn shifted(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A text as the characters of its UTF-8 bytes.
pub(super) fn spelt(text: Vec<Ch>) -> Vec<Ch> {
    let mut out = Vec::with_capacity(text.len());
    for ch in text {
        let bytes = ch.c.encode_utf8(&mut [0; 4]).bytes().collect::<Vec<_>>();
        out.extend(bytes.into_iter().map(|byte| Ch {
            c: spelling(byte),
            ..ch
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let mut all: Vec<char> = (0..=255).map(spelling).collect();
        assert_eq!(all[usize::from(b' ')], 'Ġ');
        assert_eq!(all[usize::from(b'\n')], 'Ċ');
        assert_eq!(all[0xad], '\u{143}');
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
    }
}
