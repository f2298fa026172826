//! Judges a request whose head came alone, with `Expect: 100-continue`. Nothing is charged: the call itself is, when its body
//! has come.

use crate::catalogue::Catalogue;
use crate::coding;
use crate::connection::Announced;
use crate::ports::Ports;
use crate::record::{Request, Response};
use crate::route::Target;
use penstock_core::{Code, Problem};

/// The header by which the host hears that the client may send the body.
const GO_ON: &str = "penstock-go-on";

/// Tells the host that the client may send the body.
pub(super) fn go_on() -> Response {
    let mut response = Response::empty(204);
    response.push(GO_ON, "1");
    response
}

/// Judges a call by its head; `None` where there is no such model.
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
                format!("the body is to have {bytes} bytes; this model takes at most {limit}"),
            )),
            _ => Ok(go_on()),
        }
    };
    // The body names the model.
    if target.model.is_empty() {
        return Some(checked(None));
    }
    let mut models = catalogue.iter_mut();
    let model = models.find(|model| model.name.as_str() == target.model)?;
    let opened = model.open(ports);
    Some(opened.and_then(|opened| checked(Some(opened.contract.limits.max_body_bytes))))
}
