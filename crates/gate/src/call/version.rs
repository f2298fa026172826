//! Decides which version answers a call, and what the answer says of it.

use crate::catalogue::Model;
use crate::ports::Ports;
use crate::record::Request;
use crate::route::{Target, shorten};
use penstock_core::{Code, ModelVersion, Problem};

/// The version that answers, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub version: ModelVersion,
    /// In a word, for callers.
    pub reason: String,
}

/// What a request says of the version it wants beside its path.
const VERSION: &str = "x-model-version";

/// The version of a model that answers: the one that is asked for, else the highest that is ready, else the highest.
pub(crate) fn choose<P: Ports>(
    ports: &P,
    model: &mut Model<P>,
    pinned: Option<&str>,
) -> Result<Serving, Problem> {
    let version = model.version(ports, pinned)?;
    let reason = if pinned.is_some() { "pinned" } else { "latest" };
    Ok(Serving {
        version,
        reason: reason.to_owned(),
    })
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
