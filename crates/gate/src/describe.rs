//! Answers the routes that call no model: the gate's own state and the descriptions of models.

pub(crate) mod batches;
pub(crate) mod operations;
pub(crate) mod readiness;
pub(crate) mod repository;
mod usage;

use crate::answer::errors::{ErrorCatalogue, ErrorEntry};
use crate::answer::model::{Model, ModelList, ModelMetadata};
use crate::answer::server::{Health, ModelReady, ServerLive, ServerMetadata, WebhookKeys};
use crate::catalogue::{Catalogue, Opened, known};
use crate::exchange::Exchange;
use crate::oip;
use crate::openapi;
use crate::page;
use crate::policies::{Policies, webhook_key};
use crate::ports::Ports;
use crate::problem::failure;
use crate::record::Response;
use crate::route::{Route, Target, shorten};
use penstock_core::{Caller, Code, ModelVersion, Problem};
use penstock_policy::auth::service::AuthService;

/// Answers the routes that have no rate limits; `None` for other routes.
pub(crate) fn unlimited<P: Ports>(ports: &P, route: &Route) -> Option<Result<Response, Problem>> {
    Some(match route {
        Route::WebhookKeys => match webhook_key(ports) {
            Some(key) => Ok(Response::json(200, &WebhookKeys::new(&key))),
            None => Err(Problem::new(
                Code::UnknownPath,
                "this server sends no webhooks; the operator enables them with [[webhooks.tenants]]",
            )),
        },
        Route::Healthz => Ok(Response::json(200, &Health::OK)),
        Route::ServerLive => Ok(Response::json(200, &ServerLive::LIVE)),
        Route::ErrorCatalogue => Ok(Response::json(200, &ErrorCatalogue::new())),
        Route::ErrorEntry(word) => match Code::parse(word) {
            Some(code) => Ok(Response::json(200, &ErrorEntry::new(code))),
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
    if let Some(answered) = operations::answer(ports, policies, exchange, route, caller) {
        return answered;
    }
    match route {
        Route::Usage => usage::usage(policies, exchange.request, caller, exchange.context.unix_ms),
        Route::ServerMetadata => Ok(Response::json(200, &ServerMetadata::OURS)),
        Route::ModelList => Ok(model_list(ports, policies, known(catalogue, ports), caller)),
        Route::OpenApi => {
            let about = openapi::About {
                needs_credentials: !caller.anonymous,
                counts_usage: policies.counts,
                sends_webhooks: policies.webhook_key.is_some(),
            };
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            let catalogue = known(catalogue, ports);
            let document = openapi::serve(ports, catalogue, exchange.request, &sees, &about)?;
            Ok(Response::json(200, &document))
        }
        Route::Model(target) => {
            let write = |name: &str, versions: &[ModelVersion], opened: &Opened<P>| {
                let model = Model::new(name, versions, &opened.contract, opened.written_s);
                Response::json(200, &model)
            };
            describe(ports, known(catalogue, ports), exchange, target, write)
        }
        Route::ModelMetadata(target) => {
            let write = |name: &str, versions: &[ModelVersion], opened: &Opened<P>| {
                let metadata = ModelMetadata::new(name, versions, &opened.contract);
                Response::json(200, &metadata)
            };
            describe(ports, known(catalogue, ports), exchange, target, write)
        }
        Route::ModelConfig(target) => {
            let write = |name: &str, versions: &[ModelVersion], opened: &Opened<P>| {
                let config = oip::model_config(name, versions, &opened.contract);
                Response::json(200, &config)
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
            let name = name.as_str();
            Ok(Response::json(200, &ModelReady { name, ready: true }))
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
    let names: Vec<String> = catalogue.names();
    let seen = policies.auth.sees(caller, &names);
    let listed = catalogue.iter_mut().zip(seen);
    let opened: Vec<_> = listed
        .filter(|(_, seen)| *seen)
        .map(|(model, _)| {
            let opened = model.open(ports);
            (model.name.clone(), model.versions.clone(), opened)
        })
        .collect();
    let models = opened.iter().map(|(name, versions, opened)| {
        let name = name.as_str();
        match opened {
            Ok(opened) => {
                let mut states = versions.iter().map(|v| ports.ready(name, *v));
                let ready = states.any(|state| state.is_ok());
                Model::new(name, versions, &opened.contract, opened.written_s).with_ready(ready)
            }
            Err(problem) => Model::broken(name, &problem.message),
        }
    });
    Response::json(200, &ModelList::new(models.collect()))
}

/// Answers with the description of one model that `write` writes.
fn describe<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    exchange: &mut Exchange<'_>,
    target: &Target,
    write: impl Fn(&str, &[ModelVersion], &Opened<P>) -> Response,
) -> Result<Response, Problem> {
    let (model, version) = catalogue.resolve(ports, target)?;
    let (name, versions) = (model.name.clone(), model.versions.clone());
    let opened = model.open(ports)?;
    exchange.headers.describe(version);
    Ok(write(name.as_str(), &versions, &opened))
}
