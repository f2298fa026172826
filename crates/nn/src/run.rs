//! Runs calls of a model on its instances, as scheduled.

use super::job::{Batch, Job, Slot, Start};
use super::outcome::Outcome;
use crate::backend::panic_text;
use crate::error::{EngineRefusal, NnError, quoted};
use crate::job::{nanos, total_bytes};
use crate::model_state::{ActiveRun, Inner, Overdue};
use crate::overdue;
use crate::schedule::isolate::Isolate;
use crate::schedule::run_time::INLINE_BUDGET;
use crate::schedule::{Finished, RunId, Waiting};
use crate::stats::BatchStats;
use crate::tensor::NnTensor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::time::Instant;

impl Inner {
    /// Hands a run to its instance's process, if it has one, and waits as long as a server thread may. False if the
    /// rest of the wait must happen elsewhere.
    pub(crate) fn begin(&self, start: &mut Start) -> bool {
        let began = Instant::now();
        let Start { slot, calls, .. } = start;
        let ready = match (&mut slot.instance, &calls[..]) {
            (Some(instance), [call]) => instance.begin(&call.payload.inputs, INLINE_BUDGET),
            (Some(_), _) if !self.session.is_elsewhere() => true,
            (Some(instance), calls) => {
                // A panic occurs again, and is handled, when the run puts the inputs together itself.
                let batch = catch_unwind(AssertUnwindSafe(|| self.batch(calls.iter())));
                slot.batch = batch.ok().flatten();
                match &slot.batch {
                    Some(batch) => instance.begin(&batch.inputs, INLINE_BUDGET),
                    None => false,
                }
            }
            // To make one may take long.
            (None, _) => false,
        };
        slot.ahead = nanos(began.elapsed());
        ready
    }

    /// Puts the inputs of several calls together. `None` if the model has no plan for that.
    pub(crate) fn batch<'a>(
        &self,
        calls: impl Iterator<Item = &'a Waiting<Job>> + Clone,
    ) -> Option<Batch> {
        let plan = self.plan.as_ref().ok()?;
        let began = Instant::now();
        let tensors: Vec<&[NnTensor]> = (calls.clone())
            .map(|call| &call.payload.inputs[..])
            .collect();
        let longest = calls.map(|call| call.ask.length).max().unwrap_or(1);
        Some(Batch {
            inputs: plan.concat(&tensors, longest),
            took: nanos(began.elapsed()),
        })
    }

    /// Runs the calls on another task or thread.
    pub(crate) fn launch(self: &Arc<Self>, start: Start) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends. Waiting calls learn it from the closed channel.
            return;
        };
        let inner = self.clone();
        if start.quick {
            runtime.spawn(async move { inner.launch_here(start) });
        } else {
            overdue::spawn(move || {
                // Work that follows from the run's end happens on the server's runtime.
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

    /// Makes a run, sends the answers, and returns the next run.
    pub(crate) fn perform(self: &Arc<Self>, start: Start) -> Vec<Start> {
        let mut start = start;
        let run = start.run;
        let mut slot = std::mem::replace(&mut start.slot, Slot::empty());
        let began = self.now().saturating_sub(slot.ahead);
        if slot.instance.is_none() {
            self.make_instance(&mut slot, run);
        }
        let mut outcome = self.execute(&mut slot, &start.calls);
        let mut state = self.lock();
        let now = self.now();
        let active = state
            .active_runs
            .iter()
            .position(|active| active.run == run);
        let active = active.map(|at| state.active_runs.swap_remove(at));
        state.quick.ran(start.shapes(), now - began, outcome.sound);
        let calls = start.calls;
        if let Some(ActiveRun {
            overdue: Overdue::Lost { .. },
            ..
        }) = &active
        {
            // It was counted when it was given up, and another instance has its place; its result is dropped.
            drop(state);
            tracing::info!(
                "model {} version {}: a run that was given up ended after {} ms",
                quoted(&self.name),
                self.version,
                (now - began) / 1_000_000
            );
            return Vec::new();
        }
        state.instances.push(slot);
        state.scheduler.finish(
            run,
            Finished {
                took: outcome.sound.then_some(now - began),
                bytes: outcome.bytes,
                items: outcome.items,
            },
        );
        if let Some(reason) = outcome.unshareable.take() {
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

    /// Makes a run's instance before the run, so that the run can be interrupted. If it cannot be made, the run itself
    /// fails with the reason.
    pub(crate) fn make_instance(&self, slot: &mut Slot, run: RunId) {
        let made = catch_unwind(AssertUnwindSafe(|| self.session.instance()));
        let Ok(Ok(instance)) = made else { return };
        *slot = Slot::of(instance);
        let mut state = self.lock();
        if let Some(active) = state
            .active_runs
            .iter_mut()
            .find(|active| active.run == run)
        {
            active.interrupt = slot.interrupt.clone();
            // Its callers left before there was anything to interrupt.
            if let (Some(interrupt), false) =
                (&slot.interrupt, matches!(active.overdue, Overdue::No))
            {
                interrupt.interrupt();
            }
        }
    }

    /// Runs calls together; if that fails, in parts.
    pub(crate) fn execute(&self, slot: &mut Slot, calls: &[Waiting<Job>]) -> Outcome {
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
            // An instance's own panics are caught where they happen. After any other panic, too, the instance must come
            // back.
            let attempt = AssertUnwindSafe(|| self.attempt(slot, &members, &mut outcome));
            let attempted = catch_unwind(attempt).unwrap_or_else(|panic| {
                Err(NnError::runtime(format!(
                    "putting the call into a batch panicked: {}",
                    panic_text(&*panic)
                )))
            });
            match attempted {
                Ok(answers) => {
                    for (at, answer) in live.into_iter().zip(answers) {
                        outcome.answers[at] = Ok(answer);
                    }
                }
                Err(error) if error.refusal == Some(EngineRefusal::Ended) => {
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
        if slot
            .instance
            .as_ref()
            .is_some_and(|instance| instance.waited())
        {
            outcome.sound = false;
        }
        outcome
    }

    /// One run of the graph, for one call or several.
    pub(crate) fn attempt(
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
                let outputs = self.on_instance(slot, &call.payload.inputs);
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
                let before = slot.batch.take();
                let Some(batch) = before.or_else(|| self.batch(calls.iter().copied())) else {
                    return Err(NnError::runtime("the model has no plan for batches"));
                };
                outcome.bytes = outcome.bytes.max(total_bytes(&batch.inputs));
                spent.compute_input_ns = batch.took;
                let outputs = self.on_instance(slot, &batch.inputs);
                let ran = ahead + nanos(started.elapsed());
                spent.compute_infer_ns = ran.saturating_sub(batch.took);
                outputs.and_then(|outputs| {
                    let split = plan.split(&outputs, &shares, longest);
                    spent.compute_output_ns =
                        (ahead + nanos(started.elapsed())).saturating_sub(ran);
                    if let Err(error) = &split {
                        outcome.unshareable = Some(error.message.clone());
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

    /// Runs on an instance; makes the instance first if there is none.
    pub(crate) fn on_instance(
        &self,
        slot: &mut Slot,
        inputs: &[NnTensor],
    ) -> Result<Vec<NnTensor>, NnError> {
        let instance = slot.instance.take();
        // Everything that may panic is inside, so that the slot goes back in every case.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut fresh = match instance {
                Some(instance) => Slot {
                    instance: Some(instance),
                    interrupt: None,
                    ahead: 0,
                    batch: None,
                },
                None => Slot::of(self.session.instance()?),
            };
            let outcome = match &mut fresh.instance {
                Some(instance) => instance.run(inputs),
                None => Err(NnError::runtime("the model has no instance")),
            };
            Ok((fresh, outcome))
        }));
        match ran {
            Ok(Ok((fresh, outcome))) => {
                slot.instance = fresh.instance;
                if fresh.interrupt.is_some() {
                    slot.interrupt = fresh.interrupt;
                }
                let outputs = outcome?;
                let expected = self.session.outputs().len();
                if outputs.len() != expected {
                    return Err(NnError::runtime(format!(
                        "the backend returned {} outputs and the graph has {expected}",
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

    /// Runs on an instance before the model serves, so that [`crate::model::Model::give_up_loading`] can end it.
    pub(crate) fn trial(
        &self,
        slot: &mut Slot,
        inputs: &[NnTensor],
    ) -> Result<Vec<NnTensor>, NnError> {
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
        state.active_runs.push(ActiveRun {
            run: TRIAL,
            began: Instant::now(),
            calls: 0,
            interrupt: slot.interrupt.clone(),
            overdue: Overdue::No,
        });
        drop(state);
        let ran = self.on_instance(slot, inputs);
        let mut state = self.lock();
        state.active_runs.retain(|active| active.run != TRIAL);
        match state.given_up {
            true => given_up(),
            false => ran,
        }
    }
}
