//! Decides what is told of the repository of models, and to whom, and what is done to it. The Open Inference Protocol's
//! extensions for statistics and for the repository, over REST and gRPC.

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

/// How one model did, or all that the caller may know of.
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

/// Which models there are, of those the caller may know of.
pub(crate) fn index<P: Ports>(ports: &P, ready: bool, sees: Sees<'_>) -> Result<Response, Problem> {
    let mut said = parsed(ports.index(ready))?;
    if let Some(all) = said.as_array_mut() {
        shown(all, sees);
    }
    Ok(Response::json(200, &said))
}

/// What the host remarks on versions that answer, by model and version; nothing where it keeps no index.
pub(crate) fn remarks<P: Ports>(ports: &P) -> BTreeMap<(String, String), String> {
    let said = parsed(ports.index(true)).unwrap_or_default();
    let entries = said.as_array().into_iter().flatten();
    let remark = |entry: &Value| {
        let text = |name| entry.get(name).and_then(Value::as_str);
        let reason = text("reason").filter(|reason| !reason.is_empty())?;
        let place = (text("name")?.to_owned(), text("version")?.to_owned());
        Some((place, reason.to_owned()))
    };
    entries.filter_map(remark).collect()
}

/// Loads a model, or loads it anew. The answer has no body, as in the specification.
pub(crate) fn load<P: Ports>(
    ports: &P,
    catalogue: &Catalogue<P>,
    model: &str,
) -> Result<Response, Problem> {
    (ports.load(model)).map_err(|failure| failed(failure, |_| catalogue.unknown(model)))?;
    Ok(done())
}

/// Lets go of a model.
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

/// The largest body of a request to the repository; what it may have takes a hundred bytes.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// The members that an index has, and those of a load or an unload.
const INDEX_MEMBERS: [&str; 1] = ["ready"];
const CONTROL_MEMBERS: [&str; 1] = ["parameters"];

/// What an unload may be told. Nothing here depends on another model, so it changes nothing.
const UNLOAD_DEPENDENTS: &str = "unload_dependents";

/// The route with what its body asks; of a route that is not the repository's, as it is. What nothing here knows is ignored,
/// or refused where the operator wants that.
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

/// The members of a body that is an object, or nothing; those that are `null` are left out.
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
    // Syntax, and members that are there twice, which a value no longer shows.
    let read = || -> Scan<()> {
        let mut scanner = Scanner::new(text);
        scanner.skip_value()?;
        scanner.finish()
    };
    read().map_err(|error| rejected(Rejection::from(*error)))?;
    let value: Value =
        serde_json::from_slice(text).map_err(|error| refused(Code::MalformedJson, &error))?;
    let Value::Object(mut members) = value else {
        return Err(refused(Code::InvalidBody, &"it is JSON and no object"));
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
            .retry_after(penstock_core::kv::RETRY_STORE_S),
    }
}
