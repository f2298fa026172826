//! Reads SentencePiece's `precompiled_charsmap`: a double-array trie from text to places in a table of replacements.
//! Every place is checked, because the file is read from disk.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The table of replacements that a SentencePiece model carries.
pub(super) struct Charsmap {
    trie: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads the table from base64.
    pub fn new(encoded: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("its `precompiled_charsmap` {what}");
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|e| wrong(&format!("is not base64: {e}")))?;
        let (head, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or_else(|| wrong("is too short"))?;
        let size = u32::from_le_bytes(*head) as usize;
        let (trie, replacements) = rest
            .split_at_checked(size)
            .ok_or_else(|| wrong("is shorter than it states"))?;
        let (units, odd) = trie.as_chunks::<4>();
        if !odd.is_empty() || units.is_empty() {
            return Err(wrong("has a trie that is not a list of 32-bit numbers"));
        }
        Ok(Self {
            trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: String::from_utf8(replacements.to_vec())
                .map_err(|_| wrong("has replacements that are not UTF-8"))?,
        })
    }

    /// The replacement of the shortest entry that a text begins with.
    pub fn transform(&self, text: &str) -> Option<&str> {
        let mut place = offset(*self.trie.first()?);
        for byte in text.bytes().take_while(|byte| *byte != 0) {
            place ^= usize::from(byte);
            let unit = *self.trie.get(place)?;
            if unit & ((1 << 31) | 0xff) != u32::from(byte) {
                return None;
            }
            place ^= offset(unit);
            if (unit >> 8) & 1 == 1 {
                let from = (self.trie.get(place)? & !(1 << 31)) as usize;
                let rest = self.replacements.get(from..)?;
                return rest.split('\0').next();
            }
        }
        None
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}
