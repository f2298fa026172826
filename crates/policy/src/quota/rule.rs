//! Applies one limit to the store: charges, refunds and releases, by the decisions of [`super::window`],
//! [`super::gcra`] and [`super::concurrency`].
//!
//! An increment whose reply was lost may or may not have been applied. It is never refunded. A refund without a
//! charge would admit more than the limit; a charge that stays admits less until its window has passed.

mod buckets;
mod counters;
mod outcome;
mod places;

pub use outcome::{ChargeOutcome, Charged, Over, Passed, Receipt, Standing};

use super::calendar::{self, Period, Span};
use super::gcra::{Bucket, Shape};
use super::limits::{Algorithm, DEFAULT_LEASE_S, DEFAULT_MAX_WAIT_MS, Dimension, Limit, Unit};
use super::memory::{KnownCounters, Local, Memory};
use super::register::Register;
use super::status::{Status, StoreFailures};
use super::store::{CLOCK_SPREAD_MS, StoreAccess, read_counter};
use super::window;
use jiff::tz::TimeZone;
use penstock_core::{Kv, KvError};
use std::fmt::Write;

/// Time for which a refusal is repeated from memory. A refund or a release on another instance is noticed after this
/// time at the latest, and a flood costs each instance one read of the store in this time.
pub const REFUSED_FROM_MEMORY_MS: u64 = 1_000;

/// Shortest width of a limit's index, in milliseconds. A sweep reads every bucket in turn.
const MIN_INDEX_WIDTH_MS: u64 = 120_000;

/// Width of the index for calendar days: longer than the longest day (25 hours), with room for a change of the time
/// zone's rules.
const DAY_WIDTH_MS: u64 = 26 * 3_600_000;
/// Width of the index for calendar months: longer than the longest month (31 days and an hour).
const MONTH_WIDTH_MS: u64 = 32 * 86_400_000;

/// A limit, with the counters that an instance remembers of it.
#[derive(Debug)]
pub struct Rule {
    /// The limit as the operator configured it.
    pub limit: Limit,
    /// Part of the names of its counters. It differs between limits, and between settings under which a counter means
    /// something else.
    pub family: String,
    kind: Kind,
    register: Register,
    memory: Memory<Local>,
}

#[derive(Clone, Debug)]
enum Kind {
    Window(Window),
    Calendar {
        period: Period,
        zone: TimeZone,
        /// The period that was looked up last. A lookup costs more than an operation of a store in memory.
        last: Option<Span>,
    },
    Bucket {
        bucket: Bucket,
        fallback: Window,
    },
    Concurrency {
        lease_ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u64,
    width_ms: u64,
    sliding: bool,
}

/// The window that contains a moment.
#[derive(Clone, Copy, Debug)]
struct At {
    span: Span,
    limit: u64,
    sliding: bool,
}

impl At {
    fn width_ms(&self) -> u64 {
        self.span.end_ms - self.span.start_ms
    }

    fn elapsed_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.span.start_ms)
    }

    /// The time after which no instance reads its counter.
    fn matters_until_ms(&self) -> u64 {
        let faded = if self.sliding { self.width_ms() } else { 0 };
        self.span.end_ms + faded + CLOCK_SPREAD_MS
    }
}

impl Rule {
    /// A rule for a limit, one of `count`; `None` for a limit with faults.
    pub fn new(limit: Limit, count: usize) -> Option<Self> {
        let kind = match limit.algorithm {
            Algorithm::SlidingWindow | Algorithm::FixedWindow => Kind::Window(Window {
                limit: limit.limit,
                width_ms: limit.window_s? * 1000,
                sliding: limit.algorithm == Algorithm::SlidingWindow,
            }),
            Algorithm::Calendar => Kind::Calendar {
                period: limit.period?,
                zone: calendar::zone(limit.time_zone.as_deref().unwrap_or("UTC"))?,
                last: None,
            },
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                let shape = if limit.algorithm == Algorithm::TokenBucket {
                    Shape::Token {
                        burst: limit.burst.unwrap_or(limit.limit),
                    }
                } else {
                    Shape::Leaky {
                        max_wait_ms: limit.max_wait_ms.unwrap_or(DEFAULT_MAX_WAIT_MS),
                    }
                };
                let bucket = Bucket {
                    limit: limit.limit,
                    window_ms: limit.window_s? * 1000,
                    shape,
                };
                let (fallback_limit, width_ms) = bucket.fallback();
                Kind::Bucket {
                    bucket,
                    fallback: Window {
                        limit: fallback_limit,
                        width_ms,
                        sliding: true,
                    },
                }
            }
            Algorithm::Concurrency => Kind::Concurrency {
                lease_ms: limit.lease_s.unwrap_or(DEFAULT_LEASE_S) * 1000,
            },
        };
        // If windows are as wide as the index, an entry matters until the end of the next window, when the index
        // deletes it. Other entries matter for twice their width.
        let aligned = |width: u64| {
            if width < MIN_INDEX_WIDTH_MS / 2 {
                MIN_INDEX_WIDTH_MS
            } else {
                width
            }
        };
        let width_ms = match &kind {
            Kind::Window(window) => aligned(window.width_ms),
            Kind::Concurrency { lease_ms } => aligned(*lease_ms),
            Kind::Calendar { period, .. } => match period {
                Period::Day => DAY_WIDTH_MS,
                Period::Month => MONTH_WIDTH_MS,
            },
            // The windows of the fallback are no longer than this.
            Kind::Bucket { bucket, .. } => 2 * bucket.generation_ms(),
        };
        Some(Self {
            register: Register::new(format!("q/{}", limit.name), width_ms),
            memory: Memory::one_of(count),
            family: family(&limit),
            kind,
            limit,
        })
    }

    /// The dimensions that it counts separately.
    pub fn per(&self) -> &[Dimension] {
        &self.limit.per
    }

    /// Returns whether it needs a compare-and-swap that the store really makes in one step. The functions below call that
    /// `sound`.
    pub fn wants_swap(&self) -> bool {
        matches!(self.kind, Kind::Bucket { .. })
    }

    /// The status of the limit for an answer.
    pub fn status(&mut self, standing: Standing, over: bool, sound: bool, now_ms: u64) -> Status {
        let (limit, window_ms) = self.extent(sound, now_ms);
        Status {
            name: self.limit.name.clone(),
            limit,
            window_s: window_ms.map(|ms| ms.div_ceil(1000).max(1)),
            remaining: standing.left.min(limit),
            reset_s: standing.told_ms().div_ceil(1000),
            unit: self.limit.unit,
            shadow: self.limit.shadow,
            over,
        }
    }

    /// The units of the limit, and the length of its window in milliseconds if it has one.
    fn extent(&mut self, sound: bool, now_ms: u64) -> (u64, Option<u64>) {
        match &self.kind {
            Kind::Concurrency { .. } => (self.limit.limit, None),
            Kind::Bucket { bucket, .. } if sound => {
                let window_ms = match bucket.shape {
                    Shape::Token { burst } => bucket.span_ms(burst),
                    Shape::Leaky { .. } => bucket.window_ms,
                };
                (bucket.capacity(), Some(window_ms))
            }
            _ => {
                let at = self.at(now_ms);
                (at.limit, Some(at.width_ms()))
            }
        }
    }

    /// The bucket, if the limit counts with one.
    fn bucket(&self, sound: bool) -> Option<Bucket> {
        match &self.kind {
            Kind::Bucket { bucket, .. } if sound => Some(*bucket),
            _ => None,
        }
    }

    /// The most units that one call may ever cost. `sound`: whether compare-and-swap can be trusted.
    pub fn capacity(&mut self, sound: bool, now_ms: u64) -> u64 {
        match self.bucket(sound) {
            Some(bucket) => bucket.capacity(),
            None => self.at(now_ms).limit,
        }
    }

    /// The standing of the limit for a call of `cost`, from this instance's memory. `None` where it remembers nothing,
    /// and for concurrent calls, because their end is unknown.
    pub fn standing(
        &mut self,
        subject: u128,
        cost: u64,
        sound: bool,
        now_ms: u64,
    ) -> Option<Standing> {
        if let Some(bucket) = self.bucket(sound) {
            let Some(KnownCounters::Bucket(state)) = self.memory.known(subject)?.seen else {
                return None;
            };
            let idle = bucket.decide(state, now_ms, 0);
            return Some(Standing {
                left: idle.left,
                retry_ms: bucket
                    .decide(state, now_ms, cost)
                    .outcome
                    .err()
                    .unwrap_or(0),
                reset_ms: idle.full_in_ms,
            });
        }
        if matches!(self.kind, Kind::Concurrency { .. }) {
            return None;
        }
        let at = self.at(now_ms);
        let local = self.memory.known(subject)?;
        local.turn(at.span.id);
        let Some(KnownCounters::Window { before, count }) = local.seen else {
            return None;
        };
        let leased = local.tokens;
        let (elapsed_ms, width_ms) = (at.elapsed_ms(now_ms), at.width_ms());
        // The compute time of a call is known afterwards; a call passes while any is left.
        let (cost, free) = match self.limit.unit {
            Unit::ComputeMs => {
                let left = window::peek(at.limit, before, count, elapsed_ms, width_ms).left;
                (1, left)
            }
            _ => {
                let left = window::decide(at.limit, before, count, 0, elapsed_ms, width_ms).left;
                (cost, left)
            }
        };
        let left = free.saturating_add(leased).min(at.limit);
        // The wait until the call passes without the units that were taken ahead.
        let unleased_ms = match cost <= free {
            true => 0,
            false => window::retry_ms(
                at.limit, before, count, cost, elapsed_ms, width_ms, at.sliding,
            ),
        };
        let passes = cost <= left;
        let end_ms = at.span.end_ms.saturating_sub(now_ms);
        Some(Standing {
            left,
            retry_ms: if passes { 0 } else { unleased_ms },
            // Units taken ahead are lost when the window ends; the call passes again only afterwards.
            reset_ms: end_ms.max(if passes { unleased_ms } else { 0 }),
        })
    }

    /// The standing of the limit for a call of `cost`, without a charge. It comes from memory if the store was read
    /// within [`REFUSED_FROM_MEMORY_MS`], so that a flood of refusals does not load the store.
    pub async fn look<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        cost: u64,
        sound: bool,
    ) -> Result<Option<Standing>, KvError> {
        let fresh = self
            .memory
            .known(subject)
            .is_some_and(|l| store.now_ms.abs_diff(l.seen_ms) < REFUSED_FROM_MEMORY_MS);
        if fresh && let Some(standing) = self.standing(subject, cost, sound, store.now_ms) {
            return Ok(Some(standing));
        }
        let seen = match self.bucket(sound) {
            Some(bucket) => KnownCounters::Bucket(self.read_bucket(store, bucket, subject).await?),
            None if matches!(self.kind, Kind::Concurrency { .. }) => return Ok(None),
            None => {
                let at = self.at(store.now_ms);
                self.memory.of(subject).turn(at.span.id);
                KnownCounters::Window {
                    count: read_counter(store.kv, &self.name(subject, "", at.span.id)).await?,
                    before: self.before(store, subject, &at).await?,
                }
            }
        };
        self.saw(subject, seen, store.now_ms);
        Ok(self.standing(subject, cost, sound, store.now_ms))
    }

    fn saw(&mut self, subject: u128, seen: KnownCounters, now_ms: u64) {
        let local = self.memory.of(subject);
        local.seen = Some(seen);
        local.seen_ms = now_ms;
    }

    /// Applies a change that this instance made to the counter that it remembers, of this window or of the previous one.
    fn moved(&mut self, subject: u128, span: u64, by: i64) {
        let Some(local) = self.memory.known(subject) else {
            return;
        };
        let is_previous = local.span.checked_sub(1) == Some(span);
        if is_previous && let Some(read) = &mut local.before {
            read.count = read.count.saturating_add(by);
        }
        if let Some(KnownCounters::Window { before, count }) = &mut local.seen {
            match local.span == span {
                true => *count = count.saturating_add(by),
                false if is_previous && local.before.is_some() => {
                    *before = before.saturating_add(by);
                }
                false => {}
            }
        }
    }

    /// The limit in words, as in "100 requests in 60 s".
    pub fn words(&mut self, sound: bool, now_ms: u64) -> String {
        let (limit, window_ms) = self.extent(sound, now_ms);
        let units = self.limit.unit.words();
        match (&self.kind, window_ms) {
            (Kind::Concurrency { .. }, _) | (_, None) => format!("{limit} calls at once"),
            (Kind::Calendar { period, .. }, _) => format!("{limit} {units} a {}", period.as_str()),
            (_, Some(ms)) => format!("{limit} {units} in {} s", ms.div_ceil(1000).max(1)),
        }
    }

    /// Updates the status of a limit after its charge was refunded.
    pub fn restate(&mut self, statuses: &mut [Status], charge: Charged, now_ms: u64) {
        let Charged {
            subject,
            amount,
            sound,
        } = charge;
        let standing = self.standing(subject, amount, sound, now_ms);
        let mut told = statuses.iter_mut();
        let Some(told) = told.find(|status| status.name == self.limit.name) else {
            return;
        };
        match standing {
            Some(standing) => {
                let over = told.over;
                *told = self.status(standing, over, sound, now_ms);
            }
            None => told.remaining = (told.remaining + amount).min(told.limit),
        }
    }

    fn name(&self, subject: u128, kind: &str, span: u64) -> String {
        format!("q/{}/{subject:032x}/{kind}{span}", self.limit.name)
    }

    /// The window at a time; for a bucket, the window of its fallback.
    fn at(&mut self, now_ms: u64) -> At {
        let (window, sliding) = match &mut self.kind {
            Kind::Window(window) => (*window, window.sliding),
            Kind::Bucket { fallback, .. } => (*fallback, true),
            Kind::Calendar { period, zone, last } => {
                let inside = |s: &Span| s.start_ms <= now_ms && now_ms < s.end_ms;
                let span = match last.filter(inside) {
                    Some(span) => span,
                    None => {
                        let found = calendar::span(*period, zone, now_ms);
                        *last = found;
                        // After the year 9999 there is one period that never ends.
                        found.unwrap_or(Span {
                            id: u64::MAX,
                            start_ms: 0,
                            end_ms: u64::MAX / 2,
                        })
                    }
                };
                return At {
                    span,
                    limit: self.limit.limit,
                    sliding: false,
                };
            }
            Kind::Concurrency { lease_ms } => (
                Window {
                    limit: self.limit.limit,
                    width_ms: *lease_ms,
                    sliding: false,
                },
                false,
            ),
        };
        let id = now_ms / window.width_ms;
        At {
            span: Span {
                id,
                start_ms: id * window.width_ms,
                end_ms: (id + 1) * window.width_ms,
            },
            limit: window.limit,
            sliding,
        }
    }

    /// Charges `cost` units, or nothing when they do not fit. `sound`: whether compare-and-swap can
    /// be trusted.
    pub async fn charge<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        cost: u64,
        sound: bool,
        failures: &mut StoreFailures,
    ) -> Result<ChargeOutcome, KvError> {
        if let Kind::Concurrency { lease_ms } = self.kind {
            return self.take_place(store, subject, lease_ms, failures).await;
        }
        if cost > self.capacity(sound, store.now_ms) {
            // Do not add it to the counter, which could overflow. The call is too large whether or not the store answers.
            let standing = self.look(store, subject, cost, sound).await;
            return Ok(ChargeOutcome {
                outcome: Err(Over {
                    retry_ms: 0,
                    too_large: true,
                    from_memory: false,
                }),
                standing: standing.unwrap_or(None).map(|standing| Standing {
                    // A call that is too large never passes.
                    retry_ms: 0,
                    ..standing
                }),
            });
        }
        let denied = self
            .memory
            .known(subject)
            .is_some_and(|l| store.now_ms < l.denied_until_ms && cost >= l.denied_cost);
        if denied
            && let Some(standing) = self.standing(subject, cost, sound, store.now_ms)
            && standing.retry_ms > 0
        {
            return Ok(ChargeOutcome {
                outcome: Err(Over {
                    retry_ms: standing.retry_ms,
                    too_large: false,
                    from_memory: true,
                }),
                standing: Some(standing),
            });
        }
        let passed = match self.bucket(sound) {
            Some(bucket) => {
                self.fill_bucket(store, bucket, subject, cost, failures)
                    .await?
            }
            None if self.limit.unit == Unit::ComputeMs => self.peek_window(store, subject).await?,
            None => self.charge_window(store, subject, cost, failures).await?,
        };
        let standing = self.standing(subject, cost, sound, store.now_ms);
        let outcome = passed.ok_or_else(|| {
            let retry_ms = standing.map_or(0, |standing| standing.retry_ms).max(1);
            let local = self.memory.of(subject);
            local.denied_until_ms = store.now_ms + retry_ms.min(REFUSED_FROM_MEMORY_MS);
            local.denied_cost = cost;
            Over {
                retry_ms,
                too_large: false,
                from_memory: false,
            }
        });
        Ok(ChargeOutcome { outcome, standing })
    }

    /// Undoes a charge, if its counter still matters.
    pub async fn refund<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        receipt: &Receipt,
        failures: &mut StoreFailures,
    ) {
        match receipt {
            Receipt::Counter {
                subject,
                span,
                amount,
                matters_until_ms,
            } => {
                // The counter may be deleted already, and a refund would create it again.
                if store.now_ms < *matters_until_ms {
                    let name = self.name(*subject, "", *span);
                    if self.give_back(store, &name, *amount, failures).await {
                        let back = i64::try_from(*amount).unwrap_or(i64::MAX);
                        self.moved(*subject, *span, -back);
                    }
                }
            }
            Receipt::Leased {
                subject,
                span,
                amount,
            } => {
                let local = self.memory.of(*subject);
                if local.span == *span {
                    local.tokens += amount;
                }
            }
            Receipt::Place {
                name,
                matters_until_ms,
            } => {
                if store.now_ms < *matters_until_ms && store.kv.increment(name, -1).await.is_err() {
                    failures.releases += 1;
                }
            }
            Receipt::Bucket {
                subject,
                generation,
                charge,
                matters_until_ms,
            } => {
                let Kind::Bucket { bucket, .. } = self.kind else {
                    return;
                };
                if store.now_ms < *matters_until_ms
                    && self
                        .drain_bucket(store, bucket, *subject, *generation, *charge)
                        .await
                        .is_err()
                {
                    failures.refunds += 1;
                }
            }
        }
    }
}

fn family(limit: &Limit) -> String {
    let mut family = format!(
        "{} {} {} {:?} {:?} {:?}",
        limit.name,
        limit.algorithm.as_str(),
        limit.unit.as_str(),
        limit.window_s.or(limit.lease_s),
        limit.period,
        limit.time_zone,
    );
    // A bucket's value depends on its rate. A counter holds units, regardless of the limit.
    if matches!(
        limit.algorithm,
        Algorithm::TokenBucket | Algorithm::LeakyBucket
    ) {
        let _ = write!(family, " {} {:?}", limit.limit, limit.burst);
    }
    family
}
