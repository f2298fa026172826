//! Decides which version answers a call, and what the answer says of it.

use crate::catalogue::{Catalogue, Model};
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

/// Finds the model and the version a call means: the pinned one, else the highest that is ready, else the highest.
pub(crate) fn choose<'c, P: Ports>(
    ports: &P,
    catalogue: &'c mut Catalogue<P>,
    target: &Target,
    request: &Request,
) -> Result<(&'c mut Model<P>, Serving), Problem> {
    let pinned = pinned(target, request)?;
    let is_pinned = pinned.is_some();
    let target = Target {
        model: target.model.clone(),
        version: pinned,
    };
    let (model, version) = catalogue.resolve(ports, &target)?;
    let reason = if is_pinned { "pinned" } else { "latest" };
    Ok((
        model,
        Serving {
            version,
            reason: reason.to_owned(),
        },
    ))
}

/// The version that path and header name; they must not contradict each other.
fn pinned(target: &Target, request: &Request) -> Result<Option<String>, Problem> {
    let mut named = request
        .headers
        .iter()
        .filter(|header| header.name == VERSION);
    let Some(header) = named.next() else {
        return Ok(target.version.clone());
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let header = text(&header.value);
    let others = named
        .map(|another| text(&another.value))
        .chain(target.version.clone());
    for other in others {
        if other != header {
            return Err(Problem::new(
                Code::InvalidParameter,
                format!(
                    "the request asks for version `{}` and for version `{}`; name one",
                    shorten(&header),
                    shorten(&other)
                ),
            ));
        }
    }
    Ok(Some(header))
}
