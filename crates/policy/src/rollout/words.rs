//! The words between rollouts and the gate.
//!
//! The WIT package `penstock:models` says the same for components; the shells in `guest` convert and add nothing.

/// Why rollouts could not be read or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutFailure {
    /// This host keeps no rollouts; no version is rolled out then.
    Unsupported(String),
    /// The store failed, in its words.
    Failed(String),
}

impl RolloutFailure {
    /// What happened, in words.
    pub fn message(&self) -> &str {
        match self {
            Self::Unsupported(message) | Self::Failed(message) => message,
        }
    }
}
