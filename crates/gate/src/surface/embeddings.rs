//! Implements OpenAI's `/v1/embeddings`: texts or token ids in, vectors out. The model's adapter must produce
//! embeddings.

use super::body::{JSON, MAX_PEEKED_BYTES, text};
use super::{content, scan};
use crate::catalogue::Opened;
use crate::ports::{AdapterPort, AdapterRefusal, Item, Part, Ports, RefusalKind, Step};
use crate::problem::{broken_adapter, outputs_too_large};
use crate::record::Response;
use crate::route::shorten;
use crate::run::prepare::{Unprepared, at_once, cut_to, prepare_cut};
use crate::run::{Runner, SurfaceAnswer, Work};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_core::{Code, Problem, Violation};
use penstock_tensor::Contract;
use penstock_tensor::contract::{AdapterSpec, Tokens};
use penstock_tensor::json::{Names, Scanner};
use penstock_tensor::render;
use std::ops::Range;

/// The most inputs of one call, as in OpenAI's API.
pub(crate) const MAX_INPUTS: usize = 2_048;

/// The members of a body. `truncate_prompt_tokens` is vLLM's; the others are OpenAI's.
const MEMBERS: &str =
    "`input`, `model`, `encoding_format`, `dimensions`, `user` and `truncate_prompt_tokens`";

/// The encoding of vectors in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Float,
    Base64,
}

/// One input for a vector: a text, or token ids.
#[derive(Clone, Debug, PartialEq)]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

struct Embeddings {
    inputs: Vec<Input>,
    /// Whether `input` is one text or one list of tokens instead of an array of them.
    is_single: bool,
    encoding: Encoding,
    dimensions: Option<u64>,
    /// The number of tokens to which longer texts are cut; `None` means that longer texts are refused.
    cut_to: Option<u32>,
    /// The adapter's first step for all inputs, if they fit into one run.
    begun: Option<Step>,
    /// The most inputs of one run.
    at_once: usize,
}

/// Returns the reason why a body names no model.
pub(super) fn unnamed(body: &[u8]) -> Problem {
    if body.len() > MAX_PEEKED_BYTES {
        return Problem::new(
            Code::BodyTooLarge,
            format!(
                "the body has {} bytes; embeddings take at most {MAX_PEEKED_BYTES}",
                body.len()
            ),
        );
    }
    match text(body).and_then(read) {
        Err(problem) => problem,
        Ok(_) => refuse(
            Code::InvalidBody,
            "/model",
            "missing_member",
            "the name of a model",
            "`/model` is missing; name one of those that GET /v1/models lists".to_owned(),
        ),
    }
}

/// Reads the body of a call. The adapter checks all inputs before any item is charged or run.
pub(super) fn decode<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let request = read(text(body)?)?;
    let Some(adapter) = &opened.adapter else {
        return Err(no_embeddings(model));
    };
    let contract = &opened.contract;
    let takes_tokens = |adapter: &AdapterSpec| adapter.tokens == Tokens::Accept;
    if !contract.adapter.as_ref().is_some_and(takes_tokens) {
        let mut inputs = request.inputs.iter();
        if let Some(at) = inputs.position(|input| matches!(input, Input::Tokens(_))) {
            return Err(no_tokens(model, &pointer(at, request.is_single)));
        }
    }
    let request = Embeddings {
        cut_to: request.cut_to.or_else(|| cut_to(contract)),
        at_once: at_once(contract),
        ..request
    };
    let mut begun = None;
    for (index, chunk) in request.inputs.chunks(request.at_once).enumerate() {
        begun = Some(request.begin(adapter, contract, model, (index * request.at_once, chunk))?);
    }
    Ok(Box::new(Embeddings {
        begun: begun.filter(|_| request.inputs.len() <= request.at_once),
        ..request
    }))
}

impl Embeddings {
    /// Starts the adapter on some inputs. `first` is the index of the first of them in the body.
    fn begin<A: AdapterPort>(
        &self,
        adapter: &A,
        contract: &Contract,
        model: &str,
        (first, chunk): (usize, &[Input]),
    ) -> Result<Step, Problem> {
        let step = prepare_cut(adapter, contract, model, &items(chunk), self.cut_to);
        step.map_err(|unprepared| match unprepared {
            Unprepared::Broken(problem) => problem,
            Unprepared::Refused(refusal) => {
                // A faulty adapter may report the index of an item that does not exist.
                let item = (refusal.item as usize).min(chunk.len().saturating_sub(1));
                refused(refusal, model, &pointer(first + item, self.is_single))
            }
        })
    }
}

/// Returns the JSON pointer of an input in the body.
fn pointer(index: usize, is_single: bool) -> String {
    match is_single {
        true => "/input".to_owned(),
        false => format!("/input/{index}"),
    }
}

/// Returns the problem of an input that the adapter refused, with the input's place in the body.
fn refused(refusal: AdapterRefusal, model: &str, pointer: &str) -> Problem {
    match refusal.kind {
        // An adapter that refuses both text and tokens cannot produce embeddings of them.
        RefusalKind::UnsupportedMediaType(_) => no_embeddings(model),
        RefusalKind::InvalidContent(message) => refuse(
            Code::InvalidInputs,
            pointer,
            "invalid_content",
            "content the adapter can read",
            format!("`{pointer}`: {message}"),
        ),
        RefusalKind::TooLong(message) => refuse(
            Code::ContextLengthExceeded,
            pointer,
            "context_length_exceeded",
            "no more tokens than the model can read",
            format!("`{pointer}`: {message} Or set `truncate_prompt_tokens` to -1 to cut it."),
        ),
    }
}

/// Returns the problem of refused token ids. It names the client setting that makes some clients send them by
/// default.
fn no_tokens(model: &str, pointer: &str) -> Problem {
    refuse(
        Code::InvalidInputs,
        pointer,
        "tokens_not_accepted",
        "a text",
        format!(
            "`{pointer}` has token ids, and model `{model}` takes texts here: ids of another vocabulary than the model's \
             would give a wrong vector and no error. Send the text itself; with langchain-openai, set \
             check_embedding_ctx_length=False. The operator allows ids of the model's own vocabulary with \
             `tokens = \"accept\"` under [adapter] in model.toml."
        ),
    )
}

fn items(inputs: &[Input]) -> Vec<Item<'_>> {
    fn part(input: &Input) -> Part<'_> {
        match input {
            Input::Text(text) => Part::Text(text),
            Input::Tokens(tokens) => Part::Tokens(tokens),
        }
    }
    let one = |input| Item {
        parts: vec![part(input)],
    };
    inputs.iter().map(one).collect()
}

fn no_embeddings(model: &str) -> Problem {
    refuse(
        Code::InvalidInputs,
        "/model",
        "no_embeddings",
        "a model whose adapter gives embeddings",
        format!(
            "model `{model}` gives no embeddings; GET /v1/models lists the models and their adapters"
        ),
    )
}

fn refuse(
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

/// Checks the body's members. Names each member of OpenAI's API that this server does not support.
fn read(body: &str) -> Result<Embeddings, Problem> {
    let form = |pointer: &str, rule: &'static str, expected: &str, found: &str| {
        refuse(
            Code::InvalidBody,
            pointer,
            rule,
            expected,
            format!("`{pointer}` is {found}; it has to be {expected}"),
        )
    };
    if scan::kind(body) != b'{' {
        // A body that is not JSON gets the JSON error instead.
        scan::members(body)?;
        return Err(form("", "wrong_type", "an object", "something else"));
    }
    let (mut input, mut encoding) = (None, Encoding::Float);
    let (mut dimensions, mut cut_to) = (None, None);
    // Some clients write null for an unset member.
    for (name, value) in scan::present(body)? {
        match name.as_str() {
            // The model's name was read before. The user's name is not used.
            "model" | "user" if scan::kind(value) == b'"' => {}
            "input" => input = Some(value),
            "encoding_format" => {
                encoding = match scan::of::<String>(value).as_deref() {
                    Some("float") => Encoding::Float,
                    Some("base64") => Encoding::Base64,
                    _ => {
                        let found = shorten(value);
                        let expected = "\"float\" or \"base64\"";
                        return Err(form("/encoding_format", "unknown_value", expected, &found));
                    }
                }
            }
            "dimensions" => {
                let Some(number) = scan::of::<u64>(value).filter(|number| *number > 0) else {
                    let found = shorten(value);
                    return Err(form(
                        "/dimensions",
                        "wrong_type",
                        "a whole number above 0",
                        &found,
                    ));
                };
                dimensions = Some(number);
            }
            "truncate_prompt_tokens" => {
                cut_to = Some(match scan::of::<i64>(value) {
                    // -1 means as many tokens as the model can read.
                    Some(-1) => u32::MAX,
                    Some(number @ 1..) => u32::try_from(number).unwrap_or(u32::MAX - 1),
                    _ => {
                        let found = shorten(value);
                        let expected =
                            "a whole number above 0, or -1 for as many as the model can read";
                        let pointer = "/truncate_prompt_tokens";
                        return Err(form(pointer, "wrong_type", expected, &found));
                    }
                });
            }
            "model" | "user" => {
                let pointer = format!("/{name}");
                return Err(form(&pointer, "wrong_type", "a string", "something else"));
            }
            _ => {
                return Err(refuse(
                    Code::InvalidBody,
                    "",
                    "unknown_member",
                    MEMBERS,
                    format!(
                        "the member `{}` is unknown; the members are {MEMBERS}",
                        shorten(&name)
                    ),
                ));
            }
        }
    }
    let Some(input) = input else {
        let expected =
            "a string, an array of strings, an array of token ids or an array of such arrays";
        return Err(form("/input", "missing_member", expected, "missing"));
    };
    let (inputs, is_single) = inputs(input)?;
    Ok(Embeddings {
        inputs,
        is_single,
        encoding,
        dimensions,
        cut_to,
        begun: None,
        at_once: 0,
    })
}

/// Reads the inputs of a call. Also returns whether `input` is a single input instead of an array.
fn inputs(text: &str) -> Result<(Vec<Input>, bool), Problem> {
    let wrong = |pointer: String, found: &str| {
        let expected = "a string, or token ids as whole numbers";
        let kind = match scan::kind(found) {
            b'n' => "null",
            b't' | b'f' => "a boolean",
            b'"' => "a string among other things",
            b'[' => "empty, or an array of other things",
            b'{' => "an object",
            _ => "a number among other things",
        };
        refuse(
            Code::InvalidBody,
            &pointer,
            "wrong_type",
            expected,
            format!("`{pointer}` is {kind}; each input has to be {expected}"),
        )
    };
    match scan::kind(text) {
        b'"' => {
            let text = scan::of(text).ok_or_else(|| wrong("/input".to_owned(), text))?;
            return Ok((vec![Input::Text(text)], true));
        }
        b'[' => {}
        _ => return Err(wrong("/input".to_owned(), text)),
    }
    let first = text.trim_start().get(1..).map_or(0, scan::kind);
    if first == b'-' || first.is_ascii_digit() {
        return Ok((vec![Input::Tokens(content::tokens("/input", text)?)], true));
    }
    let Some(list) = scan::elements(text, MAX_INPUTS)? else {
        return Err(refuse(
            Code::InvalidInputs,
            "/input",
            "too_many_items",
            &format!("at most {MAX_INPUTS} inputs"),
            format!("`/input` has more than {MAX_INPUTS} inputs, the maximum of one call"),
        ));
    };
    if list.is_empty() {
        return Err(wrong("/input".to_owned(), text));
    }
    let each = list.into_iter().enumerate();
    let each = each.map(|(index, value)| {
        let at = format!("/input/{index}");
        match scan::kind(value) {
            b'"' => match scan::of(value) {
                Some(text) => Ok(Input::Text(text)),
                None => Err(wrong(at, value)),
            },
            b'[' => match content::tokens(&at, value)? {
                ids if ids.is_empty() => Err(wrong(at, value)),
                ids => Ok(Input::Tokens(ids)),
            },
            _ => Err(wrong(at, value)),
        }
    });
    Ok((each.collect::<Result<_, _>>()?, false))
}

/// Finds the vector in the JSON answer of an embedding adapter.
fn vector_of(answer: &str) -> Option<&str> {
    let mut scanner = Scanner::new(answer.as_bytes());
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names).ok()?;
    while let Some(name) = member {
        // Skip leading white space, which is not part of the value.
        scanner.kind().ok()?;
        let from = scanner.offset();
        scanner.skip_value().ok()?;
        if name == "embedding" {
            return answer.get(from..scanner.offset());
        }
        member = scanner.next_member(&mut names).ok()?;
    }
    None
}

impl<P: Ports> Work<P> for Embeddings {
    fn items(&self) -> u64 {
        self.inputs.len() as u64
    }

    fn run(mut self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let (encoding, dimensions) = (self.encoding, self.dimensions);
        let mut begun = self.begun.take();
        let mut body = Vec::with_capacity(4096);
        body.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
        let (mut index, mut units) = (0, 0u64);
        for chunk in self.inputs.chunks(self.at_once) {
            let first = index;
            let begin = |runner: &Runner<'_, P>, items: Range<usize>| {
                let adapter = runner.opened.adapter.as_ref();
                let adapter = adapter.ok_or_else(|| no_embeddings(runner.model))?;
                let at = (first + items.start, &chunk[items]);
                self.begin(adapter, runner.contract(), runner.model, at)
            };
            for answer in runner.adapt_each(chunk.len(), begun.take(), begin)? {
                units = units.saturating_add(answer.units);
                let Some(vector) = vector_of(&answer.text) else {
                    return Err(no_embeddings(runner.model));
                };
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
                body.extend_from_slice(index.to_string().as_bytes());
                body.extend_from_slice(b",\"embedding\":");
                write(&mut body, vector, encoding, dimensions, runner.model)?;
                body.push(b'}');
                index += 1;
            }
        }
        body.extend_from_slice(b"],\"model\":");
        render::write_string(&mut body, runner.model);
        body.extend_from_slice(
            format!(",\"usage\":{{\"prompt_tokens\":{units},\"total_tokens\":{units}}}}}")
                .as_bytes(),
        );
        let prediction_id = runner.prediction_id();
        Ok(SurfaceAnswer {
            response: Response::new(200, JSON, body),
            prediction_id: Some(prediction_id),
        })
    }
}

/// Writes the vector of one input. Errors if the model's vectors do not have the requested number of dimensions.
fn write(
    body: &mut Vec<u8>,
    vector: &str,
    encoding: Encoding,
    dimensions: Option<u64>,
    model: &str,
) -> Result<(), Problem> {
    // Reserve room for the surrounding JSON too. The vector's decimal text is never shorter than its base64 form.
    body.try_reserve(vector.len() + 256)
        .map_err(|_| outputs_too_large(body.len()))?;
    if encoding == Encoding::Float && dimensions.is_none() {
        body.extend_from_slice(vector.as_bytes());
        return Ok(());
    }
    let numbers: Vec<f32> = serde_json::from_str(vector).map_err(|e| {
        broken_adapter(
            model,
            &format!("its embedding is not a list of numbers: {e}"),
        )
    })?;
    if let Some(asked) = dimensions
        && asked != numbers.len() as u64
    {
        return Err(refuse(
            Code::InvalidInputs,
            "/dimensions",
            "unsupported_value",
            &numbers.len().to_string(),
            format!(
                "model `{model}` gives vectors of {} numbers and cannot shorten them to {asked}; leave `dimensions` out",
                numbers.len()
            ),
        ));
    }
    match encoding {
        Encoding::Float => body.extend_from_slice(vector.as_bytes()),
        Encoding::Base64 => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            body.push(b'"');
            body.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            body.push(b'"');
        }
    }
    Ok(())
}
