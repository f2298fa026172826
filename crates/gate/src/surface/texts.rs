//! What the surfaces over texts and pairs of texts share: reading their members, having the adapter look at all of them
//! before anything is charged, and running them in batches.

use super::{body, embeddings, scan};
use crate::catalogue::Opened;
use crate::ports::{
    AdapterAnswer, AdapterPort, AdapterRefusal, Item, Part, Ports, RefusalKind, Step,
};
use crate::problem::broken_adapter;
use crate::route::shorten;
use crate::run::Runner;
use crate::run::prepare::{Unprepared, at_once, cut_to, prepare_cut};
use penstock_core::{Code, Problem, Violation};
use penstock_tensor::Contract;
use serde_json::{Value, json};
use std::ops::Range;

/// The most texts or pairs of one call, as for embeddings.
pub(super) const MAX_TEXTS: usize = embeddings::MAX_INPUTS;

/// The most bytes of all pairs of a call, where one text is part of many: a small body must not become large.
const MAX_PAIRED_BYTES: usize = 16 << 20;

/// Pairs of one text, which stands at `pointer`, with each of others.
pub(super) fn paired(
    pointer: &str,
    first: &str,
    others: Vec<String>,
) -> Result<Vec<Vec<String>>, Problem> {
    let bytes = first.len().saturating_mul(others.len());
    if bytes > MAX_PAIRED_BYTES {
        let most = MAX_PAIRED_BYTES / others.len().max(1);
        return Err(refuse(
            Code::InvalidInputs,
            pointer,
            "too_long",
            &format!("at most {most} bytes beside {} other texts", others.len()),
            format!(
                "`{pointer}` has {} bytes and is paired with {} texts; at most {most} bytes are accepted then. Send \
                 a shorter text or fewer others",
                first.len(),
                others.len()
            ),
        ));
    }
    let pair = |other| vec![first.to_owned(), other];
    Ok(others.into_iter().map(pair).collect())
}

/// Where a part of a row stands in the body.
pub(super) type Places = Box<dyn Fn(usize, usize) -> String>;

/// Texts or pairs that an adapter answers.
pub(super) struct Texts {
    rows: Vec<Vec<String>>,
    places: Places,
    /// What the model has to give, for the message where it does not.
    gives: &'static str,
    cut_to: Option<u32>,
    /// What the adapter made of all rows, where they fit into one run.
    begun: Option<Step>,
    /// Rows of one run.
    at_once: usize,
}

impl Texts {
    /// Has the adapter look at all rows. `cut_to` is what the body asks for.
    pub fn new<P: Ports>(
        opened: &Opened<P>,
        model: &str,
        (rows, places): (Vec<Vec<String>>, Places),
        asked_cut: Option<u32>,
        gives: &'static str,
    ) -> Result<Self, Problem> {
        let Some(adapter) = &opened.adapter else {
            return Err(gives_none(model, gives));
        };
        let contract = &opened.contract;
        let mut texts = Self {
            rows,
            places,
            gives,
            cut_to: asked_cut.or_else(|| cut_to(contract)),
            begun: None,
            at_once: at_once(contract),
        };
        let mut begun = None;
        for (index, chunk) in texts.rows.chunks(texts.at_once).enumerate() {
            begun = Some(texts.begin(adapter, contract, model, (index * texts.at_once, chunk))?);
        }
        texts.begun = begun.filter(|_| texts.rows.len() <= texts.at_once);
        Ok(texts)
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn begin<A: AdapterPort>(
        &self,
        adapter: &A,
        contract: &Contract,
        model: &str,
        (first, chunk): (usize, &[Vec<String>]),
    ) -> Result<Step, Problem> {
        fn item(row: &[String]) -> Item<'_> {
            Item {
                parts: row.iter().map(|text| Part::Text(text)).collect(),
            }
        }
        let items: Vec<Item<'_>> = chunk.iter().map(|row| item(row)).collect();
        let step = prepare_cut(adapter, contract, model, &items, self.cut_to);
        step.map_err(|unprepared| match unprepared {
            Unprepared::Broken(problem) => problem,
            Unprepared::Refused(refusal) => {
                // An adapter may refuse an item or a part there is none of.
                let item = (refusal.item as usize).min(chunk.len().saturating_sub(1));
                let parts = chunk.get(item).map_or(0, Vec::len);
                let part = refusal.part.map_or(0, |part| part as usize);
                let place = (self.places)(first + item, part.min(parts.saturating_sub(1)));
                self.refused(refusal, model, &place)
            }
        })
    }

    fn refused(&self, refusal: AdapterRefusal, model: &str, place: &str) -> Problem {
        match refusal.kind {
            RefusalKind::UnsupportedMediaType(_) => gives_none(model, self.gives),
            RefusalKind::InvalidContent(message) => refuse(
                Code::InvalidInputs,
                place,
                "invalid_content",
                "content the adapter can read",
                format!("`{place}`: {message}"),
            ),
            RefusalKind::TooLong(message) => refuse(
                Code::ContextLengthExceeded,
                place,
                "context_length_exceeded",
                "no more tokens than the model can read",
                format!(
                    "`{place}`: {message} Or have it cut, with `truncate_prompt_tokens`: -1 or `truncate`: true."
                ),
            ),
        }
    }

    /// Runs all rows in batches; the answers are whole and not yet what the caller may be told.
    pub fn run<P: Ports>(
        &mut self,
        runner: &mut Runner<'_, P>,
    ) -> Result<Vec<AdapterAnswer>, Problem> {
        let mut begun = self.begun.take();
        let mut answers = Vec::with_capacity(self.rows.len());
        for (index, chunk) in self.rows.chunks(self.at_once).enumerate() {
            let first = index * self.at_once;
            let begin = |runner: &Runner<'_, P>, rows: Range<usize>| {
                let adapter = runner.opened.adapter.as_ref();
                let adapter = adapter.ok_or_else(|| gives_none(runner.model, self.gives))?;
                let place = (first + rows.start, &chunk[rows]);
                self.begin(adapter, runner.contract(), runner.model, place)
            };
            answers.extend(runner.adapt_each_whole(chunk.len(), begun.take(), begin)?);
        }
        Ok(answers)
    }

    /// The answer as JSON, before and after what the caller may not be told is left out.
    pub fn told<P: Ports>(
        &self,
        runner: &Runner<'_, P>,
        mut answer: AdapterAnswer,
    ) -> Result<(Value, Value), Problem> {
        let read = |text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|_| broken_adapter(runner.model, "its answer is not JSON"))
        };
        let whole = read(&answer.text)?;
        runner.disclose_text(&mut answer.text)?;
        Ok((whole, read(&answer.text)?))
    }

    /// The problem where the model's answer lacks what the surface is for.
    pub fn lacking(&self, model: &str) -> Problem {
        gives_none(model, self.gives)
    }
}

/// The sum of what the adapter counted.
pub(super) fn units(answers: &[AdapterAnswer]) -> u64 {
    answers
        .iter()
        .fold(0, |sum, answer| sum.saturating_add(answer.units))
}

/// What OpenAI and vLLM say of a call's tokens.
pub(super) fn usage(units: u64) -> Value {
    json!({ "prompt_tokens": units, "total_tokens": units })
}

fn gives_none(model: &str, gives: &str) -> Problem {
    refuse(
        Code::InvalidInputs,
        "/model",
        "wrong_model",
        &format!("a model that gives {gives}"),
        format!(
            "model `{model}` gives no {gives}; GET /v1/models lists the models and their adapters"
        ),
    )
}

/// A problem with one violation.
pub(super) fn refuse(
    code: Code,
    pointer: &str,
    rule: &'static str,
    expected: &str,
    message: String,
) -> Problem {
    Problem::new(code, message.clone()).with_violations(
        vec![Violation::new(pointer, rule, expected.to_owned(), message)],
        0,
    )
}

/// A member that is not what it has to be.
pub(super) fn wrong(pointer: &str, expected: &str, value: &str) -> Problem {
    let message = format!("`{pointer}` is {}; it has to be {expected}", shorten(value));
    refuse(Code::InvalidBody, pointer, "wrong_type", expected, message)
}

/// A member that is missing.
pub(super) fn missing(name: &str, expected: &str) -> Problem {
    let message = format!("`/{name}` is missing; it has to be {expected}");
    refuse(
        Code::InvalidBody,
        &format!("/{name}"),
        "missing_member",
        expected,
        message,
    )
}

/// The members of a body, of which only those in `known` may be there; null is absent.
pub(super) fn members<'b>(
    body: &'b str,
    known: &[&str],
) -> Result<Vec<(String, &'b str)>, Problem> {
    if scan::kind(body) != b'{' {
        // What is no JSON at all is told so.
        scan::members(body)?;
        return Err(refuse(
            Code::InvalidBody,
            "",
            "wrong_type",
            "an object",
            "the body has to be an object".to_owned(),
        ));
    }
    let found = scan::present(body)?;
    let stranger = found
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()));
    match stranger {
        None => Ok(found),
        Some((name, _)) => {
            let known = known.join(", ");
            Err(refuse(
                Code::InvalidBody,
                "",
                "unknown_member",
                &known,
                format!(
                    "the member `{}` is unknown; the members are {known}",
                    shorten(name)
                ),
            ))
        }
    }
}

/// The value of a member that all these surfaces treat alike.
#[derive(Default)]
pub(super) struct Common {
    /// To how many tokens longer texts are cut; `None` where the body says nothing.
    pub cut_to: Option<u32>,
}

impl Common {
    /// Reads a member if it is one of those; false where it is not.
    pub fn read(&mut self, name: &str, value: &str) -> Result<bool, Problem> {
        let pointer = format!("/{name}");
        match name {
            // Who is called was read before, and who asks is not used.
            "model" | "user" => {
                string(&pointer, value)?;
            }
            // Text Embeddings Inference's.
            "truncate" => {
                if boolean(&pointer, value)? {
                    self.cut_to = Some(u32::MAX);
                }
            }
            // vLLM's.
            "truncate_prompt_tokens" => {
                self.cut_to = Some(match scan::of::<i64>(value) {
                    Some(-1) => u32::MAX,
                    Some(number @ 1..) => u32::try_from(number).unwrap_or(u32::MAX - 1),
                    _ => {
                        let expected =
                            "a whole number above 0, or -1 for as many as the model can read";
                        return Err(wrong(&pointer, expected, value));
                    }
                });
            }
            // Scores are given as the contract declares them.
            "raw_scores" if !boolean(&pointer, value)? => {}
            "raw_scores" => {
                return Err(refuse(
                    Code::InvalidInputs,
                    &pointer,
                    "unsupported_value",
                    "false",
                    "`/raw_scores` is true; the model's configuration decides how scores are computed (`function`). \
                     Leave it out"
                        .to_owned(),
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

pub(super) fn boolean(pointer: &str, value: &str) -> Result<bool, Problem> {
    scan::of(value).ok_or_else(|| wrong(pointer, "true or false", value))
}

pub(super) fn string(pointer: &str, value: &str) -> Result<String, Problem> {
    scan::of(value).ok_or_else(|| wrong(pointer, "a string", value))
}

/// The elements of a list that is not empty and has at most [`MAX_TEXTS`].
pub(super) fn list<'v>(
    pointer: &str,
    value: &'v str,
    expected: &str,
) -> Result<Vec<&'v str>, Problem> {
    if scan::kind(value) != b'[' {
        return Err(wrong(pointer, expected, value));
    }
    match scan::elements(value, MAX_TEXTS)? {
        None => Err(refuse(
            Code::InvalidInputs,
            pointer,
            "too_many_items",
            &format!("at most {MAX_TEXTS}"),
            format!("`{pointer}` has more than {MAX_TEXTS} elements, the maximum of one call"),
        )),
        Some(list) if list.is_empty() => Err(refuse(
            Code::InvalidBody,
            pointer,
            "too_few_items",
            "at least one",
            format!("`{pointer}` is empty; send {expected}"),
        )),
        Some(list) => Ok(list),
    }
}

/// A string, or a list of strings, and whether it is a list.
pub(super) fn strings(pointer: &str, value: &str) -> Result<(Vec<String>, bool), Problem> {
    let expected = "a string or a list of strings";
    if scan::kind(value) == b'"' {
        return Ok((vec![string(pointer, value)?], false));
    }
    let each = list(pointer, value, expected)?.into_iter().enumerate();
    let all = each.map(|(at, value)| string(&format!("{pointer}/{at}"), value));
    Ok((all.collect::<Result<_, _>>()?, true))
}

/// Why a body names no model.
pub(super) fn unnamed(body: &[u8]) -> Problem {
    if body.len() > body::MAX_PEEKED_BYTES {
        return Problem::new(
            Code::BodyTooLarge,
            format!(
                "the body has {} bytes; a body that names its model has at most {}",
                body.len(),
                body::MAX_PEEKED_BYTES
            ),
        );
    }
    match body::text(body).and_then(scan::members) {
        Err(problem) => problem,
        Ok(_) => missing("model", "the name of a model; GET /v1/models lists them"),
    }
}
