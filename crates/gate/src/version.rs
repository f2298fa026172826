//! Finds the version that a call requests in its path, a header or its body.

use crate::catalogue::{Catalogue, Model, VersionQuery};
use crate::exchange::Context;
use crate::ports::Ports;
use crate::record::Request;
use crate::rollout::Serving;
use crate::route::{Target, shorten};
use penstock_core::{Caller, Code, Problem};
use penstock_policy::rollout::identity;

/// The header that names a version.
const VERSION: &str = "x-model-version";

/// Chooses the model and the version for a call. `body` is the version that the body names.
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
    let query = VersionQuery {
        caller: &identity(caller),
        request: Some(request),
        calls: true,
        now_ms: context.unix_ms,
        // Ids use the lower bits, so use the upper ones here.
        random: (context.random >> 64) as u64,
    };
    catalogue.choose(ports, &target, &query)
}

/// Returns the version that path, header and body name. Errors if they differ.
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
