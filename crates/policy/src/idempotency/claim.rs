//! Decides which of many callers with the same idempotency key runs the call, and which result counts,
//! with nothing from the store but atomic increments.
//!
//! # Epochs
//!
//! Running a call is an *epoch*: 1, 2, 3… Each has four entries, each written once or only incremented,
//! so that a slow write can never undo a later one:
//!
//! * `c` the claim, a counter: the first to increment it owns the epoch. What it adds is the time, so
//!   the claim carries its own date even if its owner dies before writing anything else;
//! * `r` the intent: the fingerprint of the call. Written by the owner once it knows that no earlier
//!   epoch counts and before it runs anything;
//! * `o` the outcome, written by the owner when the run ended;
//! * `f` the fate, a counter in which two things are added: the owner adds 1 to *commit* its outcome,
//!   and whoever owns a later epoch adds 2^32 to *close* it. The first decides: an owner whose
//!   increment gives less than 2^32 has committed, and any other's outcome does not count.
//!
//! The epoch's number is the fencing token. An epoch may be claimed once the one before is closed, or
//! its lease is over. Its new owner first closes the one before. If that turns out committed, or may
//! be (its fate shows both and nobody can tell which was first), the new owner *adopts* the outcome: it
//! writes the same outcome as its own and commits that. Adopting is always safe: an outcome is in the
//! store before its commit, and nobody later can have answered anything else, because whoever did would
//! have written an intent, at which the search for earlier outcomes ends.
//!
//! So at most one epoch's outcome is ever told to a caller, whatever is delayed, lost or dies, and
//! without trusting any clock; clocks decide only how soon a dead owner is replaced.
//!
//! # Time to live
//!
//! Stores have none, so the names carry the number of a day, and a [`sweep::Index`](crate::sweep) deletes
//! what is older than the time to live. A call is looked for in every day in which it may have been
//! claimed and still count, and near a day's end also in the next, where faster clocks are. It is claimed
//! in the present day, so that its outcome lives long enough, and epochs of the others are closed like
//! earlier ones. Two callers who claim in different days at once (clocks differ) look for each other
//! again *after* claiming, so at least one of them sees the other and gives up.
//!
//! # Cost
//!
//! A first call makes 5 writes (index entry, claim, intent, outcome, commit), a replay none. The index entry
//! comes first, so that whoever dies leaves nothing that is not found again.

use super::key::{Fingerprint, Scope};
use super::record::Outcome;
use super::settings::IdempotencySettings;
use crate::sweep::{Index, Removal};
use penstock_core::{Kv, KvError};

/// What closing an epoch adds to its fate. Commits add 1, once or a few times when replies are lost.
const CLOSE: i64 = 1 << 32;

/// How long a period is: a day, whatever the time to live, so that changing that setting changes no names.
const PERIOD_MS: u64 = 86_400_000;

/// How long an owner that has claimed has for writing its intent: two operations of the store.
pub const GRACE_MS: u64 = 10_000;

/// How close to a period's end other callers may be in the next one already: clocks that differ by some
/// seconds.
const BOUNDARY_MS: u64 = 10_000;

/// Attempts at one key within its time to live. An attempt is used up when its owner dies or the call
/// provably did not run; after so many, something is wrong with the caller.
pub const MAX_EPOCHS: u64 = 1_000;

/// Every how many epochs the newest is noted, so that a much tried key is not searched from the start.
const HINT_EVERY: u64 = 8;

/// Predecessors whose entries a sweep deletes along with an epoch's own: owners that died before they
/// registered, in a row.
const UNREGISTERED_IN_A_ROW: u64 = 8;

/// Seconds a caller is told to wait while another runs the same call.
const RETRY_IN_FLIGHT_S: u32 = 1;

/// Shards of the index: more than busy instances.
const INDEX_SHARDS: u32 = 16;

/// The decisions for one instance: settings, and its part of the index.
#[derive(Debug)]
pub struct Idempotency {
    settings: IdempotencySettings,
    index: Index,
}

/// What is known of a call before anybody claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nobody runs it and nobody did: it may be claimed.
    Free(Slot),
    /// It was done; this is what came of it.
    Done(Outcome),
    /// Another caller runs it now. Seconds after which it makes sense to ask again.
    InFlight {
        /// Sent as `Retry-After`.
        retry_after_s: u32,
    },
    /// The key was used for another call.
    Mismatch,
    /// The key was tried [`MAX_EPOCHS`] times.
    Exhausted,
}

/// Where a call may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    period: u64,
    epoch: u64,
    /// Whether the epoch before is a result whose time is over.
    expired: bool,
    /// Other periods the call may be in.
    others: Vec<Other>,
}

/// Another period the call may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Other {
    period: u64,
    /// Its newest epoch there, 0 for none.
    newest: u64,
    /// Whether that is a result whose time is over: not to be closed, and not to be adopted.
    expired: bool,
}

/// What came of trying to claim a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the caller's to run.
    Granted(Lease),
    /// An earlier owner had finished it after all.
    Done(Outcome),
    /// Another caller was faster.
    InFlight {
        /// Sent as `Retry-After`.
        retry_after_s: u32,
    },
}

/// The right to run a call, and the number that fences it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The period its entries are named by.
    pub period: u64,
    /// The fencing token.
    pub epoch: u64,
}

/// What came of ending a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The outcome counts, and all replays will be it.
    Published,
    /// The lease was over and another outcome counts, or will: what is known of it.
    Superseded(Looked),
}

/// What one period says of a call.
#[derive(Debug)]
enum State {
    Absent,
    /// Everything up to this epoch is over without an outcome that is known to count.
    Over {
        newest: u64,
    },
    InFlight(Option<Fingerprint>),
    Done {
        epoch: u64,
        outcome: Outcome,
    },
}

fn name(period: u64, scope: &Scope, what: char, epoch: u64) -> String {
    format!("i/{period}/{}/{what}{epoch}", scope.as_str())
}

fn hint_name(period: u64, scope: &Scope) -> String {
    format!("i/{period}/{}/n", scope.as_str())
}

/// Whether a fate says that its outcome was offered before or after a close.
fn has_commit(fate: i64) -> bool {
    fate % CLOSE != 0
}

fn is_closed(fate: i64) -> bool {
    fate >= CLOSE
}

/// A counter's value, without creating it on stores where reading does.
async fn count<K: Kv>(kv: &K, kv_key: &str) -> Result<i64, KvError> {
    if kv.exists(kv_key).await? {
        kv.increment(kv_key, 0).await
    } else {
        Ok(0)
    }
}

/// When a claim was made, from its counter. Callers who raced for it have all added their time, and
/// these times are close, so the sum is a multiple of about now.
pub(crate) fn claimed_ms(claim: i64, unix_ms: u64) -> u64 {
    let claim = u64::try_from(claim).unwrap_or(0);
    let now = unix_ms.max(1);
    let racers = ((claim + now / 2) / now).max(1);
    claim / racers
}

impl Idempotency {
    /// The decisions under some settings.
    pub fn new(settings: IdempotencySettings) -> Self {
        let keep_ms = settings.ttl_s * 1_000 + settings.lease_ms;
        Self {
            settings,
            index: Index::keeping("i", PERIOD_MS, keep_ms, INDEX_SHARDS),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &IdempotencySettings {
        &self.settings
    }

    fn ttl_ms(&self) -> u64 {
        self.settings.ttl_s.max(1) * 1_000
    }

    /// The periods in which a call may be, oldest first.
    fn periods(&self, unix_ms: u64) -> std::ops::RangeInclusive<u64> {
        // An outcome counts from when it was completed, at most a lease after it was claimed; later
        // runs are superseded or adopted.
        let reach_ms = self.ttl_ms().saturating_add(self.settings.lease_ms);
        let oldest = self.index.bucket(unix_ms.saturating_sub(reach_ms));
        // Whoever claimed just before the day began may still be at it.
        let before = self.index.bucket(unix_ms).saturating_sub(1);
        let newest = self.index.bucket(unix_ms.saturating_add(BOUNDARY_MS));
        oldest.min(before)..=newest
    }

    /// Finds out what is known of a call, changing nothing.
    pub async fn look<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        unix_ms: u64,
    ) -> Result<Looked, KvError> {
        let present = self.index.bucket(unix_ms);
        let (mut newest, mut newest_expired) = (0, false);
        let mut others = Vec::new();
        let mut in_flight = None;
        for period in self.periods(unix_ms) {
            let (over, expired) = match self.scan(kv, period, scope, unix_ms).await? {
                State::Absent => (0, false),
                State::Over { newest } => (newest, false),
                State::Done { epoch, outcome }
                    if outcome.completed_ms.saturating_add(self.ttl_ms()) <= unix_ms =>
                {
                    (epoch, true)
                }
                State::Done { outcome, .. } => {
                    return Ok(if outcome.fingerprint == *fingerprint {
                        Looked::Done(outcome)
                    } else {
                        Looked::Mismatch
                    });
                }
                State::InFlight(other) => {
                    in_flight = Some(other);
                    continue;
                }
            };
            if period == present {
                (newest, newest_expired) = (over, expired);
            } else {
                others.push(Other {
                    period,
                    newest: over,
                    expired,
                });
            }
        }
        match in_flight {
            Some(Some(other)) if other != *fingerprint => Ok(Looked::Mismatch),
            Some(_) => Ok(Looked::InFlight {
                retry_after_s: RETRY_IN_FLIGHT_S,
            }),
            None if newest >= MAX_EPOCHS => Ok(Looked::Exhausted),
            None => Ok(Looked::Free(Slot {
                period: present,
                epoch: newest + 1,
                expired: newest_expired,
                others,
            })),
        }
    }

    async fn scan<K: Kv>(
        &self,
        kv: &K,
        period: u64,
        scope: &Scope,
        unix_ms: u64,
    ) -> Result<State, KvError> {
        let mut epoch = 1;
        let mut jumped = false;
        loop {
            let intent = kv.get(&name(period, scope, 'r', epoch)).await?;
            let claim_name = name(period, scope, 'c', epoch);
            if intent.is_none() && epoch == 1 && !kv.exists(&claim_name).await? {
                return Ok(State::Absent);
            }
            let fate = count(kv, &name(period, scope, 'f', epoch)).await?;
            if has_commit(fate) && !is_closed(fate) {
                let outcome = kv.get(&name(period, scope, 'o', epoch)).await?;
                return match outcome.as_deref().and_then(Outcome::decode) {
                    Some(outcome) => Ok(State::Done { epoch, outcome }),
                    None => Err(KvError::new(
                        "the record of a finished call is missing or not readable",
                    )),
                };
            }
            let claimed_ms = claimed_ms(count(kv, &claim_name).await?, unix_ms);
            if !is_closed(fate) {
                let allowed = match intent {
                    Some(_) => self.settings.lease_ms,
                    None => GRACE_MS,
                };
                if unix_ms < claimed_ms.saturating_add(allowed) {
                    let intent = intent
                        .and_then(|r| String::from_utf8(r).ok())
                        .and_then(|r| Fingerprint::from_name(&r));
                    return Ok(State::InFlight(intent));
                }
            } else if !jumped {
                jumped = true;
                let hint = kv.get(&hint_name(period, scope)).await?;
                let hint = hint.and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok());
                if let Some(hint) = hint.filter(|hint| (epoch + 1..=MAX_EPOCHS).contains(hint)) {
                    epoch = hint;
                    continue;
                }
            }
            if epoch == MAX_EPOCHS || !kv.exists(&name(period, scope, 'c', epoch + 1)).await? {
                break;
            }
            epoch += 1;
        }
        Ok(State::Over { newest: epoch })
    }

    /// Tries to become the one who runs a call that [`Idempotency::look`] found free.
    pub async fn claim<K: Kv>(
        &mut self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        slot: &Slot,
        unix_ms: u64,
        random: u64,
    ) -> Result<Claimed, KvError> {
        let Slot {
            period,
            epoch,
            expired,
            ref others,
        } = *slot;
        let in_flight = Claimed::InFlight {
            retry_after_s: RETRY_IN_FLIGHT_S,
        };
        let place = self
            .index
            .place(kv, period, unix_ms, random, &mut DeleteEpochs)
            .await?;
        // Before the claim: what is claimed is found again, whoever dies.
        kv.set(&place, format!("{epoch} {}", scope.as_str()).as_bytes())
            .await?;
        let stamp = i64::try_from(unix_ms).unwrap_or(i64::MAX).max(1);
        let claim = kv
            .increment(&name(period, scope, 'c', epoch), stamp)
            .await?;
        if claim != stamp {
            return Ok(in_flight);
        }
        let lease = Lease { period, epoch };
        let claimed = self
            .claimed(kv, scope, fingerprint, &lease, expired, others)
            .await;
        match claimed {
            Ok(Some(claimed)) => Ok(claimed),
            Ok(None) => {
                self.release(kv, scope, &lease).await?;
                Ok(in_flight)
            }
            Err(error) => {
                // Nothing was run, so the next caller need not wait for the lease. If this is lost as
                // well, it does.
                let _ = self.release(kv, scope, &lease).await;
                Err(error)
            }
        }
    }

    /// What the owner of an epoch finds: that it may run the call, or what came of it earlier, or `None`
    /// where another owner may be at it in another period.
    async fn claimed<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        lease: &Lease,
        expired: bool,
        others: &[Other],
    ) -> Result<Option<Claimed>, KvError> {
        let Lease { period, epoch } = *lease;
        // Whoever claims in another period at the same moment has claimed before looking here, too. Not
        // only near a period's end: this call may have been slow since it read the clock.
        for neighbour in [period.checked_sub(1), period.checked_add(1)] {
            let Some(neighbour) = neighbour else { continue };
            let seen = others.iter().find(|other| other.period == neighbour);
            let next = seen.map_or(0, |other| other.newest) + 1;
            if kv.exists(&name(neighbour, scope, 'c', next)).await? {
                return Ok(None);
            }
        }
        let mut earlier = match expired {
            true => None,
            false => close(kv, period, scope, epoch - 1).await?,
        };
        for other in others.iter().filter(|other| !other.expired) {
            if earlier.is_none() {
                earlier = close(kv, other.period, scope, other.newest).await?;
            }
        }
        if let Some(outcome) = earlier {
            // No intent: a later owner must go on looking behind this epoch.
            return Ok(match self.commit(kv, scope, lease, &outcome).await? {
                true => Some(Claimed::Done(outcome)),
                false => None,
            });
        }
        let mut entries = vec![(
            name(period, scope, 'r', epoch),
            fingerprint.as_str().as_bytes().to_vec(),
        )];
        if epoch.is_multiple_of(HINT_EVERY) {
            entries.push((hint_name(period, scope), epoch.to_string().into_bytes()));
        }
        kv.set_many(&entries).await?;
        Ok(Some(Claimed::Granted(lease.clone())))
    }

    /// Ends a run whose outcome is to be replayed.
    pub async fn complete<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        lease: &Lease,
        outcome: &Outcome,
        unix_ms: u64,
    ) -> Result<Completed, KvError> {
        if self.commit(kv, scope, lease, outcome).await? {
            return Ok(Completed::Published);
        }
        let looked = self.look(kv, scope, &outcome.fingerprint, unix_ms).await?;
        Ok(Completed::Superseded(looked))
    }

    /// Offers an outcome; whether it counts.
    async fn commit<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        Lease { period, epoch }: &Lease,
        outcome: &Outcome,
    ) -> Result<bool, KvError> {
        kv.set(&name(*period, scope, 'o', *epoch), &outcome.encode())
            .await?;
        let fate_name = name(*period, scope, 'f', *epoch);
        let fate = match kv.increment(&fate_name, 1).await {
            Ok(fate) => fate,
            // Whether it was applied is not known. A second commit changes nothing if it was; and if the
            // epoch was closed in between, whoever closed it knows which came first.
            Err(_) => kv.increment(&fate_name, 1).await?,
        };
        Ok(!is_closed(fate))
    }

    /// Gives a claim back: the call provably did not run, or its answer is not to be replayed. The next
    /// caller need not wait for the lease.
    pub async fn release<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        Lease { period, epoch }: &Lease,
    ) -> Result<(), KvError> {
        kv.increment(&name(*period, scope, 'f', *epoch), CLOSE)
            .await?;
        Ok(())
    }

    /// Deletes at most `budget` outdated entries of the index's `shard`. Claims do this on their way;
    /// a test or an operator's tool may.
    pub async fn sweep<K: Kv>(
        &mut self,
        kv: &K,
        shard: u32,
        unix_ms: u64,
        budget: u64,
    ) -> Result<u64, KvError> {
        let swept = self
            .index
            .sweep(kv, shard, unix_ms, budget, &mut DeleteEpochs)
            .await?;
        Ok(swept.entries)
    }
}

/// Closes the epochs of a period from `newest` down to the one whose intent says that nothing before it
/// counts. Gives the outcome that counts or may count, if there is one.
async fn close<K: Kv>(
    kv: &K,
    period: u64,
    scope: &Scope,
    newest: u64,
) -> Result<Option<Outcome>, KvError> {
    for epoch in (1..=newest).rev() {
        let fate = kv
            .increment(&name(period, scope, 'f', epoch), CLOSE)
            .await?;
        if has_commit(fate) {
            let outcome = kv.get(&name(period, scope, 'o', epoch)).await?;
            return match outcome.as_deref().and_then(Outcome::decode) {
                Some(outcome) => Ok(Some(outcome)),
                None => Err(KvError::new(
                    "the record of a finished call is missing or not readable",
                )),
            };
        }
        if kv.exists(&name(period, scope, 'r', epoch)).await? {
            break;
        }
    }
    Ok(None)
}

/// Deletes what an index entry `<epoch> <scope>` stands for.
struct DeleteEpochs;

impl<K: Kv> Removal<K> for DeleteEpochs {
    async fn remove(&mut self, kv: &K, period: u64, value: &[u8]) -> Result<(), KvError> {
        let parsed = std::str::from_utf8(value)
            .ok()
            .and_then(|v| v.split_once(' '))
            .and_then(|(epoch, scope)| {
                Some((epoch.parse::<u64>().ok()?, Scope::from_name(scope)?))
            });
        let Some((newest, scope)) = parsed else {
            return Ok(());
        };
        let oldest = newest.saturating_sub(UNREGISTERED_IN_A_ROW).max(1);
        for epoch in oldest..=newest {
            for what in ['r', 'o', 'f', 'c'] {
                kv.delete(&name(period, &scope, what, epoch)).await?;
            }
        }
        if newest >= HINT_EVERY {
            kv.delete(&hint_name(period, &scope)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_date_survives_racers_who_added_theirs() {
        let now = 1_795_233_268_120;
        for racers in 1..2_000_u64 {
            let sum: i64 = (0..racers).map(|i| (now - 5_000 + i % 50) as i64).sum();
            let date = claimed_ms(sum, now + 3_600_000);
            assert!(
                (now - 5_000..now - 4_900).contains(&date),
                "{racers}: {date}"
            );
        }
        assert_eq!(claimed_ms(0, now), 0);
        assert_eq!(claimed_ms(-1, now), 0);
    }

    #[test]
    fn the_first_of_commit_and_close_decides() {
        assert!(has_commit(1) && !is_closed(1));
        assert!(has_commit(3) && !is_closed(3));
        assert!(!has_commit(CLOSE) && is_closed(CLOSE));
        assert!(!has_commit(3 * CLOSE) && is_closed(3 * CLOSE));
        assert!(has_commit(CLOSE + 1) && is_closed(CLOSE + 1));
    }
}
