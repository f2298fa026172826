//! Checks a request whose headers arrived before its body (`Expect: 100-continue`). Nothing is charged: the complete
//! request is charged later.

use crate::catalogue::Catalogue;
use crate::coding;
use crate::connection::Announced;
use crate::ports::Ports;
use crate::record::{Request, Response};
use crate::route::Target;
use penstock_core::{Code, Problem};

/// The header that permits the host to request the body from the client.
const GO_ON: &str = "penstock-go-on";

/// Returns the answer that permits the host to request the body.
pub(super) fn go_on() -> Response {
    let mut response = Response::empty(204);
    response.push(GO_ON, "1");
    response
}

/// Checks a call by its headers; `None` if the model does not exist.
pub(super) fn judge<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    request: &Request,
    target: &Target,
    announced: Announced,
) -> Option<Result<Response, Problem>> {
    let checked = |limit: Option<u64>| {
        request.content_type()?;
        coding::of(request)?;
        match (announced.bytes, limit) {
            (Some(bytes), Some(limit)) if bytes > limit => Err(Problem::new(
                Code::BodyTooLarge,
                format!("the announced body has {bytes} bytes; this model takes at most {limit}"),
            )),
            _ => Ok(go_on()),
        }
    };
    // The body names the model, so its limit is not yet known.
    if target.model.is_empty() {
        return Some(checked(None));
    }
    let mut models = catalogue.iter_mut();
    let model = models.find(|model| model.name.as_str() == target.model)?;
    let opened = model.open(ports);
    Some(opened.and_then(|opened| checked(Some(opened.contract.limits.max_body_bytes))))
}
