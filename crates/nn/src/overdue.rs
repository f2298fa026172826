//! The threads that models run on, and the treatment of runs that do not end in time.
//!
//! Models run on their own threads ([`spawn`]). The threads of the server, and those that read files, resolve names and
//! open stores, never wait for a model.
//!
//! A run is *overdue* when no caller waits for it any more: all its deadlines have passed, or its callers have left. It
//! is then interrupted. Not every backend can be interrupted everywhere. A run that continues for [`GRACE`] after that
//! is *lost*: its model gets another instance, and the run keeps its thread. A lost run still uses a core and memory,
//! so the number of lost runs is bounded, for each model and for all. Beyond the bound a run keeps its instance, and a
//! model without a free instance refuses calls until a run ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The time that a run may go on after it was interrupted. Backends check between two operators, and few operators take
/// longer.
pub const GRACE: Duration = Duration::from_secs(1);

/// Most lost runs of one model: enough for a rare input on which a backend never ends, and too few for one model to use
/// up the limit of all.
pub const MAX_LOST_OF_MODEL: usize = 2;

/// Most lost runs of all models of a repository. Each uses a core; with more, the rest of the server would be slow.
pub const MAX_LOST: usize = 8;

/// The longest wait for a call without a deadline. Requests have their own deadlines.
pub const LONGEST_CALL: Duration = Duration::from_secs(3600);

/// The longest time of a shadow run, which no caller waits for: the default limit of a call.
pub const LONGEST_SHADOW: Duration = Duration::from_secs(30);

/// Most threads that models run on. Each runs one instance or holds a lost run; models with more instances in all wait
/// for one another.
pub const MAX_THREADS: usize = 512;

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Threads of this process that run or load a model at present.
pub fn at_work() -> usize {
    AT_WORK.load(Ordering::SeqCst)
}

/// A thread that runs or loads a model, while this lives.
pub(crate) struct BusyThread(());

impl BusyThread {
    pub fn begin() -> Self {
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for BusyThread {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `work` on a thread for models; waits for one if all are busy.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) {
    static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        // This runtime is only used for its pool of threads. It is never driven, and never shut down, because a
        // shutdown would wait for runs that do not end.
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(MAX_THREADS);
        builder.thread_name("penstock-model");
        builder.build().ok()
    });
    let work = move || {
        let _working = BusyThread::begin();
        work();
    };
    match threads {
        Some(threads) => drop(threads.spawn_blocking(work)),
        None => drop(tokio::task::spawn_blocking(work)),
    }
}

/// The number of lost runs, of all models of a repository.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

/// One lost run's place in the count, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct LostRunPermit(Arc<Count>);

impl Count {
    /// A place for another lost run, if there is one.
    pub fn place(self: &Arc<Self>) -> Option<LostRunPermit> {
        let place = LostRunPermit(self.clone());
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        // If the place is dropped, it gives its count back.
        (before < MAX_LOST).then_some(place)
    }
}

impl Drop for LostRunPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_each_comes_back() {
        let count = Arc::new(Count::default());
        let mut places: Vec<LostRunPermit> = (0..MAX_LOST).filter_map(|_| count.place()).collect();
        assert_eq!(places.len(), MAX_LOST);
        assert!(count.place().is_none());
        places.pop();
        assert!(count.place().is_some());
    }
}
