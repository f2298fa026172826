//! Answers the routes that call no model: the gate's own state and the descriptions of models.

pub(crate) mod readiness;
pub(crate) mod repository;
mod usage;

use crate::answer;
use crate::catalogue::{Catalogue, Opened, known};
use crate::exchange::Exchange;
use crate::oip;
use crate::openapi;
use crate::page;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::problem::failure;
use crate::record::Response;
use crate::route::{Route, Target, shorten};
use penstock_core::{Caller, Code, ModelVersion, Problem};
use penstock_policy::auth::service::AuthService;
use serde_json::{Value, json};

/// Answers the routes that have no rate limits; `None` for other routes.
pub(crate) fn unlimited(route: &Route) -> Option<Result<Response, Problem>> {
    Some(match route {
        Route::Healthz => Ok(Response::json(200, &json!({ "status": "ok" }))),
        Route::ServerLive => Ok(Response::json(200, &json!({ "live": true }))),
        Route::ErrorCatalogue => {
            let all: Vec<Value> = Code::ALL.iter().map(|c| answer::error_entry(*c)).collect();
            Ok(Response::json(200, &json!({ "errors": all })))
        }
        Route::ErrorEntry(word) => match Code::ALL.iter().find(|c| c.as_str() == word) {
            Some(code) => Ok(Response::json(200, &answer::error_entry(*code))),
            None => Err(Problem::new(
                Code::UnknownPath,
                format!(
                    "no error has the code `{}`; GET /errors lists them",
                    shorten(word)
                ),
            )),
        },
        // The page reveals nothing about models. It requests its data with the credentials that the user enters.
        Route::Docs => Ok(page::response()),
        Route::Extension(extension) => Err(extension.refusal()),
        _ => return None,
    })
}

/// Answers the other routes that call no model, after the rate limits have admitted the request.
pub(crate) fn limited<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    exchange: &mut Exchange<'_>,
    route: &Route,
    caller: &Caller,
) -> Result<Response, Problem> {
    match route {
        Route::Usage => usage::usage(policies, exchange.request, caller, exchange.context.unix_ms),
        Route::ServerMetadata => Ok(Response::json(200, &answer::server_metadata())),
        Route::ModelList => Ok(model_list(ports, policies, known(catalogue, ports), caller)),
        Route::OpenApi => {
            let about = openapi::About {
                needs_credentials: !caller.anonymous,
                counts_usage: policies.counts,
            };
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            let catalogue = known(catalogue, ports);
            let document = openapi::serve(ports, catalogue, exchange.request, &sees, &about)?;
            Ok(Response::json(200, &document))
        }
        Route::Model(target) => {
            let catalogue = known(catalogue, ports);
            describe(ports, catalogue, exchange, target, answer::model::<P>)
        }
        Route::ModelMetadata(target) => {
            let catalogue = known(catalogue, ports);
            describe(
                ports,
                catalogue,
                exchange,
                target,
                answer::model_metadata::<P>,
            )
        }
        Route::ModelConfig(target) => {
            let write = |name: &str, versions: &[ModelVersion], opened: &Opened<P>| {
                oip::model_config(name, versions, &opened.contract)
            };
            describe(ports, known(catalogue, ports), exchange, target, write)
        }
        Route::ModelReady(target) => {
            let (model, version) = known(catalogue, ports).resolve(ports, target)?;
            let name = model.name.clone();
            ports
                .ready(name.as_str(), version)
                .map_err(|f| failure(f, None))?;
            exchange.headers.describe(version);
            Ok(Response::json(200, &json!({ "name": name, "ready": true })))
        }
        Route::Statistics(target) => {
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            repository::statistics(ports, known(catalogue, ports), target.as_ref(), &sees)
        }
        Route::RepositoryIndex { ready } => {
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            repository::index(ports, *ready, &sees)
        }
        Route::RepositoryLoad(model) => repository::load(ports, known(catalogue, ports), model),
        Route::RepositoryUnload(model) => repository::unload(ports, known(catalogue, ports), model),
        _ => unreachable!("the other routes are answered before"),
    }
}

/// Answers `/v1/models` with the models that the caller may see.
fn model_list<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Catalogue<P>,
    caller: &Caller,
) -> Response {
    let (mut models, mut data) = (Vec::new(), Vec::new());
    let names: Vec<String> = catalogue.names();
    let seen = policies.auth.sees(caller, &names);
    let listed = catalogue.iter_mut().zip(seen);
    for (model, _) in listed.filter(|(_, seen)| *seen) {
        let (name, versions) = (model.name.clone(), model.versions.clone());
        models.push(match model.open(ports) {
            Ok(opened) => {
                data.push(answer::openai_model(name.as_str(), opened.written_s));
                let mut said = answer::model(name.as_str(), &versions, &opened);
                let mut states = versions.iter().map(|v| ports.ready(name.as_str(), *v));
                said["ready"] = json!(states.any(|state| state.is_ok()));
                said
            }
            Err(problem) => {
                json!({ "name": name, "ready": false, "error": problem.message })
            }
        });
    }
    // OpenAI's clients read `data`. That form has no place for a model's errors.
    let body = json!({ "object": "list", "data": data, "models": models });
    Response::json(200, &body)
}

/// Answers with the description of one model that `write` produces.
fn describe<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    exchange: &mut Exchange<'_>,
    target: &Target,
    write: impl Fn(&str, &[ModelVersion], &Opened<P>) -> Value,
) -> Result<Response, Problem> {
    let (model, version) = catalogue.resolve(ports, target)?;
    let (name, versions) = (model.name.clone(), model.versions.clone());
    let opened = model.open(ports)?;
    exchange.headers.describe(version);
    let body = write(name.as_str(), &versions, &opened);
    Ok(Response::json(200, &body))
}
