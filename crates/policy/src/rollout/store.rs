//! Decides how rollouts and the counters of canaries are stored. It assumes of the store only that `increment` is
//! atomic.
//!
//! | entry | content |
//! |---|---|
//! | `rollouts` | the document, [`Rollouts`] |
//! | `rollouts:claim:<window>` | counter: the writer that raised it to 1 may change the document |
//! | `rollouts:tripped:<model>:<id>` | why a canary's run was rolled back; only ever set |
//! | `rollouts:trips:<model>:<id>` | counter: the caller that raised it to 1 rolled the run back |
//! | `rollouts:tally:<model>:<number>:<counter>` | counter: calls of a run, see [`super::judge::numbers`] |
//!
//! **Changes come one after the other.** A writer first claims the document for a window of a minute. It *then* checks
//! whether another writer holds the window before or after, and gives up if so. Of two writers whose clocks stand on
//! either side of a window's end, at least one sees the other. A writer that died therefore blocks others for two minutes
//! at most. A writer that takes longer than [`MAX_OPERATION_MS`] is stopped by its own deadline. If it is unknown whether
//! the document was written, the claim stays until it lapses, because the write may still arrive.
//!
//! **A rollback is final.** Its reason is an entry of its own, which changes of the document do not touch. If an instance
//! raised the counter and died before it wrote the reason, the next instance that would roll back writes it.

use super::edit::EditError;
use super::judge::{COUNTERS, all_numbers, next_number};
use super::{Retired, Rollouts};
use penstock_core::{Kv, KvError};
use std::collections::BTreeMap;

/// The entry of the document.
pub const DOCUMENT: &str = "rollouts";
/// The longest that one change may take, in milliseconds. The writer gives up by then.
pub const MAX_OPERATION_MS: u64 = 30_000;
/// The time for which a claim holds: twice [`MAX_OPERATION_MS`], because clocks differ.
const CLAIM_WINDOW_MS: u64 = 60_000;
/// Time after a run's end at which no instance counts for it any more: many times as long as an instance caches the
/// document.
const RETIRED_MS: u64 = 60_000;
/// Runs whose counters one change deletes: some 500 deletions.
const SWEPT_AT_ONCE: usize = 2;
/// The longest reason that is kept.
const MAX_WHY_BYTES: usize = 512;
/// Models for which an instance remembers that it counted. Beyond this number it deletes counters again that are deleted.
const MAX_REMEMBERED: usize = 1_024;

fn claim_name(window: u64) -> String {
    format!("rollouts:claim:{window}")
}

fn rolled_back_name(model: &str, id: u64) -> String {
    format!("rollouts:tripped:{model}:{id}")
}

fn rollbacks_name(model: &str, id: u64) -> String {
    format!("rollouts:trips:{model}:{id}")
}

fn tally_name(model: &str, number: u64, counter: u32) -> String {
    format!("rollouts:tally:{model}:{number}:{counter}")
}

/// The reason why the document was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// The change cannot be made.
    Change(EditError),
    /// Another writer holds the claim, or died while it held it.
    Busy {
        /// Seconds after which a retry succeeds at the latest.
        retry_after_s: u32,
    },
    /// The store failed, or the document cannot be read. The change may or may not have been made.
    Store(String),
}

impl From<KvError> for UpdateError {
    fn from(error: KvError) -> Self {
        Self::Store(error.message)
    }
}

/// The document's text; `None` where it was never written.
///
/// # Errors
///
/// The error of the store.
pub async fn read_text<K: Kv>(kv: &K) -> Result<Option<String>, KvError> {
    let found = kv.get(DOCUMENT).await?;
    let text = found.map(String::from_utf8).transpose();
    text.map_err(|_| KvError::new("the rollouts in the store are not text"))
}

/// Reads the document; an empty one if the store has none.
///
/// # Errors
///
/// The error of the store, or the fault of the document.
pub async fn read<K: Kv>(kv: &K) -> Result<Rollouts, KvError> {
    match read_text(kv).await? {
        None => Ok(Rollouts::new()),
        Some(text) => Rollouts::parse(&text).map_err(KvError::new),
    }
}

/// Changes the rollout of a model; changes run one at a time. The closure `change` gets the reason why the model's canary
/// was rolled back automatically, if it was. `counters` is the store with the call counters of ended runs.
///
/// # Errors
///
/// See [`UpdateError`].
pub async fn change<K: Kv, C: Kv>(
    kv: &K,
    counters: &C,
    model: &str,
    now_ms: u64,
    change: impl FnOnce(&mut Rollouts, Option<&str>) -> Result<(), EditError>,
) -> Result<Rollouts, UpdateError> {
    let window = now_ms / CLAIM_WINDOW_MS;
    let own = claim_name(window);
    if kv.increment(&own, 1).await? != 1 {
        return Err(busy(now_ms));
    }
    for other in [window.saturating_sub(1), window + 1] {
        if other != window && kv.exists(&claim_name(other)).await? {
            // If this delete fails, the claim lapses as any other does.
            let _ = kv.delete(&own).await;
            return Err(busy(now_ms));
        }
    }
    let changed = changed(kv, counters, model, now_ms, change).await;
    let written = match &changed {
        Ok(text) => kv
            .set(DOCUMENT, text.1.as_bytes())
            .await
            .map_err(UpdateError::from),
        Err(_) => Ok(()),
    };
    // On an error the claim stays until it lapses: the store may have written the document.
    written?;
    let _ = kv.delete(&own).await;
    Ok(changed?.0)
}

fn busy(now_ms: u64) -> UpdateError {
    let lapses_ms = (now_ms / CLAIM_WINDOW_MS + 2) * CLAIM_WINDOW_MS;
    UpdateError::Busy {
        retry_after_s: (lapses_ms - now_ms).div_ceil(1_000) as u32,
    }
}

/// The document after a change, and its text.
async fn changed<K: Kv, C: Kv>(
    kv: &K,
    counters: &C,
    model: &str,
    now_ms: u64,
    change: impl FnOnce(&mut Rollouts, Option<&str>) -> Result<(), EditError>,
) -> Result<(Rollouts, String), UpdateError> {
    let mut rollouts = read(kv).await?;
    let run = rollouts
        .of(model)
        .and_then(|rollout| rollout.canary.as_ref());
    let ended = match run.map(|canary| canary.id) {
        Some(id) => rolled_back(kv, model, id).await?,
        None => None,
    };
    change(&mut rollouts, ended.as_deref()).map_err(UpdateError::Change)?;
    rollouts.generation += 1;
    let due = |retired: &Retired| retired.ended_ms.saturating_add(RETIRED_MS) <= now_ms;
    for _ in 0..SWEPT_AT_ONCE {
        let Some(place) = rollouts.retired.iter().position(due) else {
            break;
        };
        sweep(kv, counters, &rollouts.retired[place]).await?;
        rollouts.retired.remove(place);
    }
    let text = rollouts.text();
    Ok((rollouts, text))
}

/// Deletes the entries of an ended run.
async fn sweep<K: Kv, C: Kv>(kv: &K, counters: &C, retired: &Retired) -> Result<(), KvError> {
    let Retired { model, id, .. } = retired;
    for number in all_numbers(*id) {
        empty(counters, model, number).await?;
    }
    kv.delete(&rollbacks_name(model, *id)).await?;
    kv.delete(&rolled_back_name(model, *id)).await
}

async fn empty<C: Kv>(counters: &C, model: &str, number: u64) -> Result<(), KvError> {
    for counter in 0..COUNTERS {
        counters.delete(&tally_name(model, number, counter)).await?;
    }
    Ok(())
}

/// The runs for which an instance counted.
#[derive(Debug, Default)]
pub struct Tallies {
    counted: BTreeMap<String, u64>,
}

impl Tallies {
    /// Counts a call under a number of a run. When the number is new, it deletes the counters of the next number.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub async fn tally<C: Kv>(
        &mut self,
        counters: &C,
        model: &str,
        number: u64,
        counter: u32,
    ) -> Result<(), KvError> {
        if counter >= COUNTERS {
            return Err(KvError::new(format!(
                "a run has {COUNTERS} counters; counter {counter} does not exist"
            )));
        }
        if self.counted.get(model) != Some(&number) {
            empty(counters, model, next_number(number)).await?;
            if self.counted.len() >= MAX_REMEMBERED {
                self.counted.clear();
            }
            self.counted.insert(model.to_owned(), number);
        }
        counters
            .increment(&tally_name(model, number, counter), 1)
            .await?;
        Ok(())
    }
}

/// The first `count` counters under a number of a run.
///
/// # Errors
///
/// The error of the store.
pub async fn tallies<C: Kv>(
    counters: &C,
    model: &str,
    number: u64,
    count: u32,
) -> Result<Vec<u64>, KvError> {
    let mut tallies = Vec::new();
    for counter in 0..count.min(COUNTERS) {
        let sum = counters
            .increment(&tally_name(model, number, counter), 0)
            .await?;
        tallies.push(u64::try_from(sum).unwrap_or(0));
    }
    Ok(tallies)
}

/// Rolls a run back. Returns whether this call was the first to do so.
///
/// # Errors
///
/// The error of the store. The run may or may not have been rolled back.
pub async fn roll_back<K: Kv>(kv: &K, model: &str, id: u64, why: &str) -> Result<bool, KvError> {
    let first = kv.increment(&rollbacks_name(model, id), 1).await? == 1;
    let name = rolled_back_name(model, id);
    if first || kv.get(&name).await?.is_none() {
        let mut end = why.len().min(MAX_WHY_BYTES);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        kv.set(&name, &why.as_bytes()[..end]).await?;
    }
    Ok(first)
}

/// Returns the reason why a run was rolled back; `None` while it goes on.
///
/// # Errors
///
/// The error of the store.
pub async fn rolled_back<K: Kv>(kv: &K, model: &str, id: u64) -> Result<Option<String>, KvError> {
    let found = kv.get(&rolled_back_name(model, id)).await?;
    Ok(found.map(|why| String::from_utf8_lossy(&why).into_owned()))
}
