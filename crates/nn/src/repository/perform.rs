//! Performs the decisions of [`super::plan`]: reads files, loads graphs on their own threads, gives callers the graphs
//! that serve, and drops the others.
//!
//! One lock guards the book and everything that belongs to it. It is held for decisions and never while a graph is
//! loaded or run. Callers do not take it: they read a [`Cell`] for each version, and the lookup from names to cells is
//! replaced as a whole when it changes.

use super::cell::{Cell, Loaded, Now};
use super::comparisons::Comparisons;
use super::said::LastReport;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use penstock_tensor::contract::Contract;
use tokio::sync::{mpsc, watch};

use super::event::{Event, EventKind};
use super::plan::{Action, Book, ContractState, FoundModel, Job, Phase, Reason, SLOW_LOAD_MS};
use super::progress::Progress;
use super::publish::{Listed, Snapshot};
use super::scan::{self, Look, Looker, Reading};
use super::settings::Settings;
use crate::backend::{Backends, panic_text};
use crate::error::NnError;
use crate::layout::{Unavailable, version_number};
use crate::model::Model;
use crate::overdue::BusyThread;
use crate::shadow::ShadowTotals;

/// Interval at which time-dependent waits look again. Changes wake all of them at once; the interval bounds how late
/// they notice a time that no change announces.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Interval at which the log repeats that a load takes long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Interval at which a load that was given up is told to end.
const END_AGAIN: Duration = Duration::from_secs(1);

/// While so many loads that were given up still run, no load begins: each uses a core and up to twice its graph in
/// memory. Loads that have begun may be given up as well, so their number is at most the sum of this and the number of
/// loads at once.
pub(super) const MAX_ABANDONED_LOADS: usize = 4;

/// The text in the reason of a load that was given up.
pub const LOAD_GIVEN_UP: &str = "the load was given up";

/// The longest wait for the calls of a graph that was replaced or unloaded: longer than any request may take by
/// default. After it, the memory comes back when the last of the calls ends, without a wait.
pub const DRAIN_MAX: Duration = Duration::from_secs(35);

/// A call that waits for a version to be loaded again. For eviction it counts like a running call.
pub(super) struct Waits(pub(super) Arc<Cell>);

impl Waits {
    pub fn on(cell: &Arc<Cell>) -> Self {
        cell.waiters.fetch_add(1, Ordering::SeqCst);
        Self(cell.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A model for the time of one call: while it is held, the model is in use.
pub struct Lease {
    pub(super) loaded: Arc<Loaded>,
    pub(super) core: Arc<Core>,
}

impl std::ops::Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.loaded.model
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.loaded.retired.load(Ordering::SeqCst) {
            self.core.turn.send_modify(|turn| *turn += 1);
        }
    }
}

/// The cells of all versions, by model.
#[derive(Default)]
pub(super) struct Table {
    pub models: BTreeMap<String, TableModel>,
}

pub(super) struct TableModel {
    /// The fault of the directory itself.
    pub(super) fault: Option<Reason>,
    pub(super) default: Option<u64>,
    pub versions: BTreeMap<u64, Arc<Cell>>,
}

/// A graph that was replaced or unloaded and may still be in use.
pub(super) struct Draining {
    pub(super) cell: Arc<Cell>,
    pub(super) loaded: Arc<Loaded>,
    /// The newest catalogue under which it served.
    pub(super) generation: u64,
    pub(super) until: Instant,
}

pub(super) struct Inner {
    pub book: Book,
    pub(super) cells: BTreeMap<(String, u64), Arc<Cell>>,
    pub(super) loads: HashMap<u64, Arc<Loaded>>,
    pub(super) draining: Vec<Draining>,
    pub(super) readings: BTreeMap<String, Vec<Reading>>,
    pub took: BTreeMap<(String, u64), Duration>,
    pub(super) told: BTreeMap<(String, u64), LastReport>,
    pub(super) told_refused: BTreeMap<String, Reason>,
    pub(super) told_fault: Option<String>,
    /// The folders of each model that look like versions but have no valid name, now and as last reported.
    pub(super) no_versions: BTreeMap<String, BTreeSet<String>>,
    pub(super) told_no_versions: BTreeMap<String, BTreeSet<String>>,
    pub(super) events: Option<mpsc::UnboundedSender<Event>>,
    pub(super) snapshots: Vec<Weak<Snapshot>>,
    pub(super) next_load: u64,
    pub(super) again_soon: bool,
    pub(super) unpublished: bool,
}

pub(super) struct Core {
    pub root: PathBuf,
    pub(super) backends: Backends,
    pub settings: Settings,
    pub(super) began: Instant,
    pub(super) looker: Mutex<Looker>,
    pub(super) inner: Mutex<Inner>,
    pub(super) table: RwLock<Arc<Table>>,
    /// Changes with every change that a task may wait for.
    pub turn: watch::Sender<u64>,
    pub(super) driven_ms: AtomicU64,
    pub started: AtomicBool,
    /// Batches of graphs that are being given back.
    pub discarding: AtomicUsize,
    /// Loads that were given up and still run.
    pub(super) abandoned_loads: AtomicUsize,
    /// Comparisons with other backends. Never locked together with the book.
    pub(super) comparisons: Mutex<Comparisons>,
    /// The memory of shadow runs, and the calls that wait meanwhile.
    pub shadows: Arc<ShadowTotals>,
    pub(super) published: RwLock<Option<Arc<Snapshot>>>,
    pub generation: watch::Sender<u64>,
}

/// A load to perform.
pub(super) struct Start {
    pub(super) name: String,
    pub(super) version: u64,
    pub(super) job: Job,
    pub(super) contract: Option<Arc<Contract>>,
    /// The version whose graph alone made the contract.
    pub(super) derived_from: Option<u64>,
}

impl Core {
    pub fn open(
        root: PathBuf,
        backends: Backends,
        settings: Settings,
    ) -> Result<Arc<Self>, NnError> {
        let mut looker = Looker::default();
        let news = looker.first(&root).map_err(|error| {
            NnError::not_found(format!(
                "the models directory {} cannot be listed: {error}; create it, or name another",
                root.display()
            ))
        })?;
        let core = Arc::new(Self {
            inner: Mutex::new(Inner {
                book: Book::new(settings.memory_budget_bytes, settings.load_at_once),
                cells: BTreeMap::new(),
                loads: HashMap::new(),
                draining: Vec::new(),
                readings: BTreeMap::new(),
                took: BTreeMap::new(),
                told: BTreeMap::new(),
                told_refused: BTreeMap::new(),
                told_fault: None,
                no_versions: BTreeMap::new(),
                told_no_versions: BTreeMap::new(),
                events: None,
                snapshots: Vec::new(),
                next_load: 1,
                again_soon: false,
                unpublished: false,
            }),
            root,
            backends,
            settings,
            began: Instant::now(),
            looker: Mutex::new(looker),
            table: RwLock::default(),
            turn: watch::Sender::new(0),
            driven_ms: AtomicU64::new(0),
            started: AtomicBool::new(false),
            discarding: AtomicUsize::new(0),
            abandoned_loads: AtomicUsize::new(0),
            comparisons: Mutex::default(),
            shadows: Arc::default(),
            published: RwLock::new(None),
            generation: watch::Sender::new(0),
        });
        core.learn(news, false);
        let mut inner = core.lock();
        let trash = core.sync(&mut inner);
        if inner.unpublished {
            return Err(NnError::runtime(
                "the catalogue for components cannot be written to the directory for temporary files; make room \
                 there, or name another with TMPDIR",
            ));
        }
        drop(inner);
        drop(trash);
        Ok(core)
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start, and one: 0 is never.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    pub fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn lease(self: &Arc<Self>, loaded: Arc<Loaded>) -> Lease {
        Lease {
            loaded,
            core: self.clone(),
        }
    }

    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        inner.events = Some(sender);
        // Faults of the files at the first look were not reported then.
        inner.told.retain(|(_, number), _| *number > 0);
        inner.told_no_versions.clear();
        inner.tell();
        drop(inner);
        receiver
    }

    /// The cell of a version, or of the one for calls that name none.
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Cell>, Unavailable> {
        let table = self.table();
        let Some(model) = table.models.get(name) else {
            return Err(Unavailable::unknown_model(
                name,
                table.models.keys().map(String::as_str),
            ));
        };
        if let Some(reason) = &model.fault {
            return Err(Unavailable::failed(name, reason));
        }
        let number = match version {
            None => model.default,
            Some(text) => version_number(text),
        };
        let cell = number.and_then(|number| model.versions.get(&number));
        cell.cloned().ok_or_else(|| {
            Unavailable::unknown_version(
                name,
                version.unwrap_or_default(),
                model.versions.keys().copied(),
            )
        })
    }

    /// The cell of a version that a catalogue before this one has.
    pub fn find_drained(&self, name: &str, version: Option<&str>) -> Option<Arc<Cell>> {
        let number = version.map(version_number);
        let inner = self.lock();
        let cells = inner.draining.iter().map(|draining| &draining.cell);
        let meant = cells.filter(|cell| {
            cell.name == name && number.is_none_or(|number| number == Some(cell.version))
        });
        meant.max_by_key(|cell| cell.version).cloned()
    }

    /// A call waits for an evicted version.
    pub fn want(self: &Arc<Self>, cell: &Cell) {
        let mut inner = self.lock();
        let model = inner.book.models.get(&cell.name);
        let phase = model
            .and_then(|model| model.versions.get(&cell.version))
            .map(|v| &v.phase);
        let first = matches!(phase, Some(Phase::Evicted { wanted: false }));
        inner.book.want(&cell.name, cell.version);
        drop(inner);
        let stale = self.now_ms() - self.driven_ms.load(Ordering::Relaxed).min(self.now_ms());
        // One of many that wait is enough to see whether there is room by now.
        if first || u128::from(stale) >= TICK.as_millis() {
            self.drive();
        }
    }

    /// Reads the files, and acts on changes that are complete. Blocks.
    pub fn poll(self: &Arc<Self>) {
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        match looker.settled(&self.root) {
            Ok(news) => {
                self.lock().told_fault = None;
                self.learn(news, true);
            }
            Err(error) => {
                let text = format!(
                    "the models directory {} cannot be listed: {error}; loaded models keep serving",
                    self.root.display()
                );
                let mut inner = self.lock();
                if inner.told_fault.as_ref() != Some(&text) {
                    inner.say("", 0, EventKind::Unseen, text.clone());
                    inner.told_fault = Some(text);
                }
            }
        }
        drop(looker);
        self.drive();
    }

    /// Reads one model's files, and takes them as complete. Blocks.
    pub fn look_at_once(self: &Arc<Self>, name: &str) {
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looker.at_once(&self.root, name) {
            self.learn(vec![(name.to_owned(), Some(look))], true);
        }
    }

    /// Replaces the derived contract of a load by a corrected one, which `text` contains. The load's own result is not used
    /// then: the version is loaded again under that contract. Returns `false` and changes nothing if the model has another
    /// contract by now.
    pub(super) fn correct(&self, start: &Start, contract: Contract, text: Arc<str>) -> bool {
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        let Some(model) = inner.book.models.get(&start.name) else {
            return false;
        };
        let Some(stamp) = looker.correct(&start.name, start.job.contract, &text) else {
            return false;
        };
        let versions = model.versions.iter();
        let seen = FoundModel {
            contract: ContractState {
                stamp,
                pinned: Ok(contract.engine.pinned),
            },
            versions: versions
                .map(|(number, version)| (*number, version.graph))
                .collect(),
        };
        let reading = Reading {
            stamp,
            contract: Some(Arc::new(contract)),
            text: Some(text.as_bytes().into()),
            // A derived contract has no adapter.
            files: Vec::new(),
            derived_from: None,
        };
        inner.keep_reading(&start.name, reading);
        inner.book.seen(&start.name, Some(seen), true);
        true
    }

    /// Puts the state of the disk into the book. The scanner is locked meanwhile, so that changes come in order.
    fn learn(&self, news: Vec<(String, Option<Look>)>, later: bool) {
        for (name, look) in news {
            let no_versions = look.as_ref().map(|look| look.no_versions.clone());
            let found = look.map(|look| scan::read(&self.root, &name, look, self.settings.derive));
            let mut inner = self.lock();
            match no_versions {
                Some(folders) if !folders.is_empty() => {
                    inner.no_versions.insert(name.clone(), folders);
                }
                _ => drop(inner.no_versions.remove(&name)),
            }
            let (seen, reading) = found.unzip();
            if let Some(reading) = reading {
                inner.keep_reading(&name, reading);
            }
            inner.book.seen(&name, seen, later);
        }
    }

    /// Carries out the present plan; returns at once, and loads continue in the background. Must be called within a
    /// runtime.
    pub fn drive(self: &Arc<Self>) {
        if !self.started.load(Ordering::SeqCst) {
            return;
        }
        let mut starts = Vec::new();
        let mut inner = self.lock();
        let now = self.now_ms();
        self.driven_ms.store(now, Ordering::Relaxed);
        loop {
            let Inner { book, cells, .. } = &mut *inner;
            let plan = book.plan(now, |name, version| {
                let cell = cells.get(&(name.to_owned(), version));
                cell.map(|cell| cell.usage()).unwrap_or_default()
            });
            inner.again_soon = plan.again_soon;
            let mut evicted = false;
            for action in plan.actions {
                match action {
                    Action::Evict {
                        name,
                        version,
                        busy,
                    } => evicted |= inner.evict(self, &name, version, busy),
                    Action::Start { name, version, job } => {
                        let mut readings = inner.readings.get(&name).into_iter().flatten();
                        let reading = readings.find(|reading| reading.stamp == job.contract);
                        starts.push(Start {
                            contract: reading.and_then(|reading| reading.contract.clone()),
                            derived_from: reading.and_then(|reading| reading.derived_from),
                            name,
                            version,
                            job,
                        });
                    }
                }
            }
            if !evicted {
                break;
            }
        }
        let trash = self.sync(&mut inner);
        drop(inner);
        self.discard(trash);
        for start in starts {
            self.begin(start);
        }
    }

    /// Begins a load on a new thread: a load that never ends must not take a thread that others need.
    pub(super) fn begin(self: &Arc<Self>, start: Start) {
        let (name, version, job) = (start.name.clone(), start.version, start.job);
        let progress = Arc::new(Progress::new());
        let runtime = tokio::runtime::Handle::current();
        let (core, shared, server) = (self.clone(), progress.clone(), runtime.clone());
        let thread = std::thread::Builder::new().name("penstock-load".into());
        let spawned = thread.spawn(move || {
            let _server = server.enter();
            let _working = BusyThread::begin();
            core.perform(&start, &shared);
        });
        match spawned {
            Ok(_) => {
                let core = self.clone();
                runtime.spawn(async move { core.watch(&name, version, job, &progress).await });
            }
            Err(error) => {
                let reason = format!("no thread can be made to load it ({error})");
                self.finish(self.lock(), &name, version, job, Err(reason.into()));
                self.turn.send_modify(|turn| *turn += 1);
            }
        }
    }

    /// Reports the stage of a slow load, and gives it up when its time is over.
    async fn watch(self: &Arc<Self>, name: &str, version: u64, job: Job, progress: &Progress) {
        let began = Instant::now();
        let limit = self.settings.load_timeout;
        let mut next = Duration::from_millis(SLOW_LOAD_MS);
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let wait = next.saturating_sub(began.elapsed()).min(left);
            if tokio::time::timeout(wait, progress.ended()).await.is_ok() {
                return;
            }
            if began.elapsed() >= limit {
                break;
            }
            let text = format!(
                "still loading after {} s: {}; it is given up after {} s (models.load_timeout_ms)",
                began.elapsed().as_secs(),
                progress.stage(),
                limit.as_secs_f64()
            );
            self.lock().say(name, version, EventKind::Slow, text);
            // It no longer keeps others back.
            self.drive();
            next = began.elapsed() + TELL_AGAIN;
        }
        {
            let mut inner = self.lock();
            // It ended in this moment.
            if progress.has_ended() {
                return;
            }
            let reason = format!(
                "version {version} takes longer than {} ms to load and is still {}; {LOAD_GIVEN_UP}: correct the \
                 graph, or raise models.load_timeout_ms",
                limit.as_millis(),
                progress.stage()
            );
            self.abandoned_loads.fetch_add(1, Ordering::SeqCst);
            progress.give_up();
            inner
                .took
                .insert((name.to_owned(), version), began.elapsed());
            self.finish(inner, name, version, job, Err(reason.into()));
        }
        self.turn.send_modify(|turn| *turn += 1);
        self.drive();
        while tokio::time::timeout(END_AGAIN, progress.ended())
            .await
            .is_err()
        {
            // Again, because it may have come just before a run began.
            progress.give_up();
        }
    }

    /// Writes down the result of a load and shows it to callers before any task can read the book. A load that the book
    /// calls done and callers cannot use would make "loaded" false for a moment.
    fn finish(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        name: &str,
        version: u64,
        job: Job,
        outcome: Result<(u64, u64), Reason>,
    ) {
        let now = self.now_ms();
        inner.book.finished(name, version, job, outcome, now);
        let trash = self.sync(&mut inner);
        drop(inner);
        self.discard(trash);
    }

    /// Drops graphs on a thread of their own, because freeing gigabytes takes long.
    fn discard(self: &Arc<Self>, trash: Vec<Arc<Loaded>>) {
        if trash.is_empty() {
            return;
        }
        let core = self.clone();
        tokio::task::spawn_blocking(move || {
            drop(trash);
            core.discarding.fetch_sub(1, Ordering::SeqCst);
            core.turn.send_modify(|turn| *turn += 1);
        });
    }

    /// Loads one version, and survives a panic. Blocks.
    fn perform(self: &Arc<Self>, start: &Start, progress: &Progress) {
        let began = Instant::now();
        let load = AssertUnwindSafe(|| self.load(start, progress));
        let outcome = catch_unwind(load).unwrap_or_else(|panic| {
            Err(NnError::runtime(format!(
                "loading it panicked ({}); this is a fault of the server",
                panic_text(&*panic)
            )))
        });
        let mut inner = self.lock();
        progress.end();
        if progress.is_given_up() {
            let text = format!(
                "the load that was given up ended after {} s",
                began.elapsed().as_secs()
            );
            inner.say(&start.name, start.version, EventKind::Slow, text);
            drop(inner);
            drop(outcome);
            self.abandoned_loads.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let mut later = None;
        let outcome = match outcome {
            Ok((model, bytes, comparison)) => {
                let id = inner.next_load;
                inner.next_load += 1;
                let loaded = Arc::new(Loaded {
                    id,
                    model,
                    contract: start.job.contract,
                    retired: AtomicBool::new(false),
                });
                later = comparison.map(|comparison| (comparison, Arc::downgrade(&loaded)));
                inner.loads.insert(id, loaded);
                Ok((id, bytes))
            }
            Err(error) => Err(error.message.into()),
        };
        inner
            .took
            .insert((start.name.clone(), start.version), began.elapsed());
        self.finish(inner, &start.name, start.version, start.job, outcome);
        self.turn.send_modify(|turn| *turn += 1);
        if let Some((comparison, loaded)) = later {
            self.compare_later(comparison, loaded);
        }
        self.drive();
    }

    /// Makes the callers' and guests' view agree with the book. Returns the graphs that are no longer in use, to be
    /// dropped without the lock.
    fn sync(&self, inner: &mut Inner) -> Vec<Arc<Loaded>> {
        let generation = *self.generation.borrow();
        let mut changed = false;
        let mut retired = Vec::new();
        let Inner {
            book, cells, loads, ..
        } = inner;
        for (name, model) in &book.models {
            for (number, version) in &model.versions {
                let cell = cells
                    .entry((name.clone(), *number))
                    .or_insert_with(|| Arc::new(Cell::new(name, *number)));
                if cell.same(&version.phase) {
                    continue;
                }
                changed = true;
                let now = match &version.phase {
                    Phase::Waiting => Now::Waiting,
                    Phase::Ready(load) => Now::Ready(loads[&load.id].clone()),
                    Phase::Evicted { .. } => Now::Evicted,
                    Phase::Unloaded => Now::Unloaded,
                    Phase::Failed(reason) => Now::Failed(reason.clone()),
                };
                retired.extend(cell.put(now).map(|old| (cell.clone(), old)));
            }
        }
        cells.retain(|(name, number), cell| {
            let there = book
                .models
                .get(name)
                .is_some_and(|m| m.versions.contains_key(number));
            if !there {
                changed = true;
                retired.extend(cell.put(Now::Gone).map(|old| (cell.clone(), old)));
            }
            there
        });
        let mut trash = Vec::new();
        loads.retain(|id, loaded| {
            let known = book.knows(*id);
            if !known {
                trash.push(loaded.clone());
            }
            known
        });
        for (cell, loaded) in retired {
            inner.drain(cell, loaded, generation);
        }
        changed |= inner.tell();
        if changed || self.table().models.len() != inner.book.models.len() {
            self.retable(inner);
        }
        inner.readings.retain(|name, readings| {
            let Some(model) = inner.book.models.get(name) else {
                return false;
            };
            let of_use = [model.in_force.stamp, model.on_disk.stamp];
            readings.retain(|reading| of_use.contains(&reading.stamp));
            true
        });
        if self.settings.publish {
            self.publish(inner);
        }
        changed |= inner.sweep(&mut trash);
        if changed {
            self.turn.send_modify(|turn| *turn += 1);
        }
        if !trash.is_empty() {
            // Counted before the lock is released, so that no observer sees it drained and its memory not yet given
            // back.
            self.discarding.fetch_add(1, Ordering::SeqCst);
        }
        trash
    }

    fn retable(&self, inner: &Inner) {
        let models = inner.book.models.iter().map(|(name, model)| {
            let versions = model.versions.keys().filter_map(|number| {
                let cell = inner.cells.get(&(name.clone(), *number))?;
                Some((*number, cell.clone()))
            });
            let entry = TableModel {
                fault: fault(model),
                default: model.default_version(),
                versions: versions.collect(),
            };
            (name.clone(), entry)
        });
        let table = Table {
            models: models.collect(),
        };
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn publish(&self, inner: &mut Inner) {
        let listed: Vec<Listed> = inner.listing();
        let last = self.snapshot();
        let next = match Snapshot::after(last.as_deref(), &listed) {
            Ok(None) => {
                inner.unpublished = false;
                return;
            }
            Ok(Some(next)) => Arc::new(next),
            Err(error) => {
                if !inner.unpublished {
                    let text = format!(
                        "the catalogue for components cannot be written: {error}; they see the last one until there \
                         is room in the directory for temporary files"
                    );
                    inner.say("", 0, EventKind::Unseen, text);
                }
                inner.unpublished = true;
                return;
            }
        };
        inner.unpublished = false;
        inner
            .snapshots
            .retain(|snapshot| snapshot.strong_count() > 0);
        inner.snapshots.push(Arc::downgrade(&next));
        let generation = next.generation();
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(next);
        self.generation.send_replace(generation);
    }
}

/// The fault of a model's directory itself.
pub(super) fn fault(model: &super::plan::Model) -> Option<Reason> {
    match &model.in_force.pinned {
        Err(reason) => Some(reason.clone()),
        Ok(_) if model.versions.is_empty() => Some(scan::no_version().into()),
        Ok(_) => None,
    }
}

impl Inner {
    /// Keeps a contract, in place of one with the same stamp.
    fn keep_reading(&mut self, name: &str, reading: Reading) {
        let readings = self.readings.entry(name.to_owned()).or_default();
        readings.retain(|known| known.stamp != reading.stamp);
        readings.push(reading);
    }

    /// Evicts a version, unless it is in use after all.
    fn evict(&mut self, core: &Core, name: &str, version: u64, busy: bool) -> bool {
        let Some(cell) = self.cells.get(&(name.to_owned(), version)).cloned() else {
            return false;
        };
        let Some(loaded) = cell.evict(busy) else {
            return false;
        };
        self.book.evicted(name, version);
        self.loads.remove(&loaded.id);
        self.drain(cell, loaded, *core.generation.borrow());
        true
    }

    fn drain(&mut self, cell: Arc<Cell>, loaded: Arc<Loaded>, generation: u64) {
        self.loads.remove(&loaded.id);
        self.draining.push(Draining {
            cell,
            loaded,
            generation,
            until: Instant::now() + DRAIN_MAX,
        });
    }

    /// Drops graphs whose calls have ended, or whose time for that is over.
    fn sweep(&mut self, trash: &mut Vec<Arc<Loaded>>) -> bool {
        let snapshots = &self.snapshots;
        let seen = |generation| {
            let alive = snapshots.iter().filter_map(Weak::upgrade);
            alive
                .into_iter()
                .any(|snapshot| snapshot.generation() <= generation)
        };
        let now = Instant::now();
        let before = self.draining.len();
        self.draining.retain(|draining| {
            let Draining { cell, loaded, .. } = draining;
            let kept = cell.keeps(loaded);
            let idle = Arc::strong_count(loaded) == 1 + usize::from(kept);
            let wanted = kept && seen(draining.generation);
            if (idle && !wanted) || now >= draining.until {
                cell.forget(loaded);
                trash.push(loaded.clone());
                return false;
            }
            true
        });
        self.draining.len() < before
    }

    pub fn drains(&self, name: &str, version: Option<u64>) -> bool {
        self.draining.iter().any(|draining| {
            let cell = &draining.cell;
            cell.name == name && version.is_none_or(|version| version == cell.version)
        })
    }

    /// Returns whether there is work before files change or a call comes.
    pub fn has_work(&self) -> bool {
        self.again_soon || self.unpublished || !self.draining.is_empty()
    }

    pub fn contract(&self, name: &str) -> Option<Arc<Contract>> {
        let in_force = &self.book.models.get(name)?.in_force;
        let readings = self.readings.get(name)?;
        let reading = readings
            .iter()
            .find(|reading| reading.stamp == in_force.stamp)?;
        reading.contract.clone()
    }

    /// Returns whether a loaded version would refuse every call now.
    pub fn refuses(&self, name: &str, version: u64) -> bool {
        let now = self.cell(name, version).map(|cell| cell.now());
        matches!(now, Some(Now::Ready(loaded)) if loaded.model.refuses().is_some())
    }

    pub fn cell(&self, name: &str, version: u64) -> Option<&Arc<Cell>> {
        self.cells.get(&(name.to_owned(), version))
    }
}

/// The reason of an eviction.
pub(super) const OVER_BUDGET: &str = "over the memory budget; the next call loads it again";

/// A repository for tests.
#[cfg(test)]
pub(super) mod example {
    use super::super::plan::Usage;
    use super::*;
    use crate::layout;

    pub const CONTRACT: &str = "description = \"For a test\"\n[[inputs]]\nname = \"a\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n\
                                [[outputs]]\nname = \"b\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n";

    /// Opens a folder with the model `m`. The load of its version 1 is to begin.
    pub fn opened() -> (tempfile::TempDir, Arc<Core>, Job) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m");
        std::fs::create_dir_all(model.join("1")).unwrap();
        std::fs::write(model.join(layout::CONTRACT_FILE), CONTRACT).unwrap();
        std::fs::write(model.join("1/model.onnx"), b"not a graph").unwrap();
        let root = folder.path().to_owned();
        let core = Core::open(root, Backends::builtin(), Settings::default()).expect("opens");
        let plan = core.lock().book.plan(0, |_, _| Usage::default());
        let job = plan.actions.iter().find_map(|action| match action {
            Action::Start { job, .. } => Some(*job),
            Action::Evict { .. } => None,
        });
        (folder, core, job.expect("its load is to begin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A waiting caller may read the book between the end of a load and the next round.
    #[tokio::test]
    async fn the_outcome_of_a_load_is_shown_as_soon_as_it_is_in_the_book() {
        let (_folder, core, job) = example::opened();
        let now = || core.lock().cell("m", 1).expect("it is known").now();
        assert!(matches!(now(), Now::Waiting));
        core.finish(core.lock(), "m", 1, job, Err("no graph".into()));
        assert!(matches!(now(), Now::Failed(_)));
    }
}
