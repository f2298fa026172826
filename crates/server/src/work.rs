//! Keeps the host's queue of operations, the runs in progress, and the clients that wait for an end. `workers` runs them.

use super::clock::unix_ms;
use penstock_core::OperationId;
use penstock_policy::operations::OperationsSettings;
use penstock_policy::operations::notes::{Order, QueuePlace};
use penstock_policy::operations::queue::{FairQueue, Job};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, watch};

/// The most jobs in the queue, about 40 MB of memory. Further ones stay in the store until there is room.
pub(crate) const MAX_JOBS: usize = 100_000;
/// The most clients that wait for the end of an operation at the same time. Others get the present state at once.
const MAX_WAITING: usize = 4_096;

/// The most event streams that read their operations at the same time. Each needs an instance, and most are left to calls.
const MAX_LOOKS: usize = 8;

/// The most ends that wait to be announced. Each costs a read of the store, so they rarely wait.
const MAX_ENDS: usize = 10_000;

/// Takes the ends of operations, so that they are announced. It never waits: ends that find no room are searched in the store.
#[derive(Clone, Debug)]
pub struct Ends {
    ended: mpsc::Sender<OperationId>,
    missed: Arc<AtomicBool>,
}

/// Receives the ends of operations.
#[derive(Debug)]
pub struct EndsReceiver {
    ended: mpsc::Receiver<OperationId>,
    missed: Arc<AtomicBool>,
}

impl Ends {
    /// Makes both sides of a channel for the ends of operations.
    pub fn channel() -> (Self, EndsReceiver) {
        let (sender, receiver) = mpsc::channel(MAX_ENDS);
        let missed = Arc::<AtomicBool>::default();
        let ends = Self {
            ended: sender,
            missed: missed.clone(),
        };
        let receiver = EndsReceiver {
            ended: receiver,
            missed,
        };
        (ends, receiver)
    }

    /// Tells that an operation has ended, or is to be announced again.
    pub(crate) fn tell(&self, id: &OperationId) {
        if self.ended.try_send(id.clone()).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

impl EndsReceiver {
    /// The next operation that ended or that is to be announced again; `None` once the server is gone.
    pub async fn next(&mut self) -> Option<OperationId> {
        self.ended.recv().await
    }

    /// Returns whether ends were missed since the last call, because there was no room for them.
    pub fn missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }
}

/// The settings for running the operations of this host.
#[derive(Clone, Debug)]
pub struct WorkSettings {
    /// The receiver of the ends of operations; `None` if there is none.
    pub ends: Option<Ends>,
    /// The section `[operations]` of the policy.
    pub operations: OperationsSettings,
    /// Leases from before this time are over, in milliseconds since the Unix epoch: the store belongs to this process alone, so
    /// no other one can hold them. 0 if other processes use the store.
    pub dead_before_ms: u64,
}

/// The host's queue of operations, and its workers' state.
pub(crate) struct Work {
    pub(crate) settings: WorkSettings,
    pub(crate) queue: Mutex<FairQueue>,
    /// Wakes a worker that waits for a job.
    pushed: Notify,
    /// The operations that run, with the signal that interrupts each.
    pub(crate) running: Mutex<HashMap<OperationId, Arc<Notify>>>,
    /// Clients that wait for the end of an operation, or follow it. The value says whether it has ended; a signal without a new value
    /// says that its state changes.
    waiting: Mutex<HashMap<OperationId, watch::Sender<bool>>>,
    waiters: Semaphore,
    streams: Arc<Semaphore>,
    pub(crate) looks: Semaphore,
    /// Whether a job found no room.
    pub(crate) overflowed: AtomicBool,
    /// The mean time of a run in microseconds, the recent ones weighing more; 0 for none yet.
    mean_us: AtomicU64,
    /// The lengths of the queue and of the list of running operations, for metrics: a scrape takes no lock.
    queued: AtomicUsize,
    runs: AtomicUsize,
    pub(crate) stop: watch::Sender<bool>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    pub(crate) fn new(settings: WorkSettings) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(settings.operations.max_streams as usize)),
            looks: Semaphore::new(MAX_LOOKS),
            settings,
            queue: Mutex::new(FairQueue::new(MAX_JOBS)),
            pushed: Notify::new(),
            running: Mutex::default(),
            waiting: Mutex::default(),
            waiters: Semaphore::new(MAX_WAITING),
            overflowed: AtomicBool::new(false),
            mean_us: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            runs: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
        }
    }

    /// Adds a job that may begin at `due_ms`, unless it runs or waits already.
    pub(crate) fn push(&self, job: Job, due_ms: u64) {
        // The queue is locked first, here and in `next`, so that a job is always either queued or running.
        let mut queue = lock(&self.queue);
        if lock(&self.running).contains_key(&job.id) {
            return;
        }
        let has_room = queue.push(job, due_ms, unix_ms());
        self.queued.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        if has_room {
            self.pushed.notify_one();
        } else {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// The place of an operation, for its description.
    pub(crate) fn place(&self, id: &OperationId) -> Option<QueuePlace> {
        let position = lock(&self.queue).position(id)? as u64;
        let mean_us = self.mean_us.load(Ordering::Relaxed);
        let workers = u64::from(self.settings.operations.workers);
        let wait_ms = (mean_us > 0).then(|| mean_us.saturating_mul(position + 1) / workers / 1_000);
        Some(QueuePlace { position, wait_ms })
    }

    /// Forgets an operation that has ended, and wakes the clients that wait for it.
    pub(crate) fn ended(&self, id: &OperationId) {
        if let Some(ends) = &self.settings.ends {
            ends.tell(id);
        }
        let mut queue = lock(&self.queue);
        queue.remove(id);
        self.queued.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        if let Some(waiting) = lock(&self.waiting).remove(id) {
            waiting.send_replace(true);
        }
    }

    /// Tells the clients that follow an operation that its state changes.
    pub(crate) fn moved(&self, id: &OperationId) {
        if let Some(waiting) = lock(&self.waiting).get(id) {
            waiting.send_modify(|_| {});
        }
    }

    /// Takes a place for an event stream.
    pub(crate) fn stream_place(&self) -> StreamPlace {
        match self.streams.clone().try_acquire_owned() {
            Ok(permit) => StreamPlace::Taken(permit),
            Err(_) => StreamPlace::Full,
        }
    }

    /// Takes an operation off the list of those that run.
    pub(crate) fn forget_run(&self, id: &OperationId) {
        let mut running = lock(&self.running);
        running.remove(id);
        self.runs.store(running.len(), Ordering::Relaxed);
    }

    /// The number of operations in the queue, and of those that run.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let load = |size: &AtomicUsize| size.load(Ordering::Relaxed);
        (load(&self.queued), load(&self.runs))
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
            let due_ms = {
                let mut queue = lock(&self.queue);
                if let Some(job) = queue.pop(unix_ms()) {
                    let interrupt = Arc::<Notify>::default();
                    self.queued.store(queue.len(), Ordering::Relaxed);
                    let mut running = lock(&self.running);
                    running.insert(job.id.clone(), interrupt.clone());
                    self.runs.store(running.len(), Ordering::Relaxed);
                    drop(running);
                    // There may be more than this worker takes.
                    self.pushed.notify_one();
                    return (job, interrupt);
                }
                queue.next_due_ms()
            };
            let pause = due_ms.map_or(Duration::from_secs(60), |due_ms| {
                Duration::from_millis(due_ms.saturating_sub(unix_ms()).max(1))
            });
            let _ = tokio::time::timeout(pause, self.pushed.notified()).await;
        }
    }
}

/// A client that waits for the end of an operation. It is taken off the list when it goes.
pub(crate) struct Waiting<'a> {
    work: &'a Work,
    id: OperationId,
    /// `None` only while it is dropped.
    ended: Option<watch::Receiver<bool>>,
    /// `None` for an event stream, which has a place of another kind.
    _permit: Option<SemaphorePermit<'a>>,
}

/// A change of an operation on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It begins to run, or it is queued again.
    Moved,
    /// It has ended, and this is the last change.
    Ended,
}

/// The place of the event stream that a request may want.
#[derive(Debug)]
pub(crate) enum StreamPlace {
    /// It names no event stream, or this host has none.
    NotAsked,
    /// There is room for it.
    Taken(OwnedSemaphorePermit),
    /// There is no room.
    Full,
}

/// An event stream that begins.
#[derive(Debug)]
pub(crate) struct Opening {
    pub id: OperationId,
    /// The order for its next part.
    pub next: Order,
    pub place: OwnedSemaphorePermit,
}

impl Work {
    /// Puts a client on the list of those that wait for the end of an operation; `None` if too many wait.
    pub(crate) fn wait_for(&self, id: &OperationId) -> Option<Waiting<'_>> {
        let permit = self.waiters.try_acquire().ok()?;
        let mut waiting = self.listen(id);
        waiting._permit = Some(permit);
        Some(waiting)
    }

    /// Follows the changes of an operation, for an event stream.
    pub(crate) fn listen(&self, id: &OperationId) -> Waiting<'_> {
        let mut waiting = lock(&self.waiting);
        let ended = waiting.entry(id.clone()).or_default().subscribe();
        Waiting {
            work: self,
            id: id.clone(),
            ended: Some(ended),
            _permit: None,
        }
    }
}

impl Waiting<'_> {
    /// Resolves when the operation has ended.
    pub(crate) async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Resolves when the operation changes. Several changes may be one.
    pub(crate) async fn changed(&mut self) -> Change {
        let Some(ended) = &mut self.ended else {
            return Change::Ended;
        };
        // Its sender goes only after the end.
        let is_over = ended.changed().await.is_err() || *ended.borrow();
        match is_over {
            true => Change::Ended,
            false => Change::Moved,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.work.waiting);
        self.ended = None;
        let is_last = |sender: &watch::Sender<bool>| sender.receiver_count() == 0;
        if waiting.get(&self.id).is_some_and(is_last) {
            waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work::new(WorkSettings {
            ends: None,
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
        assert_eq!(work.sizes(), (0, 1));
        work.forget_run(&taken.id);
        work.push(job(1), 0);
        assert_eq!(lock(&work.queue).len(), 1);
        assert_eq!(work.sizes(), (1, 0));
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

    #[tokio::test]
    async fn the_receiver_of_ends_learns_of_each_or_that_some_were_missed() {
        let (ends, mut receiver) = Ends::channel();
        for number in 0..=MAX_ENDS as u128 {
            ends.tell(&job(number).id);
        }
        assert_eq!(receiver.next().await, Some(job(0).id));
        assert!(receiver.missed());
        assert!(!receiver.missed(), "the mark is cleared");
    }

    #[test]
    fn the_place_of_an_operation_has_a_wait_once_a_run_was_measured() {
        let work = work();
        for number in 0..9 {
            work.push(job(number), 0);
        }
        let place = |number| work.place(&job(number).id);
        let at = |position, wait_ms| Some(QueuePlace { position, wait_ms });
        assert_eq!(place(8), at(8, None));
        work.measured(Duration::from_millis(80));
        assert_eq!(place(7), at(7, Some(80)));
        assert_eq!(place(99), None);
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_no_other_clients_wait_and_the_end_wakes_all() {
        let work = work();
        let id = job(1).id;
        let mut clients: Vec<Waiting<'_>> = (0..3).filter_map(|_| work.wait_for(&id)).collect();
        drop(clients.pop());
        for client in &mut clients {
            let woken = tokio::time::timeout(Duration::from_millis(10), client.ended()).await;
            assert!(woken.is_err(), "it waits still");
        }
        work.ended(&id);
        for client in &mut clients {
            let woken = tokio::time::timeout(Duration::from_secs(5), client.ended()).await;
            assert!(woken.is_ok());
        }
        drop(clients);
        drop(work.wait_for(&id));
        assert!(lock(&work.waiting).is_empty(), "nothing is left of them");
        assert_eq!(work.waiters.available_permits(), MAX_WAITING);
    }

    #[tokio::test]
    async fn a_stream_learns_of_each_change_and_a_client_that_waits_only_of_the_end() {
        let work = work();
        let id = job(1).id;
        let mut stream = work.listen(&id);
        let mut client = work.wait_for(&id).unwrap();
        for _ in 0..2 {
            work.moved(&id);
            assert_eq!(stream.changed().await, Change::Moved);
        }
        let woken = tokio::time::timeout(Duration::from_millis(10), client.ended()).await;
        assert!(woken.is_err(), "it has not ended");
        work.moved(&id);
        work.ended(&id);
        assert_eq!(stream.changed().await, Change::Ended);
        client.ended().await;
        // One that looks again in vain waits for the next change.
        stream = work.listen(&id);
        work.moved(&id);
        assert_eq!(stream.changed().await, Change::Moved);
        drop((stream, client));
        assert!(lock(&work.waiting).is_empty());
    }

    #[test]
    fn a_stream_that_ends_frees_its_place() {
        let mut settings = work().settings;
        settings.operations.max_streams = 1;
        let work = Work::new(settings);
        let first = work.stream_place();
        assert!(matches!(first, StreamPlace::Taken(_)));
        assert!(matches!(work.stream_place(), StreamPlace::Full));
        drop(first);
        assert!(matches!(work.stream_place(), StreamPlace::Taken(_)));
    }
}
