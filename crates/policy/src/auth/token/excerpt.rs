//! Repeats text of unknown origin in a message, safely.

/// The most characters of such a text that a message repeats.
const MAX_CHARS: usize = 40;

/// The beginning of a text, with escapes in place of characters that a terminal or a log would act on.
pub(super) fn excerpt(text: &str) -> String {
    let mut beginning: String = text.chars().take(MAX_CHARS).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    beginning.escape_debug().to_string()
}
