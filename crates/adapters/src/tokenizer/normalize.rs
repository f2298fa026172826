//! The normalizers of a `tokenizer.json`, which change a text before it is split. Every character keeps the range of the
//! caller's characters that it came from.

use super::chars::{Ch, MAX_TEXT_CHARS};
use super::charsmap::Charsmap;
use super::pattern::{Pattern, PatternFile};
use serde::Deserialize;
use unicode_normalization::char::{
    canonical_combining_class, compose, decompose_canonical, decompose_compatible,
    is_combining_mark,
};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_segmentation::UnicodeSegmentation;

/// One normalizer, as a `tokenizer.json` writes it.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum NormalizerFile {
    Sequence {
        normalizers: Vec<NormalizerFile>,
    },
    BertNormalizer {
        #[serde(default = "super::chars::yes")]
        clean_text: bool,
        #[serde(default = "super::chars::yes")]
        handle_chinese_chars: bool,
        #[serde(default)]
        strip_accents: Option<bool>,
        #[serde(default = "super::chars::yes")]
        lowercase: bool,
    },
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Nmt,
    Lowercase,
    StripAccents,
    Strip {
        #[serde(default = "super::chars::yes")]
        strip_left: bool,
        #[serde(default = "super::chars::yes")]
        strip_right: bool,
    },
    Replace {
        pattern: PatternFile,
        content: String,
    },
    Prepend {
        prepend: String,
    },
    ByteLevel {},
    Precompiled {
        precompiled_charsmap: Option<String>,
    },
}

/// A normalizer that is ready to use.
pub(super) enum Normalizer {
    Sequence(Vec<Normalizer>),
    Bert {
        clean: bool,
        ideographs: bool,
        accents: bool,
        lowercase: bool,
    },
    Canonical {
        composed: bool,
    },
    Compatible {
        composed: bool,
    },
    Nmt,
    Lowercase,
    StripAccents,
    Strip {
        left: bool,
        right: bool,
    },
    Replace(Pattern, String),
    Prepend(String),
    ByteLevel,
    Precompiled(Charsmap),
}

impl Normalizer {
    /// The error is about the file.
    pub fn new(file: NormalizerFile) -> Result<Self, String> {
        Ok(match file {
            NormalizerFile::Sequence { normalizers } => Self::Sequence(
                normalizers
                    .into_iter()
                    .map(Self::new)
                    .collect::<Result<_, _>>()?,
            ),
            NormalizerFile::BertNormalizer {
                clean_text,
                handle_chinese_chars,
                strip_accents,
                lowercase,
            } => Self::Bert {
                clean: clean_text,
                ideographs: handle_chinese_chars,
                accents: strip_accents.unwrap_or(lowercase),
                lowercase,
            },
            NormalizerFile::Nfc => Self::Canonical { composed: true },
            NormalizerFile::Nfd => Self::Canonical { composed: false },
            NormalizerFile::Nfkc => Self::Compatible { composed: true },
            NormalizerFile::Nfkd => Self::Compatible { composed: false },
            NormalizerFile::Nmt => Self::Nmt,
            NormalizerFile::Lowercase => Self::Lowercase,
            NormalizerFile::StripAccents => Self::StripAccents,
            NormalizerFile::Strip {
                strip_left,
                strip_right,
            } => Self::Strip {
                left: strip_left,
                right: strip_right,
            },
            NormalizerFile::Replace { pattern, content } => {
                Self::Replace(Pattern::new(&pattern)?, content)
            }
            NormalizerFile::Prepend { prepend } => Self::Prepend(prepend),
            NormalizerFile::ByteLevel {} => Self::ByteLevel,
            NormalizerFile::Precompiled {
                precompiled_charsmap,
            } => match precompiled_charsmap.filter(|map| !map.is_empty()) {
                Some(map) => Self::Precompiled(Charsmap::new(&map)?),
                None => Self::Sequence(Vec::new()),
            },
        })
    }

    /// Applies the normalizer to a text. Errors if it becomes longer than a text may be.
    pub fn apply(&self, text: Vec<Ch>) -> Result<Vec<Ch>, TooLarge> {
        let text = match self {
            Self::Sequence(all) => all
                .iter()
                .try_fold(text, |text, normalizer| normalizer.apply(text))?,
            Self::Bert {
                clean,
                ideographs,
                accents,
                lowercase,
            } => {
                let mut text = text;
                if *clean {
                    text.retain(|ch| !is_dropped(ch.c));
                    for ch in &mut text {
                        if ch.c.is_whitespace() {
                            ch.c = ' ';
                        }
                    }
                }
                if *ideographs {
                    text = expand(text, |ch, out| {
                        let around = is_ideograph(ch.c);
                        out.extend(around.then_some(Ch { c: ' ', ..ch }));
                        out.push(ch);
                        out.extend(around.then_some(Ch { c: ' ', ..ch }));
                    });
                }
                if *accents {
                    text = decomposed(text, false);
                    text.retain(|ch| ch.c.general_category() != GeneralCategory::NonspacingMark);
                }
                if *lowercase { lowered(text) } else { text }
            }
            Self::Canonical { composed } => recomposed(decomposed(text, false), *composed),
            Self::Compatible { composed } => recomposed(decomposed(text, true), *composed),
            Self::Nmt => {
                let mut text = text;
                text.retain(|ch| !is_dropped_by_nmt(ch.c));
                for ch in &mut text {
                    if is_space_to_nmt(ch.c) {
                        ch.c = ' ';
                    }
                }
                text
            }
            Self::Lowercase => lowered(text),
            Self::StripAccents => {
                let mut text = text;
                text.retain(|ch| !is_combining_mark(ch.c));
                text
            }
            Self::Strip { left, right } => {
                let mut text = text;
                if *right {
                    let kept = text.iter().rposition(|ch| !ch.c.is_whitespace());
                    text.truncate(kept.map_or(0, |at| at + 1));
                }
                if *left {
                    let first = text.iter().position(|ch| !ch.c.is_whitespace());
                    text.drain(..first.unwrap_or(text.len()));
                }
                text
            }
            Self::Replace(pattern, content) => replaced(text, pattern, content),
            Self::Prepend(prefix) => prepended(text, prefix),
            Self::ByteLevel => super::bytes::spelt(text),
            Self::Precompiled(map) => precompiled(text, map),
        };
        if text.len() > MAX_TEXT_CHARS {
            return Err(TooLarge);
        }
        Ok(text)
    }
}

/// A text became larger than a text may be.
#[derive(Debug)]
pub(super) struct TooLarge;

/// Replaces each character by any number of characters.
fn expand(text: Vec<Ch>, mut each: impl FnMut(Ch, &mut Vec<Ch>)) -> Vec<Ch> {
    let mut out = Vec::with_capacity(text.len());
    for ch in text {
        each(ch, &mut out);
    }
    out
}

fn lowered(text: Vec<Ch>) -> Vec<Ch> {
    expand(text, |ch, out| {
        out.extend(ch.c.to_lowercase().map(|c| Ch { c, ..ch }));
    })
}

/// Puts a prefix before a text that is not empty.
pub(super) fn prepended(mut text: Vec<Ch>, prefix: &str) -> Vec<Ch> {
    let Some(&first) = text.first() else {
        return text;
    };
    let place = Ch {
        end: first.start,
        ..first
    };
    text.splice(0..0, prefix.chars().map(|c| Ch { c, ..place }));
    text
}

/// Replaces each match of a pattern by `content`.
pub(super) fn replaced(text: Vec<Ch>, pattern: &Pattern, content: &str) -> Vec<Ch> {
    let mut out = Vec::with_capacity(text.len());
    for (range, is_match) in pattern.find(&text) {
        let part = &text[range];
        match (is_match, part.first(), part.last()) {
            (true, Some(first), Some(last)) => {
                let place = Ch {
                    end: last.end,
                    ..*first
                };
                out.extend(content.chars().map(|c| Ch { c, ..place }));
            }
            _ => out.extend_from_slice(part),
        }
    }
    out
}

/// Decomposes (UAX #15), with marks in their canonical order.
fn decomposed(text: Vec<Ch>, compatible: bool) -> Vec<Ch> {
    let mut out = expand(text, |ch, out| {
        let mut push = |c| out.push(Ch { c, ..ch });
        match compatible {
            true => decompose_compatible(ch.c, &mut push),
            false => decompose_canonical(ch.c, &mut push),
        }
    });
    let class = |ch: &Ch| canonical_combining_class(ch.c);
    for marks in out.chunk_by_mut(|a, b| class(a) != 0 && class(b) != 0) {
        marks.sort_by_key(class);
    }
    out
}

/// Composes decomposed characters (UAX #15), if wanted.
fn recomposed(text: Vec<Ch>, wanted: bool) -> Vec<Ch> {
    if !wanted {
        return text;
    }
    let mut out: Vec<Ch> = Vec::with_capacity(text.len());
    // The last starter, and the class of the last mark after it that was not composed.
    let (mut starter, mut last_class) = (None::<usize>, None::<u8>);
    for ch in text {
        let class = canonical_combining_class(ch.c);
        if let Some(at) = starter {
            let blocked = last_class.is_some_and(|last| last >= class);
            if !blocked && let Some(c) = compose(out[at].c, ch.c) {
                out[at].c = c;
                out[at].end = out[at].end.max(ch.end);
                continue;
            }
        }
        match class {
            0 => (starter, last_class) = (Some(out.len()), None),
            class => last_class = Some(class),
        }
        out.push(ch);
    }
    out
}

/// Applies SentencePiece's own table. As in the package `tokenizers`, a whole short grapheme that begins with an entry of the
/// table becomes that entry's text.
fn precompiled(text: Vec<Ch>, map: &Charsmap) -> Vec<Ch> {
    /// Longer graphemes are looked up character by character.
    const LONGEST_BYTES: usize = 6;
    let plain: String = text.iter().map(|ch| ch.c).collect();
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for grapheme in plain.graphemes(true) {
        let part = &text[at..at + grapheme.chars().count()];
        at += part.len();
        if grapheme.len() < LONGEST_BYTES
            && let Some(norm) = map.transform(grapheme)
            && let [first, .., last] | [first @ last] = part
        {
            let place = Ch {
                end: last.end,
                ..*first
            };
            out.extend(norm.chars().map(|c| Ch { c, ..place }));
            continue;
        }
        for ch in part {
            match map.transform(ch.c.encode_utf8(&mut [0; 4])) {
                Some(norm) => out.extend(norm.chars().map(|c| Ch { c, ..*ch })),
                None => out.push(*ch),
            }
        }
    }
    out
}

/// Returns whether a character is removed first: control, format and private characters.
pub(crate) fn is_dropped(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\0' | '\u{fffd}' => true,
        _ => matches!(
            c.general_category(),
            GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
        ),
    }
}

fn is_dropped_by_nmt(c: char) -> bool {
    matches!(
        c,
        '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{8f}' | '\u{9f}'
    )
}

fn is_space_to_nmt(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{c}' | '\r' | '\u{1680}' | '\u{200b}'
            ..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{2581}' | '\u{feff}' | '\u{fffd}'
    )
}

/// Returns whether BERT splits at a character.
pub(crate) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(
            c.general_category(),
            GeneralCategory::ConnectorPunctuation
                | GeneralCategory::DashPunctuation
                | GeneralCategory::OpenPunctuation
                | GeneralCategory::ClosePunctuation
                | GeneralCategory::InitialPunctuation
                | GeneralCategory::FinalPunctuation
                | GeneralCategory::OtherPunctuation
        )
}

/// Returns whether a character is in a block of ideographs that BERT knows.
pub(crate) fn is_ideograph(c: char) -> bool {
    matches!(
        c,
        '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{2a6df}'
            | '\u{2a700}'..='\u{2b73f}'
            | '\u{2b740}'..='\u{2b81f}'
            | '\u{2b920}'..='\u{2ceaf}'
            | '\u{2f800}'..='\u{2fa1f}'
    )
}
