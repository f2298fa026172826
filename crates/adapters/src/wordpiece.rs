//! Tokenizes a text with BERT's uncased WordPiece. It removes control characters and accents, and turns capitals into small
//! letters. Ideographs and punctuation are words of their own. Each word becomes the longest pieces of the vocabulary, from
//! its beginning on, or the unknown piece.
//!
//! Follows the package `tokenizers` 0.22 (`BertNormalizer`, `BertPreTokenizer`, `WordPiece`) with one difference: a text never
//! becomes a special token. `[SEP]` in a caller's text is three words.
//! docs/decisions/0016 says why this is not that package.

use crate::tokenizer::normalize::{is_dropped, is_ideograph, is_punctuation};
use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory as Category, UnicodeGeneralCategory};

/// A word with more characters is unknown as a whole.
const MAX_WORD_CHARS: usize = 100;
/// The most pieces of a vocabulary. The configuration has no room for more.
const MAX_PIECES: usize = 1 << 20;
/// The prefix of pieces that continue a word.
const CONTINUES: &str = "##";

/// The pieces that a model knows, one per line. The id of a piece is its line, from 0.
pub struct Vocabulary {
    text: String,
    /// The place of each piece in the text.
    pieces: Vec<Range<u32>>,
    /// The numbers of the pieces that begin a word, in the order of their bytes.
    first: Vec<u32>,
    /// The numbers of the pieces that continue a word, in the order of their bytes.
    later: Vec<u32>,
    /// The id that fills shorter rows of a batch.
    pub padding: u32,
    /// The id of unknown words.
    unknown: u32,
    /// The id at the beginning of a text.
    pub begin: u32,
    /// The id at the end of a text.
    pub end: u32,
}

/// The ids of a text, or the first of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The first ids, as many as were asked for.
    pub ids: Vec<u32>,
    /// The number of all ids.
    pub count: usize,
}

impl Vocabulary {
    /// Parses the text of a vocabulary. The error is a sentence about the text.
    pub fn new(text: String) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        if u32::try_from(text.len()).is_err() {
            return Err("it is too long".into());
        }
        let mut at = 0;
        for (line, number) in text.split_inclusive('\n').zip(0u32..) {
            let piece = line.trim_end_matches(['\r', '\n']);
            let (numbers, skipped) = match piece.strip_prefix(CONTINUES) {
                Some(rest) if !rest.is_empty() => (&mut later, CONTINUES.len()),
                _ => (&mut first, 0),
            };
            if piece.is_empty() {
                return Err(format!("its line {} is empty", number + 1));
            }
            numbers.push(number);
            pieces.push((at + skipped) as u32..(at + piece.len()) as u32);
            at += line.len();
        }
        if pieces.len() > MAX_PIECES {
            return Err(format!("it has more than {MAX_PIECES} pieces"));
        }
        let mut vocabulary = Self {
            text,
            pieces,
            first: Vec::new(),
            later: Vec::new(),
            padding: 0,
            unknown: 0,
            begin: 0,
            end: 0,
        };
        for numbers in [&mut first, &mut later] {
            numbers.sort_by_key(|number| vocabulary.piece(*number));
            let twice = numbers
                .windows(2)
                .find(|pair| vocabulary.piece(pair[0]) == vocabulary.piece(pair[1]));
            if let Some(pair) = twice {
                return Err(format!(
                    "its lines {} and {} are the same",
                    pair[0].min(pair[1]) + 1,
                    pair[0].max(pair[1]) + 1
                ));
            }
        }
        (vocabulary.first, vocabulary.later) = (first, later);
        vocabulary.padding = vocabulary.special("[PAD]")?;
        vocabulary.unknown = vocabulary.special("[UNK]")?;
        vocabulary.begin = vocabulary.special("[CLS]")?;
        vocabulary.end = vocabulary.special("[SEP]")?;
        Ok(vocabulary)
    }

    /// The number of pieces, and of ids.
    pub fn size(&self) -> usize {
        self.pieces.len()
    }

    fn piece(&self, number: u32) -> &[u8] {
        let Range { start, end } = self.pieces[number as usize];
        &self.text.as_bytes()[start as usize..end as usize]
    }

    fn special(&self, name: &str) -> Result<u32, String> {
        self.first
            .binary_search_by_key(&name.as_bytes(), |number| self.piece(*number))
            .map(|at| self.first[at])
            .map_err(|_| format!("it has no `{name}`"))
    }

    /// The longest of some pieces that `rest` begins with: its length in bytes, and its number.
    fn longest(&self, pieces: &[u32], rest: &[u8]) -> Option<(usize, u32)> {
        let mut left = pieces;
        let mut found = None;
        // After each byte, `left` are the pieces that begin like `rest` up to there.
        for (depth, byte) in rest.iter().enumerate() {
            let from = left.partition_point(|n| self.piece(*n).get(depth) < Some(byte));
            let to = left.partition_point(|n| self.piece(*n).get(depth) <= Some(byte));
            left = &left[from..to];
            let Some(&shortest) = left.first() else {
                break;
            };
            if self.piece(shortest).len() == depth + 1 {
                found = Some((depth + 1, shortest));
            }
        }
        found
    }

    /// The first pieces of a text, and the number of all its pieces, so that a message can say how much too long it is.
    pub fn encode(&self, text: &str, most: usize) -> Encoded {
        let mut encoder = Encoder {
            vocabulary: self,
            most,
            word: String::new(),
            chars: 0,
            pieces: Vec::new(),
            encoded: Encoded {
                ids: Vec::new(),
                count: 0,
            },
        };
        let plain = text
            .chars()
            .filter(|c| !is_dropped(*c))
            .flat_map(|c| {
                let spaced = is_ideograph(c).then_some(' ');
                let c = if c.is_whitespace() { ' ' } else { c };
                spaced.into_iter().chain([c]).chain(spaced)
            })
            .nfd()
            .filter(|c| c.general_category() != Category::NonspacingMark)
            .flat_map(char::to_lowercase);
        for c in plain {
            if c.is_whitespace() {
                encoder.end_word();
            } else if is_punctuation(c) {
                encoder.end_word();
                encoder.push(c);
                encoder.end_word();
            } else {
                encoder.push(c);
            }
        }
        encoder.end_word();
        encoder.encoded
    }
}

struct Encoder<'v> {
    vocabulary: &'v Vocabulary,
    most: usize,
    /// The word so far, without the characters that make it too long.
    word: String,
    chars: usize,
    /// The pieces of one word.
    pieces: Vec<u32>,
    encoded: Encoded,
}

impl Encoder<'_> {
    fn push(&mut self, c: char) {
        self.chars += 1;
        if self.chars <= MAX_WORD_CHARS {
            self.word.push(c);
        }
    }

    fn end_word(&mut self) {
        if self.chars == 0 {
            return;
        }
        let whole = self.chars <= MAX_WORD_CHARS && self.split();
        if !whole {
            self.pieces.clear();
            self.pieces.push(self.vocabulary.unknown);
        }
        let room = self.most.saturating_sub(self.encoded.ids.len());
        self.encoded.count += self.pieces.len();
        self.encoded.ids.extend(self.pieces.iter().take(room));
        self.pieces.clear();
        self.word.clear();
        self.chars = 0;
    }

    /// Splits the word into pieces; false if the vocabulary lacks a piece for a part of it.
    fn split(&mut self) -> bool {
        let mut rest = self.word.as_bytes();
        while !rest.is_empty() {
            let pieces = match self.pieces.is_empty() {
                true => &self.vocabulary.first,
                false => &self.vocabulary.later,
            };
            let Some((length, number)) = self.vocabulary.longest(pieces, rest) else {
                return false;
            };
            self.pieces.push(number);
            rest = &rest[length..];
        }
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::fmt::Write;

    /// The tokens that the package `tokenizers` made of some texts, and the pieces of the vocabulary that occur in them.
    #[derive(Deserialize)]
    struct Table {
        size: usize,
        pieces: Vec<(u32, String)>,
        texts: Vec<(String, Vec<u32>)>,
    }

    fn table() -> Table {
        serde_json::from_str(include_str!("../tests/data/wordpiece.json")).unwrap()
    }

    /// A vocabulary of the full size, with the pieces of the table in their places.
    pub(crate) fn vocabulary() -> String {
        let Table { size, pieces, .. } = table();
        let mut lines: Vec<String> = (0..size).map(|n| format!("\u{10ffff}{n}")).collect();
        for (number, piece) in pieces {
            lines[number as usize] = piece;
        }
        lines.into_iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        })
    }

    fn small(lines: &str) -> Result<Vocabulary, String> {
        Vocabulary::new(format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n{lines}"))
    }

    #[test]
    fn texts_become_the_numbers_that_the_package_tokenizers_gives_them() {
        let vocabulary = Vocabulary::new(vocabulary()).unwrap();
        let Table { texts, .. } = table();
        assert!(texts.len() > 60);
        for (text, ids) in texts {
            let encoded = vocabulary.encode(&text, usize::MAX);
            assert_eq!(encoded.ids, ids, "{text:?}");
            assert_eq!(encoded.count, ids.len());
        }
    }

    #[test]
    fn the_longest_piece_is_taken_and_a_word_without_pieces_is_unknown() {
        let vocabulary = small("a\nab\nabcd\n##c\n##cd\n##d\n").unwrap();
        let ids = |text| vocabulary.encode(text, 100).ids;
        assert_eq!(ids("ab"), [5]);
        assert_eq!(ids("abc"), [5, 7]);
        assert_eq!(ids("abcd"), [6]);
        assert_eq!(ids("abcdd"), [6, 9]);
        assert_eq!(ids("abcdcdd"), [6, 8, 9]);
        assert_eq!(ids("abx a"), [1, 4]);
        assert!(ids("").is_empty());
        assert_eq!(ids("##c [SEP]"), [1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn ids_beyond_the_limit_are_counted_and_not_kept() {
        let vocabulary = small("a\n##a\n").unwrap();
        let word = "a".repeat(MAX_WORD_CHARS);
        let encoded = vocabulary.encode(&word, 10);
        assert_eq!((encoded.ids.len(), encoded.count), (10, MAX_WORD_CHARS));
        let encoded = vocabulary.encode(&format!("{word}a a"), 10);
        assert_eq!(encoded.ids, [1, 4]);
        let encoded = vocabulary.encode(&"a ".repeat(100_000), 3);
        assert_eq!((encoded.ids.len(), encoded.count), (3, 100_000));
    }

    #[test]
    fn a_vocabulary_that_lacks_something_is_refused() {
        assert!(Vocabulary::new(String::new()).is_err());
        assert!(Vocabulary::new("[PAD]\n[UNK]\n[CLS]\n".into()).is_err());
        assert!(small("a\n\nb\n").is_err_and(|e| e.contains("line 6")));
        assert!(small("a\nb\na\n").is_err_and(|e| e.contains("5 and 7")));
        assert!(small("a\n##\n##a\n").is_ok());
        let windows = Vocabulary::new("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nab\r\n".into()).unwrap();
        assert_eq!(windows.encode("ab", 9).ids, [4]);
        assert_eq!(windows.size(), 5);
    }

    proptest! {
        #[test]
        fn any_text_becomes_numbers_of_the_vocabulary(text in ".{0,200}") {
            let vocabulary = small("a\nb\n##a\n1\n.\n").unwrap();
            let encoded = vocabulary.encode(&text, 50);
            prop_assert!(encoded.ids.len() <= 50 && encoded.ids.len() <= encoded.count);
            prop_assert!(encoded.ids.iter().all(|id| (*id as usize) < vocabulary.size()));
        }
    }
}
