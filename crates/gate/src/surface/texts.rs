//! Shares the code of the surfaces over texts and pairs of texts. It reads their members, lets the adapter check all
//! of them before any item is charged or run, and runs them in batches.

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
use serde_json::Value;
use std::ops::Range;

/// The most texts or pairs of one call, as for embeddings.
pub(super) const MAX_TEXTS: usize = embeddings::MAX_INPUTS;

/// The most bytes of all pairs of a call. One text is part of many pairs, so a small body could otherwise become
/// large.
const MAX_PAIRED_BYTES: usize = 16 << 20;

/// Pairs the text at `pointer` with each of the others.
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

/// Returns the JSON pointer of a part of a row: the arguments are the row and the part.
pub(super) type Places = Box<dyn Fn(usize, usize) -> String>;

/// Texts or pairs for the adapter.
pub(super) struct Texts {
    rows: Vec<Vec<String>>,
    places: Places,
    /// The kind of result that the surface needs, for the message if the model does not produce it.
    gives: &'static str,
    cut_to: Option<u32>,
    /// The adapter's first step for all rows, if they fit into one run.
    begun: Option<Step>,
    /// The most rows of one run.
    at_once: usize,
}

impl Texts {
    /// Lets the adapter check all rows. `asked_cut` is the number of tokens that the body asks to cut texts to.
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

    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the rows in the order of the body.
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
                // A faulty adapter may report the index of an item or part that does not exist.
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
                    "`{place}`: {message} Or set `truncate_prompt_tokens` to -1, or `truncate` to true, to cut it."
                ),
            ),
        }
    }

    /// Runs all rows in batches. Returns the answers before the disclosure rules.
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

    /// Returns the answer as JSON, before and after the disclosure rules.
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

    /// Returns the problem if the model's answer lacks the result that the surface needs.
    pub fn lacking(&self, model: &str) -> Problem {
        gives_none(model, self.gives)
    }
}

/// Returns the sum of the units that the adapter counted.
pub(super) fn units(answers: &[AdapterAnswer]) -> u64 {
    answers
        .iter()
        .fold(0, |sum, answer| sum.saturating_add(answer.units))
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

/// Returns a problem with one violation.
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

/// Returns the problem of a member with a wrong type or value.
pub(super) fn wrong(pointer: &str, expected: &str, value: &str) -> Problem {
    let message = format!("`{pointer}` is {}; it has to be {expected}", shorten(value));
    refuse(Code::InvalidBody, pointer, "wrong_type", expected, message)
}

/// Returns the problem of a missing member.
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

/// Returns the members of a body. A member outside `known` is an error. A null member counts as absent.
pub(super) fn members<'b>(
    body: &'b str,
    known: &[&str],
) -> Result<Vec<(String, &'b str)>, Problem> {
    if scan::kind(body) != b'{' {
        // A body that is not JSON gets the JSON error instead.
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

/// The members that all these surfaces treat alike.
#[derive(Default)]
pub(super) struct Common {
    /// The number of tokens to which longer texts are cut; `None` if the body does not set it.
    pub cut_to: Option<u32>,
}

impl Common {
    /// Reads a member if it is one of the common ones. Returns whether it was.
    pub fn read(&mut self, name: &str, value: &str) -> Result<bool, Problem> {
        let pointer = format!("/{name}");
        match name {
            // The model's name was read before. The user's name is not used.
            "model" | "user" => {
                string(&pointer, value)?;
            }
            // A member of Text Embeddings Inference's API.
            "truncate" => {
                if boolean(&pointer, value)? {
                    self.cut_to = Some(u32::MAX);
                }
            }
            // A member of vLLM's API.
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
            // The model's contract decides the form of scores, so only false is accepted.
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

/// Returns the elements of a list, which must have 1 to [`MAX_TEXTS`] elements.
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

/// Reads a string or a list of strings. Also returns whether it is a list.
pub(super) fn strings(pointer: &str, value: &str) -> Result<(Vec<String>, bool), Problem> {
    let expected = "a string or a list of strings";
    if scan::kind(value) == b'"' {
        return Ok((vec![string(pointer, value)?], false));
    }
    let each = list(pointer, value, expected)?.into_iter().enumerate();
    let all = each.map(|(at, value)| string(&format!("{pointer}/{at}"), value));
    Ok((all.collect::<Result<_, _>>()?, true))
}

/// Returns the reason why a body names no model.
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
