//! Keeps the host's queue of operations, the runs in progress, and the clients that wait for an end. `workers` runs them.

use super::clock::unix_ms;
use penstock_core::OperationId;
use penstock_policy::operations::OperationsSettings;
use penstock_policy::operations::queue::{FairQueue, Job};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// The most jobs in the queue, about 40 MB of memory. Further ones stay in the store until there is room.
pub(crate) const MAX_JOBS: usize = 100_000;
/// The most clients that wait for the end of an operation at the same time. Others get the present state at once.
const MAX_WAITING: usize = 4_096;
/// What runs operations on this host.
#[derive(Clone, Debug)]
pub struct WorkSettings {
    /// The operator's settings.
    pub operations: OperationsSettings,
    /// Leases from before this time are over, in milliseconds since the Unix epoch: the store belongs to this process alone, so
    /// no other one can hold them. 0 if other processes use the store.
    pub dead_before_ms: u64,
}

/// The host's queue of operations, and its workers' state.
pub(crate) struct Work {
    pub(crate) settings: WorkSettings,
    pub(crate) queue: Mutex<FairQueue>,
    /// Wakes a worker.
    pub(crate) pushed: Notify,
    /// The operations that run, with the signal that interrupts each.
    pub(crate) running: Mutex<HashMap<OperationId, Arc<Notify>>>,
    /// Clients that wait for the end of an operation.
    pub(crate) waiting: Mutex<HashMap<OperationId, watch::Sender<()>>>,
    pub(crate) waiters: Semaphore,
    /// Whether a job found no room.
    pub(crate) overflowed: AtomicBool,
    /// The mean time of a run in microseconds, the recent ones weighing more; 0 for none yet.
    pub(crate) mean_us: AtomicU64,
    pub(crate) stop: watch::Sender<bool>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    pub(crate) fn new(settings: WorkSettings) -> Self {
        Self {
            settings,
            queue: Mutex::new(FairQueue::new(MAX_JOBS)),
            pushed: Notify::new(),
            running: Mutex::default(),
            waiting: Mutex::default(),
            waiters: Semaphore::new(MAX_WAITING),
            overflowed: AtomicBool::new(false),
            mean_us: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        }
    }

    pub(crate) fn push(&self, job: Job, due_ms: u64) {
        if lock(&self.running).contains_key(&job.id) {
            return;
        }
        if lock(&self.queue).push(job, due_ms, unix_ms()) {
            self.pushed.notify_one();
        } else {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// The place of an operation, for its description.
    pub(crate) fn place(&self, id: &OperationId) -> Option<Value> {
        let position = lock(&self.queue).position(id)? as u64;
        let mean_us = self.mean_us.load(Ordering::Relaxed);
        let workers = u64::from(self.settings.operations.workers);
        let wait_ms = (mean_us > 0).then(|| mean_us.saturating_mul(position + 1) / workers / 1_000);
        Some(json!({ "position": position, "wait_ms": wait_ms }))
    }

    pub(crate) fn ended(&self, id: &OperationId) {
        lock(&self.queue).remove(id);
        if let Some(waiting) = lock(&self.waiting).remove(id) {
            waiting.send_replace(());
        }
    }

    /// Counts the time of a run.
    pub(crate) fn measured(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean_us = self.mean_us.load(Ordering::Relaxed);
        let mean_us = match mean_us {
            0 => took_us,
            mean_us => mean_us - mean_us / 8 + took_us / 8,
        };
        self.mean_us.store(mean_us.max(1), Ordering::Relaxed);
    }

    /// Takes the next job, and marks it as running.
    pub(crate) async fn next(&self) -> (Job, Arc<Notify>) {
        loop {
            let (job, due_ms) = {
                let mut queue = lock(&self.queue);
                (queue.pop(unix_ms()), queue.next_due_ms())
            };
            if let Some(job) = job {
                let interrupt = Arc::<Notify>::default();
                lock(&self.running).insert(job.id.clone(), interrupt.clone());
                // There may be more than this worker takes.
                self.pushed.notify_one();
                return (job, interrupt);
            }
            let pause = due_ms.map_or(Duration::from_secs(60), |due_ms| {
                Duration::from_millis(due_ms.saturating_sub(unix_ms()).max(1))
            });
            let _ = tokio::time::timeout(pause, self.pushed.notified()).await;
        }
    }
}

/// A client that waits. It is taken off the list when it goes.
pub(crate) struct Waiting<'a> {
    pub(crate) work: &'a Work,
    pub(crate) id: &'a OperationId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.work.waiting);
        if let Some(sender) = waiting.get(self.id)
            && sender.receiver_count() <= 1
        {
            waiting.remove(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work::new(WorkSettings {
            operations: OperationsSettings::default(),
            dead_before_ms: 0,
        })
    }

    fn job(number: u128) -> Job {
        Job {
            id: OperationId::generate(1_700_000_000_000, number),
            tenant: "t".to_owned(),
            model: "m".to_owned(),
            priority: None,
            items: 1,
        }
    }

    #[tokio::test]
    async fn an_operation_that_runs_is_not_queued_a_second_time() {
        let work = work();
        work.push(job(1), 0);
        let (taken, _) = work.next().await;
        work.push(job(1), 0);
        assert!(lock(&work.queue).is_empty());
        lock(&work.running).remove(&taken.id);
        work.push(job(1), 0);
        assert_eq!(lock(&work.queue).len(), 1);
    }

    #[tokio::test]
    async fn a_job_for_later_is_taken_when_it_is_due() {
        let work = work();
        work.push(job(1), unix_ms() + 30);
        let (taken, _) = tokio::time::timeout(Duration::from_secs(5), work.next())
            .await
            .unwrap();
        assert_eq!(taken.id, job(1).id);
    }

    #[test]
    fn the_place_of_an_operation_has_a_wait_once_a_run_was_measured() {
        let work = work();
        for number in 0..9 {
            work.push(job(number), 0);
        }
        let place = |number| work.place(&job(number).id);
        assert_eq!(place(8), Some(json!({ "position": 8, "wait_ms": null })));
        work.measured(Duration::from_millis(80));
        assert_eq!(place(7), Some(json!({ "position": 7, "wait_ms": 80 })));
        assert_eq!(place(99), None);
    }
}
