//! The models of a server: the models and versions that exist, the versions that answer, and their changes while the
//! server runs.
//!
//! Decisions:
//!
//! - **Every directory is a model, and every model is listed.** A model that cannot be loaded is `Failed` with the
//!   reason. It neither stops the others nor is left out silently.
//! - **A model is ready when every instance has run once** on the least call that its contract allows. So a graph that
//!   loads but cannot run is found at start and not by a caller.
//! - **A call without a version gets the highest that answers.** If none answers, it gets the failure of the highest. A
//!   broken version never replaces a good one, at start and later. Every answer names its version, and the listing
//!   names the failures.
//! - **A load has a deadline.** It reports its stage when it takes long, and is given up when it takes longer than
//!   [`Settings::load_timeout`]. It does not keep other loads back.
//! - **Decisions and actions are separate**: [`plan`] is pure, [`perform`] acts, [`scan`] reads files, [`publish`]
//!   makes the guests' view.

mod cell;
mod compare;
mod comparisons;
mod event;
mod index;
mod load;
mod perform;
mod plan;
mod progress;
mod publish;
mod said;
mod scan;
mod settings;
mod telling;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_tensor::contract::Contract;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agreement::Agreement;
pub use crate::agreement::Compare;
use crate::backend::Backends;
use crate::error::NnError;
use crate::layout::version_number;
use crate::model::Model;
use crate::stats::{Stats, VersionStats};
use crate::tensor::NnTensor;
use cell::{Cell, Now};
use perform::{Core, OVER_BUDGET, TICK, Waits};
use plan::{Phase, Stamp};

pub use crate::layout::{CONTRACT_FILE, GRAPH_FILE, Unavailable};
pub use event::{Event, EventKind};
pub use index::{IndexEntry, State};
pub use perform::{DRAIN_MAX, LOAD_GIVEN_UP, Lease};
pub use progress::Stage;
pub use publish::Snapshot;
pub use settings::{LOAD_AT_ONCE, LOAD_TIMEOUT, Settings};

/// The result of loading one version.
#[derive(Debug, Clone)]
pub struct Report {
    /// The name of the model.
    pub model: String,
    /// Its version; 0 if the model has no version that could be tried.
    pub version: u64,
    /// The present state of the version.
    pub state: State,
    /// The time that loading and warming up took.
    pub took: Duration,
}

/// One model in a listing.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// The name of its directory.
    pub name: String,
    /// The contract in force, if there is one.
    pub contract: Option<Arc<Contract>>,
    /// Its versions, lowest first. A model whose directory itself is at fault has version 0, failed.
    pub versions: Vec<(u64, State)>,
}

/// Versions by state, for `/ready`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Number of versions that answer.
    pub ready: usize,
    /// Number of versions that are being loaded.
    pub loading: usize,
    /// Number of evicted versions: they are loaded and answer when they are called.
    pub evicted: usize,
    /// Versions that were unloaded on request.
    pub unloaded: usize,
    /// Versions that will not answer.
    pub failed: usize,
}

/// The models of a directory. Clones share them.
///
/// ```
/// use penstock_nn::{Backends, Repository, Settings};
/// use std::path::Path;
///
/// let models = Path::new("../../models");
/// let repository = Repository::open(models, Backends::builtin(), Settings::default()).unwrap();
/// assert_eq!(repository.contract("identity").unwrap().inputs[0].name, "a");
/// // No graph is loaded yet.
/// assert!(repository.get("identity", None).is_err());
/// ```
#[derive(Clone)]
pub struct Repository {
    core: Arc<Core>,
}

/// A model, or one version of it, wherever it is at the moment: a handle keeps nothing in memory.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
    name: String,
    version: Option<u64>,
    cell: Arc<Cell>,
    /// The contract that its calls are checked against, if they are.
    contract: Option<Stamp>,
}

impl Handle {
    /// The model that serves now; it counts as in use as long as the lease is held. If the version is evicted, this
    /// waits until it is loaded again. The caller bounds the wait.
    ///
    /// # Errors
    ///
    /// The reason that the version does not answer.
    pub async fn model(&self) -> Result<Lease, Unavailable> {
        let fast = self.version.is_some().then_some(&self.cell);
        if let Some(loaded) = fast.and_then(|cell| cell.serving(self.contract, self.core.now_ms()))
        {
            return Ok(self.core.lease(loaded));
        }
        let version = self.version.map(|version| version.to_string());
        // Not the handle's own: versions come and go.
        let cell = match self.core.find(&self.name, version.as_deref()) {
            Ok(cell) => cell,
            // The version is gone from disk, and still promised to requests that began before.
            Err(gone) => {
                let drains = self.cell.serving(self.contract, self.core.now_ms());
                return drains.map(|loaded| self.core.lease(loaded)).ok_or(gone);
            }
        };
        let mut turn = self.core.turn.subscribe();
        let _waits = Waits::on(&cell);
        loop {
            turn.borrow_and_update();
            if let Some(loaded) = cell.serving(self.contract, self.core.now_ms()) {
                return Ok(self.core.lease(loaded));
            }
            match cell.now() {
                // It came up between the two looks.
                Now::Ready(_) => continue,
                Now::Evicted => self.core.want(&cell),
                _ => return Err(cell.unavailable()),
            }
            let _ = tokio::time::timeout(TICK, turn.changed()).await;
        }
    }
}

impl Handle {
    /// Makes a shadow run on the model that serves, and compares its outputs with those that were answered to the same
    /// inputs; see [`crate::shadow`]. Returns at once. An evicted model is not loaded for it, and the run keeps no
    /// model from being evicted.
    ///
    /// # Errors
    ///
    /// The reason that the version does not answer, or that it does not take the inputs.
    pub fn shadow(
        &self,
        inputs: Vec<(String, NnTensor)>,
        expected: Vec<(String, NnTensor)>,
    ) -> Result<(), NnError> {
        let version = self.version.map(|version| version.to_string());
        let cell = self.core.find(&self.name, version.as_deref())?;
        let Some(loaded) = cell.loaded(self.contract) else {
            return Err(cell.unavailable().into());
        };
        let lease = self.core.lease(loaded);
        let tensors = inputs.iter().chain(&expected);
        let bytes = tensors.map(|(_, tensor)| tensor.data.len() as u64).sum();
        match self.core.shadows.share(bytes) {
            Some(share) => {
                let model = Model::clone(&lease);
                model.shadow(inputs, expected, (share, lease))
            }
            None => {
                lease.shed_shadow();
                Ok(())
            }
        }
    }
}

impl Repository {
    /// Reads the directory and the contracts in it; loads no graph. Blocks for a few file reads.
    ///
    /// # Errors
    ///
    /// When the directory cannot be listed, or the first snapshot not be written. A fault of one model becomes that
    /// model's state.
    pub fn open(root: &Path, backends: Backends, settings: Settings) -> Result<Self, NnError> {
        let core = Core::open(root.to_path_buf(), backends, settings)?;
        Ok(Self { core })
    }

    /// Loads and warms up every version, a few at a time and highest version first, and calls `report` for
    /// each as it becomes ready or fails; also for the faults that [`Repository::open`] found. Returns when all are
    /// done. To load in the background, spawn it. A second call does nothing.
    pub async fn load_all(&self, mut report: impl FnMut(Report)) {
        if self.core.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut turn = self.core.turn.subscribe();
        let mut reported = std::collections::BTreeSet::new();
        loop {
            turn.borrow_and_update();
            self.core.drive();
            let mut news = Vec::new();
            let mut left = false;
            {
                let inner = self.core.lock();
                for (name, model) in &inner.book.models {
                    if let Some(reason) = perform::fault(model) {
                        if reported.insert((name.clone(), 0)) {
                            news.push(Report {
                                model: name.clone(),
                                version: 0,
                                state: State::Failed(reason),
                                took: Duration::ZERO,
                            });
                        }
                        continue;
                    }
                    for (number, version) in model.versions.iter().rev() {
                        let key = (name.clone(), *number);
                        if !version.is_settled() {
                            left |= !reported.contains(&key);
                        } else if reported.insert(key.clone()) {
                            news.push(Report {
                                model: name.clone(),
                                version: *number,
                                state: state(&inner, name, *number, &version.phase),
                                took: inner.took.get(&key).copied().unwrap_or_default(),
                            });
                        }
                    }
                }
            }
            news.into_iter().for_each(&mut report);
            if !left {
                return;
            }
            let _ = tokio::time::timeout(TICK, turn.changed()).await;
        }
    }

    /// Follows changes of the files, every `poll` if given, and handles everything that has to wait: calls that end, a
    /// budget without room. Never returns; drop it to stop it.
    pub async fn run(&self, poll: Option<Duration>) {
        let mut turn = self.core.turn.subscribe();
        let mut due = poll.map(|every| Instant::now() + every);
        loop {
            let tick = self.core.lock().has_work().then(|| Instant::now() + TICK);
            let until = [due, tick].into_iter().flatten().min();
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = turn.changed() => {}
                () = sleep => {}
            }
            turn.borrow_and_update();
            if let (Some(every), Some(at)) = (poll, due)
                && at <= Instant::now()
            {
                let core = self.core.clone();
                // A poll that panicked does not matter; the next one scans again.
                let _ = tokio::task::spawn_blocking(move || core.poll()).await;
                due = Some(Instant::now() + every);
            }
            self.core.drive();
        }
    }

    /// A channel of all events from now on. Only the newest channel gets them.
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        self.core.events()
    }

    /// The guests' view of the catalogue, if [`Settings::publish`] is set.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.core.snapshot()
    }

    /// The generation of the newest snapshot: an instance that was made with an older one is behind.
    pub fn generation(&self) -> u64 {
        *self.core.generation.borrow()
    }

    /// The same, to wait for the next.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.core.generation.subscribe()
    }

    /// A handle for a model: for the given version, or for the default without one.
    ///
    /// # Errors
    ///
    /// The existing models or versions, that the model is being loaded or was unloaded, or the reason that it could not
    /// be loaded.
    pub fn handle(&self, name: &str, version: Option<&str>) -> Result<Handle, Unavailable> {
        self.handle_in(None, name, version)
    }

    /// The same for calls that began under a snapshot. If the version is gone since, or another contract is in force,
    /// they get the model that served under theirs, as long as the snapshot is in use.
    ///
    /// # Errors
    ///
    /// As [`Repository::handle`].
    pub fn handle_in(
        &self,
        snapshot: Option<&Snapshot>,
        name: &str,
        version: Option<&str>,
    ) -> Result<Handle, Unavailable> {
        let contract = snapshot.and_then(|snapshot| snapshot.contract(name));
        let cell = match self.core.find(name, version) {
            Ok(cell) => cell,
            // It may have been removed since the caller's catalogue was made.
            Err(unavailable) => {
                (contract.and_then(|_| self.core.find_drained(name, version))).ok_or(unavailable)?
            }
        };
        if !cell.answers(contract) {
            return Err(cell.unavailable());
        }
        if let Now::Ready(loaded) = cell.now()
            && let Some(reason) = loaded.model.refuses()
        {
            return Err(Unavailable::restarting(name, cell.version, &reason));
        }
        Ok(Handle {
            core: self.core.clone(),
            name: name.to_owned(),
            version: version.and_then(version_number),
            cell,
            contract,
        })
    }

    /// The model in memory: the given version, or the default without one.
    ///
    /// # Errors
    ///
    /// As [`Repository::handle`]; also if it is evicted. To have it loaded again, take a handle.
    pub fn get(&self, name: &str, version: Option<&str>) -> Result<Model, Unavailable> {
        let cell = self.core.find(name, version)?;
        match cell.now() {
            Now::Ready(loaded) => Ok(loaded.model.clone()),
            _ => Err(cell.unavailable()),
        }
    }

    /// Loads a model's files as they are now, and its unloaded versions; returns when that is done. A loaded version
    /// that did not change stays as it is.
    ///
    /// # Errors
    ///
    /// The reason that a version cannot answer as it is on disk; a version that answered before still does.
    pub async fn load(&self, name: &str) -> Result<(), Unavailable> {
        self.load_some(name, None).await
    }

    /// The same for one version.
    ///
    /// # Errors
    ///
    /// As [`Repository::load`].
    pub async fn load_version(&self, name: &str, version: u64) -> Result<(), Unavailable> {
        self.load_some(name, Some(version)).await
    }

    async fn load_some(&self, name: &str, only: Option<u64>) -> Result<(), Unavailable> {
        let core = self.core.clone();
        core.started.store(true, Ordering::SeqCst);
        let looked = name.to_owned();
        let look = move || core.look_at_once(&looked);
        let _ = tokio::task::spawn_blocking(look).await;
        let mut turn = self.core.turn.subscribe();
        self.core.lock().book.load(name, only);
        loop {
            turn.borrow_and_update();
            self.core.drive();
            self.core
                .find(name, only.map(|only| only.to_string()).as_deref())?;
            if let Some(outcome) = self.outcome(name, only) {
                return outcome;
            }
            let _ = tokio::time::timeout(TICK, turn.changed()).await;
        }
    }

    /// The result of loading; `None` while it is under way.
    fn outcome(&self, name: &str, only: Option<u64>) -> Option<Result<(), Unavailable>> {
        let inner = self.core.lock();
        let model = inner.book.models.get(name)?;
        if model.candidate().is_some() {
            return None;
        }
        let mut outcome = Ok(());
        let concerned = (model.versions.iter().rev())
            .filter(|(number, _)| only.is_none_or(|only| only == **number));
        for (number, version) in concerned {
            if !version.is_settled() {
                return None;
            }
            let fault = match &version.phase {
                Phase::Failed(reason) => Some(Unavailable::failed(name, reason)),
                // It was unloaded on request meanwhile.
                Phase::Unloaded => Some(Unavailable::unloaded(name, *number)),
                _ => (version.kept_because()).map(|reason| Unavailable::failed(name, reason)),
            };
            if let (Some(fault), Ok(())) = (fault, &outcome) {
                outcome = Err(fault);
            }
        }
        if let (Some(refused), Ok(())) = (&model.refused, &outcome) {
            outcome = Err(Unavailable::failed(name, refused));
        }
        Some(outcome)
    }

    /// Takes a model out of memory until it is loaded again or the server restarts: new calls are refused at once,
    /// those that wait or run are brought to their end. Returns when they have ended and the memory is given back,
    /// at the latest after [`DRAIN_MAX`].
    ///
    /// # Errors
    ///
    /// When there is no such model.
    pub async fn unload(&self, name: &str) -> Result<(), Unavailable> {
        self.unload_some(name, None).await
    }

    /// The same for one version.
    ///
    /// # Errors
    ///
    /// When there is no such model or version.
    pub async fn unload_version(&self, name: &str, version: u64) -> Result<(), Unavailable> {
        self.unload_some(name, Some(version)).await
    }

    async fn unload_some(&self, name: &str, only: Option<u64>) -> Result<(), Unavailable> {
        self.core
            .find(name, only.map(|only| only.to_string()).as_deref())?;
        self.core.started.store(true, Ordering::SeqCst);
        let mut turn = self.core.turn.subscribe();
        self.core.lock().book.unload(name, only);
        let until = Instant::now() + DRAIN_MAX + TICK;
        loop {
            turn.borrow_and_update();
            self.core.drive();
            let drained = !self.core.lock().drains(name, only);
            let given_back = self.core.discarding.load(Ordering::SeqCst) == 0;
            if (drained && given_back) || Instant::now() >= until {
                return Ok(());
            }
            let _ = tokio::time::timeout(TICK, turn.changed()).await;
        }
    }

    /// The contract in force of a model, if there is one.
    pub fn contract(&self, name: &str) -> Option<Arc<Contract>> {
        self.core.lock().contract(name)
    }

    /// Every model and version, by name.
    pub fn list(&self) -> Vec<ModelStatus> {
        let inner = self.core.lock();
        let models = inner.book.models.iter();
        models
            .map(|(name, model)| {
                let versions = match perform::fault(model) {
                    Some(reason) => vec![(0, State::Failed(reason))],
                    None => (model.versions.iter())
                        .map(|(number, version)| {
                            (*number, state(&inner, name, *number, &version.phase))
                        })
                        .collect(),
                };
                ModelStatus {
                    name: name.clone(),
                    contract: inner.contract(name),
                    versions,
                }
            })
            .collect()
    }

    /// Every version with the facts for an operator, by name and version.
    pub fn index(&self) -> Vec<IndexEntry> {
        let now_ms = self.core.now_ms();
        let inner = self.core.lock();
        let mut index = Vec::new();
        for (name, model) in &inner.book.models {
            let entry = |version, state: &State, reason: Option<String>| IndexEntry {
                model: name.clone(),
                version,
                state: state.as_str(),
                reason,
                memory_bytes: 0,
                pinned: model.pinned(),
                last_used: None,
                is_default: false,
                agreement: match state {
                    State::Ready(model) => model.agreement_state(),
                    _ => None,
                },
            };
            if let Some(reason) = perform::fault(model) {
                let text = reason.to_string();
                index.push(entry(0, &State::Failed(reason), Some(text)));
                continue;
            }
            for (number, version) in &model.versions {
                let state = state(&inner, name, *number, &version.phase);
                let kept = version.kept_because().or(model.refused.as_ref());
                let reason = match &state {
                    State::Failed(reason) | State::Unloaded(reason) => Some(reason.to_string()),
                    State::Ready(model) => {
                        let differs = match model.agreement() {
                            Some(found @ Agreement::Differs { .. }) => Some(found.to_string()),
                            _ => None,
                        };
                        kept.map(|reason| format!("the files on disk are not served: {reason}"))
                            .or(differs)
                    }
                    State::Loading | State::Draining => None,
                };
                let used = inner
                    .cell(name, *number)
                    .map_or(0, |cell| cell.last_used_ms());
                index.push(IndexEntry {
                    memory_bytes: match version.phase {
                        Phase::Ready(load) => load.bytes,
                        _ => 0,
                    },
                    last_used: (used > 0)
                        .then(|| Duration::from_millis(now_ms.saturating_sub(used))),
                    is_default: model.default_version() == Some(*number),
                    ..entry(*number, &state, reason)
                });
            }
        }
        index
    }

    /// The statistics of every version by name and version, or of one model, or of one version. A version that is not
    /// in memory has no counts.
    ///
    /// # Errors
    ///
    /// When there is no such model or version.
    pub fn statistics(
        &self,
        model: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<VersionStats>, Unavailable> {
        let table = self.core.table();
        let number = version.map(|text| version_number(text).unwrap_or(0));
        let unknown = |name: &str| {
            let there = table.models.keys().map(String::as_str);
            Unavailable::unknown_model(name, there)
        };
        if let Some(name) = model {
            let known = table.models.get(name).ok_or_else(|| unknown(name))?;
            if let Some(number) = number
                && !known.versions.contains_key(&number)
            {
                let there = known.versions.keys().copied();
                let asked = version.unwrap_or_default();
                return Err(Unavailable::unknown_version(name, asked, there));
            }
        }
        let versions = (table.models.iter())
            .filter(|(name, _)| model.is_none_or(|model| model == name.as_str()))
            .flat_map(|(_, model)| model.versions.values())
            .filter(|cell| number.is_none_or(|number| number == cell.version))
            .map(|cell| VersionStats {
                model: cell.name.clone(),
                version: cell.version,
                stats: match cell.now() {
                    Now::Ready(loaded) => loaded.model.stats(),
                    _ => Stats::default(),
                },
            });
        Ok(versions.collect())
    }

    /// Bytes that loaded models hold together, as the budget counts them.
    pub fn memory_bytes(&self) -> u64 {
        self.core.lock().book.held_bytes()
    }

    /// The number of versions in each state.
    pub fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        let inner = self.core.lock();
        for (name, model) in &inner.book.models {
            if perform::fault(model).is_some() {
                readiness.failed += 1;
                continue;
            }
            for (number, version) in &model.versions {
                *match version.phase {
                    Phase::Ready(_) if inner.refuses(name, *number) => &mut readiness.failed,
                    Phase::Ready(_) => &mut readiness.ready,
                    Phase::Waiting => &mut readiness.loading,
                    Phase::Evicted { .. } => &mut readiness.evicted,
                    Phase::Unloaded => &mut readiness.unloaded,
                    Phase::Failed(_) => &mut readiness.failed,
                } += 1;
            }
        }
        readiness
    }
}

fn state(inner: &perform::Inner, name: &str, number: u64, phase: &Phase) -> State {
    match phase {
        Phase::Waiting => State::Loading,
        Phase::Ready(_) => match inner.cell(name, number).map(|cell| cell.now()) {
            Some(Now::Ready(loaded)) => match loaded.model.process().and_then(|child| child.down) {
                Some(reason) => State::Failed(reason.into()),
                None => State::Ready(loaded.model.clone()),
            },
            // The book is ahead of the callers' view until the lock is held.
            _ => State::Loading,
        },
        Phase::Evicted { .. } => State::Unloaded(OVER_BUDGET.into()),
        Phase::Unloaded if inner.drains(name, Some(number)) => State::Draining,
        Phase::Unloaded => State::Unloaded("unloaded by request; load it".into()),
        Phase::Failed(reason) => State::Failed(reason.clone()),
    }
}
