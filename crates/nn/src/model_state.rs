//! The state behind [`crate::model::Model`]: its queue, its free instances and the runs under way, and their changes under
//! one lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::agreement::Agreement;
use crate::backend::{Interrupt, Rows, Session};
use crate::batch::{Part, Plan};
use crate::call;
use crate::call_options::{CallOptions, SharedRuns};
use crate::error::{NnError, quoted};
use crate::index_bounds::IndexBounds;
use crate::job::{Job, ShadowRun, Slot, Start, nanos, total_bytes};
use crate::outcome::Outcome;
use crate::overdue::{self, GRACE, MAX_LOST_OF_MODEL};
use crate::schedule::quick::Quick;
use crate::schedule::run_time::INLINE_BUDGET;
use crate::schedule::{
    Ask, CallId, Class, Entered, Finished, Nanos, RunId, Scheduler, Todo, Waiting,
};
use crate::shadow::Waits;
use crate::stats::Stats;
use crate::tensor::NnTensor;

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) backend: &'static str,
    pub(crate) session: Arc<dyn Session>,
    /// The inputs that are indices, and their ranges.
    pub(crate) index_bounds: IndexBounds,
    /// Whether every input begins with a symbolic dimension, so that it counts the items of a call.
    pub(crate) counts_items: bool,
    pub(crate) instance_count: usize,
    pub(crate) default_level: u8,
    pub(crate) last_level: u8,
    pub(crate) plan: Result<Plan, String>,
    /// Most items of a shared run.
    pub(crate) most_items: u32,
    pub(crate) allows_dependent_rows: bool,
    /// The difference that a shared run may make to an answer.
    pub(crate) most_moved: f64,
    pub(crate) rules: call::Rules,
    pub(crate) epoch: Instant,
    pub(crate) state: Mutex<State>,
    /// The number of lost runs of all models.
    pub(crate) lost: Arc<overdue::Count>,
    /// The result of the comparison with another backend.
    pub(crate) agreement: OnceLock<Agreement>,
    /// Whether a comparison is to follow.
    pub(crate) awaits_agreement: AtomicBool,
}

pub(crate) struct State {
    pub(crate) scheduler: Scheduler<Job>,
    /// The free instances: as many as the scheduler has.
    pub(crate) instances: Vec<Slot>,
    /// The runs under way, lost ones included.
    pub(crate) active_runs: Vec<ActiveRun>,
    /// Whether loading was given up, so that nothing begins any more.
    pub(crate) given_up: bool,
    /// The time at which the queue will be looked at next.
    pub(crate) wake: Option<Nanos>,
    pub(crate) stats: Stats,
    pub(crate) shared_runs: SharedRuns,
    /// The dependence of rows on each other, as it is known so far.
    pub(crate) rows: Rows,
    /// The runs that may happen on a server thread.
    pub(crate) quick: Quick,
    /// Shadow runs that have not begun, oldest first.
    pub(crate) shadows: VecDeque<(Ask, Job)>,
    /// The shadow runs under way.
    pub(crate) shadow_runs: Vec<ShadowRun>,
    /// Runs that were interrupted and are not watched yet.
    pub(crate) unwatched: Vec<RunId>,
    /// The waiting calls, of this model and of the others.
    pub(crate) waits: Waits,
}

/// A run under way, with the signal that interrupts it.
pub(crate) struct ActiveRun {
    pub(crate) run: RunId,
    pub(crate) began: Instant,
    pub(crate) calls: usize,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    pub(crate) overdue: Overdue,
}

/// The state of a run that exceeds its time; see [`crate::overdue`].
pub(crate) enum Overdue {
    /// The run is in time.
    No,
    /// The run was interrupted and has some grace to end.
    Interrupted,
    /// The run continued beyond the grace, and keeps its instance because too many are lost.
    Stuck,
    /// The run continued, and its instance was given away.
    Lost { _place: overdue::LostRunPermit },
}

pub(crate) fn waiting(id: CallId, ask: Ask, arrived: Nanos, payload: Job) -> Waiting<Job> {
    Waiting {
        id,
        ask,
        arrived,
        payload,
    }
}

impl State {
    /// Takes an instance for a run.
    pub(crate) fn start(&mut self, inner: &Inner, run: RunId, calls: Vec<Waiting<Job>>) -> Start {
        // The scheduler begins no more runs than there are instances; a missing one is made.
        let slot = self.instances.pop().unwrap_or_else(Slot::empty);
        if let Some(interrupt) = &slot.interrupt {
            interrupt.reset();
        }
        self.active_runs.push(ActiveRun {
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
            batch: inner.batch_shapes(&calls),
            quick: false,
            calls,
        };
        start.quick = self.quick.allows(start.shapes())
            && self.scheduler.run_time.predict(bytes) <= nanos(INLINE_BUDGET);
        start
    }

    /// Tells a run to end. The caller must have it watched: [`Inner::watch_interrupted`].
    pub(crate) fn interrupt(&mut self, run: RunId) {
        let Some(active) = self.active_runs.iter_mut().find(|active| active.run == run) else {
            return;
        };
        if let Some(interrupt) = &active.interrupt {
            interrupt.interrupt();
        }
        if let Overdue::No = active.overdue {
            active.overdue = Overdue::Interrupted;
            self.unwatched.push(run);
        }
    }

    /// Gives up a run that continues after an interrupt, if another lost run is allowed.
    fn lose(&mut self, run: RunId, inner: &Inner) -> Lost {
        let lost = |active: &&ActiveRun| matches!(active.overdue, Overdue::Lost { .. });
        let of_model = self.active_runs.iter().filter(lost).count();
        let Some(active) = self.active_runs.iter_mut().find(|active| active.run == run) else {
            return Lost::Ended;
        };
        if (active.interrupt.as_ref()).is_some_and(|interrupt| interrupt.kill()) {
            // Its calls fail now, and its instance comes back as after any run.
            return Lost::Stays;
        }
        let place = (of_model < MAX_LOST_OF_MODEL)
            .then(|| inner.lost.place())
            .flatten();
        let (name, version) = (quoted(&inner.name), &inner.version);
        let ran_for = active.began.elapsed().as_millis();
        let Some(place) = place else {
            if !matches!(active.overdue, Overdue::Stuck) {
                tracing::warn!(
                    "model {name} version {version}: an abandoned run goes on after {ran_for} ms and cannot be \
                     interrupted; it keeps its instance, because {of_model} runs of this model are lost already, or \
                     too many of all models; calls are refused while no instance is left"
                );
            }
            active.overdue = Overdue::Stuck;
            return Lost::Stays;
        };
        tracing::warn!(
            "model {name} version {version}: an abandoned run goes on after {ran_for} ms and cannot be interrupted; \
             it keeps its thread, and the model gets a new instance"
        );
        active.overdue = Overdue::Lost { _place: place };
        let calls = active.calls;
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
        self.instances.push(Slot::empty());
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

    pub(crate) fn rows_depend(&mut self, reason: String) {
        self.scheduler.stop_batching();
        self.rows = Rows::Dependent(reason.clone());
        self.shared_runs = SharedRuns::No(reason);
    }
}

/// The result of giving up a run.
pub(crate) enum Lost {
    /// The run had ended before.
    Ended,
    /// It continues, and keeps its instance.
    Stays,
    /// It continues, and its instance is free.
    GivenUp,
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn now(&self) -> Nanos {
        nanos(self.epoch.elapsed())
    }

    pub(crate) fn ask(&self, inputs: &[NnTensor], options: &CallOptions) -> Ask {
        let part = match &self.plan {
            Ok(plan) => plan.part(inputs),
            Err(_) => Part {
                class: Class::Alone,
                items: self.items(inputs),
                length: 1,
            },
        };
        let deadline = (options.deadline).map(|at| nanos(at.saturating_duration_since(self.epoch)));
        Ask {
            level: (options.priority).map_or(self.default_level, |priority| {
                priority.saturating_sub(1).min(self.last_level)
            }),
            class: part.class,
            items: part.items,
            length: part.length,
            bytes: total_bytes(inputs),
            deadline,
        }
    }

    pub(crate) fn items(&self, inputs: &[NnTensor]) -> u32 {
        (inputs.first())
            .filter(|_| self.counts_items)
            .and_then(|tensor| tensor.dims.first().copied())
            .unwrap_or(1)
    }

    /// Begins a call or puts it in the queue. A quick run that can begin happens before this returns.
    pub(crate) fn submit(self: &Arc<Self>, ask: Ask, job: Job) -> Result<CallId, NnError> {
        let mut state = self.lock();
        // Under the lock, so that the scheduler never sees time go back.
        let now = self.now();
        if let Some((id, run)) = state.scheduler.start_alone(&ask, now) {
            let start = state.start(self, run, vec![waiting(id, ask, now, job)]);
            drop(state);
            self.launch_here(start);
            return Ok(id);
        }
        let stuck = |active: &&ActiveRun| matches!(active.overdue, Overdue::Stuck);
        if state.active_runs.iter().filter(stuck).count() >= self.instance_count {
            return Err(self.without_an_instance(&mut state));
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

    /// Asks the scheduler for work, takes instances for it, and plans the next look.
    pub(crate) fn look(self: &Arc<Self>, state: &mut State, now: Nanos) -> Vec<Start> {
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
    fn batch_shapes(&self, calls: &[Waiting<Job>]) -> Option<Vec<Vec<u32>>> {
        let plan = self.plan.as_ref().ok().filter(|_| calls.len() > 1)?;
        let tensors: Vec<&[NnTensor]> = calls.iter().map(|call| &call.payload.inputs[..]).collect();
        let longest = calls.iter().map(|call| call.ask.length).max().unwrap_or(1);
        Some(plan.shapes(&tensors, longest))
    }

    /// Releases the lock, and makes sure that interrupted runs end or are given up.
    pub(crate) fn watch_interrupted(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
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
                        // Another lost run may end, and leave its place to this one.
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

    /// Runs on this task if the run is quick enough and happens in this process.
    pub(crate) fn launch_here(self: &Arc<Self>, mut start: Start) {
        start.quick = start.quick && self.begin(&mut start);
        if start.quick {
            let next = self.perform(start);
            next.into_iter().for_each(|start| self.launch(start));
        } else {
            self.launch(start);
        }
    }
}

impl Stats {
    /// Counts a run of calls that came to its end.
    pub(crate) fn ran_calls(
        &mut self,
        calls: &[Waiting<Job>],
        outcome: &Outcome,
        began: Nanos,
        now: Nanos,
    ) {
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

    /// Counts a shadow run that ended; `told` if it was told to make way.
    pub(crate) fn ran_shadow(&mut self, outcome: &Outcome, told: bool) {
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
