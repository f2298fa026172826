//! Knows the models, their versions and each model's contract, as the models directory holds them.
//!
//! The listing is read once per instance. A model's contract and adapter are opened on its first call and kept. The
//! directory can change after the engine has loaded it. A call without a pinned version and without a rollout
//! therefore goes to the highest ready version, not to the highest version in the directory.

use crate::ports::Ports;
use crate::record::Request;
use crate::rollout::{self, Serving};
use crate::route::{Target, shorten};
use penstock_core::{Code, ModelName, ModelVersion, Problem};
use penstock_policy::cache::{DIGEST_BYTES, fingerprint};
use penstock_policy::rollout::RolloutQuery;
use penstock_tensor::Contract;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most models of one server. Each costs an open contract in every instance.
pub const MAX_MODELS: usize = 1024;

/// Most skipped folders that are listed. An operator who sees one checks all others too.
const MAX_SKIPPED: usize = 64;

/// The `Retry-After` in seconds for a model that the operator has to repair.
const RETRY_BROKEN_S: u32 = 60;

/// The file name that marks a folder as a model.
const CONTRACT_FILE: &str = "model.toml";

/// A model in this instance's catalogue.
pub struct Model<P: Ports> {
    /// The name of the model, which is that of its folder.
    pub name: ModelName,
    /// The model's versions, in ascending order; never empty.
    pub versions: Vec<ModelVersion>,
    opened: Option<Rc<Opened<P>>>,
    serving: Option<ModelVersion>,
}

/// A model's contract and the resources that it opens.
pub struct Opened<P: Ports> {
    /// The contract as the gate reads it, for metadata and limits.
    pub contract: Contract,
    /// The digest that identifies the contract.
    pub fingerprint: [u8; DIGEST_BYTES],
    /// The contract opened by the validation component.
    pub validation: P::Contract,
    /// The contract's modification time in seconds since the Unix epoch; 0 if unknown.
    pub written_s: u64,
    /// The adapter, if the contract names one.
    pub adapter: Option<P::Adapter>,
    /// The models that the adapter runs in addition to its own, by the name of the step.
    pub steps: BTreeMap<String, StepModel>,
}

/// A model of a pipeline, in the version that the pipeline's contract pins.
pub struct StepModel {
    /// The name of the model.
    pub model: ModelName,
    /// The version of the model that the contract pins.
    pub version: ModelVersion,
    /// The contract of that version, which the runs of the step must meet.
    pub contract: Contract,
}

/// A folder of the models directory that is not a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The name of the folder, as the file system has it.
    pub folder: String,
    /// The reason why it is not a model, and the remedy.
    pub reason: String,
}

/// The models of one instance and the state of their rollouts.
pub struct Catalogue<P: Ports> {
    models: BTreeMap<String, Model<P>>,
    skipped: Vec<Skipped>,
    rollouts: rollout::RolloutState<P::Rollouts>,
}

impl<P: Ports> Catalogue<P> {
    /// Reads the listing of the models directory. A folder is a model if its name is a model name and it holds a contract and
    /// at least one version folder. Folders that begin with a dot are ignored. `/ready` lists up to 64 others.
    pub fn read(ports: &P) -> Self {
        let mut models = BTreeMap::new();
        let mut skipped = Vec::new();
        for (folder, entries) in ports.list_models() {
            // Tools keep their own folders there, such as `.git` and `.cache`.
            if folder.starts_with('.') {
                continue;
            }
            let mut skip = |folder: String, reason: String| {
                if skipped.len() < MAX_SKIPPED {
                    skipped.push(Skipped { folder, reason });
                }
            };
            let Some(name) = ModelName::parse(&folder) else {
                let rule = ModelName::RULE;
                skip(
                    folder,
                    format!("this is not a valid model name; rename the folder to {rule}"),
                );
                continue;
            };
            let mut versions: Vec<ModelVersion> = entries
                .iter()
                .filter_map(|e| ModelVersion::parse(e))
                .collect();
            versions.sort_unstable();
            if !entries.iter().any(|e| e == CONTRACT_FILE) {
                skip(folder, format!("it has no {CONTRACT_FILE}; write one"));
                continue;
            }
            if versions.is_empty() {
                let reason =
                    "it has no version; name the graph's folder 1, 2, 3, …, without leading zeros";
                skip(folder, reason.to_owned());
                continue;
            }
            if models.len() == MAX_MODELS {
                skip(
                    folder,
                    format!("a server has at most {MAX_MODELS} models; serve it elsewhere"),
                );
                continue;
            }
            models.insert(
                folder,
                Model {
                    name,
                    versions,
                    opened: None,
                    serving: None,
                },
            );
        }
        Self {
            models,
            skipped,
            rollouts: rollout::RolloutState::new(ports.open_rollouts()),
        }
    }

    /// Returns the service of the rollouts.
    pub(crate) fn rollouts(&self) -> &P::Rollouts {
        self.rollouts.service()
    }

    /// Iterates over the models in the order of their names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Model<P>> {
        self.models.values_mut()
    }

    /// Returns the models' names in the order of [`Catalogue::iter_mut`].
    pub fn names(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    /// Returns the folders that are not models, at most 64 of them.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Returns whether the model exists.
    pub fn contains(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// Returns the problem of an unknown model. It lists the models that exist; the pipeline removes the names that
    /// the caller may not see.
    pub fn unknown(&self, model: &str) -> Problem {
        let others = self.models.keys().filter(|other| *other != model);
        Problem::new(
            Code::UnknownModel,
            format!("there is no model `{}`", shorten(model)),
        )
        .with_available(others.cloned().collect())
    }

    /// Returns the model and version for a request that reads about the model and does not call it.
    pub fn resolve(
        &mut self,
        ports: &P,
        target: &Target,
    ) -> Result<(&mut Model<P>, ModelVersion), Problem> {
        let query = VersionQuery {
            caller: "",
            request: None,
            calls: false,
            now_ms: ports.unix_ms(),
            random: 0,
        };
        let (model, serving) = self.choose(ports, target, &query)?;
        Ok((model, serving.version))
    }

    /// Chooses the model and the version for a request. The order is: the pinned version, the rollouts, the highest
    /// ready version, the highest version.
    pub(crate) fn choose(
        &mut self,
        ports: &P,
        target: &Target,
        query: &VersionQuery<'_>,
    ) -> Result<(&mut Model<P>, Serving), Problem> {
        if !self.contains(&target.model) {
            return Err(self.unknown(&target.model));
        }
        let Self {
            models, rollouts, ..
        } = self;
        let model = models
            .get_mut(&target.model)
            .expect("present, by the check above");
        let name = model.name.as_str();
        let now_ms = query.now_ms;
        let pinned = target.version.as_deref();
        if let Err(problem) = rollouts.refresh_if_due(ports, now_ms) {
            // A version number is resolved without the store. Only an alias needs it.
            if pinned.and_then(ModelVersion::parse).is_none() {
                return Err(problem);
            }
        }
        if query.calls {
            rollouts.check(name, now_ms);
        }
        let state = &*rollouts;
        let rollouts = state.known();
        let (before, found) = (model.serving, Cell::new(model.serving));
        // A version that was ready once counts as ready from then on, so that most calls need no query of the engine.
        let ready = |version: ModelVersion| {
            if before.is_some_and(|before| before <= version) {
                return before == Some(version);
            }
            let ready = ports.ready(name, version).is_ok();
            if ready {
                found.set(Some(version));
            }
            ready
        };
        let request = query.request;
        let asked = RolloutQuery {
            pinned,
            caller: query.caller,
            header: &|name| request.and_then(|request| rollout::header(request, name)),
            versions: &model.versions,
            ready: &ready,
            rolled_back: &|id| state.is_rolled_back(name, id),
            now_ms,
            random: query.random,
        };
        let chosen = match query.calls {
            true => rollouts.choose(name, &asked),
            false => rollouts.describe(name, &asked),
        };
        let chosen = chosen.map_err(|refused| rollout::problem(refused, name, pinned))?;
        let path = request.map_or("", Request::path);
        let serving = rollout::serving(rollouts, name, chosen, path);
        model.serving = found.get();
        Ok((model, serving))
    }
}

/// Returns the catalogue of models. The first request that needs it reads it, so a health check does not.
pub(crate) fn known<'a, P: Ports>(
    slot: &'a mut Option<Catalogue<P>>,
    ports: &P,
) -> &'a mut Catalogue<P> {
    slot.get_or_insert_with(|| Catalogue::read(ports))
}

/// The data by which a version is chosen.
pub(crate) struct VersionQuery<'a> {
    /// Identifies the caller; the same value for each of its calls.
    pub caller: &'a str,
    /// The HTTP request, if there is one.
    pub request: Option<&'a Request>,
    /// Whether the request calls the model. Other requests only read about it.
    pub calls: bool,
    /// The current time in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Random bits for weighted choices.
    pub random: u64,
}

impl<P: Ports> Model<P> {
    /// Returns the contract and its resources, and opens them on first use. If that fails, the model exists but is
    /// not ready. Its callers get 503, because only the operator can repair it. The next call tries again.
    pub fn open(&mut self, ports: &P) -> Result<Rc<Opened<P>>, Problem> {
        if self.opened.is_none() {
            let opened = Opened::open(ports, self.name.as_str()).map_err(|reason| {
                Problem::new(
                    Code::ModelNotReady,
                    format!("model `{}` is not usable: {reason}", self.name),
                )
                .retry_after(RETRY_BROKEN_S)
            })?;
            self.opened = Some(Rc::new(opened));
        }
        Ok(self.opened.clone().expect("opened above"))
    }
}

/// Reads a model's contract. Returns its text and its parsed form.
fn contract_of<P: Ports>(ports: &P, model: &str) -> Result<(String, Contract), String> {
    let text = String::from_utf8(ports.read_model_file(model, CONTRACT_FILE)?)
        .map_err(|_| "model.toml is not UTF-8".to_owned())?;
    let contract = Contract::parse(&text).map_err(|faults| {
        let first = faults
            .first()
            .map(|f| format!("line {}: {}", f.line, f.message));
        format!("model.toml has faults; {}", first.unwrap_or_default())
    })?;
    Ok((text, contract))
}

/// Adds a member to a configuration. `content` is the text of a JSON file. Treats an empty configuration as an empty
/// object.
fn with_member(config: Vec<u8>, name: &str, content: &[u8]) -> Result<Vec<u8>, String> {
    let before = config.trim_ascii_end();
    let before = match before {
        [] => &b"{"[..],
        [before @ .., b'}'] => before.trim_ascii_end(),
        _ => return Err("the adapter's configuration is not a JSON object".to_owned()),
    };
    let comma = if before.ends_with(b"{") { "" } else { "," };
    let key = format!("{comma}\"{name}\":");
    let mut whole = Vec::with_capacity(before.len() + key.len() + content.len() + 1);
    whole.extend_from_slice(before);
    whole.extend_from_slice(key.as_bytes());
    whole.extend_from_slice(content);
    whole.push(b'}');
    Ok(whole)
}

impl<P: Ports> Opened<P> {
    fn open(ports: &P, model: &str) -> Result<Self, String> {
        let (text, contract) = contract_of(ports, model)?;
        let mut steps = BTreeMap::new();
        for (name, step) in &contract.pipeline {
            let wrong = |reason: String| {
                format!(
                    "the step `{name}` of its pipeline needs model `{}`: {reason}",
                    step.model
                )
            };
            let model = ModelName::parse(&step.model);
            let model = model.ok_or_else(|| wrong("that is not a valid model name".to_owned()))?;
            let version = ModelVersion::parse(&step.version.to_string());
            let version = version.ok_or_else(|| wrong("that is not a version".to_owned()))?;
            let (_, contract) = contract_of(ports, model.as_str()).map_err(wrong)?;
            steps.insert(
                name.clone(),
                StepModel {
                    model,
                    version,
                    contract,
                },
            );
        }
        let validation = ports.open_contract(&text)?;
        let adapter = match &contract.adapter {
            None => None,
            Some(named) => {
                let mut config = match &named.config {
                    None => Vec::new(),
                    Some(file) => ports.read_model_file(model, file)?,
                };
                for (member, file) in [
                    ("tokenizer", &named.tokenizer),
                    ("model_config", &named.model_config),
                ] {
                    if let Some(file) = file {
                        let content = ports.read_model_file(model, file)?;
                        config = with_member(config, member, &content)?;
                    }
                }
                Some(ports.open_adapter(&named.name, &config)?)
            }
        };
        Ok(Self {
            contract,
            written_s: ports
                .model_file_written_s(model, CONTRACT_FILE)
                .unwrap_or(0),
            fingerprint: fingerprint(&text),
            validation,
            adapter,
            steps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_members_of_the_adapters_configuration() {
        let with = |config: &str| {
            let whole = with_member(config.as_bytes().to_vec(), "tokenizer", b"[1]");
            whole.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(with("").unwrap(), r#"{"tokenizer":[1]}"#);
        assert_eq!(with("{ }\n").unwrap(), r#"{"tokenizer":[1]}"#);
        assert_eq!(with(r#"{"a":{}}"#).unwrap(), r#"{"a":{},"tokenizer":[1]}"#);
        assert!(with("[1]").is_err());
    }
}
