//! Shadow runs of a model: when they begin, and when they give way to calls.

use super::job::{Job, ShadowRun, Start};
use crate::call;
use crate::error::NnError;
use crate::job::total_bytes;
use crate::model::Model;
use crate::model_state::{Inner, State, waiting};
use crate::overdue::LONGEST_SHADOW;
use crate::schedule::{Ask, Class, Nanos, RunId};
use crate::shadow::{self, compare};
use crate::tensor::NnTensor;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

impl Model {
    /// Counts a shadow run that was dropped before it came here.
    pub(crate) fn shed_shadow(&self) {
        self.0.lock().stats.shadow.shed += 1;
    }

    /// Makes a shadow run, and counts whether its outputs agree with those that were answered to the same inputs.
    /// Returns at once; `held` is dropped when the run is over. The run is dropped and counted as shed if a call waits
    /// for this model or one of the same repository, or if there are too many shadow runs.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, and counted as a failure, if the inputs do not fit the model.
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
            // It runs alone. A call that shared its run would wait for its items too.
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
            // The failure was counted when it happened.
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

impl State {
    pub(crate) fn is_shadow(&self, run: RunId) -> bool {
        self.shadow_runs.iter().any(|shadow| shadow.run == run)
    }

    /// Takes instances that would be idle for shadow runs.
    pub(crate) fn start_shadows(&mut self, inner: &Inner, now: Nanos) -> Vec<Start> {
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
    pub(crate) fn drop_shadows(&mut self) {
        self.stats.shadow.shed += self.shadows.len() as u64;
        self.shadows.clear();
    }

    /// Makes way for a call: drops the shadow runs that have not begun, and ends those that can be ended.
    pub(crate) fn shed_shadows(&mut self) {
        self.drop_shadows();
        self.end_shadows(|_| true);
    }

    /// Tells shadow runs to end. Under the lock, as when a caller gives up.
    pub(crate) fn end_shadows(&mut self, which: impl Fn(&ShadowRun) -> bool) {
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

impl Inner {
    /// Ends shadow runs that take too long.
    pub(crate) fn end_long_shadows(self: &Arc<Self>) {
        let mut state = self.lock();
        state.end_shadows(|shadow| shadow.began.elapsed() >= LONGEST_SHADOW);
        self.watch_interrupted(state);
    }
}
