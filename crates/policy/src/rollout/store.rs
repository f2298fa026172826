//! Decides how rollouts and the counters of canaries are kept, over a store of which nothing is assumed but that
//! `increment` is atomic.
//!
//! | entry | what it is |
//! |---|---|
//! | `rollouts` | the document, [`Rollouts`] |
//! | `rollouts:claim:<window>` | counter: who raised it to 1 may change the document |
//! | `rollouts:tripped:<model>:<id>` | why a canary's run was ended; only ever set |
//! | `rollouts:trips:<model>:<id>` | counter: who raised it to 1 ended the run |
//! | `rollouts:tally:<model>:<number>:<counter>` | counter: calls of a run, see [`super::judge::numbers`] |
//!
//! **Changes come one after the other.** Who changes the document claims it for a window of a minute, *then* looks whether
//! somebody has the window before or after, and gives up if so; of two whose clocks stand on either side of a window's
//! end, at least one sees the other. So one who died blocks nobody for longer than two minutes, and who takes longer than
//! [`MAX_OPERATION_MS`] is stopped by their own deadline. Where it is not known whether the document was written, the claim
//! is left to lapse: what was sent may still arrive.
//!
//! **A run that was ended stays so.** The reason is an entry of its own that changes of the document do not touch. Who
//! counted themselves the first and died before they wrote it are finished by the next who would end the run.

use super::judge::{COUNTERS, all_numbers, next_number};
use super::{Retired, Rollouts, edit};
use penstock_core::{Kv, KvError};
use std::collections::BTreeMap;

/// The entry of the document.
pub const DOCUMENT: &str = "rollouts";
/// How long one change may take: who performs it gives up by then.
pub const MAX_OPERATION_MS: u64 = 30_000;
/// What a claim is for; twice [`MAX_OPERATION_MS`], as clocks differ.
const CLAIM_WINDOW_MS: u64 = 60_000;
/// How long after a run's end nobody counts for it any more: many times what an instance remembers of the document.
const RETIRED_MS: u64 = 60_000;
/// Runs whose counters one change deletes: some 500 deletions.
const SWEPT_AT_ONCE: usize = 2;
/// The longest reason that is kept.
const MAX_WHY_BYTES: usize = 512;
/// Models an instance remembers to have counted for; beyond it, it empties counters once more that are empty.
const MAX_REMEMBERED: usize = 1_024;

fn claim_name(window: u64) -> String {
    format!("rollouts:claim:{window}")
}

fn tripped_name(model: &str, id: u64) -> String {
    format!("rollouts:tripped:{model}:{id}")
}

fn trips_name(model: &str, id: u64) -> String {
    format!("rollouts:trips:{model}:{id}")
}

fn tally_name(model: &str, number: u64, counter: u32) -> String {
    format!("rollouts:tally:{model}:{number}:{counter}")
}

/// Why the document was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The change cannot be made.
    Change(edit::Refused),
    /// Somebody else is at it, or died at it.
    Busy {
        /// After how many seconds it can be tried again, at the latest.
        retry_after_s: u32,
    },
    /// The store failed, or has what nobody can read. What was being done may or may not have been done.
    Store(String),
}

impl From<KvError> for Refused {
    fn from(error: KvError) -> Self {
        Self::Store(error.message)
    }
}

/// The document's text, `None` where nothing was ever said of any model.
///
/// # Errors
///
/// What the store says.
pub async fn read_text<K: Kv>(kv: &K) -> Result<Option<String>, KvError> {
    let found = kv.get(DOCUMENT).await?;
    let text = found.map(String::from_utf8).transpose();
    text.map_err(|_| KvError::new("the rollouts in the store are not text"))
}

/// The document.
///
/// # Errors
///
/// What the store says, or what is wrong with the document.
pub async fn read<K: Kv>(kv: &K) -> Result<Rollouts, KvError> {
    match read_text(kv).await? {
        None => Ok(Rollouts::new()),
        Some(text) => Rollouts::parse(&text).map_err(KvError::new),
    }
}

/// Changes what the document says of a model, after whoever else changes it. The change is told why the model's canary was
/// ended by itself, where it was. `counters` is where calls are counted, for the counters of runs that ended.
///
/// # Errors
///
/// See [`Refused`].
pub async fn change<K: Kv, C: Kv>(
    kv: &K,
    counters: &C,
    model: &str,
    now_ms: u64,
    change: impl FnOnce(&mut Rollouts, Option<&str>) -> Result<(), edit::Refused>,
) -> Result<Rollouts, Refused> {
    let window = now_ms / CLAIM_WINDOW_MS;
    let own = claim_name(window);
    if kv.increment(&own, 1).await? != 1 {
        return Err(busy(now_ms));
    }
    for other in [window.saturating_sub(1), window + 1] {
        if other != window && kv.exists(&claim_name(other)).await? {
            // What is left of it blocks nobody for longer than if it had been won.
            let _ = kv.delete(&own).await;
            return Err(busy(now_ms));
        }
    }
    let changed = changed(kv, counters, model, now_ms, change).await;
    let written = match &changed {
        Ok(text) => kv
            .set(DOCUMENT, text.1.as_bytes())
            .await
            .map_err(Refused::from),
        Err(_) => Ok(()),
    };
    // The claim lapses where it is not known what the store did.
    written?;
    let _ = kv.delete(&own).await;
    Ok(changed?.0)
}

fn busy(now_ms: u64) -> Refused {
    let lapses_ms = (now_ms / CLAIM_WINDOW_MS + 2) * CLAIM_WINDOW_MS;
    Refused::Busy {
        retry_after_s: (lapses_ms - now_ms).div_ceil(1_000) as u32,
    }
}

/// The document after a change, and its text.
async fn changed<K: Kv, C: Kv>(
    kv: &K,
    counters: &C,
    model: &str,
    now_ms: u64,
    change: impl FnOnce(&mut Rollouts, Option<&str>) -> Result<(), edit::Refused>,
) -> Result<(Rollouts, String), Refused> {
    let mut rollouts = read(kv).await?;
    let run = rollouts
        .of(model)
        .and_then(|rollout| rollout.canary.as_ref());
    let ended = match run.map(|canary| canary.id) {
        Some(id) => tripped(kv, model, id).await?,
        None => None,
    };
    change(&mut rollouts, ended.as_deref()).map_err(Refused::Change)?;
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

/// Deletes what a run left.
async fn sweep<K: Kv, C: Kv>(kv: &K, counters: &C, retired: &Retired) -> Result<(), KvError> {
    let Retired { model, id, .. } = retired;
    for number in all_numbers(*id) {
        empty(counters, model, number).await?;
    }
    kv.delete(&trips_name(model, *id)).await?;
    kv.delete(&tripped_name(model, *id)).await
}

async fn empty<C: Kv>(counters: &C, model: &str, number: u64) -> Result<(), KvError> {
    for counter in 0..COUNTERS {
        counters.delete(&tally_name(model, number, counter)).await?;
    }
    Ok(())
}

/// What an instance remembers of the runs it counted for.
#[derive(Debug, Default)]
pub struct Tallies {
    counted: BTreeMap<String, u64>,
}

impl Tallies {
    /// Counts a call under a number of a run, and empties what comes next when the number is new.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn tally<C: Kv>(
        &mut self,
        counters: &C,
        model: &str,
        number: u64,
        counter: u32,
    ) -> Result<(), KvError> {
        if counter >= COUNTERS {
            return Err(KvError::new(format!(
                "a run has {COUNTERS} counters, and none is {counter}"
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
/// What the store says.
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

/// Ends a run; whether this was who ended it.
///
/// # Errors
///
/// What the store says. The run may or may not have been ended.
pub async fn trip<K: Kv>(kv: &K, model: &str, id: u64, why: &str) -> Result<bool, KvError> {
    let first = kv.increment(&trips_name(model, id), 1).await? == 1;
    let name = tripped_name(model, id);
    if first || kv.get(&name).await?.is_none() {
        let mut end = why.len().min(MAX_WHY_BYTES);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        kv.set(&name, &why.as_bytes()[..end]).await?;
    }
    Ok(first)
}

/// Why a run was ended, `None` while it goes on.
///
/// # Errors
///
/// What the store says.
pub async fn tripped<K: Kv>(kv: &K, model: &str, id: u64) -> Result<Option<String>, KvError> {
    let found = kv.get(&tripped_name(model, id)).await?;
    Ok(found.map(|why| String::from_utf8_lossy(&why).into_owned()))
}
