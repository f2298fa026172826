//! Decides what is found for a digest, and which of many callers who miss it at the same time runs it, with nothing from the
//! store but atomic increments.
//!
//! # Places
//!
//! A cache has a fixed number of places, and a digest has one of them. What a place holds is bounded, so the cache is, and
//! nothing has to be swept: what comes to a place that is taken takes it over. Its entries are
//!
//! * the *record*: a result with its whole digest, when it was kept, and the flight it came from;
//! * the *intent*: the digest of the flight that was begun last, and its number;
//! * a ring of [`RING`] *claims*, counters: flight n belongs to the one n modulo [`RING`] names.
//!
//! A record answers a digest only if it is that digest's, so whatever is delayed, lost or dies, no caller is ever given the
//! result of another question. The rest only saves runs.
//!
//! # Flights
//!
//! Who misses claims the flight after the last that is over, by adding the time to its claim: whose sum is the time alone was
//! first, and runs. The claim so carries its own date, even if its owner dies before writing anything else, and whoever comes
//! later divides the sum by how many must have added to it. A flight is over when a record of it, or of a later one, is
//! there, when its claim is gone, or when its lease is: then its runner is taken for dead, and the next flight is claimed as
//! the first was. A caller for the digest of the flight waits; a caller for another runs beside the cache.
//!
//! Who won reads record and intent again, since both may have changed before its claim arrived. A claim that came too late is
//! taken back by subtracting what it added. Then it writes its intent, and clears the claim two flights ahead, which
//! the ring had used before. That one is behind all who may still be looked at: nobody looks further than
//! [`MAX_DEAD`] flights past the last one that is known.
//!
//! So within a lease one caller runs what a place is asked for, as long as the store answers what one look asks of it
//! within the lease. Where it does not, there can be a second run, and nothing worse.

use super::settings::MAX_RESULT_BYTES;
use super::words::{Kept, Looked, NO_TICKET};
use crate::idempotency::claim::claimed_ms;
use penstock_core::{Kv, KvError};

/// Claims of a place; more than flights that anybody looks at together, and the one that is cleared ahead of them.
pub const RING: u64 = 8;
/// Flights past the last known one whose runners may have died before they wrote what they run.
const MAX_DEAD: u64 = RING - 3;
/// Entries of a place.
pub const ENTRIES_OF_A_PLACE: u64 = 2 + RING;

/// How far ahead of ours another machine's clock may be. What claims to be later still is not believed.
const MAX_SKEW_MS: u64 = 5_000;
/// For how many leases a caller waits: one for a runner that dies, and one for who takes over.
const MAX_WAIT_LEASES: u64 = 2;

/// The shortest digest: of fewer bits two could be found that are alike.
const MIN_DIGEST_BYTES: usize = 16;
/// The longest digest there is a use for.
const MAX_DIGEST_BYTES: usize = 64;
/// The longest space: names of models are shorter.
const MAX_SPACE_BYTES: usize = 128;

/// The form of the entries this release writes.
const FORM: u8 = 1;

/// Where a result belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    space: String,
    place: u64,
    digest: Vec<u8>,
    lease_ms: u64,
}

/// How a flight stands, by its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// Nobody claims it, or no longer.
    Free,
    /// Somebody does.
    Claimed,
    /// Whoever did is dead, or was never going to run it.
    Dead,
}

/// What a place holds of a result.
#[derive(Default)]
struct Record {
    flight: u64,
    digest: Vec<u8>,
    kept_ms: u64,
    value: Vec<u8>,
}

impl Record {
    /// Reads a record; what cannot be read is none.
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

    /// The result, if it is this digest's and neither too old nor of a time that is not yet.
    fn answer(&mut self, at: &Address, since_ms: u64, now_ms: u64) -> Option<Kept> {
        let fits = self.digest == at.digest
            && (since_ms..=now_ms.saturating_add(MAX_SKEW_MS)).contains(&self.kept_ms);
        fits.then(|| Kept {
            value: std::mem::take(&mut self.value),
            kept_ms: self.kept_ms,
        })
    }
}

/// The number and the digest an entry begins with, and the rest of it.
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
    /// The place of a digest among `places`; the error says which of the parts cannot be.
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

    /// What an entry of this digest begins with.
    fn head(&self, flight: u64, room: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.digest.len() + room);
        // A digest has at most 64 bytes.
        bytes.extend_from_slice(&[FORM, self.digest.len() as u8]);
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&flight.to_le_bytes());
        bytes
    }

    /// The number of the flight that was begun last, and whether it is for this digest.
    async fn begun<K: Kv>(&self, kv: &K) -> Result<(u64, bool), KvError> {
        let intent = kv.get(&self.intent()).await?.unwrap_or_default();
        Ok(match head(&intent) {
            Some((flight, digest, _)) => (flight, digest == self.digest),
            None => (0, false),
        })
    }

    async fn flight<K: Kv>(&self, kv: &K, flight: u64, now_ms: u64) -> Result<Flight, KvError> {
        let name = self.claim(flight);
        // Reading a counter creates it on some stores.
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

    /// Looks for a result that was kept at `since_ms` or later. Who waited for somebody else's run since
    /// `waiting_since_ms` says so, and is not made to wait for ever.
    pub async fn look<K: Kv>(
        &self,
        kv: &K,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Looked, KvError> {
        let mut record = Record::decode(kv.get(&self.record()).await?);
        if let Some(kept) = record.answer(self, since_ms, now_ms) {
            return Ok(Looked::Hit(kept));
        }
        let patience_ms = self.lease_ms.saturating_mul(MAX_WAIT_LEASES);
        if waiting_since_ms.is_some_and(|began| now_ms.saturating_sub(began) >= patience_ms) {
            return Ok(Looked::Bypass);
        }
        let (begun, is_ours) = self.begun(kv).await?;
        if begun > record.flight && self.flight(kv, begun, now_ms).await? == Flight::Claimed {
            return Ok(if is_ours {
                Looked::Wait
            } else {
                Looked::Bypass
            });
        }
        let last = begun.max(record.flight);
        for flight in (last..=last.saturating_add(MAX_DEAD)).skip(1) {
            match self.flight(kv, flight, now_ms).await? {
                Flight::Free => return self.claim_flight(kv, flight, since_ms, now_ms).await,
                // It will say in a moment what it runs.
                Flight::Claimed => return Ok(Looked::Wait),
                Flight::Dead => {}
            }
        }
        // So many died before they wrote what they run: let the next one begin behind them.
        let beyond = last.saturating_add(MAX_DEAD);
        kv.delete(&self.claim(beyond.saturating_add(1))).await?;
        kv.set(&self.intent(), &self.head(beyond, 0)).await?;
        Ok(Looked::Bypass)
    }

    async fn claim_flight<K: Kv>(
        &self,
        kv: &K,
        flight: u64,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<Looked, KvError> {
        let name = self.claim(flight);
        let date = i64::try_from(now_ms).unwrap_or(i64::MAX).max(1);
        if kv.increment(&name, date).await? != date {
            return Ok(Looked::Wait);
        }
        let mut record = Record::decode(kv.get(&self.record()).await?);
        let answer = record.answer(self, since_ms, now_ms);
        let (begun, _) = self.begun(kv).await?;
        if answer.is_some() || record.flight >= flight || begun >= flight {
            kv.increment(&name, -date).await?;
            return Ok(answer.map_or(Looked::Wait, Looked::Hit));
        }
        kv.set(&self.intent(), &self.head(flight, 0)).await?;
        kv.delete(&self.claim(flight.saturating_add(2))).await?;
        Ok(Looked::Run(flight))
    }

    /// Keeps a result. Who ran without having looked has [`NO_TICKET`].
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
            // The flight is over by its record, so nobody looks at its claim any more.
            kv.delete(&self.claim(ticket)).await?;
        }
        Ok(())
    }

    /// Gives back a place: the run came to nothing.
    pub async fn release<K: Kv>(&self, kv: &K, ticket: u64) -> Result<(), KvError> {
        // Where another flight was begun, the ring may have come round.
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
