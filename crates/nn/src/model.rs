//! A loaded model: checks what a call sends, asks [`crate::schedule`] when it runs and with whom, runs it where
//! that is cheapest, and counts.
//!
//! Decisions:
//!
//! - **Lanes.** A model runs at most as many runs at once as it has lanes. While all are busy, calls wait, and
//!   those that agree share the next run ([`crate::join`]).
//! - **Short runs stay on the task.** Handing a run to another thread and back costs more than a small model's
//!   run. A run that cannot take long, whatever is in its inputs ([`crate::schedule::quick`]), and that recent runs
//!   predict to take at most [`INLINE_BUDGET`], happens on the task that asked where it begins when a call arrives,
//!   and on a task of its own where it begins when another ends. All others happen on threads for models
//!   ([`crate::overdue`]), where a thread goes on with the next run of the line as long as there is one.
//! - **Every run has a bound.** One that nobody waits for any more is interrupted, and given up where that does not
//!   help; its lane is made anew.
//! - **Cancelling is safe at every point.** A caller that goes while it waits leaves the line. One that goes
//!   while its call runs leaves the others of that run alone; when nobody waits for a run any more it is ended
//!   early.
//! - **Shadow runs are nobody's.** They wait apart from the line, begin where a lane would be idle, and make way
//!   ([`crate::shadow`]); what they do is counted apart.
//! - **One bad call fails alone.** A run of several that fails is tried again by halves
//!   ([`crate::schedule::isolate`]).
//! - **A panic in a backend costs the run it happened in.** The lane is thrown away and made anew.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::agreement::Agreement;
use crate::backend::{
    Backend, Cost, Dim, Graph, GraphSource, Interrupt, Lane, LoadOptions, Port, Rows, Session,
    panic_text,
};
use crate::batching::DynamicBatching;
use crate::call;
use crate::error::{NnError, Refusal, quoted};
pub use crate::histogram::Histogram;
use crate::index_bounds::IndexBounds;
use crate::join::{Part, Plan};
use crate::overdue::{self, GRACE, LONGEST_CALL, LONGEST_SHADOW, MAX_LOST_OF_MODEL};
use crate::schedule::isolate::Isolate;
pub use crate::schedule::pace::INLINE_BUDGET;
use crate::schedule::quick::Quick;
use crate::schedule::{
    Ask, CallId, Class, Entered, Finished, Left, Limits, Nanos, Refused, RunId, Scheduler, Todo,
    Waiting,
};
use crate::shadow::{self, Held, ShadowStats, Waits, compare};
pub use crate::stats::{BatchStats, Refusals, Stats};
use crate::tensor::{NnTensor, TensorType, elements};
use crate::worker::ProcessStats;

/// How much an answer may depend on which calls share its run, as a part of the largest element, where the contract asks
/// for shared runs or for a filled axis. Elsewhere every bit must be the same: many rows in FP32 are, but a product with
/// a single column takes another kernel for one row than for several, and then an overflow may be NaN or infinity. Where
/// an axis is filled, sums are added in another order, which moves them by about 1e-7. A processor that chooses another
/// kernel for another size stays below 1e-6. One step of a quantised activation is 4e-3, and BF16 is 4e-3 too.
pub const MAX_DIFFERENCE: f64 = 1e-5;

/// The least a refused caller is told to wait.
const LEAST_RETRY: Duration = Duration::from_millis(1);

/// A model ready to run. Clones share one model.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    name: String,
    version: String,
    backend: &'static str,
    session: Arc<dyn Session>,
    /// Which inputs are indices, and how far these may go.
    index_bounds: IndexBounds,
    /// Whether every input begins with a symbolic dimension, so that it counts the items of a call.
    counts_items: bool,
    lane_count: usize,
    default_level: u8,
    last_level: u8,
    plan: Result<Plan, String>,
    /// Most items of a shared run, were there any.
    most_items: u32,
    allows_dependent_rows: bool,
    /// By how much a shared run may move an answer.
    most_moved: f64,
    rules: call::Rules,
    epoch: Instant,
    state: Mutex<State>,
    /// How many runs of all models are lost.
    lost: Arc<overdue::Count>,
    /// What came of comparing it with another backend.
    agreement: OnceLock<Agreement>,
}

struct State {
    scheduler: Scheduler<Job>,
    /// Free lanes: as many as the scheduler has.
    lanes: Vec<Slot>,
    /// The runs that go on, lost ones included.
    going: Vec<Going>,
    /// Nothing begins any more: loading was given up.
    given_up: bool,
    /// When somebody will look at the line next.
    wake: Option<Nanos>,
    stats: Stats,
    joins: Joins,
    /// Whether rows depend on each other.
    rows: Rows,
    /// Which runs may happen on a server thread.
    quick: Quick,
    /// Shadow runs that have not begun, oldest first.
    shadows: VecDeque<(Ask, Job)>,
    /// Shadow runs that go on.
    shadow_runs: Vec<ShadowRun>,
    /// Runs that were interrupted and that nobody watches yet.
    unwatched: Vec<RunId>,
    /// Those who wait, here and for the other models.
    waits: Waits,
}

/// A run that goes on.
struct Going {
    run: RunId,
    began: Instant,
    calls: usize,
    interrupt: Option<Arc<dyn Interrupt>>,
    overdue: Overdue,
}

/// How far a run is beyond its time; see [`crate::overdue`].
enum Overdue {
    /// It is not.
    No,
    /// It was interrupted.
    Interrupted,
    /// It went on for the grace, and keeps its lane because too many are lost.
    Stuck,
    /// It went on, and its lane was given away.
    Lost { _place: overdue::Place },
}

/// A shadow run that goes on.
struct ShadowRun {
    run: RunId,
    began: Instant,
    /// It was told to end.
    told: bool,
}

/// A place for a lane; empty where it has to be made anew before its next use.
struct Slot {
    lane: Option<Box<dyn Lane>>,
    interrupt: Option<Arc<dyn Interrupt>>,
    /// What the run has taken before [`Inner::execute`] began.
    ahead: Nanos,
    /// The inputs of a run of several calls, where they were joined before [`Inner::execute`] began.
    joined: Option<Joined>,
}

/// Inputs of several calls, put together for one run.
struct Joined {
    inputs: Vec<NnTensor>,
    /// What putting them together took.
    took: Nanos,
}

impl Slot {
    fn of(lane: Box<dyn Lane>) -> Self {
        Self {
            interrupt: lane.interrupt(),
            lane: Some(lane),
            ahead: 0,
            joined: None,
        }
    }

    fn empty() -> Self {
        Self {
            lane: None,
            interrupt: None,
            ahead: 0,
            joined: None,
        }
    }
}

/// What belongs to a call in the line.
struct Job {
    inputs: Vec<NnTensor>,
    reply: oneshot::Sender<Answer>,
    begun: Option<Arc<AtomicBool>>,
}

type Answer = Result<Vec<NnTensor>, NnError>;

/// Tensors by name, as a caller gives them.
pub type Named = Vec<(String, NnTensor)>;

/// A run and the lane it is to happen on.
struct Start {
    run: RunId,
    calls: Vec<Waiting<Job>>,
    slot: Slot,
    /// Whether it may happen on a server thread.
    quick: bool,
    /// The shapes of its inputs, where it is of several calls.
    joined: Option<Vec<Vec<u32>>>,
}

impl Start {
    fn shapes(&self) -> Shapes<'_> {
        match &self.joined {
            Some(shapes) => Shapes::Joined(shapes.iter()),
            None => Shapes::One(self.calls[0].payload.inputs.iter()),
        }
    }
}

/// The shapes of a run's inputs.
#[derive(Clone)]
enum Shapes<'a> {
    One(std::slice::Iter<'a, NnTensor>),
    Joined(std::slice::Iter<'a, Vec<u32>>),
}

impl<'a> Iterator for Shapes<'a> {
    type Item = &'a [u32];

    fn next(&mut self) -> Option<&'a [u32]> {
        match self {
            Self::One(tensors) => tensors.next().map(|tensor| &tensor.dims[..]),
            Self::Joined(shapes) => shapes.next().map(|shape| &shape[..]),
        }
    }
}

/// Whether calls share runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Joins {
    /// They do not, and why.
    No(String),
    /// They do. By how much answers differed between running alone and together when it was tried, as a part of
    /// the largest element; none where it was not tried.
    Yes(Option<f64>),
}

impl fmt::Display for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(reason) => write!(f, "calls run one by one: {reason}"),
            Self::Yes(Some(difference)) if *difference > 0.0 => {
                write!(
                    f,
                    "calls share runs, which moves answers by up to {difference:.1e}"
                )
            }
            Self::Yes(_) => f.write_str("calls share runs"),
        }
    }
}

/// What a call asks beside its tensors.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// When its answer is no longer of use.
    pub deadline: Option<Instant>,
    /// Its priority, 1 the first to run; the model's own default where none is given, the last where there are
    /// not as many.
    pub priority: Option<u8>,
    /// Set when the call leaves the line and begins to run: from then on dropping it saves nothing unless every
    /// other call of its run goes as well.
    pub begun: Option<Arc<AtomicBool>>,
    /// Its rows are items of their own, put into one call to save runs: it is not run where rows depend on each other.
    pub is_joined: bool,
}

impl Model {
    /// Loads a graph. Blocks.
    ///
    /// # Errors
    ///
    /// When the backend cannot load the graph, and `UnsupportedOperation` when a port has a type no wasi:nn
    /// tensor carries.
    pub fn load(
        name: &str,
        version: &str,
        backend: &dyn Backend,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Self, NnError> {
        Self::load_beside(name, version, backend, graph, options, &Arc::default())
    }

    /// The same for one of several models, whose shadow runs make way for those who wait for any of them.
    ///
    /// # Errors
    ///
    /// Those of [`Model::load`].
    pub fn load_beside(
        name: &str,
        version: &str,
        backend: &dyn Backend,
        graph: &GraphSource,
        options: &LoadOptions,
        held: &Arc<Held>,
    ) -> Result<Self, NnError> {
        let session = backend.load(graph, options)?;
        call::carried(&*session)?;
        let rules = call::Rules::of(&*session, options)?;
        let lane_count = options.lane_count();
        let lanes = (0..lane_count)
            .map(|_| session.lane().map(Slot::of))
            .collect::<Result<Vec<_>, _>>()?;
        let starts_symbolic = |port: &Port| {
            (port.dims.as_ref())
                .and_then(|dims| dims.first())
                .is_some_and(|dim| matches!(dim, Dim::Symbolic(_)))
        };
        let plan = match &options.joining {
            Err(reason) => Err(reason.clone()),
            Ok(_) if rules.has_optional() => Err("calls may leave inputs out".into()),
            Ok(joining) => Plan::new(joining, session.inputs(), session.outputs()),
        };
        let asked = options.joining.as_ref().ok();
        let is_exact = asked.as_ref().is_some_and(|asked| asked.exact);
        let most_moved = if is_exact { 0.0 } else { MAX_DIFFERENCE };
        let allows_dependent_rows = asked.is_some_and(|asked| asked.allow_dependent_rows);
        let rows = match &plan {
            Err(reason) => Rows::Dependent(reason.clone()),
            Ok(_) if allows_dependent_rows => Rows::Independent,
            Ok(_) => session.rows(),
        };
        let joins = match (&rows, asked.is_some_and(|asked| asked.shares)) {
            (Rows::Independent, true) => Joins::Yes(None),
            (Rows::Independent, false) => {
                Joins::No("model.toml has batching.enabled = false".into())
            }
            (Rows::Dependent(reason), _) => Joins::No(reason.clone()),
        };
        let limits = limits(options, lane_count, matches!(joins, Joins::Yes(_)));
        let last_level = limits.levels - 1;
        let quick = Quick::new(&session.cost(), session.is_elsewhere());
        let described = match graph {
            GraphSource::File(path) => Graph::of(path),
            GraphSource::Bytes(_) => None,
        };
        let index_bounds = described
            .map(|graph| IndexBounds::of(&graph, session.inputs()))
            .unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            name: name.into(),
            version: version.into(),
            backend: backend.name(),
            counts_items: !session.inputs().is_empty()
                && session.inputs().iter().all(starts_symbolic),
            session,
            index_bounds,
            lane_count,
            default_level: (options.default_priority).map_or(last_level, |priority| {
                priority.saturating_sub(1).min(last_level)
            }),
            last_level,
            plan,
            most_items: asked.map_or(1, |asked| asked.max_items),
            allows_dependent_rows,
            most_moved,
            rules,
            epoch: Instant::now(),
            state: Mutex::new(State {
                scheduler: Scheduler::new(limits),
                lanes,
                going: Vec::new(),
                given_up: false,
                wake: None,
                stats: Stats::default(),
                joins,
                rows,
                quick,
                shadows: VecDeque::new(),
                shadow_runs: Vec::new(),
                unwatched: Vec::new(),
                waits: Waits::of(held),
            }),
            lost: held.lost.clone(),
            agreement: OnceLock::new(),
        })))
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The version that answers, a positive decimal number where a [`crate::repository::Repository`] loaded it.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The backend that runs it.
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// What goes in, in the graph's order.
    pub fn inputs(&self) -> &[Port] {
        self.0.session.inputs()
    }

    /// What comes out, in the graph's order.
    pub fn outputs(&self) -> &[Port] {
        self.0.session.outputs()
    }

    /// Runs at once.
    pub fn lanes(&self) -> usize {
        self.0.lane_count
    }

    /// What the time of a run follows from.
    pub fn cost(&self) -> Cost {
        self.0.session.cost()
    }

    /// Bytes the loaded graph holds, where its runtime tells.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.0.session.memory_bytes()
    }

    /// Why no call would be answered now, where its process ended and is not back soon.
    pub fn refuses(&self) -> Option<String> {
        self.0.session.refuses()
    }

    /// The process that runs it, where that is not this one.
    pub fn process(&self) -> Option<ProcessStats> {
        self.0.session.process()
    }

    /// What came of comparing it with another backend; `None` where nothing was compared.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.0.agreement.get()
    }

    /// Notes what came of comparing it. The first note stays.
    pub(crate) fn note_agreement(&self, agreement: Agreement) {
        let _ = self.0.agreement.set(agreement);
    }

    /// Whether calls share runs.
    pub fn joins(&self) -> Joins {
        self.0.lock().joins.clone()
    }

    /// What a run takes at present, from recent runs; zero before the first.
    pub fn service_time(&self) -> Duration {
        Duration::from_nanos(self.0.lock().scheduler.pace.mean())
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        let process = self.0.session.process();
        let state = self.0.lock();
        let scheduler = &state.scheduler;
        Stats {
            running: scheduler.running().saturating_sub(state.shadow_runs.len()),
            waiting: scheduler.waiting(),
            hold: Duration::from_nanos(scheduler.tempo.hold(&scheduler.pace)),
            most_items: scheduler.tempo.most_items(),
            overdue: (state.going.iter())
                .filter(|going| matches!(going.overdue, Overdue::Stuck | Overdue::Lost { .. }))
                .count(),
            shadow: ShadowStats {
                in_flight: state.shadows.len() + state.shadow_runs.len(),
                ..state.stats.shadow
            },
            process,
            ..state.stats.clone()
        }
    }

    /// Takes no more calls. Those that wait or run are brought to their end; shadow runs are dropped.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.scheduler.close();
        state.shed_shadows();
        self.0.watch_interrupted(state);
    }

    /// Ends what [`Model::warm_up`] and [`Model::try_joining`] run on another thread, and lets them begin nothing
    /// more. Where the backend cannot be interrupted, what runs goes on; in a process of its own it is ended with that
    /// when this is called again.
    pub fn give_up_loading(&self) {
        let mut state = self.0.lock();
        let again = std::mem::replace(&mut state.given_up, true);
        for going in &state.going {
            if let Some(interrupt) = &going.interrupt {
                interrupt.interrupt();
                if again {
                    interrupt.kill();
                }
            }
        }
    }

    /// Runs every lane once on `inputs`, so that the first caller does not pay for what a backend does on a
    /// first run, and so that the model's pace is known. Blocks; counts nothing. For use before the model
    /// serves: lanes that are running meanwhile are left out. Returns what the last lane answered.
    ///
    /// # Errors
    ///
    /// What a call with these inputs would get.
    pub fn warm_up(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inputs = call::bind(&self.0.name, self.inputs(), &self.0.rules, inputs)?;
        let mut slots = std::mem::take(&mut self.0.lock().lanes);
        let mut best = None;
        let ran = slots.iter_mut().try_fold(Vec::new(), |_, slot| {
            let started = Instant::now();
            let outputs = self.0.trial(slot, &inputs)?;
            let took = nanos(started.elapsed());
            best = Some(best.map_or(took, |best: Nanos| best.min(took)));
            call::label(self.outputs(), outputs)
        });
        let mut state = self.0.lock();
        state.lanes.append(&mut slots);
        if let Some(best) = best {
            state.scheduler.pace.start(best, total_bytes(&inputs));
            // The first run of a lane may take long for reasons of its own; the best of them tells of the model.
            state
                .quick
                .ran(Shapes::One(inputs.iter()), best, ran.is_ok());
        }
        drop(state);
        ran
    }

    /// Runs one lane once on `inputs`. Blocks; counts nothing. For use before the model serves.
    ///
    /// # Errors
    ///
    /// What a call with these inputs would get, and `RuntimeError` where no lane is free.
    pub fn try_run(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inputs = call::bind(&self.0.name, self.inputs(), &self.0.rules, inputs)?;
        let slot = self.0.lock().lanes.pop();
        let Some(mut slot) = slot else {
            return Err(NnError::runtime("no lane is free"));
        };
        let ran = self.0.trial(&mut slot, &inputs);
        self.0.lock().lanes.push(slot);
        call::label(self.outputs(), ran?)
    }

    /// Whether rows depend on each other, by the graph's operators and by what was tried.
    pub fn rows(&self) -> Rows {
        self.0.lock().rows.clone()
    }

    /// Tries whether two calls may share a run: runs each alone and then both together, and compares. A model whose
    /// answers depend on their company by more than [`MAX_DIFFERENCE`], or that cannot run them together, runs
    /// every call by itself from then on. Blocks; counts nothing. For use before the model serves.
    ///
    /// # Errors
    ///
    /// When one of the calls fails by itself, which says nothing about joining; nothing is changed then.
    pub fn try_joining(&self, first: Named, second: Named) -> Result<Joins, NnError> {
        let alone = [
            self.try_alone(first.clone())?,
            self.try_alone(second.clone())?,
        ];
        match self.try_together(vec![first, second]) {
            Ok(None) => {}
            Ok(Some(together)) => {
                let pairs = alone.iter().zip(&together);
                let largest = pairs.map(|(a, b)| differences(a, b)).fold(0.0, f64::max);
                self.settle_rows(Ok(largest), "of another call");
            }
            Err(error) => self.cannot_join(&error),
        }
        Ok(self.joins())
    }

    /// Runs one call before the model serves. Blocks; counts nothing.
    ///
    /// # Errors
    ///
    /// What a call with these inputs would get.
    pub fn try_alone(&self, call: Named) -> Result<Vec<NnTensor>, NnError> {
        let inner = &*self.0;
        let call = call::bind(&inner.name, self.inputs(), &inner.rules, call)?;
        self.with_slot(|slot| inner.trial(slot, &call))
    }

    /// Runs calls together before the model serves, and gives each its part. `None` where calls like these never
    /// share a run. Blocks; counts nothing.
    ///
    /// # Errors
    ///
    /// What the run fails with.
    pub fn try_together(&self, calls: Vec<Named>) -> Result<Option<Vec<Vec<NnTensor>>>, NnError> {
        let inner = &*self.0;
        let Ok(plan) = &inner.plan else {
            return Ok(None);
        };
        let bind = |call| call::bind(&inner.name, self.inputs(), &inner.rules, call);
        let calls: Vec<Vec<NnTensor>> = calls.into_iter().map(bind).collect::<Result<_, _>>()?;
        let parts: Vec<Part> = calls.iter().map(|call| plan.part(call)).collect();
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        let alike = |part: &Part| part.class != Class::Alone && part.class == first.class;
        let items: u32 = parts.iter().map(|part| part.items).sum();
        if !parts.iter().all(alike) || items > inner.most_items {
            return Ok(None);
        }
        let shares: Vec<(u32, u32)> = parts.iter().map(|part| (part.items, part.length)).collect();
        let longest = parts.iter().map(|part| part.length).max().unwrap_or(1);
        let tensors: Vec<&[NnTensor]> = calls.iter().map(|call| &call[..]).collect();
        let joined = plan.join(&tensors, longest);
        let outputs = self.with_slot(|slot| inner.trial(slot, &joined))?;
        plan.split(&outputs, &shares, longest).map(Some)
    }

    fn with_slot<T>(
        &self,
        run: impl FnOnce(&mut Slot) -> Result<T, NnError>,
    ) -> Result<T, NnError> {
        let Some(mut slot) = self.0.lock().lanes.pop() else {
            return Err(NnError::runtime("all lanes of the model are busy"));
        };
        let ran = run(&mut slot);
        self.0.lock().lanes.push(slot);
        ran
    }

    /// Notes by how much answers moved when `neighbours` were in the run, as a part of the largest element.
    pub(crate) fn settle_rows(&self, largest: Result<f64, String>, neighbours: &str) {
        let mut state = self.0.lock();
        let difference = match largest {
            Ok(difference) => difference,
            Err(reason) => return state.rows_depend(reason),
        };
        let allowed = self.0.allows_dependent_rows;
        let most = self.0.most_moved;
        if difference <= most || allowed {
            if let Joins::Yes(before) = &mut state.joins {
                *before = Some(before.unwrap_or(0.0).max(difference));
            }
            return;
        }
        let remedy = if difference <= MAX_DIFFERENCE {
            format!(
                "calls would share runs with [batching] enabled = true in model.toml, which allows {MAX_DIFFERENCE:.0e}"
            )
        } else {
            format!("{MAX_DIFFERENCE:.0e} is the most that [batching] in model.toml can allow")
        };
        state.rows_depend(format!(
            "its answers depend on what else is in the run: a row {neighbours} moved another's answer by {difference:.1e} \
             of the largest element; {remedy}"
        ));
    }

    /// Notes that calls fail together that do not fail alone.
    pub(crate) fn cannot_join(&self, error: &NnError) {
        self.0
            .lock()
            .rows_depend(format!("calls fail together: {}", error.message));
    }

    /// Runs the model on named tensors and returns its outputs, named, in the graph's order.
    ///
    /// # Errors
    ///
    /// - `InvalidArgument` when a name, type, shape or length is not what the model takes.
    /// - A [`Refusal::QueueFull`] when as many calls wait as may wait.
    /// - What the backend reports, without paths; `RuntimeError` when it panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the line, or abandons the run.
    pub async fn infer(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        self.infer_with(inputs, Terms::default()).await
    }

    /// As [`Model::infer`], and gives up at `deadline` with a [`Refusal::Deadline`].
    pub async fn infer_by(
        &self,
        inputs: Vec<(String, NnTensor)>,
        deadline: Option<Instant>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let terms = Terms {
            deadline,
            ..Terms::default()
        };
        self.infer_with(inputs, terms).await
    }

    /// As [`Model::infer`], on terms.
    ///
    /// # Errors
    ///
    /// Also a [`Refusal::Shed`] at once where the line is too long for the deadline, and a
    /// [`Refusal::Deadline`] when it passes. Refusals say when to come back.
    pub async fn infer_with(
        &self,
        inputs: Vec<(String, NnTensor)>,
        terms: Terms,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inner = &self.0;
        let inputs = call::bind(&inner.name, self.inputs(), &inner.rules, inputs)
            .and_then(|inputs| {
                inner.index_bounds.check(self.inputs(), &inputs)?;
                Ok(inputs)
            })
            .inspect_err(|_| inner.lock().stats.refusals.invalid += 1)?;
        if terms.is_joined
            && let Rows::Dependent(reason) = inner.lock().rows.clone()
        {
            return Err(NnError::refused(Refusal::RowsDepend, reason));
        }
        // A task that only ever makes short calls would otherwise never give way to the others.
        tokio::task::consume_budget().await;
        let terms = Terms {
            deadline: terms
                .deadline
                .or_else(|| Some(Instant::now() + LONGEST_CALL)),
            ..terms
        };
        let ask = inner.ask(&inputs, &terms);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            inputs,
            reply,
            begun: terms.begun,
        };
        let id = inner.submit(ask, job)?;
        let waiter = Waiter {
            inner,
            id,
            answer,
            open: true,
        };
        call::label(self.outputs(), waiter.answered(terms.deadline).await?)
    }

    /// Counts a shadow run that was dropped before it came here.
    pub(crate) fn shed_shadow(&self) {
        self.0.lock().stats.shadow.shed += 1;
    }

    /// Runs the model for nobody, and counts whether its outputs agree with those that were answered to the same
    /// inputs. Returns at once; `held` is dropped when the run is over. One that comes while somebody waits for this
    /// model or one beside it, or one too many, is dropped and counted as shed.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, and counted as a failure, where the inputs are not what the model takes.
    pub fn shadow(
        &self,
        inputs: Vec<(String, NnTensor)>,
        expected: Vec<(String, NnTensor)>,
        held: impl Send + 'static,
    ) -> Result<(), NnError> {
        let inner = self.0.clone();
        let inputs = call::bind(&inner.name, self.inputs(), &inner.rules, inputs)
            .inspect_err(|_| inner.lock().stats.shadow.failed += 1)?;
        let ask = Ask {
            level: inner.last_level,
            // It shares its run with nobody: whoever did would wait for its items too.
            class: Class::Alone,
            items: inner.items(&inputs),
            length: 1,
            bytes: total_bytes(&inputs),
            deadline: None,
        };
        let (reply, answer) = oneshot::channel();
        let job = Job {
            inputs,
            reply,
            begun: None,
        };
        let mut state = inner.lock();
        let there = state.shadows.len() + state.shadow_runs.len();
        let closed = state.scheduler.is_closed();
        if closed || state.waits.anybody() || there >= shadow::MAX_OF_MODEL {
            state.stats.shadow.shed += 1;
            return Ok(());
        }
        state.shadows.push_back((ask, job));
        let starts = state.start_shadows(&inner, inner.now());
        drop(state);
        starts.into_iter().for_each(|start| inner.launch(start));
        let judge = async move {
            let mut answer = answer;
            let outcome = loop {
                match tokio::time::timeout(LONGEST_SHADOW, &mut answer).await {
                    Ok(outcome) => break outcome,
                    Err(_) => inner.end_long_shadows(),
                }
            };
            // It was counted where it failed or was dropped.
            let Ok(Ok(outputs)) = outcome else {
                return;
            };
            let judged = tokio::task::spawn_blocking(move || {
                if let Ok(ran) = call::label(inner.session.outputs(), outputs) {
                    let comparison = compare(&expected, &ran);
                    inner.lock().stats.shadow.compared(&comparison);
                }
                drop(held);
            });
            let _ = judged.await;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(judge);
        }
        Ok(())
    }
}

/// What the scheduler may do for a model loaded with these options.
fn limits(options: &LoadOptions, lanes: usize, joins: bool) -> Limits {
    let joining = match &options.joining {
        Ok(joining) if joins => joining.clone(),
        _ => DynamicBatching {
            max_items: 1,
            ..DynamicBatching::default()
        },
    };
    Limits {
        lanes,
        queue_max: options.queue_max,
        levels: options.priority_levels.max(1),
        max_items: joining.max_items.max(1),
        max_bytes: joining.max_bytes,
        max_tokens: joining.padding.map(|padding| padding.max_tokens),
        preferred: joining.preferred,
        max_wait: nanos(joining.max_wait),
        target: joining.target.map(nanos),
    }
}

fn waiting(id: CallId, ask: Ask, arrived: Nanos, payload: Job) -> Waiting<Job> {
    Waiting {
        id,
        ask,
        arrived,
        payload,
    }
}

fn total_bytes(inputs: &[NnTensor]) -> u64 {
    inputs.iter().map(|tensor| tensor.data.len() as u64).sum()
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

/// A caller's side of a call. Dropped before the answer came, it takes the call back.
struct Waiter<'a> {
    inner: &'a Arc<Inner>,
    id: CallId,
    answer: oneshot::Receiver<Answer>,
    open: bool,
}

impl Waiter<'_> {
    async fn answered(mut self, deadline: Option<Instant>) -> Answer {
        // A run that happened on this task has answered already.
        let outcome = match self.answer.try_recv() {
            Ok(answer) => Ok(answer),
            Err(oneshot::error::TryRecvError::Closed) => Err(()),
            Err(oneshot::error::TryRecvError::Empty) => match deadline {
                None => (&mut self.answer).await.map_err(drop),
                Some(deadline) => match tokio::time::timeout_at(deadline, &mut self.answer).await {
                    Ok(answer) => answer.map_err(drop),
                    Err(_) => {
                        let waited = matches!(self.give_up(), Left::Line(_));
                        let mut state = self.inner.lock();
                        state.stats.refusals.deadline += 1;
                        let when = if waited {
                            "while the call waited for the model"
                        } else {
                            "while the model ran"
                        };
                        return Err(self.inner.late(&state, when));
                    }
                },
            },
        };
        self.open = false;
        // What is left is a runtime that shuts down.
        outcome.unwrap_or_else(|()| {
            Err(NnError::refused(
                Refusal::NotReady,
                "the server is shutting down and did not run the model",
            ))
        })
    }

    fn give_up(&mut self) -> Left<Job> {
        self.open = false;
        // Before the run is ended, so that it is not tried again for a caller that is gone.
        self.answer.close();
        let mut state = self.inner.lock();
        let left = state.scheduler.leave(self.id);
        let waiting = state.scheduler.waiting();
        state.waits.set(waiting);
        if let Left::Abandoned(run) = left {
            // Under the lock: its lane cannot begin another run before it is told.
            state.interrupt(run);
        }
        self.inner.watch_interrupted(state);
        left
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.open {
            let left = self.give_up();
            if let Left::Line(_) = left {
                self.inner.lock().stats.refusals.cancelled += 1;
            }
        }
    }
}

impl State {
    /// Takes a lane for a run.
    fn start(&mut self, inner: &Inner, run: RunId, calls: Vec<Waiting<Job>>) -> Start {
        // The scheduler begins no more runs than there are lanes; a missing one is made.
        let slot = self.lanes.pop().unwrap_or_else(Slot::empty);
        if let Some(interrupt) = &slot.interrupt {
            interrupt.reset();
        }
        self.going.push(Going {
            run,
            began: Instant::now(),
            calls: calls.len(),
            interrupt: slot.interrupt.clone(),
            overdue: Overdue::No,
        });
        if !self.is_shadow(run) {
            self.stats.in_flight += calls.len();
        }
        for call in &calls {
            if let Some(begun) = &call.payload.begun {
                begun.store(true, Ordering::SeqCst);
            }
        }
        let bytes = calls.iter().map(|call| call.ask.bytes).sum();
        let mut start = Start {
            run,
            slot,
            joined: inner.joined_shapes(&calls),
            quick: false,
            calls,
        };
        start.quick = self.quick.allows(start.shapes())
            && self.scheduler.pace.predict(bytes) <= nanos(INLINE_BUDGET);
        start
    }

    fn is_shadow(&self, run: RunId) -> bool {
        self.shadow_runs.iter().any(|shadow| shadow.run == run)
    }

    /// Tells a run to end. Somebody has to watch whether it does: [`Inner::watch_interrupted`].
    fn interrupt(&mut self, run: RunId) {
        let Some(going) = self.going.iter_mut().find(|going| going.run == run) else {
            return;
        };
        if let Some(interrupt) = &going.interrupt {
            interrupt.interrupt();
        }
        if let Overdue::No = going.overdue {
            going.overdue = Overdue::Interrupted;
            self.unwatched.push(run);
        }
    }

    /// Gives up a run that was interrupted and goes on, where there is a place for one more.
    fn lose(&mut self, run: RunId, inner: &Inner) -> Lost {
        let lost = |going: &&Going| matches!(going.overdue, Overdue::Lost { .. });
        let of_model = self.going.iter().filter(lost).count();
        let Some(going) = self.going.iter_mut().find(|going| going.run == run) else {
            return Lost::Ended;
        };
        if (going.interrupt.as_ref()).is_some_and(|interrupt| interrupt.kill()) {
            // Its calls fail now, and its lane comes back as after any run.
            return Lost::Stays;
        }
        let place = (of_model < MAX_LOST_OF_MODEL)
            .then(|| inner.lost.place())
            .flatten();
        let (name, version) = (quoted(&inner.name), &inner.version);
        let ran_for = going.began.elapsed().as_millis();
        let Some(place) = place else {
            if !matches!(going.overdue, Overdue::Stuck) {
                tracing::warn!(
                    "model {name} version {version}: a run that nobody waits for goes on after {ran_for} ms and cannot \
                     be interrupted; it keeps its lane, because {of_model} runs of this model are lost already, or \
                     too many of all models; calls are refused while no lane is left"
                );
            }
            going.overdue = Overdue::Stuck;
            return Lost::Stays;
        };
        tracing::warn!(
            "model {name} version {version}: a run that nobody waits for goes on after {ran_for} ms and cannot be \
             interrupted; its thread is left to it, and its lane is made anew"
        );
        going.overdue = Overdue::Lost { _place: place };
        let calls = going.calls;
        match (self.shadow_runs.iter()).position(|shadow| shadow.run == run) {
            Some(at) => {
                self.shadow_runs.swap_remove(at);
                self.stats.shadow.shed += 1;
            }
            None => {
                self.stats.in_flight -= calls;
                self.stats.failures += calls as u64;
                self.stats.failed_executions += 1;
            }
        }
        self.stats.lost += 1;
        self.lanes.push(Slot::empty());
        self.scheduler.finish(
            run,
            Finished {
                took: None,
                bytes: 0,
                items: 0,
            },
        );
        Lost::GivenUp
    }

    fn rows_depend(&mut self, reason: String) {
        self.scheduler.stop_joining();
        self.rows = Rows::Dependent(reason.clone());
        self.joins = Joins::No(reason);
    }

    /// Takes lanes that would be idle for shadow runs.
    fn start_shadows(&mut self, inner: &Inner, now: Nanos) -> Vec<Start> {
        let mut starts = Vec::new();
        if self.waits.anybody() {
            self.drop_shadows();
        }
        while let Some((ask, _)) = self.shadows.front() {
            let Some((id, run)) = self.scheduler.start_alone(ask, now) else {
                break;
            };
            let Some((ask, job)) = self.shadows.pop_front() else {
                break;
            };
            self.shadow_runs.push(ShadowRun {
                run,
                began: Instant::now(),
                told: false,
            });
            starts.push(self.start(inner, run, vec![waiting(id, ask, now, job)]));
        }
        starts
    }

    /// Drops the shadow runs that have not begun.
    fn drop_shadows(&mut self) {
        self.stats.shadow.shed += self.shadows.len() as u64;
        self.shadows.clear();
    }

    /// Makes way for a call: drops the shadow runs that have not begun, and ends those that can be ended.
    fn shed_shadows(&mut self) {
        self.drop_shadows();
        self.end_shadows(|_| true);
    }

    /// Tells shadow runs to end. Under the lock, as where a caller gives up.
    fn end_shadows(&mut self, which: impl Fn(&ShadowRun) -> bool) {
        let told: Vec<RunId> = (self.shadow_runs.iter_mut())
            .filter(|shadow| !shadow.told && which(shadow))
            .map(|shadow| {
                shadow.told = true;
                shadow.run
            })
            .collect();
        for run in told {
            self.interrupt(run);
            self.scheduler.ends_soon(run);
        }
    }
}

/// What became of a run that was to be given up.
enum Lost {
    /// It had ended.
    Ended,
    /// It goes on, and keeps its lane.
    Stays,
    /// It goes on, and its lane is free.
    GivenUp,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn now(&self) -> Nanos {
        nanos(self.epoch.elapsed())
    }

    fn ask(&self, inputs: &[NnTensor], terms: &Terms) -> Ask {
        let part = match &self.plan {
            Ok(plan) => plan.part(inputs),
            Err(_) => Part {
                class: Class::Alone,
                items: self.items(inputs),
                length: 1,
            },
        };
        let deadline = (terms.deadline).map(|at| nanos(at.saturating_duration_since(self.epoch)));
        Ask {
            level: (terms.priority).map_or(self.default_level, |priority| {
                priority.saturating_sub(1).min(self.last_level)
            }),
            class: part.class,
            items: part.items,
            length: part.length,
            bytes: total_bytes(inputs),
            deadline,
        }
    }

    fn items(&self, inputs: &[NnTensor]) -> u32 {
        (inputs.first())
            .filter(|_| self.counts_items)
            .and_then(|tensor| tensor.dims.first().copied())
            .unwrap_or(1)
    }

    /// Begins a call or puts it in the line. What is quick and can begin happens before this returns.
    fn submit(self: &Arc<Self>, ask: Ask, job: Job) -> Result<CallId, NnError> {
        let mut state = self.lock();
        // Under the lock, so that to the scheduler time does not go back.
        let now = self.now();
        if let Some((id, run)) = state.scheduler.start_alone(&ask, now) {
            let start = state.start(self, run, vec![waiting(id, ask, now, job)]);
            drop(state);
            self.launch_here(start);
            return Ok(id);
        }
        let stuck = |going: &&Going| matches!(going.overdue, Overdue::Stuck);
        if state.going.iter().filter(stuck).count() >= self.lane_count {
            return Err(self.without_a_lane(&mut state));
        }
        state.shed_shadows();
        let Entered { id, displaced } = match state.scheduler.enter(ask, job, now) {
            Ok(entered) => entered,
            Err((refused, _)) => {
                let error = self.refused(&mut state, refused, now);
                self.watch_interrupted(state);
                return Err(error);
            }
        };
        let mut ready = self.look(&mut state, now);
        let displaced = displaced.map(|call| (call, self.displaced(&mut state, now)));
        self.watch_interrupted(state);
        if let Some((call, error)) = displaced {
            let _ = call.payload.reply.send(Err(error));
        }
        // One run may happen here: most likely it is the one of this call.
        let here = ready.pop();
        ready.into_iter().for_each(|start| self.launch(start));
        if let Some(start) = here {
            self.launch_here(start);
        }
        Ok(id)
    }

    /// Asks what there is to do, takes lanes for it, and sees to it that somebody looks again.
    fn look(self: &Arc<Self>, state: &mut State, now: Nanos) -> Vec<Start> {
        let Todo { late, runs, wake } = state.scheduler.next(now);
        state.waits.set(state.scheduler.waiting());
        for call in late {
            state.stats.refusals.deadline += 1;
            let error = self.late(state, "while the call waited for the model");
            let _ = call.payload.reply.send(Err(error));
        }
        if let Some(wake) = wake
            && state.wake.is_none_or(|planned| wake < planned)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            state.wake = Some(wake);
            let inner = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep_until(inner.epoch + Duration::from_nanos(wake)).await;
                let mut state = inner.lock();
                if state.wake == Some(wake) {
                    state.wake = None;
                }
                let now = inner.now();
                let ready = inner.look(&mut state, now);
                drop(state);
                ready.into_iter().for_each(|start| inner.launch(start));
            });
        }
        runs.into_iter()
            .map(|(run, calls)| state.start(self, run, calls))
            .collect()
    }

    /// The shapes of a run of several calls.
    fn joined_shapes(&self, calls: &[Waiting<Job>]) -> Option<Vec<Vec<u32>>> {
        let plan = self.plan.as_ref().ok().filter(|_| calls.len() > 1)?;
        let tensors: Vec<&[NnTensor]> = calls.iter().map(|call| &call.payload.inputs[..]).collect();
        let longest = calls.iter().map(|call| call.ask.length).max().unwrap_or(1);
        Some(plan.shapes(&tensors, longest))
    }

    /// Lets go of the lock, and sees to it that runs that were interrupted end, or are given up.
    fn watch_interrupted(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.unwatched.is_empty() {
            return;
        }
        let runs = std::mem::take(&mut state.unwatched);
        drop(state);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends.
            return;
        };
        for run in runs {
            let inner = self.clone();
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(GRACE).await;
                    let mut state = inner.lock();
                    match state.lose(run, &inner) {
                        Lost::Ended => return,
                        // Another may end, and leave its place to this one.
                        Lost::Stays => continue,
                        Lost::GivenUp => {}
                    }
                    let now = inner.now();
                    let ready = inner.look(&mut state, now);
                    drop(state);
                    ready.into_iter().for_each(|start| inner.launch(start));
                    return;
                }
            });
        }
    }

    /// Ends shadow runs that take too long.
    fn end_long_shadows(self: &Arc<Self>) {
        let mut state = self.lock();
        state.end_shadows(|shadow| shadow.began.elapsed() >= LONGEST_SHADOW);
        self.watch_interrupted(state);
    }

    /// Runs on this task what is quick enough, and what is not elsewhere.
    fn launch_here(self: &Arc<Self>, mut start: Start) {
        start.quick = start.quick && self.begin(&mut start);
        if start.quick {
            let next = self.perform(start);
            next.into_iter().for_each(|start| self.launch(start));
        } else {
            self.launch(start);
        }
    }

    /// Hands a run to its lane's process, where it has one, and waits as long as a server thread may. False where the
    /// rest of it is to be waited for elsewhere.
    fn begin(&self, start: &mut Start) -> bool {
        let began = Instant::now();
        let Start { slot, calls, .. } = start;
        let ready = match (&mut slot.lane, &calls[..]) {
            (Some(lane), [call]) => lane.begin(&call.payload.inputs, INLINE_BUDGET),
            (Some(_), _) if !self.session.is_elsewhere() => true,
            (Some(lane), calls) => {
                // A panic comes again, and is dealt with, where the run is made without this.
                let joined = catch_unwind(AssertUnwindSafe(|| self.joined(calls.iter())));
                slot.joined = joined.ok().flatten();
                match &slot.joined {
                    Some(joined) => lane.begin(&joined.inputs, INLINE_BUDGET),
                    None => false,
                }
            }
            // To make one may take long.
            (None, _) => false,
        };
        slot.ahead = nanos(began.elapsed());
        ready
    }

    /// Puts the inputs of several calls together. `None` where the model has no plan to.
    fn joined<'a>(&self, calls: impl Iterator<Item = &'a Waiting<Job>> + Clone) -> Option<Joined> {
        let plan = self.plan.as_ref().ok()?;
        let began = Instant::now();
        let tensors: Vec<&[NnTensor]> = (calls.clone())
            .map(|call| &call.payload.inputs[..])
            .collect();
        let longest = calls.map(|call| call.ask.length).max().unwrap_or(1);
        Some(Joined {
            inputs: plan.join(&tensors, longest),
            took: nanos(began.elapsed()),
        })
    }

    /// Runs elsewhere.
    fn launch(self: &Arc<Self>, start: Start) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends; whoever waits hears it from the channel that closes.
            return;
        };
        let inner = self.clone();
        if start.quick {
            runtime.spawn(async move { inner.launch_here(start) });
        } else {
            overdue::spawn(move || {
                // What follows from the run's end happens on the server's runtime.
                let _server = runtime.enter();
                let mut next = Some(start);
                while let Some(start) = next.take() {
                    let mut ready = inner.perform(start);
                    next = ready.pop();
                    ready.into_iter().for_each(|start| inner.launch(start));
                }
            });
        }
    }

    /// Runs, answers, and says what to run next.
    fn perform(self: &Arc<Self>, start: Start) -> Vec<Start> {
        let mut start = start;
        let run = start.run;
        let mut slot = std::mem::replace(&mut start.slot, Slot::empty());
        let began = self.now().saturating_sub(slot.ahead);
        if slot.lane.is_none() {
            self.make_lane(&mut slot, run);
        }
        let mut outcome = self.execute(&mut slot, &start.calls);
        let mut state = self.lock();
        let now = self.now();
        let going = state.going.iter().position(|going| going.run == run);
        let going = going.map(|at| state.going.swap_remove(at));
        state.quick.ran(start.shapes(), now - began, outcome.sound);
        let calls = start.calls;
        if let Some(Going {
            overdue: Overdue::Lost { .. },
            ..
        }) = &going
        {
            // It was counted when it was given up, and its lane is another's; what it leaves is dropped.
            drop(state);
            tracing::info!(
                "model {} version {}: a run that was given up ended after {} ms",
                quoted(&self.name),
                self.version,
                (now - began) / 1_000_000
            );
            return Vec::new();
        }
        state.lanes.push(slot);
        state.scheduler.finish(
            run,
            Finished {
                took: outcome.sound.then_some(now - began),
                bytes: outcome.bytes,
                items: outcome.items,
            },
        );
        if let Some(reason) = outcome.unjoinable.take() {
            state.rows_depend(reason);
        }
        let shadow = (state.shadow_runs.iter()).position(|shadow| shadow.run == run);
        match shadow.map(|at| state.shadow_runs.swap_remove(at)) {
            Some(shadow) => state.stats.ran_shadow(&outcome, shadow.told),
            None => state.stats.ran_calls(&calls, &outcome, began, now),
        }
        let ready = self.look(&mut state, now);
        let shadows = state.start_shadows(self, now);
        drop(state);
        shadows.into_iter().for_each(|start| self.launch(start));
        for (call, answer) in calls.into_iter().zip(outcome.answers) {
            let _ = call.payload.reply.send(answer);
        }
        ready
    }

    /// Makes a run's lane before the run, so that the run can be interrupted. Where it cannot be made, the run itself
    /// fails with the reason.
    fn make_lane(&self, slot: &mut Slot, run: RunId) {
        let made = catch_unwind(AssertUnwindSafe(|| self.session.lane()));
        let Ok(Ok(lane)) = made else { return };
        *slot = Slot::of(lane);
        let mut state = self.lock();
        if let Some(going) = state.going.iter_mut().find(|going| going.run == run) {
            going.interrupt = slot.interrupt.clone();
            // Nobody waits for it any more, since before there was anything to interrupt.
            if let (Some(interrupt), false) =
                (&slot.interrupt, matches!(going.overdue, Overdue::No))
            {
                interrupt.interrupt();
            }
        }
    }

    /// Runs calls together; where that fails, in parts.
    fn execute(&self, slot: &mut Slot, calls: &[Waiting<Job>]) -> Outcome {
        let mut outcome = Outcome::of(calls);
        let mut isolate = Isolate::new(calls.len());
        while let Some(part) = isolate.next_part() {
            let whole = part.len() == calls.len();
            let live: Vec<usize> = (part.clone())
                .filter(|at| whole || !calls[*at].payload.reply.is_closed())
                .collect();
            if live.is_empty() {
                continue;
            }
            let members: Vec<&Waiting<Job>> = live.iter().map(|at| &calls[*at]).collect();
            // A lane's own panics are caught where they happen; whatever else may, the lane must come back.
            let attempt = AssertUnwindSafe(|| self.attempt(slot, &members, &mut outcome));
            let attempted = catch_unwind(attempt).unwrap_or_else(|panic| {
                Err(NnError::runtime(format!(
                    "joining the call with others panicked: {}",
                    panic_text(&*panic)
                )))
            });
            match attempted {
                Ok(answers) => {
                    for (at, answer) in live.into_iter().zip(answers) {
                        outcome.answers[at] = Ok(answer);
                    }
                }
                Err(error) if error.refusal == Some(Refusal::Ended) => {
                    // Tried again by halves it would end the process again and again. Which call it was is not known.
                    outcome.sound = false;
                    outcome.failed_executions += 1;
                    for at in live {
                        outcome.answers[at] = Err(error.clone());
                    }
                }
                Err(error) => {
                    outcome.sound = false;
                    outcome.failed_executions += 1;
                    if !isolate.failed(part) {
                        outcome.answers[live[0]] = Err(error);
                    }
                }
            }
        }
        if slot.lane.as_ref().is_some_and(|lane| lane.waited()) {
            outcome.sound = false;
        }
        outcome
    }

    /// One run of the graph, for one call or several.
    fn attempt(
        &self,
        slot: &mut Slot,
        calls: &[&Waiting<Job>],
        outcome: &mut Outcome,
    ) -> Result<Vec<Vec<NnTensor>>, NnError> {
        let started = Instant::now();
        let ahead = std::mem::take(&mut slot.ahead);
        let items = calls.iter().map(|call| call.ask.items).sum();
        let mut spent = BatchStats {
            count: 1,
            ..BatchStats::default()
        };
        let ran = match (calls, &self.plan) {
            ([call], _) => {
                let outputs = self.on_lane(slot, &call.payload.inputs);
                spent.compute_infer_ns = ahead + nanos(started.elapsed());
                outputs.map(|outputs| vec![outputs])
            }
            (_, Err(reason)) => Err(NnError::runtime(reason.clone())),
            (_, Ok(plan)) => {
                let shares: Vec<(u32, u32)> = (calls.iter())
                    .map(|call| (call.ask.items, call.ask.length))
                    .collect();
                let longest = shares.iter().map(|(_, length)| *length).max().unwrap_or(1);
                // Only the first attempt, which is of all calls, finds them put together.
                let before = slot.joined.take();
                let Some(joined) = before.or_else(|| self.joined(calls.iter().copied())) else {
                    return Err(NnError::runtime("the model has no plan to join calls"));
                };
                outcome.bytes = outcome.bytes.max(total_bytes(&joined.inputs));
                spent.compute_input_ns = joined.took;
                let outputs = self.on_lane(slot, &joined.inputs);
                let ran = ahead + nanos(started.elapsed());
                spent.compute_infer_ns = ran.saturating_sub(joined.took);
                outputs.and_then(|outputs| {
                    let split = plan.split(&outputs, &shares, longest);
                    spent.compute_output_ns =
                        (ahead + nanos(started.elapsed())).saturating_sub(ran);
                    if let Err(error) = &split {
                        outcome.unjoinable = Some(error.message.clone());
                    }
                    split
                })
            }
        };
        outcome.spent.compute_input_ns += spent.compute_input_ns;
        outcome.spent.compute_infer_ns += spent.compute_infer_ns;
        outcome.spent.compute_output_ns += spent.compute_output_ns;
        if ran.is_ok() {
            outcome.rows.push((items, spent));
        }
        ran
    }

    /// Runs on a lane, which is made first where there is none.
    fn on_lane(&self, slot: &mut Slot, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let lane = slot.lane.take();
        // Everything that may panic is inside, so that the slot goes back whatever happens.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut fresh = match lane {
                Some(lane) => Slot {
                    lane: Some(lane),
                    interrupt: None,
                    ahead: 0,
                    joined: None,
                },
                None => Slot::of(self.session.lane()?),
            };
            let outcome = match &mut fresh.lane {
                Some(lane) => lane.run(inputs),
                None => Err(NnError::runtime("the model has no lane")),
            };
            Ok((fresh, outcome))
        }));
        match ran {
            Ok(Ok((fresh, outcome))) => {
                slot.lane = fresh.lane;
                if fresh.interrupt.is_some() {
                    slot.interrupt = fresh.interrupt;
                }
                let outputs = outcome?;
                let expected = self.session.outputs().len();
                if outputs.len() != expected {
                    return Err(NnError::runtime(format!(
                        "the backend answered with {} outputs where the graph has {expected}",
                        outputs.len()
                    )));
                }
                Ok(outputs)
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => {
                let text = panic_text(&*panic);
                slot.interrupt = None;
                Err(NnError::runtime(format!(
                    "the backend panicked on this call: {text}"
                )))
            }
        }
    }

    /// Runs on a lane before the model serves, so that [`Model::give_up_loading`] can end it.
    fn trial(&self, slot: &mut Slot, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        // The scheduler's own runs are counted from 1.
        const TRIAL: RunId = RunId(0);
        let given_up = || Err(NnError::runtime("loading was given up"));
        let mut state = self.lock();
        if state.given_up {
            return given_up();
        }
        if let Some(interrupt) = &slot.interrupt {
            interrupt.reset();
        }
        state.going.push(Going {
            run: TRIAL,
            began: Instant::now(),
            calls: 0,
            interrupt: slot.interrupt.clone(),
            overdue: Overdue::No,
        });
        drop(state);
        let ran = self.on_lane(slot, inputs);
        let mut state = self.lock();
        state.going.retain(|going| going.run != TRIAL);
        match state.given_up {
            true => given_up(),
            false => ran,
        }
    }

    fn late(&self, state: &State, when: &str) -> NnError {
        NnError::refused(
            Refusal::Deadline,
            format!(
                "the deadline passed {when} (model {} takes about {:.1} ms a run and {} wait); allow more time",
                quoted(&self.name),
                state.scheduler.pace.mean() as f64 / 1e6,
                state.scheduler.waiting()
            ),
        )
        .retry_after(self.retry_after(state, self.now()))
    }

    /// When the line will have been worked off.
    fn retry_after(&self, state: &State, now: Nanos) -> Duration {
        let scheduler = &state.scheduler;
        let wait = scheduler
            .wait_estimate(now)
            .saturating_add(scheduler.pace.mean());
        Duration::from_nanos(wait).max(LEAST_RETRY)
    }

    /// That no lane is left, because runs do not end.
    fn without_a_lane(&self, state: &mut State) -> NnError {
        state.stats.refusals.not_ready += 1;
        let text = format!(
            "all {} lanes of model {} are held by runs that do not end; the call was not run: try again later, or \
             restart the server",
            self.lane_count,
            quoted(&self.name)
        );
        NnError::refused(Refusal::NotReady, text).retry_after(GRACE)
    }

    fn displaced(&self, state: &mut State, now: Nanos) -> NnError {
        state.stats.refusals.displaced += 1;
        let text = format!(
            "calls of higher priority took the places in the line of model {}; try again later",
            quoted(&self.name)
        );
        NnError::refused(Refusal::QueueFull, text).retry_after(self.retry_after(state, now))
    }

    fn refused(&self, state: &mut State, refused: Refused, now: Nanos) -> NnError {
        let name = quoted(&self.name);
        match refused {
            Refused::Full => {
                state.stats.refusals.queue_full += 1;
                let text = format!(
                    "{} calls already wait for model {name}, which is as many as may; try again later",
                    state.scheduler.waiting()
                );
                NnError::refused(Refusal::QueueFull, text).retry_after(self.retry_after(state, now))
            }
            Refused::TooLate => {
                state.stats.refusals.shed += 1;
                let text = format!(
                    "the {} calls that wait for model {name} take about {:.0} ms, longer than this call has; it was \
                     not run: try again later, or allow more time",
                    state.scheduler.waiting(),
                    state.scheduler.wait_estimate(now) as f64 / 1e6
                );
                NnError::refused(Refusal::Shed, text).retry_after(self.retry_after(state, now))
            }
            Refused::Expired => {
                state.stats.refusals.deadline += 1;
                self.late(state, "before the call began")
            }
            Refused::Closed => {
                state.stats.refusals.not_ready += 1;
                NnError::refused(Refusal::NotReady, "the model is being unloaded")
            }
        }
    }
}

/// What came of a run.
struct Outcome {
    /// One a call.
    answers: Vec<Answer>,
    /// Runs of the graph that succeeded: items, and time spent.
    rows: Vec<(u32, BatchStats)>,
    spent: BatchStats,
    failed_executions: u64,
    /// Whether it was one run that succeeded, so that its time says something.
    sound: bool,
    items: u32,
    bytes: u64,
    /// Why calls of this model must not share runs, where that came out.
    unjoinable: Option<String>,
}

impl Outcome {
    fn of(calls: &[Waiting<Job>]) -> Self {
        let gone = || NnError::refused(Refusal::Gone, "the caller went away before the model ran");
        Self {
            answers: calls.iter().map(|_| Err(gone())).collect(),
            rows: Vec::new(),
            spent: BatchStats::default(),
            failed_executions: 0,
            sound: true,
            items: calls.iter().map(|call| call.ask.items).sum(),
            bytes: calls.iter().map(|call| call.ask.bytes).sum(),
            unjoinable: None,
        }
    }
}

impl Stats {
    /// Counts a run of calls that came to its end.
    fn ran_calls(&mut self, calls: &[Waiting<Job>], outcome: &Outcome, began: Nanos, now: Nanos) {
        self.in_flight -= calls.len();
        self.failed_executions += outcome.failed_executions;
        let spent = &outcome.spent;
        self.compute_input_ns += spent.compute_input_ns;
        self.compute_infer_ns += spent.compute_infer_ns;
        self.compute_output_ns += spent.compute_output_ns;
        for (items, batch) in &outcome.rows {
            self.ran(*items, *batch);
        }
        for (call, answer) in calls.iter().zip(&outcome.answers) {
            let total = now.saturating_sub(call.arrived);
            self.queue.add(began.saturating_sub(call.arrived));
            self.compute.add(spent.compute_infer_ns);
            self.total.add(total);
            self.calls_input_ns += spent.compute_input_ns;
            self.calls_output_ns += spent.compute_output_ns;
            if answer.is_ok() {
                self.success += 1;
                self.last_inference = Some(SystemTime::now());
            } else {
                self.failures += 1;
                self.failures_ns += total;
            }
        }
    }

    /// Counts a shadow run that came to its end; `told` where it was told to make way.
    fn ran_shadow(&mut self, outcome: &Outcome, told: bool) {
        let shadow = &mut self.shadow;
        if outcome.answers.iter().all(Result::is_ok) {
            shadow.runs += 1;
            shadow.compute.add(outcome.spent.compute_infer_ns);
        } else if told {
            shadow.shed += 1;
        } else {
            shadow.runs += 1;
            shadow.failed += 1;
        }
    }
}

/// The largest difference between two answers, as a part of the largest element of each output.
pub(crate) fn differences(a: &[NnTensor], b: &[NnTensor]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max)
}

/// The largest difference between two tensors' elements, as a part of the largest element; whole numbers are the same or
/// differ without bound.
fn difference(a: &NnTensor, b: &NnTensor) -> f64 {
    if a.dims != b.dims || a.ty != b.ty {
        return f64::INFINITY;
    }
    if a.data == b.data {
        return 0.0;
    }
    if matches!(a.ty, TensorType::U8 | TensorType::I32 | TensorType::I64) {
        return f64::INFINITY;
    }
    let (a, b) = (elements(a), elements(b));
    let largest = a
        .iter()
        .map(|x| x.abs())
        .filter(|x| x.is_finite())
        .fold(0.0, f64::max);
    let apart = |(a, b): (&f64, &f64)| {
        if a == b || (a.is_nan() && b.is_nan()) {
            0.0
        } else {
            (a - b).abs()
        }
    };
    let most = a.iter().zip(&b).map(apart).fold(0.0, |most: f64, x| {
        if x.is_nan() {
            f64::INFINITY
        } else {
            most.max(x)
        }
    });
    if most == 0.0 {
        0.0
    } else {
        most / largest.max(f64::MIN_POSITIVE)
    }
}
