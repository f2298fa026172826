//! One limit at work: charges, refunds and releases against the store, by the decisions of
//! [`super::window`], [`super::gcra`] and [`super::concurrency`].
//!
//! An increment whose reply was lost may or may not have been applied. It is never refunded: a refund
//! of what was not charged would admit more than the limit, a charge that stays admits less until its
//! window has passed.

use super::calendar::{self, Span};
use super::gcra::{self, Bucket, Charge, Shape, State};
use super::limits::{
    Algorithm, DEFAULT_LEASE_S, DEFAULT_MAX_WAIT_MS, Dimension, Limit, Period, Unit,
};
use super::memory::{Local, Memory};
use super::register::Register;
use super::status::{Status, StoreFailures};
use super::{Ask, CLOCK_SPREAD_MS, SETTLED_MS, concurrency, window};
use jiff::tz::TimeZone;
use penstock_core::{Kv, KvError};
use std::fmt::Write;

/// How long a refusal is given again from memory: a refund or a release elsewhere is noticed after
/// this time at the latest, and a flood costs each instance one trip in it.
pub const REFUSED_FROM_MEMORY_MS: u64 = 1_000;

/// An instance takes ahead at most this part of what is left, so that what others leave unused weighs
/// less the less there is.
const LEASE_SHARE: u64 = 8;

/// Shortest width of the index of a limit's entries: a sweep asks for every bucket in turn.
const MIN_INDEX_WIDTH_MS: u64 = 120_000;

/// Widths of the index for calendar periods: longer than the longest day and month (25 hours, 31 days
/// and an hour), with room for a zone that changes its mind.
const DAY_WIDTH_MS: u64 = 26 * 3_600_000;
const MONTH_WIDTH_MS: u64 = 32 * 86_400_000;

/// One limit, and what an instance knows of it.
#[derive(Debug)]
pub struct Rule {
    /// What the operator asked for.
    pub limit: Limit,
    /// What distinguishes its counters from those of another limit, and from its own under other
    /// settings, where they would mean something else.
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
        /// The period last asked for: finding it is dearer than a trip to a store in memory.
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

/// A window at one moment.
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

    /// Until when anybody reads its counter.
    fn matters_until_ms(&self) -> u64 {
        let faded = if self.sliding { self.width_ms() } else { 0 };
        self.span.end_ms + faded + CLOCK_SPREAD_MS
    }
}

/// What a limit says to a charge.
#[derive(Debug)]
pub struct Answer {
    /// What to give back later, or when to try again.
    pub outcome: Result<Passed, Over>,
    /// Units left.
    pub left: u64,
    /// Milliseconds until the window ends or the bucket is full.
    pub reset_ms: u64,
}

/// A charge that passed.
#[derive(Debug)]
pub struct Passed {
    /// How it is undone.
    pub receipt: Option<Receipt>,
    /// Milliseconds the call has to wait first.
    pub wait_ms: u64,
}

/// A charge that did not pass, and was not made.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// Milliseconds until it has a chance.
    pub retry_ms: u64,
    /// Whether it never has one.
    pub too_large: bool,
    /// Whether the store was not asked.
    pub from_memory: bool,
}

/// What was charged, so that it can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Added to a counter.
    Counter {
        /// The counter.
        name: String,
        /// Units.
        amount: u64,
        /// When nobody reads the counter any more.
        matters_until_ms: u64,
    },
    /// Taken from what the instance had leased.
    Leased {
        /// Whose.
        subject: u128,
        /// The window.
        span: u64,
        /// Units.
        amount: u64,
    },
    /// Put into a bucket.
    Bucket {
        /// Whose.
        subject: u128,
        /// The generation of its value.
        generation: u64,
        /// What was put in.
        charge: Charge,
        /// When the bucket is full again in any case.
        matters_until_ms: u64,
    },
    /// A place among running calls.
    Place {
        /// The counter.
        name: String,
        /// When the lease has ended for everybody.
        matters_until_ms: u64,
    },
}

impl Rule {
    /// A rule for a limit without faults, one of `count`; `None` for one with.
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
        // Entries in windows as wide as the index matter until the end of the window after theirs,
        // which is when the index lets them go; others for twice as long as they are wide.
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
            // Holds for the windows it falls back to as well, which are no longer.
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

    /// What it counts separately.
    pub fn per(&self) -> &[Dimension] {
        &self.limit.per
    }

    /// Whether it needs a sound compare-and-swap.
    pub fn wants_swap(&self) -> bool {
        matches!(self.kind, Kind::Bucket { .. })
    }

    /// How the limit stands, for the answer to a charge.
    pub fn status(&mut self, answer: &Answer, sound: bool, now_ms: u64) -> Status {
        let (limit, window_ms) = match &self.kind {
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
        };
        let reset_ms = match answer.outcome {
            Ok(_) => answer.reset_ms,
            Err(over) => over.retry_ms,
        };
        Status {
            name: self.limit.name.clone(),
            limit,
            window_s: window_ms.map(|ms| ms.div_ceil(1000).max(1)),
            remaining: answer.left.min(limit),
            reset_s: reset_ms.div_ceil(1000),
            unit: self.limit.unit,
            shadow: self.limit.shadow,
            over: answer.outcome.is_err(),
        }
    }

    /// The limit in words, as in "100 requests in 60 s".
    pub fn words(&self, status: &Status) -> String {
        let limit = status.limit;
        let units = self.limit.unit.words();
        match (&self.kind, status.window_s) {
            (Kind::Concurrency { .. }, _) | (_, None) => format!("{limit} calls at once"),
            (Kind::Calendar { period, .. }, _) => format!("{limit} {units} a {}", period.as_str()),
            (_, Some(window_s)) => format!("{limit} {units} in {window_s} s"),
        }
    }

    fn name(&self, subject: u128, kind: &str, span: u64) -> String {
        format!("q/{}/{subject:032x}/{kind}{span}", self.limit.name)
    }

    /// The window at a time; a bucket's is the one it falls back to.
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
        ask: Ask<'_, K>,
        subject: u128,
        cost: u64,
        sound: bool,
        failures: &mut StoreFailures,
    ) -> Result<Answer, KvError> {
        let bucket = match &self.kind {
            Kind::Concurrency { lease_ms } => {
                let lease_ms = *lease_ms;
                return self.take_place(ask, subject, lease_ms, failures).await;
            }
            Kind::Bucket { bucket, .. } if sound => Some(*bucket),
            _ => None,
        };
        let capacity = match bucket {
            Some(bucket) => bucket.capacity(),
            None => self.at(ask.now_ms).limit,
        };
        if cost > capacity {
            // Refused without asking, so that what is in flight stays far from overflowing. What is
            // left is as last seen, if it was.
            let retry_ms = match bucket {
                Some(bucket) => bucket.drain_ms(),
                None => {
                    let at = self.at(ask.now_ms);
                    at.span.end_ms - ask.now_ms
                }
            };
            let local = self.memory.of(subject);
            return Ok(Answer {
                left: if local.seen { local.left } else { capacity },
                reset_ms: retry_ms,
                outcome: Err(Over {
                    retry_ms,
                    too_large: true,
                    from_memory: true,
                }),
            });
        }
        let local = self.memory.of(subject);
        if ask.now_ms < local.denied_until_ms && cost >= local.denied_cost {
            let retry_ms = local.retry_at_ms.saturating_sub(ask.now_ms).max(1);
            return Ok(Answer {
                left: local.left,
                reset_ms: retry_ms,
                outcome: Err(Over {
                    retry_ms,
                    too_large: false,
                    from_memory: true,
                }),
            });
        }
        let answer = match bucket {
            Some(bucket) => {
                self.fill_bucket(ask, bucket, subject, cost, failures)
                    .await?
            }
            None if self.limit.unit == Unit::ComputeMs => self.peek_window(ask, subject).await?,
            None => self.charge_window(ask, subject, cost, failures).await?,
        };
        let local = self.memory.of(subject);
        local.seen = true;
        if let Err(over) = answer.outcome {
            local.denied_until_ms = ask.now_ms + over.retry_ms.min(REFUSED_FROM_MEMORY_MS);
            local.denied_cost = cost;
            local.retry_at_ms = ask.now_ms + over.retry_ms;
            local.left = answer.left;
        }
        Ok(answer)
    }

    async fn charge_window<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
        cost: u64,
        failures: &mut StoreFailures,
    ) -> Result<Answer, KvError> {
        let at = self.at(ask.now_ms);
        let reset_ms = at.span.end_ms.saturating_sub(ask.now_ms);
        let lease_tokens = self.limit.lease_tokens;
        let local = self.memory.of(subject);
        local.turn(at.span.id);
        if local.tokens >= cost && lease_tokens > 0 {
            local.tokens -= cost;
            return Ok(Answer {
                left: local.left + local.tokens,
                reset_ms,
                outcome: Ok(Passed {
                    receipt: Some(Receipt::Leased {
                        subject,
                        span: at.span.id,
                        amount: cost,
                    }),
                    wait_ms: 0,
                }),
            });
        }
        let ahead = lease_tokens.min(local.left / LEASE_SHARE);
        let taken = cost + ahead;
        let name = self.name(subject, "", at.span.id);
        let mut count = self.count(ask, subject, &name, taken, failures).await?;
        let before = match self.before(ask, subject, &at).await {
            Ok(before) => before,
            Err(error) => {
                // Known to be applied, so it can be taken back.
                self.give_back(ask, &name, taken, failures).await;
                return Err(error);
            }
        };
        let (elapsed_ms, width_ms) = (at.elapsed_ms(ask.now_ms), at.width_ms());
        let decide = |count: i64, part: u64| {
            window::decide(at.limit, before, count, part, elapsed_ms, width_ms)
        };
        let mut decision = decide(count, taken);
        let mut kept = ahead;
        if !decision.fits && ahead > 0 && decide(count - ahead as i64, cost).fits {
            self.give_back(ask, &name, ahead, failures).await;
            count -= ahead as i64;
            decision = decide(count, cost);
            kept = 0;
        }
        let local = self.memory.of(subject);
        local.left = decision.left;
        if decision.fits {
            local.tokens += kept;
            return Ok(Answer {
                left: decision.left + kept,
                reset_ms,
                outcome: Ok(Passed {
                    receipt: Some(Receipt::Counter {
                        name,
                        amount: cost,
                        matters_until_ms: at.matters_until_ms(),
                    }),
                    wait_ms: 0,
                }),
            });
        }
        self.give_back(ask, &name, taken, failures).await;
        let retry_ms = window::retry_ms(
            at.limit,
            before,
            count - taken as i64,
            cost,
            elapsed_ms,
            width_ms,
            at.sliding,
        );
        Ok(Answer {
            left: decision.left,
            reset_ms,
            outcome: Err(Over {
                retry_ms,
                too_large: false,
                from_memory: false,
            }),
        })
    }

    /// Whether anything is left, for a cost that is known only afterwards.
    async fn peek_window<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
    ) -> Result<Answer, KvError> {
        let at = self.at(ask.now_ms);
        self.memory.of(subject).turn(at.span.id);
        let count = read(ask.kv, &self.name(subject, "", at.span.id)).await?;
        let before = self.before(ask, subject, &at).await?;
        let (elapsed_ms, width_ms) = (at.elapsed_ms(ask.now_ms), at.width_ms());
        let decision = window::peek(at.limit, before, count, elapsed_ms, width_ms);
        self.memory.of(subject).left = decision.left;
        let outcome = if decision.fits {
            Ok(Passed {
                receipt: None,
                wait_ms: 0,
            })
        } else {
            let sliding = at.sliding;
            Err(Over {
                retry_ms: window::retry_ms(
                    at.limit, before, count, 1, elapsed_ms, width_ms, sliding,
                ),
                too_large: false,
                from_memory: false,
            })
        };
        Ok(Answer {
            outcome,
            left: decision.left,
            reset_ms: at.span.end_ms.saturating_sub(ask.now_ms),
        })
    }

    /// Charges compute time that was used, whatever is left.
    pub async fn settle<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
        compute_ms: u64,
        failures: &mut StoreFailures,
    ) -> Result<(), KvError> {
        let at = self.at(ask.now_ms);
        self.memory.of(subject).turn(at.span.id);
        let name = self.name(subject, "", at.span.id);
        self.count(ask, subject, &name, compute_ms, failures)
            .await?;
        Ok(())
    }

    /// Adds to a counter, and registers it if that made it.
    async fn count<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
        name: &str,
        amount: u64,
        failures: &mut StoreFailures,
    ) -> Result<i64, KvError> {
        let count = match ask.kv.increment(name, amount as i64).await {
            Ok(count) => count,
            Err(error) => {
                self.register.suspect(name.to_owned());
                return Err(error);
            }
        };
        let local = self.memory.of(subject);
        if count == amount as i64 && !local.registered {
            local.registered = true;
            failures.registrations += self.register.add(ask, name.to_owned()).await;
        }
        Ok(count)
    }

    /// The counter of the window before, 0 where windows do not slide.
    async fn before<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
        at: &At,
    ) -> Result<i64, KvError> {
        if !at.sliding || at.span.id == 0 {
            return Ok(0);
        }
        if let Some(before) = self.memory.of(subject).before {
            return Ok(before);
        }
        let before = read(ask.kv, &self.name(subject, "", at.span.id - 1)).await?;
        if at.elapsed_ms(ask.now_ms) >= SETTLED_MS {
            self.memory.of(subject).before = Some(before);
        }
        Ok(before)
    }

    async fn give_back<K: Kv>(
        &self,
        ask: Ask<'_, K>,
        name: &str,
        amount: u64,
        failures: &mut StoreFailures,
    ) {
        if ask.kv.increment(name, -(amount as i64)).await.is_err() {
            failures.refunds += 1;
        }
    }

    async fn take_place<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        subject: u128,
        lease_ms: u64,
        failures: &mut StoreFailures,
    ) -> Result<Answer, KvError> {
        let bucket = concurrency::bucket(lease_ms, ask.now_ms);
        self.memory.of(subject).turn(bucket);
        let name = self.name(subject, "c", bucket);
        let own = self.count(ask, subject, &name, 1, failures).await?;
        let neighbours = async {
            let before = match bucket.checked_sub(1) {
                Some(before) => read(ask.kv, &self.name(subject, "c", before)).await?,
                None => 0,
            };
            let after = read(ask.kv, &self.name(subject, "c", bucket + 1)).await?;
            Ok::<_, KvError>((before, after))
        };
        let (before, after) = match neighbours.await {
            Ok(neighbours) => neighbours,
            Err(error) => {
                self.give_back(ask, &name, 1, failures).await;
                return Err(error);
            }
        };
        let (fits, left) = concurrency::decide(self.limit.limit, own, before, after);
        let outcome = if fits {
            Ok(Passed {
                receipt: Some(Receipt::Place {
                    name,
                    matters_until_ms: concurrency::matters_until_ms(lease_ms, bucket),
                }),
                wait_ms: 0,
            })
        } else {
            self.give_back(ask, &name, 1, failures).await;
            // When a call ends is not known; a second is as good a guess as any.
            Err(Over {
                retry_ms: 1000,
                too_large: false,
                from_memory: false,
            })
        };
        Ok(Answer {
            outcome,
            left,
            reset_ms: 1000,
        })
    }

    async fn fill_bucket<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        bucket: Bucket,
        subject: u128,
        cost: u64,
        failures: &mut StoreFailures,
    ) -> Result<Answer, KvError> {
        let mut generation = ask.now_ms / bucket.generation_ms();
        for _ in 0..gcra::MAX_SWAPS {
            let name = self.name(subject, "g", generation);
            let (value, swap) = ask.kv.read_to_swap(&name).await?;
            let (state, made) = match value {
                Some(value) => (State::from_bytes(&value).unwrap_or_default(), false),
                None => match self
                    .begin(ask, bucket, subject, generation, failures)
                    .await?
                {
                    Some(state) => (state, true),
                    None => continue,
                },
            };
            if state.closed {
                // Somebody whose clock is ahead has begun the next.
                generation += 1;
                continue;
            }
            let decision = bucket.decide(state, ask.now_ms, cost);
            let answer = |outcome| Answer {
                outcome,
                left: decision.left,
                reset_ms: decision.full_in_ms,
            };
            let (after, wait_ms) = match decision.outcome {
                Ok(passed) => passed,
                Err(retry_ms) => {
                    return Ok(answer(Err(Over {
                        retry_ms,
                        too_large: false,
                        from_memory: false,
                    })));
                }
            };
            let swapped = ask.kv.swap(swap, &after.to_bytes()).await;
            if made && !matches!(swapped, Ok(false)) {
                failures.registrations += self.register.add(ask, name).await;
            }
            if swapped? {
                return Ok(answer(Ok(Passed {
                    receipt: Some(Receipt::Bucket {
                        subject,
                        generation,
                        charge: Charge { cost, after },
                        matters_until_ms: ask.now_ms + decision.full_in_ms + CLOCK_SPREAD_MS,
                    }),
                    wait_ms,
                })));
            }
        }
        Err(KvError::new("other callers were faster every time"))
    }

    /// What a generation begins with: the value of the one before, closed to everybody else while some
    /// may still be using it. `None` when it was changed meanwhile.
    async fn begin<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
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
        let into_ms = ask
            .now_ms
            .saturating_sub(generation * bucket.generation_ms());
        if into_ms >= SETTLED_MS {
            let value = ask.kv.get(&name).await?;
            return Ok(Some(opened(value.map(parse).unwrap_or_default())));
        }
        let (value, swap) = ask.kv.read_to_swap(&name).await?;
        let made = value.is_none();
        let state = value.map(parse).unwrap_or_default();
        if state.closed {
            return Ok(Some(opened(state)));
        }
        let closed = State {
            closed: true,
            ..state
        };
        let swapped = ask.kv.swap(swap, &closed.to_bytes()).await;
        if made && !matches!(swapped, Ok(false)) {
            failures.registrations += self.register.add(ask, name).await;
        }
        Ok(swapped?.then_some(state))
    }

    /// Undoes a charge, where that still means something.
    pub async fn refund<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        receipt: &Receipt,
        failures: &mut StoreFailures,
    ) {
        match receipt {
            Receipt::Counter {
                name,
                amount,
                matters_until_ms,
            } => {
                // A counter nobody reads may be gone, and would be made again.
                if ask.now_ms < *matters_until_ms {
                    self.give_back(ask, name, *amount, failures).await;
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
                if ask.now_ms < *matters_until_ms && ask.kv.increment(name, -1).await.is_err() {
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
                if ask.now_ms < *matters_until_ms
                    && self
                        .drain_bucket(ask, bucket, *subject, *generation, *charge)
                        .await
                        .is_err()
                {
                    failures.refunds += 1;
                }
            }
        }
    }

    async fn drain_bucket<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        bucket: Bucket,
        subject: u128,
        mut generation: u64,
        charge: Charge,
    ) -> Result<(), KvError> {
        for _ in 0..gcra::MAX_SWAPS {
            let name = self.name(subject, "g", generation);
            let (value, swap) = ask.kv.read_to_swap(&name).await?;
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
            if ask.kv.swap(swap, &refunded.to_bytes()).await? {
                return Ok(());
            }
        }
        Err(KvError::new("other callers were faster every time"))
    }
}

/// The sum of a counter, which is not made by asking.
pub async fn read<K: Kv>(kv: &K, name: &str) -> Result<i64, KvError> {
    if kv.exists(name).await? {
        kv.increment(name, 0).await
    } else {
        Ok(0)
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
    // A bucket's value is measured in its rate; a counter is units under any limit.
    if matches!(
        limit.algorithm,
        Algorithm::TokenBucket | Algorithm::LeakyBucket
    ) {
        let _ = write!(family, " {} {:?}", limit.limit, limit.burst);
    }
    family
}
