//! A violation: one fault of a request's body, with its place. An answer lists all of them.

use serde::Serialize;

/// The most violations that an answer lists. The others are only counted, so that a body with a million faults does not
/// produce an answer of a million lines.
pub const MAX_VIOLATIONS: usize = 32;

/// One violation in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Violation {
    /// The place in the body: a JSON pointer (RFC 6901). It is empty for the whole body.
    pub pointer: String,
    /// The violated rule, as a stable word.
    pub rule: String,
    /// The expected value, in words and units.
    pub expected: String,
    /// The value that was found, and what to do.
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
