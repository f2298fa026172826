//! A version as callers see it: the graph that serves it, and the uses of that graph.

use super::plan::{Phase, Reason, Stamp, Usage};
use crate::error::quoted;
use crate::layout::Unavailable;
use crate::model::Model;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A graph in memory, with a signal for the end of its last use.
pub(super) struct Loaded {
    pub(super) id: u64,
    pub model: Model,
    pub(super) contract: Stamp,
    /// The version no longer serves. The call that ends its last lease reports it.
    pub(super) retired: AtomicBool,
}

/// The part of a version that callers see.
pub(super) struct Cell {
    pub name: String,
    pub version: u64,
    pub(super) view: RwLock<View>,
    pub(super) last_used_ms: AtomicU64,
    /// Calls that wait for it to be loaded again.
    pub(super) waiters: AtomicUsize,
}

pub(super) struct View {
    pub(super) now: Now,
    /// The graph that served before, for requests that began under a catalogue that has it.
    pub(super) previous: Option<Arc<Loaded>>,
}

#[derive(Clone)]
pub(super) enum Now {
    Waiting,
    Ready(Arc<Loaded>),
    Evicted,
    Unloaded,
    Failed(Reason),
    Gone,
}

impl Cell {
    pub(super) fn new(name: &str, version: u64) -> Self {
        Self {
            name: name.to_owned(),
            version,
            view: RwLock::new(View {
                now: Now::Waiting,
                previous: None,
            }),
            last_used_ms: AtomicU64::new(0),
            waiters: AtomicUsize::new(0),
        }
    }

    pub fn now(&self) -> Now {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.now.clone()
    }

    /// The graph that serves, under this contract if that is still available. It counts as in use from then on.
    pub fn serving(&self, contract: Option<Stamp>, now_ms: u64) -> Option<Arc<Loaded>> {
        let serving = self.loaded(contract)?;
        self.last_used_ms.store(now_ms, Ordering::Relaxed);
        Some(serving)
    }

    /// The same for a shadow run: it does not keep the graph from being evicted.
    pub fn loaded(&self, contract: Option<Stamp>) -> Option<Arc<Loaded>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let meant = |loaded: &&Arc<Loaded>| Some(loaded.contract) == contract;
        let previous = view.previous.as_ref().filter(meant);
        let serving = match &view.now {
            Now::Ready(current) if contract.is_none() || meant(&current) => current,
            Now::Ready(current) => previous.unwrap_or(current),
            Now::Failed(_) | Now::Gone => previous?,
            Now::Waiting | Now::Evicted | Now::Unloaded => return None,
        };
        Some(serving.clone())
    }

    /// Returns whether a call under this contract would be answered.
    pub fn answers(&self, contract: Option<Stamp>) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let previous = || view.previous.as_ref().map(|loaded| loaded.contract);
        match view.now {
            Now::Ready(_) | Now::Evicted => true,
            Now::Failed(_) | Now::Gone => contract.is_some() && previous() == contract,
            Now::Waiting | Now::Unloaded => false,
        }
    }

    /// The reason that the version does not answer.
    pub fn unavailable(&self) -> Unavailable {
        let (name, version) = (quoted(&self.name), self.version);
        match self.now() {
            Now::Waiting | Now::Ready(_) | Now::Evicted => Unavailable::Loading(format!(
                "model {name} version {version} is being loaded; try again in a moment"
            )),
            Now::Unloaded => Unavailable::unloaded(&self.name, version),
            Now::Failed(reason) => Unavailable::failed(&self.name, &reason),
            Now::Gone => {
                Unavailable::UnknownVersion(format!("model {name} version {version} was removed"))
            }
        }
    }

    /// Returns whether it equals the book's phase, apart from the callers' own data.
    pub(super) fn same(&self, phase: &Phase) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        match (&view.now, phase) {
            (Now::Ready(loaded), Phase::Ready(load)) => loaded.id == load.id,
            (Now::Failed(old), Phase::Failed(new)) => old == new,
            (Now::Waiting, Phase::Waiting)
            | (Now::Evicted, Phase::Evicted { .. })
            | (Now::Unloaded, Phase::Unloaded) => true,
            _ => false,
        }
    }

    /// Replaces the state, and returns the graph that served before.
    pub(super) fn put(&self, now: Now) -> Option<Arc<Loaded>> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut view.now, now);
        let Now::Ready(old) = old else {
            return None;
        };
        old.retired.store(true, Ordering::SeqCst);
        // Requests that began under the old catalogue end under it: they were checked against its contract, and it told
        // them that this version exists.
        let missed = match &view.now {
            Now::Ready(new) => new.contract != old.contract,
            Now::Failed(_) | Now::Gone => true,
            // Unloading a version stops further calls to it.
            Now::Waiting | Now::Evicted | Now::Unloaded => false,
        };
        if missed {
            view.previous = Some(old.clone());
        }
        Some(old)
    }

    /// Evicts the graph from memory, and returns it. Without `busy`, a graph that is in use or waited for stays.
    pub(super) fn evict(&self, busy: bool) -> Option<Arc<Loaded>> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let idle = match &view.now {
            Now::Ready(loaded) => {
                busy || (!in_use(loaded) && self.waiters.load(Ordering::SeqCst) == 0)
            }
            _ => false,
        };
        if !idle {
            return None;
        }
        match std::mem::replace(&mut view.now, Now::Evicted) {
            Now::Ready(old) => Some(old),
            _ => None,
        }
    }

    pub(super) fn keeps(&self, loaded: &Arc<Loaded>) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.previous
            .as_ref()
            .is_some_and(|previous| Arc::ptr_eq(previous, loaded))
    }

    pub(super) fn forget(&self, loaded: &Arc<Loaded>) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if view
            .previous
            .as_ref()
            .is_some_and(|previous| Arc::ptr_eq(previous, loaded))
        {
            view.previous = None;
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let serving = match &self.view.read().unwrap_or_else(PoisonError::into_inner).now {
            Now::Ready(loaded) => in_use(loaded),
            _ => false,
        };
        Usage {
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
            busy: serving || self.waiters.load(Ordering::SeqCst) > 0,
        }
    }

    pub fn last_used_ms(&self) -> u64 {
        self.last_used_ms.load(Ordering::Relaxed)
    }
}

/// Returns whether a call has it: the cell and the table of loads have one reference each.
pub(super) fn in_use(loaded: &Arc<Loaded>) -> bool {
    Arc::strong_count(loaded) > 2
}
