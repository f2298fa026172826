//! Patterns for names in settings: `*` matches any characters, and nothing else is special.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest pattern, in bytes. No name of a model is longer.
pub const MAX_PATTERN_BYTES: usize = 128;

/// A name in which `*` matches any characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Returns whether a name matches. It only ever backtracks to the last star, so the time is bounded.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                star = Some((p, n));
                p += 1;
            } else if pattern.get(p) == Some(&name[n]) {
                (p, n) = (p + 1, n + 1);
            } else if let Some((at, from)) = star {
                (p, n) = (at + 1, from + 1);
                star = Some((at, from + 1));
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&b| b == b'*')
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.*".contains(&b);
        if text.is_empty() || text.len() > MAX_PATTERN_BYTES || !text.bytes().all(fits) {
            return Err(format!(
                "`{}` is not a pattern of names: write letters, digits, `-`, `_`, `.` and `*`, at most \
                 {MAX_PATTERN_BYTES} characters",
                text.chars()
                    .take(MAX_PATTERN_BYTES)
                    .collect::<String>()
                    .escape_debug()
            ));
        }
        Ok(Self(text))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_as_they_do_everywhere() {
        for (pattern, name, fits) in [
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxbxx", false),
            ("*aab", "aaaab", true),
            ("**", "", true),
            ("a", "", false),
            ("a*", "a", true),
        ] {
            let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(name), fits, "{pattern:?} {name}");
        }
        // Work is bounded although stars repeat.
        let pattern = Pattern::try_from("*a".repeat(60)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(10_000))));
    }
}
