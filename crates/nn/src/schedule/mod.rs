//! Decides when the calls of a model run, and which calls run together. Pure: time is given as nanoseconds since the
//! model was loaded, and calls as the facts that the decision needs. The result is the runs to begin, the calls to
//! refuse, and the time to look again. [`crate::model`] carries it out.
//!
//! Decisions:
//!
//! - **A free instance never waits if there is work**, except for the queue delay of a batch that is likely to grow
//!   ([`batch_tuner`]). A call that is alone has no queue delay.
//! - **The queue is bounded.** A call beyond the bound is refused at once, or replaces the newest call of a lower
//!   priority.
//! - **A call that cannot meet its deadline is refused when it arrives**, not after it has waited: the calls before it
//!   and the present run times give the time at which it would be done. If an instance is free, the call runs with any
//!   estimate, so that a wrong estimate is corrected.
//! - **Order is kept.** Within a priority, the oldest call leads the next run; calls that can share its run are added
//!   in their own order. A call is overtaken only by calls in a run led by an older one.

pub mod batch_tuner;
pub mod cut;
pub mod isolate;
mod limits;
mod queue;
pub mod quick;
pub mod run_time;

pub use limits::Limits;
pub use queue::{Ask, CallId, Class, Nanos, Queue, Waiting};

use batch_tuner::BatchTuner;
use cut::{Cut, Situation, cut};
use run_time::RunTimeEstimate;

/// The number of a run, in the order of their starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// The reason that a call may not wait in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueRefusal {
    /// The queue has as many calls as it may.
    Full,
    /// The call would be done after its deadline.
    TooLate,
    /// The deadline had passed when it came.
    Expired,
    /// The model takes no calls any more.
    Closed,
}

/// The next actions of the engine, which owns the instances.
#[derive(Debug)]
pub struct Todo<T> {
    /// Calls whose deadline passed while they waited.
    pub late: Vec<Waiting<T>>,
    /// Runs to begin, each on its own instance.
    pub runs: Vec<(RunId, Vec<Waiting<T>>)>,
    /// The time to ask again, even if no call arrives and no run ends before.
    pub wake: Option<Nanos>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// The time it took; `None` if it failed or was cut short, so that nothing is learnt from it.
    pub took: Option<Nanos>,
    /// Bytes of its inputs, padding included.
    pub bytes: u64,
    /// The number of its items.
    pub items: u32,
}

#[derive(Debug)]
struct Run {
    id: RunId,
    calls: Vec<CallId>,
    /// The number of those whose callers have left.
    gone: usize,
    began: Nanos,
    /// The time for which its first call waited for others.
    queue_delay: Nanos,
    items: u64,
}

/// The state of a call that its caller gave up.
#[derive(Debug)]
pub enum LeaveOutcome<T> {
    /// It had not begun and is out of the queue.
    Queue(Waiting<T>),
    /// It runs, and others of its run are still waited for.
    Shared,
    /// It runs, and no caller waits for any result of that run any more.
    Abandoned(RunId),
    /// It had ended before.
    Ended,
}

/// The queue before a model and its instances.
#[derive(Debug)]
pub struct Scheduler<T> {
    limits: Limits,
    queue: Queue<T>,
    runs: Vec<Run>,
    next_call: u64,
    next_run: u64,
    closed: bool,
    /// The run times by which the next run is predicted.
    pub run_time: RunTimeEstimate,
    /// The queue delay and the batch size.
    pub batch_tuner: BatchTuner,
}

impl<T> Scheduler<T> {
    /// A scheduler of a model without calls.
    pub fn new(limits: Limits) -> Self {
        Self {
            queue: Queue::new(limits.levels),
            batch_tuner: BatchTuner::new(&limits),
            limits,
            runs: Vec::new(),
            next_call: 0,
            next_run: 0,
            closed: false,
            run_time: RunTimeEstimate::default(),
        }
    }

    /// The limits of the queue and of runs.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The queue, to look at.
    pub fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// The number of calls that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The number of runs under way.
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// Returns whether it takes no more calls.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes no more calls. Those in the queue stay and are run.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Lets every later call run by itself.
    pub fn stop_batching(&mut self) {
        self.limits.max_items = 1;
        self.batch_tuner = BatchTuner::new(&self.limits);
    }

    /// Begins a run of one call at once, if an instance is free, no call waits, and no others are expected. The usual
    /// case, and the cheapest.
    pub fn start_alone(&mut self, ask: &Ask, now: Nanos) -> Option<(CallId, RunId)> {
        let shareable = matches!(ask.class, Class::Like(_)) && ask.items < self.limits.max_items;
        let free = self.runs.len() < self.limits.instances && self.queue.is_empty();
        let delayed =
            shareable && !self.runs.is_empty() && self.batch_tuner.queue_delay(&self.run_time) > 0;
        if self.closed || !free || delayed || ask.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let call = self.call_id();
        let run = self.begin(vec![call], now, 0, u64::from(ask.items));
        Some((call, run))
    }

    /// Puts a call in the queue. Call [`Scheduler::next`] afterwards.
    ///
    /// # Errors
    ///
    /// The payload, with the reason that it may not wait.
    pub fn enter(
        &mut self,
        ask: Ask,
        payload: T,
        now: Nanos,
    ) -> Result<Entered<T>, (QueueRefusal, T)> {
        if self.closed {
            return Err((QueueRefusal::Closed, payload));
        }
        if ask.deadline.is_some_and(|deadline| deadline <= now) {
            return Err((QueueRefusal::Expired, payload));
        }
        let instance_is_free = self.runs.len() < self.limits.instances && self.queue.is_empty();
        if let Some(deadline) = ask.deadline
            && !instance_is_free
            && now.saturating_add(self.done_in(&ask, now)) > deadline
        {
            return Err((QueueRefusal::TooLate, payload));
        }
        let mut displaced = None;
        if self.queue.len() >= self.limits.queue_max && !instance_is_free {
            displaced = self.queue.displace(ask.level);
            if displaced.is_none() {
                return Err((QueueRefusal::Full, payload));
            }
        }
        let id = self.call_id();
        self.queue.push(Waiting {
            id,
            ask,
            arrived: now,
            payload,
        });
        Ok(Entered { id, displaced })
    }

    /// The work to do now. Ask after a call entered, after a run ended, and at the time that the last answer gave.
    pub fn next(&mut self, now: Nanos) -> Todo<T> {
        let mut todo = Todo {
            late: if self.queue.is_empty() {
                Vec::new()
            } else {
                self.queue.remove_late(now)
            },
            runs: Vec::new(),
            wake: None,
        };
        if self.queue.is_empty() {
            self.batch_tuner.forget_delay();
        }
        while !self.queue.is_empty() && self.runs.len() < self.limits.instances {
            let others =
                self.queue.len() + self.runs.iter().map(|run| run.calls.len()).sum::<usize>();
            let situation = Situation {
                now,
                running_items: self.runs.iter().map(|run| run.items).sum(),
                // A call that is alone has no queue delay.
                queue_delay: if others > 1 {
                    self.batch_tuner.queue_delay(&self.run_time)
                } else {
                    0
                },
                most_items: self.batch_tuner.most_items(),
                run_time: &self.run_time,
            };
            match cut(&self.queue, &self.limits, &situation) {
                Cut::Delay(until) => {
                    self.batch_tuner.delay_begins(self.queue.len());
                    todo.wake = Some(until);
                    break;
                }
                Cut::Run(ids) => {
                    let waited = self.queue.len();
                    let calls: Vec<_> = (ids.into_iter())
                        .filter_map(|id| self.queue.remove(id))
                        .collect();
                    let items: u64 = calls.iter().map(|call| u64::from(call.ask.items)).sum();
                    let full = items >= u64::from(self.batch_tuner.most_items());
                    let was_delayed =
                        self.batch_tuner
                            .cut(waited, calls.len(), full, &self.run_time);
                    let queue_delay = if was_delayed {
                        calls
                            .first()
                            .map_or(0, |call| now.saturating_sub(call.arrived))
                    } else {
                        0
                    };
                    let ids = calls.iter().map(|call| call.id).collect();
                    let run = self.begin(ids, now, queue_delay, items);
                    todo.runs.push((run, calls));
                }
            }
        }
        todo
    }

    /// Notes that a run was told to end, so that its expected time no longer counts for new calls.
    pub fn ends_soon(&mut self, run: RunId) {
        if let Some(run) = self.runs.iter_mut().find(|running| running.id == run) {
            run.began = 0;
        }
    }

    /// Notes that a run ended; its instance is free.
    pub fn finish(&mut self, run: RunId, finished: Finished) {
        let Some(at) = self.runs.iter().position(|running| running.id == run) else {
            return;
        };
        let run = self.runs.swap_remove(at);
        if let Some(took) = finished.took {
            self.run_time.observe(took, finished.bytes);
            self.batch_tuner
                .ran(took.saturating_add(run.queue_delay), finished.items);
        }
    }

    /// Takes back a call whose caller has left.
    pub fn leave(&mut self, id: CallId) -> LeaveOutcome<T> {
        if let Some(call) = self.queue.remove(id) {
            if self.queue.is_empty() {
                self.batch_tuner.forget_delay();
            }
            return LeaveOutcome::Queue(call);
        }
        let Some(run) = (self.runs.iter_mut()).find(|run| run.calls.contains(&id)) else {
            return LeaveOutcome::Ended;
        };
        run.gone += 1;
        if run.gone >= run.calls.len() {
            LeaveOutcome::Abandoned(run.id)
        } else {
            LeaveOutcome::Shared
        }
    }

    /// The estimated wait of a new call for an instance, from the present run times.
    pub fn wait_estimate(&self, now: Nanos) -> Nanos {
        let instances = self.limits.instances.max(1) as u64;
        let mean = self.run_time.mean();
        let running: Nanos = (self.runs.iter())
            .map(|run| mean.saturating_sub(now.saturating_sub(run.began)))
            .sum();
        let runs = if self.limits.max_items > 1 {
            self.queue
                .items
                .div_ceil(u64::from(self.batch_tuner.most_items()))
        } else {
            self.queue.len() as u64
        };
        let queue = self.run_time.predict_runs(runs, self.queue.bytes);
        if self.runs.len() < self.limits.instances && self.queue.is_empty() {
            return 0;
        }
        running.saturating_add(queue) / instances
    }

    /// The estimated time until a new call would be done.
    fn done_in(&self, ask: &Ask, now: Nanos) -> Nanos {
        if self.run_time.mean() == 0 {
            // Nothing has run yet, so nothing is known against it.
            return 0;
        }
        self.wait_estimate(now)
            .saturating_add(self.run_time.predict(ask.bytes))
    }

    fn call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    fn begin(&mut self, calls: Vec<CallId>, now: Nanos, queue_delay: Nanos, items: u64) -> RunId {
        self.next_run += 1;
        let id = RunId(self.next_run);
        self.runs.push(Run {
            id,
            calls,
            gone: 0,
            began: now,
            queue_delay,
            items,
        });
        id
    }
}

/// A call that got a place in the queue.
#[derive(Debug)]
pub struct Entered<T> {
    /// The number by which the call is known from now on.
    pub id: CallId,
    /// The call of a lower priority whose place it took.
    pub displaced: Option<Waiting<T>>,
}
