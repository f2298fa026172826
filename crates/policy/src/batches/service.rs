//! Batches as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::Batches;
use super::words::{
    Batch, File, Listing, NewBatch, NewFile, Next, Page, Purpose, Refusal, RefusalKind, Rules, Work,
};
use crate::document;
use penstock_core::kv::run_ready;
use penstock_core::{BatchId, FileId, Kv, KvError, OperationId};
use std::cell::RefCell;

/// The files and batches of a policy.
pub trait BatchesService {
    /// The settings that the gate needs.
    fn rules(&self) -> Rules;
    /// Stores a file that a client uploads.
    fn upload(&self, new: NewFile, at: (u64, u128)) -> Result<File, Refusal>;
    /// Reads a file of a tenant; `None` if there is none.
    fn file(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<File>, Refusal>;
    /// Reads the content of a file of a tenant; `None` if there is none.
    fn content(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<Vec<u8>>, Refusal>;
    /// Deletes a file of a tenant; `None` if there is none.
    fn delete_file(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<File>, Refusal>;
    /// Lists files of a tenant.
    fn files(
        &self,
        tenant: &str,
        page: &Page,
        purpose: Option<Purpose>,
        now_ms: u64,
    ) -> Result<Listing<File>, Refusal>;
    /// Creates a batch. It is durable before its answer leaves the host.
    fn create(&self, new: NewBatch, at: (u64, u128)) -> Result<Batch, Refusal>;
    /// Reads a batch of a tenant; `None` if there is none.
    fn batch(&self, id: &BatchId, tenant: &str, now_ms: u64) -> Result<Option<Batch>, Refusal>;
    /// Lists batches of a tenant.
    fn batches(&self, tenant: &str, page: &Page, now_ms: u64) -> Result<Listing<Batch>, Refusal>;
    /// Asks for the end of a batch; `None` if there is none.
    fn cancel(&self, id: &BatchId, tenant: &str, now_ms: u64) -> Result<Option<Batch>, Refusal>;
    /// Returns whether a caller asked for the end of a batch.
    fn is_cancelled(&self, id: &BatchId) -> Result<bool, Refusal>;
    /// Begins a step that its worker has claimed: does its work, or returns the lines that are to run.
    fn begin(&self, step: &[u8], at: (u64, u128)) -> Result<Work, Refusal>;
    /// Stores the step that follows an operation, if that is a step that has ended. Returns the step for the host's queue.
    fn advance(&self, operation: &OperationId, at: (u64, u128)) -> Result<Option<Next>, Refusal>;
}

/// Batches over a store, with the memory of one instance.
///
/// ```
/// use penstock_policy::batches::service::{BatchesService, KvBatches};
/// use penstock_policy::batches::words::NewFile;
/// use penstock_testkit::MemoryKv;
///
/// let batches = KvBatches::open("", MemoryKv::default()).unwrap();
/// let now_ms = 1_700_000_000_000;
/// let new = NewFile { tenant: "t".into(), filename: "a.jsonl".into(), content: b"{}\n".to_vec() };
/// let file = batches.upload(new, (now_ms, 7)).unwrap();
/// assert_eq!(batches.content(&file.id, "t", now_ms).unwrap().unwrap(), b"{}\n");
/// assert_eq!(batches.file(&file.id, "another tenant", now_ms).unwrap(), None);
/// ```
#[derive(Debug)]
pub struct KvBatches<K> {
    batches: RefCell<Batches>,
    kv: K,
}

impl<K: Kv> KvBatches<K> {
    /// Reads `[batches]` and `[operations]` of a policy file; the error is a sentence for the operator.
    pub fn open(text: &str, kv: K) -> Result<Self, String> {
        let batches = Batches::new(document::batches(text)?, document::operations(text)?);
        Ok(Self {
            batches: RefCell::new(batches),
            kv,
        })
    }
}

impl<K: Kv> BatchesService for KvBatches<K> {
    fn rules(&self) -> Rules {
        let batches = self.batches.borrow();
        let settings = batches.settings();
        Rules {
            enabled: settings.enabled && batches.can_run(),
            max_file_bytes: settings.max_file_bytes,
            slice_ms: batches.slice_ms(),
        }
    }

    fn upload(&self, new: NewFile, at: (u64, u128)) -> Result<File, Refusal> {
        let mut batches = self.batches.borrow_mut();
        answered(batches.upload(&self.kv, new, at))
    }

    fn file(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<File>, Refusal> {
        stored(self.batches.borrow().file(&self.kv, id, tenant, now_ms))
    }

    fn content(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<Vec<u8>>, Refusal> {
        stored(self.batches.borrow().content(&self.kv, id, tenant, now_ms))
    }

    fn delete_file(&self, id: &FileId, tenant: &str, now_ms: u64) -> Result<Option<File>, Refusal> {
        let batches = self.batches.borrow();
        answered(batches.delete_file(&self.kv, id, tenant, now_ms))
    }

    fn files(
        &self,
        tenant: &str,
        page: &Page,
        purpose: Option<Purpose>,
        now_ms: u64,
    ) -> Result<Listing<File>, Refusal> {
        let batches = self.batches.borrow();
        answered(batches.files(&self.kv, tenant, page, purpose, now_ms))
    }

    fn create(&self, new: NewBatch, at: (u64, u128)) -> Result<Batch, Refusal> {
        let mut batches = self.batches.borrow_mut();
        answered(batches.create(&self.kv, new, at))
    }

    fn batch(&self, id: &BatchId, tenant: &str, now_ms: u64) -> Result<Option<Batch>, Refusal> {
        stored(self.batches.borrow().batch(&self.kv, id, tenant, now_ms))
    }

    fn batches(&self, tenant: &str, page: &Page, now_ms: u64) -> Result<Listing<Batch>, Refusal> {
        let batches = self.batches.borrow();
        answered(batches.batches(&self.kv, tenant, page, now_ms))
    }

    fn cancel(&self, id: &BatchId, tenant: &str, now_ms: u64) -> Result<Option<Batch>, Refusal> {
        stored(self.batches.borrow().cancel(&self.kv, id, tenant, now_ms))
    }

    fn is_cancelled(&self, id: &BatchId) -> Result<bool, Refusal> {
        stored(self.batches.borrow().is_cancelled(&self.kv, id))
    }

    fn begin(&self, step: &[u8], at: (u64, u128)) -> Result<Work, Refusal> {
        stored(self.batches.borrow_mut().begin(&self.kv, step, at))
    }

    fn advance(&self, operation: &OperationId, at: (u64, u128)) -> Result<Option<Next>, Refusal> {
        stored(self.batches.borrow_mut().advance(&self.kv, operation, at))
    }
}

/// Performs an operation of the store.
fn stored<T>(work: impl Future<Output = Result<T, KvError>>) -> Result<T, Refusal> {
    run_ready(work).map_err(|error| {
        let message = format!("the store of batches does not answer: {error}");
        Refusal::new(RefusalKind::StoreFailed, message)
    })
}

/// Performs an operation of the store that may refuse.
fn answered<T>(
    work: impl Future<Output = Result<Result<T, Refusal>, KvError>>,
) -> Result<T, Refusal> {
    stored(work)?
}
