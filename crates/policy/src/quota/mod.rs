//! Decides how much each caller may use: limits on requests, items, bytes, compute time and concurrent
//! calls, and the headers that report them.
//!
//! A call meets quota four times:
//!
//! 1. [`Quota::admit`], before its body is read: charges requests and bytes, takes a place among the
//!    running calls, and checks that compute time is left;
//! 2. [`Quota::charge_items`], once the body is validated and its items are counted;
//! 3. [`Quota::refund_items`], when the model provably did not run or the answer is a replay;
//! 4. [`Quota::settle`], at the end: gives the place back and charges compute time.
//!
//! All limits of a call are decided together. When one refuses, the charges of the others are refunded, so a
//! refused call uses no units. Limits are charged in the order of the document. A charge that is refunded
//! later may refuse other calls in the meantime; it never admits more. A call that is never settled, because
//! its instance died, stays charged until its windows pass and its lease ends. Then less is admitted, never
//! more.
//!
//! Each algorithm states its bounds: [`window`] (fixed, sliding, calendar), [`gcra`] (token and leaky
//! bucket), [`concurrency`]. In addition:
//!
//! * *Compute time* is known only afterwards. Calls that run when a window is used up may exceed it, at most
//!   by the number of concurrent calls times the longest run.
//! * *Store failures*: while the store does not answer, an `open` limit admits every call and counts these
//!   calls; a `closed` limit refuses every call. A charge whose reply was lost stays made. A lost refund
//!   leaves its units used until the window passes.
//! * *Leases* (`lease_tokens`): units are counted before they are used, so no more is admitted. In a window,
//!   each instance may leave up to `lease_tokens` of a subject unused, and as many again each time it forgets
//!   a subject because it remembers [`memory::REMEMBERED`] others.
//! * *Compare-and-swap*: if the verdict on it cannot be stored (see [`swap`]), an instance may count apart
//!   from the others for a minute, and both admit the whole bucket.
//! * *Refusals from memory*: an instance repeats a refusal for up to [`rule::REFUSED_FROM_MEMORY_MS`] without
//!   reading the store. It notices refunds, and blocks that began on another instance, that late.
//!
//! [`words`] and [`service`] hold the types and the trait that the gate uses.
//!
//! Every new counter is registered for deletion. The store therefore holds at most the counters of three index
//! widths of each limit. A counter stays behind only when an instance dies between creating and registering
//! it.

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
pub use status::{QuotaRefusal, Status, StoreFailures, Tally};
pub use store::{CLOCK_SPREAD_MS, SETTLED_MS, StoreAccess};
pub use subject::CallAttributes;
pub use words::RefusalKind;

use backoff::{MINUTE_MS, Offender};
use limits::{Algorithm, OnStoreFailure, Unit};
use memory::Memory;
use penstock_core::{Kv, KvError};
use register::Register;
use rule::{Charged, Over, Passed, REFUSED_FROM_MEMORY_MS, Receipt, Rule};
use serde::{Deserialize, Serialize};
use std::fmt;
use swap::SwapCheck;

/// Most compute time charged for one call, in milliseconds: a day. Without this bound a wrong clock could use up
/// a quota for ever.
pub const MAX_COMPUTE_MS: u64 = 86_400_000;

/// Seconds for `Retry-After` while the store does not answer.
pub const RETRY_STORE_S: u64 = 1;

/// The cost of a call that is known before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Requests, 1 for a call.
    pub requests: u64,
    /// Size of the body in bytes.
    pub bytes: u64,
}

/// The charges of an admitted call. If it is dropped unsettled, it keeps its place until the lease ends.
#[must_use = "settle the admission; otherwise its place among running calls stays taken"]
#[derive(Debug)]
pub struct Admission {
    /// The status of each limit that was charged so far, in the order of the document within each stage.
    pub statuses: Vec<Status>,
    /// Milliseconds the call has to wait before it goes on.
    pub wait_ms: u64,
    held: Vec<ChargedLimit>,
    /// The indices of the limits that apply, each with the call's subject.
    applies: Vec<(usize, u128)>,
    accountable: u128,
    /// Whether the second stage refused it, and all charges were refunded.
    over: bool,
}

/// The charges of a call that runs later. Limits are named, because their order may change in the meantime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferred {
    items: Vec<(String, Receipt)>,
    /// Names of limits with their subjects in decimal: JSON has no numbers of 128 bits.
    compute: Vec<(String, String)>,
}

impl Deferred {
    /// The charges as a text; empty if there are none.
    pub fn to_text(&self) -> String {
        if self.items.is_empty() && self.compute.is_empty() {
            return String::new();
        }
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses the text of [`Deferred::to_text`]. Other texts are no charges.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

#[derive(Debug)]
struct ChargedLimit {
    rule: usize,
    charged: Charged,
    receipt: Receipt,
}

/// The limit that refuses a call, with its standing.
#[derive(Clone, Copy, Debug)]
struct RefusingLimit {
    rule: usize,
    cost: u64,
    sound: bool,
    over: Over,
}

/// A limit that uses another algorithm than the document configures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The name of the limit in the policy.
    pub limit: String,
    /// The algorithm that the document configures.
    pub wanted: Algorithm,
    /// The algorithm that counts instead.
    pub used: Algorithm,
    /// The reason, for the operator.
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

/// The rule of a limit. A limit of the same name and another unit counts other things.
fn named<'a>(rules: &'a mut [Rule], name: &str, unit: Unit) -> Option<&'a mut Rule> {
    (rules.iter_mut()).find(|rule| rule.limit.name == name && rule.limit.unit == unit)
}

/// The limits of a policy, with the memory of one instance.
#[derive(Debug)]
pub struct Quota {
    rules: Vec<Rule>,
    backoff: Backoff,
    offenders: Memory<Offender>,
    refusals: Register,
    swap: Option<KnownSwapCheck>,
    tally: Tally,
}

#[derive(Clone, Debug)]
struct KnownSwapCheck {
    verdict: SwapCheck,
    until_ms: u64,
}

impl Quota {
    /// Opens a document of limits. Errors with its faults, as [`QuotaDocument::faults`] lists them.
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
            // No limit's name contains a dot, so the prefix cannot collide.
            refusals: Register::new("q/.refused".to_owned(), 2 * MINUTE_MS),
            swap: None,
            tally: Tally::default(),
        })
    }

    /// Sets the verdict on the store's compare-and-swap, so that it is not tried.
    pub fn assume_swap(&mut self, verdict: SwapCheck) {
        self.swap = Some(KnownSwapCheck {
            verdict,
            until_ms: u64::MAX,
        });
    }

    /// Tests whether the store's compare-and-swap is sound, if a limit needs it and it is not known yet. The first
    /// use does the same; a host calls this at start, to report [`Quota::fallbacks`].
    pub async fn probe_swap<K: Kv>(&mut self, store: StoreAccess<'_, K>) -> Result<(), KvError> {
        let known = matches!(&self.swap, Some(known) if store.now_ms < known.until_ms);
        if known || !self.rules.iter().any(Rule::wants_swap) {
            return Ok(());
        }
        let (verdict, written) = swap::verdict(store.kv, store.random).await?;
        let until_ms = if written {
            u64::MAX
        } else {
            store.now_ms + swap::UNWRITTEN_MS
        };
        self.swap = Some(KnownSwapCheck { verdict, until_ms });
        Ok(())
    }

    /// The limits that use another algorithm than the document configures. They are known after
    /// [`Quota::probe_swap`], or after a call to which such a limit applies.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        let Some(KnownSwapCheck {
            verdict: SwapCheck::Unsound(reason),
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

    /// Counts of admitted, refused and failed calls so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts of failed store operations so far.
    pub fn store_failures(&self) -> StoreFailures {
        self.tally.store_failures
    }

    /// Decides whether a call may go on: charges requests and bytes, takes a place among running calls, and checks
    /// that compute time is left.
    pub async fn admit<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        call: &CallAttributes<'_>,
        cost: Cost,
    ) -> Result<Admission, QuotaRefusal> {
        let accountable = subject::accountable(call);
        let cost_of = |unit| match unit {
            Unit::Requests => Some(cost.requests),
            Unit::Bytes => Some(cost.bytes),
            // The cost is not known yet, so only check that some compute time is left.
            Unit::ComputeMs => Some(0),
            Unit::Items => None,
        };
        let applies = self.rules.iter().enumerate();
        let applies: Vec<(usize, u128)> = applies
            .filter(|(_, rule)| subject::applies(&rule.limit, call))
            .map(|(at, rule)| (at, subject::subject(&rule.family, rule.per(), call)))
            .collect();
        if let Some(until_ms) = self.blocked(store, accountable).await {
            self.tally.backed_off += 1;
            // A limit may have announced a longer wait before the block began; repeat that one.
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
            return Err(blocked_refusal(until_ms.saturating_sub(store.now_ms)));
        }
        let mut admission = Admission {
            statuses: Vec::new(),
            wait_ms: 0,
            held: Vec::new(),
            applies,
            accountable,
            over: false,
        };
        match self.charge_all(store, &mut admission, cost_of).await {
            Ok(()) => {
                self.tally.admitted += 1;
                Ok(admission)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Charges the items of a call. A refusal refunds all earlier charges of the call and ends the admission;
    /// settling it then does nothing.
    pub async fn charge_items<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        admission: &mut Admission,
        items: u64,
    ) -> Result<(), QuotaRefusal> {
        let charged = self
            .charge_all(store, admission, |unit| {
                (unit == Unit::Items).then_some(items)
            })
            .await;
        if charged.is_err() {
            self.tally.admitted = self.tally.admitted.saturating_sub(1);
        }
        charged
    }

    /// Refunds the items of a call for which the model did not run.
    pub async fn refund_items<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        admission: &mut Admission,
    ) {
        let mut kept = Vec::with_capacity(admission.held.len());
        for held in std::mem::take(&mut admission.held) {
            let rule = &mut self.rules[held.rule];
            if rule.limit.unit != Unit::Items {
                kept.push(held);
                continue;
            }
            rule.refund(store, &held.receipt, &mut self.tally.store_failures)
                .await;
            rule.restate(&mut admission.statuses, held.charged, store.now_ms);
        }
        admission.held = kept;
    }

    /// The charges of a call that runs later, perhaps in another process: those on items, which are returned if it never runs,
    /// and the limits on its compute time.
    pub fn defer(&self, admission: &Admission) -> Deferred {
        let name = |rule: usize| self.rules[rule].limit.name.clone();
        let is = |rule: usize, unit: Unit| self.rules[rule].limit.unit == unit;
        Deferred {
            items: (admission.held.iter())
                .filter(|held| is(held.rule, Unit::Items))
                .map(|held| (name(held.rule), held.receipt.clone()))
                .collect(),
            compute: (admission.applies.iter())
                .filter(|(rule, _)| is(*rule, Unit::ComputeMs))
                .map(|(rule, subject)| (name(*rule), subject.to_string()))
                .collect(),
        }
    }

    /// Ends a call whose charges were deferred: returns its items if it never ran, or charges its compute time. Limits that the
    /// policy no longer has, or that count another unit now, are left out.
    pub async fn settle_deferred<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        deferred: &Deferred,
        ran: Option<u64>,
    ) {
        let Self { rules, tally, .. } = self;
        match ran {
            None => {
                for (name, receipt) in &deferred.items {
                    if let Some(rule) = named(rules, name, Unit::Items) {
                        rule.refund(store, receipt, &mut tally.store_failures).await;
                    }
                }
            }
            Some(0) => {}
            Some(compute_ms) => {
                let compute_ms = compute_ms.min(MAX_COMPUTE_MS);
                for (name, subject) in &deferred.compute {
                    let (Some(rule), Ok(subject)) =
                        (named(rules, name, Unit::ComputeMs), subject.parse())
                    else {
                        continue;
                    };
                    let failures = &mut tally.store_failures;
                    if rule
                        .settle(store, subject, compute_ms, failures)
                        .await
                        .is_err()
                    {
                        tally.store_failures.settlements += 1;
                    }
                }
            }
        }
    }

    /// Ends a call: frees its place among running calls and charges its compute time. `compute_ms` is 0 when no model ran.
    pub async fn settle<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        mut admission: Admission,
        compute_ms: u64,
    ) {
        if admission.over {
            return;
        }
        for held in std::mem::take(&mut admission.held) {
            if matches!(held.receipt, Receipt::Place { .. }) {
                self.rules[held.rule]
                    .refund(store, &held.receipt, &mut self.tally.store_failures)
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
                    .settle(store, subject, compute_ms, &mut self.tally.store_failures)
                    .await
                    .is_err()
            {
                self.tally.store_failures.settlements += 1;
            }
        }
    }

    /// Charges every limit whose unit has a cost: all of them or none.
    async fn charge_all<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        admission: &mut Admission,
        cost_of: impl Fn(Unit) -> Option<u64>,
    ) -> Result<(), QuotaRefusal> {
        for at in 0..admission.applies.len() {
            let (rule_at, subject) = admission.applies[at];
            let rule = &self.rules[rule_at];
            let Some(cost) = cost_of(rule.limit.unit) else {
                continue;
            };
            // A call without a body or items has nothing to count.
            if cost == 0 && rule.limit.unit != Unit::ComputeMs {
                continue;
            }
            let sound = self.sound_for(store, rule_at).await;
            let rule = &mut self.rules[rule_at];
            let failures = &mut self.tally.store_failures;
            let answer = match sound {
                Ok(sound) => rule
                    .charge(store, subject, cost, sound, failures)
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
                    return Err(self.undo(store, admission, refusal).await);
                }
            };
            let over = answer.outcome.is_err();
            let status = (answer.standing).map(|s| rule.status(s, over, sound, store.now_ms));
            match answer.outcome {
                Ok(Passed { receipt, wait_ms }) => {
                    admission.statuses.extend(status);
                    admission.held.extend(receipt.map(|receipt| ChargedLimit {
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
                        self.longest(store, admission, later, first, &cost_of).await;
                    if let Some(status) = status {
                        statuses.insert(0, status);
                    }
                    self.tally.refused += 1;
                    self.tally.refused_from_memory += u64::from(over.from_memory);
                    let mut refusal = self
                        .limit_refusal(store, admission.accountable, refused, over.from_memory)
                        .await;
                    refusal.statuses = statuses;
                    return Err(self.undo(store, admission, refusal).await);
                }
            }
        }
        Ok(())
    }

    /// The limit that makes a refused call wait longest: the one that refused, or a later one. If a client waited
    /// only for the first, the next limit would refuse it. Also returns the statuses of the later limits. A store
    /// failure here is ignored: the retry will meet it.
    async fn longest<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
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
            let Ok(sound) = self.sound_for(store, rule_at).await else {
                continue;
            };
            let rule = &mut self.rules[rule_at];
            let too_large = cost > rule.capacity(sound, store.now_ms);
            let Ok(standing) = rule.look(store, subject, cost, sound).await else {
                continue;
            };
            let retry_ms = standing.map_or(0, |s| s.retry_ms);
            let over = too_large || retry_ms > 0;
            statuses.extend(standing.map(|s| rule.status(s, over, sound, store.now_ms)));
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

    /// Counts a refusal and builds it. The announced wait never ends before a wait that the same caller was told
    /// for the same limit earlier.
    async fn limit_refusal<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        accountable: u128,
        refused: RefusingLimit,
        from_memory: bool,
    ) -> QuotaRefusal {
        let refusals = self.count_refusal(store, accountable, from_memory).await;
        let RefusingLimit {
            rule,
            cost,
            sound,
            over,
        } = refused;
        let words = self.rules[rule].words(sound, store.now_ms);
        let limit = &self.rules[rule].limit;
        let (name, unit) = (limit.name.clone(), limit.unit);
        let refusal = |kind, retry_after_s, message| QuotaRefusal {
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
        let known = self.offenders.of(accountable);
        // A block that this refusal starts may last longer than the limit's own wait.
        let until_ms = (store.now_ms.saturating_add(natural_s.saturating_mul(1000)))
            .max(known.blocked_until_ms)
            .max(known.told_until_ms(rule, cost));
        known.tell(rule, cost, until_ms, store.now_ms);
        let retry_after_s = until_ms.saturating_sub(store.now_ms).div_ceil(1000).max(1);
        let message =
            format!("limit `{name}` of {words} is used up; try again in {retry_after_s} s");
        refusal(RefusalKind::UsedUp, retry_after_s, message)
    }

    /// Returns whether compare-and-swap can be trusted; `true` for rules that do not need it.
    async fn sound_for<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        rule_at: usize,
    ) -> Result<bool, KvError> {
        if !self.rules[rule_at].wants_swap() {
            return Ok(true);
        }
        self.probe_swap(store).await?;
        Ok(matches!(
            &self.swap,
            Some(KnownSwapCheck {
                verdict: SwapCheck::Sound,
                ..
            })
        ))
    }

    /// Refunds all charges of a refused call, and completes the statuses of the refusal.
    async fn undo<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        admission: &mut Admission,
        mut refusal: QuotaRefusal,
    ) -> QuotaRefusal {
        let mut statuses = std::mem::take(&mut admission.statuses);
        for held in std::mem::take(&mut admission.held) {
            let rule = &mut self.rules[held.rule];
            rule.refund(store, &held.receipt, &mut self.tally.store_failures)
                .await;
            rule.restate(&mut statuses, held.charged, store.now_ms);
        }
        statuses.append(&mut refusal.statuses);
        refusal.statuses = statuses;
        admission.applies.clear();
        admission.over = true;
        refusal
    }

    fn refusals_name(accountable: u128, minute: u64) -> String {
        format!("q/.refused/{accountable:032x}/{minute}")
    }

    /// The time until which all calls of a caller are refused, if it is blocked.
    async fn blocked<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        accountable: u128,
    ) -> Option<u64> {
        if self.backoff.hard_after == 0 {
            return None;
        }
        let minute = store.now_ms / MINUTE_MS;
        let known = self.offenders.of(accountable);
        known.turn(minute);
        if store.now_ms < known.blocked_until_ms {
            return Some(known.blocked_until_ms);
        }
        if store.now_ms < known.clear_until_ms {
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
            match store::read_counter(store.kv, &Self::refusals_name(accountable, minute)).await {
                Ok(count) => {
                    let count = u64::try_from(count).unwrap_or(0);
                    let until = backoff::blocked_until_ms(&self.backoff, minute, count);
                    if let Some(until_ms) = until.filter(|&until| store.now_ms < until) {
                        self.offenders.of(accountable).blocked_until_ms = until_ms;
                        return Some(until_ms);
                    }
                }
                Err(_) => self.tally.store_failures.back_off += 1,
            }
        }
        let known = self.offenders.of(accountable);
        known.clear_until_ms = store.now_ms + REFUSED_FROM_MEMORY_MS;
        // After this delay no refusal of the minute before arrives any more.
        if store.now_ms % MINUTE_MS >= SETTLED_MS {
            known.clear_before = true;
        }
        None
    }

    /// Counts a refusal for the back-off. Returns the known number of refusals of the caller in this minute. A refusal from
    /// memory is
    /// written to the store together with the next one that is not.
    async fn count_refusal<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        accountable: u128,
        from_memory: bool,
    ) -> u64 {
        if !self.backoff.soft && self.backoff.hard_after == 0 {
            return 1;
        }
        let minute = store.now_ms / MINUTE_MS;
        let known = self.offenders.of(accountable);
        known.turn(minute);
        known.untold += 1;
        let so_far = known.counted + known.untold;
        // Write the refusal that begins a block at once, so that all instances see the block.
        let begins_block = self.backoff.hard_after > 0 && so_far >= self.backoff.hard_after;
        if from_memory && known.counted > 0 && !begins_block {
            return so_far;
        }
        let told = i64::try_from(known.untold).unwrap_or(i64::MAX);
        let name = Self::refusals_name(accountable, minute);
        let counted = match store.kv.increment(&name, told).await {
            Ok(counted) => counted,
            Err(_) => {
                // The write may have arrived. Counting it again would punish the caller for the store's failure.
                self.tally.store_failures.back_off += 1;
                self.refusals.suspect(name);
                let known = self.offenders.of(accountable);
                known.untold = 0;
                return known.counted + 1;
            }
        };
        let known = self.offenders.of(accountable);
        known.untold = 0;
        known.counted = u64::try_from(counted).unwrap_or(0);
        let counted_now = known.counted;
        if let Some(until_ms) = backoff::blocked_until_ms(&self.backoff, minute, counted_now) {
            known.blocked_until_ms = until_ms;
        }
        if counted == told && !known.registered {
            known.registered = true;
            self.tally.store_failures.registrations += self.refusals.add(store, name).await;
        }
        counted_now
    }
}

fn store_refusal(rule: &Rule, error: &KvError) -> QuotaRefusal {
    // The store's message is for the operator; a caller cannot act on it.
    let _ = error;
    QuotaRefusal {
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

fn blocked_refusal(wait_ms: u64) -> QuotaRefusal {
    let retry_after_s = wait_ms.div_ceil(1000).max(1);
    QuotaRefusal {
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
