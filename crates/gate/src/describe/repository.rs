//! Implements the Open Inference Protocol's statistics and model repository extensions, over REST and gRPC. Callers see and
//! change only the models that they may.

use crate::catalogue::Catalogue;
use crate::coding;
use crate::policies::Sees;
use crate::ports::{ControlFailure, ControlFailureKind, Ports};
use crate::problem::rejected;
use crate::record::{Request, Response};
use crate::route::{Route, Target, replaces_model, shorten};
use penstock_core::{Code, Problem};
use penstock_tensor::json::{Scan, Scanner};
use penstock_tensor::{Rejection, Unknown};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Answers with the statistics of one model, or of all that the caller may see.
pub(crate) fn statistics<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    target: Option<&Target>,
    sees: Sees<'_>,
) -> Result<Response, Problem> {
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
    Ok(Response::json(200, &said))
}

/// Answers with the list of models that the caller may see.
pub(crate) fn index<P: Ports>(ports: &P, ready: bool, sees: Sees<'_>) -> Result<Response, Problem> {
    let mut said = parsed(ports.index(ready))?;
    if let Some(all) = said.as_array_mut() {
        shown(all, sees);
    }
    Ok(Response::json(200, &said))
}

/// The host's remarks on a version that is ready.
#[derive(Default)]
pub(crate) struct Remark {
    /// Such as files that are not served.
    pub(crate) reason: Option<String>,
    /// The comparison with another backend.
    pub(crate) agreement: Option<String>,
}

/// Returns the host's remarks on ready versions, by model and version. The result is empty if the host has no index.
pub(crate) fn remarks<P: Ports>(ports: &P) -> BTreeMap<(String, String), Remark> {
    let said = parsed(ports.index(true)).unwrap_or_default();
    let entries = said.as_array().into_iter().flatten();
    let remark = |entry: &Value| {
        let text = |name| {
            let text = entry.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let remark = Remark {
            reason: text("reason"),
            agreement: text("agreement"),
        };
        Some(((text("name")?, text("version")?), remark))
    };
    entries.filter_map(remark).collect()
}

/// Loads or reloads a model. The answer has no body, as in the specification.
pub(crate) fn load<P: Ports>(
    ports: &P,
    catalogue: &Catalogue<P>,
    model: &str,
) -> Result<Response, Problem> {
    (ports.load(model)).map_err(|failure| failed(failure, |_| catalogue.unknown(model)))?;
    Ok(done())
}

/// Unloads a model and answers when the host has done it. The answer has no body.
pub(crate) fn unload<P: Ports>(
    ports: &P,
    catalogue: &Catalogue<P>,
    model: &str,
) -> Result<Response, Problem> {
    (ports.unload(model)).map_err(|failure| failed(failure, |_| catalogue.unknown(model)))?;
    Ok(done())
}

fn done() -> Response {
    Response::new(200, "application/json", Vec::new())
}

/// The largest body in bytes of a request to the repository. The allowed members need a hundred bytes.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// The members of an index request.
const INDEX_MEMBERS: [&str; 1] = ["ready"];
const CONTROL_MEMBERS: [&str; 1] = ["parameters"];

/// The parameter of an unload. No model depends on another, so it has no effect.
const UNLOAD_DEPENDENTS: &str = "unload_dependents";

/// Returns a repository route with the options in its body, and any other route unchanged. Unknown members are
/// ignored, or refused if the operator's settings require it.
pub(crate) fn read(route: &Route, request: &Request, unknown: Unknown) -> Result<Route, Problem> {
    let wrong = |name: &str, expected: &str| {
        let message = format!("`{name}` is not {expected}; send that, or leave it out");
        Problem::new(Code::InvalidBody, message)
    };
    match route {
        Route::RepositoryIndex { .. } => {
            let body = body(request, &INDEX_MEMBERS, unknown)?;
            let ready = match body.get("ready") {
                None => false,
                Some(Value::Bool(ready)) => *ready,
                Some(_) => return Err(wrong("ready", "true or false")),
            };
            return Ok(Route::RepositoryIndex { ready });
        }
        Route::RepositoryLoad(_) | Route::RepositoryUnload(_) => {
            let loads = matches!(route, Route::RepositoryLoad(_));
            let body = body(request, &CONTROL_MEMBERS, unknown)?;
            let none = Map::new();
            let parameters = match body.get("parameters") {
                None => &none,
                Some(Value::Object(parameters)) => parameters,
                Some(_) => return Err(wrong("parameters", "an object")),
            };
            for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
                let shown = shorten(name);
                if loads && replaces_model(name) {
                    return Err(Problem::new(
                        Code::NotSupported,
                        format!(
                            "`parameters.{shown}` is not supported: a model's files and contract are the operator's; send no \
                             parameters"
                        ),
                    ));
                }
                let is_known = !loads && name == UNLOAD_DEPENDENTS;
                if is_known && !value.is_boolean() {
                    return Err(wrong("parameters.unload_dependents", "true or false"));
                }
                if !is_known && unknown == Unknown::Refuse {
                    return Err(Problem::new(
                        Code::InvalidBody,
                        format!("`parameters.{shown}` is not a parameter of this call; remove it"),
                    ));
                }
            }
        }
        _ => {}
    }
    Ok(route.clone())
}

/// Returns the members of a body that is an object or empty. Members that are `null` are omitted.
fn body(
    request: &Request,
    known: &[&str],
    unknown: Unknown,
) -> Result<Map<String, Value>, Problem> {
    let coding = coding::of(request)?;
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!("the body has more than {MAX_BODY_BYTES} bytes, the maximum"),
        )
    };
    if request.body.len() as u64 > MAX_BODY_BYTES {
        return Err(too_large());
    }
    let body = coding::body(&request.body, coding, MAX_BODY_BYTES)?;
    let text = body.trim_ascii();
    if text.is_empty() {
        return Ok(Map::new());
    }
    let refused = |code, what: &dyn std::fmt::Display| {
        Problem::new(code, format!("the body cannot be read: {what}"))
    };
    // Check the syntax, and duplicate members, which the parsed value no longer shows.
    let read = || -> Scan<()> {
        let mut scanner = Scanner::new(text);
        scanner.skip_value()?;
        scanner.finish()
    };
    read().map_err(|error| rejected(Rejection::from(*error)))?;
    let value: Value =
        serde_json::from_slice(text).map_err(|error| refused(Code::MalformedJson, &error))?;
    let Value::Object(mut members) = value else {
        return Err(refused(Code::InvalidBody, &"it is JSON but not an object"));
    };
    members.retain(|_, value| !value.is_null());
    let other = members.keys().find(|name| !known.contains(&name.as_str()));
    if let Some(name) = other.filter(|_| unknown == Unknown::Refuse) {
        let what = format!(
            "it has no member `{}`, but {}",
            shorten(name),
            known.join(", ")
        );
        return Err(refused(Code::InvalidBody, &what));
    }
    Ok(members)
}

/// Removes the entries of models that the caller may not see.
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
    // The model was added or removed after the instance read its catalogue.
    let unknown = |message| Problem::new(Code::UnknownVersion, message);
    let text = found.map_err(|failure| failed(failure, unknown))?;
    serde_json::from_str(&text).map_err(|_| {
        Problem::new(
            Code::Internal,
            "the host's data about its models is not JSON",
        )
    })
}

/// Returns the problem of a failure. `missing` builds the problem of a model that does not exist.
fn failed(failure: ControlFailure, missing: impl FnOnce(String) -> Problem) -> Problem {
    let ControlFailure { kind, message } = failure;
    match kind {
        ControlFailureKind::Unsupported => Problem::new(Code::NotSupported, message),
        ControlFailureKind::NotFound => missing(message),
        ControlFailureKind::FailedPrecondition => Problem::new(Code::FailedPrecondition, message),
        ControlFailureKind::Failed => Problem::new(Code::StoreUnavailable, message)
            .retry_after(penstock_core::kv::RETRY_STORE_S),
    }
}
