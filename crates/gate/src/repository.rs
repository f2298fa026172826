//! Decides what is told of the repository of models, and to whom, and what is done to it. The Open Inference Protocol's
//! extensions for statistics and for the repository, over REST and gRPC.

use crate::catalogue::Catalogue;
use crate::coding;
use crate::gate::Answered;
use crate::ports::{ControlFailure, ControlFailureKind, Headers, Ports};
use crate::record::{Request, Response};
use crate::route::{Route, Target, shorten};
use penstock_core::{Code, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Map, Value};

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

/// Loads a model, or loads it anew. The answer has no body, as in the specification.
pub(crate) fn load<P: Ports>(
    ports: &P,
    catalogue: &Catalogue<P>,
    model: &str,
) -> Result<Answered, Problem> {
    (ports.load(model)).map_err(|failure| failed(failure, |_| catalogue.unknown(model)))?;
    Ok(done())
}

/// Lets go of a model.
pub(crate) fn unload<P: Ports>(
    ports: &P,
    catalogue: &Catalogue<P>,
    model: &str,
) -> Result<Answered, Problem> {
    (ports.unload(model)).map_err(|failure| failed(failure, |_| catalogue.unknown(model)))?;
    Ok(done())
}

fn done() -> Answered {
    Answered::whole(Response::new(200, "application/json", Vec::new()))
}

/// The largest body of a request to the repository; what it may have takes a hundred bytes.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// The body of a request for the index.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct IndexBody {
    ready: bool,
}

/// The body of a request to load or unload.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ControlBody {
    parameters: Map<String, Value>,
}

/// What an unload may be told. Nothing here depends on another model, so it changes nothing.
const UNLOAD_DEPENDENTS: &str = "unload_dependents";

/// The route with what its body asks; of a route that is not the repository's, as it is.
pub(crate) fn read(route: &Route, request: &Request) -> Result<Route, Problem> {
    match route {
        Route::RepositoryIndex { .. } => {
            let IndexBody { ready } = body(request)?;
            return Ok(Route::RepositoryIndex { ready });
        }
        Route::RepositoryLoad(_) => {
            let ControlBody { parameters } = body(request)?;
            if let Some(name) = parameters.keys().next() {
                return Err(Problem::new(
                    Code::InvalidBody,
                    format!(
                        "`parameters.{}` is not taken: a model's files and contract are the operator's; send no parameters",
                        shorten(name)
                    ),
                ));
            }
        }
        Route::RepositoryUnload(_) => {
            let ControlBody { parameters } = body(request)?;
            let other = |(name, value): &(&String, &Value)| {
                *name != UNLOAD_DEPENDENTS || !value.is_boolean()
            };
            if let Some((name, _)) = parameters.iter().find(other) {
                return Err(Problem::new(
                    Code::InvalidBody,
                    format!(
                        "`parameters.{}` is not taken; the one there is is `{UNLOAD_DEPENDENTS}`, true or false",
                        shorten(name)
                    ),
                ));
            }
        }
        _ => {}
    }
    Ok(route.clone())
}

/// A body that is an object of this form, or nothing.
fn body<T: DeserializeOwned + Default>(request: &Request) -> Result<T, Problem> {
    let coding = coding::of(request, &mut Headers::new())?;
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!("the body has more than {MAX_BODY_BYTES} bytes, the most that is taken here"),
        )
    };
    if request.body.len() as u64 > MAX_BODY_BYTES {
        return Err(too_large());
    }
    let body = coding::body(&request.body, coding, MAX_BODY_BYTES)?;
    let text = body.trim_ascii();
    if text.is_empty() {
        return Ok(T::default());
    }
    let refused = |code, what: &dyn std::fmt::Display| {
        Problem::new(code, format!("the body cannot be read: {what}"))
    };
    // Members by their place are no members.
    if serde_json::from_slice::<Value>(text).is_ok_and(|value| !value.is_object()) {
        return Err(refused(Code::InvalidBody, &"it is JSON and no object"));
    }
    serde_json::from_slice(text).map_err(|error| {
        let code = match error.classify() {
            Category::Data => Code::InvalidBody,
            Category::Io | Category::Syntax | Category::Eof => Code::MalformedJson,
        };
        refused(code, &error)
    })
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
    // One that came or went since the instance read its catalogue.
    let unknown = |message| Problem::new(Code::UnknownVersion, message);
    let text = found.map_err(|failure| failed(failure, unknown))?;
    serde_json::from_str(&text).map_err(|_| {
        Problem::new(
            Code::Internal,
            "what the host says of its models is not JSON",
        )
    })
}

/// The problem a failure is answered with; `missing` makes the one of a model that there is none of.
fn failed(failure: ControlFailure, missing: impl FnOnce(String) -> Problem) -> Problem {
    let ControlFailure { kind, message } = failure;
    match kind {
        ControlFailureKind::Unsupported => Problem::new(Code::NotSupported, message),
        ControlFailureKind::NotFound => missing(message),
        ControlFailureKind::FailedPrecondition => Problem::new(Code::FailedPrecondition, message),
        ControlFailureKind::Failed => Problem::new(Code::StoreUnavailable, message)
            .retry_after(crate::policies::RETRY_STORE_S),
    }
}
