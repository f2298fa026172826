//! Turns texts and pairs of texts into the input of a model with a `tokenizer.json`, and its outputs into an answer: a vector,
//! classes, a relevance score of two texts, or entities within the text.
//!
//! A text with more tokens than the model can read is refused. It is truncated if the caller or the contract asks for it.

use crate::outputs::{classes, config, floats, json, softmax};
use crate::tokenizer::{Row, Tokenizer, TokenizerFile, Truncation, Unencodable};
use crate::{
    Adapter, AdapterAnswer, AdapterRefusal, ContentRefusal, Item, Part, RefusalKind, Step, each,
};
use penstock_tensor::{Datatype, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Largest `max_tokens` of a configuration.
const MOST_TOKENS: usize = 32_768;
/// The most numbers of one run's output, 64 MiB.
const MAX_OUTPUT_NUMBERS: usize = 16 << 20;
/// The most labels of a model. Every answer repeats them.
const MAX_LABELS: usize = 1_024;
/// The smallest divisor in the normalisation of a vector.
const LEAST: f64 = 1e-12;

/// The names of the adapters in this file.
pub const EMBEDDING: &str = "text-embedding";
/// Classes of a text, or of a pair.
pub const CLASSIFICATION: &str = "text-classification";
/// A score of a pair.
pub const CROSS_ENCODER: &str = "cross-encoder";
/// The adapter that finds entities in a text.
pub const TOKENS: &str = "token-classification";

/// The function that makes scores of the model's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    /// They sum to 1: the classes exclude one another.
    Softmax,
    /// Each is between 0 and 1: the classes are independent.
    Sigmoid,
    /// The outputs are scores already.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    /// The mean of the tokens' vectors.
    #[default]
    Mean,
    /// The vector of the first token.
    Cls,
    /// The vector of the last token.
    Last,
    /// The model gives one vector for each text.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Aggregation {
    /// Neighbours with the same tag are one entity.
    #[default]
    Simple,
    /// Each token with a tag is an entity of its own.
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The content of `tokenizer.json`.
    tokenizer: TokenizerFile,
    /// The content of a `config.json` as transformers writes it.
    #[serde(default)]
    model_config: ModelConfig,
    /// The most tokens of a text or pair, special tokens included.
    max_tokens: usize,
    #[serde(default = "usual_inputs")]
    inputs: Vec<String>,
    output: Option<String>,
    labels: Option<Vec<String>>,
    function: Option<Function>,
    #[serde(default)]
    truncation: Truncation,
    #[serde(default)]
    pooling: Pooling,
    #[serde(default = "crate::tokenizer::chars::yes")]
    normalize: bool,
    dimensions: Option<usize>,
    #[serde(default)]
    aggregation: Aggregation,
    #[serde(default = "outside")]
    ignore_labels: Vec<String>,
}

/// The members of a `config.json` that are used.
#[derive(Default, Deserialize)]
struct ModelConfig {
    id2label: Option<BTreeMap<String, String>>,
    problem_type: Option<String>,
}

fn usual_inputs() -> Vec<String> {
    ["input_ids", "attention_mask", "token_type_ids"]
        .map(str::to_owned)
        .into()
}

fn outside() -> Vec<String> {
    vec!["O".to_owned()]
}

enum Head {
    Embedding {
        pooling: Pooling,
        normalize: bool,
        dimensions: usize,
    },
    Classes {
        labels: Vec<String>,
        function: Function,
    },
    Score {
        function: Function,
    },
    Entities {
        labels: Vec<String>,
        ignored: Vec<String>,
        aggregation: Aggregation,
    },
}

/// An item of the requested run.
struct Running {
    row: Row,
    /// The text; kept only if an answer repeats parts of it.
    text: String,
}

/// The adapter, opened with a configuration.
pub struct Text {
    tokenizer: Tokenizer,
    max_tokens: usize,
    inputs: Vec<String>,
    output: Option<String>,
    truncation: Truncation,
    head: Head,
    running: RefCell<Vec<Running>>,
}

#[derive(Serialize)]
struct Embedding<'a> {
    embedding: &'a [f32],
}

#[derive(Serialize)]
struct Scored {
    score: f32,
}

#[derive(Serialize)]
struct Entities<'a> {
    entities: Vec<Entity<'a>>,
}

/// A part of a text: characters `start` to `end`, without `end`.
#[derive(Serialize)]
struct Entity<'a> {
    entity_group: &'a str,
    score: f32,
    word: String,
    start: u32,
    end: u32,
}

/// The labels of the configuration or of the model's own file.
fn labels(own: Option<Vec<String>>, file: &ModelConfig) -> Result<Vec<String>, String> {
    let labels = match (own, &file.id2label) {
        (Some(labels), _) => labels,
        (None, Some(by_id)) => (0..by_id.len())
            .map(|id| {
                let label = by_id.get(&id.to_string()).cloned();
                label.ok_or_else(|| format!("`id2label` of `model_config` has no `{id}`"))
            })
            .collect::<Result<_, _>>()?,
        (None, None) => {
            return Err("there are no labels; write `labels`, or name the model's config.json as `model_config` under [adapter]".into());
        }
    };
    if labels.is_empty() || labels.len() > MAX_LABELS {
        return Err(format!("`labels` must have 1 to {MAX_LABELS} entries"));
    }
    let mut sorted: Vec<&String> = labels.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the label `{}` occurs twice", pair[0])),
        None => Ok(labels),
    }
}

impl Head {
    fn new(name: &str, config: &mut Config) -> Result<Self, String> {
        let multi =
            config.model_config.problem_type.as_deref() == Some("multi_label_classification");
        Ok(match name {
            EMBEDDING => {
                let most = MAX_OUTPUT_NUMBERS / config.max_tokens;
                let dimensions = config.dimensions.filter(|d| (1..=most).contains(d));
                Self::Embedding {
                    pooling: config.pooling,
                    normalize: config.normalize,
                    dimensions: dimensions.ok_or(format!("`dimensions` must be 1 to {most}"))?,
                }
            }
            CLASSIFICATION => {
                let labels = labels(config.labels.take(), &config.model_config)?;
                // As in transformers: a softmax of a single number is meaningless.
                let usual = if multi || labels.len() == 1 {
                    Function::Sigmoid
                } else {
                    Function::Softmax
                };
                Self::Classes {
                    labels,
                    function: config.function.unwrap_or(usual),
                }
            }
            CROSS_ENCODER => match config.function.unwrap_or(Function::Sigmoid) {
                Function::Softmax => {
                    return Err("`function` of one score is `sigmoid` or `none`".into());
                }
                function => Self::Score { function },
            },
            _ => Self::Entities {
                labels: labels(config.labels.take(), &config.model_config)?,
                ignored: std::mem::take(&mut config.ignore_labels),
                aggregation: config.aggregation,
            },
        })
    }

    /// Numbers of the output for each token, or for each text.
    fn width(&self) -> (usize, bool) {
        match self {
            Self::Embedding {
                pooling: Pooling::None,
                dimensions,
                ..
            } => (*dimensions, false),
            Self::Embedding { dimensions, .. } => (*dimensions, true),
            Self::Classes { labels, .. } => (labels.len(), false),
            Self::Score { .. } => (1, false),
            Self::Entities { labels, .. } => (labels.len(), true),
        }
    }
}

impl Adapter for Text {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let mut config: Config = config(name, bytes)?;
        let wrong = |e: String| format!("the configuration of adapter `{name}` is wrong: {e}");
        let head = match config.max_tokens {
            1..=MOST_TOKENS => Head::new(name, &mut config).map_err(wrong)?,
            _ => return Err(wrong(format!("`max_tokens` must be 1 to {MOST_TOKENS}"))),
        };
        if config.inputs.is_empty() || config.inputs.len() > INPUTS.len() {
            return Err(wrong(format!(
                "`inputs` must name 1 to {} inputs",
                INPUTS.len()
            )));
        }
        let tokenizer = Tokenizer::new(config.tokenizer)
            .map_err(|e| wrong(format!("the tokenizer cannot be used: {e}")))?;
        let around = tokenizer.around(true).max(tokenizer.around(false));
        if config.max_tokens <= around {
            return Err(wrong(format!(
                "`max_tokens` must be above {around}, the number of special tokens around a text"
            )));
        }
        Ok(Self {
            tokenizer,
            max_tokens: config.max_tokens,
            inputs: config.inputs,
            output: config.output,
            truncation: config.truncation,
            head,
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
        let Some(longest) = running.iter().map(|r| r.row.ids.len()).max() else {
            return Err("outputs were given, but the adapter requested no run".into());
        };
        let (width, each_token) = self.head.width();
        let rows = running.len() as u64;
        let output = self.output.as_deref();
        let numbers = match each_token {
            true => floats(&outputs, output, &[rows, longest as u64, width as u64])?,
            // Some models omit an axis of length 1.
            false => match floats(&outputs, output, &[rows, width as u64]) {
                Err(_) if width == 1 => floats(&outputs, output, &[rows])?,
                numbers => numbers?,
            },
        };
        let per_row = if each_token { longest * width } else { width };
        let answers = numbers
            .chunks_exact(per_row)
            .zip(&running)
            .map(|(numbers, running)| {
                let tokens = running.row.ids.len();
                Ok(AdapterAnswer {
                    text: self.answer(
                        if each_token {
                            &numbers[..tokens * width]
                        } else {
                            numbers
                        },
                        running,
                    )?,
                    units: tokens as u64,
                })
            });
        answers.collect::<Result<_, String>>().map(Step::Answers)
    }
}

/// The inputs of such models, in the order of the configuration.
const INPUTS: [&str; 3] = [
    "the numbers",
    "which of them count",
    "which text they are of",
];

impl Text {
    fn begin(&self, items: &[Item<'_>], cut_to: Option<usize>) -> Result<Step, AdapterRefusal> {
        let keeps_text = matches!(self.head, Head::Entities { .. });
        let running = each(items, |item| {
            let (row, text) = self.row(item, cut_to)?;
            let text = if keeps_text {
                text.to_owned()
            } else {
                String::new()
            };
            Ok(Running { row, text })
        })?;
        let Some(longest) = running.iter().map(|r| r.row.ids.len()).max() else {
            return Ok(Step::Answers(Vec::new()));
        };
        let (width, each_token) = self.head.width();
        let per_row = if each_token {
            longest * width
        } else {
            longest.max(width)
        };
        let room = (MAX_OUTPUT_NUMBERS / per_row.max(1)).max(1);
        if running.len() > room {
            return Err(AdapterRefusal {
                item: room as u32,
                part: None,
                kind: RefusalKind::InvalidContent(format!(
                    "A call whose longest text has {longest} tokens takes at most {room} texts. Send fewer texts per \
                     call."
                )),
            });
        }
        let cells = running.len() * longest * size_of::<i64>();
        let mut columns: Vec<Vec<u8>> = self
            .inputs
            .iter()
            .map(|_| Vec::with_capacity(cells))
            .collect();
        for Running { row, .. } in &running {
            for at in 0..longest {
                let values = match row.ids.get(at) {
                    Some(id) => [*id, 1, row.types[at]],
                    None => [self.tokenizer.padding, 0, self.tokenizer.padding_type],
                };
                for (column, value) in columns.iter_mut().zip(values) {
                    column.extend_from_slice(&i64::from(value).to_le_bytes());
                }
            }
        }
        let shape = vec![running.len() as u64, longest as u64];
        self.running.replace(running);
        let tensors = self.inputs.iter().zip(columns).map(|(name, data)| Tensor {
            name: name.clone(),
            datatype: Datatype::Int64,
            shape: shape.clone(),
            data: data.into(),
        });
        Ok(Step::Tensors(tensors.collect()))
    }

    /// The row of an item, and its first text.
    fn row<'i>(
        &self,
        item: &Item<'i>,
        cut_to: Option<usize>,
    ) -> Result<(Row, &'i str), ContentRefusal> {
        let takes_pairs = matches!(self.head, Head::Classes { .. } | Head::Score { .. });
        let invalid =
            |part: u32, text: &str| (Some(part), RefusalKind::InvalidContent(text.to_owned()));
        let (first, second) = match (item.parts.as_slice(), &self.head) {
            ([Part::Tokens(ids)], Head::Embedding { .. }) => {
                return Ok((self.tokens(ids, cut_to)?, ""));
            }
            ([Part::Text(_)], Head::Score { .. }) => {
                return Err(invalid(0, "This model scores pairs: send two texts."));
            }
            ([Part::Text(text)], _) => (*text, None),
            ([Part::Text(first), Part::Text(second)], _) if takes_pairs => (*first, Some(*second)),
            (parts, _) => {
                let takes = if takes_pairs {
                    "one text or two"
                } else {
                    "one text"
                };
                let other = parts.iter().position(|part| !matches!(part, Part::Text(_)));
                return Err(match other {
                    Some(at) => (
                        Some(at as u32),
                        RefusalKind::UnsupportedMediaType(format!("This model takes {takes}.")),
                    ),
                    None => (
                        None,
                        RefusalKind::InvalidContent(format!(
                            "The content has {} parts; this model takes {takes}.",
                            parts.len()
                        )),
                    ),
                });
            }
        };
        let encode = |part: u32, text: &str| {
            self.tokenizer.encode(text).map_err(|e| match e {
                Unencodable::TooLarge => (Some(part), RefusalKind::TooLong(format!(
                    "The text has more than {} characters; this model's maximum context length is {} tokens. Send it in pieces.",
                    crate::tokenizer::chars::MAX_TEXT_CHARS, self.max_tokens
                ))),
                Unencodable::Unknown(message) => invalid(part, &format!("The text cannot be read: {message}.")),
            })
        };
        let mut a = encode(0, first)?;
        let mut b = second.map(|text| encode(1, text)).transpose()?;
        if a.is_empty() && b.as_ref().is_none_or(Vec::is_empty) {
            return Err(invalid(0, "The text is empty."));
        }
        let around = self.tokenizer.around(b.is_some());
        let count = a.len() + b.as_ref().map_or(0, Vec::len) + around;
        if let Some(most) = self.most(count, around, cut_to)? {
            self.tokenizer
                .cut(&mut a, b.as_mut(), most, self.truncation);
        }
        Ok((self.tokenizer.row(&a, b.as_deref()), first))
    }

    /// The row of a text that came as token ids.
    fn tokens(&self, ids: &[u32], cut_to: Option<usize>) -> Result<Row, ContentRefusal> {
        let invalid = |text: String| (Some(0), RefusalKind::InvalidContent(text));
        let size = self.tokenizer.size();
        if let Some(at) = ids.iter().position(|id| *id >= size) {
            return Err(invalid(format!(
                "Token {} at position {at} is not in the model's vocabulary, 0 to {}.",
                ids[at],
                size - 1
            )));
        }
        if ids.is_empty() {
            return Err(invalid("The list of tokens is empty.".into()));
        }
        let mut pieces = self.tokenizer.pieces(ids);
        let around = self.tokenizer.around(false);
        if let Some(most) = self.most(pieces.len() + around, around, cut_to)? {
            self.tokenizer.cut(&mut pieces, None, most, self.truncation);
        }
        Ok(self.tokenizer.row(&pieces, None))
    }

    /// The number of tokens to which `count` tokens are truncated; `None` if they are few enough.
    fn most(
        &self,
        count: usize,
        around: usize,
        cut_to: Option<usize>,
    ) -> Result<Option<usize>, ContentRefusal> {
        let most = cut_to.unwrap_or(usize::MAX).min(self.max_tokens);
        if most <= around {
            return Err((
                None,
                RefusalKind::InvalidContent(format!(
                    "A text cannot be truncated to {most} tokens: {around} special tokens always surround it."
                )),
            ));
        }
        match cut_to {
            _ if count <= most => Ok(None),
            Some(_) => Ok(Some(most)),
            // Clients search for these words to recognise a text that is too long.
            None => Err((
                Some(0),
                RefusalKind::TooLong(format!(
                    "The text has {count} tokens, including the {around} special tokens around it; this model's \
                 maximum context length is {most} tokens. Send it in pieces."
                )),
            )),
        }
    }

    fn answer(&self, numbers: &[f32], running: &Running) -> Result<String, String> {
        match &self.head {
            Head::Embedding {
                pooling,
                normalize,
                dimensions,
            } => {
                let rows = numbers.chunks_exact(*dimensions);
                let mut vector: Vec<f32> = match pooling {
                    Pooling::Mean => {
                        let count = rows.len().max(1) as f64;
                        let mut sums = vec![0.0f64; *dimensions];
                        for row in rows {
                            sums.iter_mut()
                                .zip(row)
                                .for_each(|(sum, n)| *sum += f64::from(*n));
                        }
                        sums.into_iter().map(|sum| (sum / count) as f32).collect()
                    }
                    Pooling::Last => rows.last().unwrap_or_default().to_vec(),
                    Pooling::Cls | Pooling::None => numbers[..*dimensions].to_vec(),
                };
                if *normalize {
                    let length = vector
                        .iter()
                        .map(|n| f64::from(*n).powi(2))
                        .sum::<f64>()
                        .sqrt();
                    vector
                        .iter_mut()
                        .for_each(|n| *n = (f64::from(*n) / length.max(LEAST)) as f32);
                }
                json(&Embedding { embedding: &vector })
            }
            Head::Classes { labels, function } => {
                let scores = match function {
                    Function::Softmax => softmax(numbers),
                    Function::Sigmoid => numbers.iter().map(|n| sigmoid(*n)).collect(),
                    Function::None => numbers.to_vec(),
                };
                classes(&scores, labels, MAX_LABELS, true)
            }
            Head::Score { function } => json(&Scored {
                score: match function {
                    Function::None => numbers[0],
                    _ => sigmoid(numbers[0]),
                },
            }),
            Head::Entities {
                labels,
                ignored,
                aggregation,
            } => json(&Entities {
                entities: entities(numbers, running, (labels, ignored), *aggregation),
            }),
        }
    }
}

/// A token's best label, with the part of it that names a kind, and whether the token begins an entity.
struct Tagged<'l> {
    label: &'l str,
    kind: &'l str,
    begins: bool,
    score: f32,
    range: (u32, u32),
}

/// Splits a tag such as `B-PER`. It knows other schemes too: tags that begin an entity (`S-`, `U-`) or continue one (`E-`, `L-`).
fn tag(label: &str) -> (&str, bool) {
    match label.split_once('-') {
        Some(("B" | "S" | "U", kind)) => (kind, true),
        Some(("I" | "E" | "L", kind)) => (kind, false),
        _ => (label, false),
    }
}

fn entities<'l>(
    numbers: &[f32],
    running: &Running,
    (labels, ignored): (&'l [String], &[String]),
    aggregation: Aggregation,
) -> Vec<Entity<'l>> {
    let tokens = numbers
        .chunks_exact(labels.len().max(1))
        .zip(&running.row.ranges);
    // Special tokens have no range, and belong to no entity.
    let tagged = tokens.filter_map(|(numbers, range)| {
        let scores = softmax(numbers);
        // Of equal scores the first.
        let best = (0..scores.len())
            .rev()
            .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))?;
        let label = labels.get(best)?.as_str();
        let (kind, begins) = tag(label);
        Some(Tagged {
            label,
            kind,
            begins,
            score: scores[best],
            range: (*range)?,
        })
    });
    let tagged: Vec<Tagged<'l>> = tagged.collect();
    let one = |a: &Tagged<'_>, b: &Tagged<'_>| {
        aggregation == Aggregation::Simple && a.kind == b.kind && !b.begins
    };
    let places: Vec<usize> = running
        .text
        .char_indices()
        .map(|(at, _)| at)
        .chain([running.text.len()])
        .collect();
    let groups = tagged.chunk_by(one).filter_map(|group| {
        let (first, last) = (group.first()?, group.last()?);
        let name = if aggregation == Aggregation::Simple {
            first.kind
        } else {
            first.label
        };
        if ignored
            .iter()
            .any(|ignored| ignored == first.label || ignored == name)
        {
            return None;
        }
        let (start, end) = (first.range.0, last.range.1.max(first.range.0));
        let word = running
            .text
            .get(*places.get(start as usize)?..*places.get(end as usize)?)?;
        Some(Entity {
            entity_group: name,
            score: group.iter().map(|t| t.score).sum::<f32>() / group.len() as f32,
            word: word.to_owned(),
            start,
            end,
        })
    });
    groups.collect()
}

fn sigmoid(number: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(number)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::tensor;
    use serde_json::{Value, json};

    fn open(name: &str, changes: Value) -> Result<Text, String> {
        let mut config = json!({
            "tokenizer": {
                "model": { "type": "WordPiece", "unk_token": "[UNK]",
                    "vocab": { "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "ann": 4, "met": 5, "bob": 6, "##by": 7 } },
                "normalizer": { "type": "BertNormalizer" },
                "pre_tokenizer": { "type": "BertPreTokenizer" },
                "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
            },
            "max_tokens": 8,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        Text::open(name, config.to_string().as_bytes())
    }

    fn item<'t>(texts: &[&'t str]) -> Item<'t> {
        Item {
            parts: texts.iter().map(|text| Part::Text(text)).collect(),
        }
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        tensor
            .data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect()
    }

    fn answers(step: Step) -> Vec<Value> {
        match step {
            Step::Answers(answers) => answers
                .iter()
                .map(|a| serde_json::from_str(&a.text).unwrap())
                .collect(),
            _ => panic!("tensors"),
        }
    }

    #[test]
    fn texts_of_a_call_are_one_batch_as_long_as_the_longest() {
        let adapter = open(CLASSIFICATION, json!({ "labels": ["no", "yes"] })).unwrap();
        let Step::Tensors(tensors) = adapter
            .prepare(&[item(&["Ann met"]), item(&["ann", "bobby"])])
            .unwrap()
        else {
            panic!()
        };
        assert_eq!(tensors[0].shape, [2, 6]);
        assert_eq!(numbers(&tensors[0]), [2, 4, 5, 3, 0, 0, 2, 4, 3, 6, 7, 3]);
        assert_eq!(numbers(&tensors[1]), [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(numbers(&tensors[2]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        let step = adapter
            .advance(vec![tensor("logits", vec![2, 2], &[0.0, 0.0, 1.0, 3.0])])
            .unwrap();
        let all = answers(step);
        assert_eq!(
            all[0],
            json!({ "label": "no", "confidence": 0.5, "scores": { "no": 0.5, "yes": 0.5 }, "probs": [0.5, 0.5] })
        );
        assert_eq!(all[1]["label"], "yes");
        assert!((all[1]["confidence"].as_f64().unwrap() - 0.880797).abs() < 1e-6);
    }

    #[test]
    fn labels_and_their_function_come_from_the_models_own_file_where_the_configuration_has_none() {
        let file = json!({ "id2label": { "0": "a", "1": "b" }, "problem_type": "multi_label_classification" });
        let adapter = open(CLASSIFICATION, json!({ "model_config": file })).unwrap();
        adapter.prepare(&[item(&["ann"])]).unwrap();
        let step = adapter
            .advance(vec![tensor("logits", vec![1, 2], &[0.0, 2.0])])
            .unwrap();
        let scores = &answers(step)[0]["scores"];
        assert_eq!(scores["a"], 0.5);
        assert!((scores["b"].as_f64().unwrap() - 0.880797).abs() < 1e-6);
        let gap = json!({ "model_config": { "id2label": { "0": "a", "2": "b" } } });
        assert!(open(CLASSIFICATION, gap).is_err_and(|e| e.contains("`1`")));
        assert!(open(CLASSIFICATION, json!({})).is_err_and(|e| e.contains("model_config")));
    }

    #[test]
    fn a_pair_is_scored_and_cut_only_where_that_is_asked_for() {
        let adapter = open(CROSS_ENCODER, json!({})).unwrap();
        let long = item(&["ann", "bob met ann met bob met"]);
        let refused = adapter.prepare(std::slice::from_ref(&long)).unwrap_err();
        let RefusalKind::TooLong(message) = refused.kind else {
            panic!()
        };
        assert!(
            message.contains("has 10 tokens") && message.contains("8 tokens"),
            "{message}"
        );
        let Step::Tensors(tensors) = adapter.prepare_cut(&[long], u32::MAX).unwrap() else {
            panic!()
        };
        assert_eq!(numbers(&tensors[0]), [2, 4, 3, 6, 5, 4, 5, 3]);
        for shape in [vec![1, 1], vec![1]] {
            adapter.prepare(&[item(&["ann", "bob"])]).unwrap();
            let step = adapter
                .advance(vec![tensor("logits", shape, &[0.0])])
                .unwrap();
            assert_eq!(answers(step), [json!({ "score": 0.5 })]);
        }
        let refused = adapter.prepare(&[item(&["ann"])]).unwrap_err();
        assert!(
            matches!(refused.kind, RefusalKind::InvalidContent(text) if text.contains("two texts"))
        );
    }

    #[test]
    fn entities_are_joined_by_their_tags_and_placed_in_characters() {
        let labels = json!({ "labels": ["O", "B-PER", "I-PER"] });
        let adapter = open(TOKENS, labels).unwrap();
        adapter
            .prepare(&[item(&["\u{c4}nn \u{1f600} Bobby met ann"])])
            .unwrap();
        // [CLS] unknown unknown bob ##by met ann [SEP]
        let best = [0, 0, 0, 1, 2, 0, 1, 0];
        let mut logits = Vec::new();
        for label in best {
            logits.extend((0..3).map(|at| if at == label { 4.0 } else { 0.0f32 }));
        }
        let step = adapter
            .advance(vec![tensor("logits", vec![1, 8, 3], &logits)])
            .unwrap();
        let entities = answers(step)[0]["entities"].clone();
        let told: Vec<(&str, u64, u64)> = entities
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                (
                    e["word"].as_str().unwrap(),
                    e["start"].as_u64().unwrap(),
                    e["end"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(told, [("Bobby", 6, 11), ("ann", 16, 19)]);
        assert_eq!(entities[0]["entity_group"], "PER");
    }

    #[test]
    fn vectors_are_pooled_as_the_configuration_says() {
        for (pooling, expected) in [
            ("mean", [0.5, 1.0]),
            ("cls", [1.0, 0.0]),
            ("last", [0.5, 1.0]),
        ] {
            let config = json!({ "dimensions": 2, "pooling": pooling, "normalize": false });
            let adapter = open(EMBEDDING, config).unwrap();
            adapter
                .prepare(&[item(&["ann"]), item(&["ann met"])])
                .unwrap();
            let vectors = [
                1.0, 0.0, 0.0, 2.0, 0.5, 1.0, 9.0, 9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            ];
            let step = adapter
                .advance(vec![tensor("v", vec![2, 4, 2], &vectors)])
                .unwrap();
            assert_eq!(
                answers(step)[0],
                json!({ "embedding": expected }),
                "{pooling}"
            );
        }
        let adapter = open(EMBEDDING, json!({ "dimensions": 2 })).unwrap();
        let tokens = Item {
            parts: vec![Part::Tokens(&[4, 99])],
        };
        assert!(adapter.prepare(&[tokens]).is_err());
    }

    #[test]
    fn a_configuration_that_contradicts_itself_is_refused() {
        for (name, changes) in [
            (EMBEDDING, json!({})),
            (EMBEDDING, json!({ "dimensions": 1u64 << 40 })),
            (CLASSIFICATION, json!({ "labels": ["a", "a"] })),
            (CLASSIFICATION, json!({ "labels": [] })),
            (CROSS_ENCODER, json!({ "function": "softmax" })),
            (CROSS_ENCODER, json!({ "max_tokens": 3 })),
            (CROSS_ENCODER, json!({ "inputs": [] })),
            (TOKENS, json!({ "more": 1, "labels": ["a"] })),
        ] {
            assert!(open(name, changes.clone()).is_err(), "{name} {changes}");
        }
    }
}
