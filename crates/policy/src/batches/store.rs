//! Creates, reads, lists and cancels batches, and stores the step that follows another.

use super::entries::{BatchRecord, Kind, Names, owner};
use super::files::{Answer, MAX_USES, begin_live, end_live, no_such_place};
use super::instance::Batches;
use super::step::{After, Finished, Outcome, Step, StepEnd, StepWork, Summary, after, step_id};
use super::words::{
    Batch, BatchState, Counts, Fault, Listing, NewBatch, Next, Page, Purpose, Refusal, RefusalKind,
    Times,
};
use crate::operations::words::Submission;
use crate::operations::{STEP, StepSeen};
use crate::records::{decode, encode};
use penstock_core::{BatchId, Code, FileId, Kv, KvError, OperationId};

/// The time after its creation in which a batch may have no first step yet. A request takes less.
const STARTING_MS: u64 = 60_000;

/// A batch and its newest step.
pub(super) struct Found {
    pub id: BatchId,
    pub record: BatchRecord,
    pub cancel_ms: Option<u64>,
    pub step: Step,
    pub seen: StepSeen,
}

impl Batches {
    /// Creates a batch over a file.
    pub async fn create<K: Kv>(
        &mut self,
        kv: &K,
        new: NewBatch,
        (now_ms, random): (u64, u128),
    ) -> Answer<Batch> {
        let tenant = new.caller.tenant.clone();
        let refused = |message: String| Ok(Err(Refusal::new(RefusalKind::NoSuchFile, message)));
        let input = &new.input_file;
        let file = self.find_file(kv, input, &tenant, now_ms).await?;
        match &file {
            None => {
                return refused(format!(
                    "`input_file_id` names no file of yours; upload one with POST /v1/files, or list them with GET /v1/files: {input}"
                ));
            }
            Some((file, _)) if file.purpose != Purpose::Batch => {
                return refused(format!(
                    "`input_file_id` names a file with the purpose {}; a batch reads one that was uploaded with the purpose batch",
                    file.purpose.as_str()
                ));
            }
            Some(_) => {}
        }
        let id = BatchId::generate(now_ms, random);
        let names = Names::of_batch(&id);
        let owner = owner(&tenant);
        let most = self.settings.max_live_per_tenant;
        let too_many = || {
            let message = format!(
                "your tenant has {most} batches that are not over, the limit; wait for the end of one, or cancel one"
            );
            Ok(Err(Refusal::new(RefusalKind::Full, message)))
        };
        // Refusals come before the first entry, so that they leave none.
        let live = kv.increment(&Kind::Batch.used(&owner), 0).await?;
        if live >= i64::try_from(most).unwrap_or(i64::MAX) {
            return too_many();
        }
        // Its results need room beside the files of the tenant.
        let used = kv.increment(&Kind::File.used(&owner), 0).await?;
        if let Some(message) = self.over(used) {
            return Ok(Err(Refusal::new(RefusalKind::Full, message)));
        }
        let number = self
            .enlist(
                kv,
                Kind::Batch,
                (id.as_str(), &names, &owner),
                (now_ms, random),
            )
            .await?;
        let live = begin_live(kv, &names, &owner).await?;
        if live > i64::try_from(most).unwrap_or(i64::MAX) {
            end_live(kv, &names, &owner).await?;
            return too_many();
        }
        let made = self
            .store_batch(kv, new, (&id, owner.clone(), number), (now_ms, random))
            .await;
        if made.is_err() {
            // If the first step was stored nevertheless, the batch runs, and its end returns nothing more.
            let _ = end_live(kv, &names, &owner).await;
        }
        made
    }

    /// Stores a batch that has its place.
    async fn store_batch<K: Kv>(
        &mut self,
        kv: &K,
        new: NewBatch,
        (id, owner, number): (&BatchId, String, u64),
        (now_ms, random): (u64, u128),
    ) -> Answer<Batch> {
        let tenant = new.caller.tenant.clone();
        let input = &new.input_file;
        let names = Names::of_batch(id);
        let record = BatchRecord {
            caller: penstock_core::Caller {
                address: None,
                ..new.caller
            },
            owner,
            priority: new.priority,
            endpoint: new.endpoint,
            input_file: input.as_str().to_owned(),
            metadata: new.metadata,
            request_id: new.request_id,
            created_ms: now_ms,
            expires_ms: now_ms.saturating_add(self.settings.window_s.saturating_mul(1_000)),
            number,
        };
        if let Some(refusal) = self.use_file(kv, input, id, &tenant, now_ms).await? {
            end_live(kv, &names, &record.owner).await?;
            return Ok(Err(refusal));
        }
        // The step comes last: a worker may run it at once, and needs the record.
        kv.set(&names.head(), &encode(&record)).await?;
        let first = Step::first(id);
        self.accept(kv, id, &record, &first, (now_ms, random))
            .await?;
        match self.find(kv, id, Some(&tenant), now_ms).await? {
            Some(found) => Ok(Ok(self.describe(&found))),
            None => Err(KvError::new("a batch that was stored is not there")),
        }
    }

    /// Notes that a batch reads a file. A file that is being deleted is not there any more.
    async fn use_file<K: Kv>(
        &self,
        kv: &K,
        file: &FileId,
        batch: &BatchId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Refusal>, KvError> {
        let names = Names::of_file(file);
        let number = u64::try_from(kv.increment(&names.uses(), 1).await?).unwrap_or(u64::MAX);
        if number > MAX_USES {
            return Ok(Some(Refusal::new(
                RefusalKind::NotNow,
                format!("{MAX_USES} batches have read this file, the limit; upload it again"),
            )));
        }
        kv.set(&names.used_by(number), batch.as_str().as_bytes())
            .await?;
        Ok(match self.find_file(kv, file, tenant, now_ms).await? {
            Some(_) => None,
            None => {
                kv.delete(&names.used_by(number)).await?;
                Some(Refusal::new(
                    RefusalKind::NoSuchFile,
                    "`input_file_id` names a file that was deleted just now",
                ))
            }
        })
    }

    /// The batch that is not over and reads a file.
    pub(super) async fn reader_of<K: Kv>(
        &self,
        kv: &K,
        file: &Names,
        now_ms: u64,
    ) -> Result<Option<BatchId>, KvError> {
        if !kv.exists(&file.uses()).await? {
            return Ok(None);
        }
        let uses = kv.increment(&file.uses(), 0).await?;
        for number in (1..=u64::try_from(uses).unwrap_or(0).min(MAX_USES)).rev() {
            let id = kv.get(&file.used_by(number)).await?.unwrap_or_default();
            let Some(id) = std::str::from_utf8(&id).ok().and_then(BatchId::parse) else {
                continue;
            };
            match self.find(kv, &id, None, now_ms).await? {
                Some(found) if !self.describe(&found).state.is_final() => return Ok(Some(id)),
                Some(_) => {}
                // Its creation has noted the file, and may not have stored its first step yet.
                None if now_ms.saturating_sub(id.unix_ms()) < STARTING_MS => return Ok(Some(id)),
                None => {}
            }
        }
        Ok(None)
    }

    /// Stores a step. Every attempt stores the same.
    async fn accept<K: Kv>(
        &mut self,
        kv: &K,
        id: &BatchId,
        record: &BatchRecord,
        step: &Step,
        at: (u64, u128),
    ) -> Result<(), KvError> {
        let submission = Submission {
            caller: record.caller.clone(),
            kind: STEP.to_owned(),
            // Queues name the model of an operation. The lines of a batch may name several.
            model: record.endpoint.clone(),
            version: 1,
            priority: record.priority,
            items: step.items(),
            method: "POST".to_owned(),
            target: format!("/v1/batches/{id}"),
            headers: Vec::new(),
            body: step.encode(),
            request_id: record.request_id.clone(),
            receipt: String::new(),
            retry_of: None,
            webhook: None,
        };
        let operation = step_id(id, step.number);
        self.steps.accept_step(kv, &operation, submission, at).await
    }

    pub(super) async fn record<K: Kv>(
        &self,
        kv: &K,
        id: &BatchId,
    ) -> Result<Option<(BatchRecord, Option<u64>, u32)>, KvError> {
        let names = Names::of_batch(id);
        let asked = [names.head(), names.cancel(), names.newest()];
        let many = kv.read_many(&asked, 3).await?;
        let [head, cancel, newest] = many.values.try_into().unwrap_or_default();
        let record = head.as_deref().and_then(decode::<BatchRecord>);
        let number = |bytes: Option<Vec<u8>>| -> Option<u64> {
            std::str::from_utf8(&bytes?).ok()?.parse().ok()
        };
        let newest = number(newest).and_then(|number| u32::try_from(number).ok());
        Ok(record.map(|record| (record, number(cancel), newest.unwrap_or(1).max(1))))
    }

    /// Reads a batch with its newest step; `None` if there is none, or it has expired.
    pub(super) async fn find<K: Kv>(
        &self,
        kv: &K,
        id: &BatchId,
        tenant: Option<&str>,
        now_ms: u64,
    ) -> Result<Option<Found>, KvError> {
        let Some((record, cancel_ms, mut number)) = self.record(kv, id).await? else {
            return Ok(None);
        };
        if tenant.is_some_and(|tenant| tenant != record.caller.tenant) {
            return Ok(None);
        }
        let seen = loop {
            // The note of the newest step may be old.
            while self.steps.has_step(kv, &step_id(id, number + 1)).await? {
                number += 1;
            }
            if let Some(seen) = self.steps.step(kv, &step_id(id, number), now_ms).await? {
                break seen;
            }
            // Its contents were deleted: the batch has ended since, with a later step.
            if !self.steps.has_step(kv, &step_id(id, number + 1)).await? {
                return Ok(None);
            }
        };
        let Some(step) = Step::decode(&seen.body) else {
            return Err(KvError::new("the step of a batch is not readable"));
        };
        let mut found = Found {
            id: id.clone(),
            record,
            cancel_ms,
            step,
            seen,
        };
        // The request may have come between the reads of the record and of the step that followed it.
        if found.cancel_ms.is_none() && self.describe(&found).state == BatchState::Cancelled {
            found.cancel_ms = self.record(kv, id).await?.and_then(|(_, at_ms, _)| at_ms);
        }
        let ttl_ms = self.settings.result_ttl_s.saturating_mul(1_000);
        let has_expired =
            (found.ended_ms()).is_some_and(|ended_ms| ended_ms.saturating_add(ttl_ms) <= now_ms);
        Ok((!has_expired).then_some(found))
    }

    /// Reads a batch of a tenant.
    pub async fn batch<K: Kv>(
        &self,
        kv: &K,
        id: &BatchId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Batch>, KvError> {
        let found = self.find(kv, id, Some(tenant), now_ms).await?;
        Ok(found.map(|found| self.describe(&found)))
    }

    /// Lists the batches of a tenant.
    pub async fn batches<K: Kv>(
        &self,
        kv: &K,
        tenant: &str,
        page: &Page,
        now_ms: u64,
    ) -> Answer<Listing<Batch>> {
        let after = match &page.after {
            None => None,
            Some(after) => {
                let found = match BatchId::parse(after) {
                    Some(id) => self.find(kv, &id, Some(tenant), now_ms).await?,
                    None => None,
                };
                let Some(found) = found else {
                    return Ok(Err(no_such_place(after)));
                };
                Some((Names::of_batch(&found.id).hour, found.record.number))
            }
        };
        let owner = owner(tenant);
        let mut listing = Listing {
            data: Vec::new(),
            has_more: false,
        };
        let mut places = self
            .places(kv, Kind::Batch, &owner, (page, after), now_ms)
            .await?;
        while let Some((name, _)) = places.next_place(&owner, Kind::Batch) {
            let Some(id) = kv.get(&name).await? else {
                continue;
            };
            let id = std::str::from_utf8(&id).ok().and_then(BatchId::parse);
            let Some(id) = id else { continue };
            let Some(found) = self.find(kv, &id, Some(tenant), now_ms).await? else {
                continue;
            };
            if listing.data.len() >= page.most as usize {
                listing.has_more = true;
                break;
            }
            listing.data.push(self.describe(&found));
        }
        Ok(Ok(listing))
    }

    /// Asks for the end of a batch. One that is over stays as it is.
    pub async fn cancel<K: Kv>(
        &self,
        kv: &K,
        id: &BatchId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Batch>, KvError> {
        let Some(mut found) = self.find(kv, id, Some(tenant), now_ms).await? else {
            return Ok(None);
        };
        let is_over = self.describe(&found).state.is_final();
        if !is_over && found.cancel_ms.is_none() {
            let written = now_ms.to_string();
            kv.set(&Names::of_batch(id).cancel(), written.as_bytes())
                .await?;
            found.cancel_ms = Some(now_ms);
        }
        Ok(Some(self.describe(&found)))
    }

    /// Returns whether a caller asked for the end of a batch.
    pub async fn is_cancelled<K: Kv>(&self, kv: &K, id: &BatchId) -> Result<bool, KvError> {
        kv.exists(&Names::of_batch(id).cancel()).await
    }

    /// Stores the step that follows an operation, if that is a step that has ended. Returns the step for the host's queue: the one
    /// that follows, or the operation itself if it has not ended.
    pub async fn advance<K: Kv>(
        &mut self,
        kv: &K,
        operation: &OperationId,
        (now_ms, random): (u64, u128),
    ) -> Result<Option<Next>, KvError> {
        let Some(seen) = self.steps.step(kv, operation, now_ms).await? else {
            return Ok(None);
        };
        let Some((step, id)) = Step::decode(&seen.body).and_then(|step| {
            let id = step.batch()?;
            Some((step, id))
        }) else {
            return Ok(None);
        };
        let Some((record, ..)) = self.record(kv, &id).await? else {
            // The batch was swept.
            self.steps.follow_step(kv, operation).await?;
            return Ok(None);
        };
        let Some(end) = StepEnd::of(&seen.operation) else {
            return Ok(Some(next_of(&record, operation.clone(), &step, now_ms)));
        };
        let names = Names::of_batch(&id);
        match after(&step, &end) {
            After::Step { step: next, due_ms } => {
                // No wait is longer than the time of the batch.
                let due_ms = due_ms.min(record.expires_ms.max(end.ended_ms));
                let following = step_id(&id, next.number);
                // It counts as accepted when it is due, so no host, restart or poll begins it earlier.
                self.accept(kv, &id, &record, &next, (now_ms.max(due_ms), random))
                    .await?;
                let newest = next.number.to_string();
                kv.set(&names.newest(), newest.as_bytes()).await?;
                // From now on, a host that starts finds the batch by the step that follows.
                self.steps.follow_step(kv, operation).await?;
                Ok(Some(next_of(&record, following, &next, due_ms)))
            }
            After::Over => {
                if self.steps.is_guarded(kv, operation).await? {
                    // The files have the results now.
                    for number in 1..step.number {
                        self.steps.remove_step(kv, &step_id(&id, number)).await?;
                    }
                    end_live(kv, &names, &record.owner).await?;
                    self.steps.follow_step(kv, operation).await?;
                }
                Ok(None)
            }
        }
    }

    /// The batch as its tenant sees it.
    pub(super) fn describe(&self, found: &Found) -> Batch {
        let Found {
            id,
            record,
            cancel_ms,
            step,
            seen,
        } = found;
        let end = StepEnd::of(&seen.operation);
        let state = state(step, end.as_ref(), cancel_ms.is_some());
        let is_over = state.is_final();
        let mut at = step.at;
        let mut faults = Vec::new();
        let mut files = [None, None];
        let mut finalizing_ms = match step.work {
            StepWork::Finish { since_ms, .. } => Some(since_ms),
            _ => None,
        };
        match end.as_ref().map(|end| &end.outcome) {
            Some(Outcome::Done(summary)) => match summary {
                Summary::Validated { total } => {
                    at.total = *total;
                    at.began_ms = seen.operation.ended_ms.unwrap_or_default();
                }
                Summary::Invalid { faults: found } => faults.clone_from(found),
                Summary::Ran(ran) => at = at.after(ran),
                Summary::Finished {
                    failed,
                    output,
                    errors,
                } => {
                    at.failed = *failed;
                    files = [output, errors].map(|id| id.as_deref().and_then(FileId::parse));
                }
                Summary::Stopped { .. } => {}
            },
            Some(Outcome::Failed { message, .. }) if is_over => faults.push(Fault {
                code: Code::Internal.as_str().to_owned(),
                line: None,
                message: message.clone(),
                param: None,
            }),
            _ => {}
        }
        if finalizing_ms.is_none() && state == BatchState::Finalizing {
            finalizing_ms = seen.operation.ended_ms;
        }
        let [output_file, error_file] = files;
        let counts = match state {
            // Lines that were not valid were not counted as requests.
            BatchState::Validating => Counts::default(),
            _ => at.counts(),
        };
        let next =
            (!is_over).then(|| next_of(record, seen.operation.id.clone(), step, record.created_ms));
        Batch {
            id: id.clone(),
            state,
            endpoint: record.endpoint.clone(),
            // The record was written from an id.
            input_file: FileId::parse(&record.input_file).unwrap_or_else(|| FileId::generate(0, 0)),
            output_file,
            error_file,
            faults,
            created_ms: record.created_ms,
            expires_ms: record.expires_ms,
            times: Times {
                in_progress_ms: (at.began_ms > 0).then_some(at.began_ms),
                finalizing_ms,
                // A request that came too late changes nothing.
                cancelling_ms: match state {
                    BatchState::Cancelling | BatchState::Cancelled => *cancel_ms,
                    _ => None,
                },
                ended_ms: match is_over {
                    true => seen.operation.ended_ms,
                    false => None,
                },
            },
            counts,
            metadata: record.metadata.clone(),
            next,
        }
    }
}

impl Found {
    /// The time at which the batch was over; `None` while it is not.
    fn ended_ms(&self) -> Option<u64> {
        let end = StepEnd::of(&self.seen.operation)?;
        (after(&self.step, &end) == After::Over).then_some(end.ended_ms)
    }
}

/// The state of a batch, by its newest step.
fn state(step: &Step, end: Option<&StepEnd>, cancel_asked: bool) -> BatchState {
    let unfinished = |state: BatchState| match cancel_asked {
        true => BatchState::Cancelling,
        false => state,
    };
    let over = |why: Finished| match why {
        Finished::Completed => BatchState::Completed,
        Finished::Expired => BatchState::Expired,
        Finished::Cancelled => BatchState::Cancelled,
    };
    if let Some(end) = end
        && after(step, end) == After::Over
    {
        return match (&end.outcome, &step.work) {
            (Outcome::Done(Summary::Stopped { why }), _) => over(*why),
            (Outcome::Done(Summary::Finished { .. }), StepWork::Finish { why, .. }) => over(*why),
            _ => BatchState::Failed,
        };
    }
    match (&step.work, end.map(|end| &end.outcome)) {
        (StepWork::Validate, Some(Outcome::Done(_))) => unfinished(BatchState::InProgress),
        (StepWork::Validate, _) => unfinished(BatchState::Validating),
        (StepWork::Lines { .. } | StepWork::Skip { .. }, _) => unfinished(BatchState::InProgress),
        (StepWork::Finish { why, .. }, _) => match why {
            Finished::Cancelled => BatchState::Cancelling,
            // Every line has its answer; a request for the end changes nothing now.
            Finished::Completed | Finished::Expired => BatchState::Finalizing,
        },
    }
}

/// A step for the host's queue.
fn next_of(record: &BatchRecord, operation: OperationId, step: &Step, due_ms: u64) -> Next {
    Next {
        operation,
        tenant: record.caller.tenant.clone(),
        endpoint: record.endpoint.clone(),
        priority: record.priority,
        items: step.items(),
        due_ms,
    }
}
