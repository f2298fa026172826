//! A loaded model: checks a call's inputs, asks [`crate::schedule`] when and with which calls it runs, runs it where
//! that is cheapest, and counts.
//!
//! Decisions:
//!
//! - **Instances.** A model makes at most as many runs at once as it has instances. While all are busy, calls wait, and
//!   calls that fit together share the next run ([`crate::batch`]).
//! - **Short runs stay on the task.** Handing a run to another thread and back costs more than the run of a small
//!   model. A run qualifies if it cannot take long for any content of its inputs ([`crate::schedule::quick`]), and if
//!   recent runs predict at most [`INLINE_BUDGET`]. If it begins when its call arrives, it happens on the caller's
//!   task. If it begins when another run ends, it happens on a new task. All other runs happen on threads for models
//!   ([`crate::overdue`]), where a thread continues with the next run of the queue as long as there is one.
//! - **Every run has a bound.** A run whose callers have all left is interrupted. If that does not help it is given up,
//!   and a new instance is made.
//! - **Cancellation is safe at every point.** A caller that leaves while it waits is removed from the queue. A caller
//!   that leaves during its run does not disturb the other calls of the run. When all callers of a run have left, the
//!   run is ended early.
//! - **Shadow runs come last.** They wait apart from the queue, begin if an instance would be idle, and make way
//!   ([`crate::shadow`]). They are counted separately.
//! - **One bad call fails alone.** A run of several calls that fails is tried again by halves
//!   ([`crate::schedule::isolate`]).
//! - **A panic in a backend costs only its run.** The instance is dropped and made again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::agreement::Agreement;
use crate::backend::{Backend, Cost, Dim, Graph, GraphSource, LoadOptions, Port, Rows};
use crate::batch::Plan;
use crate::batching::DynamicBatching;
use crate::call;
pub use crate::call_options::{CallOptions, SharedRuns};
use crate::error::{EngineRefusal, NnError};
pub use crate::histogram::Histogram;
use crate::index_bounds::IndexBounds;
use crate::job::{CallResult, Job, Slot, nanos};
use crate::model_state::{Inner, Overdue, State};
use crate::overdue::LONGEST_CALL;
use crate::schedule::quick::Quick;
pub use crate::schedule::run_time::INLINE_BUDGET;
use crate::schedule::{CallId, LeaveOutcome, Limits, Scheduler};
use crate::shadow::{ShadowStats, ShadowTotals, Waits};
pub use crate::stats::{BatchStats, Refusals, Stats};
use crate::tensor::NnTensor;
use crate::worker::ProcessStats;

/// The difference between an answer alone and an answer in a shared run that is allowed, as a part of the largest
/// element, if the contract asks for shared runs or for a padded axis. Otherwise every bit must be the same. Many rows
/// in FP32 are the same, but a product with a single column takes another kernel for one row than for several, and then
/// an overflow may be NaN or infinity. On a padded axis, sums are added in another order, which moves them by about
/// 1e-7. A processor that chooses another kernel for another size stays below 1e-6. One step of a quantised activation
/// is 4e-3, and BF16 is 4e-3 too.
pub const MAX_DIFFERENCE: f64 = 1e-5;

/// A model ready to run. Clones share one model.
#[derive(Clone)]
pub struct Model(pub(crate) Arc<Inner>);

/// Tensors by name, as a caller gives them.
pub type Named = Vec<(String, NnTensor)>;

impl Model {
    /// Loads a graph, and blocks until it is loaded.
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

    /// The same for one of several models. Its shadow runs make way for calls that wait for any of them.
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
        held: &Arc<ShadowTotals>,
    ) -> Result<Self, NnError> {
        let session = backend.load(graph, options)?;
        call::carried(&*session)?;
        let rules = call::Rules::of(&*session, options)?;
        let instance_count = options.instance_count();
        let instances = (0..instance_count)
            .map(|_| session.instance().map(Slot::of))
            .collect::<Result<Vec<_>, _>>()?;
        let starts_symbolic = |port: &Port| {
            (port.dims.as_ref())
                .and_then(|dims| dims.first())
                .is_some_and(|dim| matches!(dim, Dim::Symbolic(_)))
        };
        let plan = match &options.batching {
            Err(reason) => Err(reason.clone()),
            Ok(_) if rules.has_optional() => Err("calls may leave inputs out".into()),
            Ok(batching) => Plan::new(batching, session.inputs(), session.outputs()),
        };
        let asked = options.batching.as_ref().ok();
        let is_exact = asked.as_ref().is_some_and(|asked| asked.exact);
        let most_moved = if is_exact { 0.0 } else { MAX_DIFFERENCE };
        let allows_dependent_rows = asked.is_some_and(|asked| asked.allow_dependent_rows);
        let rows = match &plan {
            Err(reason) => Rows::Dependent(reason.clone()),
            Ok(_) if allows_dependent_rows => Rows::Independent,
            Ok(_) => session.rows(),
        };
        let shared_runs = match (&rows, asked.is_some_and(|asked| asked.shares)) {
            (Rows::Independent, true) => SharedRuns::Yes(None),
            (Rows::Independent, false) => {
                SharedRuns::No("model.toml has batching.enabled = false".into())
            }
            (Rows::Dependent(reason), _) => SharedRuns::No(reason.clone()),
        };
        let limits = limits(
            options,
            instance_count,
            matches!(shared_runs, SharedRuns::Yes(_)),
        );
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
            instance_count,
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
                instances,
                active_runs: Vec::new(),
                given_up: false,
                wake: None,
                stats: Stats::default(),
                shared_runs,
                rows,
                quick,
                shadows: VecDeque::new(),
                shadow_runs: Vec::new(),
                unwatched: Vec::new(),
                waits: Waits::of(held),
            }),
            lost: held.lost.clone(),
            agreement: OnceLock::new(),
            awaits_agreement: AtomicBool::new(false),
        })))
    }

    /// The name under which the model was loaded.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The version that answers: a positive decimal number if a [`crate::repository::Repository`] loaded it.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The backend that runs it.
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// The inputs, in the graph's order.
    pub fn inputs(&self) -> &[Port] {
        self.0.session.inputs()
    }

    /// The outputs, in the graph's order.
    pub fn outputs(&self) -> &[Port] {
        self.0.session.outputs()
    }

    /// The number of instances, and so of concurrent runs.
    pub fn instances(&self) -> usize {
        self.0.instance_count
    }

    /// The property that the time of a run depends on.
    pub fn cost(&self) -> Cost {
        self.0.session.cost()
    }

    /// Bytes that the loaded graph holds, if its runtime tells.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.0.session.memory_bytes()
    }

    /// The reason that no call would be answered now, because the model's process ended and will not be back soon.
    pub fn refuses(&self) -> Option<String> {
        self.0.session.refuses()
    }

    /// The process that runs the model, if it is not this one.
    pub fn process(&self) -> Option<ProcessStats> {
        self.0.session.process()
    }

    /// The result of the comparison with another backend; `None` if nothing was compared.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.0.agreement.get()
    }

    /// The comparison with another backend in one word: `pending`, `agrees`, `differs`, or `unknown` if it could not be
    /// made. `None` if nothing is compared.
    pub fn agreement_state(&self) -> Option<&'static str> {
        match self.agreement() {
            Some(Agreement::Agrees { .. }) => Some("agrees"),
            Some(Agreement::Differs { .. }) => Some("differs"),
            Some(Agreement::Unknown(_)) => Some("unknown"),
            None => (self.0.awaits_agreement.load(Ordering::SeqCst)).then_some("pending"),
        }
    }

    /// Notes that a comparison is to follow.
    pub(crate) fn await_agreement(&self) {
        self.0.awaits_agreement.store(true, Ordering::SeqCst);
    }

    /// Notes the result of the comparison. The first note stays.
    pub(crate) fn note_agreement(&self, agreement: Agreement) {
        let _ = self.0.agreement.set(agreement);
    }

    /// Returns the sharing of runs between calls, as the trials decided it.
    pub fn shared_runs(&self) -> SharedRuns {
        self.0.lock().shared_runs.clone()
    }

    /// The present time of a run, from recent runs; zero before the first.
    pub fn service_time(&self) -> Duration {
        Duration::from_nanos(self.0.lock().scheduler.run_time.mean())
    }

    /// The statistics since the load.
    pub fn stats(&self) -> Stats {
        let process = self.0.session.process();
        let state = self.0.lock();
        let scheduler = &state.scheduler;
        Stats {
            running: scheduler.running().saturating_sub(state.shadow_runs.len()),
            waiting: scheduler.waiting(),
            queue_delay: Duration::from_nanos(
                scheduler.batch_tuner.queue_delay(&scheduler.run_time),
            ),
            most_items: scheduler.batch_tuner.most_items(),
            overdue: (state.active_runs.iter())
                .filter(|active| matches!(active.overdue, Overdue::Stuck | Overdue::Lost { .. }))
                .count(),
            shadow: ShadowStats {
                in_flight: state.shadows.len() + state.shadow_runs.len(),
                ..state.stats.shadow
            },
            process,
            ..state.stats.clone()
        }
    }

    /// Takes no more calls. Waiting and running calls are finished; shadow runs are dropped.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.scheduler.close();
        state.shed_shadows();
        self.0.watch_interrupted(state);
    }

    /// Ends runs of [`Model::warm_up`] and [`Model::try_batching`] on another thread, and keeps them from beginning
    /// more. A run on a backend that cannot be interrupted continues; a run in a separate process is ended with the
    /// process when this is called again.
    pub fn give_up_loading(&self) {
        let mut state = self.0.lock();
        let again = std::mem::replace(&mut state.given_up, true);
        for active in &state.active_runs {
            if let Some(interrupt) = &active.interrupt {
                interrupt.interrupt();
                if again {
                    interrupt.kill();
                }
            }
        }
    }

    /// Returns the dependence of rows on each other, by the graph's operators and by the trials.
    pub fn rows(&self) -> Rows {
        self.0.lock().rows.clone()
    }

    /// Runs the model on named tensors and returns its outputs, named, in the graph's order.
    ///
    /// # Errors
    ///
    /// - `InvalidArgument` when a name, type, shape or length does not fit the model.
    /// - An [`EngineRefusal::QueueFull`] when the queue is full.
    /// - The backend's error, without paths; `RuntimeError` when it panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue, or abandons the run.
    pub async fn infer(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        self.infer_with(inputs, CallOptions::default()).await
    }

    /// Does the same as [`Model::infer`], and gives up at `deadline` with an [`EngineRefusal::Deadline`].
    pub async fn infer_by(
        &self,
        inputs: Vec<(String, NnTensor)>,
        deadline: Option<Instant>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let options = CallOptions {
            deadline,
            ..CallOptions::default()
        };
        self.infer_with(inputs, options).await
    }

    /// Does the same as [`Model::infer`], with options.
    ///
    /// # Errors
    ///
    /// Also an [`EngineRefusal::Shed`] at once if the queue is too long for the deadline, and an
    /// [`EngineRefusal::Deadline`] when it passes. Refusals say when to retry.
    pub async fn infer_with(
        &self,
        inputs: Vec<(String, NnTensor)>,
        options: CallOptions,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inner = &self.0;
        let inputs = call::bind(&inner.name, self.inputs(), &inner.rules, inputs)
            .and_then(|inputs| {
                inner.index_bounds.check(self.inputs(), &inputs)?;
                Ok(inputs)
            })
            .inspect_err(|_| inner.lock().stats.refusals.invalid += 1)?;
        if options.is_combined
            && let Rows::Dependent(reason) = inner.lock().rows.clone()
        {
            return Err(NnError::refused(EngineRefusal::RowsDepend, reason));
        }
        // A task that only ever makes short calls would otherwise never give way to the others.
        tokio::task::consume_budget().await;
        let options = CallOptions {
            deadline: options
                .deadline
                .or_else(|| Some(Instant::now() + LONGEST_CALL)),
            ..options
        };
        let ask = inner.ask(&inputs, &options);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            inputs,
            reply,
            begun: options.begun,
        };
        let id = inner.submit(ask, job)?;
        let waiter = Waiter {
            inner,
            id,
            answer,
            open: true,
        };
        call::label(self.outputs(), waiter.answered(options.deadline).await?)
    }
}

/// The scheduler's limits for a model loaded with these options.
fn limits(options: &LoadOptions, instances: usize, shared_runs: bool) -> Limits {
    let batching = match &options.batching {
        Ok(batching) if shared_runs => batching.clone(),
        _ => DynamicBatching {
            max_items: 1,
            ..DynamicBatching::default()
        },
    };
    Limits {
        instances,
        queue_max: options.queue_max,
        levels: options.priority_levels.max(1),
        max_items: batching.max_items.max(1),
        max_bytes: batching.max_bytes,
        max_tokens: batching.padding.map(|padding| padding.max_tokens),
        preferred: batching.preferred,
        max_queue_delay: nanos(batching.max_queue_delay),
        target: batching.target.map(nanos),
    }
}

/// The caller's side of a call. If it is dropped before the answer, the call is taken back.
struct Waiter<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) id: CallId,
    pub(crate) answer: oneshot::Receiver<CallResult>,
    pub(crate) open: bool,
}

impl Waiter<'_> {
    async fn answered(mut self, deadline: Option<Instant>) -> CallResult {
        // A run that happened on this task has answered already.
        let outcome = match self.answer.try_recv() {
            Ok(answer) => Ok(answer),
            Err(oneshot::error::TryRecvError::Closed) => Err(()),
            Err(oneshot::error::TryRecvError::Empty) => match deadline {
                None => (&mut self.answer).await.map_err(drop),
                Some(deadline) => match tokio::time::timeout_at(deadline, &mut self.answer).await {
                    Ok(answer) => answer.map_err(drop),
                    Err(_) => {
                        let waited = matches!(self.give_up(), LeaveOutcome::Queue(_));
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
        // The remaining cause is a runtime that shuts down.
        outcome.unwrap_or_else(|()| {
            Err(NnError::refused(
                EngineRefusal::NotReady,
                "the server is shutting down and did not run the model",
            ))
        })
    }

    fn give_up(&mut self) -> LeaveOutcome<Job> {
        self.open = false;
        // Before the run is ended, so that it is not tried again for a caller that is gone.
        self.answer.close();
        let mut state = self.inner.lock();
        let left = state.scheduler.leave(self.id);
        let waiting = state.scheduler.waiting();
        state.waits.set(waiting);
        if let LeaveOutcome::Abandoned(run) = left {
            // Under the lock: the instance must not begin another run before it is told.
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
            if let LeaveOutcome::Queue(_) = left {
                self.inner.lock().stats.refusals.cancelled += 1;
            }
        }
    }
}
