//! The steps of batches: operations whose ids are computed, which their tenant neither sees nor pays a place for.
//!
//! A step is an operation like any other: a worker claims it, renews its lease, and commits its end once. When it has ended, the
//! batch's next step follows from its end. Until then the step has a mark (`g`), by which a host that starts finds it.

use super::entries::{self, Names};
use super::record::ONE;
use super::removal::remove_contents;
use super::state::progress;
use super::store::{Operations, read_parts};
use super::words::{Operation, STEP, Submission};
use penstock_core::{Kv, KvError, OperationId};

/// The owner of the entries of all steps. Batches have their own bounds, so steps take no places of their tenants.
const OWNER: &str = "steps";

/// A step as its batch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StepSeen {
    /// The operation, without the body of its end.
    pub operation: Operation,
    /// The body of the step: its work, as it was accepted.
    pub body: Vec<u8>,
    /// The priority of the caller's tier.
    pub priority: Option<u8>,
}

impl Operations {
    /// Stores a step, unless it is stored. Every attempt at the same step has the same body.
    pub(crate) async fn accept_step<K: Kv>(
        &mut self,
        kv: &K,
        id: &OperationId,
        submission: Submission,
        (now_ms, random): (u64, u128),
    ) -> Result<(), KvError> {
        if kv.exists(&Names::of(id).head()).await? {
            return Ok(());
        }
        // The removal of a step returns this.
        let charge = ONE + i64::try_from(submission.body.len()).unwrap_or(i64::MAX);
        kv.increment(&entries::used(OWNER), charge).await?;
        self.write(kv, id, OWNER.to_owned(), submission, (now_ms, random))
            .await?;
        Ok(())
    }

    /// Reads a step; `None` if the operation does not exist, or is not a step.
    pub(crate) async fn step<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        now_ms: u64,
    ) -> Result<Option<StepSeen>, KvError> {
        let Some(seen) = self.read(kv, id, now_ms).await? else {
            return Ok(None);
        };
        if seen.accepted.kind != STEP {
            return Ok(None);
        }
        let progress = progress(&seen, &self.settings, now_ms, 0);
        let Some(operation) = self.describe(id, &seen, progress, now_ms) else {
            return Ok(None);
        };
        Ok(Some(StepSeen {
            operation,
            // A step is smaller than a part.
            body: read_parts(kv, &[Names::of(id).body(0)]).await?,
            priority: seen.accepted.priority,
        }))
    }

    /// Returns whether a step is stored.
    pub(crate) async fn has_step<K: Kv>(&self, kv: &K, id: &OperationId) -> Result<bool, KvError> {
        kv.exists(&Names::of(id).head()).await
    }

    /// The body of the end of a step. Fails if the step was removed.
    pub(crate) async fn step_end<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        now_ms: u64,
    ) -> Result<Vec<u8>, KvError> {
        let found = self.get(kv, id, None, true, now_ms).await?;
        let end = found.and_then(|found| found.end);
        // A worker that was taken for dead may look for it after the batch was over. It must not write files without it.
        end.and_then(|end| end.body)
            .ok_or_else(|| KvError::new("the result of a step is not there any more"))
    }

    /// Returns whether the next step was not stored yet, and the batch is not known to be over.
    pub(crate) async fn is_guarded<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
    ) -> Result<bool, KvError> {
        kv.exists(&Names::of(id).guard()).await
    }

    /// Notes that the next step was stored, or that the batch is over.
    pub(crate) async fn follow_step<K: Kv>(&self, kv: &K, id: &OperationId) -> Result<(), KvError> {
        kv.delete(&Names::of(id).guard()).await
    }

    /// Deletes the contents of a step whose batch is over.
    pub(crate) async fn remove_step<K: Kv>(&self, kv: &K, id: &OperationId) -> Result<(), KvError> {
        let names = Names::of(id);
        kv.set(&names.deleted(), b"1").await?;
        remove_contents(kv, &names).await
    }
}
