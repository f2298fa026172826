//! Charges windows: adds to a counter of the store, and refunds a charge that does not fit.

use super::outcome::{Passed, Receipt};
use super::{At, REFUSED_FROM_MEMORY_MS, Rule};
use crate::quota::memory::{Before, KnownCounters};
use crate::quota::status::StoreFailures;
use crate::quota::store::{SETTLED_MS, StoreAccess, read_counter};
use crate::quota::window;
use penstock_core::{Kv, KvError};

/// An instance takes ahead at most one part in this many of the units left. The fewer are left, the fewer can stay unused.
const LEASE_SHARE: u64 = 8;

impl Rule {
    /// Charges a window; `None` if the cost does not fit.
    pub(super) async fn charge_window<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        cost: u64,
        failures: &mut StoreFailures,
    ) -> Result<Option<Passed>, KvError> {
        let at = self.at(store.now_ms);
        let span = at.span.id;
        let lease_tokens = self.limit.lease_tokens;
        let local = self.memory.of(subject);
        local.turn(span);
        if local.tokens >= cost && lease_tokens > 0 {
            local.tokens -= cost;
            return Ok(Some(Passed {
                receipt: Some(Receipt::Leased {
                    subject,
                    span,
                    amount: cost,
                }),
                wait_ms: 0,
            }));
        }
        let last_left = match local.seen {
            Some(KnownCounters::Window { before, count }) => {
                let (elapsed_ms, width_ms) = (at.elapsed_ms(store.now_ms), at.width_ms());
                window::decide(at.limit, before, count, 0, elapsed_ms, width_ms).left
            }
            _ => 0,
        };
        // Leased units pay first; they are counted already.
        let leased = local.tokens;
        let missing = cost - leased;
        let ahead = lease_tokens.min(last_left / LEASE_SHARE);
        let taken = missing + ahead;
        let name = self.name(subject, "", span);
        let mut count = self.count(store, subject, &name, taken, failures).await?;
        let (elapsed_ms, width_ms) = (at.elapsed_ms(store.now_ms), at.width_ms());
        let enough =
            |before| window::decide(at.limit, before, count, taken, elapsed_ms, width_ms).fits;
        let before = match self.recent_before(subject, &at, store.now_ms, enough) {
            Some(before) => before,
            None => match self.before(store, subject, &at).await {
                Ok(before) => before,
                Err(error) => {
                    // The charge was certainly applied, so it can be refunded.
                    self.give_back(store, &name, taken, failures).await;
                    return Err(error);
                }
            },
        };
        let fits = |count: i64, part: u64| {
            window::decide(at.limit, before, count, part, elapsed_ms, width_ms).fits
        };
        let mut kept = ahead;
        let mut passes = fits(count, taken);
        if !passes && ahead > 0 && fits(count - ahead as i64, missing) {
            self.give_back(store, &name, ahead, failures).await;
            count -= ahead as i64;
            kept = 0;
            passes = true;
        }
        if !passes {
            self.give_back(store, &name, taken, failures).await;
            count -= taken as i64;
        }
        self.saw(
            subject,
            KnownCounters::Window { before, count },
            store.now_ms,
        );
        if !passes {
            return Ok(None);
        }
        self.memory.of(subject).tokens = kept;
        Ok(Some(Passed {
            receipt: Some(Receipt::Counter {
                subject,
                span,
                amount: cost,
                matters_until_ms: at.matters_until_ms(),
            }),
            wait_ms: 0,
        }))
    }

    /// Checks that units are left, for a cost that is known only afterwards.
    pub(super) async fn peek_window<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
    ) -> Result<Option<Passed>, KvError> {
        let at = self.at(store.now_ms);
        let local = self.memory.of(subject);
        local.turn(at.span.id);
        let exists = matches!(local.seen, Some(KnownCounters::Window { count: 1.., .. }));
        let name = self.name(subject, "", at.span.id);
        // A counter that this instance has seen stays at least until its window ends.
        let count = match exists {
            true => store.kv.increment(&name, 0).await?,
            false => read_counter(store.kv, &name).await?,
        };
        let (elapsed_ms, width_ms) = (at.elapsed_ms(store.now_ms), at.width_ms());
        // Not from memory: compute time is charged beyond the limit, so late charges have no bound.
        let before = self.before(store, subject, &at).await?;
        self.saw(
            subject,
            KnownCounters::Window { before, count },
            store.now_ms,
        );
        let decision = window::peek(at.limit, before, count, elapsed_ms, width_ms);
        Ok(decision.fits.then_some(Passed {
            receipt: None,
            wait_ms: 0,
        }))
    }

    /// Charges compute time that was used, even beyond the limit.
    pub async fn settle<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        compute_ms: u64,
        failures: &mut StoreFailures,
    ) -> Result<(), KvError> {
        let at = self.at(store.now_ms);
        self.memory.of(subject).turn(at.span.id);
        let name = self.name(subject, "", at.span.id);
        self.count(store, subject, &name, compute_ms, failures)
            .await?;
        self.moved(
            subject,
            at.span.id,
            i64::try_from(compute_ms).unwrap_or(i64::MAX),
        );
        Ok(())
    }

    /// Adds to a counter, and registers it if the addition created it.
    pub(super) async fn count<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        name: &str,
        amount: u64,
        failures: &mut StoreFailures,
    ) -> Result<i64, KvError> {
        let count = match store.kv.increment(name, amount as i64).await {
            Ok(count) => count,
            Err(error) => {
                self.register.suspect(name.to_owned());
                return Err(error);
            }
        };
        let local = self.memory.of(subject);
        if count == amount as i64 && !local.registered {
            local.registered = true;
            failures.registrations += self.register.add(store, name.to_owned()).await;
        }
        Ok(count)
    }

    /// The counter of the previous window from memory, if the call passes in every case: the charges that passed there since
    /// it was read add up to the limit at most. A caller near its limit gets `None`, and the store is read again.
    ///
    /// The count is at most [`REFUSED_FROM_MEMORY_MS`] old, because the headers report the units that it leaves.
    fn recent_before(
        &mut self,
        subject: u128,
        at: &At,
        now_ms: u64,
        passes: impl Fn(i64) -> bool,
    ) -> Option<i64> {
        let before = self.memory.of(subject).before?;
        let most = before
            .count
            .max(i64::try_from(at.limit).unwrap_or(i64::MAX));
        let recent = now_ms.abs_diff(before.read_ms) < REFUSED_FROM_MEMORY_MS;
        (!before.settled && recent && passes(most)).then_some(before.count)
    }

    /// The counter of the previous window; 0 for windows that do not slide.
    pub(super) async fn before<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        at: &At,
    ) -> Result<i64, KvError> {
        if !at.sliding || at.span.id == 0 {
            return Ok(0);
        }
        if let Some(before) = self.memory.of(subject).before
            && before.settled
        {
            return Ok(before.count);
        }
        let count = read_counter(store.kv, &self.name(subject, "", at.span.id - 1)).await?;
        self.memory.of(subject).before = Some(Before {
            count,
            read_ms: store.now_ms,
            settled: at.elapsed_ms(store.now_ms) >= SETTLED_MS,
        });
        Ok(count)
    }

    /// Subtracts units from a counter. Returns whether the store confirmed it.
    pub(super) async fn give_back<K: Kv>(
        &self,
        store: StoreAccess<'_, K>,
        name: &str,
        amount: u64,
        failures: &mut StoreFailures,
    ) -> bool {
        let given = store.kv.increment(name, -(amount as i64)).await.is_ok();
        failures.refunds += u64::from(!given);
        given
    }
}
