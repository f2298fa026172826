//! Charges and refunds buckets by compare-and-swap, one generation of entries after the other.

use super::Rule;
use super::outcome::{Passed, Receipt};
use crate::quota::gcra::{self, Bucket, Charge, State};
use crate::quota::memory::KnownCounters;
use crate::quota::status::StoreFailures;
use crate::quota::store::{CLOCK_SPREAD_MS, SETTLED_MS, StoreAccess};
use penstock_core::{Kv, KvError};

impl Rule {
    pub(super) async fn fill_bucket<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        bucket: Bucket,
        subject: u128,
        cost: u64,
        failures: &mut StoreFailures,
    ) -> Result<Option<Passed>, KvError> {
        let mut generation = store.now_ms / bucket.generation_ms();
        for _ in 0..gcra::MAX_SWAPS {
            let name = self.name(subject, "g", generation);
            let (value, swap) = store.kv.read_to_swap(&name).await?;
            let (state, made) = match value {
                Some(value) => (State::from_bytes(&value).unwrap_or_default(), false),
                None => match self
                    .begin(store, bucket, subject, generation, failures)
                    .await?
                {
                    Some(state) => (state, true),
                    None => continue,
                },
            };
            if state.closed {
                // An instance whose clock is ahead has begun the next generation.
                generation += 1;
                continue;
            }
            let decision = bucket.decide(state, store.now_ms, cost);
            let Ok((after, wait_ms)) = decision.outcome else {
                self.saw(subject, KnownCounters::Bucket(state), store.now_ms);
                return Ok(None);
            };
            let swapped = store.kv.swap(swap, &after.to_bytes()).await;
            if made && !matches!(swapped, Ok(false)) {
                failures.registrations += self.register.add(store, name).await;
            }
            if swapped? {
                self.saw(subject, KnownCounters::Bucket(after), store.now_ms);
                return Ok(Some(Passed {
                    receipt: Some(Receipt::Bucket {
                        subject,
                        generation,
                        charge: Charge { cost, after },
                        matters_until_ms: store.now_ms + decision.full_in_ms + CLOCK_SPREAD_MS,
                    }),
                    wait_ms,
                }));
            }
        }
        Err(KvError::new("other writers were faster on every try"))
    }

    /// Reads the value of a bucket without a change.
    pub(super) async fn read_bucket<K: Kv>(
        &self,
        store: StoreAccess<'_, K>,
        bucket: Bucket,
        subject: u128,
    ) -> Result<State, KvError> {
        let generation = store.now_ms / bucket.generation_ms();
        let parsed = |value: Vec<u8>| State::from_bytes(&value).unwrap_or_default();
        let read = async |generation| {
            let value = store.kv.get(&self.name(subject, "g", generation)).await?;
            Ok::<_, KvError>(value.map(parsed))
        };
        let state = match read(generation).await? {
            // An instance whose clock is ahead has begun the next generation.
            Some(closed) if closed.closed => read(generation + 1).await?.unwrap_or(closed),
            Some(state) => state,
            None => match generation.checked_sub(1) {
                Some(before) => read(before).await?.unwrap_or_default(),
                None => State::default(),
            },
        };
        Ok(State {
            closed: false,
            ..state
        })
    }

    /// The first value of a generation: that of the previous one, which is closed while other instances may still use
    /// it. `None` if it changed in the meantime.
    async fn begin<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        bucket: Bucket,
        subject: u128,
        generation: u64,
        failures: &mut StoreFailures,
    ) -> Result<Option<State>, KvError> {
        let Some(before) = generation.checked_sub(1) else {
            return Ok(Some(State::default()));
        };
        let name = self.name(subject, "g", before);
        let opened = |state: State| State {
            closed: false,
            ..state
        };
        let parse = |value: Vec<u8>| State::from_bytes(&value).unwrap_or_default();
        let into_ms = store
            .now_ms
            .saturating_sub(generation * bucket.generation_ms());
        if into_ms >= SETTLED_MS {
            let value = store.kv.get(&name).await?;
            return Ok(Some(opened(value.map(parse).unwrap_or_default())));
        }
        let (value, swap) = store.kv.read_to_swap(&name).await?;
        let made = value.is_none();
        let state = value.map(parse).unwrap_or_default();
        if state.closed {
            return Ok(Some(opened(state)));
        }
        let closed = State {
            closed: true,
            ..state
        };
        let swapped = store.kv.swap(swap, &closed.to_bytes()).await;
        if made && !matches!(swapped, Ok(false)) {
            failures.registrations += self.register.add(store, name).await;
        }
        Ok(swapped?.then_some(state))
    }

    pub(super) async fn drain_bucket<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        bucket: Bucket,
        subject: u128,
        mut generation: u64,
        charge: Charge,
    ) -> Result<(), KvError> {
        for _ in 0..gcra::MAX_SWAPS {
            let name = self.name(subject, "g", generation);
            let (value, swap) = store.kv.read_to_swap(&name).await?;
            let Some(state) = value.and_then(|v| State::from_bytes(&v)) else {
                return Ok(());
            };
            if state.closed {
                generation += 1;
                continue;
            }
            let Some(refunded) = bucket.refund(state, charge) else {
                return Ok(());
            };
            if store.kv.swap(swap, &refunded.to_bytes()).await? {
                self.saw(subject, KnownCounters::Bucket(refunded), store.now_ms);
                return Ok(());
            }
        }
        Err(KvError::new("other writers were faster on every try"))
    }
}
