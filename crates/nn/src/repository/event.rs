//! Events that a repository reports about its models while it runs.

/// Something that happened to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The model; empty where it is about all of them.
    pub model: String,
    /// Its version; 0 where it is about all of them.
    pub version: u64,
    /// The kind of event.
    pub kind: EventKind,
    /// The same in words, without model and version.
    pub text: String,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It answers, or something newer of it does.
    Ready,
    /// It does not answer.
    Failed,
    /// Something new on disk could not be taken; what answered before does so still.
    Kept,
    /// Loading it takes long.
    Slow,
    /// An operator should know something of what is loaded.
    Noted,
    /// It answers, and another backend answers differently.
    Differs,
    /// It was unloaded by request.
    Unloaded,
    /// It was put to rest for the budget.
    Evicted,
    /// A folder in its directory is named like a version, and is none.
    Skipped,
    /// Its files are gone, and so is it.
    Removed,
    /// The files could not be looked at, or the catalogue not be written; everything goes on as it was.
    Unseen,
}
