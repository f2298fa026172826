//! The pre-tokenizers of a `tokenizer.json`, which split a text before its pieces are looked up.

use super::bytes;
use super::chars::Ch;
use super::normalize::{is_punctuation, prepended, replaced};
use super::pattern::{Pattern, PatternFile};
use serde::Deserialize;
use std::ops::Range;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// GPT-2's pattern, which `ByteLevel` means.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The treatment of matched parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Behavior {
    #[serde(alias = "removed")]
    Removed,
    #[serde(alias = "isolated")]
    Isolated,
    #[serde(alias = "mergedWithPrevious", alias = "merged_with_previous")]
    MergedWithPrevious,
    #[serde(alias = "mergedWithNext", alias = "merged_with_next")]
    MergedWithNext,
    #[serde(alias = "contiguous")]
    Contiguous,
}

/// The texts before which a blank is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    First,
    Never,
    Always,
}

/// One pre-tokenizer, as a `tokenizer.json` writes it.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum SplitterFile {
    Sequence {
        pretokenizers: Vec<SplitterFile>,
    },
    BertPreTokenizer,
    ByteLevel {
        #[serde(default = "super::chars::yes")]
        add_prefix_space: bool,
        #[serde(default = "super::chars::yes")]
        use_regex: bool,
    },
    Whitespace,
    WhitespaceSplit,
    Metaspace {
        replacement: char,
        prepend_scheme: Option<Scheme>,
        add_prefix_space: Option<bool>,
        #[serde(default = "super::chars::yes")]
        split: bool,
    },
    Split {
        pattern: PatternFile,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    Punctuation {
        #[serde(default = "isolated")]
        behavior: Behavior,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    CharDelimiterSplit {
        delimiter: char,
    },
}

fn isolated() -> Behavior {
    Behavior::Isolated
}

/// A pre-tokenizer that is ready to use.
pub(super) enum Splitter {
    Sequence(Vec<Splitter>),
    Bert,
    ByteLevel {
        prefix: bool,
        pattern: Option<Pattern>,
    },
    Whitespace(Pattern),
    WhitespaceSplit,
    Metaspace {
        replacement: char,
        blank: Pattern,
        scheme: Scheme,
        split: bool,
    },
    Split {
        pattern: Pattern,
        behavior: Behavior,
        invert: bool,
    },
    Punctuation(Behavior),
    Digits {
        single: bool,
    },
    Delimiter(char),
}

impl Splitter {
    /// The error is about the file.
    pub fn new(file: SplitterFile) -> Result<Self, String> {
        let regex = |source: &str| Pattern::compiled(source.to_owned());
        Ok(match file {
            SplitterFile::Sequence { pretokenizers } => Self::Sequence(
                pretokenizers
                    .into_iter()
                    .map(Self::new)
                    .collect::<Result<_, _>>()?,
            ),
            SplitterFile::BertPreTokenizer => Self::Bert,
            SplitterFile::ByteLevel {
                add_prefix_space,
                use_regex,
            } => Self::ByteLevel {
                prefix: add_prefix_space,
                pattern: use_regex.then(|| regex(GPT2)).transpose()?,
            },
            SplitterFile::Whitespace => Self::Whitespace(regex(r"\w+|[^\w\s]+")?),
            SplitterFile::WhitespaceSplit => Self::WhitespaceSplit,
            SplitterFile::Metaspace {
                replacement,
                prepend_scheme,
                add_prefix_space,
                split,
            } => Self::Metaspace {
                replacement,
                blank: Pattern::new(&PatternFile::String(" ".to_owned()))?,
                scheme: match (prepend_scheme, add_prefix_space) {
                    (Some(scheme), _) => scheme,
                    (None, Some(false)) => Scheme::Never,
                    (None, _) => Scheme::Always,
                },
                split,
            },
            SplitterFile::Split {
                pattern,
                behavior,
                invert,
            } => Self::Split {
                pattern: Pattern::new(&pattern)?,
                behavior,
                invert,
            },
            SplitterFile::Punctuation { behavior } => Self::Punctuation(behavior),
            SplitterFile::Digits { individual_digits } => Self::Digits {
                single: individual_digits,
            },
            SplitterFile::CharDelimiterSplit { delimiter } => Self::Delimiter(delimiter),
        })
    }

    /// Splits a piece, without empty parts. `leads` says whether the piece begins the text.
    fn split(&self, piece: Vec<Ch>, leads: bool) -> Vec<Vec<Ch>> {
        match self {
            Self::Sequence(all) => {
                let mut pieces = vec![piece];
                for splitter in all {
                    let mut next = Vec::with_capacity(pieces.len());
                    for (index, piece) in pieces.into_iter().enumerate() {
                        next.extend(splitter.split(piece, leads && index == 0));
                    }
                    pieces = next;
                }
                pieces
            }
            Self::Bert => {
                let words = apart(&piece, Behavior::Removed, char::is_whitespace);
                let split = |word: Vec<Ch>| apart(&word, Behavior::Isolated, is_punctuation);
                words.into_iter().flat_map(split).collect()
            }
            Self::ByteLevel { prefix, pattern } => {
                let piece = match *prefix && piece.first().is_some_and(|ch| ch.c != ' ') {
                    true => prepended(piece, " "),
                    false => piece,
                };
                let parts = match pattern {
                    Some(pattern) => cut(&piece, pattern.find(&piece), Behavior::Isolated),
                    None => vec![piece],
                };
                parts.into_iter().map(bytes::spelt).collect()
            }
            Self::Whitespace(words) => cut(&piece, inverted(words.find(&piece)), Behavior::Removed),
            Self::WhitespaceSplit => apart(&piece, Behavior::Removed, char::is_whitespace),
            Self::Metaspace {
                replacement,
                blank,
                scheme,
                split,
            } => {
                let mut letter = [0; 4];
                let letter: &str = replacement.encode_utf8(&mut letter);
                let piece = replaced(piece, blank, letter);
                let is_marked = piece.first().is_some_and(|ch| ch.c == *replacement);
                let piece = match scheme {
                    Scheme::Always if !is_marked => prepended(piece, letter),
                    Scheme::First if !is_marked && leads => prepended(piece, letter),
                    _ => piece,
                };
                match split {
                    true => apart(&piece, Behavior::MergedWithNext, |c| c == *replacement),
                    false => vec![piece],
                }
            }
            Self::Split {
                pattern,
                behavior,
                invert,
            } => {
                let found = pattern.find(&piece);
                let found = if *invert { inverted(found) } else { found };
                cut(&piece, found, *behavior)
            }
            Self::Punctuation(behavior) => apart(&piece, *behavior, is_punctuation),
            Self::Digits { single } => {
                let behavior = match single {
                    true => Behavior::Isolated,
                    false => Behavior::Contiguous,
                };
                let is_number =
                    |c: char| c.general_category_group() == GeneralCategoryGroup::Number;
                apart(&piece, behavior, is_number)
            }
            Self::Delimiter(delimiter) => apart(&piece, Behavior::Removed, |c| c == *delimiter),
        }
    }

    /// Splits the pieces of a text; `leads` says whether the first of them begins the text.
    pub fn apply(&self, piece: Vec<Ch>, leads: bool) -> Vec<Vec<Ch>> {
        let mut pieces = self.split(piece, leads);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

fn inverted(mut found: Vec<(Range<usize>, bool)>) -> Vec<(Range<usize>, bool)> {
    for (_, is_match) in &mut found {
        *is_match = !*is_match;
    }
    found
}

/// Splits at each character of a kind.
fn apart(piece: &[Ch], behavior: Behavior, is_match: impl Fn(char) -> bool) -> Vec<Vec<Ch>> {
    let mut found: Vec<(Range<usize>, bool)> = Vec::new();
    for (at, ch) in piece.iter().enumerate() {
        let matches = is_match(ch.c);
        match found.last_mut() {
            Some((range, false)) if !matches => range.end = at + 1,
            _ => found.push((at..at + 1, matches)),
        }
    }
    cut(piece, found, behavior)
}

/// Cuts a piece into parts, and applies the behavior to matched ones.
fn cut(piece: &[Ch], found: Vec<(Range<usize>, bool)>, behavior: Behavior) -> Vec<Vec<Ch>> {
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(found.len());
    let mut before = None;
    match behavior {
        Behavior::Removed => {
            ranges.extend(
                found
                    .into_iter()
                    .filter(|(_, m)| !m)
                    .map(|(range, _)| range),
            );
        }
        Behavior::Isolated => ranges.extend(found.into_iter().map(|(range, _)| range)),
        Behavior::Contiguous => {
            for (range, is_match) in found {
                match ranges.last_mut() {
                    Some(last) if before == Some(is_match) => last.end = range.end,
                    _ => ranges.push(range),
                }
                before = Some(is_match);
            }
        }
        Behavior::MergedWithPrevious => {
            for (range, is_match) in found {
                match ranges.last_mut() {
                    Some(last) if is_match && before != Some(true) => last.end = range.end,
                    _ => ranges.push(range),
                }
                before = Some(is_match);
            }
        }
        Behavior::MergedWithNext => {
            for (range, is_match) in found.into_iter().rev() {
                match ranges.last_mut() {
                    Some(last) if is_match && before != Some(true) => last.start = range.start,
                    _ => ranges.push(range),
                }
                before = Some(is_match);
            }
            ranges.reverse();
        }
    }
    ranges
        .into_iter()
        .map(|range| piece[range].to_vec())
        .collect()
}
