//! Tells the host about operations: a new one to run, one to cancel, a wait, the result of a run.
//!
//! A component cannot call its host back. It passes the note in a header of the answer, and the host removes the header. It
//! does so only on Penstock's own host.

use penstock_core::{OperationId, json};
use serde::Serialize;

/// The header with the note.
pub const HEADER: &str = "penstock-operation";

/// A note about one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct HostNote {
    /// The operation.
    pub id: String,
    /// A new operation, for the host's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// Whether its run is to be interrupted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// The milliseconds that the client waits for its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// What the host asks for after the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
    /// When the host should look at it again, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again_ms: Option<u64>,
    /// Whether it has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Whether the worker goes on with its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<&'static str>,
}

/// The facts that a queue needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Push {
    pub tenant: String,
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    pub items: u64,
}

/// What the host asks for after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Then {
    /// The operation.
    Describe,
    /// The operation in the form of Google's libraries.
    DescribeGoogle,
    /// The answer of the call.
    Answer,
}

impl HostNote {
    /// An empty note about an operation.
    pub fn about(id: &OperationId) -> Self {
        Self {
            id: id.as_str().to_owned(),
            ..Self::default()
        }
    }

    /// The text of the header: JSON in visible ASCII.
    pub fn to_header(&self) -> String {
        json::to_ascii(self)
    }
}
