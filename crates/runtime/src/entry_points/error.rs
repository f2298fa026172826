//! Why an entry point gave no answer.

/// Why a door gave no answer. None of these is the caller's fault or lasts.
#[derive(Debug, thiserror::Error)]
pub enum EntryPointError {
    /// The guest trapped; its instance is gone.
    #[error("the component trapped: {0:#}")]
    Trap(wasmtime::Error),
    /// No instance could be made.
    #[error("no instance could be made: {0:#}")]
    Instantiate(wasmtime::Error),
    /// The answer is there, and what it rests on may not last.
    #[error(transparent)]
    NotDurable(#[from] crate::kv::NotDurable),
    /// What came back is not an HTTP answer.
    #[error("the component's answer is not HTTP: {0}")]
    Answer(String),
}
