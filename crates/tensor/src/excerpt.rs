//! Repeats a client's text in a pointer or a message, cut to a bounded length.

/// Longest text of a client that a pointer or message repeats, in bytes. Longer texts are cut and end in `…`: an answer
/// must stay small even if a member's name has a megabyte.
const MAX_EXCERPT_BYTES: usize = 64;

/// At most [`MAX_EXCERPT_BYTES`] of `text`, cut between characters and marked with `…`.
pub(crate) fn excerpt(text: &str) -> String {
    if text.len() <= MAX_EXCERPT_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_EXCERPT_BYTES);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let long = "é".repeat(100);
        assert!(excerpt(&long).ends_with('…') && excerpt(&long).len() < 70);
    }
}
