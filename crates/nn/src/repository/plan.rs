//! The next actions of a repository, as a pure function of the files on disk, the loaded graphs, the requests, the
//! budget and the times of use. Nothing here touches a file, a thread or a clock; [`super::perform`] does.
//!
//! Decisions:
//!
//! - **Level, not edge.** Events only change the [`Book`]; [`Book::plan`] looks at all of it and finds the missing actions.
//!   So an event that is lost, doubled or late changes the time of an action, and not the action.
//! - **One load of a version at a time.** A load under way is its version's `job`, and a version with a job gets no
//!   other. The use of its result is decided when it arrives: a result that is not needed any more is dropped.
//! - **A version that answers keeps answering.** A changed graph is loaded while the old one serves, and replaces it
//!   only when it is warm. A changed contract is first tried on the highest version that answers and on those above it.
//!   If none of them runs under it, it is refused and nothing changes. Otherwise every version is tried, and all of
//!   them change at once.
//! - **The budget counts the graphs that serve.** While a version is replaced, the old and the new graph are both in
//!   memory. This overlap is bounded by the number of loads at once. It does not count, because otherwise a model
//!   larger than half of the budget could never be replaced.
//! - **A slow load does not keep others back.** After [`SLOW_LOAD_MS`] it no longer counts among the loads at once;
//!   [`super::perform`] gives it up when its time is over.
//! - **No thrashing.** A version that was called since it was loaded stays at least [`MIN_STAY_MS`]; calls of another
//!   version that needs its place wait so long. So two models that do not fit together cause at most one load a second.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The least time that a called version stays after it was loaded. It is long compared with a call and short compared
/// with a caller's patience. With loads of tens of milliseconds, swapping costs a few percent of the machine.
pub(crate) const MIN_STAY_MS: u64 = 1_000;

/// The age from which a load no longer counts among the loads at once, so that a load that takes long, or never ends,
/// does not keep the others back. Most models load faster. At this age the log reports a slow load.
pub(crate) const SLOW_LOAD_MS: u64 = 5_000;

/// Most loads of that age. Each may hold about twice its graph, so their number is bounded as well.
pub(crate) const MAX_SLOW_LOADS: usize = 4;

/// A reason, in words for an operator.
pub(crate) type Reason = Arc<str>;

/// A digest of files' names, sizes and times of change: another digest means other contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp(pub u64);

/// The contents of a version's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Graph {
    pub stamp: Stamp,
    /// The size of its files in bytes. Once the graph was read, the memory that it is expected to hold.
    pub bytes: u64,
}

/// The parts of a model's contract that the plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContractState {
    pub stamp: Stamp,
    /// Whether the model may not be evicted; or the reason that the contract cannot be read.
    pub pinned: Result<bool, Reason>,
}

/// A model's directory, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundModel {
    pub contract: ContractState,
    pub versions: BTreeMap<u64, Graph>,
}

/// A graph in memory, with the files that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub id: u64,
    pub contract: Stamp,
    pub graph: Stamp,
    pub bytes: u64,
    pub since_ms: u64,
}

/// A load under way, with the files that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub id: u64,
    pub contract: Stamp,
    pub graph: Stamp,
    /// The memory that it is expected to hold, until the loaded graph is measured.
    bytes: u64,
    /// The memory in bytes that it is taken to hold if that cannot be measured.
    file_bytes: u64,
    /// Whether it replaces a graph that serves.
    beside: bool,
    began_ms: u64,
}

impl Job {
    /// The memory that it is taken to hold if that cannot be measured.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// The state of a version for its callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first load has not ended yet.
    Waiting,
    /// The version answers calls.
    Ready(Load),
    /// Evicted for the budget; `wanted` when a call waits for it.
    Evicted { wanted: bool },
    /// Unloaded on request; a call fails until it is loaded.
    Unloaded,
    /// Every load failed; with the reason.
    Failed(Reason),
}

impl Phase {
    pub(crate) fn answers(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Evicted { .. })
    }
}

/// The result of trying a version under a contract that is not accepted yet.
#[derive(Clone, Debug)]
struct Trial {
    graph: Stamp,
    outcome: Result<Load, Reason>,
}

#[derive(Clone, Debug)]
struct Tried {
    contract: Stamp,
    graph: Stamp,
    reason: Reason,
}

#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub graph: Graph,
    pub phase: Phase,
    pub job: Option<Job>,
    /// The memory that its graph held when it was last loaded.
    pub known_bytes: Option<u64>,
    /// The version came after the start and has not answered yet.
    pub newcomer: bool,
    tried: Option<Tried>,
    trial: Option<Trial>,
}

impl Version {
    fn new(graph: Graph, phase: Phase, newcomer: bool) -> Self {
        Self {
            graph,
            phase,
            job: None,
            known_bytes: None,
            newcomer,
            tried: None,
            trial: None,
        }
    }

    /// The reason that the files on disk do not serve while an older graph does.
    pub(crate) fn kept_because(&self) -> Option<&Reason> {
        let tried = self.tried.as_ref().filter(|_| self.phase.answers())?;
        (tried.graph == self.graph.stamp).then_some(&tried.reason)
    }

    fn was_tried(&self, contract: Stamp) -> bool {
        self.tried
            .as_ref()
            .is_some_and(|tried| tried.contract == contract && tried.graph == self.graph.stamp)
    }

    fn tried_under(&self) -> Option<&Result<Load, Reason>> {
        self.trial
            .as_ref()
            .filter(|trial| trial.graph == self.graph.stamp)
            .map(|trial| &trial.outcome)
    }

    fn expected_bytes(&self) -> u64 {
        self.known_bytes.unwrap_or(self.graph.bytes)
    }

    /// Returns whether no load of it runs or waits for its turn.
    pub(crate) fn is_settled(&self) -> bool {
        self.job.is_none()
            && !matches!(self.phase, Phase::Waiting | Phase::Evicted { wanted: true })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The contract under which the versions serve.
    pub in_force: ContractState,
    /// The contract on disk, if it is another.
    pub on_disk: ContractState,
    /// The reason that the contract on disk was refused.
    pub refused: Option<Reason>,
    pub versions: BTreeMap<u64, Version>,
    /// Unloaded as a whole: later versions stay unloaded as well.
    down: bool,
}

impl Model {
    pub(crate) fn pinned(&self) -> bool {
        matches!(self.in_force.pinned, Ok(true))
    }

    pub(crate) fn answers(&self) -> bool {
        self.versions
            .values()
            .any(|version| version.phase.answers())
    }

    /// The version for calls that name none: the highest that answers, else the highest.
    pub(crate) fn default_version(&self) -> Option<u64> {
        let answering = (self.versions.iter().rev()).find(|(_, version)| version.phase.answers());
        answering
            .or_else(|| self.versions.last_key_value())
            .map(|(number, _)| *number)
    }

    /// A contract that is neither in force nor refused.
    pub(crate) fn candidate(&self) -> Option<Stamp> {
        let other = self.on_disk.stamp != self.in_force.stamp && self.refused.is_none();
        (other && self.on_disk.pinned.is_ok()).then_some(self.on_disk.stamp)
    }

    fn drop_trials(&mut self) {
        for version in self.versions.values_mut() {
            version.trial = None;
        }
    }

    /// Takes note of the contract on disk.
    fn consider(&mut self, contract: ContractState) {
        if contract != self.on_disk {
            self.on_disk = contract;
            self.refused = None;
            self.drop_trials();
        }
        if self.on_disk.stamp == self.in_force.stamp {
            self.refused = None;
            return;
        }
        if !self.answers() {
            return self.accept();
        }
        if let Err(reason) = &self.on_disk.pinned {
            self.refused = Some(reason.clone());
        }
    }

    /// Accepts the contract on disk if no version answers that it could harm.
    fn accept(&mut self) {
        self.in_force = self.on_disk.clone();
        self.refused = None;
        self.drop_trials();
        for version in self.versions.values_mut() {
            if let Phase::Failed(_) = version.phase {
                version.phase = Phase::Waiting;
            }
        }
    }

    /// The versions a new contract is tried on before it is decided on, highest first; and whether those decided
    /// already for it, so that it only remains to see which others keep up.
    fn trial(&self) -> Option<(Vec<u64>, bool)> {
        let answering =
            |(number, version): (&u64, &Version)| version.phase.answers().then_some(*number);
        let protected = self.versions.iter().rev().find_map(answering)?;
        // Evicted versions below it come back under the new contract when they are called, or fail then.
        let concerned = |(number, version): &(&u64, &Version)| match version.phase {
            Phase::Unloaded => false,
            Phase::Evicted { .. } => **number >= protected,
            _ => true,
        };
        let all = || self.versions.iter().rev().filter(concerned);
        let decided = all().any(|(number, version)| {
            *number >= protected && matches!(version.tried_under(), Some(Ok(_)))
        });
        let numbers = all()
            .map(|(number, _)| *number)
            .filter(|number| decided || *number >= protected)
            .collect();
        Some((numbers, decided))
    }

    /// Accepts or refuses the candidate as soon as that can be decided.
    fn decide(&mut self) {
        if self.candidate().is_none() {
            return;
        }
        let Some((numbers, decided)) = self.trial() else {
            return self.accept();
        };
        let outcomes = || {
            numbers
                .iter()
                .map(|number| self.versions[number].tried_under())
        };
        if outcomes().any(|outcome| outcome.is_none()) {
            return;
        }
        if !decided {
            let reason = outcomes()
                .flatten()
                .find_map(|outcome| outcome.as_ref().err().cloned());
            self.refused = reason;
            self.drop_trials();
            return;
        }
        self.in_force = self.on_disk.clone();
        for number in numbers {
            let version = self.versions.get_mut(&number).expect("it was listed above");
            match version.trial.take().map(|trial| trial.outcome) {
                Some(Ok(load)) => version.serve(load),
                Some(Err(reason)) => {
                    version.tried = Some(Tried {
                        contract: self.in_force.stamp,
                        graph: version.graph.stamp,
                        reason: reason.clone(),
                    });
                    version.phase = Phase::Failed(reason);
                }
                None => {}
            }
        }
    }
}

impl Version {
    fn serve(&mut self, load: Load) {
        self.known_bytes = Some(load.bytes);
        self.phase = Phase::Ready(load);
        self.tried = None;
        self.newcomer = false;
    }
}

/// The use of a version.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// The time of the last call; 0 without one.
    pub last_used_ms: u64,
    /// Whether calls of it run or wait.
    pub busy: bool,
}

/// An action of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Load a version; it has a job for that now.
    Start {
        name: String,
        version: u64,
        job: Job,
    },
    /// Evict a graph that is not in use; with `busy`, one in use as well. Report it with [`Book::evicted`]. Running
    /// calls end first; the next ones wait for the reload.
    Evict {
        name: String,
        version: u64,
        busy: bool,
    },
}

/// The actions to take now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// Something waits for time to pass or for a call to end: plan again soon.
    pub again_soon: bool,
}

/// Everything a plan is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub models: BTreeMap<String, Model>,
    pub budget_bytes: Option<u64>,
    pub load_at_once: usize,
    next_job: u64,
}

/// A version that ought to be loaded.
struct PendingLoad {
    name: String,
    version: u64,
    contract: Stamp,
    beside: bool,
}

impl Book {
    pub(crate) fn new(budget_bytes: Option<u64>, load_at_once: usize) -> Self {
        Self {
            models: BTreeMap::new(),
            budget_bytes,
            load_at_once: load_at_once.max(1),
            next_job: 1,
        }
    }

    fn version(&mut self, name: &str, version: u64) -> Option<&mut Version> {
        self.models.get_mut(name)?.versions.get_mut(&version)
    }

    /// A model's directory is as `seen`, or is gone. `later` unless the server started with it.
    pub(crate) fn seen(&mut self, name: &str, seen: Option<FoundModel>, later: bool) {
        let Some(FoundModel { contract, versions }) = seen else {
            self.models.remove(name);
            return;
        };
        let model = self.models.entry(name.to_owned()).or_insert_with(|| Model {
            on_disk: contract.clone(),
            in_force: contract.clone(),
            refused: None,
            versions: BTreeMap::new(),
            down: false,
        });
        let later = later && model.answers();
        model
            .versions
            .retain(|number, _| versions.contains_key(number));
        for (number, graph) in versions {
            let phase = if model.down {
                Phase::Unloaded
            } else {
                Phase::Waiting
            };
            let known = model.versions.entry(number);
            let version = known.or_insert_with(|| Version::new(graph, phase, later));
            if version.graph != graph {
                version.graph = graph;
                version.known_bytes = None;
            }
        }
        model.consider(contract);
    }

    /// Records the result of a job: the loaded graph and its size, or the reason of its failure. Returns whether the
    /// result was used; a loaded graph that is not used is to be dropped.
    pub(crate) fn finished(
        &mut self,
        name: &str,
        number: u64,
        job: Job,
        outcome: Result<(u64, u64), Reason>,
        now_ms: u64,
    ) -> bool {
        let budget = self.budget_bytes;
        let Some(model) = self.models.get_mut(name) else {
            return false;
        };
        let (accepted, candidate) = (model.in_force.stamp, model.candidate());
        let Some(version) = model.versions.get_mut(&number) else {
            return false;
        };
        // The folder may have gone and come back since: then this job is another version's.
        if version.job.map(|known| known.id) != Some(job.id) {
            return false;
        }
        version.job = None;
        if version.phase == Phase::Unloaded {
            return false;
        }
        let outcome = outcome.and_then(|(id, bytes)| match budget {
            Some(budget) if bytes > budget => Err(too_large(number, bytes, budget)),
            _ => Ok(Load {
                id,
                contract: job.contract,
                graph: job.graph,
                bytes,
                since_ms: now_ms,
            }),
        });
        if Some(job.contract) == candidate {
            let current = version.graph.stamp == job.graph;
            if current {
                version.trial = Some(Trial {
                    graph: job.graph,
                    outcome,
                });
            }
            model.decide();
            return current;
        }
        if job.contract != accepted {
            return false;
        }
        match outcome {
            Ok(load) => version.serve(load),
            Err(reason) => {
                version.tried = Some(Tried {
                    contract: job.contract,
                    graph: job.graph,
                    reason: reason.clone(),
                });
                if !matches!(version.phase, Phase::Ready(_)) {
                    version.phase = Phase::Failed(reason);
                }
            }
        }
        true
    }

    /// A call waits for an evicted version.
    pub(crate) fn want(&mut self, name: &str, number: u64) {
        if let Some(version) = self.version(name, number)
            && let Phase::Evicted { wanted } = &mut version.phase
        {
            *wanted = true;
        }
    }

    /// Notes that a version was evicted.
    pub(crate) fn evicted(&mut self, name: &str, number: u64) {
        if let Some(version) = self.version(name, number)
            && let Phase::Ready(_) = version.phase
        {
            version.phase = Phase::Evicted { wanted: false };
        }
    }

    /// Handles a request to load a version, or all: unloaded, evicted and failed versions are loaded, and refused
    /// contracts are tried again.
    pub(crate) fn load(&mut self, name: &str, only: Option<u64>) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        model.down = false;
        model.refused = None;
        model.drop_trials();
        for (_, version) in select(&mut model.versions, only) {
            version.tried = None;
            match &mut version.phase {
                Phase::Unloaded | Phase::Failed(_) => version.phase = Phase::Waiting,
                Phase::Evicted { wanted } => *wanted = true,
                Phase::Waiting | Phase::Ready(_) => {}
            }
        }
        let on_disk = model.on_disk.clone();
        model.consider(on_disk);
    }

    /// Handles a request to unload a version, or all.
    pub(crate) fn unload(&mut self, name: &str, only: Option<u64>) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        model.down |= only.is_none();
        for (_, version) in select(&mut model.versions, only) {
            version.phase = Phase::Unloaded;
            version.tried = None;
            version.trial = None;
            version.newcomer = false;
        }
        model.decide();
    }

    /// Bytes of the graphs that serve.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.serving().map(|(_, _, load)| load.bytes).sum()
    }

    fn serving(&self) -> impl Iterator<Item = (&str, u64, Load)> {
        self.models.iter().flat_map(|(name, model)| {
            (model.versions.iter()).filter_map(move |(number, version)| match version.phase {
                Phase::Ready(load) => Some((name.as_str(), *number, load)),
                _ => None,
            })
        })
    }

    /// Returns whether the book still knows a load; others are to be dropped.
    pub(crate) fn knows(&self, id: u64) -> bool {
        let versions = self
            .models
            .values()
            .flat_map(|model| model.versions.values());
        versions.into_iter().any(|version| {
            let serves = matches!(version.phase, Phase::Ready(load) if load.id == id);
            serves
                || matches!(&version.trial, Some(Trial { outcome: Ok(load), .. }) if load.id == id)
        })
    }

    /// The actions to take now. Loads that it starts are jobs from here on.
    pub(crate) fn plan(&mut self, now_ms: u64, usage: impl Fn(&str, u64) -> Usage) -> Plan {
        let mut plan = Plan::default();
        for model in self.models.values_mut() {
            model.decide();
        }
        let budget = self.budget_bytes.unwrap_or(u64::MAX);
        let over = self.held_bytes().saturating_sub(budget);
        if over > 0 {
            let (evictions, _) = self.victims(over, now_ms, &usage);
            plan.again_soon = true;
            if !evictions.is_empty() {
                plan.actions = evictions;
                return plan;
            }
        }
        for load in self.pending_loads() {
            if !self.may_load_one_more(now_ms) {
                break;
            }
            let model = &self.models[&load.name];
            let version = &model.versions[&load.version];
            let bytes = version.expected_bytes();
            let fault = self.never_fits(model, load.version, bytes);
            if !load.beside && fault.is_none() {
                let reserved: u64 = self
                    .jobs()
                    .filter(|job| !job.beside)
                    .map(|job| job.bytes)
                    .sum();
                let wanted = self
                    .held_bytes()
                    .saturating_add(reserved)
                    .saturating_add(bytes);
                let missing = wanted.saturating_sub(budget);
                if missing > 0 && !model.pinned() {
                    let (evictions, enough) = self.victims(missing, now_ms, &usage);
                    plan.again_soon = true;
                    if enough {
                        // The first in line gets the memory that this frees. The rest is planned when it is free.
                        plan.actions.extend(evictions);
                        return plan;
                    }
                    continue;
                }
            }
            let id = self.next_job;
            self.next_job += 1;
            let job = Job {
                id,
                contract: load.contract,
                graph: version.graph.stamp,
                bytes,
                file_bytes: version.graph.bytes,
                beside: load.beside,
                began_ms: now_ms,
            };
            self.version(&load.name, load.version).expect("planned").job = Some(job);
            if let Some(fault) = fault {
                self.finished(&load.name, load.version, job, Err(fault), now_ms);
                plan.again_soon = true;
                continue;
            }
            plan.actions.push(Action::Start {
                name: load.name,
                version: load.version,
                job,
            });
        }
        plan
    }

    fn may_load_one_more(&self, now_ms: u64) -> bool {
        let slow = |job: &Job| now_ms.saturating_sub(job.began_ms) >= SLOW_LOAD_MS;
        let (all, slow) = (self.jobs().count(), self.jobs().filter(slow).count());
        all - slow < self.load_at_once && all < self.load_at_once + MAX_SLOW_LOADS
    }

    fn jobs(&self) -> impl Iterator<Item = Job> {
        let versions = self
            .models
            .values()
            .flat_map(|model| model.versions.values());
        versions.filter_map(|version| version.job)
    }

    /// The reason that a version has no place, even if all others are evicted.
    fn never_fits(&self, model: &Model, number: u64, bytes: u64) -> Option<Reason> {
        let budget = self.budget_bytes?;
        if bytes > budget {
            return Some(too_large(number, bytes, budget));
        }
        if model.pinned() || matches!(model.versions[&number].phase, Phase::Ready(_)) {
            return None;
        }
        let pinned = |name: &str| self.models.get(name).is_some_and(Model::pinned);
        let held: u64 = self
            .serving()
            .filter(|(name, _, _)| pinned(name))
            .map(|(_, _, load)| load.bytes)
            .sum();
        (bytes.saturating_add(held) > budget).then(|| {
            format!(
                "version {number} takes about {bytes} bytes, and pinned models hold {held} of {budget}; \
                 raise models.memory_budget_bytes, or pin less"
            )
            .into()
        })
    }

    /// Versions that should be loaded and are not: first those that calls wait for, then by name, highest version
    /// first.
    fn pending_loads(&self) -> Vec<PendingLoad> {
        let mut pending: Vec<(bool, PendingLoad)> = Vec::new();
        for (name, model) in &self.models {
            if model.in_force.pinned.is_err() {
                continue;
            }
            let candidate = model.candidate();
            let trial = candidate
                .and_then(|_| model.trial())
                .map(|(numbers, _)| numbers);
            for (number, version) in model.versions.iter().rev() {
                if version.job.is_some() {
                    continue;
                }
                let mut add = |urgent, contract, beside| {
                    let load = PendingLoad {
                        name: name.clone(),
                        version: *number,
                        contract,
                        beside,
                    };
                    pending.push((urgent, load));
                };
                let accepted = model.in_force.stamp;
                if version.phase == (Phase::Evicted { wanted: true }) {
                    add(true, accepted, false);
                    continue;
                }
                if let (Some(contract), Some(trial)) = (candidate, &trial) {
                    if trial.contains(number) && version.tried_under().is_none() {
                        add(false, contract, true);
                    }
                    continue;
                }
                let missing = match &version.phase {
                    Phase::Waiting => true,
                    Phase::Ready(load) => {
                        load.graph != version.graph.stamp && !version.was_tried(accepted)
                    }
                    Phase::Failed(_) => !version.was_tried(accepted),
                    Phase::Evicted { .. } | Phase::Unloaded => false,
                };
                if missing {
                    add(false, accepted, matches!(version.phase, Phase::Ready(_)));
                }
            }
        }
        pending.sort_by_key(|(urgent, _)| !urgent);
        pending.into_iter().map(|(_, load)| load).collect()
    }

    /// The graphs to evict for so many bytes, and whether that is enough. Idle graphs go first, least recently used
    /// first. A graph in use makes way only if the idle ones could never be enough, or a busy model would keep another
    /// out for good. It makes way only after its stay, so that models take turns.
    fn victims(
        &self,
        bytes: u64,
        now_ms: u64,
        usage: impl Fn(&str, u64) -> Usage,
    ) -> (Vec<Action>, bool) {
        let mut able: Vec<(bool, u64, u64, &str, u64, u64)> = Vec::new();
        // Bytes of graphs that could be evicted without disturbing a call, now or after their stay.
        let mut undisturbed = 0u64;
        for (name, number, load) in self.serving() {
            let model = &self.models[name];
            let used = usage(name, number);
            let replaced = model.versions[&number].job.is_some();
            if model.pinned() || replaced {
                continue;
            }
            if !used.busy {
                undisturbed = undisturbed.saturating_add(load.bytes);
            }
            let stays = now_ms.saturating_sub(load.since_ms) < MIN_STAY_MS
                && (used.busy || used.last_used_ms >= load.since_ms);
            if !stays {
                let (last, since) = (used.last_used_ms, load.since_ms);
                able.push((used.busy, last, since, name, number, load.bytes));
            }
        }
        able.retain(|(busy, ..)| !busy || undisturbed < bytes);
        able.sort_unstable();
        let mut freed = 0;
        let mut actions = Vec::new();
        for (busy, _, _, name, version, held) in able {
            if freed >= bytes {
                break;
            }
            freed += held;
            actions.push(Action::Evict {
                name: name.to_owned(),
                version,
                busy,
            });
        }
        (actions, freed >= bytes)
    }
}

fn select(
    versions: &mut BTreeMap<u64, Version>,
    only: Option<u64>,
) -> impl Iterator<Item = (&u64, &mut Version)> {
    versions
        .iter_mut()
        .filter(move |(number, _)| only.is_none_or(|only| only == **number))
}

fn too_large(number: u64, bytes: u64, budget: u64) -> Reason {
    format!(
        "version {number} takes {bytes} bytes, and models.memory_budget_bytes allows {budget} for all models together; \
         raise it, or serve a smaller model"
    )
    .into()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
