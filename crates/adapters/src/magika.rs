//! The adapter of Google's magika (model `standard_v3_3`). Its input is the first and last kilobyte of a file without white
//! space, as 2,048 numbers. Its answer is the best label, if its score is high enough. The model's own configuration has
//! the number of bytes and the thresholds.
//!
//! Follows the Python package `magika` 1.0.3 in its default mode (high confidence), so that the same
//! file gets the same label from both.

use crate::{
    Adapter, AdapterAnswer, AdapterRefusal, Item, Part, RefusalKind, Step, each, only_part,
};
use penstock_tensor::{Datatype, Tensor};
use serde::Deserialize;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The most bytes of either end of a file that become features. The model uses 1,024.
const MAX_END_BYTES: usize = 1 << 20;
/// The number of best labels in an answer.
const TOP: usize = 5;
/// The name of the model's input.
const INPUT: &str = "bytes";

/// The members of magika's `config.min.json` that are used here.
#[derive(Deserialize)]
struct Config {
    beg_size: usize,
    mid_size: usize,
    end_size: usize,
    use_inputs_at_offsets: bool,
    medium_confidence_threshold: f32,
    min_file_size_for_dl: usize,
    padding_token: i32,
    block_size: usize,
    target_labels_space: Vec<String>,
    thresholds: BTreeMap<String, f32>,
    overwrite_map: BTreeMap<String, String>,
    content_types: BTreeMap<String, ContentType>,
}

#[derive(Deserialize)]
struct ContentType {
    mime_type: String,
    description: String,
    is_text: bool,
}

/// The adapter, opened with a configuration.
pub struct Magika {
    config: Config,
    /// The items in order. Those without an answer are in the requested run.
    slots: RefCell<Vec<Option<AdapterAnswer>>>,
}

impl Adapter for Magika {
    fn open(_name: &str, config: &[u8]) -> Result<Self, String> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|e| format!("magika's configuration cannot be read: {e}"))?;
        if config.mid_size != 0 || config.use_inputs_at_offsets {
            return Err(
                "this configuration needs features from the middle of a file, which this adapter does not compute"
                    .into(),
            );
        }
        let ends = [config.beg_size, config.end_size];
        if ends
            .iter()
            .any(|&n| n > MAX_END_BYTES || n >= config.block_size)
            || config.block_size > MAX_END_BYTES
            || config.min_file_size_for_dl > config.beg_size
            || config.min_file_size_for_dl == 0
        {
            return Err("this configuration's sizes contradict each other or are too large".into());
        }
        if config.target_labels_space.is_empty() {
            return Err("this configuration names no labels".into());
        }
        Ok(Self {
            config,
            slots: RefCell::default(),
        })
    }

    /// Accepts any content, because the model identifies it. Items that are too short are answered without the model; the
    /// others form one batch.
    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let mut data = Vec::new();
        let slots = each(items, |item| {
            let body = match only_part(item, "a file")? {
                Part::Text(text) => text.as_bytes(),
                Part::Image(blob) | Part::Audio(blob) | Part::Bytes(blob) => blob.body,
                Part::Tokens(_) => {
                    return Err((
                        Some(0),
                        RefusalKind::UnsupportedMediaType(
                            "This model takes text and files, not token ids.".into(),
                        ),
                    ));
                }
            };
            Ok(self.features(body, &mut data))
        })?;
        let waiting = slots.iter().filter(|slot| slot.is_none()).count();
        if waiting == 0 {
            return Ok(Step::Answers(slots.into_iter().flatten().collect()));
        }
        self.slots.replace(slots);
        Ok(Step::Tensors(vec![Tensor {
            name: INPUT.into(),
            datatype: Datatype::Int32,
            shape: vec![
                waiting as u64,
                (self.config.beg_size + self.config.end_size) as u64,
            ],
            data: data.into(),
        }]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let slots = self.slots.take();
        let waiting = slots.iter().filter(|slot| slot.is_none()).count();
        let labels = &self.config.target_labels_space;
        let [output] = outputs.as_slice() else {
            return Err(format!(
                "the model returned {} outputs; a magika model returns one",
                outputs.len()
            ));
        };
        if waiting == 0
            || output.datatype != Datatype::Fp32
            || output.data.len() != waiting * labels.len() * size_of::<f32>()
        {
            return Err(format!(
                "the model returned {} of shape {:?}; expected are scores of {} labels for each of {waiting} items",
                output.datatype,
                output.shape,
                labels.len()
            ));
        }
        let mut rows = output.data.chunks_exact(labels.len() * size_of::<f32>());
        Ok(Step::Answers(
            slots
                .into_iter()
                .map(|slot| slot.unwrap_or_else(|| self.answer(rows.next().unwrap_or_default())))
                .collect(),
        ))
    }
}

impl Magika {
    /// Appends the model's input for a content, or returns the answer if the model is not needed.
    fn features(&self, body: &[u8], data: &mut Vec<u8>) -> Option<AdapterAnswer> {
        let config = &self.config;
        if body.is_empty() {
            return Some(self.without_model("empty"));
        }
        let block = body.len().min(config.block_size);
        if body.len() < config.min_file_size_for_dl {
            return Some(self.few_bytes(body));
        }
        let begin = trim_start(&body[..block]);
        if begin.len() < config.min_file_size_for_dl {
            // Little but white space, so the model has nothing to classify.
            return Some(self.few_bytes(&body[..block]));
        }
        let begin = &begin[..begin.len().min(config.beg_size)];
        let end = trim_end(&body[body.len() - block..]);
        let end = &end[end.len().saturating_sub(config.end_size)..];
        data.reserve((config.beg_size + config.end_size) * size_of::<i32>());
        let mut push = |value: i32| data.extend_from_slice(&value.to_le_bytes());
        begin.iter().for_each(|&b| push(i32::from(b)));
        let padding = (config.beg_size - begin.len()) + (config.end_size - end.len());
        (0..padding).for_each(|_| push(config.padding_token));
        end.iter().for_each(|&b| push(i32::from(b)));
        None
    }

    /// The answer for one item's scores.
    fn answer(&self, scores: &[u8]) -> AdapterAnswer {
        let labels = &self.config.target_labels_space;
        let (numbers, _) = scores.as_chunks::<4>();
        let mut scores: Vec<(f32, &str)> = numbers
            .iter()
            .zip(labels)
            .map(|(bytes, label)| (f32::from_le_bytes(*bytes), label.as_str()))
            .collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (score, best) = scores[0];
        let label = self.trusted(best, score);
        let top: Vec<_> = scores
            .iter()
            .take(TOP)
            .map(|(score, label)| json!({ "label": label, "confidence": score }))
            .collect();
        let mut prediction = self.prediction(label, score);
        prediction["top"] = json!(top);
        AdapterAnswer {
            text: prediction.to_string(),
            units: 0,
        }
    }

    /// The returned label for the model's best one: that label, its replacement in the configuration, or a generic label if
    /// the score is too low.
    fn trusted<'a>(&'a self, best: &'a str, score: f32) -> &'a str {
        let config = &self.config;
        let label = config.overwrite_map.get(best).map_or(best, String::as_str);
        let threshold = config.thresholds.get(best).copied();
        if score >= threshold.unwrap_or(config.medium_confidence_threshold) {
            return label;
        }
        match config.content_types.get(label) {
            Some(kind) if kind.is_text => "txt",
            _ => "unknown",
        }
    }

    /// The answer for content that is too short for the model: text or not.
    fn few_bytes(&self, content: &[u8]) -> AdapterAnswer {
        self.without_model(if std::str::from_utf8(content).is_ok() {
            "txt"
        } else {
            "unknown"
        })
    }

    fn without_model(&self, label: &str) -> AdapterAnswer {
        let mut prediction = self.prediction(label, 1.0);
        prediction["top"] = json!([]);
        AdapterAnswer {
            text: prediction.to_string(),
            units: 0,
        }
    }

    fn prediction(&self, label: &str, confidence: f32) -> serde_json::Value {
        let mut prediction = json!({ "label": label, "confidence": confidence });
        if let Some(kind) = self.config.content_types.get(label) {
            prediction["mime_type"] = json!(kind.mime_type);
            prediction["description"] = json!(kind.description);
        }
        prediction
    }
}

/// White space as in Python's `bytes.strip`, with which the model was trained. It includes the vertical tab, which Rust's
/// `is_ascii_whitespace` does not.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|b| !is_space(b))
        .unwrap_or(bytes.len());
    &bytes[start..]
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|b| !is_space(b))
        .map_or(0, |last| last + 1);
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use serde_json::Value;

    fn config() -> Value {
        json!({
            "beg_size": 16, "mid_size": 0, "end_size": 16, "use_inputs_at_offsets": false,
            "medium_confidence_threshold": 0.5, "min_file_size_for_dl": 8, "padding_token": 256,
            "block_size": 32, "target_labels_space": ["markdown", "png", "randomtxt", "txt"],
            "thresholds": {"markdown": 0.75}, "overwrite_map": {"randomtxt": "txt"},
            "content_types": {
                "markdown": {"mime_type": "text/markdown", "description": "Markdown", "is_text": true},
                "png": {"mime_type": "image/png", "description": "PNG", "is_text": false},
                "txt": {"mime_type": "text/plain", "description": "Text", "is_text": true},
            },
        })
    }

    fn magika() -> Magika {
        Magika::open("magika", config().to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn file(body: &[u8]) -> Item<'_> {
        Item {
            parts: vec![Part::Bytes(Blob {
                media_type: None,
                body,
            })],
        }
    }

    fn features(body: &[u8]) -> Vec<i32> {
        match magika().prepare(&[file(body)]) {
            Ok(Step::Tensors(tensors)) => {
                assert_eq!(tensors[0].shape, [1, 32]);
                tensors[0]
                    .data
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| i32::from_le_bytes(*b))
                    .collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer_without_model(body: &[u8]) -> Value {
        match magika().prepare(&[file(body)]) {
            Ok(Step::Answers(answers)) => {
                assert_eq!((answers.len(), answers[0].units), (1, 0));
                serde_json::from_str(&answers[0].text).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(scores: [f32; 4]) -> Value {
        let data = scores.iter().flat_map(|s| s.to_le_bytes()).collect();
        let output = Tensor {
            name: "o".into(),
            datatype: Datatype::Fp32,
            shape: vec![1, 4],
            data,
        };
        let magika = magika();
        let _ = magika.prepare(&[file(b"0123456789")]).unwrap();
        match magika.advance(vec![output]) {
            Ok(Step::Answers(answers)) => serde_json::from_str(&answers[0].text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_content_is_padded_between_its_two_copies() {
        let seen = features(b"  \x0b0123456789\n");
        let text: Vec<i32> = b"0123456789".iter().map(|b| i32::from(*b)).collect();
        assert_eq!(seen[..10], text);
        // The beginning keeps trailing white space, as the end keeps leading.
        assert_eq!(seen[10], 10);
        assert_eq!(seen[11..19], [256; 8]);
        assert_eq!(seen[19..22], [32, 32, 11]);
        assert_eq!(seen[22..32], text);
    }

    #[test]
    fn long_content_is_seen_at_both_ends_only() {
        let mut body = vec![b'a'; 16];
        body.extend(vec![b'x'; 1000]);
        body.extend(vec![b'z'; 16]);
        let seen = features(&body);
        assert_eq!((seen[0], seen[15], seen[16], seen[31]), (97, 97, 122, 122));
        assert!(!seen.contains(&i32::from(b'x')));
    }

    #[test]
    fn content_too_short_for_the_model_is_told_without_it() {
        assert_eq!(answer_without_model(b"")["label"], "empty");
        assert_eq!(answer_without_model(b"abc")["label"], "txt");
        assert_eq!(answer_without_model(b"\xff\xfe")["label"], "unknown");
        assert_eq!(
            answer_without_model(b"                  a  ")["label"],
            "txt"
        );
        assert_eq!(answer_without_model(b"abc")["confidence"], 1.0);
    }

    #[test]
    fn a_label_is_told_only_at_its_own_threshold() {
        assert_eq!(answer([0.76, 0.1, 0.1, 0.04])["label"], "markdown");
        assert_eq!(
            answer([0.74, 0.1, 0.1, 0.06])["label"],
            "txt",
            "text of no certain kind"
        );
        assert_eq!(answer([0.1, 0.51, 0.2, 0.19])["label"], "png");
        assert_eq!(answer([0.1, 0.49, 0.2, 0.21])["label"], "unknown");
        assert_eq!(
            answer([0.1, 0.1, 0.8, 0.0])["label"],
            "txt",
            "overwritten by the configuration"
        );
        let full = answer([0.8, 0.1, 0.06, 0.04]);
        assert_eq!(full["top"].as_array().unwrap().len(), 4);
        assert_eq!(full["mime_type"], "text/markdown");
    }

    #[test]
    fn a_configuration_or_output_that_does_not_fit_is_an_error_and_no_panic() {
        assert!(Magika::open("magika", b"{").is_err());
        for (name, value) in [
            ("mid_size", json!(1)),
            ("beg_size", json!(99)),
            ("block_size", json!(1u64 << 40)),
            ("min_file_size_for_dl", json!(17)),
            ("target_labels_space", json!([])),
        ] {
            let mut changed = config();
            changed[name] = value;
            assert!(
                Magika::open("magika", changed.to_string().as_bytes()).is_err(),
                "{name}"
            );
        }
        let magika = magika();
        assert!(magika.advance(vec![]).is_err(), "nothing was asked for");
        let _ = magika.prepare(&[file(b"0123456789")]).unwrap();
        assert!(magika.advance(vec![]).is_err());
        let _ = magika.prepare(&[file(b"0123456789")]).unwrap();
        let short = Tensor {
            name: "o".into(),
            datatype: Datatype::Fp32,
            shape: vec![1, 1],
            data: vec![0; 4].into(),
        };
        assert!(magika.advance(vec![short]).is_err());
    }

    #[test]
    fn several_items_are_one_batch_and_are_answered_in_their_order() {
        let magika = magika();
        let text = Item {
            parts: vec![Part::Text("# a heading of some length")],
        };
        let step = magika.prepare(&[
            file(b""),
            text,
            file(b"abc"),
            file(b"\x89PNG\r\n\x1a\n...."),
        ]);
        let Ok(Step::Tensors(tensors)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(tensors[0].shape, [2, 32]);
        assert!(tensors[0].is_consistent());
        let scores = [0.9f32, 0.1, 0.0, 0.0, 0.1, 0.9, 0.0, 0.0];
        let step = magika.advance(vec![Tensor {
            name: "o".into(),
            datatype: Datatype::Fp32,
            shape: vec![2, 4],
            data: scores.iter().flat_map(|s| s.to_le_bytes()).collect(),
        }]);
        let Ok(Step::Answers(answers)) = step else {
            panic!("{step:?}");
        };
        let labels: Vec<Value> = answers
            .iter()
            .map(|a| serde_json::from_str::<Value>(&a.text).unwrap()["label"].clone())
            .collect();
        assert_eq!(labels, ["empty", "markdown", "txt", "png"]);
    }

    #[test]
    fn an_item_that_cannot_be_taken_is_named() {
        let tokens = Item {
            parts: vec![Part::Tokens(&[1, 2])],
        };
        let refusal = magika().prepare(&[file(b"abc"), tokens]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (1, Some(0)));
        assert!(matches!(refusal.kind, RefusalKind::UnsupportedMediaType(_)));
        let two = Item {
            parts: vec![Part::Text("a"), Part::Text("b")],
        };
        let refusal = magika().prepare(&[two]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (0, Some(1)));
        let refusal = magika().prepare(&[Item::default()]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (0, None));
    }
}
