//! The types between operations and the gate: a call to accept, an operation, a run.
//!
//! The WIT package `penstock:operations` has the same types for components. The components in `guest` only convert.

use crate::webhooks::delivery::{Delivery, EventKind};
use crate::webhooks::target::Target;
use penstock_core::headers::Headers;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Caller, Code, OperationId, Problem};
use serde::{Deserialize, Serialize};

/// The kind of a step of a batch, in place of the kind of a route.
pub const STEP: &str = "batch";

/// The settings of `[operations]` that the gate needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether calls may become operations.
    pub enabled: bool,
    /// The number of items from which a call becomes an operation without being asked to; 0 for never.
    pub from_items: u64,
    /// The largest result in bytes.
    pub max_result_bytes: u64,
}

/// A call that is to become an operation. Its caller is authenticated, its body is valid and its charges are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The caller, after authentication. Its address is not stored.
    pub caller: Caller,
    /// The kind of route, by its name in policies.
    pub kind: String,
    /// The name of the model.
    pub model: String,
    /// The version that runs it.
    pub version: u64,
    /// The priority of the caller's tier.
    pub priority: Option<u8>,
    /// The number of items in the call.
    pub items: u64,
    /// The HTTP method of the call.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The headers that change how the call is read or answered.
    pub headers: Headers,
    /// The body as sent.
    pub body: Vec<u8>,
    /// The id of the request, for logs.
    pub request_id: String,
    /// The charges to return if it never runs, as the limits wrote them; empty for none.
    pub receipt: String,
    /// A text that is the same for all retries of one call; `None` if the call has no idempotency key.
    pub retry_of: Option<String>,
    /// The receiver of its end; `None` if there is none.
    pub webhook: Option<Target>,
}

/// A call that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedCall {
    /// The operation as its caller sees it now.
    pub operation: Operation,
    /// Whether the operation was made now. Otherwise an earlier attempt at the same call had made it, and has paid for it.
    pub is_new: bool,
}

/// A call as it was accepted, for its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The fencing token of this run.
    pub epoch: u32,
    /// Runs of this operation so far, with this one.
    pub attempt: u32,
    /// The most runs that this operation may have, by the settings.
    pub max_attempts: u32,
    /// The call as it was accepted, with its body.
    pub submission: Submission,
}

/// The state of an operation. The last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// It waits for a worker.
    Queued,
    /// A worker holds its lease and runs it.
    Running,
    /// It ended with a result.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// It was cancelled before it had a result.
    Cancelled,
}

impl OperationState {
    /// Every state, in the order of an operation's life.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The event that announces the state; `None` if none does.
    pub const fn event(self) -> Option<EventKind> {
        match self {
            Self::Succeeded => Some(EventKind::Succeeded),
            Self::Failed => Some(EventKind::Failed),
            Self::Cancelled => Some(EventKind::Cancelled),
            Self::Queued | Self::Running => None,
        }
    }

    /// Returns whether the operation has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// An operation, as its tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id, which also tells the time of its creation.
    pub id: OperationId,
    /// The tenant to which it belongs.
    pub tenant: String,
    /// The kind of route, such as `predict`.
    pub kind: String,
    /// The name of the model.
    pub model: String,
    /// The number of the version that runs it.
    pub version: u64,
    /// The number of items in the call.
    pub items: u64,
    /// The state at the time of the request.
    pub state: OperationState,
    /// Whether a caller asked for its end.
    pub cancel_requested: bool,
    /// The time of acceptance, in milliseconds since the Unix epoch, as all times here.
    pub created_ms: u64,
    /// The time at which its last run began; `None` before its first.
    pub started_ms: Option<u64>,
    /// The time at which it ended; `None` before.
    pub ended_ms: Option<u64>,
    /// The time at which its result is deleted; `None` before it has ended.
    pub expires_ms: Option<u64>,
    /// The earliest time of its next attempt, if the last one failed.
    pub next_attempt_ms: Option<u64>,
    /// Runs that counted as attempts so far.
    pub attempts: u32,
    /// The epoch in which it runs, or the next one in which it may run. It orders the states of an operation that has not ended.
    pub epoch: u32,
    /// Its result, if it ended.
    pub end: Option<End>,
    /// The announcement of its end, if there is one. Lists leave it out.
    pub webhook: Option<Webhook>,
}

/// The announcement of the end of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The URL that the call named; `None` for the tenant's own.
    pub url: Option<String>,
    /// The state of its delivery.
    pub delivery: Delivery,
}

/// The end of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The final state: succeeded, failed or cancelled.
    pub state: OperationState,
    /// The error code; empty if it succeeded.
    pub code: String,
    /// The error message; empty if it succeeded.
    pub message: String,
    /// The status of the answer that a synchronous call would have got.
    pub status: u16,
    /// The headers of that answer.
    pub headers: Headers,
    /// Bytes of the body of that answer.
    pub body_bytes: u64,
    /// The body, if it was asked for.
    pub body: Option<Vec<u8>>,
}

/// Operations of one tenant, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The operations, without bodies.
    pub operations: Vec<Operation>,
    /// The place at which the next page begins: an hour, and a number in it.
    pub next: Option<(u64, u64)>,
}

/// The result of an attempt to run an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The caller runs it, and ends the run.
    Granted(Box<Run>),
    /// The operation has ended. Its charges are to be returned with this receipt, if it is not empty.
    Ended(String),
    /// Another worker runs it, or its next attempt is later: look again at this time.
    Later(u64),
    /// There is no such operation.
    Gone,
}

/// The cause of the end of a run that its worker did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abandoned {
    /// It was cancelled, and the run is interrupted.
    Cancelled,
    /// It took longer than a run may.
    TimedOut,
    /// The host shuts down. Another worker may run it at once, and the attempt does not count.
    Stopping,
    /// The components trapped, or did not answer.
    Crashed,
}

/// The next step of a worker that asked to renew its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewal {
    /// The lease is renewed and the run goes on.
    Renewed,
    /// It interrupts the run, because a caller asked for the end.
    Cancelled,
    /// It interrupts the run, because it lost its lease.
    Lost,
}

/// The reason why operations refuse a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The tenant has as many operations, or bytes of them, as it may.
    Full,
    /// The operation is not in the state for it.
    NotNow,
    /// The store does not answer.
    StoreFailed,
}

/// The refusal of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller: the cause and the remedy.
    pub message: String,
}

/// Seconds for `Retry-After` while a tenant has too many operations. Results are deleted after hours.
const RETRY_FULL_S: u32 = 30;

impl RefusalKind {
    /// The error code of the answer.
    pub const fn code(self) -> Code {
        match self {
            Self::Full => Code::QuotaExceeded,
            Self::NotNow => Code::FailedPrecondition,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

impl Refusal {
    /// The component returned an id that is none.
    pub fn not_an_id() -> Self {
        Self {
            kind: RefusalKind::StoreFailed,
            message: "the operations component returned an id of another form".to_owned(),
        }
    }

    /// The problem document of the answer.
    pub fn problem(self) -> Problem {
        let problem = Problem::new(self.kind.code(), self.message);
        match self.kind {
            RefusalKind::Full => problem.retry_after(RETRY_FULL_S),
            RefusalKind::NotNow => problem,
            RefusalKind::StoreFailed => problem.retry_after(RETRY_STORE_S),
        }
    }
}
