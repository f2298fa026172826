//! The reasons why an entry point gives no answer.

/// The reason why an entry point gave no answer. None of these is the caller's fault or permanent.
#[derive(Debug, thiserror::Error)]
pub enum EntryPointError {
    /// The guest trapped; its instance is gone.
    #[error("the component trapped: {0:#}")]
    Trap(wasmtime::Error),
    /// No instance could be made.
    #[error("no instance could be made: {0:#}")]
    Instantiate(wasmtime::Error),
    /// There is an answer, but its data may not be durable.
    #[error(transparent)]
    NotDurable(#[from] crate::kv::NotDurable),
    /// The result is not an HTTP answer.
    #[error("the component's answer is not HTTP: {0}")]
    Answer(String),
}
