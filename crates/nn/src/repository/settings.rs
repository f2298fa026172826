//! The settings of a repository.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use penstock_tensor::contract::Isolation;

use crate::agreement::{self, Compare};
use crate::backend::{QUEUE_MAX, RUN_MEMORY_BYTES};
use crate::worker::Launcher;

/// Default of [`Settings::load_at_once`], in graphs. While it is loaded and optimised a graph takes about twice its size in
/// memory, and a second one keeps the disk and the processor both busy.
pub const LOAD_AT_ONCE: usize = 2;

/// Default of [`Settings::load_timeout`]: two minutes. A graph of some gigabytes is read in half a minute and optimised in
/// less than one; engines for TensorRT are built for minutes, and need more.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// The settings of a repository.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Calls that may wait for one model; the next is refused.
    pub queue_max: usize,
    /// Models loaded at the same time.
    pub load_at_once: usize,
    /// The longest time until a version has run for the first time. After it, the version has failed.
    pub load_timeout: Duration,
    /// Bytes that loaded models may hold together; without it, all models are loaded. Pinned models stay even
    /// beyond it. A replaced graph and its replacement are both in memory for a moment.
    pub memory_budget_bytes: Option<u64>,
    /// Bytes that one run may hold unless a contract sets another limit. See [`crate::LoadOptions::working_bytes`].
    pub run_memory_bytes: usize,
    /// Whether a folder with a graph and without a contract serves under a contract that is derived from the graph.
    pub derive: bool,
    /// The treatment of a model if a second backend gives other answers.
    pub compare: Compare,
    /// Whether [`Compare::Warn`] compares after the model is ready. This needs `launcher`, because the other backend gets a
    /// process; without it, and for [`Compare::Refuse`], the comparison is a part of the load.
    pub compare_later: bool,
    /// The difference that is allowed, as a part of the output's largest element.
    pub compare_tolerance: f64,
    /// Libraries of operators that contracts may ask for, by name.
    pub operators: BTreeMap<String, PathBuf>,
    /// Whether to keep a [`Snapshot`](super::Snapshot) of the catalogue for guests.
    pub publish: bool,
    /// The default isolation of runtimes. Without it, native runtimes have processes of their own if `launcher` can
    /// start them, and tract runs on threads.
    pub isolation: Option<Isolation>,
    /// Bytes of private memory that a model's process may map unless a contract sets another limit.
    pub process_memory_bytes: Option<u64>,
    /// Starts processes for models; without it all models run in the server.
    pub launcher: Option<Launcher>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_max: QUEUE_MAX,
            load_at_once: LOAD_AT_ONCE,
            load_timeout: LOAD_TIMEOUT,
            memory_budget_bytes: None,
            run_memory_bytes: RUN_MEMORY_BYTES,
            derive: false,
            compare: Compare::Off,
            compare_later: false,
            compare_tolerance: agreement::TOLERANCE,
            operators: BTreeMap::new(),
            publish: false,
            isolation: None,
            process_memory_bytes: None,
            launcher: None,
        }
    }
}

impl Settings {
    /// Whether models are compared after they are ready.
    pub(super) fn compares_later(&self) -> bool {
        self.compare == Compare::Warn && self.compare_later && self.launcher.is_some()
    }
}
