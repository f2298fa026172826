//! Looks a digest up, and decides which of several callers that miss it at the same time runs the model. It needs only
//! atomic increments of the store.
//!
//! # Places
//!
//! A cache has a fixed number of places, and each digest belongs to one of them. The entries of a place are bounded, so the
//! cache is bounded and needs no sweep: a new result overwrites the old one of its place. The entries are
//!
//! * the *record*: a result with its whole digest, its time, and its flight;
//! * the *intent*: the digest and the number of the flight that began last;
//! * a ring of [`RING`] *claims*, which are counters: flight n uses the claim n modulo [`RING`].
//!
//! A record answers only its own digest. So no caller ever gets the result of another call, even if messages are delayed or
//! lost and instances die. Everything else only saves runs.
//!
//! # Flights
//!
//! A caller that misses claims the flight after the last finished one, by adding the time to its claim. The caller whose
//! increment returns only its own time was first, and runs the model. The claim thus carries its own date, even if its
//! owner dies before it writes anything else; later callers divide the sum by the number of times that it must contain. A
//! flight is finished when a record of it or of a later flight exists, when its claim is gone, or when its lease has
//! ended. In the last case its runner counts as dead, and the next flight is claimed in the same way. A caller with the
//! digest of the flight waits. A caller with another digest runs without the cache.
//!
//! The winner reads record and intent again, because both may have changed before its claim arrived. A claim that came too
//! late is undone by subtracting its increment. Otherwise the winner writes its intent, and clears the claim two flights
//! ahead, which the ring used before. No caller reads that claim any more: callers look at most [`MAX_DEAD`] flights past
//! the last known one.
//!
//! So one caller at a time runs the model for a place, as long as the store answers the reads of one lookup within the
//! lease. If it is slower, a second run may happen, and nothing worse.

use super::settings::MAX_RESULT_BYTES;
use super::words::{Lookup, NO_TICKET, StoredResult};
use crate::idempotency::claim::claimed_ms;
use penstock_core::{Kv, KvError};

/// Claims of a place: more than the flights that callers read together and the one that is cleared ahead of them.
pub const RING: u64 = 8;
/// Flights past the last known one whose runners may have died before they wrote their intent.
const MAX_DEAD: u64 = RING - 3;
/// The number of entries of a place.
pub const ENTRIES_OF_A_PLACE: u64 = 2 + RING;

/// The most by which the clock of another machine may be ahead, in milliseconds. Later times are ignored.
const MAX_SKEW_MS: u64 = 5_000;
/// Leases for which a caller waits: one for a runner that dies, and one for its successor.
const MAX_WAIT_LEASES: u64 = 2;

/// The shortest digest, in bytes. Two equal shorter ones could be found.
const MIN_DIGEST_BYTES: usize = 16;
/// The longest digest, in bytes.
const MAX_DIGEST_BYTES: usize = 64;
/// The longest name of a cache, in bytes. Names of models are shorter.
const MAX_SPACE_BYTES: usize = 128;

/// The format of the entries that this release writes.
const FORM: u8 = 1;

/// The address of a result: its cache, place and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    space: String,
    place: u64,
    digest: Vec<u8>,
    lease_ms: u64,
}

/// The state of a flight by its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// It is not claimed, or no longer.
    Free,
    /// A caller has claimed it, and may be running the model.
    Claimed,
    /// Its runner is dead, or was never going to run.
    Dead,
}

/// The record of a place.
#[derive(Default)]
struct Record {
    flight: u64,
    digest: Vec<u8>,
    kept_ms: u64,
    value: Vec<u8>,
}

impl Record {
    /// Parses a record; `None` for other bytes.
    fn decode(bytes: Option<Vec<u8>>) -> Self {
        let Some(mut value) = bytes else {
            return Self::default();
        };
        let read = |bytes: &[u8]| {
            let (flight, digest, rest) = head(bytes)?;
            let (kept_ms, rest) = rest.split_first_chunk::<8>()?;
            let begins = bytes.len() - rest.len();
            Some((
                flight,
                digest.to_vec(),
                u64::from_le_bytes(*kept_ms),
                begins,
            ))
        };
        let Some((flight, digest, kept_ms, begins)) = read(&value) else {
            return Self::default();
        };
        value.drain(..begins);
        Self {
            flight,
            digest,
            kept_ms,
            value,
        }
    }

    /// The result, if it belongs to this digest, is young enough, and is not from the future.
    fn answer(&mut self, at: &Address, since_ms: u64, now_ms: u64) -> Option<StoredResult> {
        let fits = self.digest == at.digest
            && (since_ms..=now_ms.saturating_add(MAX_SKEW_MS)).contains(&self.kept_ms);
        fits.then(|| StoredResult {
            value: std::mem::take(&mut self.value),
            kept_ms: self.kept_ms,
        })
    }
}

/// Splits an entry into its number, its digest and the rest.
fn head(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let ([form, length], rest) = bytes.split_first_chunk::<2>()?;
    if *form != FORM {
        return None;
    }
    let (digest, rest) = rest.split_at_checked(usize::from(*length))?;
    let (flight, rest) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*flight), digest, rest))
}

impl Address {
    /// The address of a digest among `places`. The error says which part is not valid.
    pub fn new(space: &str, places: u32, digest: &[u8], lease_ms: u32) -> Result<Self, String> {
        if space.is_empty() || space.len() > MAX_SPACE_BYTES {
            return Err(format!("a space has 1 to {MAX_SPACE_BYTES} bytes"));
        }
        if !(MIN_DIGEST_BYTES..=MAX_DIGEST_BYTES).contains(&digest.len()) {
            return Err(format!(
                "a digest has {MIN_DIGEST_BYTES} to {MAX_DIGEST_BYTES} bytes, not {}",
                digest.len()
            ));
        }
        let leading = digest.first_chunk::<8>().copied().unwrap_or_default();
        let place = u64::from_le_bytes(leading)
            .checked_rem(u64::from(places))
            .ok_or("a cache has one place at least")?;
        Ok(Self {
            space: space.to_owned(),
            place,
            digest: digest.to_vec(),
            lease_ms: u64::from(lease_ms),
        })
    }

    fn record(&self) -> String {
        format!("cache:{}:{}", self.space, self.place)
    }

    fn intent(&self) -> String {
        format!("cache-run:{}:{}", self.space, self.place)
    }

    fn claim(&self, flight: u64) -> String {
        let (space, place) = (&self.space, self.place);
        format!("cache-flight:{space}:{place}:{}", flight % RING)
    }

    /// The first bytes of an entry of this digest.
    fn head(&self, flight: u64, room: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.digest.len() + room);
        // A digest has at most 64 bytes.
        bytes.extend_from_slice(&[FORM, self.digest.len() as u8]);
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&flight.to_le_bytes());
        bytes
    }

    /// The number of the flight that began last, and whether it is for this digest.
    async fn begun<K: Kv>(&self, kv: &K) -> Result<(u64, bool), KvError> {
        let intent = kv.get(&self.intent()).await?.unwrap_or_default();
        Ok(match head(&intent) {
            Some((flight, digest, _)) => (flight, digest == self.digest),
            None => (0, false),
        })
    }

    async fn flight<K: Kv>(&self, kv: &K, flight: u64, now_ms: u64) -> Result<Flight, KvError> {
        let name = self.claim(flight);
        // On some stores, reading a counter creates it.
        if !kv.exists(&name).await? {
            return Ok(Flight::Free);
        }
        let sum = kv.increment(&name, 0).await?;
        Ok(self.judge(sum, now_ms))
    }

    fn judge(&self, sum: i64, now_ms: u64) -> Flight {
        if sum <= 0 {
            return Flight::Free;
        }
        let begun_ms = claimed_ms(sum, now_ms);
        let believed = begun_ms <= now_ms.saturating_add(MAX_SKEW_MS);
        if believed && now_ms < begun_ms.saturating_add(self.lease_ms) {
            Flight::Claimed
        } else {
            Flight::Dead
        }
    }

    /// Looks up a result from `since_ms` or later. A caller that waits for another run passes since when,
    /// `waiting_since_ms`, so that it does not wait for ever.
    pub async fn look_up<K: Kv>(
        &self,
        kv: &K,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Lookup, KvError> {
        let mut record = Record::decode(kv.get(&self.record()).await?);
        if let Some(kept) = record.answer(self, since_ms, now_ms) {
            return Ok(Lookup::Hit(kept));
        }
        let patience_ms = self.lease_ms.saturating_mul(MAX_WAIT_LEASES);
        if waiting_since_ms.is_some_and(|began| now_ms.saturating_sub(began) >= patience_ms) {
            return Ok(Lookup::Bypass);
        }
        let (begun, is_ours) = self.begun(kv).await?;
        if begun > record.flight && self.flight(kv, begun, now_ms).await? == Flight::Claimed {
            return Ok(if is_ours {
                Lookup::Wait
            } else {
                Lookup::Bypass
            });
        }
        let last = begun.max(record.flight);
        for flight in (last..=last.saturating_add(MAX_DEAD)).skip(1) {
            match self.flight(kv, flight, now_ms).await? {
                Flight::Free => return self.claim_flight(kv, flight, since_ms, now_ms).await,
                // Its intent will follow in a moment.
                Flight::Claimed => return Ok(Lookup::Wait),
                Flight::Dead => {}
            }
        }
        // This many runners died before they wrote their intent. Begin the next flight after them.
        let beyond = last.saturating_add(MAX_DEAD);
        kv.delete(&self.claim(beyond.saturating_add(1))).await?;
        kv.set(&self.intent(), &self.head(beyond, 0)).await?;
        Ok(Lookup::Bypass)
    }

    async fn claim_flight<K: Kv>(
        &self,
        kv: &K,
        flight: u64,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<Lookup, KvError> {
        let name = self.claim(flight);
        let date = i64::try_from(now_ms).unwrap_or(i64::MAX).max(1);
        if kv.increment(&name, date).await? != date {
            return Ok(Lookup::Wait);
        }
        let mut record = Record::decode(kv.get(&self.record()).await?);
        let answer = record.answer(self, since_ms, now_ms);
        let (begun, _) = self.begun(kv).await?;
        if answer.is_some() || record.flight >= flight || begun >= flight {
            kv.increment(&name, -date).await?;
            return Ok(answer.map_or(Lookup::Wait, Lookup::Hit));
        }
        kv.set(&self.intent(), &self.head(flight, 0)).await?;
        kv.delete(&self.claim(flight.saturating_add(2))).await?;
        Ok(Lookup::Run(flight))
    }

    /// Stores a result under the claim that the ticket names. A caller that ran without a lookup passes [`NO_TICKET`].
    pub async fn keep<K: Kv>(
        &self,
        kv: &K,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), KvError> {
        if value.len() as u64 > MAX_RESULT_BYTES {
            return Err(KvError::new(format!(
                "a result of {} bytes is more than the {MAX_RESULT_BYTES} that may be kept",
                value.len()
            )));
        }
        let there = Record::decode(kv.get(&self.record()).await?);
        let flight = match ticket {
            NO_TICKET => there.flight,
            // A later flight's result is newer.
            _ if there.flight >= ticket => return Ok(()),
            _ => ticket,
        };
        let mut bytes = self.head(flight, 8 + value.len());
        bytes.extend_from_slice(&now_ms.to_le_bytes());
        bytes.extend_from_slice(value);
        kv.set(&self.record(), &bytes).await?;
        if ticket != NO_TICKET {
            // The record finishes the flight, so its claim is not read any more.
            kv.delete(&self.claim(ticket)).await?;
        }
        Ok(())
    }

    /// Releases a place after a run without a result.
    pub async fn release<K: Kv>(&self, kv: &K, ticket: u64) -> Result<(), KvError> {
        // If another flight began since, the ring may have reused the claim.
        if ticket != NO_TICKET && self.begun(kv).await?.0 == ticket {
            kv.delete(&self.claim(ticket)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(digest: u8) -> Address {
        Address::new("m", 7, &[digest; 32], 2_000).unwrap()
    }

    #[test]
    fn a_place_is_one_of_those_there_are() {
        for digest in 0..=255 {
            assert!(address(digest).place < 7);
        }
        for (space, places, digest) in [
            ("", 7, 32),
            (&"x".repeat(129), 7, 32),
            ("m", 0, 32),
            ("m", 7, 15),
            ("m", 7, 65),
        ] {
            let digest = vec![0; digest];
            assert!(Address::new(space, places, &digest, 1).is_err());
        }
    }

    #[test]
    fn a_claim_is_judged_by_its_date_however_many_added_to_it() {
        let at = address(0);
        let now = 1_795_262_400_000u64;
        for racers in 1..50i64 {
            let sum = |ago: i64| racers * (now as i64 - ago);
            assert_eq!(at.judge(sum(0), now), Flight::Claimed, "{racers}");
            assert_eq!(at.judge(sum(1_999), now), Flight::Claimed, "{racers}");
            assert_eq!(at.judge(sum(2_000), now), Flight::Dead, "{racers}");
            assert_eq!(at.judge(sum(86_400_000), now), Flight::Dead, "{racers}");
        }
        assert_eq!(at.judge(0, now), Flight::Free);
        assert_eq!(at.judge(i64::MIN, now), Flight::Free);
        assert_eq!(at.judge(5, now), Flight::Dead);
    }

    #[test]
    fn an_entry_of_another_form_or_cut_short_is_none() {
        let at = address(3);
        let whole = at.head(9, 0);
        assert_eq!(head(&whole), Some((9, [3; 32].as_slice(), &[][..])));
        for end in 0..whole.len() {
            assert_eq!(head(&whole[..end]), None);
        }
        let mut other = whole.clone();
        other[0] = FORM + 1;
        assert_eq!(head(&other), None);
        assert_eq!(Record::decode(Some(whole)).flight, 0);
    }
}
