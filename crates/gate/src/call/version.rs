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

/// Finds the model and the version a call means.
pub(crate) fn choose<'c, P: Ports>(
    ports: &P,
    catalogue: &'c mut Catalogue<P>,
    target: &Target,
    request: &Request,
    caller: &Caller,
    context: &Context,
) -> Result<(&'c mut Model<P>, Serving), Problem> {
    let target = Target {
        model: target.model.clone(),
        version: pinned(target, request)?,
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

