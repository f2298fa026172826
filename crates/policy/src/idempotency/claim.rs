//! Decides which of several callers with the same idempotency key runs the call, and which result counts. It needs only
//! atomic increments of the store.
//!
//! # Epochs
//!
//! Each run of a call is an *epoch*: 1, 2, 3… An epoch has four entries. Each is written once or only incremented, so that
//! a slow write can never undo a later one:
//!
//! * `c`, the claim, is a counter. The first caller that increments it owns the epoch. It adds the time, so the claim
//!   carries its own date even if the owner dies before it writes anything else.
//! * `r`, the intent, is the fingerprint of the call. The owner writes it once it knows that no earlier epoch counts, and
//!   before it runs the call.
//! * `o`, the outcome, is written by the owner at the end of the run.
//! * `f`, the fate, is a counter. The owner adds 1 to *commit* its outcome; the owner of a later epoch adds 2^32 to *close*
//!   the epoch. The first increment decides: an owner whose increment returns less than 2^32 has committed. Otherwise
//!   its outcome does not count.
//!
//! The epoch's number is the fencing token. An epoch may be claimed once the previous one is closed or its lease has
//! ended. The new owner first closes the previous epoch. If that epoch is committed, the new owner *adopts* its outcome: it
//! writes the same outcome as its own and commits it. It also adopts if the fate shows a commit and a close, because their
//! order is unknown. Adopting is always safe. An outcome is stored before its commit, and no later owner can have answered
//! anything else: it would have written an intent, at which the search for earlier outcomes ends.
//!
//! So callers see the outcome of at most one epoch, even if messages are delayed or lost and instances die. This does not
//! depend on clocks; clocks only decide how soon a dead owner is replaced.
//!
//! # Time to live
//!
//! Stores have no time to live. The names therefore carry the number of a day, and a [`sweep::Index`](crate::sweep) deletes
//! entries that are older than the time to live. A call is searched in every day in which it may have been claimed and
//! may still count; near a day's end also in the next day, because other clocks may be ahead. It is claimed in the present
//! day, so that its outcome lives long enough. Epochs of other days are closed like earlier epochs. Two callers whose
//! clocks differ may claim in different days at the same time. Each searches for the other again *after* its claim, so at
//! least one of them sees the other and gives up.
//!
//! # Cost
//!
//! A first call makes 5 writes (index entry, claim, intent, outcome, commit) and 2 reads (the lookup in all periods, and the
//! claims of the neighbouring periods). A place in the index takes up to 3 more operations, once in 16 calls. A replay makes 2
//! reads (the lookup, which finds an outcome of today, and the fate), or 3 after midnight. Decision 52 says why the rest must stay:
//!
//! * The index entry comes first, so that the sweep finds all entries of an instance that dies.
//! * The intent follows the claim. Before it, the intent could name the payload of a caller that loses.
//! * The neighbouring periods are read after the claim. Of two callers in two periods, the later one then sees the other.
//! * The outcome is stored before its commit. The other order would leave a committed epoch without an outcome.

use super::key::{Fingerprint, Scope};
use super::record::Outcome;
use super::settings::IdempotencySettings;
use crate::sweep::{Index, Removal};
use penstock_core::{Kv, KvError};

/// The amount that a close adds to a fate. A commit adds 1; a few times if replies are lost.
const CLOSE: i64 = 1 << 32;

/// Length of a period in milliseconds: a day, independent of the time to live, so that a change of that setting changes no
/// names.
const PERIOD_MS: u64 = 86_400_000;

/// Time from a claim to its intent, in milliseconds: two operations of the store.
pub const GRACE_MS: u64 = 10_000;

/// Time before a period's end at which other callers may already be in the next one, because clocks differ.
const BOUNDARY_MS: u64 = 10_000;

/// Most attempts at one key within its time to live. An attempt is used up when its owner dies or the call provably did
/// not run. A caller that needs more has a fault.
pub const MAX_EPOCHS: u64 = 1_000;

/// One epoch in this many is noted as the newest, so that a key with many attempts is not searched from the start.
const HINT_EVERY: u64 = 8;

/// Earlier epochs whose entries a sweep deletes together with an epoch's own. Their owners may have died before they
/// registered.
const UNREGISTERED_IN_A_ROW: u64 = 8;

/// Seconds for `Retry-After` while the same call runs.
const RETRY_IN_FLIGHT_S: u32 = 1;

/// Shards of the index. There are more than busy instances.
const INDEX_SHARDS: u32 = 16;

/// The decisions of one instance: the settings, and its part of the index.
#[derive(Debug)]
pub struct Idempotency {
    settings: IdempotencySettings,
    index: Index,
}

/// The state of a call before it is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// It did not run and does not run, so it may be claimed.
    Free(Slot),
    /// It was completed with this outcome.
    Done(Outcome),
    /// Another caller runs it now.
    InFlight {
        /// Value of `Retry-After`: seconds after which a retry can find the answer.
        retry_after_s: u32,
    },
    /// The key was used for another call.
    Mismatch,
    /// The key was tried [`MAX_EPOCHS`] times.
    Exhausted,
}

/// The place at which a call may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    period: u64,
    epoch: u64,
    /// Whether the previous epoch is a result beyond its time to live.
    expired: bool,
    /// Other periods that may contain the call.
    others: Vec<Other>,
}

/// Another period that may contain the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Other {
    period: u64,
    /// Its newest epoch there; 0 for none.
    newest: u64,
    /// Whether that epoch is a result beyond its time to live, which must be neither closed nor adopted.
    expired: bool,
}

/// The result of a claim: the lease, or the reason why this caller may not run the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// The caller owns the call and runs it.
    Granted(Lease),
    /// An earlier owner had completed it.
    Done(Outcome),
    /// Another caller was faster and runs it now.
    InFlight {
        /// Value of `Retry-After`: seconds after which a retry can find the answer.
        retry_after_s: u32,
    },
}

/// The right to run a call, and the number that fences it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The period in the names of its entries.
    pub period: u64,
    /// The fencing token: the number of this run among those of the key, from 1.
    pub epoch: u64,
}

/// The result of the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompleteResult {
    /// The outcome counts, and every retry gets it.
    Published,
    /// The lease had ended, and another outcome counts or will count; its state.
    Superseded(RecordState),
}

/// The state of a call in one period.
#[derive(Debug)]
enum State {
    Absent,
    /// All epochs up to this one have ended without an outcome that is known to count.
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

/// Returns whether a fate contains a commit, before or after a close.
fn has_commit(fate: i64) -> bool {
    fate % CLOSE != 0
}

fn is_closed(fate: i64) -> bool {
    fate >= CLOSE
}

/// The time of a claim, from its counter. All callers that raced for it added their times. These are close to each other,
/// so the sum is about a multiple of the present time.
pub(crate) fn claimed_ms(claim: i64, unix_ms: u64) -> u64 {
    let claim = u64::try_from(claim).unwrap_or(0);
    let now = unix_ms.max(1);
    let racers = ((claim + now / 2) / now).max(1);
    claim / racers
}

impl Idempotency {
    /// The decisions under these settings.
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

    /// The periods that may contain a call, the oldest first.
    fn periods(&self, unix_ms: u64) -> std::ops::RangeInclusive<u64> {
        // An outcome counts from its completion, at most a lease after its claim. Later runs are superseded or adopted.
        let reach_ms = self.ttl_ms().saturating_add(self.settings.lease_ms);
        let oldest = self.index.bucket(unix_ms.saturating_sub(reach_ms));
        // A call that was claimed just before the day began may still run.
        let before = self.index.bucket(unix_ms).saturating_sub(1);
        let newest = self.index.bucket(unix_ms.saturating_add(BOUNDARY_MS));
        oldest.min(before)..=newest
    }

    /// Looks a call up, without any write.
    pub async fn look_up<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        unix_ms: u64,
    ) -> Result<RecordState, KvError> {
        let present = self.index.bucket(unix_ms);
        let (mut newest, mut newest_expired) = (0, false);
        let mut others = Vec::new();
        let mut in_flight = None;
        // One operation tells that a call is new in all periods, or finds the outcome of one that finished today. Its reads need
        // not be of one moment: a claim that it misses is met by this caller's own claim.
        let periods = self.periods(unix_ms);
        let mut asked = vec![name(present, scope, 'o', 1)];
        asked.extend(periods.clone().map(|period| name(period, scope, 'c', 1)));
        let first = kv.read_many(&asked, 1).await?;
        let mut of_present = first.values.into_iter().next().flatten();
        for (period, is_claimed) in periods.zip(first.counters) {
            let outcome = match period == present {
                true => of_present.take(),
                false => None,
            };
            let state = match is_claimed || outcome.is_some() {
                true => self.scan(kv, period, scope, outcome, unix_ms).await?,
                false => State::Absent,
            };
            let (over, expired) = match state {
                State::Absent => (0, false),
                State::Over { newest } => (newest, false),
                State::Done { epoch, outcome }
                    if outcome.completed_ms.saturating_add(self.ttl_ms()) <= unix_ms =>
                {
                    (epoch, true)
                }
                State::Done { outcome, .. } => {
                    return Ok(if outcome.fingerprint == *fingerprint {
                        RecordState::Done(outcome)
                    } else {
                        RecordState::Mismatch
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
            Some(Some(other)) if other != *fingerprint => Ok(RecordState::Mismatch),
            Some(_) => Ok(RecordState::InFlight {
                retry_after_s: RETRY_IN_FLIGHT_S,
            }),
            None if newest >= MAX_EPOCHS => Ok(RecordState::Exhausted),
            None => Ok(RecordState::Free(Slot {
                period: present,
                epoch: newest + 1,
                expired: newest_expired,
                others,
            })),
        }
    }

    /// Finds the state of a call in a period in which its first epoch is claimed. `first` is the outcome of that epoch, if it was
    /// found already.
    async fn scan<K: Kv>(
        &self,
        kv: &K,
        period: u64,
        scope: &Scope,
        first: Option<Vec<u8>>,
        unix_ms: u64,
    ) -> Result<State, KvError> {
        let mut epoch = 1;
        let mut jumped = false;
        let mut stored = first;
        loop {
            let fate_name = name(period, scope, 'f', epoch);
            let (intent, next_is_claimed, fate) = match stored {
                // The commit follows the outcome at once, so the fate most likely exists. If it does not, reading creates it
                // on some stores, with the value of one that does not exist.
                Some(_) => (None, None, kv.increment(&fate_name, 0).await?),
                None => {
                    let asked = [
                        name(period, scope, 'r', epoch),
                        name(period, scope, 'o', epoch),
                        fate_name.clone(),
                        name(period, scope, 'c', epoch + 1),
                    ];
                    let many = kv.read_many(&asked, 2).await?;
                    let [intent, outcome] = many.values.try_into().unwrap_or_default();
                    stored = outcome;
                    let fate = match many.counters[0] {
                        true => kv.increment(&fate_name, 0).await?,
                        false => 0,
                    };
                    (Some(intent), Some(many.counters[1]), fate)
                }
            };
            if has_commit(fate) && !is_closed(fate) {
                // It may have been stored after it was looked for and before the fate was read.
                let outcome = match stored {
                    Some(outcome) => Some(outcome),
                    None => kv.get(&name(period, scope, 'o', epoch)).await?,
                };
                return match outcome.as_deref().and_then(Outcome::decode) {
                    Some(outcome) => Ok(State::Done { epoch, outcome }),
                    None => Err(KvError::new(
                        "the record of a finished call is missing or not readable",
                    )),
                };
            }
            if !is_closed(fate) {
                let intent = match intent {
                    Some(intent) => intent,
                    None => kv.get(&name(period, scope, 'r', epoch)).await?,
                };
                // It is claimed, or the search would have ended before it.
                let claim = kv.increment(&name(period, scope, 'c', epoch), 0).await?;
                let allowed = match intent {
                    Some(_) => self.settings.lease_ms,
                    None => GRACE_MS,
                };
                if unix_ms < claimed_ms(claim, unix_ms).saturating_add(allowed) {
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
                    stored = None;
                    continue;
                }
            }
            let next_is_claimed = match next_is_claimed {
                Some(known) => known,
                None => kv.exists(&name(period, scope, 'c', epoch + 1)).await?,
            };
            if epoch == MAX_EPOCHS || !next_is_claimed {
                break;
            }
            epoch += 1;
            stored = None;
        }
        Ok(State::Over { newest: epoch })
    }

    /// Claims a call that [`Idempotency::look_up`] found free.
    pub async fn claim<K: Kv>(
        &mut self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        slot: &Slot,
        unix_ms: u64,
        random: u64,
    ) -> Result<ClaimResult, KvError> {
        let Slot {
            period,
            epoch,
            expired,
            ref others,
        } = *slot;
        let in_flight = ClaimResult::InFlight {
            retry_after_s: RETRY_IN_FLIGHT_S,
        };
        let place = self
            .index
            .place(kv, period, unix_ms, random, &mut DeleteEpochs)
            .await?;
        // Register before the claim, so that the sweep finds the entries if this instance dies.
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
                // The call did not run, so the next caller need not wait for the lease. If this write fails too, it waits.
                let _ = self.release(kv, scope, &lease).await;
                Err(error)
            }
        }
    }

    /// Checks an owned epoch: the owner may run the call, or an earlier outcome counts. `None` if another owner may run the
    /// call in another period.
    async fn claimed<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        fingerprint: &Fingerprint,
        lease: &Lease,
        expired: bool,
        others: &[Other],
    ) -> Result<Option<ClaimResult>, KvError> {
        let Lease { period, epoch } = *lease;
        // A concurrent claim in another period also came before its own check, so one of the two sees the other. This is
        // needed at any time, because this call may have been slow since it read the clock.
        let next_claim = |neighbour| {
            let seen = others.iter().find(|other| other.period == neighbour);
            name(
                neighbour,
                scope,
                'c',
                seen.map_or(0, |other| other.newest) + 1,
            )
        };
        let neighbours = [period.checked_sub(1), period.checked_add(1)];
        let claims: Vec<String> = neighbours.into_iter().flatten().map(next_claim).collect();
        if kv.read_many(&claims, 0).await?.counters.contains(&true) {
            return Ok(None);
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
            // This epoch has no intent, so a later owner must also search the epochs before it.
            return Ok(match self.commit(kv, scope, lease, &outcome).await? {
                true => Some(ClaimResult::Done(outcome)),
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
        Ok(Some(ClaimResult::Granted(lease.clone())))
    }

    /// Ends a run, and stores its outcome for replays.
    pub async fn complete<K: Kv>(
        &self,
        kv: &K,
        scope: &Scope,
        lease: &Lease,
        outcome: &Outcome,
        unix_ms: u64,
    ) -> Result<CompleteResult, KvError> {
        if self.commit(kv, scope, lease, outcome).await? {
            return Ok(CompleteResult::Published);
        }
        let looked = self
            .look_up(kv, scope, &outcome.fingerprint, unix_ms)
            .await?;
        Ok(CompleteResult::Superseded(looked))
    }

    /// Commits an outcome of a run. Returns whether it counts; it does not if the epoch was closed before.
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
            // The commit may or may not have been applied. If it was, a second one changes nothing. If the epoch was
            // closed in between, the owner that closed it knows which came first.
            Err(_) => kv.increment(&fate_name, 1).await?,
        };
        Ok(!is_closed(fate))
    }

    /// Releases the claim of a call that provably did not run, or whose answer must not be replayed. The next caller need not
    /// wait for the lease.
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

    /// Deletes at most `budget` outdated entries of the index's `shard`. Claims do this as well; tests call it directly.
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

/// Closes the epochs of a period from `newest` down to the first with an intent, because none before it counts. Returns the
/// outcome that counts or may count, if there is one.
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

/// Deletes the entries that belong to an index entry `<epoch> <scope>`.
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
