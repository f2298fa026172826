//! Performs the decisions on the entries of a store.

use super::announce;
use super::ends::{close_earlier, close_own, commit, end_without_run};
use super::entries::{self, Names, PERIOD_MS, period};
use super::record::{Accepted, Ended, Notice, ONE, RunRecord, parts, split};
use super::removal::{Indexed, RemoveOperation, remove_contents};
use super::settings::OperationsSettings;
use super::state::{
    Decision, Epoch, MAX_EPOCHS, Phase, Progress, SEAL, Seen, WithoutRun, counts, decide, delay_ms,
    has_commit, is_closed, is_sealed, progress,
};
use super::words::{
    Abandoned, AcceptedCall, Claim, End, Listing, Operation, OperationState, Renewal, Run, STEP,
    Submission,
};
use crate::records::{decode, encode};
use crate::sweep::Index;
use penstock_core::{Code, Kv, KvError, OperationId};

/// Shards of the index. There are more than busy instances.
const INDEX_SHARDS: u32 = 16;

/// The most bytes that a counter may lack. A store that applies an operation and loses its reply, or an instance that dies,
/// makes counters inexact, and then more is returned than was counted. Without this, such a counter would be that of a
/// tenant with too many bytes.
const LACKING: i64 = 1 << 38;

/// The most operations that a refused call sweeps: enough that a full tenant has room after some attempts.
const SWEPT_IF_FULL: u64 = 32;

/// The most periods that one page of a listing searches.
const PERIODS_PER_PAGE: u64 = 64;

/// The decisions of one instance: the settings, and its part of the index.
#[derive(Debug)]
pub struct Operations {
    pub(super) settings: OperationsSettings,
    index: Index,
    webhooks: Index,
    /// Whether these are the steps of batches.
    pub(super) of_steps: bool,
}

/// The result of accepting a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// The call is stored, now or by an earlier attempt at the same call.
    Accepted(Box<AcceptedCall>),
    /// The tenant has too many operations, or bytes of them; the sentence for the caller.
    Full(String),
}

/// The result of a request for the end of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// The operation as it is after the request.
    pub operation: Operation,
    /// The receipt of its charges, if it ended without a run now.
    pub receipt: String,
}

impl Operations {
    /// The decisions under these settings.
    pub fn new(settings: OperationsSettings) -> Self {
        let index = Index::keeping("ox", PERIOD_MS, settings.keep_ms(), INDEX_SHARDS);
        Self {
            webhooks: announce::index(settings.keep_ms()),
            settings,
            index,
            of_steps: false,
        }
    }

    /// The decisions about the steps of batches. They have an index of their own, because they are kept for `keep_ms`.
    pub(crate) fn of_steps(settings: OperationsSettings, keep_ms: u64) -> Self {
        Self {
            index: Index::keeping("bs", PERIOD_MS, keep_ms, INDEX_SHARDS),
            of_steps: true,
            ..Self::new(settings)
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &OperationsSettings {
        &self.settings
    }

    /// Stores a call as an operation, or finds the operation that an earlier attempt at it made. Refuses it if the tenant has
    /// too many.
    pub async fn accept<K: Kv>(
        &mut self,
        kv: &K,
        submission: Submission,
        now_ms: u64,
        random: u128,
    ) -> Result<Acceptance, KvError> {
        let tenant = submission.caller.tenant.clone();
        let owner = owner(&tenant);
        let id = match &submission.retry_of {
            None => OperationId::generate(now_ms, random),
            Some(call) => {
                let at = |period: u64| keyed(&tenant, call, period);
                // The first attempt may have been made in the hour before.
                let present = period(now_ms);
                let ids = [present.saturating_sub(1), present].map(at);
                let heads = ids.each_ref().map(|id| Names::of(id).head());
                let made = kv.read_many(&heads, 0).await?.counters;
                for (id, _) in ids.iter().zip(&made).filter(|(_, made)| **made) {
                    if let Some(operation) = self.get(kv, id, None, false, now_ms).await? {
                        return Ok(Acceptance::Accepted(Box::new(AcceptedCall {
                            operation,
                            is_new: false,
                        })));
                    }
                }
                match made.contains(&true) {
                    // It was deleted, so the call is made again, under another id: the first one is marked.
                    true => OperationId::generate(now_ms, random),
                    false => {
                        let [_, present] = ids;
                        present
                    }
                }
            }
        };
        let bytes = submission.body.len() as u64;
        let charge = ONE + i64::try_from(bytes).unwrap_or(i64::MAX);
        let used = entries::used(&owner);
        let sum = kv.increment(&used, charge).await?;
        if let Some(message) = self.over(sum) {
            kv.increment(&used, -charge).await?;
            // Accepted calls sweep. A tenant that is full of expired operations has none.
            let shard = random as u32;
            (self.index)
                .sweep(kv, shard, now_ms, SWEPT_IF_FULL, &mut RemoveOperation)
                .await?;
            return Ok(Acceptance::Full(message));
        }
        match self
            .write(kv, &id, owner, submission, (now_ms, random))
            .await
        {
            Ok(accepted) => {
                let seen = Seen {
                    accepted,
                    cancel_requested: false,
                    epochs: Vec::new(),
                };
                let progress = progress(&seen, &self.settings, now_ms, 0);
                let operation = self.describe(&id, &seen, progress, now_ms);
                let operation = operation.ok_or_else(|| KvError::new("it has ended already"))?;
                Ok(Acceptance::Accepted(Box::new(AcceptedCall {
                    operation,
                    is_new: true,
                })))
            }
            Err(error) => {
                // The sweep returns the place of an operation with a record, and of no other.
                let _ = kv.increment(&used, -charge).await;
                Err(error)
            }
        }
    }

    /// The reason why an owner whose counter has this sum may store no more.
    fn over(&self, sum: i64) -> Option<String> {
        let shifted = sum.saturating_add(LACKING);
        let count = u64::try_from(shifted.div_euclid(ONE)).unwrap_or(0);
        let bytes = u64::try_from(shifted.rem_euclid(ONE) - LACKING).unwrap_or(0);
        let OperationsSettings {
            max_per_tenant,
            max_bytes_per_tenant,
            ..
        } = self.settings;
        let what = if count > max_per_tenant {
            format!("{max_per_tenant} operations")
        } else if bytes > max_bytes_per_tenant {
            format!("{max_bytes_per_tenant} bytes of operations")
        } else {
            return None;
        };
        Some(format!(
            "your tenant has {what}, the limit; delete finished ones, or wait until they expire"
        ))
    }

    pub(super) async fn write<K: Kv>(
        &mut self,
        kv: &K,
        id: &OperationId,
        owner: String,
        submission: Submission,
        (now_ms, random): (u64, u128),
    ) -> Result<Accepted, KvError> {
        let hour = period(id.unix_ms());
        let place = self
            .index
            .place(
                kv,
                period(now_ms),
                now_ms,
                random as u64,
                &mut RemoveOperation,
            )
            .await?;
        let made = kv.increment(&entries::made(hour, &owner), 1).await?;
        let number = u64::try_from(made).unwrap_or(0).saturating_sub(1);
        let names = Names::of(id);
        let body_bytes = submission.body.len() as u64;
        let indexed = Indexed {
            id: id.clone(),
            owner: owner.clone(),
            number,
            body_parts: parts(body_bytes),
        };
        let webhook = submission.webhook.is_some();
        let mut written = Vec::new();
        if let Some(target) = &submission.webhook {
            let at = (now_ms, random as u64);
            written
                .extend(announce::target_entries(kv, &mut self.webhooks, (id, target), at).await?);
        }
        written.extend([
            // The index comes first, so that the sweep finds the entries of an instance that dies.
            (place, indexed.encode()),
            (
                entries::listed(hour, &owner, number),
                id.as_str().as_bytes().to_vec(),
            ),
        ]);
        let divided = (0..).zip(split(submission.body));
        written.extend(divided.map(|(n, part)| (names.body(n), part)));
        let mut caller = submission.caller;
        caller.address = None;
        let accepted = Accepted {
            caller,
            owner,
            kind: submission.kind,
            model: submission.model,
            version: submission.version,
            priority: submission.priority,
            items: submission.items,
            method: submission.method,
            target: submission.target,
            headers: submission.headers,
            body_bytes,
            request_id: submission.request_id,
            receipt: submission.receipt,
            created_ms: now_ms,
            number,
            webhook,
        };
        if self.of_steps {
            written.push((names.guard(), b"1".to_vec()));
        }
        // The record comes last: an operation with a record has its body.
        written.push((names.head(), encode(&accepted)));
        kv.set_many(&written).await?;
        Ok(accepted)
    }

    /// Reads the entries of an operation; `None` if there is none, or it was deleted.
    pub(super) async fn read<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        now_ms: u64,
    ) -> Result<Option<Seen>, KvError> {
        let names = Names::of(id);
        let mut asked = vec![names.head()];
        asked.extend(['r', 's', 'n'].map(|what| names.epoch(what, 1)));
        asked.extend(['c', 'f'].map(|what| names.epoch(what, 1)));
        asked.extend([names.epoch('c', 2), names.cancel(), names.deleted()]);
        let many = kv.read_many(&asked, 4).await?;
        let [head, run, end, notice] = many.values.try_into().unwrap_or_default();
        let &[
            claimed,
            has_fate,
            next_is_claimed,
            cancel_requested,
            deleted,
        ] = many.counters.as_slice()
        else {
            return Err(KvError::new(
                "the store answered for other entries than asked",
            ));
        };
        let Some(head) = head.filter(|_| !deleted) else {
            return Ok(None);
        };
        let accepted = decode(&head)
            .ok_or_else(|| KvError::new("the record of an operation is not readable"))?;
        let mut seen = Seen {
            accepted,
            cancel_requested,
            epochs: Vec::new(),
        };
        let mut values = [run, end, notice];
        let mut counters = (claimed, has_fate, next_is_claimed);
        let mut number = 1;
        while counters.0 {
            let epoch = self
                .epoch(kv, &names, number, values, counters.1, now_ms)
                .await?;
            let is_over = counts(epoch.fate);
            seen.epochs.push(epoch);
            number += 1;
            if is_over || !counters.2 || number > MAX_EPOCHS {
                break;
            }
            let mut asked: Vec<String> = ['r', 's', 'n', 'f']
                .map(|what| names.epoch(what, number))
                .into();
            asked.push(names.epoch('c', number + 1));
            let many = kv.read_many(&asked, 3).await?;
            values = many.values.try_into().unwrap_or_default();
            let &[has_fate, next] = many.counters.as_slice() else {
                return Err(KvError::new(
                    "the store answered for other entries than asked",
                ));
            };
            counters = (true, has_fate, next);
        }
        Ok(Some(seen))
    }

    async fn epoch<K: Kv>(
        &self,
        kv: &K,
        names: &Names,
        number: u32,
        [run, end, notice]: [Option<Vec<u8>>; 3],
        has_fate: bool,
        now_ms: u64,
    ) -> Result<Epoch, KvError> {
        let fate_name = names.epoch('f', number);
        let mut fate = match has_fate {
            true => kv.increment(&fate_name, 0).await?,
            false => 0,
        };
        if counts(fate) && !is_sealed(fate) {
            // The caller will say that it has ended. From now on no later close can hide that.
            fate = kv.increment(&fate_name, SEAL).await?;
        }
        let run = run.as_deref().and_then(decode::<RunRecord>);
        let mut end = end.as_deref().and_then(decode::<Ended>);
        if has_commit(fate) && end.is_none() {
            // It was stored after it was looked for, and before the fate was read.
            let stored = kv.get(&names.epoch('s', number)).await?;
            end = stored.as_deref().and_then(decode);
            if end.is_none() {
                return Err(KvError::new(
                    "the end of an operation is missing or not readable",
                ));
            }
        }
        let claim = match (&run, fate) {
            (None, 0) => kv.increment(&names.epoch('c', number), 0).await?,
            // The run has the time of the lease.
            _ => i64::try_from(now_ms).unwrap_or(i64::MAX),
        };
        Ok(Epoch {
            claim,
            run,
            notice: notice.as_deref().and_then(decode),
            end,
            fate,
        })
    }

    /// Reads an operation of a tenant; `None` if there is none.
    pub async fn get<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        tenant: Option<&str>,
        with_body: bool,
        now_ms: u64,
    ) -> Result<Option<Operation>, KvError> {
        let Some(seen) = self.read(kv, id, now_ms).await? else {
            return Ok(None);
        };
        // Tenants see a batch, and not its steps.
        if tenant.is_some_and(|tenant| tenant != seen.accepted.caller.tenant)
            || (tenant.is_some() && seen.accepted.kind == STEP)
        {
            return Ok(None);
        }
        let progress = progress(&seen, &self.settings, now_ms, 0);
        let parts_epoch = match &progress.phase {
            Phase::Ended(ended) => ended.parts_epoch,
            _ => 0,
        };
        let Some(mut operation) = self.describe(id, &seen, progress, now_ms) else {
            return Ok(None);
        };
        if seen.accepted.webhook {
            operation.webhook = announce::webhook(kv, id).await?;
        }
        if with_body && let Some(end) = &mut operation.end {
            let names = Names::of(id);
            let asked: Vec<String> = (0..parts(end.body_bytes))
                .map(|part| names.result(parts_epoch, part))
                .collect();
            end.body = Some(read_parts(kv, &asked).await?);
        }
        Ok(Some(operation))
    }

    /// The operation as callers see it; `None` once its result has expired.
    pub(super) fn describe(
        &self,
        id: &OperationId,
        seen: &Seen,
        progress: Progress,
        now_ms: u64,
    ) -> Option<Operation> {
        let accepted = &seen.accepted;
        let epoch = match &progress.phase {
            Phase::Held { epoch, .. } | Phase::Free { epoch, .. } => *epoch,
            Phase::Ended(_) => u32::try_from(seen.epochs.len()).unwrap_or(u32::MAX),
        };
        let mut operation = Operation {
            id: id.clone(),
            tenant: accepted.caller.tenant.clone(),
            kind: accepted.kind.clone(),
            model: accepted.model.clone(),
            version: accepted.version,
            items: accepted.items,
            state: OperationState::Queued,
            cancel_requested: seen.cancel_requested,
            created_ms: accepted.created_ms,
            started_ms: progress.last_run.map(|run| run.started_ms),
            ended_ms: None,
            expires_ms: None,
            next_attempt_ms: None,
            attempts: progress.attempts,
            epoch,
            end: None,
            webhook: None,
        };
        match progress.phase {
            Phase::Ended(ended) => {
                let expires_ms = (ended.ended_ms)
                    .saturating_add(self.settings.result_ttl_s.saturating_mul(1_000));
                if expires_ms <= now_ms && !self.of_steps {
                    return None;
                }
                operation.state = ended.state.into();
                operation.started_ms = ended.started_ms;
                operation.ended_ms = Some(ended.ended_ms);
                operation.expires_ms = Some(expires_ms);
                operation.end = Some(End {
                    state: ended.state.into(),
                    code: ended.code,
                    message: ended.message,
                    status: ended.status,
                    headers: ended.headers,
                    body_bytes: ended.body_bytes,
                    body: None,
                });
            }
            Phase::Held { run: Some(_), .. } => operation.state = OperationState::Running,
            Phase::Held { run: None, .. } => {}
            Phase::Free { from_ms, .. } if operation.attempts > 0 => {
                operation.next_attempt_ms = Some(from_ms);
            }
            Phase::Free { .. } => {}
        }
        Some(operation)
    }

    /// Lists operations of a tenant, the newest first, from a place that an earlier page named.
    pub async fn list<K: Kv>(
        &self,
        kv: &K,
        tenant: &str,
        start: Option<(u64, u64)>,
        most: usize,
        now_ms: u64,
    ) -> Result<Listing, KvError> {
        let owner = owner(tenant);
        let present = period(now_ms) + 1;
        let (newest, mut below) = match start {
            Some((hour, below)) => (hour.min(present), Some(below)),
            None => (present, None),
        };
        let oldest = period(now_ms.saturating_sub(self.settings.keep_ms()));
        let last = newest.saturating_sub(PERIODS_PER_PAGE - 1).max(oldest);
        if newest < oldest {
            return Ok(Listing::default());
        }
        let hours: Vec<u64> = (last..=newest).rev().collect();
        let asked: Vec<String> = hours
            .iter()
            .map(|hour| entries::made(*hour, &owner))
            .collect();
        let made = kv.read_many(&asked, 0).await?.counters;
        let mut listing = Listing::default();
        for (hour, name) in hours
            .iter()
            .zip(asked)
            .zip(made)
            .filter_map(|(of, made)| made.then_some(of))
        {
            let count = u64::try_from(kv.increment(&name, 0).await?).unwrap_or(0);
            let mut number = match below.take().filter(|_| *hour == newest) {
                Some(below) => below.min(count),
                None => count,
            };
            while number > 0 {
                if listing.operations.len() >= most {
                    listing.next = Some((*hour, number));
                    return Ok(listing);
                }
                number -= 1;
                let Some(id) = kv.get(&entries::listed(*hour, &owner, number)).await? else {
                    continue;
                };
                let Some(id) = std::str::from_utf8(&id).ok().and_then(OperationId::parse) else {
                    continue;
                };
                let Some(seen) = self.read(kv, &id, now_ms).await? else {
                    continue;
                };
                // An attempt to accept a call that did not come to its end has its own place in the list.
                if seen.accepted.number != number || seen.accepted.caller.tenant != tenant {
                    continue;
                }
                let progress = progress(&seen, &self.settings, now_ms, 0);
                (listing.operations).extend(self.describe(&id, &seen, progress, now_ms));
            }
        }
        if last > oldest {
            listing.next = Some((last - 1, u64::MAX));
        }
        Ok(listing)
    }

    /// Asks for the end of an operation; `None` if there is none. If no worker runs it, it ends at once.
    pub async fn cancel<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Cancelled>, KvError> {
        let Some(operation) = self.get(kv, id, Some(tenant), false, now_ms).await? else {
            return Ok(None);
        };
        let mut receipt = String::new();
        if !operation.state.is_final() {
            kv.increment(&Names::of(id).cancel(), 1).await?;
            if let Claim::Ended(returned) = self.claim(kv, id, "", 0, now_ms).await? {
                receipt = returned;
            }
        }
        let operation = self.get(kv, id, Some(tenant), false, now_ms).await?;
        Ok(operation.map(|operation| Cancelled { operation, receipt }))
    }

    /// Deletes a finished operation with its result. Returns it as it was; it stays if it has not ended.
    pub async fn delete<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Operation>, KvError> {
        let Some(operation) = self.get(kv, id, Some(tenant), false, now_ms).await? else {
            return Ok(None);
        };
        if operation.state.is_final() {
            let names = Names::of(id);
            kv.set(&names.deleted(), b"1").await?;
            if operation.webhook.is_some() {
                announce::forget(kv, id).await?;
            }
            remove_contents(kv, &names).await?;
        }
        Ok(Some(operation))
    }

    /// Claims an operation to run it. Ends it instead if it is not to run. `holder` is a text that no other worker has; an empty
    /// one claims nothing that is to run.
    pub async fn claim<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        holder: &str,
        dead_before_ms: u64,
        now_ms: u64,
    ) -> Result<Claim, KvError> {
        let Some(seen) = self.read(kv, id, now_ms).await? else {
            return Ok(Claim::Gone);
        };
        let progress = progress(&seen, &self.settings, now_ms, dead_before_ms);
        let decision = decide(&seen, &progress, &self.settings, now_ms);
        let (epoch, without_run) = match decision {
            Decision::Ended => return Ok(Claim::Ended(String::new())),
            Decision::Later(at_ms) => return Ok(Claim::Later(at_ms)),
            Decision::Run(_) if holder.is_empty() => return Ok(Claim::Later(now_ms)),
            Decision::Run(epoch) => (epoch, None),
            Decision::End(epoch, why) => (epoch, Some(why)),
        };
        let names = Names::of(id);
        let stamp = stamp(now_ms);
        if kv.increment(&names.epoch('c', epoch), stamp).await? != stamp {
            return Ok(Claim::Later(self.lease_end_ms(now_ms)));
        }
        if let Some(ended) = close_earlier(kv, &names, epoch).await? {
            return self.adopt(kv, &names, epoch, &ended, now_ms).await;
        }
        match without_run {
            None => {
                let run = RunRecord {
                    holder: holder.to_owned(),
                    started_ms: now_ms,
                    renewed_ms: now_ms,
                };
                kv.set(&names.epoch('r', epoch), &encode(&run)).await?;
                let asked: Vec<String> = (0..parts(seen.accepted.body_bytes))
                    .map(|part| names.body(part))
                    .collect();
                let body = read_parts(kv, &asked).await?;
                Ok(Claim::Granted(Box::new(Run {
                    epoch,
                    attempt: progress.attempts + 1,
                    max_attempts: self.settings.max_attempts,
                    submission: seen.accepted.submission(body),
                })))
            }
            Some(why) => {
                let end = end_without_run(why, &self.settings);
                let receipt = match progress.last_run {
                    None => seen.accepted.receipt.clone(),
                    Some(_) => String::new(),
                };
                let started_ms = progress.last_run.map(|run| run.started_ms);
                let of = (epoch, progress.attempts, started_ms);
                let counts = commit(kv, &names, of, end, &seen.accepted.owner, now_ms).await?;
                Ok(match counts {
                    true => Claim::Ended(receipt),
                    // Another worker has taken the operation.
                    false => Claim::Later(self.lease_end_ms(now_ms)),
                })
            }
        }
    }

    /// Ends an epoch like an earlier one, which was committed. The result's entries stay where they are.
    async fn adopt<K: Kv>(
        &self,
        kv: &K,
        names: &Names,
        epoch: u32,
        ended: &Ended,
        now_ms: u64,
    ) -> Result<Claim, KvError> {
        kv.set(&names.epoch('s', epoch), &encode(ended)).await?;
        let fate = kv.increment(&names.epoch('f', epoch), 1).await?;
        Ok(match is_closed(fate) {
            true => Claim::Later(self.lease_end_ms(now_ms)),
            false => Claim::Ended(String::new()),
        })
    }

    /// The end of a lease that begins now.
    fn lease_end_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.settings.lease_ms)
    }

    /// Ends a run with a result or an error. Returns whether its end counts; it does not if the lease was lost.
    pub async fn complete<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        (epoch, attempt): (u32, u32),
        end: End,
        now_ms: u64,
    ) -> Result<bool, KvError> {
        let names = Names::of(id);
        let [run, fate] = ['r', 'f'].map(|what| names.epoch(what, epoch));
        let asked = [run, names.head(), names.cancel(), fate];
        let many = kv.read_many(&asked, 2).await?;
        let cancelled = many.counters.first() == Some(&true);
        if many.counters.get(1) == Some(&true) {
            // The host ended the run, or another worker has the lease. A late end would replace the end of the same epoch.
            return Ok(false);
        }
        let [run, head] = many.values.try_into().unwrap_or_default();
        let run: Option<RunRecord> = run.as_deref().and_then(decode);
        let Some(head) = head.as_deref().and_then(decode::<Accepted>) else {
            return Ok(false);
        };
        // A run that succeeded in spite of a request for its end is a success: the caller gets the result.
        let end = match end.state {
            OperationState::Failed if cancelled => {
                end_without_run(WithoutRun::Cancelled, &self.settings)
            }
            _ => end,
        };
        let of = (epoch, attempt, run.map(|run| run.started_ms));
        commit(kv, &names, of, end, &head.owner, now_ms).await
    }

    /// Gives a run back, so that the operation is run again later. Returns when, in milliseconds since the Unix epoch.
    pub async fn give_back<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        (epoch, attempt): (u32, u32),
        (code, message): (String, String),
        (now_ms, random): (u64, u64),
    ) -> Result<u64, KvError> {
        let not_before_ms = now_ms.saturating_add(delay_ms(attempt, random));
        let notice = Notice {
            not_before_ms,
            counts: true,
            code,
            message,
        };
        close_own(kv, &Names::of(id), epoch, &notice).await?;
        Ok(not_before_ms)
    }

    /// Renews the lease of a holder.
    pub async fn renew<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        holder: &str,
        now_ms: u64,
    ) -> Result<Renewal, KvError> {
        let Some(seen) = self.read(kv, id, now_ms).await? else {
            return Ok(Renewal::Lost);
        };
        let Some((epoch, run)) = held(&seen, holder) else {
            let own = seen.epochs.last().filter(|epoch| counts(epoch.fate));
            let own = own.and_then(|epoch| epoch.run.as_ref());
            return Ok(match own.is_some_and(|run| run.holder == holder) {
                // Its end counts already, and its answer is on the way.
                true => Renewal::Renewed,
                false => Renewal::Lost,
            });
        };
        if seen.cancel_requested {
            return Ok(Renewal::Cancelled);
        }
        let renewed = RunRecord {
            renewed_ms: now_ms.max(run.renewed_ms),
            ..run
        };
        kv.set(&Names::of(id).epoch('r', epoch), &encode(&renewed))
            .await?;
        Ok(Renewal::Renewed)
    }

    /// Ends a run whose worker was interrupted. Returns when the operation may run again, if it may.
    pub async fn abandon<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        holder: &str,
        why: Abandoned,
        (now_ms, random): (u64, u64),
    ) -> Result<Option<u64>, KvError> {
        let Some(seen) = self.read(kv, id, now_ms).await? else {
            return Ok(None);
        };
        let Some((epoch, run)) = held(&seen, holder) else {
            return Ok(self.again_ms(&seen, now_ms));
        };
        let names = Names::of(id);
        let attempts = progress(&seen, &self.settings, now_ms, 0).attempts;
        let failed = |code: Code, message: String| End {
            state: OperationState::Failed,
            code: code.as_str().to_owned(),
            message,
            status: code.status(),
            headers: Vec::new(),
            body_bytes: 0,
            body: None,
        };
        let notice = |not_before_ms: u64, counts: bool, code: &str, message: &str| Notice {
            not_before_ms,
            counts,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let end = match why {
            Abandoned::Stopping => {
                let notice = notice(now_ms, false, "", "");
                let ended = close_own(kv, &names, epoch, &notice).await?;
                return Ok((!ended).then_some(now_ms));
            }
            Abandoned::Crashed if attempts < self.settings.max_attempts => {
                let again_ms = now_ms.saturating_add(delay_ms(attempts, random));
                let message = "an internal error occurred; the server's log has its details";
                let notice = notice(again_ms, true, Code::Internal.as_str(), message);
                let ended = close_own(kv, &names, epoch, &notice).await?;
                return Ok((!ended).then_some(again_ms));
            }
            Abandoned::Cancelled => end_without_run(WithoutRun::Cancelled, &self.settings),
            Abandoned::Crashed => failed(
                Code::Internal,
                format!(
                    "an internal error occurred in each of {attempts} attempts; the server's log has its details"
                ),
            ),
            Abandoned::TimedOut => failed(
                Code::DeadlineExceeded,
                format!(
                    "the run took longer than {} ms, the limit of operations.run_timeout_ms; send fewer items",
                    self.settings.run_timeout_ms
                ),
            ),
        };
        // The interrupted run may have sent its own end, which may arrive at any time. So this end needs another epoch: in that
        // of the run it would replace an end that a reader has seen.
        let next = epoch + 1;
        let stamp = stamp(now_ms);
        if kv.increment(&names.epoch('c', next), stamp).await? != stamp {
            return Ok(Some(self.lease_end_ms(now_ms)));
        }
        let claim = match close_earlier(kv, &names, next).await? {
            Some(ended) => self.adopt(kv, &names, next, &ended, now_ms).await?,
            None => {
                let of = (next, attempts, Some(run.started_ms));
                match commit(kv, &names, of, end, &seen.accepted.owner, now_ms).await? {
                    true => Claim::Ended(String::new()),
                    false => Claim::Later(self.lease_end_ms(now_ms)),
                }
            }
        };
        Ok(match claim {
            Claim::Later(at_ms) => Some(at_ms),
            _ => None,
        })
    }

    /// Returns the time of the next look at an operation; `None` if it has ended.
    fn again_ms(&self, seen: &Seen, now_ms: u64) -> Option<u64> {
        let progress = progress(seen, &self.settings, now_ms, 0);
        match decide(seen, &progress, &self.settings, now_ms) {
            Decision::Ended => None,
            Decision::Later(at_ms) => Some(at_ms),
            Decision::Run(_) | Decision::End(..) => Some(now_ms),
        }
    }
}

/// The epoch that a holder has, and its run.
fn held(seen: &Seen, holder: &str) -> Option<(u32, RunRecord)> {
    let newest = seen.epochs.last().filter(|epoch| epoch.fate == 0)?;
    let run = newest.run.clone().filter(|run| run.holder == holder)?;
    Some((seen.epochs.len() as u32, run))
}

/// The owner in names of entries: a hash, because tenants' names may be long.
fn owner(tenant: &str) -> String {
    let hash = blake3::hash(tenant.as_bytes()).to_hex();
    hash[..32].to_owned()
}

/// The id of a call with an idempotency key, in a period. All attempts at the call compute the same id.
fn keyed(tenant: &str, call: &str, period: u64) -> OperationId {
    let mut hasher = blake3::Hasher::new_derive_key(
        "penstock operations 2026 id of a call with an idempotency key",
    );
    hasher.update(&(tenant.len() as u64).to_le_bytes());
    hasher.update(tenant.as_bytes());
    hasher.update(call.as_bytes());
    let bytes: [u8; 16] = hasher.finalize().as_bytes()[..16]
        .try_into()
        .expect("a hash has 32 bytes");
    OperationId::generate(period * PERIOD_MS, u128::from_le_bytes(bytes))
}

/// The amount that a claim adds to its counter: the time.
fn stamp(now_ms: u64) -> i64 {
    i64::try_from(now_ms).unwrap_or(i64::MAX).max(1)
}

pub(super) async fn read_parts<K: Kv>(kv: &K, names: &[String]) -> Result<Vec<u8>, KvError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = kv.read_many(names, names.len()).await?.values.into_iter();
    let missing = || KvError::new("a part of an operation is missing");
    let mut bytes = values.next().flatten().ok_or_else(missing)?;
    for part in values {
        bytes.extend_from_slice(&part.ok_or_else(missing)?);
    }
    Ok(bytes)
}
