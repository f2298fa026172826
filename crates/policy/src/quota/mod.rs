//! Decides how much each caller may use: limits on requests, items, bytes, compute time and calls at
//! once, and what a caller is told about them.
//!
//! A call meets quota four times:
//!
//! 1. [`Quota::admit`], before its body is looked at: requests, bytes, calls at once, and whether
//!    any compute time is left;
//! 2. [`Quota::charge_items`], once the body was validated and its items counted;
//! 3. [`Quota::refund_items`], when the model provably did not run or the answer is a replay;
//! 4. [`Quota::settle`], at the end: the place among running calls is given back and compute time
//!    charged.
//!
//! All limits of a call are decided together: when one refuses, what others were charged is given back,
//! so a refused call uses up nothing. Limits are charged in the document's order; one that is charged and
//! given back may turn away others in the meantime, never let them in. A call that is never settled
//! (its instance died) stays charged until its windows pass and its lease ends: less is admitted, never
//! more.
//!
//! What is promised in which interval is stated with each algorithm: [`window`] (fixed, sliding,
//! calendar), [`gcra`] (token and leaky bucket), [`concurrency`]. In addition:
//!
//! * *compute time* is known only afterwards: a window may be exceeded by what the calls use that run
//!   when it is used up, so by the calls at once times the longest run;
//! * *store failures*: a limit that is `open` admits whatever is asked while its store does not
//!   answer, and counts it. A limit that is `closed` admits nothing. A charge whose reply was lost stays
//!   made; a refund that is lost leaves its units used until the window passes;
//! * *leases* (`lease_tokens`): units are counted before they are used, so nothing more is admitted;
//!   up to `lease_tokens` of each subject may stay unused in a window for each instance, and as many
//!   again each time an instance forgets a subject among more than [`memory::REMEMBERED`];
//! * *compare-and-swap*: should the verdict on it not be written down (see [`swap`]), an instance may for
//!   a minute count apart from others, and both admit what a bucket allows;
//! * *refusals from memory*: an instance repeats a refusal for up to
//!   [`rule::REFUSED_FROM_MEMORY_MS`] without asking, so what others give back is noticed that late;
//!   a block that began elsewhere is noticed as late, too.
//!
//! What the gate asks and is answered is in [`words`] and [`service`].
//!
//! Every counter that is made is registered for deletion, so the store holds at most what the subjects
//! of three widths of each limit's index need. A counter stays behind only when an instance dies between
//! making and registering it.

pub mod backoff;
pub mod calendar;
pub mod concurrency;
pub mod gcra;
pub mod headers;
pub mod limits;
pub mod memory;
mod register;
pub mod rule;
pub mod service;
pub mod status;
mod store;
pub mod subject;
pub mod swap;
pub mod window;
pub mod words;

pub use headers::headers;
pub use limits::{Backoff, Limit, QuotaDocument};
pub use status::{Refusal, Status, StoreFailures, Tally};
pub use store::{Ask, CLOCK_SPREAD_MS, SETTLED_MS};
pub use subject::Call;
pub use words::RefusalKind;

use backoff::{MINUTE_MS, Offender};
use limits::{Algorithm, OnStoreFailure, Unit};
use memory::Memory;
use penstock_core::{Kv, KvError};
use register::Register;
use rule::{Charged, Over, Passed, REFUSED_FROM_MEMORY_MS, Receipt, Rule};
use std::fmt;
use swap::Verdict;

/// Most compute time charged for one call, in milliseconds: a day, so that a wrong clock does not
/// use up a quota for ever.
pub const MAX_COMPUTE_MS: u64 = 86_400_000;

/// What a caller waits for a store that does not answer, in seconds.
pub const RETRY_STORE_S: u64 = 1;

/// What a call is known to cost before its body is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Requests, 1 for a call.
    pub requests: u64,
    /// Bytes of the body.
    pub bytes: u64,
}

/// A call that was admitted. Dropping it unsettled keeps its place until the lease ends.
#[must_use = "an admission is settled, or its place among running calls stays taken"]
#[derive(Debug)]
pub struct Admission {
    /// How each limit stands that was asked so far, in the document's order within each stage.
    pub statuses: Vec<Status>,
    /// Milliseconds the call has to wait before it goes on.
    pub wait_ms: u64,
    held: Vec<Held>,
    /// The limits that apply, and the call's subject under each.
    applies: Vec<(usize, u128)>,
    accountable: u128,
    /// Whether it was refused at its second stage, and everything given back.
    over: bool,
}

#[derive(Debug)]
struct Held {
    rule: usize,
    charged: Charged,
    receipt: Receipt,
}

/// The limit that a refusal names.
#[derive(Clone, Copy, Debug)]
struct RefusingLimit {
    rule: usize,
    cost: u64,
    sound: bool,
    over: Over,
}

/// A limit that counts differently from what the document asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The limit's name.
    pub limit: String,
    /// What it asks for.
    pub wanted: Algorithm,
    /// What is used.
    pub used: Algorithm,
    /// Why, for the operator.
    pub reason: String,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            limit,
            wanted,
            used,
            reason,
        } = self;
        let (used, wanted) = (used.as_str(), wanted.as_str());
        write!(
            f,
            "limit `{limit}` is counted with {used} instead of {wanted}: {reason}"
        )
    }
}

/// Quota, as one instance applies it.
#[derive(Debug)]
pub struct Quota {
    rules: Vec<Rule>,
    backoff: Backoff,
    offenders: Memory<Offender>,
    refusals: Register,
    swap: Option<Known>,
    tally: Tally,
}

#[derive(Clone, Debug)]
struct Known {
    verdict: Verdict,
    until_ms: u64,
}

impl Quota {
    /// Quota by a document, or what is wrong with it as [`QuotaDocument::faults`] says it.
    pub fn new(document: QuotaDocument) -> Result<Self, Vec<(String, String)>> {
        let faults = document.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let count = document.limits.len();
        let rules = document.limits.into_iter();
        Ok(Self {
            rules: rules.filter_map(|l| Rule::new(l, count)).collect(),
            backoff: document.backoff,
            offenders: Memory::one_of(1),
            // The name of no limit has a dot.
            refusals: Register::new("q/.refused".to_owned(), 2 * MINUTE_MS),
            swap: None,
            tally: Tally::default(),
        })
    }

    /// Takes a verdict on the store's compare-and-swap from outside instead of trying it.
    pub fn assume_swap(&mut self, verdict: Verdict) {
        self.swap = Some(Known {
            verdict,
            until_ms: u64::MAX,
        });
    }

    /// Finds out whether the store's compare-and-swap is sound, if a limit needs it and it is not
    /// known. Done at the first use in any case; a host asks at start, to report [`Quota::fallbacks`].
    pub async fn probe_swap<K: Kv>(&mut self, ask: Ask<'_, K>) -> Result<(), KvError> {
        let known = matches!(&self.swap, Some(known) if ask.now_ms < known.until_ms);
        if known || !self.rules.iter().any(Rule::wants_swap) {
            return Ok(());
        }
        let (verdict, written) = swap::verdict(ask.kv, ask.random).await?;
        let until_ms = if written {
            u64::MAX
        } else {
            ask.now_ms + swap::UNWRITTEN_MS
        };
        self.swap = Some(Known { verdict, until_ms });
        Ok(())
    }

    /// The limits that count differently from what the document asks for; known once
    /// [`Quota::probe_swap`] or a call that such a limit applies to has asked the store.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        let Some(Known {
            verdict: Verdict::Unsound(reason),
            ..
        }) = &self.swap
        else {
            return Vec::new();
        };
        self.rules
            .iter()
            .filter(|r| r.wants_swap())
            .map(|rule| Fallback {
                limit: rule.limit.name.clone(),
                wanted: rule.limit.algorithm,
                used: Algorithm::SlidingWindow,
                reason: format!("the store's compare-and-swap cannot be trusted: {reason}"),
            })
            .collect()
    }

    /// What became of calls so far, and what failed.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What the store failed at so far.
    pub fn store_failures(&self) -> StoreFailures {
        self.tally.store_failures
    }

    /// Whether a call may go on: charges requests and bytes, takes a place among running calls, and
    /// asks whether compute time is left.
    pub async fn admit<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        call: &Call<'_>,
        cost: Cost,
    ) -> Result<Admission, Refusal> {
        let accountable = subject::accountable(call);
        let cost_of = |unit| match unit {
            Unit::Requests => Some(cost.requests),
            Unit::Bytes => Some(cost.bytes),
            // What it will cost is not known; whether anything is left is asked.
            Unit::ComputeMs => Some(0),
            Unit::Items => None,
        };
        let applies = self.rules.iter().enumerate();
        let applies: Vec<(usize, u128)> = applies
            .filter(|(_, rule)| subject::applies(&rule.limit, call))
            .map(|(at, rule)| (at, subject::subject(&rule.family, rule.per(), call)))
            .collect();
        if let Some(until_ms) = self.blocked(ask, accountable).await {
            self.tally.backed_off += 1;
            // A limit may have announced a longer wait before the block began.
            let rules = &self.rules;
            let known = self.offenders.known(accountable);
            let told_ms = known.map_or(0, |known| {
                let told = applies.iter().filter_map(|&(at, _)| {
                    let cost = cost_of(rules[at].limit.unit)?;
                    Some(known.told_until_ms(at, cost))
                });
                told.max().unwrap_or(0)
            });
            let until_ms = until_ms.max(told_ms);
            return Err(blocked_refusal(until_ms.saturating_sub(ask.now_ms)));
        }
        let mut admission = Admission {
            statuses: Vec::new(),
            wait_ms: 0,
            held: Vec::new(),
            applies,
            accountable,
            over: false,
        };
        match self.charge_all(ask, &mut admission, cost_of).await {
            Ok(()) => {
                self.tally.admitted += 1;
                Ok(admission)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Charges the items of a call. A refusal gives back what the call was charged before, and ends
    /// the admission: settling it then does nothing.
    pub async fn charge_items<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        admission: &mut Admission,
        items: u64,
    ) -> Result<(), Refusal> {
        let charged = self
            .charge_all(ask, admission, |unit| {
                (unit == Unit::Items).then_some(items)
            })
            .await;
        if charged.is_err() {
            self.tally.admitted = self.tally.admitted.saturating_sub(1);
        }
        charged
    }

    /// Gives back the items of a call for which the model did not run.
    pub async fn refund_items<K: Kv>(&mut self, ask: Ask<'_, K>, admission: &mut Admission) {
        let mut kept = Vec::with_capacity(admission.held.len());
        for held in std::mem::take(&mut admission.held) {
            let rule = &mut self.rules[held.rule];
            if rule.limit.unit != Unit::Items {
                kept.push(held);
                continue;
            }
            rule.refund(ask, &held.receipt, &mut self.tally.store_failures)
                .await;
            rule.restate(&mut admission.statuses, held.charged, ask.now_ms);
        }
        admission.held = kept;
    }

    /// Ends a call: its place among running calls is free again, and the compute time it used is
    /// charged. `compute_ms` is 0 when no model ran.
    pub async fn settle<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        mut admission: Admission,
        compute_ms: u64,
    ) {
        if admission.over {
            return;
        }
        for held in std::mem::take(&mut admission.held) {
            if matches!(held.receipt, Receipt::Place { .. }) {
                self.rules[held.rule]
                    .refund(ask, &held.receipt, &mut self.tally.store_failures)
                    .await;
            }
        }
        let compute_ms = compute_ms.min(MAX_COMPUTE_MS);
        if compute_ms == 0 {
            return;
        }
        for &(at, subject) in &admission.applies {
            let rule = &mut self.rules[at];
            if rule.limit.unit == Unit::ComputeMs
                && rule
                    .settle(ask, subject, compute_ms, &mut self.tally.store_failures)
                    .await
                    .is_err()
            {
                self.tally.store_failures.settlements += 1;
            }
        }
    }

    /// Charges every limit for whose unit there is a cost; all of them or none.
    async fn charge_all<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        admission: &mut Admission,
        cost_of: impl Fn(Unit) -> Option<u64>,
    ) -> Result<(), Refusal> {
        for at in 0..admission.applies.len() {
            let (rule_at, subject) = admission.applies[at];
            let rule = &self.rules[rule_at];
            let Some(cost) = cost_of(rule.limit.unit) else {
                continue;
            };
            // No body, no items: nothing to count.
            if cost == 0 && rule.limit.unit != Unit::ComputeMs {
                continue;
            }
            let sound = self.sound_for(ask, rule_at).await;
            let rule = &mut self.rules[rule_at];
            let failures = &mut self.tally.store_failures;
            let answer = match sound {
                Ok(sound) => rule
                    .charge(ask, subject, cost, sound, failures)
                    .await
                    .map(|answer| (answer, sound)),
                Err(error) => Err(error),
            };
            let (answer, sound) = match answer {
                Ok(answered) => answered,
                Err(error) => {
                    failures.charges += 1;
                    let limit = &rule.limit;
                    if limit.shadow || limit.on_store_failure == OnStoreFailure::Open {
                        failures.passed_open += 1;
                        continue;
                    }
                    let refusal = store_refusal(rule, &error);
                    return Err(self.undo(ask, admission, refusal).await);
                }
            };
            let over = answer.outcome.is_err();
            let status = (answer.standing).map(|s| rule.status(s, over, sound, ask.now_ms));
            match answer.outcome {
                Ok(Passed { receipt, wait_ms }) => {
                    admission.statuses.extend(status);
                    admission.held.extend(receipt.map(|receipt| Held {
                        rule: rule_at,
                        charged: Charged {
                            subject,
                            amount: cost,
                            sound,
                        },
                        receipt,
                    }));
                    if !rule.limit.shadow {
                        admission.wait_ms = admission.wait_ms.max(wait_ms);
                    }
                    if let Some(known) = self.offenders.known(admission.accountable) {
                        known.passed(rule_at, cost);
                    }
                }
                Err(_) if rule.limit.shadow => {
                    self.tally.shadow_refusals += 1;
                    admission.statuses.extend(status);
                }
                Err(over) => {
                    let first = RefusingLimit {
                        rule: rule_at,
                        cost,
                        sound,
                        over,
                    };
                    let later = at + 1..admission.applies.len();
                    let (refused, mut statuses) =
                        self.longest(ask, admission, later, first, &cost_of).await;
                    if let Some(status) = status {
                        statuses.insert(0, status);
                    }
                    self.tally.refused += 1;
                    self.tally.refused_from_memory += u64::from(over.from_memory);
                    let mut refusal = self
                        .limit_refusal(ask, admission.accountable, refused, over.from_memory)
                        .await;
                    refusal.statuses = statuses;
                    return Err(self.undo(ask, admission, refusal).await);
                }
            }
        }
        Ok(())
    }

    /// Which of the limits makes a refused call wait longest: the one that refused, or one of those that were
    /// not asked yet. Waiting for the first alone would end in the next refusal. Adds how the others stand.
    /// A store that does not answer here changes nothing: it will refuse when the call comes back.
    async fn longest<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        admission: &Admission,
        later: std::ops::Range<usize>,
        first: RefusingLimit,
        cost_of: &impl Fn(Unit) -> Option<u64>,
    ) -> (RefusingLimit, Vec<Status>) {
        let mut longest = first;
        let mut statuses = Vec::new();
        for &(rule_at, subject) in &admission.applies[later] {
            let limit = &self.rules[rule_at].limit;
            let Some(cost) = cost_of(limit.unit) else {
                continue;
            };
            let counts = cost > 0 || limit.unit == Unit::ComputeMs;
            if longest.over.too_large || limit.shadow || !counts {
                continue;
            }
            let Ok(sound) = self.sound_for(ask, rule_at).await else {
                continue;
            };
            let rule = &mut self.rules[rule_at];
            let too_large = cost > rule.capacity(sound, ask.now_ms);
            let Ok(standing) = rule.look(ask, subject, cost, sound).await else {
                continue;
            };
            let retry_ms = standing.map_or(0, |s| s.retry_ms);
            let over = too_large || retry_ms > 0;
            statuses.extend(standing.map(|s| rule.status(s, over, sound, ask.now_ms)));
            if too_large || retry_ms > longest.over.retry_ms {
                longest = RefusingLimit {
                    rule: rule_at,
                    cost,
                    sound,
                    over: Over {
                        retry_ms,
                        too_large,
                        from_memory: false,
                    },
                };
            }
        }
        (longest, statuses)
    }

    /// Counts a refusal and words it. What it announces never ends before what the same caller was told for
    /// the same limit before.
    async fn limit_refusal<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        who: u128,
        refused: RefusingLimit,
        from_memory: bool,
    ) -> Refusal {
        let refusals = self.count_refusal(ask, who, from_memory).await;
        let RefusingLimit {
            rule,
            cost,
            sound,
            over,
        } = refused;
        let words = self.rules[rule].words(sound, ask.now_ms);
        let limit = &self.rules[rule].limit;
        let (name, unit) = (limit.name.clone(), limit.unit);
        let refusal = |kind, retry_after_s, message| Refusal {
            kind,
            limit: Some(name.clone()),
            unit: Some(unit),
            retry_after_s,
            message,
            statuses: Vec::new(),
        };
        if over.too_large {
            let message = format!(
                "this call costs {cost} {}, more than limit `{name}` of {words} ever allows; send less per call",
                unit.words()
            );
            return refusal(RefusalKind::TooLarge, 1, message);
        }
        let asked_s = over.retry_ms.div_ceil(1000);
        let natural_s = backoff::retry_after_s(&self.backoff, asked_s, refusals);
        let known = self.offenders.of(who);
        // The block that this refusal begins lasts longer than the limit.
        let until_ms = (ask.now_ms.saturating_add(natural_s.saturating_mul(1000)))
            .max(known.blocked_until_ms)
            .max(known.told_until_ms(rule, cost));
        known.tell(rule, cost, until_ms, ask.now_ms);
        let retry_after_s = until_ms.saturating_sub(ask.now_ms).div_ceil(1000).max(1);
        let message =
            format!("limit `{name}` of {words} is used up; try again in {retry_after_s} s");
        refusal(RefusalKind::UsedUp, retry_after_s, message)
    }

    /// Whether the compare-and-swap can be trusted, as far as a rule needs to know.
    async fn sound_for<K: Kv>(&mut self, ask: Ask<'_, K>, rule_at: usize) -> Result<bool, KvError> {
        if !self.rules[rule_at].wants_swap() {
            return Ok(true);
        }
        self.probe_swap(ask).await?;
        Ok(matches!(
            &self.swap,
            Some(Known {
                verdict: Verdict::Sound,
                ..
            })
        ))
    }

    /// Gives back everything a refused call was charged, and completes its refusal.
    async fn undo<K: Kv>(
        &mut self,
        ask: Ask<'_, K>,
        admission: &mut Admission,
        mut refusal: Refusal,
    ) -> Refusal {
        let mut statuses = std::mem::take(&mut admission.statuses);
        for held in std::mem::take(&mut admission.held) {
            let rule = &mut self.rules[held.rule];
            rule.refund(ask, &held.receipt, &mut self.tally.store_failures)
                .await;
            rule.restate(&mut statuses, held.charged, ask.now_ms);
        }
        statuses.append(&mut refusal.statuses);
        refusal.statuses = statuses;
        admission.applies.clear();
        admission.over = true;
        refusal
    }

    fn refusals_name(who: u128, minute: u64) -> String {
        format!("q/.refused/{who:032x}/{minute}")
    }

    /// Until when a caller is refused everything, if so.
    async fn blocked<K: Kv>(&mut self, ask: Ask<'_, K>, who: u128) -> Option<u64> {
        if self.backoff.hard_after == 0 {
            return None;
        }
        let minute = ask.now_ms / MINUTE_MS;
        let known = self.offenders.of(who);
        known.turn(minute);
        if ask.now_ms < known.blocked_until_ms {
            return Some(known.blocked_until_ms);
        }
        if ask.now_ms < known.clear_until_ms {
            return None;
        }
        let clear_before = known.clear_before;
        for minute in [
            minute.checked_sub(1).filter(|_| !clear_before),
            Some(minute),
        ] {
            let Some(minute) = minute else {
                continue;
            };
            match store::read_counter(ask.kv, &Self::refusals_name(who, minute)).await {
                Ok(count) => {
                    let count = u64::try_from(count).unwrap_or(0);
                    let until = backoff::blocked_until_ms(&self.backoff, minute, count);
                    if let Some(until_ms) = until.filter(|&until| ask.now_ms < until) {
                        self.offenders.of(who).blocked_until_ms = until_ms;
                        return Some(until_ms);
                    }
                }
                Err(_) => self.tally.store_failures.back_off += 1,
            }
        }
        let known = self.offenders.of(who);
        known.clear_until_ms = ask.now_ms + REFUSED_FROM_MEMORY_MS;
        // Nobody adds to a minute that is past, but for clocks that differ and slow operations.
        if ask.now_ms % MINUTE_MS >= SETTLED_MS {
            known.clear_before = true;
        }
        None
    }

    /// Counts a refusal; how many the caller has had in this minute, as far as known. A refusal from
    /// memory is told to the store with the next that is not.
    async fn count_refusal<K: Kv>(&mut self, ask: Ask<'_, K>, who: u128, from_memory: bool) -> u64 {
        if !self.backoff.soft && self.backoff.hard_after == 0 {
            return 1;
        }
        let minute = ask.now_ms / MINUTE_MS;
        let known = self.offenders.of(who);
        known.turn(minute);
        known.untold += 1;
        let so_far = known.counted + known.untold;
        // The refusal that begins a block is told at once, so that the block is everywhere.
        let begins_block = self.backoff.hard_after > 0 && so_far >= self.backoff.hard_after;
        if from_memory && known.counted > 0 && !begins_block {
            return so_far;
        }
        let told = i64::try_from(known.untold).unwrap_or(i64::MAX);
        let name = Self::refusals_name(who, minute);
        let counted = match ask.kv.increment(&name, told).await {
            Ok(counted) => counted,
            Err(_) => {
                // Told or not: counting it twice would punish the caller for the store.
                self.tally.store_failures.back_off += 1;
                self.refusals.suspect(name);
                let known = self.offenders.of(who);
                known.untold = 0;
                return known.counted + 1;
            }
        };
        let known = self.offenders.of(who);
        known.untold = 0;
        known.counted = u64::try_from(counted).unwrap_or(0);
        let counted_now = known.counted;
        if let Some(until_ms) = backoff::blocked_until_ms(&self.backoff, minute, counted_now) {
            known.blocked_until_ms = until_ms;
        }
        if counted == told && !known.registered {
            known.registered = true;
            self.tally.store_failures.registrations += self.refusals.add(ask, name).await;
        }
        counted_now
    }
}

fn store_refusal(rule: &Rule, error: &KvError) -> Refusal {
    // The store's words are for the operator; a caller could make nothing of them.
    let _ = error;
    Refusal {
        kind: RefusalKind::StoreFailed,
        limit: Some(rule.limit.name.clone()),
        unit: Some(rule.limit.unit),
        retry_after_s: RETRY_STORE_S,
        message: format!(
            "limit `{}` cannot be checked at the moment; try again in {RETRY_STORE_S} s",
            rule.limit.name
        ),
        statuses: Vec::new(),
    }
}

fn blocked_refusal(wait_ms: u64) -> Refusal {
    let retry_after_s = wait_ms.div_ceil(1000).max(1);
    Refusal {
        kind: RefusalKind::BackOff,
        limit: None,
        unit: None,
        retry_after_s,
        message: format!(
            "too many calls were refused; every call is refused for another {retry_after_s} s"
        ),
        statuses: Vec::new(),
    }
}
