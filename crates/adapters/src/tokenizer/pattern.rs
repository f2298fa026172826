//! The regular expressions of a `tokenizer.json`, and the parts of a text that they match.

use super::chars::Ch;
use regex::Regex;
use serde::Deserialize;
use std::ops::Range;

/// The longest regular expression of a file, in bytes. Those in use have 300.
const MAX_PATTERN_BYTES: usize = 4096;

/// A pattern, as a `tokenizer.json` writes it.
#[derive(Clone, Debug, Deserialize)]
pub(super) enum PatternFile {
    String(String),
    Regex(String),
}

/// A regular expression that is matched in time linear in the text.
pub(super) struct Pattern {
    regex: Regex,
    /// Whether the group `trail` replaces `\s+(?!\S)`.
    trails: bool,
}

impl Pattern {
    /// The error is about the file.
    pub fn new(file: &PatternFile) -> Result<Self, String> {
        let source = match file {
            PatternFile::String(text) => regex::escape(text),
            PatternFile::Regex(source) => as_oniguruma(source),
        };
        Self::compiled(source)
    }

    /// The error is about the file.
    pub(super) fn compiled(source: String) -> Result<Self, String> {
        if source.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern has more than {MAX_PATTERN_BYTES} bytes"));
        }
        // The one look-ahead in use: blanks, but the last where a word follows. Such a match is shortened by hand, and
        // the rest must match a single blank.
        const AHEAD: &str = r"\s+(?!\S)";
        let (source, trails) = match source.split_once(AHEAD) {
            Some((before, after)) if after.starts_with(r"|\s+") => {
                (format!(r"{before}(?P<trail>\s+){after}"), true)
            }
            _ => (source, false),
        };
        let regex = Regex::new(&source).map_err(|e| {
            format!("its pattern `{source}` cannot be used (look-around is not supported, but `{AHEAD}|\\s+`): {e}")
        })?;
        Ok(Self { regex, trails })
    }

    /// The parts of a text, in order, each with whether the pattern matches it.
    pub fn find(&self, text: &[Ch]) -> Vec<(Range<usize>, bool)> {
        let plain: String = text.iter().map(|ch| ch.c).collect();
        let mut found = Vec::new();
        // The end of the last part and the start of the search, in bytes; and the former in characters.
        let (mut last, mut at, mut chars) = (0, 0, 0);
        let mut push = |range: Range<usize>, is_match: bool| {
            if !range.is_empty() {
                let count = plain[range].chars().count();
                found.push((chars..chars + count, is_match));
                chars += count;
            }
        };
        while at <= plain.len() {
            let Some(range) = self.next(&plain, at) else {
                break;
            };
            if range.is_empty() {
                let step = plain[range.end..].chars().next();
                at = range.end + step.map_or(1, char::len_utf8);
                continue;
            }
            push(last..range.start, false);
            push(range.clone(), true);
            (last, at) = (range.end, range.end);
        }
        push(last..plain.len(), false);
        found
    }

    fn next(&self, plain: &str, at: usize) -> Option<Range<usize>> {
        if !self.trails {
            return self.regex.find_at(plain, at).map(|found| found.range());
        }
        let found = self.regex.captures_at(plain, at)?;
        let mut range = found.get(0)?.range();
        if found.name("trail").is_some() && range.end < plain.len() {
            let blanks = &plain[range.clone()];
            let last = blanks.chars().next_back().map_or(0, char::len_utf8);
            if last < blanks.len() {
                range.end -= last;
            }
        }
        Some(range)
    }
}

/// Adapts `\w` in an expression to Oniguruma, which the package uses for the expressions of a file: the digits of Latin-1
/// belong to words, and joiners do not.
fn as_oniguruma(source: &str) -> String {
    const WORD: &str = r"[\w--[\x{200C}\x{200D}]]\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}";
    let mut out = String::with_capacity(source.len());
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some(escaped @ ('w' | 'W'))) => {
                let not = if escaped == 'W' { "^" } else { "" };
                out.push_str(&format!("[{not}{WORD}]"));
                chars.next();
            }
            ('\\', Some(escaped)) => {
                out.extend(['\\', escaped]);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}
