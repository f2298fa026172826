//! Batches under faults: workers that die, stall and race, components that crash on a line, callers that cancel and poll, over a
//! store that loses and delays.
//!
//! Every schedule follows from its seed. `BATCHES_SEED=n` replays one, `BATCHES_SCHEDULES=n` runs more.

use crate::batches_common::{ids_in, lines, new_batch, new_file};
use crate::operations_common::NOW_MS;
use penstock_core::{BatchId, OperationId};
use penstock_policy::batches::slice::Slice;
use penstock_policy::batches::words::{Batch, BatchState, Work};
use penstock_policy::batches::{Batches, BatchesSettings};
use penstock_policy::operations::words::{Abandoned, Claim, Run};
use penstock_policy::operations::{Candidates, Operations, OperationsSettings};
use penstock_testkit::{Faults, Random, Sim, for_seeds};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Schedules of a plain run: seconds without optimization.
const SCHEDULES: u64 = 150;

#[derive(Default)]
struct Log {
    /// The batch whose creation was answered.
    batch: Option<BatchId>,
    ids: Vec<String>,
    /// Lines whose step was committed, by batch: a creation whose answer is lost is made again.
    committed: BTreeMap<BatchId, u64>,
    /// Lines that were run.
    ran: BTreeSet<(BatchId, u64)>,
    /// The description of the batch after its end.
    ended: Option<Batch>,
    repeated: u64,
    cancelled: bool,
    /// Whether a request for the end was sent, whether or not it was answered.
    cancel_asked: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    completed: u64,
    cancelled: u64,
    expired: u64,
    poisoned: u64,
    repeated: u64,
}

#[derive(Clone, Debug)]
struct Plan {
    operations: OperationsSettings,
    batches: BatchesSettings,
    faults: Faults,
    workers: u64,
    poison: bool,
}

fn plan(random: &mut Random) -> Plan {
    let faulty = random.permille(750);
    let mut chance = |most: u64| if faulty { random.below(most) } else { 0 };
    let faults = Faults {
        lost_request: chance(30),
        lost_reply: chance(30),
        long_delay: chance(80),
        long_ms: 2_500,
        crash: chance(20),
    };
    Plan {
        operations: OperationsSettings {
            lease_ms: 1_000,
            max_attempts: 1 + random.below(3) as u32,
            ..OperationsSettings::default()
        },
        batches: BatchesSettings {
            window_s: if random.permille(150) { 4 } else { 86_400 },
            ..BatchesSettings::default()
        },
        faults,
        workers: 1 + random.below(3),
        poison: random.permille(300),
    }
}

struct Party {
    sim: Sim,
    log: Rc<RefCell<Log>>,
    random: Random,
    batches: Batches,
    operations: Operations,
}

impl Party {
    fn new(sim: &Sim, plan: &Plan, log: &Rc<RefCell<Log>>) -> Self {
        Self {
            sim: sim.clone(),
            log: log.clone(),
            random: Random::new(sim.below(u64::MAX)),
            batches: Batches::new(plan.batches.clone(), plan.operations.clone()),
            operations: Operations::new(plan.operations.clone()),
        }
    }

    fn at(&mut self) -> (u64, u128) {
        let bits = u128::from(self.random.bits()) << 64 | u128::from(self.random.bits());
        (self.sim.now_ms(), bits)
    }

    async fn create(mut self, content: Vec<u8>) {
        let kv = self.sim.kv();
        for _ in 0..20 {
            let at = self.at();
            if let Ok(Ok(file)) = self.batches.upload(&kv, new_file("t", &content), at).await {
                let at = self.at();
                let made = self.batches.create(&kv, new_batch("t", &file.id), at).await;
                if let Ok(Ok(batch)) = made {
                    self.log.borrow_mut().batch = Some(batch.id);
                    return;
                }
            }
            self.sim.sleep(50).await;
        }
    }

    /// The operations that a host that starts finds.
    fn found(&self) -> Vec<OperationId> {
        let mut candidates = Candidates::default();
        for name in self.sim.entries().keys() {
            candidates.take(name);
        }
        candidates.ids()
    }

    async fn work(mut self, number: u64, until_ms: u64) {
        let mut round = 0;
        while self.sim.now_ms() < until_ms {
            for id in self.found() {
                round += 1;
                let holder = format!("worker {number} {round}");
                let _ = self.look(&id, &holder).await;
            }
            self.sim.sleep(100 + self.random.below(200)).await;
        }
    }

    /// Looks at an operation, as a host does. Returns whether it has ended.
    async fn look(&mut self, id: &OperationId, holder: &str) -> Result<bool, ()> {
        let kv = self.sim.kv();
        let committed = self.log.borrow().committed.clone();
        let now_ms = self.sim.now_ms();
        let claim = self.operations.claim(&kv, id, holder, 0, now_ms).await;
        match claim.map_err(drop)? {
            Claim::Granted(run) => {
                if !self.run(id, holder, *run, &committed).await? {
                    return Ok(false);
                }
            }
            Claim::Ended(_) => {}
            Claim::Later(_) => return Ok(false),
            Claim::Gone => return Ok(true),
        }
        let at = self.at();
        self.batches.advance(&kv, id, at).await.map_err(drop)?;
        Ok(true)
    }

    async fn run(
        &mut self,
        id: &OperationId,
        holder: &str,
        run: Run,
        committed: &BTreeMap<BatchId, u64>,
    ) -> Result<bool, ()> {
        let kv = self.sim.kv();
        let at = self.at();
        let mut last = None;
        let end = match self
            .batches
            .begin(&kv, &run.submission.body, at)
            .await
            .map_err(drop)?
        {
            Work::Done(end) => end,
            Work::Run(lines) => {
                let mut slice = Slice::new(&lines, 1 << 20);
                // Each step is short, so that there are several.
                let most = 1 + self.random.below(4) as usize;
                for line in lines.lines.iter().take(most) {
                    assert!(
                        committed
                            .get(&lines.batch)
                            .is_none_or(|done| line.number >= *done),
                        "line {} runs again after its step was committed",
                        line.number
                    );
                    if self.sim.now_ms() >= lines.expires_ms {
                        slice.expire();
                        break;
                    }
                    if self.batches.is_cancelled(&kv, &lines.batch).await == Ok(true) {
                        slice.cancel();
                        break;
                    }
                    self.sim.sleep(self.random.below(150)).await;
                    {
                        let mut log = self.log.borrow_mut();
                        let is_new = log.ran.insert((lines.batch.clone(), line.number));
                        log.repeated += u64::from(!is_new);
                    }
                    if line.custom_id.starts_with("poison") {
                        let at = (self.sim.now_ms(), self.random.bits());
                        let again = self
                            .operations
                            .abandon(&kv, id, holder, Abandoned::Crashed, at)
                            .await;
                        return Ok(again.map_err(drop)?.is_none());
                    }
                    let status = if line.custom_id.starts_with("bad") {
                        422
                    } else {
                        200
                    };
                    slice.answer(line, status, "req_1", b"{}");
                    last = Some((lines.batch.clone(), line.number + 1));
                }
                slice.end()
            }
        };
        let of = (run.epoch, run.attempt);
        let now_ms = self.sim.now_ms();
        let counts = self.operations.complete(&kv, id, of, end, now_ms).await;
        match counts.map_err(drop)? {
            true => {
                let mut log = self.log.borrow_mut();
                if let Some((batch, done)) = last {
                    let known = log.committed.entry(batch).or_default();
                    *known = done.max(*known);
                }
                Ok(true)
            }
            false => Ok(false),
        }
    }

    async fn cancel(self) {
        let Some(id) = self.log.borrow().batch.clone() else {
            return;
        };
        self.log.borrow_mut().cancel_asked = true;
        let (kv, now_ms) = (self.sim.kv(), self.sim.now_ms());
        if let Ok(Some(batch)) = self.batches.cancel(&kv, &id, "t", now_ms).await {
            let is_over = batch.state.is_final();
            self.log.borrow_mut().cancelled |= !is_over;
        }
    }

    async fn poll(self, rounds: u64) {
        let mut before = 0;
        for _ in 0..rounds {
            let id = self.log.borrow().batch.clone();
            if let Some(id) = id {
                let (kv, now_ms) = (self.sim.kv(), self.sim.now_ms());
                let ended = self.log.borrow().ended.clone();
                if let Ok(found) = self.batches.batch(&kv, &id, "t", now_ms).await {
                    let batch = found.expect("a batch that was created is there");
                    let counts = batch.counts;
                    let done = counts.completed + counts.failed;
                    assert!(done <= counts.total, "{counts:?}");
                    assert!(done >= before, "the counts went back: {counts:?}");
                    before = done;
                    match &ended {
                        Some(ended) => assert_eq!(*ended, batch, "a batch that is over changed"),
                        None if batch.state.is_final() => {
                            self.log.borrow_mut().ended.get_or_insert(batch);
                        }
                        None => {}
                    }
                }
            }
            self.sim.sleep(400).await;
        }
    }

    /// With live workers and a store that answers, the batch ends, and each line has one answer.
    async fn finish(mut self, plan: Plan) {
        let Some(id) = self.log.borrow().batch.clone() else {
            return;
        };
        let kv = self.sim.kv();
        let mut rounds = 0;
        let batch = loop {
            let now_ms = self.sim.now_ms();
            let found = self.batches.batch(&kv, &id, "t", now_ms).await;
            let batch = found
                .expect("the store answers")
                .expect("the batch is there");
            if batch.state.is_final() {
                break batch;
            }
            rounds += 1;
            assert!(rounds < 400, "the batch stays {:?}", batch.state);
            // Only what a host that starts finds.
            let found = self.found();
            assert!(
                !found.is_empty(),
                "no host would find the batch, which is {:?}",
                batch.state
            );
            for operation in found {
                let _ = self.look(&operation, &format!("last {rounds}")).await;
            }
            self.sim.sleep(500).await;
        };
        let mut answered = Vec::new();
        for file in [&batch.output_file, &batch.error_file]
            .into_iter()
            .flatten()
        {
            let content = self
                .batches
                .content(&kv, file, "t", self.sim.now_ms())
                .await;
            let content = content
                .expect("the store answers")
                .expect("the file is there");
            let ids = ids_in(&content);
            let expected = match Some(file) == batch.output_file.as_ref() {
                true => batch.counts.completed,
                false => batch.counts.failed,
            };
            assert_eq!(ids.len() as u64, expected, "{file} of {batch:?}");
            answered.extend(ids);
        }
        let mut log = self.log.borrow_mut();
        if batch.counts.total > 0 {
            assert_eq!(
                batch.counts.total,
                batch.counts.completed + batch.counts.failed
            );
            answered.sort();
            log.ids.sort();
            assert_eq!(answered, log.ids, "each line has one answer");
        }
        match batch.state {
            BatchState::Cancelled => {
                assert!(log.cancelled || log.cancel_asked, "nobody asked for it")
            }
            BatchState::Expired => assert_eq!(plan.batches.window_s, 4),
            BatchState::Completed => {}
            // Its workers died in each attempt at a step that has no lines.
            state => assert_eq!(state, BatchState::Failed),
        }
        if let Some(ended) = &log.ended {
            assert_eq!((ended.state, ended.counts), (batch.state, batch.counts));
        }
        log.ended = Some(batch);
    }
}

fn schedule(seed: u64, totals: &mut Totals) {
    let mut random = Random::new(seed);
    let plan = plan(&mut random);
    let sim = Sim::new(random.bits(), NOW_MS, plan.faults);
    let log = Rc::<RefCell<Log>>::default();
    let mut ids: Vec<String> = (0..1 + random.below(12))
        .map(|n| match random.permille(200) {
            true => format!("bad{n}"),
            false => format!("line{n}"),
        })
        .collect();
    if plan.poison {
        ids.insert(
            random.below(ids.len() as u64 + 1) as usize,
            "poison".to_owned(),
        );
    }
    log.borrow_mut().ids.clone_from(&ids);
    let party = || Party::new(&sim, &plan, &log);
    let end_ms = NOW_MS + 9_000;
    sim.spawn(NOW_MS, party().create(lines(&ids)));
    for n in 0..plan.workers {
        sim.spawn(NOW_MS + random.below(1_000), party().work(n, end_ms));
        // A host that starts again after a crash.
        sim.spawn(
            NOW_MS + 4_000 + random.below(1_000),
            party().work(100 + n, end_ms),
        );
    }
    for _ in 0..2 {
        sim.spawn(NOW_MS + random.below(1_000), party().poll(20));
    }
    if random.permille(300) {
        sim.spawn(NOW_MS + random.below(5_000), party().cancel());
    }
    sim.run(|_| {});
    sim.set_faults(Faults::NONE);
    sim.spawn(sim.now_ms() + 5_000, party().finish(plan.clone()));
    sim.run(|_| {});
    let log = log.borrow();
    let Some(batch) = &log.ended else { return };
    match batch.state {
        BatchState::Completed => totals.completed += 1,
        BatchState::Cancelled => totals.cancelled += 1,
        BatchState::Expired => totals.expired += 1,
        _ => {}
    }
    totals.poisoned += u64::from(plan.poison && batch.state == BatchState::Completed);
    totals.repeated += log.repeated;
}

#[test]
fn each_line_of_a_batch_has_one_answer_whatever_fails() {
    let mut totals = Totals::default();
    if !for_seeds("BATCHES", SCHEDULES, |seed| schedule(seed, &mut totals)) {
        return;
    }
    println!("{totals:?}");
    assert!(totals.completed > 0 && totals.cancelled > 0, "{totals:?}");
    assert!(totals.expired > 0 && totals.poisoned > 0, "{totals:?}");
    assert!(totals.repeated > 0, "{totals:?}");
}
