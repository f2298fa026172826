//! The types between rollouts and the gate.
//!
//! The WIT package `penstock:models` has the same types for components. The components in `guest` only convert.

/// The reason why rollouts could not be read or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutFailure {
    /// This host stores no rollouts, so every model uses its highest version.
    Unsupported(String),
    /// The store failed; the text is its message.
    Failed(String),
}

impl RolloutFailure {
    /// The message of the failure, of either kind.
    pub fn message(&self) -> &str {
        match self {
            Self::Unsupported(message) | Self::Failed(message) => message,
        }
    }
}
