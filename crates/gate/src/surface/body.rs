//! Reads the parts of bodies that all surfaces share: the media type, the text and the model's name.

use crate::coding;
use crate::record::Request;
use crate::route::shorten;
use penstock_core::negotiate::is_json;
use penstock_core::{Code, Problem, Violation};
use penstock_tensor::InferRequest;
use penstock_tensor::json::{Names, Scanner};

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

/// The largest body in bytes that is searched for the model's name before authentication. OpenAI's largest call,
/// 2,048 inputs with 300,000 tokens in total, has about 2 MB.
pub(crate) const MAX_PEEKED_BYTES: usize = 4 << 20;

/// Returns the model that a request's body names; `None` if it names none.
pub(crate) fn model_of(request: &Request) -> Option<String> {
    if request.body.len() > MAX_PEEKED_BYTES {
        return None;
    }
    let coding = coding::of(request).ok()?;
    let body = coding::body(&request.body, coding, MAX_PEEKED_BYTES as u64).ok()?;
    let mut scanner = Scanner::new(&body);
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names).ok()?;
    while let Some(name) = member {
        if name == "model" {
            return scanner.string().ok().map(|name| name.into_owned());
        }
        scanner.skip_value().ok()?;
        member = scanner.next_member(&mut names).ok()?;
    }
    None
}

/// Checks that a model named in the body is the same as in the path. Clients repeat it there.
pub(super) fn names_model(parsed: &InferRequest, model: &str) -> Result<(), Problem> {
    match parsed.model_name.as_deref() {
        None | Some("") => Ok(()),
        Some(named) if named == model => Ok(()),
        Some(named) => {
            let message = format!(
                "model_name is `{}`, and the path names model `{model}`; send the same name, or leave model_name out",
                shorten(named)
            );
            let violation = Violation::new("/model_name", "wrong_model", model, message.clone());
            Err(Problem::new(Code::InvalidBody, message).with_violations(vec![violation], 0))
        }
    }
}

/// The kind of body, by its content type.
pub(super) enum BodyKind {
    Json,
    Raw,
}

/// Decides how to read a body. A model with an adapter accepts any content, and JSON if the content type is JSON. A
/// model without an adapter accepts JSON only.
pub(super) fn body_kind(
    content_type: Option<&str>,
    has_adapter: bool,
) -> Result<BodyKind, Problem> {
    let essence = content_type.map(|c| c.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(e) if is_json(e) => Ok(BodyKind::Json),
        _ if has_adapter => Ok(BodyKind::Raw),
        None | Some("") => Ok(BodyKind::Json),
        Some(other) => Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the content type `{}` is not accepted here; send `content-type: application/json`",
                shorten(other)
            ),
        )),
    }
}

/// Returns a JSON body as text. RFC 8259 §8.1 requires UTF-8.
pub(super) fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        let message = format!("the body is not UTF-8 from byte {at} on; send JSON as UTF-8");
        Problem::new(Code::MalformedJson, message.clone()).with_violations(
            vec![Violation::new(
                "",
                "invalid_utf8",
                "UTF-8 (RFC 8259 §8.1)",
                message,
            )],
            0,
        )
    })
}
