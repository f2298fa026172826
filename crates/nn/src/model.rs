//! A loaded model: checks what a call sends, asks [`crate::schedule`] when it runs and with whom, runs it where
//! that is cheapest, and counts.
//!
//! Decisions:
//!
//! - **Lanes.** A model runs at most as many runs at once as it has lanes. While all are busy, calls wait, and
//!   those that agree share the next run ([`crate::join`]).
//! - **Short runs stay on the task.** Handing a run to another thread and back costs more than a small model's
//!   run. While recent runs predict at most [`INLINE_BUDGET`], a run that begins when a call arrives happens on
//!   the task that asked, and one that begins when another ends on a task of its own; longer ones on the
//!   blocking pool, where a thread goes on with the next run of the line as long as there is one.
//! - **Cancelling is safe at every point.** A caller that goes while it waits leaves the line. One that goes
//!   while its call runs leaves the others of that run alone; when nobody waits for a run any more it is ended
//!   early where the backend can, and else goes on to its end with its lane.
//! - **Shadow runs are nobody's.** They wait apart from the line, begin where a lane would be idle, and make way
//!   ([`crate::shadow`]); what they do is counted apart.
//! - **One bad call fails alone.** A run of several that fails is tried again by halves
//!   ([`crate::schedule::isolate`]).
//! - **A panic in a backend costs the run it happened in.** The lane is thrown away and made anew.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backend::{
    Backend, Dim, GraphSource, Interrupt, Lane, LoadOptions, Port, Session, panic_text,
};
use crate::call;
use crate::error::{NnError, Refusal, quoted};
use crate::join::{Joining, Part, Plan};
use crate::schedule::isolate::Isolate;
pub use crate::schedule::pace::INLINE_BUDGET;
use crate::schedule::{
    Ask, CallId, Class, Entered, Finished, Left, Limits, Nanos, Refused, RunId, Scheduler, Todo,
    Waiting,
};
use crate::shadow::{self, Held, ShadowStats, Waits, compare};
pub use crate::stats::{BatchStats, Histogram, Refusals, Stats};
use crate::tensor::{NnTensor, elements};

/// How much an answer may depend on which calls share its run, as a part of the largest element. Models with
/// weights and activations quantised by run differ by a few hundredths; one that mixes its items is far above.
pub const MAX_DIFFERENCE: f64 = 0.1;

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
    /// Whether every input begins with a symbolic dimension, so that it counts the items of a call.
    counts_items: bool,
    lane_count: usize,
    default_level: u8,
    last_level: u8,
    plan: Result<Plan, String>,
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    scheduler: Scheduler<Job>,
    /// Free lanes: as many as the scheduler has.
    lanes: Vec<Slot>,
    /// What ends the runs that go on.
    interrupts: Vec<(RunId, Arc<dyn Interrupt>)>,
    /// When somebody will look at the line next.
    wake: Option<Nanos>,
    stats: Stats,
    joins: Joins,
    /// Whether short runs may happen on a server's thread.
    inline: bool,
    /// Shadow runs that have not begun, oldest first.
    shadows: VecDeque<(Ask, Job)>,
    /// Shadow runs that go on, and whether each was told to end.
    shadow_runs: Vec<(RunId, bool)>,
    /// Those who wait, here and for the other models.
    waits: Waits,
}

/// A place for a lane; empty where it has to be made anew before its next use.
struct Slot {
    lane: Option<Box<dyn Lane>>,
    interrupt: Option<Arc<dyn Interrupt>>,
}

impl Slot {
    fn of(lane: Box<dyn Lane>) -> Self {
        Self {
            interrupt: lane.interrupt(),
            lane: Some(lane),
        }
    }

    fn empty() -> Self {
        Self {
            lane: None,
            interrupt: None,
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

/// A run and the lane it is to happen on.
struct Start {
    run: RunId,
    calls: Vec<Waiting<Job>>,
    slot: Slot,
    /// Whether it is expected to be quick enough for a server's thread.
    quick: bool,
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
            Ok(joining) => Plan::new(joining, session.inputs(), session.outputs()),
        };
        let limits = limits(options, lane_count, plan.is_ok());
        let joins = match &plan {
            Ok(_) => Joins::Yes(None),
            Err(reason) => Joins::No(reason.clone()),
        };
        let last_level = limits.levels - 1;
        let inline = session.may_run_inline();
        Ok(Self(Arc::new(Inner {
            name: name.into(),
            version: version.into(),
            backend: backend.name(),
            counts_items: !session.inputs().is_empty()
                && session.inputs().iter().all(starts_symbolic),
            session,
            lane_count,
            default_level: (options.default_priority).map_or(last_level, |priority| {
                priority.saturating_sub(1).min(last_level)
            }),
            last_level,
            plan,
            epoch: Instant::now(),
            state: Mutex::new(State {
                scheduler: Scheduler::new(limits),
                lanes,
                interrupts: Vec::new(),
                wake: None,
                stats: Stats::default(),
                joins,
                inline,
                shadows: VecDeque::new(),
                shadow_runs: Vec::new(),
                waits: Waits::of(held),
            }),
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

    /// Bytes the loaded graph holds, where its runtime tells.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.0.session.memory_bytes()
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
        let state = self.0.lock();
        let scheduler = &state.scheduler;
        Stats {
            running: scheduler.running().saturating_sub(state.shadow_runs.len()),
            waiting: scheduler.waiting(),
            hold: Duration::from_nanos(scheduler.tempo.hold(&scheduler.pace)),
            most_items: scheduler.tempo.most_items(),
            shadow: ShadowStats {
                in_flight: state.shadows.len() + state.shadow_runs.len(),
                ..state.stats.shadow
            },
            ..state.stats.clone()
        }
    }

    /// Takes no more calls. Those that wait or run are brought to their end; shadow runs are dropped.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.scheduler.close();
        state.shed_shadows();
    }

    /// Runs every lane once on `inputs`, so that the first caller does not pay for what a backend does on a
    /// first run, and so that the model's pace is known. Blocks; counts nothing. For use before the model
    /// serves: lanes that are running meanwhile are left out.
    ///
    /// # Errors
    ///
    /// What a call with these inputs would get.
    pub fn warm_up(&self, inputs: Vec<(String, NnTensor)>) -> Result<(), NnError> {
        let inputs = call::bind(&self.0.name, self.inputs(), inputs)?;
        let mut slots = std::mem::take(&mut self.0.lock().lanes);
        let mut best = None;
        let ran = slots.iter_mut().try_for_each(|slot| {
            let started = Instant::now();
            let outputs = self.0.on_lane(slot, &inputs)?;
            let took = nanos(started.elapsed());
            best = Some(best.map_or(took, |best: Nanos| best.min(took)));
            call::label(self.outputs(), outputs).map(drop)
        });
        let mut state = self.0.lock();
        state.lanes.append(&mut slots);
        if let Some(best) = best {
            state.scheduler.pace.start(best, total_bytes(&inputs));
        }
        drop(state);
        ran
    }

    /// Tries whether calls may share a run: runs two alone and then together, and compares. A model whose
    /// answers depend on their company by more than [`MAX_DIFFERENCE`], or that cannot run them together, runs
    /// every call by itself from then on. Blocks; counts nothing. For use before the model serves.
    ///
    /// # Errors
    ///
    /// When one of the calls fails by itself, which says nothing about joining; nothing is changed then.
    pub fn try_joining(
        &self,
        first: Vec<(String, NnTensor)>,
        second: Vec<(String, NnTensor)>,
    ) -> Result<Joins, NnError> {
        let inner = &*self.0;
        let Ok(plan) = &inner.plan else {
            return Ok(self.joins());
        };
        let calls = [
            call::bind(&inner.name, self.inputs(), first)?,
            call::bind(&inner.name, self.inputs(), second)?,
        ];
        let parts = [plan.part(&calls[0]), plan.part(&calls[1])];
        let together = parts[0].items.saturating_add(parts[1].items);
        let most = inner.lock().scheduler.limits().max_items;
        if parts[0].class == Class::Alone || parts[0].class != parts[1].class || together > most {
            return Ok(self.joins());
        }
        let Some(mut slot) = inner.lock().lanes.pop() else {
            return Ok(self.joins());
        };
        let tried = inner.compare(&mut slot, plan, &calls, &parts);
        let mut state = inner.lock();
        state.lanes.push(slot);
        match tried? {
            Ok(difference) if difference <= MAX_DIFFERENCE => {
                state.joins = Joins::Yes(Some(difference));
            }
            Ok(difference) => state.stop_joining(format!(
                "its answers depend on what else is in the run, by {difference:.3} of the largest element; \
                 see [batching] in model.toml"
            )),
            Err(error) => state.stop_joining(format!("two calls together fail: {}", error.message)),
        }
        Ok(state.joins.clone())
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
        let inputs = call::bind(&inner.name, self.inputs(), inputs)
            .inspect_err(|_| inner.lock().stats.refusals.invalid += 1)?;
        // A task that only ever makes short calls would otherwise never give way to the others.
        tokio::task::consume_budget().await;
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
        let inputs = call::bind(&inner.name, self.inputs(), inputs)
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
        let starts = state.start_shadows(inner.now());
        drop(state);
        starts.into_iter().for_each(|start| inner.launch(start));
        let judge = async move {
            // It was counted where it failed or was dropped.
            let Ok(Ok(outputs)) = answer.await else {
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
        _ => Joining {
            max_items: 1,
            ..Joining::default()
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
            let interrupt = state.interrupts.iter().find(|(id, _)| *id == run);
            // Under the lock: its lane cannot begin another run before it is told.
            if let Some((_, interrupt)) = interrupt {
                interrupt.interrupt();
            }
        }
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
    fn start(&mut self, run: RunId, calls: Vec<Waiting<Job>>) -> Start {
        // The scheduler begins no more runs than there are lanes; a missing one is made.
        let slot = self.lanes.pop().unwrap_or_else(Slot::empty);
        if let Some(interrupt) = &slot.interrupt {
            interrupt.reset();
            self.interrupts.push((run, interrupt.clone()));
        }
        if !self.is_shadow(run) {
            self.stats.in_flight += calls.len();
        }
        for call in &calls {
            if let Some(begun) = &call.payload.begun {
                begun.store(true, Ordering::SeqCst);
            }
        }
        let bytes = calls.iter().map(|call| call.ask.bytes).sum();
        Start {
            run,
            slot,
            quick: self.inline && self.scheduler.pace.predict(bytes) <= nanos(INLINE_BUDGET),
            calls,
        }
    }

    fn is_shadow(&self, run: RunId) -> bool {
        self.shadow_runs.iter().any(|(id, _)| *id == run)
    }

    fn stop_joining(&mut self, reason: String) {
        self.scheduler.stop_joining();
        self.joins = Joins::No(reason);
    }

    /// Takes lanes that would be idle for shadow runs.
    fn start_shadows(&mut self, now: Nanos) -> Vec<Start> {
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
            self.shadow_runs.push((run, false));
            starts.push(self.start(run, vec![waiting(id, ask, now, job)]));
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
        for (run, told) in &mut self.shadow_runs {
            let interrupt = self.interrupts.iter().find(|(id, _)| id == run);
            if let (false, Some((_, interrupt))) = (*told, interrupt) {
                // Under the lock, as where a caller gives up.
                interrupt.interrupt();
                self.scheduler.ends_soon(*run);
                *told = true;
            }
        }
    }
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
            let start = state.start(run, vec![waiting(id, ask, now, job)]);
            drop(state);
            self.launch_here(start);
            return Ok(id);
        }
        state.shed_shadows();
        let Entered { id, displaced } = match state.scheduler.enter(ask, job, now) {
            Ok(entered) => entered,
            Err((refused, _)) => return Err(self.refused(&mut state, refused, now)),
        };
        let mut ready = self.look(&mut state, now);
        let displaced = displaced.map(|call| (call, self.displaced(&mut state, now)));
        drop(state);
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
            .map(|(run, calls)| state.start(run, calls))
            .collect()
    }

    /// Runs on this task what is quick enough, and what is not elsewhere.
    fn launch_here(self: &Arc<Self>, start: Start) {
        if start.quick {
            let next = self.perform(start);
            next.into_iter().for_each(|start| self.launch(start));
        } else {
            self.launch(start);
        }
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
            runtime.spawn_blocking(move || {
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
        let Start {
            run,
            calls,
            mut slot,
            ..
        } = start;
        let began = self.now();
        let mut outcome = self.execute(&mut slot, &calls);
        let mut state = self.lock();
        let now = self.now();
        state.interrupts.retain(|(id, _)| *id != run);
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
            state.stop_joining(reason);
        }
        let shadow = (state.shadow_runs.iter()).position(|(id, _)| *id == run);
        match shadow.map(|at| state.shadow_runs.swap_remove(at)) {
            Some((_, told)) => state.stats.ran_shadow(&outcome, told),
            None => state.stats.ran_calls(&calls, &outcome, began, now),
        }
        let ready = self.look(&mut state, now);
        let shadows = state.start_shadows(now);
        drop(state);
        shadows.into_iter().for_each(|start| self.launch(start));
        for (call, answer) in calls.into_iter().zip(outcome.answers) {
            let _ = call.payload.reply.send(answer);
        }
        ready
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
                Err(error) => {
                    outcome.sound = false;
                    outcome.failed_executions += 1;
                    if !isolate.failed(part) {
                        outcome.answers[live[0]] = Err(error);
                    }
                }
            }
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
        let items = calls.iter().map(|call| call.ask.items).sum();
        let mut spent = BatchStats {
            count: 1,
            ..BatchStats::default()
        };
        let ran = match (calls, &self.plan) {
            ([call], _) => {
                let outputs = self.on_lane(slot, &call.payload.inputs);
                spent.compute_infer_ns = nanos(started.elapsed());
                outputs.map(|outputs| vec![outputs])
            }
            (_, Err(reason)) => Err(NnError::runtime(reason.clone())),
            (_, Ok(plan)) => {
                let tensors: Vec<&[NnTensor]> =
                    calls.iter().map(|call| &call.payload.inputs[..]).collect();
                let shares: Vec<(u32, u32)> = (calls.iter())
                    .map(|call| (call.ask.items, call.ask.length))
                    .collect();
                let longest = shares.iter().map(|(_, length)| *length).max().unwrap_or(1);
                let joined = plan.join(&tensors, longest);
                outcome.bytes = outcome.bytes.max(total_bytes(&joined));
                let put_together = started.elapsed();
                spent.compute_input_ns = nanos(put_together);
                let outputs = self.on_lane(slot, &joined);
                let ran = started.elapsed();
                spent.compute_infer_ns = nanos(ran - put_together);
                outputs.and_then(|outputs| {
                    let split = plan.split(&outputs, &shares, longest);
                    spent.compute_output_ns = nanos(started.elapsed() - ran);
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

    /// By how much two calls' answers differ between running alone and together; the inner error where they
    /// cannot run together.
    fn compare(
        &self,
        slot: &mut Slot,
        plan: &Plan,
        calls: &[Vec<NnTensor>; 2],
        parts: &[Part; 2],
    ) -> Result<Result<f64, NnError>, NnError> {
        let alone = [
            self.on_lane(slot, &calls[0])?,
            self.on_lane(slot, &calls[1])?,
        ];
        let shares: Vec<(u32, u32)> = parts.iter().map(|part| (part.items, part.length)).collect();
        let longest = parts[0].length.max(parts[1].length);
        let joined = plan.join(&[&calls[0], &calls[1]], longest);
        let together = (self.on_lane(slot, &joined))
            .and_then(|outputs| plan.split(&outputs, &shares, longest));
        Ok(together.map(|together| {
            let pairs = alone.iter().flatten().zip(together.iter().flatten());
            pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max)
        }))
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

/// The largest difference between two tensors' elements, as a part of the largest element.
fn difference(a: &NnTensor, b: &NnTensor) -> f64 {
    if a.dims != b.dims || a.ty != b.ty {
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
