//! Which models and versions exist, and each model's contract, read from the models directory.
//!
//! The listing is read once per instance; contracts and adapters are opened on a model's first call
//! and kept. The directory can change after the engine loaded it, so a call that pins no version goes
//! to the highest one that is ready, not to the highest that is there.

use crate::ports::Ports;
use crate::route::{Target, shorten};
use penstock_core::{Code, ModelName, ModelVersion, Problem};
use penstock_tensor::Contract;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most models one server lists. Each costs an open contract in every instance.
pub const MAX_MODELS: usize = 1024;

/// Seconds a caller is told to wait for a model that somebody has to mend.
const RETRY_BROKEN_S: u32 = 60;

/// The file that makes a folder a model.
const CONTRACT_FILE: &str = "model.toml";

/// A model as this instance knows it.
pub struct Model<P: Ports> {
    /// Its name.
    pub name: ModelName,
    /// Its versions, ascending; never empty.
    pub versions: Vec<ModelVersion>,
    opened: Option<Rc<Opened<P>>>,
    serving: Option<ModelVersion>,
}

/// A model's contract and what was opened with it.
pub struct Opened<P: Ports> {
    /// The contract as the gate reads it, for metadata and limits.
    pub contract: Contract,
    /// The contract as validation holds it.
    pub validation: P::Contract,
    /// The adapter, when the contract names one.
    pub adapter: Option<P::Adapter>,
}

/// The models of one instance.
pub struct Catalogue<P: Ports> {
    models: BTreeMap<String, Model<P>>,
}

impl<P: Ports> Catalogue<P> {
    /// Reads the listing: folders whose name is a model name, that hold a contract and at least one
    /// version folder. Others are not models and are passed over.
    pub fn read(ports: &P) -> Self {
        let mut models = BTreeMap::new();
        for (folder, entries) in ports.list_models() {
            let Some(name) = ModelName::parse(&folder) else {
                continue;
            };
            let mut versions: Vec<ModelVersion> = entries
                .iter()
                .filter_map(|e| ModelVersion::parse(e))
                .collect();
            versions.sort_unstable();
            if versions.is_empty() || !entries.iter().any(|e| e == CONTRACT_FILE) {
                continue;
            }
            if models.len() == MAX_MODELS {
                break;
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
        Self { models }
    }

    /// The models, by name.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Model<P>> {
        self.models.values_mut()
    }

    /// Their names, in the order of [`Catalogue::iter_mut`].
    pub fn names(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    /// Whether there is such a model.
    pub fn contains(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// What is said where there is none, with all there are; who may not know of some leaves those out.
    pub fn unknown(&self, model: &str) -> Problem {
        let others = self.models.keys().filter(|other| *other != model);
        Problem::new(
            Code::UnknownModel,
            format!("there is no model `{}`", shorten(model)),
        )
        .with_available(others.cloned().collect())
    }

    /// Finds the model and the version a target means: the pinned one, else the highest that is
    /// ready, else the highest.
    pub fn resolve(
        &mut self,
        ports: &P,
        target: &Target,
    ) -> Result<(&mut Model<P>, ModelVersion), Problem> {
        let model = self.find(&target.model)?;
        let version = model.version(ports, target.version.as_deref())?;
        Ok((model, version))
    }

    /// Finds the model a target means.
    pub fn find(&mut self, name: &str) -> Result<&mut Model<P>, Problem> {
        if !self.contains(name) {
            return Err(self.unknown(name));
        }
        Ok(self
            .models
            .get_mut(name)
            .expect("present, by the check above"))
    }
}

impl<P: Ports> Model<P> {
    /// The version that is meant: the pinned one, else the highest that is ready, else the highest.
    pub fn version(&mut self, ports: &P, pinned: Option<&str>) -> Result<ModelVersion, Problem> {
        let version = match pinned {
            None => self.serving(ports),
            Some(text) => ModelVersion::parse(text).filter(|v| self.versions.contains(v)),
        };
        version.ok_or_else(|| {
            Problem::new(
                Code::UnknownVersion,
                format!(
                    "model `{}` has no version `{}`",
                    self.name,
                    shorten(pinned.unwrap_or_default())
                ),
            )
            .with_available(self.versions.iter().map(ToString::to_string).collect())
        })
    }

    /// The version for calls that pin none. Once one was ready it stays, so that a call costs no
    /// question to the engine.
    fn serving(&mut self, ports: &P) -> Option<ModelVersion> {
        if self.serving.is_none() && self.versions.len() > 1 {
            let ready =
                |version: &&ModelVersion| ports.ready(self.name.as_str(), **version).is_ok();
            self.serving = self.versions.iter().rev().find(ready).copied();
        }
        self.serving.or_else(|| self.versions.last().copied())
    }

    /// The contract and what belongs to it, opened on first use. A model whose contract or adapter
    /// cannot be opened is there but not ready: its operator has to mend it, so callers get 503, and
    /// the next call tries again.
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

impl<P: Ports> Opened<P> {
    fn open(ports: &P, model: &str) -> Result<Self, String> {
        let text = String::from_utf8(ports.read_model_file(model, CONTRACT_FILE)?)
            .map_err(|_| "model.toml is not UTF-8".to_owned())?;
        let contract = Contract::parse(&text).map_err(|faults| {
            let first = faults
                .first()
                .map(|f| format!("line {}: {}", f.line, f.message));
            format!("model.toml has faults; {}", first.unwrap_or_default())
        })?;
        let validation = ports.open_contract(&text)?;
        let adapter = match &contract.adapter {
            None => None,
            Some(named) => {
                let config = match &named.config {
                    None => Vec::new(),
                    Some(file) => ports.read_model_file(model, file)?,
                };
                Some(ports.open_adapter(&named.name, &config)?)
            }
        };
        Ok(Self {
            contract,
            validation,
            adapter,
        })
    }
}
