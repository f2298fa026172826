//! Decides which version answers a call, and what the answer says of it.

use crate::catalogue::{Catalogue, Model, Seeker};
use crate::gate::Context;
use crate::ports::{Headers, Ports};
use crate::record::Request;
use crate::rollout::Counted;
use crate::route::{Target, shorten};
use penstock_core::{Caller, Code, ModelVersion, Problem};
use penstock_policy::rollout::identity;

/// The version that answers, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Serving {
    pub version: ModelVersion,
    /// In a word, for callers.
    pub reason: String,
    /// The run of a canary that the call is counted for.
    pub counted: Option<Counted>,
    /// The version that runs beside it for comparison.
    pub shadow: Option<ModelVersion>,
    /// What callers are told of a version that is to go.
    pub notice: Headers,
}

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
pub(super) fn pinned(
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
