//! Answers `/ready` and `/v2/health/ready`: whether the server accepts new work, and the state of its models.

use super::repository::{self, Remark};
use crate::answer::server::{ModelState, Readiness, SkippedFolder};
use crate::catalogue::{Catalogue, Model, known};
use crate::connection::Connection;
use crate::policies::Sees;
use crate::ports::Ports;
use crate::problem::RETRY_NOT_READY_S;
use crate::record::Response;
use crate::route::shorten;
use penstock_core::ModelVersion;
use penstock_policy::document;
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The models that must be ready before the server is ready. The first health check reads the list.
#[derive(Default)]
pub(crate) struct Required(OnceCell<Vec<String>>);

impl Required {
    /// The entry that stands for every existing model.
    const ALL: &'static str = "*";

    /// Returns the required models. A policy that cannot be read requires none; calls report the error.
    fn of<P: Ports>(&self, ports: &P) -> &[String] {
        self.0.get_or_init(|| {
            let text = ports.policy_text();
            text.and_then(|text| document::required_models(&text))
                .unwrap_or_default()
        })
    }
}

/// Answers a readiness probe. The server is not ready if the host gives a reason, or if a required model has no
/// version that could run now. Callers that may see models (`sees`) also get the state of each model and of the server.
pub(crate) fn readiness<P: Ports>(
    ports: &P,
    catalogue: &mut Option<Catalogue<P>>,
    required: &Required,
    connection: &Connection,
    sees: Option<Sees<'_>>,
) -> Response {
    let required = required.of(ports);
    let not_ready = connection.not_ready.as_deref();
    let mut is_ready = not_ready.is_none();
    let mut models = Vec::new();
    if sees.is_some() || !required.is_empty() {
        let catalogue = known(catalogue, ports);
        let requires = |name: &str| required.iter().any(|r| r == name || r == Required::ALL);
        let mut names = catalogue.names();
        let there = names.len();
        let missing = required.iter().filter(|name| *name != Required::ALL);
        names.extend(missing.filter(|name| !catalogue.contains(name)).cloned());
        let shown = sees.map_or_else(|| vec![false; names.len()], |sees| sees(&names));
        let mut told = match shown.contains(&true) {
            true => repository::remarks(ports),
            false => BTreeMap::new(),
        };
        for (model, shown) in catalogue.iter_mut().zip(&shown) {
            let is_required = requires(model.name.as_str());
            if !*shown && !is_required {
                continue;
            }
            let states = states(ports, model);
            let could_run = states.iter().any(|(_, state)| state.is_ok());
            is_ready &= could_run || !is_required;
            for (version, state) in states.into_iter().filter(|_| *shown) {
                let ready = state.is_ok();
                let remark = match state {
                    Err(reason) => Remark {
                        reason: Some(reason),
                        agreement: None,
                    },
                    // The version is ready, and the host may have a remark about it.
                    Ok(()) => (told.remove(&(model.name.to_string(), version.to_string())))
                        .unwrap_or_default(),
                };
                models.push(ModelState {
                    name: model.name.to_string(),
                    version: Some(version.to_string()),
                    ready,
                    required: is_required,
                    reason: remark.reason,
                    agreement: remark.agreement,
                });
            }
        }
        for (name, shown) in names.iter().zip(&shown).skip(there) {
            is_ready = false;
            if *shown {
                models.push(ModelState {
                    name: name.clone(),
                    version: None,
                    ready: false,
                    required: true,
                    reason: Some(NO_SUCH_MODEL.to_owned()),
                    agreement: None,
                });
            }
        }
    }
    let mut body = Readiness {
        ready: is_ready,
        models: None,
        reason: None,
        skipped: Vec::new(),
        server: None,
    };
    if let Some(sees) = sees {
        body.models = Some(models);
        body.reason = not_ready;
        body.skipped = skipped(known(catalogue, ports), sees);
        body.server = connection.server.as_ref();
    }
    let mut response = Response::json(if is_ready { 200 } else { 503 }, &body);
    if !is_ready {
        response.push("retry-after", RETRY_NOT_READY_S.to_string());
    }
    response
}

/// The state of a required model that does not exist.
const NO_SUCH_MODEL: &str =
    "there is no such model; add it, or remove its name from `[models] required`";

/// Returns each version of a model, with the reason if it could not run now.
fn states<P: Ports>(ports: &P, model: &mut Model<P>) -> Vec<(ModelVersion, Result<(), String>)> {
    let broken = model.open(ports).err();
    let state = |version: &ModelVersion| match &broken {
        Some(problem) => Err(problem.message.clone()),
        None => ports
            .ready(model.name.as_str(), *version)
            .map_err(|f| f.message),
    };
    model.versions.iter().map(|v| (*v, state(v))).collect()
}

/// Returns the folders of the models directory that are not models, if the caller may see them.
fn skipped<P: Ports>(catalogue: &Catalogue<P>, sees: Sees<'_>) -> Vec<SkippedFolder> {
    let skipped = catalogue.skipped();
    let folders: Vec<String> = skipped.iter().map(|one| one.folder.clone()).collect();
    let shown = skipped.iter().zip(sees(&folders)).filter(|(_, seen)| *seen);
    let shown = shown.map(|(one, _)| SkippedFolder {
        folder: shorten(&one.folder),
        reason: one.reason.clone(),
    });
    shown.collect()
}
