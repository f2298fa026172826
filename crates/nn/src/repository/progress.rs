//! The progress of a load, for the log line about a slow load, and the end of a load that takes too long.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::Model;

/// The stage of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The version's files are read.
    Reading,
    /// The backend reads and optimises the graph.
    Compiling,
    /// Every instance of the model runs once.
    WarmingUp,
    /// Two calls run alone and together.
    TryingBatches,
    /// Another backend loads the graph and runs the same calls.
    Comparing,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "reading its files",
            Self::Compiling => "compiling the graph",
            Self::WarmingUp => "warming up (the first runs)",
            Self::TryingBatches => "trying batches (several calls in one run)",
            Self::Comparing => "comparing with another backend (models.compare)",
        })
    }
}

/// One load's progress, shared by the thread that loads and the task that watches it.
pub(super) struct Progress {
    inner: Mutex<Inner>,
    ended: watch::Sender<bool>,
}

struct Inner {
    stage: Stage,
    /// The model, from the moment that it can be interrupted.
    model: Option<Model>,
    given_up: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                stage: Stage::Reading,
                model: None,
                given_up: false,
            }),
            ended: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn at(&self, stage: Stage) {
        self.lock().stage = stage;
    }

    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// The graph is loaded; runs from here on can be interrupted.
    pub fn compiled(&self, model: &Model) {
        let mut inner = self.lock();
        inner.model = Some(model.clone());
        if inner.given_up {
            model.give_up_loading();
        }
    }

    /// Gives the load up: its result is no longer wanted.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        inner.given_up = true;
        if let Some(model) = &inner.model {
            model.give_up_loading();
        }
    }

    pub fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    /// Notes that the thread of the load is done.
    pub fn end(&self) {
        self.lock().model = None;
        self.ended.send_replace(true);
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Returns when the thread is done.
    pub async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is this value's own, so the channel cannot close.
        let _ = ended.wait_for(|ended| *ended).await.map(drop);
    }
}
