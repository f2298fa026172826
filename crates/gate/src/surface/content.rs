//! Reads the content of a body: the whole body as one part, or `{"content":[…]}` with parts of several types.

use super::scan;
use crate::catalogue::Opened;
use crate::ports::{Blob, ContractPort, Item, Part, Ports, Step};
use crate::problem::{no_adapter, rejected};
use crate::route::shorten;
use crate::run::prepare::prepare;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_core::{Code, Problem, Violation};
use penstock_tensor::json::{Names, Scan, Scanner, whole_number};
use penstock_tensor::{MAX_ID_BYTES, Rejection, Tensor, Unknown};

/// The most parts of one item.
pub(crate) const MAX_PARTS: usize = 64;

/// A decoded part of the content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OwnedPart {
    Text(String),
    Tokens(Vec<u32>),
    Image(Option<String>, Vec<u8>),
    Audio(Option<String>, Vec<u8>),
    Bytes(Option<String>, Vec<u8>),
}

impl OwnedPart {
    /// Returns the part in the form that adapters take.
    pub fn part(&self) -> Part<'_> {
        match self {
            Self::Text(text) => Part::Text(text),
            Self::Tokens(tokens) => Part::Tokens(tokens),
            Self::Image(media_type, body) => Part::Image(Blob {
                media_type: media_type.as_deref(),
                body,
            }),
            Self::Audio(media_type, body) => Part::Audio(Blob {
                media_type: media_type.as_deref(),
                body,
            }),
            Self::Bytes(media_type, body) => Part::Bytes(Blob {
                media_type: media_type.as_deref(),
                body,
            }),
        }
    }
}

/// The content of a body, parsed and decoded.
pub(crate) enum Content {
    /// The parts that the adapter gets.
    Parts(Vec<OwnedPart>),
    /// Tensors, checked against the contract. They bypass the adapter.
    Tensors(Vec<Tensor>),
}

/// A parsed body of the form `{"content":[…]}`.
pub(crate) struct ContentBody {
    /// The caller's own id of the call.
    pub id: Option<String>,
    pub model_version: Option<String>,
    pub content: Content,
}

/// The most token ids of one part. Models read some hundreds.
pub(super) const MAX_TOKENS: usize = 65_536;

/// One part before decoding. Each member is a slice of the JSON text.
#[derive(Default)]
struct Written<'t> {
    kind: String,
    text: Option<&'t str>,
    tokens: Option<&'t str>,
    data: Option<&'t str>,
    media_type: Option<String>,
    url: Option<&'t str>,
    name: Option<&'t str>,
    datatype: Option<&'t str>,
    shape: Option<&'t str>,
}

impl<'t> Written<'t> {
    fn read(at: &str, text: &'t str) -> Result<Self, Problem> {
        if scan::kind(text) != b'{' {
            return Err(invalid(
                at,
                "invalid_part",
                "a part of content, which is an object",
            ));
        }
        let mut part = Self::default();
        let string = |name: &str, value: &str| {
            scan::of::<String>(value)
                .ok_or_else(|| invalid(&format!("{at}/{name}"), "wrong_type", "a string"))
        };
        for (name, value) in scan::present(text)? {
            match name.as_str() {
                "type" => part.kind = string("type", value)?,
                "media_type" => part.media_type = Some(string("media_type", value)?),
                "text" => part.text = Some(value),
                "tokens" => part.tokens = Some(value),
                "data" => part.data = Some(value),
                "url" => part.url = Some(value),
                "name" => part.name = Some(value),
                "datatype" => part.datatype = Some(value),
                "shape" => part.shape = Some(value),
                other => {
                    let expected =
                        format!("a part of content; there is no member `{}`", shorten(other));
                    return Err(invalid(at, "invalid_part", &expected));
                }
            }
        }
        Ok(part)
    }
}

/// Returns whether a JSON body has content. The first decisive member decides, so that large inputs are not read
/// twice.
pub(crate) fn is_content(body: &[u8]) -> bool {
    let read = || -> Scan<bool> {
        let mut scanner = Scanner::new(body);
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            // A null member counts as absent.
            if !scanner.skip_null()? {
                match name.as_ref() {
                    "content" => return Ok(true),
                    "inputs" => return Ok(false),
                    _ => scanner.skip_value()?,
                }
            }
            member = scanner.next_member(&mut names)?;
        }
        Ok(false)
    };
    // The parser of inputs reports invalid JSON.
    read().unwrap_or(false)
}

/// Reads a body that has content.
pub(crate) fn read<P: Ports>(opened: &Opened<P>, body: &str) -> Result<ContentBody, Problem> {
    let (mut id, mut model_version, mut parts) = (None, None, None);
    for (name, value) in scan::members(body)? {
        match name.as_str() {
            "id" | "model_version" if scan::kind(value) == b'n' => {}
            "id" | "model_version" => {
                let at = format!("/{name}");
                let word = scan::of::<String>(value)
                    .ok_or_else(|| invalid(&at, "wrong_type", "a string"))?;
                if word.len() > MAX_ID_BYTES {
                    let expected = format!("at most {MAX_ID_BYTES} bytes");
                    return Err(invalid(&at, "too_long", &expected));
                }
                match name.as_str() {
                    "id" => id = Some(word),
                    _ => model_version = Some(word),
                }
            }
            "content" => parts = Some(value),
            other => {
                return Err(invalid(
                    "",
                    "unknown_member",
                    &format!(
                        "the members `content`, `id` and `model_version`; there is no `{}`",
                        shorten(other)
                    ),
                ));
            }
        }
    }
    let content = parts.map_or(Ok(Content::Parts(Vec::new())), |parts| {
        read_parts(opened, parts)
    })?;
    Ok(ContentBody {
        id,
        model_version,
        content,
    })
}

fn read_parts<P: Ports>(opened: &Opened<P>, text: &str) -> Result<Content, Problem> {
    // A single part counts as an array of one, and a string as one text.
    let written = match scan::kind(text) {
        b'[' => scan::elements(text, MAX_PARTS)?,
        b'{' => Some(vec![text]),
        b'"' => {
            let text = scan::of::<String>(text)
                .ok_or_else(|| invalid("/content", "wrong_type", "an array of parts"))?;
            return Ok(Content::Parts(vec![OwnedPart::Text(text)]));
        }
        _ => return Err(invalid("/content", "wrong_type", "an array of parts")),
    };
    let Some(written) = written.filter(|written| !written.is_empty()) else {
        let expected = format!("1 to {MAX_PARTS} parts");
        return Err(invalid("/content", "part_count", &expected));
    };
    let mut parts = Vec::with_capacity(written.len());
    let mut tensors = String::new();
    for (index, text) in written.into_iter().enumerate() {
        let at = format!("/content/{index}");
        let part = Written::read(&at, text)?;
        match part.kind.as_str() {
            "tensor" => tensor(&mut tensors, &at, &part)?,
            _ => parts.push(owned(&at, part)?),
        }
    }
    match (tensors.is_empty(), parts.is_empty()) {
        (true, _) => Ok(Content::Parts(parts)),
        (false, true) => {
            tensors.insert_str(0, "{\"inputs\":[");
            tensors.push_str("]}");
            let parsed = opened
                .validation
                .parse_infer(&tensors, 0, Unknown::Refuse)
                .map_err(|rejection| rejected(in_content(rejection)))?;
            Ok(Content::Tensors(parsed.inputs))
        }
        (false, false) => Err(invalid(
            "/content",
            "mixed_content",
            "either parts of type tensor or parts for the adapter, not both",
        )),
    }
}

/// Rewrites the pointers of violations. The parts became the inputs in the same order, so `/inputs/0` is
/// `/content/0`.
fn in_content(mut rejection: Rejection) -> Rejection {
    for violation in &mut rejection.violations {
        if let Some(rest) = violation.pointer.strip_prefix("/inputs") {
            violation.pointer = format!("/content{rest}");
        }
    }
    rejection
}

/// Appends a tensor in the JSON form of the Open Inference Protocol.
fn tensor(tensors: &mut String, at: &str, part: &Written<'_>) -> Result<(), Problem> {
    let (Some(name), Some(datatype), Some(shape), Some(data)) =
        (part.name, part.datatype, part.shape, part.data)
    else {
        return Err(invalid(
            at,
            "missing_member",
            "`name`, `datatype`, `shape` and `data` in a part of type tensor",
        ));
    };
    if !tensors.is_empty() {
        tensors.push(',');
    }
    for (before, value) in [
        ("{\"name\":", name),
        (",\"datatype\":", datatype),
        (",\"shape\":", shape),
        (",\"data\":", data),
        ("}", ""),
    ] {
        tensors.push_str(before);
        tensors.push_str(value);
    }
    Ok(())
}

/// Reads token ids, at most [`MAX_TOKENS`].
pub(super) fn tokens(at: &str, text: &str) -> Result<Vec<u32>, Problem> {
    let ids = "an array of token ids";
    if scan::kind(text) != b'[' {
        return Err(invalid(at, "wrong_type", ids));
    }
    let Some(written) = scan::elements(text, MAX_TOKENS)? else {
        let expected = format!("at most {MAX_TOKENS} token ids");
        return Err(invalid(at, "too_many_tokens", &expected));
    };
    let each = written.iter().enumerate();
    each.map(|(index, id)| {
        let read = whole_number(id).and_then(|id| u32::try_from(id).ok());
        read.ok_or_else(|| invalid(&format!("{at}/{index}"), "wrong_type", "a token id"))
    })
    .collect()
}

fn owned(at: &str, part: Written<'_>) -> Result<OwnedPart, Problem> {
    let Written {
        kind,
        text,
        tokens: ids,
        data,
        media_type,
        url,
        ..
    } = part;
    let string = |name: &str, value: &str| {
        scan::of::<String>(value)
            .ok_or_else(|| invalid(&format!("{at}/{name}"), "wrong_type", "a string"))
    };
    if kind == "text" {
        return match (text, ids) {
            (Some(text), None) => string("text", text).map(OwnedPart::Text),
            (None, Some(ids)) => tokens(&format!("{at}/tokens"), ids).map(OwnedPart::Tokens),
            _ => Err(invalid(
                at,
                "missing_member",
                "`text`, or `tokens`, in a part of type text",
            )),
        };
    }
    if !["image", "audio", "bytes"].contains(&kind.as_str()) {
        return Err(invalid(
            &format!("{at}/type"),
            "unknown_type",
            &format!(
                "one of text, image, audio, bytes and tensor, not `{}`",
                shorten(&kind)
            ),
        ));
    }
    let (media_type, body) = match (data, url) {
        (Some(data), None) => {
            let data = string("data", data)?;
            (media_type, decoded(&format!("{at}/data"), &data)?)
        }
        (None, Some(url)) => {
            let url = string("url", url)?;
            let (stated, body) = by_url(&format!("{at}/url"), &url)?;
            (media_type.or(stated), body)
        }
        _ => {
            return Err(invalid(
                at,
                "missing_member",
                &format!("`data` in base64, or `url`, in a part of type {kind}"),
            ));
        }
    };
    Ok(match kind.as_str() {
        "image" => OwnedPart::Image(media_type, body),
        "audio" => OwnedPart::Audio(media_type, body),
        _ => OwnedPart::Bytes(media_type, body),
    })
}

fn decoded(at: &str, data: &str) -> Result<Vec<u8>, Problem> {
    STANDARD
        .decode(data)
        .map_err(|e| invalid(at, "invalid_base64", &format!("base64 (RFC 4648 §4): {e}")))
}

/// Decodes the content of a `data:` URL (RFC 2397). Refuses other URLs, because the gate has no network access.
fn by_url(at: &str, url: &str) -> Result<(Option<String>, Vec<u8>), Problem> {
    let Some((head, data)) = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','))
    else {
        return Err(invalid(
            at,
            "url_not_allowed",
            "a data: URL; the server fetches no content, so send it as `data`",
        ));
    };
    let Some(media_type) = head.strip_suffix(";base64") else {
        return Err(invalid(at, "invalid_url", "a data: URL in base64"));
    };
    let media_type = (!media_type.is_empty()).then(|| media_type.to_owned());
    Ok((media_type, decoded(at, data)?))
}

fn invalid(pointer: &str, rule: &'static str, expected: &str) -> Problem {
    let place = if pointer.is_empty() {
        "the body".to_owned()
    } else {
        format!("`{pointer}`")
    };
    let message = format!("{place} has the wrong form; expected: {expected}");
    Problem::new(Code::InvalidBody, message.clone()).with_violations(
        vec![Violation::new(pointer, rule, expected.to_owned(), message)],
        0,
    )
}

/// Lets the adapter prepare one item's parts, before any item is charged or run.
pub(crate) fn begin<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    parts: &[OwnedPart],
) -> Result<Step, Problem> {
    let Some(adapter) = &opened.adapter else {
        return Err(no_adapter(model));
    };
    let item = Item {
        parts: parts.iter().map(OwnedPart::part).collect(),
    };
    prepare(adapter, &opened.contract, model, &[item])
}
