//! Decides what is told of the repository of models, and to whom, and what is done to it. The Open Inference Protocol's
//! extensions for statistics and for the repository, over REST and gRPC.

use crate::catalogue::Catalogue;
use crate::gate::Answered;
use crate::ports::{ControlFailure, ControlFailureKind, Ports};
use crate::route::{Target, shorten};
use penstock_core::{Code, Problem};
use serde_json::{Value, json};

/// Which of some models are to be shown.
type Sees<'a> = &'a dyn Fn(&[String]) -> Vec<bool>;

/// How one model did, or all that the caller may know of.
pub(crate) fn statistics<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    target: Option<&Target>,
    sees: Sees<'_>,
) -> Result<Answered, Problem> {
    let found = match target {
        None => ports.statistics(None, None),
        Some(target) => {
            let (model, version) = catalogue.resolve(ports, target)?;
            let version = target.version.as_ref().map(|_| version);
            ports.statistics(Some(model.name.as_str()), version)
        }
    };
    let mut said = parsed(found)?;
    if let Some(all) = said.get_mut("model_stats").and_then(Value::as_array_mut) {
        shown(all, sees);
    }
    Ok(Answered::json(200, &said))
}

/// Which models there are, of those the caller may know of.
pub(crate) fn index<P: Ports>(ports: &P, ready: bool, sees: Sees<'_>) -> Result<Answered, Problem> {
    let mut said = parsed(ports.index(ready))?;
    if let Some(all) = said.as_array_mut() {
        shown(all, sees);
    }
    Ok(Answered::json(200, &said))
}

/// Loads a model, or loads it anew.
pub(crate) fn load<P: Ports>(ports: &P, model: &str) -> Result<Answered, Problem> {
    ports.load(model).map_err(|f| failed(f, model))?;
    Ok(Answered::json(200, &json!({})))
}

/// Lets go of a model.
pub(crate) fn unload<P: Ports>(ports: &P, model: &str) -> Result<Answered, Problem> {
    ports.unload(model).map_err(|f| failed(f, model))?;
    Ok(Answered::json(200, &json!({})))
}

/// Leaves in a list what is about models that are to be shown.
fn shown(all: &mut Vec<Value>, sees: Sees<'_>) {
    let name = |entry: &Value| {
        let name = entry.get("name").and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let names: Vec<String> = all.iter().map(name).collect();
    let mut seen = sees(&names).into_iter();
    all.retain(|_| seen.next() == Some(true));
}

fn parsed(found: Result<String, ControlFailure>) -> Result<Value, Problem> {
    let text = found.map_err(|f| failed(f, ""))?;
    serde_json::from_str(&text).map_err(|_| {
        Problem::new(
            Code::Internal,
            "what the host says of its models is not JSON",
        )
    })
}

fn failed(failure: ControlFailure, model: &str) -> Problem {
    let ControlFailure { kind, message } = failure;
    match kind {
        ControlFailureKind::Unsupported => Problem::new(
            Code::FailedPrecondition,
            format!("this host cannot do that: {message}"),
        ),
        ControlFailureKind::NotFound => Problem::new(
            Code::UnknownModel,
            format!("there is no model `{}`", shorten(model)),
        ),
        ControlFailureKind::FailedPrecondition => Problem::new(Code::FailedPrecondition, message),
        ControlFailureKind::Failed => Problem::new(Code::StoreUnavailable, message)
            .retry_after(crate::policies::RETRY_STORE_S),
    }
}
