//! Compares a version with another backend: before it serves, or in the background while it serves.
//!
//! Decisions:
//!
//! - **The background never uses an instance that serves.** The serving backend answers the made-up calls before the
//!   version is ready, which takes at most [`SERVED_LIMIT`] and one run. Only the load of the other backend is slow.
//! - **The other backend has a process of its own**, at the lowest priority and with a limit on its memory. So its
//!   crash or its hang costs only the comparison.
//! - **One comparison at a time**, each bounded by [`COMPARISON_LIMIT`].
//! - **A result for a version that was replaced or unloaded meanwhile is dropped.**

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_tensor::contract::{Contract, Provider};

use super::cell::Loaded;
use super::comparisons::{Answered, Comparison, Comparisons, Pushed};
use super::event::EventKind;
use super::perform::{Core, Start};
use super::progress::Progress;
use crate::agreement::{self, Agreement, Compared};
use crate::backend::{Backend, GraphSource, LoadOptions, panic_text};
use crate::error::NnError;
use crate::model::{Model, Named};
use crate::overdue::BusyThread;
use crate::worker::restart::Restarts;
use crate::worker::{ChildOptions, Isolated};

/// Time in which the made-up calls of a background comparison begin on the backend that serves. The version is not
/// ready meanwhile. All six calls of a small model take a few milliseconds, and a large model is compared in fewer.
const SERVED_LIMIT: Duration = Duration::from_millis(250);

/// The longest a background comparison takes, the loads of other backends included. The slowest of the demo models takes
/// some seconds on an idle machine. At the lowest priority it takes several times that on a busy one.
const COMPARISON_LIMIT: Duration = Duration::from_secs(60);

/// Time after which a run that was told to end is ended with its process.
const END_AGAIN: Duration = Duration::from_secs(1);

/// Most bytes of tensors of one comparison. Further calls are left out.
const MAX_ANSWERED_BYTES: usize = 64 << 20;

/// Memory of the other backend's process beside four times its estimated graph: its library, and the values of a run.
const PROCESS_SLACK_BYTES: u64 = 2 << 30;

/// The result without another backend.
const ONE_BACKEND: &str = "this server has one backend for it";

impl Core {
    fn comparisons(&self) -> MutexGuard<'_, Comparisons> {
        let comparisons = self.comparisons.lock();
        comparisons.unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs made-up calls on the model and on the first other backend that loads its graph. A failure of the other
    /// proves nothing about the model. For use before the model serves.
    pub(super) fn compare(
        &self,
        model: &Model,
        contract: &Contract,
        source: &GraphSource,
        options: &LoadOptions,
        progress: &Progress,
    ) -> Agreement {
        let alone = alone(options);
        let backends = self.backends.others(model.backend(), contract.format);
        let load = |backend: &Arc<dyn Backend>| {
            let (name, version) = (model.name(), model.version());
            let other = Model::load(name, version, &**backend, source, &alone)?;
            progress.compiled(&other);
            Ok(other)
        };
        match answers(model, contract, &backends, None) {
            Ok(answered) => {
                let tolerance = self.settings.compare_tolerance;
                against(&answered, tolerance, &backends, load)
            }
            Err(settled) => settled,
        }
    }

    /// Prepares the comparison of a version that is about to serve: runs the made-up calls on it. The rest follows in the
    /// background ([`Core::compare_later`]).
    pub(super) fn comparison(
        &self,
        start: &Start,
        model: &Model,
        contract: &Contract,
        source: GraphSource,
        options: &LoadOptions,
    ) -> Comparison {
        let stamps = (start.job.contract, start.job.graph);
        let backends = self.backends.others(model.backend(), contract.format);
        let known = (self.comparisons()).known(&start.name, start.version, stamps);
        let answered = match known {
            Some(known) => Err(known),
            None => answers(model, contract, &backends, Some(SERVED_LIMIT)),
        };
        let (answered, settled) = match answered {
            Ok(answered) => (answered, None),
            Err(settled) => (Vec::new(), Some(settled)),
        };
        model.await_agreement();
        let estimate = start.job.file_bytes();
        let limit = contract.engine.process_memory_bytes;
        let limit = limit.or(self.settings.process_memory_bytes);
        Comparison {
            name: start.name.clone(),
            version: start.version,
            stamps,
            backends,
            source,
            options: LoadOptions {
                // A second thread would take processor time from calls, whatever its priority.
                intra_op_threads: 1,
                ..alone(options)
            },
            estimate,
            process_bytes: limit.unwrap_or_else(|| {
                estimate
                    .saturating_mul(4)
                    .saturating_add(PROCESS_SLACK_BYTES)
            }),
            answered,
            settled,
        }
    }

    /// Queues a comparison of a version that serves by now. Must be called within a runtime.
    pub(super) fn compare_later(
        self: &Arc<Self>,
        mut comparison: Comparison,
        loaded: Weak<Loaded>,
    ) {
        if let Some(settled) = comparison.settled.take() {
            note(&comparison.name, comparison.version, &loaded, settled);
            return;
        }
        let (name, version) = (comparison.name.clone(), comparison.version);
        let pushed = self.comparisons().push(comparison, loaded.clone());
        match pushed {
            Pushed::Waits => {}
            Pushed::Refused => {
                let refused = Agreement::Unknown("too many comparisons wait".into());
                note(&name, version, &loaded, refused);
            }
            Pushed::First => self.compare_in_the_background(),
        }
    }

    /// Starts the thread that takes one comparison after the other, until none waits.
    fn compare_in_the_background(self: &Arc<Self>) {
        let (core, server) = (Arc::downgrade(self), tokio::runtime::Handle::current());
        let thread = std::thread::Builder::new().name("penstock-compare".into());
        let spawned = thread.spawn(move || {
            let _server = server.enter();
            let _working = BusyThread::begin();
            while let Some(core) = core.upgrade() {
                let next = core.comparisons().take_next();
                let Some((comparison, loaded)) = next else {
                    return;
                };
                core.compare_now(&comparison, &loaded);
            }
        });
        if let Err(error) = spawned {
            let why = format!("no thread can be made for it ({error})");
            loop {
                let next = self.comparisons().take_next();
                let Some((comparison, loaded)) = next else {
                    return;
                };
                let unknown = Agreement::Unknown(why.clone());
                note(&comparison.name, comparison.version, &loaded, unknown);
            }
        }
    }

    /// Makes a comparison, unless its version has gone. Blocks.
    fn compare_now(&self, comparison: &Comparison, loaded: &Weak<Loaded>) {
        if !serves(loaded) {
            return;
        }
        let judged = catch_unwind(AssertUnwindSafe(|| self.judged(comparison)));
        let agreement = judged.unwrap_or_else(|panic| {
            Agreement::Unknown(format!("comparing panicked: {}", panic_text(&*panic)))
        });
        if !serves(loaded) {
            return;
        }
        // A later load compares again if this was no result: memory or time may suffice then.
        if !matches!(agreement, Agreement::Unknown(_)) {
            self.comparisons().keep(comparison, agreement.clone());
        }
        let (name, version) = (&comparison.name, comparison.version);
        if let Agreement::Differs { .. } = agreement {
            let text = agreement.to_string();
            self.lock().say(name, version, EventKind::Differs, text);
        }
        note(name, version, loaded, agreement);
    }

    fn judged(&self, comparison: &Comparison) -> Agreement {
        let Some(launcher) = &self.settings.launcher else {
            return Agreement::Unknown("this program cannot start processes".into());
        };
        if let Some(budget) = self.settings.memory_budget_bytes {
            let held = self.lock().book.held_bytes();
            if held.saturating_add(comparison.estimate) > budget {
                let why = "models.memory_budget_bytes leaves no room for a second load";
                return Agreement::Unknown(why.into());
            }
        }
        let until = Instant::now() + COMPARISON_LIMIT;
        let load = |backend: &Arc<dyn Backend>| {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NnError::runtime(format!(
                    "it takes longer than {} s",
                    COMPARISON_LIMIT.as_secs()
                )));
            }
            let version = comparison.version.to_string();
            let isolated = Isolated::new(
                backend.clone(),
                launcher.clone(),
                ChildOptions {
                    model: format!("{} (comparison)", comparison.name),
                    version: version.clone(),
                    load_timeout: left.min(self.settings.load_timeout),
                    process_bytes: Some(comparison.process_bytes),
                    restarts: Restarts::default(),
                    in_background: true,
                },
            );
            let other = Model::load(
                &comparison.name,
                &version,
                &isolated,
                &comparison.source,
                &comparison.options,
            )?;
            end_at(&other, until);
            Ok(other)
        };
        let tolerance = self.settings.compare_tolerance;
        against(&comparison.answered, tolerance, &comparison.backends, load)
    }
}

/// Whether a version is still the one that serves.
fn serves(loaded: &Weak<Loaded>) -> bool {
    let loaded = loaded.upgrade();
    loaded.is_some_and(|loaded| !loaded.retired.load(Ordering::SeqCst))
}

/// Notes a result, if its version is still there.
fn note(name: &str, version: u64, loaded: &Weak<Loaded>, agreement: Agreement) {
    tracing::debug!("model {name} version {version}: {agreement}");
    if let Some(loaded) = loaded.upgrade() {
        loaded.model.note_agreement(agreement);
    }
}

/// Ends the runs of a model at a time, if it is still there.
fn end_at(model: &Model, until: Instant) {
    let inner = Arc::downgrade(&model.0);
    tokio::runtime::Handle::current().spawn(async move {
        tokio::time::sleep_until(until.into()).await;
        // The second time, a run that does not end is ended with its process.
        for _ in 0..2 {
            let Some(inner) = inner.upgrade() else {
                return;
            };
            Model(inner).give_up_loading();
            tokio::time::sleep(END_AGAIN).await;
        }
    });
}

/// The options of the other backend.
fn alone(options: &LoadOptions) -> LoadOptions {
    LoadOptions {
        instances: Some(1),
        provider: Provider::Cpu,
        device: None,
        batching: Err("it is compared with".into()),
        ..options.clone()
    }
}

/// The answers of a model that does not serve yet to made-up calls, or the result that needs none. A call that it refuses is
/// left out, because it proves nothing. With `at_most`, the answers wait for the background: no call begins after that time,
/// nor beyond [`MAX_ANSWERED_BYTES`].
fn answers(
    model: &Model,
    contract: &Contract,
    backends: &[Arc<dyn Backend>],
    at_most: Option<Duration>,
) -> Result<Vec<Answered>, Agreement> {
    if backends.is_empty() {
        return Err(Agreement::Unknown(ONE_BACKEND.into()));
    }
    let began = Instant::now();
    let mut bytes = 0;
    let mut answered = Vec::new();
    for call in agreement::calls(contract) {
        let is_full = |at_most| began.elapsed() >= at_most || bytes >= MAX_ANSWERED_BYTES;
        if at_most.is_some_and(is_full) {
            break;
        }
        let Ok(outputs) = model.try_run(call.inputs.clone()) else {
            continue;
        };
        let one = Answered {
            how: call.how,
            inputs: call.inputs,
            outputs: copied(outputs),
        };
        bytes += one.bytes();
        answered.push(one);
    }
    match answered.is_empty() {
        true => Err(Agreement::Unknown(
            "the model answers no made-up call".into(),
        )),
        false => Ok(answered),
    }
}

/// The same tensors in memory of their own. A process lends its answers, and has few places for them.
fn copied(mut tensors: Named) -> Named {
    for (_, tensor) in &mut tensors {
        tensor.data = Bytes::copy_from_slice(&tensor.data);
    }
    tensors
}

/// Runs the calls on the first of the backends that loads the graph and answers some.
fn against(
    answered: &[Answered],
    tolerance: f64,
    backends: &[Arc<dyn Backend>],
    mut load: impl FnMut(&Arc<dyn Backend>) -> Result<Model, NnError>,
) -> Agreement {
    let mut why = ONE_BACKEND.to_owned();
    for backend in backends {
        let other = match catch_unwind(AssertUnwindSafe(|| load(backend))) {
            Ok(Ok(other)) => other,
            Ok(Err(error)) => {
                why = error.message;
                continue;
            }
            Err(panic) => {
                why = format!("{} panicked: {}", backend.name(), panic_text(&*panic));
                continue;
            }
        };
        let (with, mut calls, mut largest) = (backend.name(), 0, 0f64);
        for call in answered {
            let there = match other.try_run(call.inputs.clone()) {
                Ok(there) => there,
                Err(error) => {
                    why = format!("{with} answers no made-up call: {}", error.message);
                    continue;
                }
            };
            match agreement::compare(&call.outputs, &there, tolerance) {
                Compared::Same(apart) => {
                    calls += 1;
                    largest = largest.max(apart);
                }
                Compared::Other(what) => {
                    let what = format!("{what}, for {}", call.how);
                    return Agreement::Differs { with, what };
                }
            }
        }
        if calls > 0 {
            return Agreement::Agrees {
                with,
                calls,
                largest,
            };
        }
    }
    Agreement::Unknown(why)
}
