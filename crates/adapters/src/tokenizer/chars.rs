//! A text as the characters that a tokenizer works on, each with its place in the caller's text.

/// The most characters of a text, before and after it is normalized. Each takes 12 bytes of memory, several times over.
/// Models read some thousands of tokens.
pub(crate) const MAX_TEXT_CHARS: usize = 1 << 18;

/// A character, and the range of the caller's characters that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ch {
    pub(super) c: char,
    pub(super) start: u32,
    pub(super) end: u32,
}

pub(super) fn text_of(text: &str) -> Vec<Ch> {
    let each = text.chars().zip(0u32..);
    each.map(|(c, at)| Ch {
        c,
        start: at,
        end: at + 1,
    })
    .collect()
}

/// The default of members of a `tokenizer.json` that are true if absent.
pub(crate) fn yes() -> bool {
    true
}
