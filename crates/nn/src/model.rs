//! A loaded model and who may run it when: checks what a call sends, lets it wait its turn, runs it where it
//! is cheapest, and counts.
//!
//! Decisions:
//!
//! - **Lanes.** A model runs at most as many calls at once as it has lanes. A call that finds none free waits
//!   in arrival order; the number that may wait is bounded and the next call is refused at once, because an
//!   unbounded line only turns overload into late answers nobody waits for any more.
//! - **Short runs stay on the task.** Handing a call to another thread and back costs more than a small
//!   model's run. While the model's recent runs predict at most [`INLINE_BUDGET`] for a call of this size, it
//!   runs on the task that asked; else on the blocking pool, so that it never holds up the server's own
//!   threads.
//! - **Cancelling is safe at every point.** A caller that goes while it waits leaves the line. One that goes
//!   while its call runs leaves the run to finish (no backend can be interrupted soundly), and the lane comes
//!   back when it has.
//! - **A panic in a backend costs the call it happened in.** The lane is thrown away and made anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

use crate::backend::{Backend, Dim, GraphSource, Lane, LoadOptions, Port, Session, panic_text};
use crate::call;
use crate::error::{NnError, Refusal, quoted};
use crate::tensor::NnTensor;

/// The longest a call is expected to take and still runs on the task that asked. A hop to the blocking pool
/// and back costs 10 to 20 µs between busy threads, and 100 µs and more where the other thread sleeps on a
/// virtual machine; holding a server thread this long delays the other requests on it by no more than parsing
/// one large body does.
pub const INLINE_BUDGET: Duration = Duration::from_millis(1);

/// A new service time counts for one part in so many of the average.
const AVERAGE_OVER: u64 = 8;

/// A model ready to run. Clones share one model.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    name: String,
    version: String,
    backend: &'static str,
    session: Arc<dyn Session>,
    /// Whether every input begins with a symbolic dimension, so that it counts the items of a call.
    batched: bool,
    lane_count: usize,
    /// Free lanes; as many as `gate` has permits. `None` is a lane to be made anew before its next use.
    lanes: Mutex<Vec<Option<Box<dyn Lane>>>>,
    gate: Arc<Semaphore>,
    queue_max: usize,
    waiting: AtomicUsize,
    pace: Pace,
    counters: Counters,
}

/// What a call asks beside its tensors.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// When its answer is no longer of use.
    pub deadline: Option<Instant>,
    /// Its priority, 1 the first to run; the model's own default where none is given.
    pub priority: Option<u8>,
    /// Set when the call leaves the line and begins to run: from then on dropping it saves nothing unless every
    /// other call of its run goes as well.
    pub begun: Option<Arc<AtomicBool>>,
}

/// Counts since the model was loaded. `inference_count` and `execution_count` mean what the Open Inference
/// Protocol's statistics mean by them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items inferred: a call's first dimension where every input begins with a symbolic one, else 1 a call.
    pub inference_count: u64,
    /// Runs of the graph that succeeded.
    pub execution_count: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Calls turned away because of what they sent.
    pub invalid: u64,
    /// Calls turned away because the line was full or their deadline passed.
    pub refused: u64,
    /// Total time calls waited for a lane or a thread, in nanoseconds.
    pub queue_ns: u64,
    /// Total time in the backend, in nanoseconds, failed runs included.
    pub compute_ns: u64,
    /// Calls running now.
    pub in_flight: usize,
    /// Calls waiting for a lane now.
    pub waiting: usize,
}

#[derive(Default)]
struct Counters {
    inferences: AtomicU64,
    executions: AtomicU64,
    failures: AtomicU64,
    invalid: AtomicU64,
    refused: AtomicU64,
    queue_ns: AtomicU64,
    compute_ns: AtomicU64,
    in_flight: AtomicUsize,
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
        let session = backend.load(graph, options)?;
        call::carried(&*session)?;
        let lane_count = options.lane_count();
        let lanes = (0..lane_count)
            .map(|_| session.lane().map(Some))
            .collect::<Result<Vec<_>, _>>()?;
        let starts_symbolic = |port: &Port| {
            port.dims
                .as_ref()
                .and_then(|dims| dims.first())
                .is_some_and(|dim| matches!(dim, Dim::Symbolic(_)))
        };
        Ok(Self(Arc::new(Inner {
            name: name.into(),
            version: version.into(),
            backend: backend.name(),
            batched: !session.inputs().is_empty() && session.inputs().iter().all(starts_symbolic),
            session,
            lane_count,
            lanes: Mutex::new(lanes),
            gate: Arc::new(Semaphore::new(lane_count)),
            queue_max: options.queue_max,
            waiting: AtomicUsize::new(0),
            pace: Pace::default(),
            counters: Counters::default(),
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

    /// Calls that may run at once.
    pub fn lanes(&self) -> usize {
        self.0.lane_count
    }

    /// Bytes the loaded graph holds, where its runtime tells.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.0.session.memory_bytes()
    }

    /// What a run takes at present, from recent runs; zero before the first. With [`Stats::waiting`] and
    /// [`Model::lanes`] it says when a refused caller may come back.
    pub fn service_time(&self) -> Duration {
        Duration::from_nanos(self.0.pace.time_ns.load(Ordering::Relaxed))
    }

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            inference_count: read(&counters.inferences),
            execution_count: read(&counters.executions),
            failures: read(&counters.failures),
            invalid: read(&counters.invalid),
            refused: read(&counters.refused),
            queue_ns: read(&counters.queue_ns),
            compute_ns: read(&counters.compute_ns),
            in_flight: counters.in_flight.load(Ordering::Relaxed),
            waiting: self.0.waiting.load(Ordering::Relaxed),
        }
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
        let bytes = total_bytes(&inputs);
        let mut best = u64::MAX;
        for _ in 0..self.0.lane_count {
            let Ok(permit) = self.0.gate.clone().try_acquire_owned() else {
                break;
            };
            let started = Instant::now();
            let outcome = self.0.on_lane(&permit, &inputs);
            best = best.min(nanos(started.elapsed()));
            // The slot just used is on top again; put it at the bottom so that the next round takes another.
            self.0.lock_lanes().rotate_right(1);
            call::label(self.outputs(), outcome?)?;
        }
        if best != u64::MAX {
            self.0.pace.start(best, bytes);
        }
        Ok(())
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
    /// Dropping the future leaves the line, or abandons a run that goes on to its end with its lane.
    pub async fn infer(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        self.infer_by(inputs, None).await
    }

    /// As [`Model::infer`], on terms.
    pub async fn infer_with(
        &self,
        inputs: Vec<(String, NnTensor)>,
        terms: Terms,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        self.infer_by(inputs, terms.deadline).await
    }

    /// As [`Model::infer`], and gives up at `deadline` with a [`Refusal::Deadline`]. A run that the deadline
    /// finds on another thread goes on to its end with its lane.
    pub async fn infer_by(
        &self,
        inputs: Vec<(String, NnTensor)>,
        deadline: Option<Instant>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let arrived = Instant::now();
        let inputs = call::bind(&self.0.name, self.inputs(), inputs)
            .inspect_err(|_| add(&self.0.counters.invalid, 1))?;
        // A task that only ever makes short calls would otherwise never give way to the others.
        tokio::task::consume_budget().await;
        let permit = match deadline {
            None => self.admit().await,
            Some(deadline) if deadline <= arrived => Err(self.late("before the call began")),
            Some(deadline) => tokio::time::timeout_at(deadline, self.admit())
                .await
                .unwrap_or_else(|_| Err(self.late("while the call waited for the model"))),
        }
        .inspect_err(|error| add(&self.0.counters.refused, u64::from(error.refusal.is_some())))?;
        let call = Call {
            inner: self.0.clone(),
            _permit: permit,
            inputs,
            arrived,
        };
        let outputs = if self.0.pace.predict(total_bytes(&call.inputs)) <= nanos(INLINE_BUDGET) {
            call.run()
        } else {
            let run = tokio::task::spawn_blocking(move || call.run());
            let joined = match deadline {
                None => run.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, run).await {
                    Ok(joined) => joined,
                    Err(_) => {
                        add(&self.0.counters.refused, 1);
                        return Err(self.late("while the model ran"));
                    }
                },
            };
            // `Call::run` catches panics, so what is left is a runtime that shuts down.
            joined.unwrap_or_else(|_| {
                Err(NnError::refused(
                    Refusal::NotReady,
                    "the server is shutting down and did not run the model",
                ))
            })
        }?;
        call::label(self.outputs(), outputs)
    }

    fn late(&self, when: &str) -> NnError {
        NnError::refused(
            Refusal::Deadline,
            format!(
                "the deadline passed {when} (model {} takes about {:.1} ms a call and {} wait); allow more time",
                quoted(&self.0.name),
                self.service_time().as_secs_f64() * 1e3,
                self.0.waiting.load(Ordering::Relaxed)
            ),
        )
    }

    /// Waits for a lane.
    async fn admit(&self) -> Result<OwnedSemaphorePermit, NnError> {
        let closed = || NnError::refused(Refusal::NotReady, "the model is being unloaded");
        match self.0.gate.clone().try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::NoPermits) => {}
            Err(TryAcquireError::Closed) => return Err(closed()),
        }
        let Some(_place) = Place::take(&self.0) else {
            return Err(NnError::refused(
                Refusal::QueueFull,
                format!(
                    "{} calls already wait for model {}, which is as many as may; try again later",
                    self.0.queue_max,
                    quoted(&self.0.name)
                ),
            ));
        };
        self.0
            .gate
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| closed())
    }
}

fn total_bytes(inputs: &[NnTensor]) -> u64 {
    inputs.iter().map(|tensor| tensor.data.len() as u64).sum()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// A place in the line, given up when dropped.
struct Place<'a>(&'a Inner);

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Option<Self> {
        (inner.waiting)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < inner.queue_max).then_some(waiting + 1)
            })
            .ok()
            .map(|_| Self(inner))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An admitted call; owns its lane until it has run, wherever it runs.
struct Call {
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
    inputs: Vec<NnTensor>,
    arrived: Instant,
}

impl Call {
    fn run(self) -> Result<Vec<NnTensor>, NnError> {
        let inner = &*self.inner;
        let counters = &inner.counters;
        let started = Instant::now();
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let outcome = inner.on_lane(&self._permit, &self.inputs);
        let took = nanos(started.elapsed());
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        add(&counters.queue_ns, nanos(started - self.arrived));
        add(&counters.compute_ns, took);
        if outcome.is_ok() {
            inner.pace.observe(took, total_bytes(&self.inputs));
            add(&counters.executions, 1);
            let items = self
                .inputs
                .first()
                .filter(|_| inner.batched)
                .and_then(|tensor| tensor.dims.first());
            add(&counters.inferences, u64::from(items.copied().unwrap_or(1)));
        } else {
            add(&counters.failures, 1);
        }
        outcome
    }
}

impl Inner {
    fn lock_lanes(&self) -> MutexGuard<'_, Vec<Option<Box<dyn Lane>>>> {
        self.lanes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs on a free lane. The permit is proof that there is one.
    fn on_lane(
        &self,
        _permit: &OwnedSemaphorePermit,
        inputs: &[NnTensor],
    ) -> Result<Vec<NnTensor>, NnError> {
        let slot = self.lock_lanes().pop().flatten();
        // Everything that may panic is inside, so that the slot goes back whatever happens.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut lane = match slot {
                Some(lane) => lane,
                None => self.session.lane()?,
            };
            let outcome = lane.run(inputs);
            Ok((lane, outcome))
        }));
        let (slot, outcome) = match ran {
            Ok(Ok((lane, outcome))) => (Some(lane), outcome),
            Ok(Err(error)) => (None, Err(error)),
            Err(panic) => {
                let text = panic_text(&*panic);
                (
                    None,
                    Err(NnError::runtime(format!(
                        "the backend panicked on this call: {text}"
                    ))),
                )
            }
        };
        self.lock_lanes().push(slot);
        outcome
    }
}

/// How long the model takes, as an average of recent runs. Reads and writes of its two numbers race; what is
/// lost by that is one sample.
#[derive(Default)]
struct Pace {
    time_ns: AtomicU64,
    bytes: AtomicU64,
}

impl Pace {
    fn start(&self, took_ns: u64, bytes: u64) {
        self.time_ns.store(took_ns.max(1), Ordering::Relaxed);
        self.bytes.store(bytes.max(1), Ordering::Relaxed);
    }

    fn observe(&self, took_ns: u64, bytes: u64) {
        let time = self.time_ns.load(Ordering::Relaxed);
        if time == 0 {
            return self.start(took_ns, bytes);
        }
        let blend = |old: u64, new: u64| ((old * (AVERAGE_OVER - 1) + new) / AVERAGE_OVER).max(1);
        // One run the scheduler interrupted must not push a quick model off its task; two in a row may.
        let bounded = took_ns.min(time.saturating_add(nanos(INLINE_BUDGET) * AVERAGE_OVER / 2));
        self.time_ns.store(blend(time, bounded), Ordering::Relaxed);
        self.bytes.store(
            blend(
                self.bytes.load(Ordering::Relaxed),
                bytes.min(u64::MAX / AVERAGE_OVER / 2),
            ),
            Ordering::Relaxed,
        );
    }

    /// What a call of so many bytes will take: in proportion where it is larger than recent ones, so that one
    /// large batch after many small calls does not run on a server thread. Endless before the first run.
    fn predict(&self, bytes: u64) -> u64 {
        let time = self.time_ns.load(Ordering::Relaxed);
        if time == 0 {
            return u64::MAX;
        }
        let usual = self.bytes.load(Ordering::Relaxed).max(1);
        let scaled = u128::from(time) * u128::from(bytes.max(usual)) / u128::from(usual);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interrupted_run_does_not_move_a_quick_model_off_its_task_but_two_do() {
        let pace = Pace::default();
        assert_eq!(pace.predict(100), u64::MAX);
        pace.start(20_000, 100);
        let budget = nanos(INLINE_BUDGET);
        assert!(pace.predict(100) <= budget);
        pace.observe(50_000_000, 100);
        assert!(pace.predict(100) <= budget, "{}", pace.predict(100));
        pace.observe(50_000_000, 100);
        assert!(pace.predict(100) > budget, "{}", pace.predict(100));
        for _ in 0..40 {
            pace.observe(20_000, 100);
        }
        assert!(pace.predict(100) <= budget);
    }

    #[test]
    fn a_call_much_larger_than_the_usual_is_not_expected_to_be_quick() {
        let pace = Pace::default();
        pace.start(20_000, 100);
        assert!(pace.predict(100 * 100) > nanos(INLINE_BUDGET));
        assert_eq!(pace.predict(1), pace.predict(100));
        assert_eq!(pace.predict(u64::MAX), u64::MAX);
    }
}
