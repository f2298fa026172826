//! Events that a repository reports about its models while it runs.

/// Something that happened to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The model; empty for an event of all models.
    pub model: String,
    /// Its version; 0 for an event of all versions.
    pub version: u64,
    /// The kind of event.
    pub kind: EventKind,
    /// The same in words, without model and version.
    pub text: String,
}

/// The kind of an event: the change of a version's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It answers, or a newer graph or contract of it does.
    Ready,
    /// The version does not answer.
    Failed,
    /// New files could not be used; the graph that answered before still does.
    Kept,
    /// Its loading takes long and goes on.
    Slow,
    /// A remark about a loaded version for the operator.
    Noted,
    /// It answers, and another backend answers differently.
    Differs,
    /// It was unloaded on request.
    Unloaded,
    /// It was evicted for the memory budget.
    Evicted,
    /// A folder in its directory looks like a version, but its name is not valid.
    Skipped,
    /// Its files are gone, so it was removed.
    Removed,
    /// The files could not be read, or the catalogue could not be written; everything else continues as it was.
    Unseen,
}
