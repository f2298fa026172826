//! The models directory: which models and versions there are, and which of them answer.
//!
//! Decisions:
//!
//! - **Every directory is a model, and every model is listed.** One that cannot be loaded is `Failed` with the
//!   reason; it neither stops the others nor is left out in silence.
//! - **A model is ready when every lane has run once** on the least call its contract allows, so that a graph
//!   that loads and cannot run is found at start and not by a caller.
//! - **A call that names no version gets the highest there is**, and its failure if it failed: an older version
//!   that answers in its place would hide a broken deployment behind stale results.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use penstock_tensor::contract::Contract;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::backend::{Backends, GraphSource, QUEUE_MAX};
use crate::contract_check;
use crate::error::{NnError, quoted};
use crate::layout::{self, version_number};
use crate::model::Model;

pub use crate::layout::{CONTRACT_FILE, GRAPH_FILE, MAX_NAME_BYTES, Unavailable};

/// Default of [`Settings::load_at_once`]. While it is loaded and optimised a graph takes about twice its
/// size in memory, and a second one keeps the disk and the processor both busy.
pub const LOAD_AT_ONCE: usize = 2;

/// How the repository treats its models.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Calls that may wait for one model; the next is refused.
    pub queue_max: usize,
    /// Models loaded at the same time.
    pub load_at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_max: QUEUE_MAX,
            load_at_once: LOAD_AT_ONCE,
        }
    }
}

/// What a version is doing.
#[derive(Clone)]
pub enum State {
    /// Not ready yet.
    Loading,
    /// Answers.
    Ready(Model),
    /// Will not answer, and why.
    Failed(Arc<str>),
}

impl State {
    /// The state in one word, as the Open Inference Protocol's repository index has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready(_) => "READY",
            Self::Failed(_) => "UNAVAILABLE",
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "Failed({reason:?})"),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// What came of loading one version.
#[derive(Debug, Clone)]
pub struct Report {
    /// The model.
    pub model: String,
    /// Its version; 0 where the model has none that could be tried.
    pub version: u64,
    /// `Ready` or `Failed`.
    pub state: State,
    /// How long loading and warming up took.
    pub took: Duration,
}

/// One model in a listing.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Its contract, where that could be read.
    pub contract: Option<Arc<Contract>>,
    /// Its versions, lowest first. A model whose directory itself is at fault has version 0, failed.
    pub versions: Vec<(u64, State)>,
}

/// Versions by state, for `/ready`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Versions that answer.
    pub ready: usize,
    /// Versions still being loaded.
    pub loading: usize,
    /// Versions that will not answer.
    pub failed: usize,
}

/// The models of a directory.
pub struct Repository {
    root: PathBuf,
    backends: Backends,
    settings: Settings,
    entries: BTreeMap<String, Entry>,
    started: AtomicBool,
}

struct Entry {
    contract: Option<Arc<Contract>>,
    versions: BTreeMap<u64, Slot>,
}

type Slot = Arc<RwLock<State>>;

fn slot(state: State) -> Slot {
    Arc::new(RwLock::new(state))
}

fn read(slot: &Slot) -> State {
    slot.read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone()
}

fn write(slot: &Slot, state: State) {
    *slot
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = state;
}

impl Repository {
    /// Reads the directory and the contracts in it; loads no graph. Blocks for a few file reads.
    ///
    /// # Errors
    ///
    /// When the directory cannot be listed. What is wrong with one model becomes that model's state.
    pub fn open(root: &Path, backends: Backends, settings: Settings) -> Result<Self, NnError> {
        let unlisted = |error: std::io::Error| {
            NnError::not_found(format!(
                "the models directory {} cannot be listed: {error}; create it, or name another",
                root.display()
            ))
        };
        let mut entries = BTreeMap::new();
        for item in std::fs::read_dir(root).map_err(unlisted)? {
            let item = item.map_err(unlisted)?;
            let name = item.file_name().to_string_lossy().into_owned();
            // A file beside the models (a README) is none; nor is what tools hide (.git, .cache).
            if name.starts_with('.') || !item.path().is_dir() {
                continue;
            }
            entries.insert(name.clone(), scan(&name, &item.path()));
        }
        Ok(Self {
            root: root.to_path_buf(),
            backends,
            settings,
            entries,
            started: AtomicBool::new(false),
        })
    }

    /// Loads and warms up every version, a few at a time and highest version first, and calls `report` for
    /// each as it becomes ready or fails; also for what [`Repository::open`] found wrong. Returns when all are
    /// done. To load in the background, spawn it. A second call does nothing.
    pub async fn load_all(&self, mut report: impl FnMut(Report)) {
        if self.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let at_once = Arc::new(Semaphore::new(self.settings.load_at_once.max(1)));
        let mut tasks = JoinSet::new();
        for (name, entry) in &self.entries {
            for (version, slot) in entry.versions.iter().rev() {
                let done = |state: State, took| Report {
                    model: name.clone(),
                    version: *version,
                    state,
                    took,
                };
                let (State::Loading, Some(contract)) = (read(slot), entry.contract.clone()) else {
                    report(done(read(slot), Duration::ZERO));
                    continue;
                };
                let path = self
                    .root
                    .join(name)
                    .join(version.to_string())
                    .join(GRAPH_FILE);
                let (name, version, slot) = (name.clone(), *version, slot.clone());
                let (backends, queue_max, at_once) = (
                    self.backends.clone(),
                    self.settings.queue_max,
                    at_once.clone(),
                );
                tasks.spawn(async move {
                    let _turn = at_once.acquire_owned().await;
                    let started = Instant::now();
                    let job = {
                        let (name, slot) = (name.clone(), slot.clone());
                        // The slot is written on the blocking thread, so that a caller of `load_all` that goes
                        // away does not leave a loaded model behind as loading.
                        move || {
                            let state = match load(
                                &name, version, &path, &contract, &backends, queue_max,
                            ) {
                                Ok(model) => State::Ready(model),
                                Err(error) => State::Failed(error.message.into()),
                            };
                            write(&slot, state);
                        }
                    };
                    if tokio::task::spawn_blocking(job).await.is_err() {
                        write(
                            &slot,
                            State::Failed(
                                "loading it panicked; this is a fault of the server".into(),
                            ),
                        );
                    }
                    Report {
                        model: name,
                        version,
                        state: read(&slot),
                        took: started.elapsed(),
                    }
                });
            }
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok(done) = done {
                report(done);
            }
        }
    }

    /// The model to call: of the given version, or of the highest where none is given.
    ///
    /// # Errors
    ///
    /// Saying what there is instead, that the model is being loaded, or why it could not be.
    pub fn get(&self, name: &str, version: Option<&str>) -> Result<Model, Unavailable> {
        let entry = self.entries.get(name).ok_or_else(|| {
            Unavailable::unknown_model(name, self.entries.keys().map(String::as_str))
        })?;
        let found = match version {
            None => entry.versions.last_key_value(),
            Some(text) => {
                version_number(text).and_then(|version| entry.versions.get_key_value(&version))
            }
        };
        let Some((version, slot)) = found else {
            return Err(Unavailable::unknown_version(
                name,
                version.unwrap_or_default(),
                entry.versions.keys().copied(),
            ));
        };
        match read(slot) {
            State::Ready(model) => Ok(model),
            State::Loading => Err(Unavailable::Loading(format!(
                "model {} version {version} is being loaded; try again in a moment",
                quoted(name)
            ))),
            State::Failed(reason) => Err(Unavailable::failed(name, &reason)),
        }
    }

    /// The contract of a model, where it has one that could be read.
    pub fn contract(&self, name: &str) -> Option<Arc<Contract>> {
        self.entries.get(name)?.contract.clone()
    }

    /// Every model and version, by name.
    pub fn list(&self) -> Vec<ModelStatus> {
        (self.entries.iter())
            .map(|(name, entry)| ModelStatus {
                name: name.clone(),
                contract: entry.contract.clone(),
                versions: entry
                    .versions
                    .iter()
                    .map(|(version, slot)| (*version, read(slot)))
                    .collect(),
            })
            .collect()
    }

    /// How many versions are in which state.
    pub fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        for slot in self
            .entries
            .values()
            .flat_map(|entry| entry.versions.values())
        {
            match read(slot) {
                State::Ready(_) => readiness.ready += 1,
                State::Loading => readiness.loading += 1,
                State::Failed(_) => readiness.failed += 1,
            }
        }
        readiness
    }
}

/// Reads a model's directory.
fn scan(name: &str, dir: &Path) -> Entry {
    match scan_sound(name, dir) {
        Ok(entry) => entry,
        Err(reason) => Entry {
            contract: None,
            versions: BTreeMap::from([(0, slot(State::Failed(reason.into())))]),
        },
    }
}

fn scan_sound(name: &str, dir: &Path) -> Result<Entry, String> {
    let contract = layout::contract(name, dir)?;
    let versions = layout::versions(dir)?
        .into_iter()
        .map(|version| (version, slot(State::Loading)))
        .collect();
    Ok(Entry {
        contract: Some(Arc::new(contract)),
        versions,
    })
}

/// Loads one version and runs it once on every lane.
fn load(
    name: &str,
    version: u64,
    path: &Path,
    contract: &Contract,
    backends: &Backends,
    queue_max: usize,
) -> Result<Model, NnError> {
    layout::readable(contract)?;
    if !path.is_file() {
        return Err(layout::no_graph(version));
    }
    let backend = backends.choose(contract.engine.backend.as_str())?;
    let options = contract_check::options(contract, queue_max);
    let model = Model::load(
        name,
        &version.to_string(),
        &*backend,
        &GraphSource::from(path),
        &options,
    )?;
    layout::agrees(contract, version, model.inputs(), model.outputs())?;
    model
        .warm_up(contract_check::example(contract)?)
        .map_err(|error| layout::first_run(version, error))?;
    Ok(model)
}
