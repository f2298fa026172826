//! Decides which version answers a call, and what the answer says of it.

use crate::catalogue::{Catalogue, Model, Seeker};
use crate::exchange::Context;
use crate::ports::Ports;
use crate::record::Request;
use crate::rollout::Serving;
use crate::route::{Target, shorten};
use penstock_core::{Caller, Code, Problem};
use penstock_policy::rollout::identity;

/// What a request says of the version it wants beside its path.
const VERSION: &str = "x-model-version";

/// Finds the model and the version a call means; `body` is the version its body names.
pub(crate) fn choose<'c, P: Ports>(
    ports: &P,
    catalogue: &'c mut Catalogue<P>,
    target: &Target,
    request: &Request,
    body: Option<&str>,
    (caller, context): (&Caller, &Context),
) -> Result<(&'c mut Model<P>, Serving), Problem> {
    let target = Target {
        model: target.model.clone(),
        version: pinned(target, request, body)?,
    };
    let seeker = Seeker {
        caller: &identity(caller),
        request: Some(request),
        calls: true,
        now_ms: context.unix_ms,
        // Other bits than those that ids are made of.
        random: (context.random >> 64) as u64,
    };
    catalogue.choose(ports, &target, &seeker)
}

/// The version that path, header and body ask for; they must not contradict each other.
pub(crate) fn pinned(
    target: &Target,
    request: &Request,
    body: Option<&str>,
) -> Result<Option<String>, Problem> {
    let headers = request
        .headers
        .iter()
        .filter(|header| header.name == VERSION);
    let headers = headers.map(|header| String::from_utf8_lossy(&header.value).trim().to_owned());
    let mut named = headers
        .chain(target.version.clone())
        .chain(body.map(str::to_owned));
    let Some(first) = named.next() else {
        return Ok(None);
    };
    match named.find(|other| *other != first) {
        None => Ok(Some(first)),
        Some(other) => Err(Problem::new(
            Code::InvalidParameter,
            format!(
                "the request asks for version `{}` and for version `{}`; name one",
                shorten(&first),
                shorten(&other)
            ),
        )),
    }
}
