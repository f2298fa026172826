//! The models of a `tokenizer.json`, which turn a piece of text into ids: WordPiece, BPE, Unigram or whole words.

use super::chars::Ch;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;

/// The most pieces of a vocabulary. The largest in use have some 260,000.
const MAX_PIECES: usize = 1 << 20;
/// The distance of the score of an unknown piece of Unigram below the lowest score.
const UNKNOWN_PENALTY: f64 = 10.0;
/// The longest piece of Unigram, in bytes.
const MAX_UNIGRAM_BYTES: usize = 1024;

/// The model, as a `tokenizer.json` writes it. Old files omit `type`.
#[derive(Deserialize)]
pub(super) struct ModelFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: VocabFile,
    #[serde(default)]
    merges: Option<Vec<MergeFile>>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Pieces with their ids; or in the order of their ids, each with its score.
enum VocabFile {
    Numbers(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for VocabFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = VocabFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers by piece, or an array of pieces with scores")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabFile, A::Error> {
                let mut numbers = HashMap::new();
                while let Some((piece, number)) = map.next_entry()? {
                    numbers.insert(piece, number);
                }
                Ok(VocabFile::Numbers(numbers))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VocabFile, A::Error> {
                let mut scores = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    scores.push(entry);
                }
                Ok(VocabFile::Scores(scores))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A merge rule: two pieces, in one string with a blank between them or in an array.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeFile {
    Text(String),
    Pair(String, String),
}

/// A token of a piece: its id, and the characters of the piece that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub id: u32,
    pub from: usize,
    pub to: usize,
}

/// A model that is ready to use.
pub(super) struct Model {
    numbers: HashMap<String, u32>,
    algorithm: Algorithm,
}

enum Algorithm {
    WordPiece {
        unknown: u32,
        prefix: String,
        max_chars: usize,
    },
    Bpe(Bpe),
    Unigram(Unigram),
    Words {
        unknown: Option<u32>,
    },
}

impl Model {
    /// The error is about the file.
    pub fn new(file: ModelFile) -> Result<Self, String> {
        let kind = match (file.kind.as_deref(), &file.vocab) {
            (Some(kind), _) => kind,
            (None, VocabFile::Scores(_)) => "Unigram",
            (None, _) if file.merges.is_some() => "BPE",
            (None, _) if file.max_input_chars_per_word.is_some() => "WordPiece",
            _ => "WordLevel",
        }
        .to_owned();
        let (numbers, scores) = match file.vocab {
            VocabFile::Numbers(numbers) => (numbers, None),
            VocabFile::Scores(scores) => {
                let numbers = scores
                    .iter()
                    .zip(0u32..)
                    .map(|((piece, _), n)| (piece.clone(), n));
                (numbers.collect(), Some(scores))
            }
        };
        if numbers.len() > MAX_PIECES {
            return Err(format!("its vocabulary has more than {MAX_PIECES} pieces"));
        }
        let unknown = match &file.unk_token {
            None => None,
            Some(token) => Some(*numbers.get(token).ok_or_else(|| {
                format!("its vocabulary does not have the unknown token `{token}`")
            })?),
        };
        let algorithm = match (kind.as_str(), scores) {
            ("WordPiece", None) => Algorithm::WordPiece {
                unknown: unknown.ok_or("a WordPiece model needs an `unk_token`")?,
                prefix: file
                    .continuing_subword_prefix
                    .unwrap_or_else(|| "##".to_owned()),
                max_chars: file.max_input_chars_per_word.unwrap_or(100),
            },
            ("BPE", None) => {
                let prefix = file.continuing_subword_prefix.filter(|p| !p.is_empty());
                let merges = file.merges.unwrap_or_default();
                Algorithm::Bpe(Bpe {
                    merges: merge_table(merges, &numbers, prefix.as_deref())?,
                    unknown,
                    prefix,
                    suffix: file.end_of_word_suffix.filter(|s| !s.is_empty()),
                    fuse_unknown: file.fuse_unk,
                    byte_fallback: file.byte_fallback,
                    ignore_merges: file.ignore_merges,
                })
            }
            ("Unigram", Some(scores)) => {
                Algorithm::Unigram(Unigram::new(scores, file.unk_id, file.byte_fallback)?)
            }
            ("WordLevel", None) => Algorithm::Words { unknown },
            (kind, _) => {
                return Err(format!(
                    "its model `{kind}` is not one of WordPiece, BPE, Unigram and WordLevel with a vocabulary of its kind"
                ));
            }
        };
        Ok(Self { numbers, algorithm })
    }

    /// The id of a piece.
    pub fn number(&self, piece: &str) -> Option<u32> {
        self.numbers.get(piece).copied()
    }

    /// One more than the largest id.
    pub fn size(&self) -> u32 {
        let largest = self.numbers.values().max();
        largest.map_or(0, |number| number.saturating_add(1))
    }

    /// The tokens of a piece; the error is a sentence about the text.
    pub fn encode(&self, piece: &[Ch], out: &mut Vec<Token>) -> Result<(), String> {
        let text: String = piece.iter().map(|ch| ch.c).collect();
        match &self.algorithm {
            Algorithm::WordPiece {
                unknown,
                prefix,
                max_chars,
            } => {
                self.word_pieces(piece, &text, (*unknown, prefix, *max_chars), out);
            }
            Algorithm::Words { unknown } => {
                let id = self.number(&text).or(*unknown);
                out.extend(id.map(|id| Token {
                    id,
                    from: 0,
                    to: piece.len(),
                }));
            }
            Algorithm::Bpe(bpe) => bpe.encode(&self.numbers, piece, &text, out),
            Algorithm::Unigram(unigram) => unigram.encode(&self.numbers, piece, &text, out)?,
        }
        Ok(())
    }

    fn word_pieces(
        &self,
        piece: &[Ch],
        text: &str,
        (unknown, prefix, max_chars): (u32, &str, usize),
        out: &mut Vec<Token>,
    ) {
        let begun = out.len();
        let whole = Token {
            id: unknown,
            from: 0,
            to: piece.len(),
        };
        if piece.len() > max_chars {
            out.push(whole);
            return;
        }
        // The start of each character.
        let mut places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        places.push(text.len());
        let mut from = 0;
        let mut wanted = String::new();
        while from < piece.len() {
            let found = (from + 1..=piece.len()).rev().find_map(|to| {
                wanted.clear();
                if from > 0 {
                    wanted.push_str(prefix);
                }
                wanted.push_str(&text[places[from]..places[to]]);
                Some(Token {
                    id: self.number(&wanted)?,
                    from,
                    to,
                })
            });
            let Some(token) = found else {
                out.truncate(begun);
                out.push(whole);
                return;
            };
            out.push(token);
            from = token.to;
        }
    }
}

struct Bpe {
    /// The merges, by two ids: the rank, and the resulting id.
    merges: Merges,
    unknown: Option<u32>,
    prefix: Option<String>,
    suffix: Option<String>,
    fuse_unknown: bool,
    byte_fallback: bool,
    ignore_merges: bool,
}

/// The merges, by two ids: the rank, and the resulting id.
type Merges = HashMap<(u32, u32), (u32, u32)>;

fn merge_table(
    merges: Vec<MergeFile>,
    numbers: &HashMap<String, u32>,
    prefix: Option<&str>,
) -> Result<Merges, String> {
    let mut table = HashMap::with_capacity(merges.len());
    for (merge, rank) in merges.iter().zip(0u32..) {
        let (a, b) = match merge {
            MergeFile::Pair(a, b) => (a.as_str(), b.as_str()),
            MergeFile::Text(text) => text
                .split_once(' ')
                .ok_or_else(|| format!("its merge {rank} is not two pieces"))?,
        };
        let number = |piece: &str| {
            numbers.get(piece).copied().ok_or_else(|| {
                format!("its merge {rank} needs `{piece}`, which is not in the vocabulary")
            })
        };
        let rest = prefix.map_or(b, |prefix| b.strip_prefix(prefix).unwrap_or(b));
        let merged = number(&format!("{a}{rest}"))?;
        table.insert((number(a)?, number(b)?), (rank, merged));
    }
    Ok(table)
}

#[derive(Clone, Copy)]
struct Symbol {
    token: Token,
    before: Option<usize>,
    after: Option<usize>,
    is_gone: bool,
}

impl Bpe {
    fn encode(
        &self,
        numbers: &HashMap<String, u32>,
        piece: &[Ch],
        text: &str,
        out: &mut Vec<Token>,
    ) {
        if self.ignore_merges
            && let Some(id) = numbers.get(text)
        {
            out.push(Token {
                id: *id,
                from: 0,
                to: piece.len(),
            });
            return;
        }
        let tokens = self.letters(numbers, piece);
        let mut symbols: Vec<Symbol> = tokens
            .iter()
            .enumerate()
            .map(|(at, token)| Symbol {
                token: *token,
                before: at.checked_sub(1),
                after: (at + 1 < tokens.len()).then_some(at + 1),
                is_gone: false,
            })
            .collect();
        // The merge of the lowest rank first, and of those the first in the text.
        let mut queue = BinaryHeap::new();
        let push = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], at: usize, next: usize| {
            let pair = (symbols[at].token.id, symbols[next].token.id);
            if let Some((rank, merged)) = self.merges.get(&pair) {
                queue.push(Reverse((*rank, at, *merged)));
            }
        };
        for next in 1..symbols.len() {
            push(&mut queue, &symbols, next - 1, next);
        }
        while let Some(Reverse((_, at, merged))) = queue.pop() {
            let Symbol {
                token,
                after: Some(next),
                is_gone: false,
                before,
            } = symbols[at]
            else {
                continue;
            };
            let right = symbols[next];
            let current = self.merges.get(&(token.id, right.token.id));
            if current.is_none_or(|(_, id)| *id != merged) {
                continue;
            }
            symbols[at].token = Token {
                id: merged,
                from: token.from,
                to: right.token.to,
            };
            symbols[at].after = right.after;
            symbols[next].is_gone = true;
            if let Some(after) = right.after {
                symbols[after].before = Some(at);
                push(&mut queue, &symbols, at, after);
            }
            if let Some(before) = before {
                push(&mut queue, &symbols, before, at);
            }
        }
        out.extend(symbols.iter().filter(|s| !s.is_gone).map(|s| s.token));
    }

    /// The tokens of single characters, before anything is merged.
    fn letters(&self, numbers: &HashMap<String, u32>, piece: &[Ch]) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::with_capacity(piece.len());
        let mut unknown: Option<Token> = None;
        let mut wanted = String::new();
        for (at, ch) in piece.iter().enumerate() {
            wanted.clear();
            if let Some(prefix) = self.prefix.as_deref().filter(|_| at > 0) {
                wanted.push_str(prefix);
            }
            wanted.push(ch.c);
            if let Some(suffix) = self.suffix.as_deref().filter(|_| at + 1 == piece.len()) {
                wanted.push_str(suffix);
            }
            let place = |id| Token {
                id,
                from: at,
                to: at + 1,
            };
            if let Some(id) = numbers.get(&wanted) {
                tokens.extend(unknown.take());
                tokens.push(place(*id));
                continue;
            }
            if self.byte_fallback
                && let Some(ids) = bytes_of(numbers, &wanted)
            {
                tokens.extend(ids.into_iter().map(place));
                continue;
            }
            let Some(id) = self.unknown else {
                continue;
            };
            match &mut unknown {
                Some(token) if self.fuse_unknown => token.to = at + 1,
                _ => tokens.extend(unknown.replace(place(id))),
            }
        }
        tokens.extend(unknown);
        tokens
    }
}

/// The ids of the pieces for a text's bytes, if there is one for each byte.
fn bytes_of(numbers: &HashMap<String, u32>, text: &str) -> Option<Vec<u32>> {
    let each = text
        .bytes()
        .map(|byte| numbers.get(&format!("<0x{byte:02X}>")).copied());
    each.collect()
}

struct Unigram {
    /// Pieces and their scores, by id.
    scores: Vec<(String, f64)>,
    /// The ids of the pieces, in the order of their bytes.
    sorted: Vec<u32>,
    unknown: Option<u32>,
    unknown_score: f64,
    byte_fallback: bool,
}

#[derive(Clone, Copy)]
struct Best {
    score: f64,
    from: usize,
    is_unknown: bool,
}

impl Unigram {
    fn new(
        scores: Vec<(String, f64)>,
        unknown: Option<u32>,
        byte_fallback: bool,
    ) -> Result<Self, String> {
        if unknown.is_some_and(|id| id as usize >= scores.len()) {
            return Err("its `unk_id` is not in the vocabulary".into());
        }
        if scores
            .iter()
            .any(|(piece, score)| !score.is_finite() || piece.len() > MAX_UNIGRAM_BYTES)
        {
            return Err(format!(
                "a piece of its vocabulary has a score that is not finite, or more than {MAX_UNIGRAM_BYTES} bytes"
            ));
        }
        let least = scores
            .iter()
            .map(|(_, score)| *score)
            .fold(f64::INFINITY, f64::min);
        let mut sorted: Vec<u32> = (0..scores.len() as u32).collect();
        sorted.sort_by_key(|number| scores[*number as usize].0.as_bytes());
        Ok(Self {
            sorted,
            unknown,
            unknown_score: least - UNKNOWN_PENALTY,
            byte_fallback,
            scores,
        })
    }

    fn bytes(&self, number: u32) -> &[u8] {
        self.scores[number as usize].0.as_bytes()
    }

    fn encode(
        &self,
        numbers: &HashMap<String, u32>,
        piece: &[Ch],
        text: &str,
        out: &mut Vec<Token>,
    ) -> Result<(), String> {
        let bytes = text.as_bytes();
        // The best way to each place of the text.
        let mut best: Vec<Option<Best>> = vec![None; bytes.len() + 1];
        for (at, c) in text.char_indices() {
            let so_far = match (at, best[at]) {
                (0, _) => 0.0,
                (_, Some(best)) => best.score,
                (_, None) => continue,
            };
            let width = c.len_utf8();
            let mut has_single = false;
            let mut left = self.sorted.as_slice();
            for (depth, byte) in bytes[at..].iter().enumerate() {
                let from = left.partition_point(|n| self.bytes(*n).get(depth) < Some(byte));
                let to = left.partition_point(|n| self.bytes(*n).get(depth) <= Some(byte));
                left = &left[from..to];
                let Some(&first) = left.first() else {
                    break;
                };
                if self.bytes(first).len() != depth + 1 {
                    continue;
                }
                // Of equal pieces the last one counts.
                let same = left.partition_point(|n| self.bytes(*n).len() == depth + 1);
                let number = left[same - 1];
                let score = so_far + self.scores[number as usize].1;
                let is_unknown = self.unknown == Some(number);
                reach(
                    &mut best[at + depth + 1],
                    Best {
                        score,
                        from: at,
                        is_unknown,
                    },
                );
                has_single |= depth + 1 == width;
            }
            if !has_single {
                let score = so_far + self.unknown_score;
                reach(
                    &mut best[at + width],
                    Best {
                        score,
                        from: at,
                        is_unknown: true,
                    },
                );
            }
        }
        // Backwards, with unknown neighbours joined.
        let mut parts: Vec<(usize, usize, bool)> = Vec::new();
        let mut end = bytes.len();
        while end > 0 {
            let Some(Best {
                from, is_unknown, ..
            }) = best[end]
            else {
                return Err("the text cannot be split into tokens".into());
            };
            match parts.last_mut() {
                Some((start, _, true)) if is_unknown => *start = from,
                _ => parts.push((from, end, is_unknown)),
            }
            end = from;
        }
        let mut chars = 0;
        for (from, to, _) in parts.into_iter().rev() {
            let part = &text[from..to];
            let count = part.chars().count();
            let place = |id| Token {
                id,
                from: chars,
                to: chars + count,
            };
            match numbers.get(part) {
                Some(id) => out.push(place(*id)),
                None => match bytes_of(numbers, part).filter(|_| self.byte_fallback) {
                    Some(ids) => out.extend(ids.into_iter().map(place)),
                    None => out.push(place(self.unknown.ok_or_else(|| {
                        "the text has characters that are not in the vocabulary, and the vocabulary has no unknown \
                         token".to_owned()
                    })?)),
                },
            }
            chars += count;
        }
        debug_assert_eq!(chars, piece.len());
        Ok(())
    }
}

fn reach(place: &mut Option<Best>, way: Best) {
    if place.is_none_or(|known| way.score > known.score) {
        *place = Some(way);
    }
}
