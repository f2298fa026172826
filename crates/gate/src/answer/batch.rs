//! Defines the answers about files and batches, in the form of OpenAI's clients.

use super::LIST;
use penstock_policy::batches::words::{Batch as Words, BatchState, Fault, File as Stored, Listing};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

const FILE: &str = "file";
const BATCH: &str = "batch";

/// The only window that OpenAI's clients know.
pub(crate) const WINDOW: &str = "24h";

/// A file.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiFile")]
pub(crate) struct File {
    id: String,
    #[schemars(extend("const" = FILE))]
    object: &'static str,
    /// The size in bytes.
    bytes: u64,
    /// When it was stored, in seconds since the Unix epoch.
    created_at: u64,
    /// When it is deleted.
    expires_at: u64,
    filename: String,
    #[schemars(extend("enum" = ["batch", "batch_output"]))]
    purpose: &'static str,
    #[schemars(extend("const" = "processed"))]
    status: &'static str,
}

/// A page of files.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiFileList")]
pub(crate) struct FileList {
    #[schemars(extend("const" = LIST))]
    object: &'static str,
    data: Vec<File>,
    first_id: Option<String>,
    last_id: Option<String>,
    /// Whether there are more; they begin after `last_id`.
    has_more: bool,
}

/// A file that was deleted.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiFileDeleted")]
pub(crate) struct FileDeleted {
    id: String,
    #[schemars(extend("const" = FILE))]
    object: &'static str,
    deleted: bool,
}

/// A batch: calls that run later.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiBatch")]
pub(crate) struct Batch {
    id: String,
    #[schemars(extend("const" = BATCH))]
    object: &'static str,
    /// The path that each line calls.
    endpoint: String,
    /// The faults of the input file.
    errors: Option<BatchErrors>,
    input_file_id: String,
    completion_window: &'static str,
    #[schemars(extend("enum" = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]))]
    status: &'static str,
    /// The answers of the lines that succeeded.
    output_file_id: Option<String>,
    /// The answers of the lines that failed.
    error_file_id: Option<String>,
    /// When it was created, in seconds since the Unix epoch.
    created_at: u64,
    in_progress_at: Option<u64>,
    /// When no further line begins.
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: BatchRequestCounts,
    /// The client's own notes.
    metadata: Option<BTreeMap<String, String>>,
}

/// The faults of an input file.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiBatchErrors")]
pub(crate) struct BatchErrors {
    #[schemars(extend("const" = LIST))]
    object: &'static str,
    data: Vec<BatchFault>,
}

/// A fault of an input file.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiBatchFault")]
pub(crate) struct BatchFault {
    /// A stable word for programs.
    code: String,
    /// The line, from 1, if the fault is of one line.
    line: Option<u64>,
    /// The fault and its remedy.
    message: String,
    /// The member that is wrong.
    param: Option<String>,
}

/// The counts of the lines of a batch.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiBatchCounts")]
pub(crate) struct BatchRequestCounts {
    total: u64,
    /// Lines in the output file.
    completed: u64,
    /// Lines in the error file.
    failed: u64,
}

/// A page of batches.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiBatchList")]
pub(crate) struct BatchList {
    #[schemars(extend("const" = LIST))]
    object: &'static str,
    data: Vec<Batch>,
    first_id: Option<String>,
    last_id: Option<String>,
    /// Whether there are more; they begin after `last_id`.
    has_more: bool,
}

fn seconds(ms: u64) -> u64 {
    ms / 1_000
}

impl From<Stored> for File {
    fn from(file: Stored) -> Self {
        Self {
            id: file.id.as_str().to_owned(),
            object: FILE,
            bytes: file.bytes,
            created_at: seconds(file.created_ms),
            expires_at: seconds(file.expires_ms),
            filename: file.filename,
            purpose: file.purpose.as_str(),
            status: "processed",
        }
    }
}

impl From<Listing<Stored>> for FileList {
    fn from(listing: Listing<Stored>) -> Self {
        let data: Vec<File> = listing.data.into_iter().map(File::from).collect();
        Self {
            object: LIST,
            first_id: data.first().map(|file| file.id.clone()),
            last_id: data.last().map(|file| file.id.clone()),
            data,
            has_more: listing.has_more,
        }
    }
}

impl FileDeleted {
    /// The answer about a file that was deleted.
    pub(crate) fn of(file: &Stored) -> Self {
        Self {
            id: file.id.as_str().to_owned(),
            object: FILE,
            deleted: true,
        }
    }
}

impl From<Fault> for BatchFault {
    fn from(fault: Fault) -> Self {
        let Fault {
            code,
            line,
            message,
            param,
        } = fault;
        Self {
            code,
            line,
            message,
            param,
        }
    }
}

impl From<Words> for Batch {
    fn from(batch: Words) -> Self {
        let ended_in = |state: BatchState| match batch.state == state {
            true => batch.times.ended_ms.map(seconds),
            false => None,
        };
        Self {
            id: batch.id.as_str().to_owned(),
            object: BATCH,
            errors: (!batch.faults.is_empty()).then(|| BatchErrors {
                object: LIST,
                data: batch.faults.iter().cloned().map(BatchFault::from).collect(),
            }),
            input_file_id: batch.input_file.as_str().to_owned(),
            completion_window: WINDOW,
            status: batch.state.as_str(),
            output_file_id: (batch.output_file.as_ref()).map(|id| id.as_str().to_owned()),
            error_file_id: (batch.error_file.as_ref()).map(|id| id.as_str().to_owned()),
            created_at: seconds(batch.created_ms),
            in_progress_at: batch.times.in_progress_ms.map(seconds),
            expires_at: seconds(batch.expires_ms),
            finalizing_at: batch.times.finalizing_ms.map(seconds),
            completed_at: ended_in(BatchState::Completed),
            failed_at: ended_in(BatchState::Failed),
            expired_at: ended_in(BatchState::Expired),
            cancelling_at: batch.times.cancelling_ms.map(seconds),
            cancelled_at: ended_in(BatchState::Cancelled),
            request_counts: BatchRequestCounts {
                total: batch.counts.total,
                completed: batch.counts.completed,
                failed: batch.counts.failed,
            },
            endpoint: batch.endpoint,
            metadata: match batch.metadata.is_empty() {
                true => None,
                false => Some(batch.metadata.into_iter().collect()),
            },
        }
    }
}

impl From<Listing<Words>> for BatchList {
    fn from(listing: Listing<Words>) -> Self {
        let data: Vec<Batch> = listing.data.into_iter().map(Batch::from).collect();
        Self {
            object: LIST,
            first_id: data.first().map(|batch| batch.id.clone()),
            last_id: data.last().map(|batch| batch.id.clone()),
            data,
            has_more: listing.has_more,
        }
    }
}
