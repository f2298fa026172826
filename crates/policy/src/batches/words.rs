//! The types between batches and the gate: files, batches, the work of a step.
//!
//! The WIT package `penstock:batches` has the same types for components. The components in `guest` only convert.

use crate::operations::words::End;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{BatchId, Caller, Code, FileId, OperationId, Problem};
use serde::{Deserialize, Serialize};

/// The settings of `[batches]` that the gate needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether there are files and batches.
    pub enabled: bool,
    /// The largest file in bytes, of uploads and of results.
    pub max_file_bytes: u64,
    /// Milliseconds after which a step begins no further line.
    pub slice_ms: u64,
}

/// A file to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// The tenant to which it belongs.
    pub tenant: String,
    /// The name that the client gave it.
    pub filename: String,
    /// The content.
    pub content: Vec<u8>,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The requests of a batch. A client uploads it.
    Batch,
    /// The answers of a batch.
    BatchOutput,
}

impl Purpose {
    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
        }
    }

    /// The purpose that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Batch, Self::BatchOutput]
            .into_iter()
            .find(|purpose| purpose.as_str() == word)
    }
}

/// A stored file, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id, which also tells the time of its creation.
    pub id: FileId,
    /// The name.
    pub filename: String,
    /// The purpose.
    pub purpose: Purpose,
    /// The size in bytes.
    pub bytes: u64,
    /// The time of its creation, in milliseconds since the Unix epoch, as all times here.
    pub created_ms: u64,
    /// The time at which it is deleted.
    pub expires_ms: u64,
}

/// The part of a list that a request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The id after which the page begins, as the client sent it; `None` for the first page.
    pub after: Option<String>,
    /// The most entries.
    pub most: u32,
    /// Whether the oldest comes first.
    pub oldest_first: bool,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The entries.
    pub data: Vec<T>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A batch to create. Its caller is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// The caller, by which each line runs. Its address is not stored.
    pub caller: Caller,
    /// The priority of the caller's tier.
    pub priority: Option<u8>,
    /// The path that each line calls.
    pub endpoint: String,
    /// The file with the lines.
    pub input_file: FileId,
    /// The client's own notes.
    pub metadata: Vec<(String, String)>,
    /// The id of the request, for logs.
    pub request_id: String,
}

/// The state of a batch, as OpenAI names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// Its lines are not checked yet.
    Validating,
    /// Its lines are not valid, or it failed as a whole.
    Failed,
    /// Its lines run.
    InProgress,
    /// All lines have run, and its files are written.
    Finalizing,
    /// Every line has an answer.
    Completed,
    /// Its time was over before every line had run.
    Expired,
    /// A caller asked for its end, and its last lines run.
    Cancelling,
    /// It was cancelled.
    Cancelled,
}

impl BatchState {
    /// Every state, in the order of a batch's life.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the batch is over.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }
}

/// A fault of the input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A stable word for programs.
    pub code: String,
    /// The line, from 1; `None` if the fault is not of one line.
    pub line: Option<u64>,
    /// The fault and its remedy.
    pub message: String,
    /// The member that is wrong.
    pub param: Option<String>,
}

/// The times at which a batch reached its states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Its lines were valid.
    pub in_progress_ms: Option<u64>,
    /// All its lines had run.
    pub finalizing_ms: Option<u64>,
    /// A caller asked for its end.
    pub cancelling_ms: Option<u64>,
    /// It was over.
    pub ended_ms: Option<u64>,
}

/// The counts of the lines of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All lines.
    pub total: u64,
    /// Lines in the output file.
    pub completed: u64,
    /// Lines in the error file.
    pub failed: u64,
}

/// A batch, as its tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its id, which also tells the time of its creation.
    pub id: BatchId,
    /// Its state.
    pub state: BatchState,
    /// The path that each line calls.
    pub endpoint: String,
    /// The file with the lines.
    pub input_file: FileId,
    /// The file with the answers of lines that succeeded.
    pub output_file: Option<FileId>,
    /// The file with the answers of lines that failed.
    pub error_file: Option<FileId>,
    /// The faults of the input file.
    pub faults: Vec<Fault>,
    /// The time of its creation.
    pub created_ms: u64,
    /// The time from which no line begins.
    pub expires_ms: u64,
    /// The times of its states.
    pub times: Times,
    /// The counts of its lines.
    pub counts: Counts,
    /// The client's own notes.
    pub metadata: Vec<(String, String)>,
    /// The step that is to run, for the host's queue; `None` if the batch is over.
    pub next: Option<Next>,
}

/// A step for the host's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The operation.
    pub operation: OperationId,
    /// The tenant to which it belongs.
    pub tenant: String,
    /// The path that its lines call, in the place of a model.
    pub endpoint: String,
    /// The priority of its caller's tier.
    pub priority: Option<u8>,
    /// Its lines, at most.
    pub items: u64,
    /// The time before which it should not begin.
    pub due_ms: u64,
}

/// The work of a step that a worker has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The step has done all its work, with this end.
    Done(End),
    /// The worker is to run these lines.
    Run(Lines),
}

/// The lines of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The batch.
    pub batch: BatchId,
    /// The path that each line calls.
    pub endpoint: String,
    /// The lines to run, in order.
    pub lines: Vec<Line>,
    /// Bytes of the output file so far.
    pub output_bytes: u64,
    /// Bytes of the error file so far.
    pub error_bytes: u64,
    /// The time from which no line begins.
    pub expires_ms: u64,
    /// Steps just before this one that ran no line.
    pub idle: u32,
}

/// A line of the input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The client's id of the line.
    pub custom_id: String,
    /// The body of the call, as JSON.
    pub body: Vec<u8>,
    /// The number of the request in the file, from 0.
    pub number: u64,
    /// The place in the file at which the next line begins.
    pub end: u64,
}

/// The reason why batches refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The tenant has as many files, bytes or batches as it may.
    Full,
    /// The file is larger than a file may be.
    TooLarge,
    /// The request names a file that cannot be used for it.
    NoSuchFile,
    /// The file or batch is not in the state for it.
    NotNow,
    /// The store does not answer.
    StoreFailed,
}

/// The refusal of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller: the cause and the remedy.
    pub message: String,
}

/// Seconds for `Retry-After` while a tenant has too much. Files expire after hours.
const RETRY_FULL_S: u32 = 30;

impl RefusalKind {
    /// The error code of the answer.
    pub const fn code(self) -> Code {
        match self {
            Self::Full => Code::QuotaExceeded,
            Self::TooLarge => Code::BodyTooLarge,
            Self::NoSuchFile => Code::InvalidBody,
            Self::NotNow => Code::FailedPrecondition,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

impl Refusal {
    /// A refusal with its message.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The component returned an id that is none.
    pub fn not_an_id() -> Self {
        Self::new(
            RefusalKind::StoreFailed,
            "the batches component returned an id of another form",
        )
    }

    /// The problem document of the answer.
    pub fn problem(self) -> Problem {
        let problem = Problem::new(self.kind.code(), self.message);
        match self.kind {
            RefusalKind::Full => problem.retry_after(RETRY_FULL_S),
            RefusalKind::StoreFailed => problem.retry_after(RETRY_STORE_S),
            RefusalKind::TooLarge | RefusalKind::NoSuchFile | RefusalKind::NotNow => problem,
        }
    }
}
