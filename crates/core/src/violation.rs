//! One thing wrong with a request's body, with its place. A request is answered with all of them.

use serde::Serialize;

/// How many violations one answer lists; the rest are counted, not listed, so that a body with a
/// million bad numbers cannot produce an answer of a million lines.
pub const MAX_VIOLATIONS: usize = 32;

/// One thing wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where: a JSON pointer (RFC 6901) into the body, `""` for the whole body.
    pub pointer: String,
    /// Which rule: a stable `snake_case` word a program can match on, e.g. `wrong_shape`.
    pub rule: String,
    /// What was expected, in words and units.
    pub expected: String,
    /// What was found and what to do about it.
    pub message: String,
}

impl Violation {
    /// Builds a violation; `pointer` must already be an RFC 6901 pointer.
    pub fn new(
        pointer: impl Into<String>,
        rule: impl Into<String>,
        expected: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            pointer: pointer.into(),
            rule: rule.into(),
            expected: expected.into(),
            message: message.into(),
        }
    }
}

/// Escapes one reference token of a JSON pointer (`~` and `/`, RFC 6901 §3).
pub fn escape_pointer_token(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_token_with_slash_and_tilde_is_escaped_in_rfc_6901_order() {
        assert_eq!(escape_pointer_token("a/b~c"), "a~1b~0c");
    }
}
