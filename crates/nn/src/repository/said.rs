//! What was last reported of a version.

use super::plan::Reason;

/// What was last said of a version.
#[derive(Clone, PartialEq)]
pub(super) struct Told {
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
