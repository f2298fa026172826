//! Operations under faults: workers, their hosts, callers that cancel, poll and delete, and acceptors that retry, over a store
//! that loses and delays. Callers die, an interrupted run goes on and sends its end nevertheless, and clocks differ.
//!
//! Every schedule follows from its seed. `OPERATIONS_SEED=n` replays one, `OPERATIONS_SCHEDULES=n` runs more.

use crate::operations_common;

use operations_common::*;
use penstock_core::OperationId;
use penstock_policy::operations::words::{
    Abandoned, Claim, Operation, OperationState, Renewal, Run, Submission,
};
use penstock_policy::operations::{Acceptance, Candidates, Operations, OperationsSettings};
use penstock_testkit::sim::Entry;
use penstock_testkit::{Faults, Random, Sim, for_seeds};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Schedules of a plain run: seconds without optimization.
const SCHEDULES: u64 = 200;

/// The part of an end that no reader may see change.
type Observed = (OperationState, String, String, u32, Option<u64>, Vec<u8>);

#[derive(Default)]
struct Facts {
    /// The end that a reader saw, or that `complete` said counts.
    observed: Option<Observed>,
    /// The result of the run whose `complete` returned true.
    counted: Option<(OperationState, Vec<u8>)>,
    /// Results that runs tried to store, by epoch.
    results: BTreeMap<u32, Vec<(OperationState, Vec<u8>)>>,
    /// Results of runs whose `complete` returned false.
    lost: Vec<Vec<u8>>,
    /// The time of the worker's request and that of the grant, for each run that began.
    granted: Vec<(u64, u64)>,
    receipts: u32,
    delete_asked: bool,
    /// A worker said that all earlier processes are dead. Then slow workers race.
    declared_dead: bool,
}

#[derive(Default)]
struct Log {
    operations: BTreeMap<OperationId, Facts>,
    /// Ids by the call that made them.
    calls: BTreeMap<String, OperationId>,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    accepted: u64,
    runs: u64,
    counted: u64,
    lost: u64,
    cancelled: u64,
    receipts: u64,
    abandoned: u64,
}

type Shared<T> = Rc<RefCell<T>>;

#[derive(Clone, Debug)]
struct Plan {
    settings: OperationsSettings,
    faults: Faults,
    calls: u64,
    workers: u64,
    /// Clocks differ by at most this, both ways.
    skew_ms: u64,
    declares_dead: bool,
}

fn plan(random: &mut Random) -> Plan {
    let faulty = random.permille(750);
    let mut chance = |most: u64| if faulty { random.below(most) } else { 0 };
    let faults = Faults {
        lost_request: chance(60),
        lost_reply: chance(60),
        long_delay: chance(150),
        long_ms: 2_500,
        crash: chance(40),
    };
    Plan {
        settings: OperationsSettings {
            result_ttl_s: 86_400,
            max_queue_time_s: if random.permille(200) { 2 } else { 3_600 },
            lease_ms: 1_000,
            max_attempts: 1 + random.below(3) as u32,
            ..OperationsSettings::default()
        },
        faults,
        calls: 1 + random.below(2),
        workers: 1 + random.below(4),
        skew_ms: if random.permille(500) {
            random.below(400)
        } else {
            0
        },
        declares_dead: random.permille(200),
    }
}

/// A participant of the simulation, with a clock and randomness of its own.
struct Party {
    sim: Sim,
    plan: Rc<Plan>,
    log: Shared<Log>,
    skew_ms: i64,
    random: Random,
    policy: Operations,
}

impl Party {
    fn new(sim: &Sim, plan: &Rc<Plan>, log: &Shared<Log>) -> Self {
        let mut random = Random::new(sim.below(u64::MAX));
        let skew_ms = random.below(2 * plan.skew_ms + 1) as i64 - plan.skew_ms as i64;
        Self {
            sim: sim.clone(),
            plan: plan.clone(),
            log: log.clone(),
            skew_ms,
            random,
            policy: Operations::new(plan.settings.clone()),
        }
    }

    fn now(&self) -> u64 {
        self.sim.now_ms().checked_add_signed(self.skew_ms).unwrap()
    }

    fn facts<T>(&self, id: &OperationId, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(
            self.log
                .borrow_mut()
                .operations
                .entry(id.clone())
                .or_default(),
        )
    }

    /// The end that was observed before a read begins.
    fn before(&self, id: &OperationId) -> Option<Observed> {
        self.facts(id, |facts| facts.observed.clone())
    }

    /// Checks the view of a reader against the end that was observed `before` it began.
    fn saw(&self, id: &OperationId, before: &Option<Observed>, found: &Operation) {
        if !found.state.is_final() {
            assert!(
                before.is_none(),
                "{id} was seen as ended, {before:?}, and later as {:?}",
                found.state
            );
            return;
        }
        let end = found.end.as_ref().expect("a final state has an end");
        assert_eq!(end.state, found.state);
        self.facts(id, |facts| {
            let body = match &end.body {
                Some(body) => body.clone(),
                // This reader did not ask for it.
                None => match &facts.observed {
                    Some(observed) => observed.5.clone(),
                    None => return,
                },
            };
            let seen = (
                found.state,
                end.code.clone(),
                end.message.clone(),
                found.attempts,
                found.ended_ms,
                body,
            );
            match &facts.observed {
                Some(earlier) => assert_eq!(*earlier, seen, "{id} has two ends"),
                None => {
                    if let Some(counted) = &facts.counted {
                        assert_eq!((seen.0, &seen.5), (counted.0, &counted.1), "{id}");
                    }
                    if seen.0 == OperationState::Succeeded {
                        let of_a_run = facts
                            .results
                            .values()
                            .flatten()
                            .any(|result| (result.0, &result.1) == (seen.0, &seen.5));
                        assert!(of_a_run, "{id} has a result that no run had");
                    }
                    facts.observed = Some(seen);
                }
            }
        });
    }

    fn receipt(&self, id: &OperationId, receipt: &str) {
        if receipt.is_empty() {
            return;
        }
        let lease_ms = self.plan.settings.lease_ms;
        let margin_ms = 2 * self.plan.skew_ms;
        self.facts(id, |facts| {
            facts.receipts += 1;
            assert_eq!(facts.receipts, 1, "{id}: the receipt was returned twice");
            assert!(
                facts.counted.is_none(),
                "{id}: the receipt of a run that counts was returned"
            );
            for (asked_ms, granted_ms) in &facts.granted {
                // A worker that needs longer than its lease to begin counts as dead.
                let slow = granted_ms - asked_ms + margin_ms >= lease_ms;
                assert!(
                    slow || facts.declared_dead,
                    "{id}: the receipt was returned, and a run had begun"
                );
            }
        });
    }

    async fn accept(mut self, call: String) {
        let call_text = call.clone();
        for _ in 0..8 {
            let made = Submission {
                retry_of: Some(call_text.clone()),
                ..submission("t", b"body")
            };
            let (now, random) = (self.now(), self.random.bits().into());
            let kv = self.sim.kv();
            match self.policy.accept(&kv, made, now, random).await {
                Ok(Acceptance::Accepted(accepted)) => {
                    let id = accepted.operation.id;
                    let mut log = self.log.borrow_mut();
                    log.totals.accepted += 1;
                    log.operations.entry(id.clone()).or_default();
                    let known = log.calls.entry(call).or_insert(id.clone()).clone();
                    let deleted =
                        (log.operations.get(&known)).is_some_and(|facts| facts.delete_asked);
                    assert!(
                        known == id || deleted,
                        "retries of one call are one operation, but {known} and {id} are two"
                    );
                    return;
                }
                Ok(Acceptance::Full(message)) => panic!("{message}"),
                Err(_) => self.sim.sleep(self.random.below(300)).await,
            }
        }
    }

    fn ids(&self) -> Vec<OperationId> {
        self.log.borrow().calls.values().cloned().collect()
    }

    async fn poll(mut self, rounds: u64) {
        for _ in 0..rounds {
            for id in self.ids() {
                let (kv, now, before) = (self.sim.kv(), self.now(), self.before(&id));
                let with_body = self.random.permille(800);
                match self.policy.get(&kv, &id, Some("t"), with_body, now).await {
                    Ok(Some(found)) => self.saw(&id, &before, &found),
                    Ok(None) => {
                        let deleted = self.facts(&id, |facts| facts.delete_asked);
                        assert!(deleted, "{id} is lost");
                    }
                    Err(_) => {}
                }
            }
            self.sim.sleep(self.random.below(700)).await;
        }
    }

    async fn cancel(mut self) {
        for id in self.ids() {
            if self.random.permille(500) {
                continue;
            }
            let (kv, now, before) = (self.sim.kv(), self.now(), self.before(&id));
            if let Ok(Some(cancelled)) = self.policy.cancel(&kv, &id, "t", now).await {
                self.receipt(&id, &cancelled.receipt);
                self.saw(&id, &before, &cancelled.operation);
                let mut log = self.log.borrow_mut();
                log.totals.cancelled +=
                    u64::from(cancelled.operation.state == OperationState::Cancelled);
                log.totals.receipts += u64::from(!cancelled.receipt.is_empty());
            }
        }
    }

    async fn delete(self) {
        for id in self.ids() {
            let (kv, now, before) = (self.sim.kv(), self.now(), self.before(&id));
            self.facts(&id, |facts| facts.delete_asked = true);
            if let Ok(Some(found)) = self.policy.delete(&kv, &id, "t", now).await {
                self.saw(&id, &before, &found);
            }
        }
    }

    /// Works as a worker: looks at all operations, runs those that it may, and supervises the runs.
    async fn work(mut self, number: u64, until_ms: u64) {
        let mut runs = 0;
        while self.sim.now_ms() < until_ms {
            for id in self.ids() {
                runs += 1;
                let holder = format!("w{number}.{runs}");
                let (kv, now, asked_ms) = (self.sim.kv(), self.now(), self.sim.now_ms());
                let dead = self.plan.declares_dead && runs == 1;
                let dead_before_ms = if dead { now } else { 0 };
                if dead {
                    self.facts(&id, |facts| facts.declared_dead = true);
                }
                let claim = self.policy.claim(&kv, &id, &holder, dead_before_ms, now);
                match claim.await {
                    Ok(Claim::Granted(run)) => {
                        let granted_ms = self.sim.now_ms();
                        self.facts(&id, |facts| facts.granted.push((asked_ms, granted_ms)));
                        self.log.borrow_mut().totals.runs += 1;
                        self.granted(&id, &holder, *run).await;
                    }
                    Ok(Claim::Ended(receipt)) => self.receipt(&id, &receipt),
                    Ok(Claim::Gone) => {
                        let deleted = self.facts(&id, |facts| facts.delete_asked);
                        assert!(deleted, "{id} is lost");
                    }
                    Ok(Claim::Later(_)) | Err(_) => {}
                }
            }
            self.sim.sleep(self.random.below(600)).await;
        }
    }

    /// Starts the run as a caller of its own, which goes on when its host interrupts it, and supervises it.
    async fn granted(&mut self, id: &OperationId, holder: &str, run: Run) {
        assert_eq!(run.submission.body, b"body");
        assert!(run.attempt <= run.max_attempts, "{id}: too many attempts");
        let lasts_ms = match self.random.below(4) {
            0 => self.random.below(3_000),
            _ => self.random.below(500),
        };
        let done = Rc::new(RefCell::new(false));
        let runner = Self::new(&self.sim, &self.plan, &self.log);
        let running = runner.run(id.clone(), holder.to_owned(), run, lasts_ms, done.clone());
        self.sim.spawn(self.sim.now_ms(), running);
        let patience_ms = self.sim.now_ms() + self.random.below(4_000);
        let renews = !self.random.permille(300);
        loop {
            self.sim.sleep(300).await;
            if *done.borrow() {
                return;
            }
            let (kv, now) = (self.sim.kv(), self.now());
            let mut why = None;
            if renews {
                match self.policy.renew(&kv, id, holder, now).await {
                    Ok(Renewal::Renewed) | Err(_) => {}
                    Ok(Renewal::Cancelled) => why = Some(Abandoned::Cancelled),
                    Ok(Renewal::Lost) => return,
                }
            }
            if self.sim.now_ms() >= patience_ms {
                why = why.or(Some(match self.random.below(3) {
                    0 => Abandoned::TimedOut,
                    1 => Abandoned::Stopping,
                    _ => Abandoned::Crashed,
                }));
            }
            if let Some(why) = why {
                self.log.borrow_mut().totals.abandoned += 1;
                for _ in 0..3 {
                    let at = (self.now(), self.random.bits());
                    if (self.policy.abandon(&kv, id, holder, why, at).await).is_ok() {
                        break;
                    }
                }
                return;
            }
        }
    }

    async fn run(
        mut self,
        id: OperationId,
        holder: String,
        run: Run,
        lasts_ms: u64,
        done: Shared<bool>,
    ) {
        self.sim.sleep(lasts_ms).await;
        let kv = self.sim.kv();
        let of = (run.epoch, run.attempt);
        if run.attempt < run.max_attempts && self.random.permille(250) {
            let error = ("overloaded".to_owned(), "full".to_owned());
            let at = (self.now(), self.random.bits());
            let _ = self.policy.give_back(&kv, &id, of, error, at).await;
            *done.borrow_mut() = true;
            return;
        }
        let state = match self.random.permille(700) {
            true => OperationState::Succeeded,
            false => OperationState::Failed,
        };
        let body = format!("result of {holder}").into_bytes();
        self.facts(&id, |facts| {
            let results = facts.results.entry(run.epoch).or_default();
            results.push((state, body.clone()));
        });
        let counts = self
            .policy
            .complete(&kv, &id, of, end(state, &body), self.now())
            .await;
        if counts == Ok(false) {
            self.facts(&id, |facts| facts.lost.push(body.clone()));
        }
        if let Ok(counts) = counts {
            self.log.borrow_mut().totals.counted += u64::from(counts);
            self.log.borrow_mut().totals.lost += u64::from(!counts);
        }
        if counts == Ok(true) && state == OperationState::Succeeded {
            self.facts(&id, |facts| {
                assert!(facts.counted.is_none(), "{id}: two runs count");
                assert_eq!(
                    facts.receipts, 0,
                    "{id}: a run counts, and its receipt was returned"
                );
                facts.counted = Some((state, body.clone()));
                if let Some(observed) = &facts.observed {
                    assert_eq!((observed.0, &observed.5), (state, &body), "{id}");
                }
            });
            let (now, before) = (self.now(), self.before(&id));
            if let Ok(found) = self.policy.get(&kv, &id, Some("t"), true, now).await {
                match found {
                    Some(found) => {
                        assert!(found.state.is_final(), "{id}: it counts and has not ended");
                        self.saw(&id, &before, &found);
                    }
                    None => assert!(self.facts(&id, |facts| facts.delete_asked), "{id} is lost"),
                }
            }
        }
        *done.borrow_mut() = true;
    }

    /// With live workers and a store that answers, each operation ends. A host that starts finds those that have not ended.
    async fn finish(self, candidates: Vec<OperationId>) {
        for id in self.ids() {
            let (kv, now) = (self.sim.kv(), self.now());
            let found = self.policy.get(&kv, &id, Some("t"), false, now).await;
            if let Some(found) = found.expect("the store answers") {
                let known = found.state.is_final() || candidates.contains(&id);
                assert!(
                    known,
                    "{id} is {:?}, and no host would find it",
                    found.state
                );
            }
            let mut asked = 0;
            loop {
                asked += 1;
                assert!(asked < 200, "{id} does not end");
                let (kv, now) = (self.sim.kv(), self.now());
                let holder = format!("last {asked}");
                let claim = self.policy.claim(&kv, &id, &holder, 0, now);
                match claim.await.expect("the store answers") {
                    Claim::Granted(run) => {
                        let body = format!("last {asked}").into_bytes();
                        self.facts(&id, |facts| {
                            let results = facts.results.entry(run.epoch).or_default();
                            results.push((OperationState::Succeeded, body.clone()));
                        });
                        let of = (run.epoch, run.attempt);
                        let now = self.now();
                        let ended = self.policy.complete(&kv, &id, of, success(&body), now);
                        assert!(ended.await.expect("the store answers"));
                    }
                    Claim::Ended(receipt) => {
                        self.receipt(&id, &receipt);
                        break;
                    }
                    Claim::Gone => break,
                    Claim::Later(at_ms) => {
                        let wait_ms = at_ms.saturating_sub(self.now()).clamp(1, 61_000);
                        self.sim.sleep(wait_ms).await;
                    }
                }
            }
            let (kv, now, before) = (self.sim.kv(), self.now(), self.before(&id));
            let found = self.policy.get(&kv, &id, Some("t"), true, now).await;
            match found.expect("the store answers") {
                Some(found) => {
                    assert!(found.state.is_final(), "{id}: {:?}", found.state);
                    self.saw(&id, &before, &found);
                }
                None => assert!(self.facts(&id, |facts| facts.delete_asked), "{id} is lost"),
            }
        }
    }

    /// Calls of another tenant, after all that was stored has expired, delete it.
    async fn sweep(mut self) {
        let kv = self.sim.kv();
        for n in 0..600 {
            let (now, random) = (self.now(), n % 16);
            let made = submission("other", b"");
            // Instances that have just started use each shard.
            self.policy = Operations::new(self.plan.settings.clone());
            self.policy
                .accept(&kv, made, now, random)
                .await
                .expect("the store answers");
        }
    }
}

fn schedule(seed: u64, totals: &mut Totals) {
    let mut random = Random::new(seed);
    let plan = Rc::new(plan(&mut random));
    let sim = Sim::new(random.bits(), NOW_MS, plan.faults);
    let log: Shared<Log> = Shared::default();
    let party = || Party::new(&sim, &plan, &log);
    let end_ms = NOW_MS + 12_000;
    for n in 0..plan.calls {
        let at_ms = NOW_MS + random.below(2_000);
        sim.spawn(at_ms, party().accept(format!("call {n}")));
        if random.permille(300) {
            sim.spawn(at_ms + 4_000, party().accept(format!("call {n}")));
        }
    }
    // Without workers for some time, more operations are cancelled before they run.
    let idle_ms = if random.permille(300) { 6_000 } else { 0 };
    for n in 0..plan.workers {
        let at_ms = NOW_MS + idle_ms + random.below(2_000);
        sim.spawn(at_ms, party().work(n, end_ms));
        // A host that starts again after a crash.
        sim.spawn(
            NOW_MS + idle_ms + 4_000 + random.below(2_000),
            party().work(100 + n, end_ms),
        );
    }
    for _ in 0..2 {
        sim.spawn(NOW_MS + random.below(1_000), party().poll(15));
    }
    if random.permille(600) {
        sim.spawn(NOW_MS + random.below(8_000), party().cancel());
    }
    if random.permille(300) {
        sim.spawn(NOW_MS + random.below(12_000), party().delete());
    }
    sim.run(|_| {});
    sim.set_faults(Faults::NONE);
    let mut candidates = Candidates::default();
    for name in sim.entries().keys() {
        candidates.take(name);
    }
    sim.spawn(sim.now_ms() + 10_000, party().finish(candidates.ids()));
    sim.run(|_| {});
    let nothing_fails = plan.faults.lost_request
        + plan.faults.lost_reply
        + plan.faults.long_delay
        + plan.faults.crash
        == 0;
    if seed.is_multiple_of(8) {
        sim.spawn(sim.now_ms() + 8 * 86_400_000, party().sweep());
        sim.run(|_| {});
        let old: Vec<String> = log
            .borrow()
            .calls
            .values()
            .map(|id| id.short().to_owned())
            .collect();
        let hour = NOW_MS / HOUR_MS;
        let mut used = 0;
        for (name, entry) in sim.entries() {
            let left = old.iter().any(|id| name.contains(id.as_str()))
                || name.starts_with(&format!("ol/{hour}/"))
                // An instance that dies before it writes into the index leaves its tenant's counter of that hour.
                || (nothing_fails && name.starts_with(&format!("on/{hour}/")))
                || name.starts_with(&format!("o/{hour}/"));
            assert!(!left, "{name} was not swept");
            if let (true, Entry::Counter(sum)) = (name.starts_with("ou/"), &entry)
                && !name.contains(&owner("other"))
            {
                used += sum;
            }
        }
        if nothing_fails {
            // The end of a run that was given back, and that ends nevertheless before the next one begins, may be adopted by
            // the next one. Its bytes are not counted.
            let uncounted = |facts: &Facts| match &facts.observed {
                Some(observed) if facts.lost.contains(&observed.5) => observed.5.len() as i64,
                _ => 0,
            };
            let uncounted: i64 = log.borrow().operations.values().map(uncounted).sum();
            assert_eq!(
                used, -uncounted,
                "the tenant has nothing and is charged for it"
            );
        }
    }
    let log = log.borrow().totals;
    totals.accepted += log.accepted;
    totals.runs += log.runs;
    totals.counted += log.counted;
    totals.lost += log.lost;
    totals.cancelled += log.cancelled;
    totals.receipts += log.receipts;
    totals.abandoned += log.abandoned;
}

fn owner(tenant: &str) -> String {
    blake3::hash(tenant.as_bytes()).to_hex()[..32].to_owned()
}

#[test]
fn an_operation_ends_exactly_once_whatever_fails() {
    let mut totals = Totals::default();
    if !for_seeds("OPERATIONS", SCHEDULES, |seed| schedule(seed, &mut totals)) {
        return;
    }
    println!("{totals:?}");
    assert!(
        totals.runs > 0 && totals.counted > 0 && totals.lost > 0,
        "{totals:?}"
    );
    assert!(
        totals.cancelled > 0 && totals.receipts > 0 && totals.abandoned > 0,
        "{totals:?}"
    );
}
