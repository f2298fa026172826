//! The notes and orders about operations that the gate and Penstock's own host exchange.
//!
//! A component cannot call its host back, so it passes a [`Note`] in a header of its answer, which the host removes. The host
//! passes an [`Order`] in its own header with facts about a connection, behind its token. Other hosts do neither.

use super::words::{Abandoned, Renewal};
use crate::webhooks::delivery::EventKind;
use penstock_core::{OperationId, json};
use serde::{Deserialize, Serialize};

/// The header with a note.
pub const HEADER: &str = "penstock-operation";

/// A note of the gate about one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// The id of the operation that the note is about.
    pub id: String,
    /// An operation for the host's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// Whether its run is to be interrupted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// The milliseconds that the client waits for its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The host's order after the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Order>,
    /// The time of the next look at it, in milliseconds since the Unix epoch. Without it, the answer to [`Order::Run`] or
    /// [`Order::Abandon`] says that the operation has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again_ms: Option<u64>,
    /// The end that this run or this request gave the operation. Missing if another one had ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<EventKind>,
    /// The step of a batch that follows this one, for the host's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Following>,
    /// The next step of the worker that asked to renew its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// Whether its end is to be announced again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub announce: bool,
    /// Whether the operation that the answer describes, or that was cancelled, has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
    /// The kind of event whose message is the body of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<EventKind>,
    /// The host's next order for an event stream, of which the body of the answer is a part. Without it, the stream ends after this part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<Order>,
}

/// The facts about an operation that a queue needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The tenant to which it belongs. The queue takes turns between tenants.
    pub tenant: String,
    /// The model that runs it, by name.
    pub model: String,
    /// The priority of its caller's tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Its number of items.
    pub items: u64,
}

/// A step of a batch for the host's queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// The id of its operation.
    pub id: String,
    /// The facts that a queue needs.
    pub push: Push,
    /// The time before which it does not begin, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub due_ms: u64,
}

/// A request of the host about the operation in the path, in place of a client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Run it, if no other worker does and its attempt is due.
    Run {
        /// The worker, by a text that no other one has.
        holder: String,
        /// Leases from before this time are over, in milliseconds since the Unix epoch; 0 if that is not known.
        dead_before_ms: u64,
    },
    /// Renew the worker's lease.
    Renew {
        /// The worker, by the text it gave in [`Order::Run`].
        holder: String,
    },
    /// End the worker's run, which was interrupted.
    Abandon {
        /// The worker, by the text it gave in [`Order::Run`].
        holder: String,
        /// The cause of the interruption, which decides the end.
        why: Abandoned,
    },
    /// Describe it, for a client that waited.
    Describe {
        /// The form in which the client gets it.
        form: Form,
    },
    /// Write the message that announces its end. An answer without an event says that it has not ended.
    Announce,
    /// Answer the call that became the operation, if it ended; otherwise describe it.
    Answer,
    /// Write the event that an event stream lacks, if there is one.
    Stream {
        /// The form in which the client gets the operation.
        form: Form,
        /// The id of the last event that was sent. Only the gate reads it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
}

/// The forms in which operations are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The JSON of the paths under `/v1/operations`.
    Plain,
    /// The JSON of Google's libraries.
    Google,
    /// The message of `google.longrunning.Operations`.
    Grpc,
}

/// The place of an operation in the host's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlace {
    /// The number of operations that begin before it, about.
    pub position: u64,
    /// The time until it begins, in milliseconds; `None` if the host has measured none yet.
    pub wait_ms: Option<u64>,
}

impl Note {
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

    /// Reads a header; `None` if it is not a note.
    pub fn read(header: &[u8]) -> Option<Self> {
        serde_json::from_slice(header).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_as_it_was_and_members_of_another_release_are_ignored() {
        let note = Note {
            id: "op_1".to_owned(),
            push: Some(Push {
                tenant: "a\u{df}".to_owned(),
                model: "m".to_owned(),
                priority: None,
                items: 3,
            }),
            wait_ms: Some(5),
            then: Some(Order::Describe { form: Form::Grpc }),
            renewal: Some(Renewal::Lost),
            stream: Some(Order::Stream {
                form: Form::Plain,
                after: Some("op_1.2".to_owned()),
            }),
            ..Note::default()
        };
        let header = note.to_header();
        assert!(header.is_ascii());
        assert_eq!(Note::read(header.as_bytes()), Some(note));
        let other = Note::read(br#"{"id":"op_1","again_ms":7,"new":1}"#).unwrap();
        assert_eq!((other.again_ms, other.cancel), (Some(7), false));
        assert_eq!(Note::read(b"{"), None);
    }
}
