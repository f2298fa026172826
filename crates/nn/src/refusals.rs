//! The errors for callers whose calls do not run.

use crate::error::{EngineRefusal, NnError, quoted};
use crate::model_state::{Inner, State};
use crate::overdue::GRACE;
use crate::schedule::{Nanos, QueueRefusal};
use std::time::Duration;

/// The shortest retry time that a refused caller is told.
const LEAST_RETRY: Duration = Duration::from_millis(1);

impl Inner {
    pub(crate) fn late(&self, state: &State, when: &str) -> NnError {
        NnError::refused(
            EngineRefusal::Deadline,
            format!(
                "the deadline passed {when} (model {} takes about {:.1} ms a run and {} wait); allow more time",
                quoted(&self.name),
                state.scheduler.run_time.mean() as f64 / 1e6,
                state.scheduler.waiting()
            ),
        )
        .retry_after(self.retry_after(state, self.now()))
    }

    /// The time until the present queue is worked off.
    pub(crate) fn retry_after(&self, state: &State, now: Nanos) -> Duration {
        let scheduler = &state.scheduler;
        let wait = scheduler
            .wait_estimate(now)
            .saturating_add(scheduler.run_time.mean());
        Duration::from_nanos(wait).max(LEAST_RETRY)
    }

    /// The error for a model whose instances are all held by runs that do not end.
    pub(crate) fn without_an_instance(&self, state: &mut State) -> NnError {
        state.stats.refusals.not_ready += 1;
        let text = format!(
            "all {} instances of model {} are held by runs that do not end; the call was not run: try again later, or \
             restart the server",
            self.instance_count,
            quoted(&self.name)
        );
        NnError::refused(EngineRefusal::NotReady, text).retry_after(GRACE)
    }

    pub(crate) fn displaced(&self, state: &mut State, now: Nanos) -> NnError {
        state.stats.refusals.displaced += 1;
        let text = format!(
            "calls of higher priority took the places in the queue of model {}; try again later",
            quoted(&self.name)
        );
        NnError::refused(EngineRefusal::QueueFull, text).retry_after(self.retry_after(state, now))
    }

    pub(crate) fn refused(&self, state: &mut State, refused: QueueRefusal, now: Nanos) -> NnError {
        let name = quoted(&self.name);
        match refused {
            QueueRefusal::Full => {
                state.stats.refusals.queue_full += 1;
                let text = format!(
                    "{} calls already wait for model {name}, which is the maximum; try again later",
                    state.scheduler.waiting()
                );
                NnError::refused(EngineRefusal::QueueFull, text)
                    .retry_after(self.retry_after(state, now))
            }
            QueueRefusal::TooLate => {
                state.stats.refusals.shed += 1;
                let text = format!(
                    "the {} calls that wait for model {name} take about {:.0} ms, longer than this call has; it was \
                     not run: try again later, or allow more time",
                    state.scheduler.waiting(),
                    state.scheduler.wait_estimate(now) as f64 / 1e6
                );
                NnError::refused(EngineRefusal::Shed, text)
                    .retry_after(self.retry_after(state, now))
            }
            QueueRefusal::Expired => {
                state.stats.refusals.deadline += 1;
                self.late(state, "before the call began")
            }
            QueueRefusal::Closed => {
                state.stats.refusals.not_ready += 1;
                NnError::refused(EngineRefusal::NotReady, "the model is being unloaded")
            }
        }
    }
}
