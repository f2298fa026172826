//! Turns sentences into the input of a model like BERT, and its outputs into vectors. The input is a batch of word pieces,
//! padded to the longest text. A vector is the normalised mean of the tokens' vectors.
//!
//! A text with more tokens than the model can read is refused: a vector of its beginning would look like one of the whole
//! text. It is truncated only if the caller or the contract asks for it. A text without tokens is refused too.

use crate::outputs::{config, floats, json};
use crate::wordpiece::Vocabulary;
use crate::{
    Adapter, AdapterAnswer, AdapterRefusal, ContentRefusal, Item, Part, RefusalKind, Step, each,
    only_part,
};
use penstock_tensor::{Datatype, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// Largest `max_tokens` of a configuration. Such models read 512 tokens.
const MOST_TOKENS: usize = 8_192;
/// The special tokens around a text.
const AROUND: usize = 2;
/// The most numbers of the vectors of one call: 64 MiB. The model returns a vector for each token, padding included.
const MAX_OUTPUT_NUMBERS: usize = 16 << 20;
/// The smallest divisor in the normalisation of a vector.
const LEAST: f64 = 1e-12;
/// The name of the output with a vector for each token.
const OUTPUT: &str = "last_hidden_state";

/// The function that makes the sentence's vector of the tokens' vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    /// The mean of all of them.
    #[default]
    Mean,
    /// The vector of the first token.
    Cls,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    pooling: Pooling,
    /// Whether vectors are normalised to length 1.
    #[serde(default = "yes")]
    normalize: bool,
    /// The most tokens of a text, special tokens included.
    max_tokens: usize,
    /// The numbers of a vector, which the model's output must have.
    dimensions: usize,
    /// The vocabulary, one piece per line.
    vocabulary: String,
}

fn yes() -> bool {
    true
}

/// The adapter, opened with a configuration.
pub struct Sentence {
    pooling: Pooling,
    normalize: bool,
    max_tokens: usize,
    dimensions: usize,
    vocabulary: Vocabulary,
    /// The number of tokens of each item of the requested run.
    running: RefCell<Vec<usize>>,
}

#[derive(Serialize)]
struct Embedding<'a> {
    embedding: &'a [f32],
}

impl Adapter for Sentence {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let config: Config = config(name, bytes)?;
        let wrong = |e: String| format!("the configuration of adapter `{name}` is wrong: {e}");
        if !(AROUND + 1..=MOST_TOKENS).contains(&config.max_tokens) {
            return Err(wrong(format!(
                "`max_tokens` must be {} to {MOST_TOKENS}",
                AROUND + 1
            )));
        }
        let most_dimensions = MAX_OUTPUT_NUMBERS / config.max_tokens;
        if !(1..=most_dimensions).contains(&config.dimensions) {
            return Err(wrong(format!(
                "`dimensions` must be 1 to {most_dimensions}"
            )));
        }
        Ok(Self {
            pooling: config.pooling,
            normalize: config.normalize,
            max_tokens: config.max_tokens,
            dimensions: config.dimensions,
            vocabulary: Vocabulary::new(config.vocabulary)
                .map_err(|e| wrong(format!("the vocabulary cannot be used: {e}")))?,
            running: RefCell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        self.begin(items, None)
    }

    fn prepare_cut(&self, items: &[Item<'_>], tokens: u32) -> Result<Step, AdapterRefusal> {
        self.begin(items, Some(tokens as usize))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let running = self.running.take();
        let Some(longest) = running.iter().copied().max() else {
            return Err("outputs were given, but the adapter requested no run".into());
        };
        let shape = [running.len() as u64, longest as u64, self.dimensions as u64];
        let vectors = floats(&outputs, Some(OUTPUT), &shape)?;
        let answers = vectors
            .chunks_exact(longest * self.dimensions)
            .zip(running)
            .map(|(vectors, tokens)| {
                let embedding = self.pooled(&vectors[..tokens * self.dimensions]);
                Ok(AdapterAnswer {
                    text: json(&Embedding {
                        embedding: &embedding,
                    })?,
                    units: tokens as u64,
                })
            });
        answers.collect::<Result<_, String>>().map(Step::Answers)
    }
}

impl Sentence {
    /// Turns items into tensors. Longer ones are truncated to `cut_to` tokens if it is given.
    fn begin(&self, items: &[Item<'_>], cut_to: Option<usize>) -> Result<Step, AdapterRefusal> {
        let mut longest = 0;
        let texts = each(items, |item| {
            let tokens = self.tokens(item, cut_to)?;
            longest = longest.max(tokens.len());
            Ok(tokens)
        })?;
        if texts.is_empty() {
            return Ok(Step::Answers(Vec::new()));
        }
        let room = MAX_OUTPUT_NUMBERS / (longest * self.dimensions);
        if texts.len() > room {
            return Err(AdapterRefusal {
                item: room as u32,
                part: None,
                kind: RefusalKind::InvalidContent(format!(
                    "A call whose longest text has {longest} tokens takes at most {room} texts. Send fewer texts per \
                     call."
                )),
            });
        }
        let cells = texts.len() * longest * size_of::<i64>();
        let mut ids = Vec::with_capacity(cells);
        let mut mask = Vec::with_capacity(cells);
        for tokens in &texts {
            let filled = tokens.iter().map(|id| (*id, 1i64));
            let padding = std::iter::repeat_n((self.vocabulary.padding, 0), longest - tokens.len());
            for (id, shown) in filled.chain(padding) {
                ids.extend_from_slice(&i64::from(id).to_le_bytes());
                mask.extend_from_slice(&shown.to_le_bytes());
            }
        }
        let shape = vec![texts.len() as u64, longest as u64];
        self.running.replace(texts.iter().map(Vec::len).collect());
        let input = |name: &str, data| Tensor {
            name: name.into(),
            datatype: Datatype::Int64,
            shape: shape.clone(),
            data,
        };
        Ok(Step::Tensors(vec![
            input("input_ids", ids.into()),
            input("attention_mask", mask.into()),
            input("token_type_ids", vec![0; cells].into()),
        ]))
    }

    /// The tokens of an item, special tokens included.
    fn tokens(&self, item: &Item<'_>, cut_to: Option<usize>) -> Result<Vec<u32>, ContentRefusal> {
        let refused = |text: String| (Some(0), RefusalKind::InvalidContent(text));
        let vocabulary = &self.vocabulary;
        let places = self.max_tokens - AROUND;
        let most = cut_to.map_or(places, |cut_to| cut_to.saturating_sub(AROUND).min(places));
        if most == 0 {
            return Err(refused(format!(
                "A text cannot be truncated to {AROUND} tokens or fewer: {AROUND} special tokens always surround it."
            )));
        }
        let around = |inner: &[u32]| {
            let mut tokens = Vec::with_capacity(inner.len() + AROUND);
            tokens.push(vocabulary.begin);
            tokens.extend_from_slice(inner);
            tokens.push(vocabulary.end);
            tokens
        };
        // Clients search for these words to recognise a text that is too long.
        let too_long = |count: usize| {
            let text = format!(
                "The text has {} tokens, including the 2 special tokens around it; this model's maximum context \
                 length is {} tokens. Send it in pieces.",
                count + AROUND,
                self.max_tokens
            );
            (Some(0), RefusalKind::TooLong(text))
        };
        match only_part(item, "a text, or its tokens")? {
            Part::Text(text) => {
                let encoded = vocabulary.encode(text, most);
                match encoded.count {
                    0 => Err(refused("The text is empty.".into())),
                    count if count > most && cut_to.is_none() => Err(too_long(count)),
                    _ => Ok(around(&encoded.ids)),
                }
            }
            Part::Tokens(tokens) => {
                let wrong = tokens
                    .iter()
                    .position(|id| *id as usize >= vocabulary.size());
                if let Some(at) = wrong {
                    return Err(refused(format!(
                        "Token {} at position {at} is not in the model's vocabulary of {} pieces, 0 to {}.",
                        tokens[at],
                        vocabulary.size(),
                        vocabulary.size() - 1
                    )));
                }
                // The client may have added the special tokens already.
                let inner = match tokens {
                    [first, inner @ .., last]
                        if *first == vocabulary.begin && *last == vocabulary.end =>
                    {
                        inner
                    }
                    _ => tokens,
                };
                match inner.len() {
                    0 => Err(refused("The list of tokens is empty.".into())),
                    count if count > most && cut_to.is_none() => Err(too_long(count)),
                    count => Ok(around(&inner[..count.min(most)])),
                }
            }
            Part::Image(_) | Part::Audio(_) | Part::Bytes(_) => Err((
                Some(0),
                RefusalKind::UnsupportedMediaType(
                    "This model takes text, as text/plain, or its tokens.".into(),
                ),
            )),
        }
    }

    /// The vector of a sentence.
    fn pooled(&self, vectors: &[f32]) -> Vec<f32> {
        let vectors = vectors.chunks_exact(self.dimensions);
        let count = match self.pooling {
            Pooling::Mean => vectors.len(),
            Pooling::Cls => 1,
        };
        let mut sums = vec![0f64; self.dimensions];
        for vector in vectors.take(count) {
            for (sum, value) in sums.iter_mut().zip(vector) {
                *sum += f64::from(*value);
            }
        }
        let length = match self.normalize {
            true => sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt(),
            false => count as f64,
        };
        sums.iter()
            .map(|sum| (sum / length.max(LEAST)) as f32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use crate::outputs::tensor;
    use serde_json::{Value, json};

    fn open(changes: Value) -> Result<Sentence, String> {
        let mut config = json!({
            "max_tokens": 6, "dimensions": 2,
            "vocabulary": "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nworld\n!\n",
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Sentence::open("sentence", config.to_string().as_bytes())
    }

    fn sentence() -> Sentence {
        open(json!({})).unwrap()
    }

    fn text(text: &str) -> Item<'_> {
        Item {
            parts: vec![Part::Text(text)],
        }
    }

    fn tokens(tokens: &[u32]) -> Item<'_> {
        Item {
            parts: vec![Part::Tokens(tokens)],
        }
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        let (chunks, _) = tensor.data.as_chunks::<8>();
        chunks.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    fn refused(item: Item<'_>) -> String {
        let refusal = sentence().prepare(&[text("hello"), item]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (1, Some(0)));
        match refusal.kind {
            RefusalKind::InvalidContent(text) => text,
            RefusalKind::TooLong(text) => format!("too long: {text}"),
            RefusalKind::UnsupportedMediaType(text) => format!("415: {text}"),
        }
    }

    #[test]
    fn texts_are_padded_to_the_longest_and_averaged_under_the_mask() {
        let sentence = sentence();
        let step = sentence.prepare(&[text("Hello, wörld!"), tokens(&[4]), text("world")]);
        let Ok(Step::Tensors(tensors)) = step else {
            panic!("{step:?}");
        };
        let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["input_ids", "attention_mask", "token_type_ids"]);
        assert!(
            tensors
                .iter()
                .all(|t| t.is_consistent() && t.shape == [3, 6])
        );
        assert_eq!(
            numbers(&tensors[0]),
            [2, 4, 1, 5, 6, 3, 2, 4, 3, 0, 0, 0, 2, 5, 3, 0, 0, 0]
        );
        assert_eq!(
            numbers(&tensors[1]),
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0]
        );
        let mut vectors = vec![9.0f32; 36];
        vectors[..12]
            .copy_from_slice(&[3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
        vectors[12..18].copy_from_slice(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        vectors[24..30].fill(0.0);
        let step = sentence.advance(vec![tensor(OUTPUT, vec![3, 6, 2], &vectors)]);
        let Ok(Step::Answers(answers)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(answers[0].text, r#"{"embedding":[0.6,0.8]}"#);
        assert_eq!(answers[1].text, r#"{"embedding":[1.0,0.0]}"#);
        // No direction at all, and still numbers.
        assert_eq!(answers[2].text, r#"{"embedding":[0.0,0.0]}"#);
        let units: Vec<u64> = answers.iter().map(|a| a.units).collect();
        assert_eq!(units, [6, 3, 3]);
    }

    #[test]
    fn pooling_and_length_are_as_the_configuration_says() {
        for (changes, wanted) in [
            (json!({"pooling": "cls"}), "[1.0,0.0]"),
            (json!({"pooling": "cls", "normalize": false}), "[3.0,0.0]"),
            (json!({"normalize": false}), "[1.0,2.0]"),
        ] {
            let sentence = open(changes).unwrap();
            assert!(sentence.prepare(&[text("hello")]).is_ok());
            let output = tensor(OUTPUT, vec![1, 3, 2], &[3.0, 0.0, 0.0, 3.0, 0.0, 3.0]);
            let Ok(Step::Answers(answers)) = sentence.advance(vec![output]) else {
                panic!("no answers");
            };
            assert_eq!(answers[0].text, format!("{{\"embedding\":{wanted}}}"));
        }
    }

    #[test]
    fn tokens_may_have_what_stands_around_them_already() {
        for given in [&[4, 5][..], &[2, 4, 5, 3]] {
            let Ok(Step::Tensors(tensors)) = sentence().prepare(&[tokens(given)]) else {
                panic!("no tensors");
            };
            assert_eq!(numbers(&tensors[0]), [2, 4, 5, 3]);
        }
    }

    #[test]
    fn a_text_is_cut_at_its_end_where_that_is_asked_for() {
        let cut = |item: Item<'_>, tokens: u32| {
            let Ok(Step::Tensors(tensors)) = sentence().prepare_cut(&[item], tokens) else {
                panic!("no tensors");
            };
            numbers(&tensors[0])
        };
        let long = "hello hello hello world world world";
        assert_eq!(cut(text(long), u32::MAX), [2, 4, 4, 4, 5, 3]);
        assert_eq!(cut(text(long), 6), [2, 4, 4, 4, 5, 3]);
        assert_eq!(cut(text(long), 3), [2, 4, 3]);
        assert_eq!(cut(text("world"), 3), [2, 5, 3]);
        assert_eq!(
            cut(tokens(&[4, 5, 4, 5, 4, 5]), u32::MAX),
            [2, 4, 5, 4, 5, 3]
        );
        assert_eq!(cut(tokens(&[2, 4, 5, 4, 5, 4, 3]), 4), [2, 4, 5, 3]);
        for tokens in [0, 1, 2] {
            assert!(sentence().prepare_cut(&[text("hello")], tokens).is_err());
        }
        // Nothing else passes for being cut.
        assert!(sentence().prepare_cut(&[text("")], u32::MAX).is_err());
    }

    #[test]
    fn content_that_the_model_cannot_use_is_refused_with_its_place() {
        let long = refused(text("hello hello hello world world"));
        assert!(
            long.starts_with("too long: The text has 7 tokens"),
            "{long}"
        );
        let long = refused(tokens(&[4; 5]));
        assert!(
            long.contains("this model's maximum context length is 6 tokens"),
            "{long}"
        );
        assert!(refused(text("")).contains("empty"));
        assert!(refused(text(" \n\u{200b} ")).contains("empty"));
        assert!(refused(tokens(&[])).contains("list of tokens is empty"));
        assert!(refused(tokens(&[2, 3])).contains("list of tokens is empty"));
        assert!(refused(tokens(&[4, 7])).contains("Token 7 at position 1"));
        assert!(refused(tokens(&[u32::MAX])).contains("0 to 6"));
        let blob = Blob {
            media_type: Some("image/png"),
            body: b"hello",
        };
        for part in [Part::Image(blob), Part::Audio(blob), Part::Bytes(blob)] {
            let item = Item { parts: vec![part] };
            assert!(refused(item).starts_with("415"));
        }
    }

    #[test]
    fn a_call_has_room_for_as_many_vectors_as_fit() {
        let wide = open(json!({"dimensions": 1 << 21})).unwrap();
        assert!(wide.prepare(&[text("hello"), text("hello")]).is_ok());
        let refusal = wide
            .prepare(&[text("hello"), text("hello"), text("hello")])
            .unwrap_err();
        assert_eq!((refusal.item, refusal.part), (2, None));
    }

    #[test]
    fn outputs_and_configurations_that_do_not_fit_are_errors_and_no_panic() {
        let sentence = sentence();
        let good = || tensor(OUTPUT, vec![1, 3, 2], &[0.0; 6]);
        assert!(sentence.advance(vec![good()]).is_err(), "nothing runs");
        for outputs in [
            vec![],
            vec![tensor("other", vec![1, 3, 2], &[0.0; 6])],
            vec![tensor(OUTPUT, vec![1, 2, 3], &[0.0; 6])],
            vec![tensor(OUTPUT, vec![1, 3, 2], &[f32::INFINITY; 6])],
        ] {
            assert!(sentence.prepare(&[text("hello")]).is_ok());
            assert!(sentence.advance(outputs).is_err());
        }
        for changes in [
            json!({"max_tokens": 2}),
            json!({"max_tokens": 100_000}),
            json!({"dimensions": 0}),
            json!({"dimensions": 1u64 << 40}),
            json!({"vocabulary": "a\nb\n"}),
            json!({"pooling": "max"}),
            json!({"more": 1}),
        ] {
            assert!(open(changes.clone()).is_err(), "{changes}");
        }
    }
}
