//! The runs of a model before it serves: whether it runs at all, and whether calls may share its runs.

use super::job::{Shapes, Slot};
use super::outcome::differences;
use crate::batch::Part;
use crate::call;
use crate::error::NnError;
use crate::job::{nanos, total_bytes};
use crate::model::{MAX_DIFFERENCE, Model, Named, SharedRuns};
use crate::schedule::{Class, Nanos};
use crate::tensor::NnTensor;
use tokio::time::Instant;

impl Model {
    /// Runs every instance once on `inputs`, so that the first caller does not pay for a backend's work at a first run,
    /// and so that the model's run time is known. Blocks; counts nothing. For use before the model serves: instances that
    /// run meanwhile are left out. Returns the last instance's outputs.
    ///
    /// # Errors
    ///
    /// The error of a call with these inputs.
    pub fn warm_up(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inputs = call::bind(&self.0.name, self.inputs(), &self.0.rules, inputs)?;
        let mut slots = std::mem::take(&mut self.0.lock().instances);
        let mut best = None;
        let ran = slots.iter_mut().try_fold(Vec::new(), |_, slot| {
            let started = Instant::now();
            let outputs = self.0.trial(slot, &inputs)?;
            let took = nanos(started.elapsed());
            best = Some(best.map_or(took, |best: Nanos| best.min(took)));
            call::label(self.outputs(), outputs)
        });
        let mut state = self.0.lock();
        state.instances.append(&mut slots);
        if let Some(best) = best {
            state.scheduler.run_time.start(best, total_bytes(&inputs));
            // The first run of an instance may take long for other reasons; the fastest of them represents the model.
            state
                .quick
                .ran(Shapes::One(inputs.iter()), best, ran.is_ok());
        }
        drop(state);
        ran
    }

    /// Runs one instance once on `inputs`. Blocks; counts nothing. For use before the model serves.
    ///
    /// # Errors
    ///
    /// The error of a call with these inputs, and `RuntimeError` if no instance is free.
    pub fn try_run(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let inputs = call::bind(&self.0.name, self.inputs(), &self.0.rules, inputs)?;
        let slot = self.0.lock().instances.pop();
        let Some(mut slot) = slot else {
            return Err(NnError::runtime("no instance is free"));
        };
        let ran = self.0.trial(&mut slot, &inputs);
        self.0.lock().instances.push(slot);
        call::label(self.outputs(), ran?)
    }

    /// Tries whether two calls may share a run: runs each alone and then both together, and compares. If the answers
    /// differ by more than [`MAX_DIFFERENCE`], or the model cannot run them together, every call runs by itself from
    /// then on. Blocks; counts nothing. For use before the model serves.
    ///
    /// # Errors
    ///
    /// When one of the calls fails by itself, which proves nothing about shared runs; nothing is changed then.
    pub fn try_batching(&self, first: Named, second: Named) -> Result<SharedRuns, NnError> {
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
            Err(error) => self.cannot_share_runs(&error),
        }
        Ok(self.shared_runs())
    }

    /// Runs one call before the model serves. Blocks; counts nothing.
    ///
    /// # Errors
    ///
    /// The error that a call with these inputs would get.
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
    /// The error of the run.
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
        let batch = plan.concat(&tensors, longest);
        let outputs = self.with_slot(|slot| inner.trial(slot, &batch))?;
        plan.split(&outputs, &shares, longest).map(Some)
    }

    pub(crate) fn with_slot<T>(
        &self,
        run: impl FnOnce(&mut Slot) -> Result<T, NnError>,
    ) -> Result<T, NnError> {
        let Some(mut slot) = self.0.lock().instances.pop() else {
            return Err(NnError::runtime("all instances of the model are busy"));
        };
        let ran = run(&mut slot);
        self.0.lock().instances.push(slot);
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
            if let SharedRuns::Yes(before) = &mut state.shared_runs {
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
    pub(crate) fn cannot_share_runs(&self, error: &NnError) {
        self.0
            .lock()
            .rows_depend(format!("calls fail together: {}", error.message));
    }
}
