//! Selects the models for a request of the API description.

use super::about::{About, Described};
use super::document;
use crate::catalogue::Catalogue;
use crate::ports::Ports;
use crate::record::Request;
use crate::route::{percent_decode, shorten};
use penstock_core::{Code, Problem};
use serde_json::Value;

/// Returns the document for a caller, with the models that `sees` shows, or with the one that the query names.
pub(crate) fn serve<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    request: &Request,
    sees: &dyn Fn(&[String]) -> Vec<bool>,
    about: &About,
) -> Result<Value, Problem> {
    let only = only(request)?;
    let names = catalogue.names();
    let seen = sees(&names);
    let shown: Vec<String> = names
        .into_iter()
        .zip(seen)
        .filter(|(name, seen)| *seen && only.as_ref().is_none_or(|only| only == name))
        .map(|(name, _)| name)
        .collect();
    if let Some(only) = only
        && shown.is_empty()
    {
        return Err(catalogue.unknown(&only));
    }
    let mut models = Vec::with_capacity(shown.len());
    for model in catalogue.iter_mut() {
        if !shown.iter().any(|name| name == model.name.as_str()) {
            continue;
        }
        // A model that cannot be opened cannot be described. The list of models states the reason.
        if let Ok(opened) = model.open(ports) {
            let contract = opened.contract.clone();
            models.push((model.name.clone(), model.versions.clone(), contract));
        }
    }
    let described: Vec<Described<'_>> = models
        .iter()
        .map(|(name, versions, contract)| Described {
            name: name.as_str(),
            versions,
            contract,
        })
        .collect();
    Ok(document(&described, about))
}

/// Returns the model that the query names.
fn only(request: &Request) -> Result<Option<String>, Problem> {
    let mut only = None;
    let query = request.target.split_once('?').map_or("", |(_, q)| q);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("model", name)) if only.is_none() => only = Some(percent_decode(name)?),
            _ => {
                return Err(Problem::new(
                    Code::InvalidParameter,
                    format!(
                        "`{}` is not a parameter here; send only `model`, once, with the name of a model",
                        shorten(pair)
                    ),
                ));
            }
        }
    }
    Ok(only)
}
