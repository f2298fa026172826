//! Implements Cohere's `/v1/rerank`, also with the members of vLLM, Jina and Text Embeddings Inference, and vLLM's
//! `/v1/score`. A cross-encoder, which reads both texts of a pair at once, scores how well they match.

use super::body::text;
use super::scan;
use super::texts::{self, Common, Texts};
use crate::answer::LIST;
use crate::answer::text::{
    Ranked, RankedDocument, RerankDocument, Reranking, SCORE, ScoreResponse, Scored, TokenUsage,
};
use crate::catalogue::Opened;
use crate::ports::{AdapterAnswer, Ports};
use crate::record::Response;
use crate::run::{Runner, SurfaceAnswer, Work};
use penstock_core::{Code, Problem};
use serde_json::{Value, json};

/// The members of a rerank body.
const MEMBERS: &[&str] = &[
    "model",
    "query",
    "documents",
    "texts",
    "top_n",
    "return_documents",
    "return_text",
    "truncate",
    "truncate_prompt_tokens",
    "raw_scores",
    "priority",
    "user",
];
/// The members of a score body.
const SCORE_MEMBERS: &[&str] = &[
    "model",
    "text_1",
    "text_2",
    "truncate",
    "truncate_prompt_tokens",
    "user",
];
/// The kind of result that the model must produce, for messages.
const GIVES: &str = "scores of pairs of texts";

struct Rerank {
    pairs: Texts,
    /// The most results; `None` means all.
    top_n: Option<usize>,
    /// Whether results repeat their document.
    repeats: bool,
    /// Whether the body has the form of Text Embeddings Inference.
    is_tei: bool,
}

/// Reads the body of a call. The adapter checks all pairs before any item is charged or run.
pub(super) fn decode<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let mut common = Common::default();
    let (mut query, mut documents, mut listed) = (None, None, None);
    let (mut top_n, mut repeats) = (None, false);
    for (name, value) in texts::members(text(body)?, MEMBERS)? {
        let pointer = format!("/{name}");
        match name.as_str() {
            "query" => query = Some(texts::string(&pointer, value)?),
            "documents" => documents = Some(value),
            "texts" => listed = Some(value),
            "top_n" => {
                let number = scan::of::<usize>(value).filter(|number| *number > 0);
                let expected = "a whole number above 0";
                top_n = Some(number.ok_or_else(|| texts::wrong(&pointer, expected, value))?);
            }
            "return_documents" | "return_text" => repeats |= texts::boolean(&pointer, value)?,
            // `priority` orders Cohere's own queue and has no effect here.
            "priority" if scan::of::<i64>(value).is_some() => {}
            "priority" => return Err(texts::wrong(&pointer, "a whole number", value)),
            name => {
                common.read(name, value)?;
            }
        }
    }
    let query = query.ok_or_else(|| texts::missing("query", "a string"))?;
    let (documents, is_tei) = match (documents, listed) {
        (Some(value), None) => (documents_of("/documents", value)?, false),
        (None, Some(value)) => (documents_of("/texts", value)?, true),
        (None, None) => return Err(texts::missing("documents", "a list of strings")),
        (Some(_), Some(_)) => {
            return Err(texts::refuse(
                Code::InvalidBody,
                "/texts",
                "conflicting_members",
                "`documents` or `texts`",
                "there are both `documents` and `texts`; send one of them".to_owned(),
            ));
        }
    };
    let member = if is_tei { "texts" } else { "documents" };
    let places = Box::new(move |row: usize, part: usize| match part {
        0 => "/query".to_owned(),
        _ => format!("/{member}/{row}"),
    });
    let rows = texts::paired("/query", &query, documents)?;
    Ok(Box::new(Rerank {
        pairs: Texts::new(opened, model, (rows, places), common.cut_to, GIVES)?,
        top_n,
        repeats,
        is_tei,
    }))
}

/// Reads the documents of a call: strings, or objects with a `text`.
fn documents_of(pointer: &str, value: &str) -> Result<Vec<String>, Problem> {
    let expected = "strings, or objects with the one member `text`";
    let each = texts::list(pointer, value, expected)?
        .into_iter()
        .enumerate();
    let all = each.map(|(at, value)| {
        let at = format!("{pointer}/{at}");
        if scan::kind(value) != b'{' {
            return texts::string(&at, value);
        }
        match scan::present(value)?.as_slice() {
            [(name, text)] if name == "text" => texts::string(&format!("{at}/text"), text),
            _ => Err(texts::wrong(&at, expected, value)),
        }
    });
    all.collect()
}

/// Returns for each row the score to rank by and the score to show.
fn scores<P: Ports>(
    pairs: &Texts,
    runner: &Runner<'_, P>,
    answers: Vec<AdapterAnswer>,
) -> Result<Vec<(f64, Value)>, Problem> {
    let each = answers.into_iter().map(|answer| {
        let (whole, mut told) = pairs.told(runner, answer)?;
        let score = whole["score"].as_f64();
        let score = score.ok_or_else(|| pairs.lacking(runner.model))?;
        Ok((score, told["score"].take()))
    });
    each.collect()
}

impl<P: Ports> Work<P> for Rerank {
    fn items(&self) -> u64 {
        self.pairs.count() as u64
    }

    fn run(mut self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let answers = self.pairs.run(runner)?;
        let units = texts::units(&answers);
        let mut ranked: Vec<(usize, (f64, Value))> = scores(&self.pairs, runner, answers)?
            .into_iter()
            .enumerate()
            .collect();
        // The sort is stable, so documents with equal scores keep their order.
        ranked.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
        ranked.truncate(self.top_n.unwrap_or(usize::MAX));
        let document = |index: usize| self.pairs.rows()[index][1].as_str();
        let repeated = |index: usize| self.repeats.then(|| document(index));
        let prediction_id = runner.prediction_id();
        let response = if self.is_tei {
            let results = ranked.into_iter().map(|(index, (_, score))| Ranked {
                index,
                score,
                text: repeated(index),
            });
            Response::json(200, &results.collect::<Vec<_>>())
        } else {
            let results = ranked
                .into_iter()
                .map(|(index, (_, score))| RankedDocument {
                    index,
                    relevance_score: score,
                    document: repeated(index).map(|text| RerankDocument { text }),
                });
            let body = Reranking {
                id: prediction_id.as_str(),
                model: runner.model,
                results: results.collect(),
                meta: json!({ "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } }),
                usage: TokenUsage::new(units),
            };
            Response::json(200, &body)
        };
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(prediction_id),
        })
    }
}

struct Score {
    pairs: Texts,
}

/// Reads the body of `/v1/score`: one text paired with one or more others, or two lists of equal length.
pub(super) fn decode_score<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let mut common = Common::default();
    let (mut first, mut second) = (None, None);
    for (name, value) in texts::members(text(body)?, SCORE_MEMBERS)? {
        let pointer = format!("/{name}");
        match name.as_str() {
            "text_1" => first = Some(texts::strings(&pointer, value)?),
            "text_2" => second = Some(texts::strings(&pointer, value)?),
            name => {
                common.read(name, value)?;
            }
        }
    }
    let expected = "a string or a list of strings";
    let (first, many_first) = first.ok_or_else(|| texts::missing("text_1", expected))?;
    let (second, many_second) = second.ok_or_else(|| texts::missing("text_2", expected))?;
    let count = second.len();
    let rows: Vec<Vec<String>> = match first.as_slice() {
        [one] => texts::paired("/text_1", one, second)?,
        all if all.len() == count => all
            .iter()
            .cloned()
            .zip(second)
            .map(|(a, b)| vec![a, b])
            .collect(),
        all => {
            return Err(texts::refuse(
                Code::InvalidInputs,
                "/text_2",
                "wrong_length",
                "one text in `text_1`, or as many as in `text_2`",
                format!(
                    "`/text_1` has {} texts and `/text_2` has {count}; send one text in `text_1`, or as many as in `text_2`",
                    all.len()
                ),
            ));
        }
    };
    let is_one = first.len() == 1;
    let places = Box::new(move |row: usize, part: usize| match part {
        0 if !many_first => "/text_1".to_owned(),
        0 => format!("/text_1/{}", if is_one { 0 } else { row }),
        _ if many_second => format!("/text_2/{row}"),
        _ => "/text_2".to_owned(),
    });
    Ok(Box::new(Score {
        pairs: Texts::new(opened, model, (rows, places), common.cut_to, GIVES)?,
    }))
}

impl<P: Ports> Work<P> for Score {
    fn items(&self) -> u64 {
        self.pairs.count() as u64
    }

    fn run(mut self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let answers = self.pairs.run(runner)?;
        let units = texts::units(&answers);
        let scored = scores(&self.pairs, runner, answers)?
            .into_iter()
            .enumerate();
        let data = scored.map(|(index, (_, score))| Scored {
            index,
            object: SCORE,
            score,
        });
        let prediction_id = runner.prediction_id();
        let body = ScoreResponse {
            id: prediction_id.as_str(),
            object: LIST,
            created: runner.call.context.unix_ms / 1_000,
            model: runner.model,
            data: data.collect(),
            usage: TokenUsage::new(units),
        };
        let response = Response::json(200, &body);
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(prediction_id),
        })
    }
}
