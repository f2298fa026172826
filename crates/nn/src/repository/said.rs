//! The last report about a version.

use super::plan::Reason;

/// The last report about a version.
#[derive(Clone, PartialEq)]
pub(super) struct LastReport {
    pub(super) phase: Said,
    pub(super) kept: Option<Reason>,
}

#[derive(Clone, PartialEq)]
pub(super) enum Said {
    Waiting,
    Ready(u64),
    Evicted,
    Unloaded,
    Failed(Reason),
}
