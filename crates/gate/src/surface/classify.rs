//! Implements `/v1/classify`: the classes of texts, in vLLM's form (`input`) or in the form of Text Embeddings
//! Inference (`inputs`).

use super::body::text;
use super::scan;
use super::texts::{self, Common, Texts};
use crate::answer::LIST;
use crate::answer::text::{ClassScore, Classification, Classified, TokenUsage};
use crate::catalogue::Opened;
use crate::ports::Ports;
use crate::record::Response;
use crate::run::{Runner, SurfaceAnswer, Work};
use penstock_core::{Code, Problem};
use serde_json::{Map, Value};

/// The members of a body.
const MEMBERS: &[&str] = &[
    "model",
    "input",
    "inputs",
    "truncate",
    "truncate_prompt_tokens",
    "raw_scores",
    "user",
];

/// The kind of result that the model must produce, for messages.
pub(super) const GIVES: &str = "classes of texts";

struct Classify {
    texts: Texts,
    /// Whether the body has the form of Text Embeddings Inference.
    is_tei: bool,
    /// Whether the body has a single input instead of a list.
    is_single: bool,
}

/// Reads the body of a call. The adapter checks all texts before any item is charged or run.
pub(super) fn decode<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let (mut common, mut input, mut inputs) = (Common::default(), None, None);
    for (name, value) in texts::members(text(body)?, MEMBERS)? {
        match name.as_str() {
            "input" => input = Some(value),
            "inputs" => inputs = Some(value),
            name => {
                common.read(name, value)?;
            }
        }
    }
    let (rows, is_single, is_tei) = match (input, inputs) {
        (Some(input), None) => {
            let (all, is_list) = texts::strings("/input", input)?;
            let rows: Vec<Vec<String>> = all.into_iter().map(|text| vec![text]).collect();
            (rows, !is_list, false)
        }
        (None, Some(inputs)) => {
            let (rows, is_single) = tei("/inputs", inputs)?;
            (rows, is_single, true)
        }
        (None, None) => return Err(texts::missing("input", "a string or a list of strings")),
        (Some(_), Some(_)) => {
            return Err(texts::refuse(
                Code::InvalidBody,
                "/inputs",
                "conflicting_members",
                "`input` or `inputs`",
                "there are both `input` and `inputs`; send one of them".to_owned(),
            ));
        }
    };
    let places = Box::new(move |row: usize, part: usize| match (is_tei, is_single) {
        (false, true) => "/input".to_owned(),
        (false, false) => format!("/input/{row}"),
        (true, true) => "/inputs".to_owned(),
        (true, false) => format!("/inputs/{row}/{part}"),
    });
    Ok(Box::new(Classify {
        texts: Texts::new(opened, model, (rows, places), common.cut_to, GIVES)?,
        is_tei,
        is_single,
    }))
}

/// Reads the member `inputs`: a text, or a list of lists of one or two texts. A list of strings is refused, because some
/// servers
/// treat it as a pair and others as a batch.
fn tei(pointer: &str, value: &str) -> Result<(Vec<Vec<String>>, bool), Problem> {
    let expected = "a string, or a list of lists of one string or two";
    if scan::kind(value) == b'"' {
        return Ok((vec![vec![texts::string(pointer, value)?]], true));
    }
    let each = texts::list(pointer, value, expected)?
        .into_iter()
        .enumerate();
    let rows = each.map(|(at, value)| {
        let at = format!("{pointer}/{at}");
        if scan::kind(value) == b'"' {
            return Err(texts::refuse(
                Code::InvalidBody,
                &at,
                "wrong_type",
                "a list of one string or two",
                format!("`{at}` is a string; a list of strings is a pair to some servers and a batch to others: write [[\"a\"],[\"b\"]] for texts, [[\"a\",\"b\"]] for a pair"),
            ));
        }
        let parts = texts::list(&at, value, "one string or two")?;
        if parts.len() > 2 {
            return Err(texts::wrong(&at, "a list of one string or two", value));
        }
        let each = parts.into_iter().enumerate();
        let all = each.map(|(part, value)| texts::string(&format!("{at}/{part}"), value));
        all.collect()
    });
    Ok((rows.collect::<Result<_, _>>()?, false))
}

/// Returns each class with its score.
fn listed(scores: &Map<String, Value>) -> Vec<ClassScore> {
    let each = scores.iter().map(|(label, score)| ClassScore {
        label: label.clone(),
        score: score.clone(),
    });
    each.collect()
}

impl<P: Ports> Work<P> for Classify {
    fn items(&self) -> u64 {
        self.texts.count() as u64
    }

    fn run(mut self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let answers = self.texts.run(runner)?;
        let units = texts::units(&answers);
        let (mut data, mut lists) = (Vec::new(), Vec::new());
        for (index, answer) in answers.into_iter().enumerate() {
            let (_, mut told) = self.texts.told(runner, answer)?;
            let (Some(label), Some(scores)) = (told["label"].as_str(), told["scores"].as_object())
            else {
                return Err(self.texts.lacking(runner.model));
            };
            let scores = listed(scores);
            if self.is_tei {
                lists.push(scores);
                continue;
            }
            let label = label.to_owned();
            // Only the adapter knows the order of the model's classes.
            let probs = match told["probs"].take() {
                Value::Array(probs) => Some(probs),
                _ => None,
            };
            data.push(Classified {
                index,
                label,
                scores,
                num_classes: probs.as_ref().map(Vec::len),
                probs,
            });
        }
        let prediction_id = runner.prediction_id();
        let response = match (self.is_tei, self.is_single) {
            (true, true) => Response::json(200, &lists.pop().unwrap_or_default()),
            (true, false) => Response::json(200, &lists),
            (false, _) => {
                let body = Classification {
                    id: prediction_id.as_str(),
                    object: LIST,
                    created: runner.call.context.unix_ms / 1_000,
                    model: runner.model,
                    data,
                    usage: TokenUsage::new(units),
                };
                Response::json(200, &body)
            }
        };
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(prediction_id),
        })
    }
}
