//! The index of a repository: which versions there are, and the state of each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::Model;

/// The state of a version.
#[derive(Clone)]
pub enum State {
    /// The version is being loaded.
    Loading,
    /// The version answers calls.
    Ready(Model),
    /// Unloaded; calls that were there before are still running.
    Draining,
    /// Not in memory, with the reason: it was unloaded on request, or evicted until the next call.
    Unloaded(Arc<str>),
    /// The version will not answer; with the reason.
    Failed(Arc<str>),
}

impl State {
    /// The state in one word, as the Open Inference Protocol's repository index has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready(_) => "READY",
            Self::Draining => "UNLOADING",
            Self::Unloaded(_) | Self::Failed(_) => "UNAVAILABLE",
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "Failed({reason:?})"),
            Self::Unloaded(reason) => write!(f, "Unloaded({reason:?})"),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// One version in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The name of the model.
    pub model: String,
    /// The version; 0 for a fault of the model's directory as a whole.
    pub version: u64,
    /// The state in one word; see [`State::as_str`].
    pub state: &'static str,
    /// The reason that the version does not answer. If it does, the reason that the files on disk do not serve.
    pub reason: Option<String>,
    /// Bytes it holds, as the memory budget counts them; 0 if it is not in memory.
    pub memory_bytes: u64,
    /// Whether it is exempt from the memory budget.
    pub pinned: bool,
    /// The time since the last call; `None` without one.
    pub last_used: Option<Duration>,
    /// Whether calls without a version go to it.
    pub is_default: bool,
    /// The comparison with another backend; see [`Model::agreement_state`].
    pub agreement: Option<&'static str>,
}
