//! Deliveries of webhooks under faults: several hosts that send, operations that end, are deleted or are announced again, over a
//! store that loses and delays. Hosts die between any two steps, clocks differ, and receivers fail as they like.
//!
//! Every schedule follows from its seed. `WEBHOOKS_SEED=n` replays one, `WEBHOOKS_SCHEDULES=n` runs more.

use crate::operations_common::{NOW_MS, end, submission};

use penstock_core::{Kv, KvError, OperationId};
use penstock_policy::operations::words::{Claim as RunClaim, OperationState, Submission};
use penstock_policy::operations::{Acceptance, Announced, Operations, OperationsSettings};
use penstock_policy::webhooks::delivery::{Delivery, DeliveryState, EventKind, LOST_MS, Outcome};
use penstock_policy::webhooks::entries::{self, Candidates, Names};
use penstock_policy::webhooks::step::{Claim, EventOf, Facts, Step, Taken, decide, lose};
use penstock_policy::webhooks::target::Target;
use penstock_policy::webhooks::{TenantWebhooks, WebhooksSettings};
use penstock_testkit::{Faults, Random, Sim, for_seeds};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Schedules of a plain run: seconds without optimization.
const SCHEDULES: u64 = 200;

/// The requests about one operation that a receiver has seen.
#[derive(Default)]
struct Seen {
    payload: Option<Vec<u8>>,
    /// The numbers of the attempts.
    attempts: BTreeSet<u32>,
    /// Whether it took the message.
    taken: bool,
    /// Requests to send the message again.
    agains: u64,
    /// Those of them that were not answered.
    unanswered: u64,
    deleted: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    sent: u64,
    delivered: u64,
    failed: u64,
    disabled: u64,
    skipped: u64,
    lost: u64,
    agains: u64,
}

#[derive(Default)]
struct Log {
    seen: BTreeMap<OperationId, Seen>,
    totals: Totals,
}

struct Plan {
    webhooks: WebhooksSettings,
    faults: Faults,
    hosts: u64,
    skew_ms: u64,
    /// The share of requests that a receiver fails, in thousandths.
    fails: u64,
}

fn plan(random: &mut Random) -> Plan {
    let faulty = random.permille(750);
    let mut chance = |most: u64| if faulty { random.below(most) } else { 0 };
    let faults = Faults {
        lost_request: chance(60),
        lost_reply: chance(60),
        long_delay: chance(100),
        long_ms: 2_500,
        crash: chance(40),
    };
    let events = match random.permille(200) {
        true => vec![EventKind::Failed],
        false => Vec::new(),
    };
    Plan {
        webhooks: WebhooksSettings {
            tenants: vec![TenantWebhooks {
                tenant: "t".to_owned(),
                url: Some("https://hooks.example/".to_owned()),
                events,
                secrets_file: "s".to_owned(),
                ..TenantWebhooks::default()
            }],
            ..WebhooksSettings::default()
        },
        faults,
        hosts: 1 + random.below(3),
        skew_ms: if random.permille(500) {
            random.below(400)
        } else {
            0
        },
        fails: [0, 300, 700, 1_000][random.below(4) as usize],
    }
}

/// Writes that end an attempt.
#[derive(Clone)]
struct Writes {
    before: Option<Delivery>,
    record: Delivery,
    mark: Option<String>,
}

/// A participant of the simulation, with a clock and randomness of its own.
struct Party {
    sim: Sim,
    plan: Rc<Plan>,
    log: Rc<RefCell<Log>>,
    skew_ms: i64,
    random: Random,
    operations: Operations,
    /// The claims of others that this host waits for.
    taken: BTreeMap<OperationId, Taken>,
    /// Writes that the store has not taken.
    unwritten: BTreeMap<OperationId, Writes>,
}

impl Party {
    fn new(sim: &Sim, plan: &Rc<Plan>, log: &Rc<RefCell<Log>>) -> Self {
        let mut random = Random::new(sim.below(u64::MAX));
        let skew_ms = random.below(2 * plan.skew_ms + 1) as i64 - plan.skew_ms as i64;
        Self {
            sim: sim.clone(),
            plan: plan.clone(),
            log: log.clone(),
            skew_ms,
            random,
            operations: Operations::new(OperationsSettings::default()),
            taken: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        }
    }

    fn now(&self) -> u64 {
        self.sim.now_ms().saturating_add_signed(self.skew_ms)
    }

    fn seen<T>(&self, id: &OperationId, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(self.log.borrow_mut().seen.entry(id.clone()).or_default())
    }

    fn ids(&self) -> Vec<OperationId> {
        self.log.borrow().seen.keys().cloned().collect()
    }

    /// Accepts a call, runs it, and stores its end.
    async fn call(mut self, number: u64) {
        let kv = self.sim.kv();
        let target = Target {
            tenant: "t".to_owned(),
            url: (number % 2 == 1).then(|| "https://other.example/".to_owned()),
        };
        let call = Submission {
            webhook: Some(target),
            ..submission("t", b"body")
        };
        let (now, random) = (self.now(), u128::from(self.random.bits()));
        let accepted = self.operations.accept(&kv, call, now, random).await;
        let Ok(Acceptance::Accepted(accepted)) = accepted else {
            return;
        };
        let id = accepted.operation.id;
        self.seen(&id, |_| ());
        self.sim.sleep(self.random.below(3_000)).await;
        for attempt in 0..40 {
            let (kv, now) = (self.sim.kv(), self.now());
            let holder = format!("w{attempt}");
            match self.operations.claim(&kv, &id, &holder, now, now).await {
                Ok(RunClaim::Granted(run)) => {
                    let state = match self.random.permille(300) {
                        true => OperationState::Failed,
                        false => OperationState::Succeeded,
                    };
                    let of = (run.epoch, run.attempt);
                    let end = end(state, b"result");
                    let _ = self.operations.complete(&kv, &id, of, end, now).await;
                }
                Ok(RunClaim::Ended(_) | RunClaim::Gone) => return,
                _ => self.sim.sleep(500).await,
            }
        }
    }

    async fn delete(self) {
        for id in self.ids() {
            let (kv, now) = (self.sim.kv(), self.now());
            self.seen(&id, |seen| seen.deleted = true);
            let _ = self.operations.delete(&kv, &id, "t", now).await;
        }
    }

    async fn again(self) {
        for id in self.ids() {
            let (kv, now) = (self.sim.kv(), self.now());
            self.seen(&id, |seen| {
                seen.agains += 1;
                seen.unanswered += 1;
            });
            let announced = self.operations.announce_again(&kv, &id, "t", now).await;
            if announced.is_ok() {
                self.seen(&id, |seen| seen.unanswered -= 1);
            }
            if let Ok(Some(Announced::Again(_))) = announced {
                self.log.borrow_mut().totals.agains += 1;
            }
        }
    }

    /// Works as a host: looks at all deliveries for some time.
    async fn host(mut self, until_ms: u64) {
        while self.sim.now_ms() < until_ms {
            for id in self.ids() {
                let _ = self.handle(&id).await;
            }
            self.sim.sleep(1 + self.random.below(4_000)).await;
        }
    }

    /// Looks at one delivery, and makes its steps. Returns when to look at it again; `None` if nothing remains to be done.
    async fn handle(&mut self, id: &OperationId) -> Result<Option<u64>, KvError> {
        let (kv, names) = (self.sim.kv(), Names::of(id));
        if let Some(writes) = self.unwritten.get(id).cloned() {
            self.write(&names, id, writes).await?;
        }
        let asked = [names.target(), names.record(), names.payload()];
        let many = kv.read_many(&asked, 3).await?;
        let [target, stored, payload] = many.values.try_into().unwrap_or_default();
        let mut facts = Facts {
            made_ms: id.unix_ms(),
            target: target.map(|target| serde_json::from_slice(&target).unwrap()),
            record: stored.as_deref().and_then(Delivery::decode),
            payload,
            claim: (self.taken.get(id)).map_or(Claim::Untried, |taken| Claim::Taken(*taken)),
            lost_after_ms: LOST_MS,
            ..Facts::default()
        };
        loop {
            facts.now_ms = self.now();
            match decide(&facts, &self.plan.webhooks) {
                Step::Ignore => {
                    if facts.payload.is_some() {
                        kv.delete(&names.payload()).await?;
                    }
                    return Ok(None);
                }
                Step::Later(at_ms) => return Ok(Some(at_ms)),
                Step::ReadMark(generation) => {
                    facts.is_marked = Some(kv.exists(&names.over(generation)).await?);
                }
                Step::Mark(generation) => {
                    kv.delete(&names.payload()).await?;
                    kv.set(&names.over(generation), b"1").await?;
                    return Ok(None);
                }
                Step::End(record) => {
                    let writes = Writes {
                        before: facts.record,
                        record,
                        mark: None,
                    };
                    let counts = self.write(&names, id, writes).await?;
                    return Ok((!counts).then(|| self.now()));
                }
                Step::AskEvent => facts.event = Some(self.event(id).await),
                Step::ReadDisabled(name) => facts.is_disabled = Some(kv.exists(&name).await?),
                Step::KeepPayload(payload) => {
                    let (found, handle) = kv.read_to_swap(&names.payload()).await?;
                    facts.payload = match found {
                        Some(found) => Some(found),
                        None if kv.swap(handle, &payload).await? => Some(payload),
                        None => return Ok(Some(self.now())),
                    };
                }
                Step::Claim(attempt) => {
                    let taken = Taken {
                        attempt,
                        since_ms: self.now(),
                    };
                    facts.claim = match kv.increment(&names.claim(attempt), 1).await? {
                        1 => Claim::Own,
                        _ => {
                            self.taken.insert(id.clone(), taken);
                            Claim::Taken(taken)
                        }
                    };
                }
                Step::Lose(taken) => {
                    let (found, handle) = kv.read_to_swap(&names.record()).await?;
                    if found.as_deref().and_then(Delivery::decode) == facts.record {
                        let record = lose(facts.record.take(), taken, self.now(), 7);
                        if kv.swap(handle, &record.encode()).await? {
                            self.log.borrow_mut().totals.lost += 1;
                        }
                    }
                    return Ok(Some(self.now()));
                }
                Step::Send(_) => return self.send(id, &names, facts).await,
            }
        }
    }

    async fn event(&self, id: &OperationId) -> EventOf {
        let found = self
            .operations
            .get(&self.sim.kv(), id, None, true, self.now())
            .await;
        match found {
            Ok(Some(found)) => match found.state.event() {
                Some(kind) => EventOf::Ended {
                    kind,
                    payload: format!("{id} {kind:?}").into_bytes(),
                },
                None => EventOf::Unfinished,
            },
            Ok(None) => EventOf::Gone,
            Err(_) => EventOf::Unknown,
        }
    }

    /// Sends the message to a receiver, which may fail at random.
    async fn send(
        &mut self,
        id: &OperationId,
        names: &Names,
        facts: Facts,
    ) -> Result<Option<u64>, KvError> {
        let before = facts.record.clone();
        let record = (facts.record).unwrap_or_else(|| Delivery::due(facts.now_ms));
        let payload = facts.payload.expect("it is sent");
        let fails = self.random.permille(self.plan.fails);
        let status = match (fails, self.random.below(20)) {
            (false, _) => 204,
            (true, 0) => 410,
            (true, 1..=5) => 302,
            (true, _) => 503,
        };
        self.seen(id, |seen| {
            let number = record.next_attempt();
            assert!(seen.attempts.insert(number), "{id}: attempt {number} twice");
            let first = seen.payload.get_or_insert_with(|| payload.clone());
            assert_eq!(*first, payload, "{id} has two messages");
            seen.taken |= status == 204;
        });
        self.log.borrow_mut().totals.sent += 1;
        let began_ms = self.now();
        self.sim.sleep(self.random.below(15_000)).await;
        let outcome = match status == 503 && self.random.permille(300) {
            true => Outcome::Failed("no answer".to_owned()),
            false => Outcome::Answered {
                status,
                retry_after_ms: None,
            },
        };
        let times = (began_ms, self.now() - began_ms);
        let record = record.after(outcome, times, self.now(), self.random.bits());
        let mark = match facts.target.filter(|target| target.url.is_none()) {
            Some(target) if record.state == DeliveryState::Disabled => {
                Some(entries::disabled(&target.tenant, "https://hooks.example/"))
            }
            _ => None,
        };
        let due_ms = (!record.state.is_over()).then_some(record.next_ms);
        let writes = Writes {
            before,
            record,
            mark,
        };
        match self.write(names, id, writes).await? {
            true => Ok(due_ms),
            false => Ok(Some(self.now())),
        }
    }

    /// Makes the writes that end an attempt. Returns whether they count: another host may have gone on.
    async fn write(
        &mut self,
        names: &Names,
        id: &OperationId,
        writes: Writes,
    ) -> Result<bool, KvError> {
        self.unwritten.insert(id.clone(), writes.clone());
        let kv = self.sim.kv();
        let (found, handle) = kv.read_to_swap(&names.record()).await?;
        let found = found.as_deref().and_then(Delivery::decode);
        let Writes {
            before,
            record,
            mark,
        } = writes;
        let counts = if found == before {
            kv.swap(handle, &record.encode()).await?
        } else {
            found.as_ref() == Some(&record)
        };
        if counts {
            let mut marks = Vec::new();
            marks.extend(mark.map(|mark| (mark, b"1".to_vec())));
            if record.state.is_over() {
                kv.delete(&names.payload()).await?;
                marks.push((names.over(record.generation), b"1".to_vec()));
            }
            kv.set_many(&marks).await?;
        }
        self.unwritten.remove(id);
        Ok(counts)
    }

    /// A host that starts once nothing fails any more, for one delivery that it found in the listing of names.
    async fn finish(mut self, id: OperationId) {
        let mut looks = 0;
        while let Some(at_ms) = self.handle(&id).await.expect("the store answers") {
            looks += 1;
            assert!(looks < 200, "{id} does not end");
            let wait_ms = at_ms.saturating_sub(self.now()).max(1);
            self.sim.sleep(wait_ms).await;
        }
    }

    async fn check_all(self) {
        for id in self.ids() {
            self.check(&id).await;
        }
    }

    /// Checks that the message of an operation was delivered, or that its record says why not.
    async fn check(&self, id: &OperationId) {
        let (kv, names) = (self.sim.kv(), Names::of(id));
        let found = self.operations.get(&kv, id, None, false, self.now()).await;
        let found = found.expect("the store answers");
        if self.seen(id, |seen| seen.deleted) && found.is_none() {
            return;
        }
        if found.as_ref().is_some_and(|found| !found.state.is_final()) {
            return;
        }
        let record = kv.get(&names.record()).await.expect("the store answers");
        let record = record.as_deref().and_then(Delivery::decode);
        let record = record.unwrap_or_else(|| panic!("{id} was never looked at"));
        let mark = names.over(record.generation);
        let is_marked = kv.exists(&mark).await.expect("the store answers");
        let payload = kv.get(&names.payload()).await.expect("the store answers");
        let has_payload = payload.is_some();
        let mut log = self.log.borrow_mut();
        let seen = log.seen.get(id).expect("it was accepted");
        let (taken, deleted, unanswered) = (seen.taken, seen.deleted, seen.unanswered);
        let most = 10 * (1 + seen.agains);
        assert!(
            seen.attempts.len() as u64 <= most,
            "{id}: {:?}",
            seen.attempts
        );
        if record.state == DeliveryState::Pending {
            // The caller that asked for the message again learnt that it is not sure.
            assert!(unanswered > 0, "{id} is not over");
            return;
        }
        assert!(is_marked, "{id}: {record:?}");
        // A host that dies between two looks may have written it after another one has ended the delivery.
        let may_be_left = self.plan.hosts > 1 && self.plan.faults.crash > 0;
        assert!(!has_payload || may_be_left, "{id}: the message is left");
        let note = record.note.as_deref().unwrap_or_default();
        let totals = &mut log.totals;
        match record.state {
            DeliveryState::Pending => unreachable!("see above"),
            DeliveryState::Delivered => {
                assert!(
                    taken,
                    "{id} was delivered, and the receiver has not taken it"
                );
                totals.delivered += 1;
            }
            DeliveryState::Failed => {
                let all_failed = record.attempts.len() == 10;
                assert!(
                    all_failed || (deleted && note.contains("deleted")),
                    "{record:?}"
                );
                totals.failed += 1;
            }
            DeliveryState::Disabled => {
                let by_answer = record.attempts.last().and_then(|last| last.status) == Some(410);
                assert!(by_answer || note.contains("410"), "{record:?}");
                totals.disabled += 1;
            }
            DeliveryState::Skipped => {
                assert!(!self.plan.webhooks.tenants[0].events.is_empty());
                assert!(record.attempts.is_empty(), "{record:?}");
                totals.skipped += 1;
            }
        }
    }
}

fn schedule(seed: u64, totals: &mut Totals) {
    let mut random = Random::new(seed);
    let plan = Rc::new(plan(&mut random));
    let sim = Sim::new(random.bits(), NOW_MS, plan.faults);
    let log = Rc::<RefCell<Log>>::default();
    let party = || Party::new(&sim, &plan, &log);
    for number in 0..1 + random.below(3) {
        sim.spawn(NOW_MS + random.below(2_000), party().call(number));
    }
    for _ in 0..plan.hosts {
        let from_ms = NOW_MS + random.below(5_000);
        let until_ms = from_ms + 1_000 + random.below(200_000);
        sim.spawn(from_ms, party().host(until_ms));
        // The host starts again after a crash.
        sim.spawn(
            from_ms + random.below(200_000),
            party().host(until_ms + 60_000),
        );
    }
    if random.permille(400) {
        sim.spawn(NOW_MS + random.below(200_000), party().again());
    }
    if random.permille(200) {
        sim.spawn(NOW_MS + random.below(100_000), party().delete());
    }
    sim.run(|_| {});
    sim.set_faults(Faults::NONE);
    let mut candidates = Candidates::default();
    for name in sim.entries().keys() {
        candidates.take(name);
    }
    for id in candidates.ids() {
        sim.spawn(sim.now_ms() + LOST_MS, party().finish(id));
    }
    sim.run(|_| {});
    sim.spawn(sim.now_ms(), party().check_all());
    sim.run(|_| {});
    let of = log.borrow().totals;
    totals.sent += of.sent;
    totals.delivered += of.delivered;
    totals.failed += of.failed;
    totals.disabled += of.disabled;
    totals.skipped += of.skipped;
    totals.lost += of.lost;
    totals.agains += of.agains;
}

#[test]
fn every_end_is_announced_at_least_once_or_its_record_says_why_not() {
    let mut totals = Totals::default();
    if !for_seeds("WEBHOOKS", SCHEDULES, |seed| schedule(seed, &mut totals)) {
        return;
    }
    println!("{totals:?}");
    let Totals {
        delivered,
        failed,
        disabled,
        skipped,
        lost,
        agains,
        ..
    } = totals;
    for seen in [delivered, failed, disabled, skipped, lost, agains] {
        assert!(seen > 0, "{totals:?}");
    }
}
