//! Tokenizes a text or a pair of texts by a `tokenizer.json`.
//!
//! Follows the package `tokenizers` 0.22. docs/decisions/0033 says why this is not that package. One difference is
//! intended: a special token such as `[SEP]` in a caller's text is ordinary text (`encode_special_tokens`), so that a caller
//! cannot end a text.

mod bytes;
pub(crate) mod chars;
mod charsmap;
mod model;
pub(crate) mod normalize;
mod pattern;
mod split;

use chars::{Ch, MAX_TEXT_CHARS, text_of};
use model::{Model, ModelFile, Token};
use normalize::{Normalizer, NormalizerFile, TooLarge};
use serde::Deserialize;
use split::{Splitter, SplitterFile};
use std::collections::{BTreeMap, HashMap};

/// The most added tokens of a file. Those in use have some thousand.
const MAX_ADDED_TOKENS: usize = 16_384;

/// A `tokenizer.json`, without the members that have no effect on ids.
#[derive(Deserialize)]
pub(crate) struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedFile>,
    normalizer: Option<NormalizerFile>,
    pre_tokenizer: Option<SplitterFile>,
    post_processor: Option<PostFile>,
    model: ModelFile,
    padding: Option<PaddingFile>,
}

#[derive(Deserialize)]
struct PaddingFile {
    #[serde(default)]
    direction: Option<String>,
    pad_id: u32,
    #[serde(default)]
    pad_type_id: u32,
}

#[derive(Deserialize)]
struct AddedFile {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostFile {
    Sequence {
        processors: Vec<PostFile>,
    },
    BertProcessing {
        sep: (String, u32),
        cls: (String, u32),
    },
    RobertaProcessing {
        sep: (String, u32),
        cls: (String, u32),
        #[serde(default = "chars::yes")]
        trim_offsets: bool,
    },
    ByteLevel {
        #[serde(default = "chars::yes")]
        trim_offsets: bool,
    },
    TemplateProcessing {
        single: Vec<SlotFile>,
        pair: Vec<SlotFile>,
        special_tokens: BTreeMap<String, SpecialFile>,
    },
}

#[derive(Deserialize)]
enum SlotFile {
    Sequence { id: Sequence, type_id: u32 },
    SpecialToken { id: String, type_id: u32 },
}

#[derive(Deserialize)]
enum Sequence {
    A,
    B,
}

#[derive(Deserialize)]
struct SpecialFile {
    ids: Vec<u32>,
}

/// A part of a row: a text, or special tokens around texts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Text { second: bool, kind: u32 },
    Special { ids: Vec<u32>, kind: u32 },
}

/// The composition of a row.
#[derive(Default)]
struct Post {
    single: Vec<Slot>,
    pair: Vec<Slot>,
    /// Whether a token's range excludes blanks at its ends.
    trims: bool,
    /// Whether a processor has set the special tokens.
    is_set: bool,
}

struct Added {
    chars: Vec<char>,
    id: u32,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// Tokens that are searched in a text before it is split, by their first character, the longest first.
type AddedTokens = HashMap<char, Vec<Added>>;

/// A tokenizer that is ready to use.
pub(crate) struct Tokenizer {
    raw: AddedTokens,
    normalized: AddedTokens,
    normalizer: Option<Normalizer>,
    splitter: Option<Splitter>,
    model: Model,
    post: Post,
    size: u32,
    /// The id that fills shorter rows of a batch.
    pub padding: u32,
    /// The type id for padding.
    pub padding_type: u32,
}

/// A token of a text: its id, and the range of the text's characters that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub id: u32,
    pub start: u32,
    pub end: u32,
}

/// The row of a text or a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub ids: Vec<u32>,
    /// The type id of each token (`token_type_ids`).
    pub types: Vec<u32>,
    /// For a token of the first text its range in characters; `None` for all others.
    pub ranges: Vec<Option<(u32, u32)>>,
}

/// The text of a pair that is truncated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Truncation {
    /// The longer one, then both.
    #[default]
    LongestFirst,
    /// The second text alone.
    OnlySecond,
}

/// The reason why a text cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unencodable {
    /// It has more than [`MAX_TEXT_CHARS`] characters.
    TooLarge,
    /// The vocabulary lacks a token for it; a sentence.
    Unknown(String),
}

impl Tokenizer {
    /// The error is a sentence about the file.
    pub fn new(file: TokenizerFile) -> Result<Self, String> {
        let model = Model::new(file.model)?;
        let normalizer = file.normalizer.map(Normalizer::new).transpose()?;
        if file.added_tokens.len() > MAX_ADDED_TOKENS {
            return Err(format!("it has more than {MAX_ADDED_TOKENS} added tokens"));
        }
        let (mut raw, mut normalized) = (AddedTokens::new(), AddedTokens::new());
        let (mut padding, mut size) = (None, model.size());
        for token in file.added_tokens {
            if ["[PAD]", "<pad>"].contains(&token.content.as_str()) {
                padding = Some(token.id);
            }
            size = size.max(token.id.saturating_add(1));
            // A special token in a caller's text is ordinary text.
            if token.special {
                continue;
            }
            let mut chars = text_of(&token.content);
            let to = match token.normalized {
                false => &mut raw,
                true => {
                    if let Some(normalizer) = &normalizer {
                        chars = normalizer.apply(chars).map_err(|TooLarge| {
                            format!("its added token `{}` is too long", token.id)
                        })?;
                    }
                    &mut normalized
                }
            };
            let chars: Vec<char> = chars.iter().map(|ch| ch.c).collect();
            if let Some(first) = chars.first() {
                to.entry(*first).or_default().push(Added {
                    id: token.id,
                    single_word: token.single_word,
                    lstrip: token.lstrip,
                    rstrip: token.rstrip,
                    chars,
                });
            }
        }
        for tokens in raw.values_mut().chain(normalized.values_mut()) {
            tokens.sort_by_key(|token| std::cmp::Reverse(token.chars.len()));
        }
        let mut post = Post::default();
        if let Some(file) = file.post_processor {
            post.read(file)?;
        }
        if !post.is_set {
            post.single = vec![Slot::Text {
                second: false,
                kind: 0,
            }];
            post.pair = vec![
                Slot::Text {
                    second: false,
                    kind: 0,
                },
                Slot::Text {
                    second: true,
                    kind: 1,
                },
            ];
        }
        if let Some(padding) = &file.padding
            && padding.direction.as_deref() == Some("Left")
        {
            return Err("it pads on the left, which no supported model expects; set `padding` to null or to the right".into());
        }
        let named = ["[PAD]", "<pad>"]
            .iter()
            .find_map(|name| model.number(name));
        let padding_type = file
            .padding
            .as_ref()
            .map_or(0, |padding| padding.pad_type_id);
        let padding = file
            .padding
            .map(|padding| padding.pad_id)
            .or(padding)
            .or(named);
        Ok(Self {
            raw,
            normalized,
            normalizer,
            splitter: file.pre_tokenizer.map(Splitter::new).transpose()?,
            model,
            post,
            size,
            padding: padding.unwrap_or(0),
            padding_type,
        })
    }

    /// The tokens of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<Piece>, Unencodable> {
        if text.len() > MAX_TEXT_CHARS && text.chars().nth(MAX_TEXT_CHARS).is_some() {
            return Err(Unencodable::TooLarge);
        }
        let text = text_of(text);
        let mut pieces = Vec::new();
        let mut found = Vec::new();
        let mut leads = true;
        let mut begin = 0;
        for (part, token) in parts(&text, &self.raw) {
            if let Some(id) = token {
                pieces.push(placed(id, &text[part.clone()]));
                (leads, begin) = (false, part.end);
                continue;
            }
            let part = text[part].to_vec();
            let part = match &self.normalizer {
                Some(normalizer) => normalizer
                    .apply(part)
                    .map_err(|TooLarge| Unencodable::TooLarge)?,
                None => part,
            };
            for (range, token) in parts(&part, &self.normalized) {
                if let Some(id) = token {
                    pieces.push(placed(id, &part[range]));
                    leads = false;
                    continue;
                }
                let piece = part[range].to_vec();
                let split = match &self.splitter {
                    Some(splitter) => splitter.apply(piece, leads && begin == 0),
                    None => vec![piece],
                };
                leads = false;
                for piece in split {
                    found.clear();
                    self.model
                        .encode(&piece, &mut found)
                        .map_err(Unencodable::Unknown)?;
                    pieces.extend(
                        found
                            .iter()
                            .map(|Token { id, from, to }| placed(*id, &piece[*from..*to])),
                    );
                }
            }
        }
        if self.post.trims {
            for piece in &mut pieces {
                let covered =
                    |at: u32| text.get(at as usize).is_some_and(|ch| ch.c.is_whitespace());
                while piece.start < piece.end && covered(piece.start) {
                    piece.start += 1;
                }
                while piece.start < piece.end && covered(piece.end - 1) {
                    piece.end -= 1;
                }
            }
        }
        Ok(pieces)
    }

    /// One more than the largest id.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Tokens that came as ids, without ranges.
    pub fn pieces(&self, ids: &[u32]) -> Vec<Piece> {
        let piece = |id: &u32| Piece {
            id: *id,
            start: 0,
            end: 0,
        };
        ids.iter().map(piece).collect()
    }

    /// The number of special tokens around a text or a pair.
    pub fn around(&self, is_pair: bool) -> usize {
        let slots = if is_pair {
            &self.post.pair
        } else {
            &self.post.single
        };
        let tokens = slots.iter().map(|slot| match slot {
            Slot::Text { .. } => 0,
            Slot::Special { ids, .. } => ids.len(),
        });
        tokens.sum()
    }

    /// Truncates a text or a pair until it has at most `most` tokens, special tokens included.
    pub fn cut(
        &self,
        first: &mut Vec<Piece>,
        second: Option<&mut Vec<Piece>>,
        most: usize,
        truncation: Truncation,
    ) {
        let room = most.saturating_sub(self.around(second.is_some()));
        let Some(second) = second else {
            first.truncate(room);
            return;
        };
        if first.len() + second.len() <= room {
            return;
        }
        match truncation {
            Truncation::OnlySecond => {
                second.truncate(room.saturating_sub(first.len()));
                first.truncate(room);
            }
            Truncation::LongestFirst => {
                // As in the package: the shorter text keeps its length if the longer one does not become shorter than it.
                let swap = first.len() > second.len();
                let (shorter, longer) = if swap {
                    (second, first)
                } else {
                    (first, second)
                };
                let (mut a, mut b) = (shorter.len(), longer.len());
                b = if a > room { a } else { a.max(room - a) }.min(b);
                if a + b > room {
                    a = room / 2;
                    b = a + room % 2;
                }
                shorter.truncate(a);
                longer.truncate(b);
            }
        }
    }

    /// Composes the row of a text or a pair, with its special tokens.
    pub fn row(&self, first: &[Piece], second: Option<&[Piece]>) -> Row {
        let slots = if second.is_some() {
            &self.post.pair
        } else {
            &self.post.single
        };
        let mut row = Row::default();
        for slot in slots {
            match slot {
                Slot::Special { ids, kind } => {
                    for id in ids {
                        row.push(*id, *kind, None);
                    }
                }
                Slot::Text { second: true, kind } => {
                    for piece in second.unwrap_or_default() {
                        row.push(piece.id, *kind, None);
                    }
                }
                Slot::Text {
                    second: false,
                    kind,
                } => {
                    for piece in first {
                        row.push(piece.id, *kind, Some((piece.start, piece.end)));
                    }
                }
            }
        }
        row
    }
}

impl Row {
    fn push(&mut self, id: u32, kind: u32, range: Option<(u32, u32)>) {
        self.ids.push(id);
        self.types.push(kind);
        self.ranges.push(range);
    }
}

impl Post {
    fn read(&mut self, file: PostFile) -> Result<(), String> {
        let (single, pair) = match file {
            PostFile::Sequence { processors } => {
                return processors.into_iter().try_for_each(|file| self.read(file));
            }
            PostFile::ByteLevel { trim_offsets } => {
                self.trims |= trim_offsets;
                return Ok(());
            }
            PostFile::BertProcessing { sep, cls } => around(cls.1, sep.1, true),
            PostFile::RobertaProcessing {
                sep,
                cls,
                trim_offsets,
            } => {
                self.trims |= trim_offsets;
                around(cls.1, sep.1, false)
            }
            PostFile::TemplateProcessing {
                single,
                pair,
                special_tokens,
            } => {
                let slots = |files: Vec<SlotFile>| -> Result<Vec<Slot>, String> {
                    let slot = |file| {
                        match file {
                        SlotFile::Sequence { id, type_id } => Ok(Slot::Text {
                            second: matches!(id, Sequence::B),
                            kind: type_id,
                        }),
                        SlotFile::SpecialToken { id, type_id } => special_tokens
                            .get(&id)
                            .map(|token| Slot::Special { ids: token.ids.clone(), kind: type_id })
                            .ok_or_else(|| {
                                format!("its template names the token `{id}`, which is not in `special_tokens`")
                            }),
                    }
                    };
                    files.into_iter().map(slot).collect()
                };
                (slots(single)?, slots(pair)?)
            }
        };
        if self.is_set {
            return Err("two of its post-processors add special tokens".into());
        }
        (self.single, self.pair, self.is_set) = (single, pair, true);
        Ok(())
    }
}

/// The special tokens of BERT and RoBERTa around texts.
fn around(cls: u32, sep: u32, is_bert: bool) -> (Vec<Slot>, Vec<Slot>) {
    let special = |id, kind| Slot::Special {
        ids: vec![id],
        kind,
    };
    let text = |second, kind| Slot::Text { second, kind };
    let single = vec![special(cls, 0), text(false, 0), special(sep, 0)];
    let mut pair = single.clone();
    if !is_bert {
        pair.push(special(sep, 0));
    }
    let kind = u32::from(is_bert);
    pair.extend([text(true, kind), special(sep, kind)]);
    (single, pair)
}

/// A token that covers some characters.
fn placed(id: u32, chars: &[Ch]) -> Piece {
    let start = chars.first().map_or(0, |ch| ch.start);
    let end = chars.iter().map(|ch| ch.end).max().unwrap_or(start);
    Piece { id, start, end }
}

/// Splits a text at added tokens: ranges, each with the id of its added token, if it is one.
fn parts(text: &[Ch], added: &AddedTokens) -> Vec<(std::ops::Range<usize>, Option<u32>)> {
    let mut parts = Vec::new();
    let (mut last, mut at) = (0, 0);
    if !added.is_empty() {
        while at < text.len() {
            let Some(token) = added.get(&text[at].c).and_then(|tokens| {
                let begins = |token: &&Added| {
                    text.len() - at >= token.chars.len()
                        && text[at..]
                            .iter()
                            .zip(&token.chars)
                            .all(|(ch, c)| ch.c == *c)
                };
                tokens.iter().find(begins)
            }) else {
                at += 1;
                continue;
            };
            let (mut from, mut to) = (at, at + token.chars.len());
            at = to;
            let in_word =
                |place: Option<&Ch>| place.is_some_and(|ch| ch.c.is_alphanumeric() || ch.c == '_');
            if token.single_word
                && (in_word(from.checked_sub(1).and_then(|before| text.get(before)))
                    || in_word(text.get(to)))
            {
                continue;
            }
            while token.lstrip && from > last && text[from - 1].c.is_whitespace() {
                from -= 1;
            }
            while token.rstrip && text.get(to).is_some_and(|ch| ch.c.is_whitespace()) {
                to += 1;
            }
            if from > last {
                parts.push((last..from, None));
            }
            parts.push((from..to, Some(token.id)));
            (last, at) = (to, to);
        }
    }
    if last < text.len() {
        parts.push((last..text.len(), None));
    }
    parts
}

#[cfg(test)]
mod tests;
