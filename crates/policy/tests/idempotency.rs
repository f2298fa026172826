//! Idempotency keys on a store in memory: tables first, and then a simulation of many callers over a
//! store that loses, delays and outlives them.

use penstock_core::kv::{Many, read_one_by_one, run_ready};
use penstock_core::{Kv, KvError};
use penstock_policy::idempotency::{
    CallParts, ClaimResult, CompleteResult, Fingerprint, Idempotency, IdempotencyKey,
    IdempotencySettings, Lease, Outcome, RecordState, Scope,
};
use penstock_testkit::{Faults, MemoryKv, Sim, SimKv};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A time in the middle of a day.
const NOON_MS: u64 = 1_795_262_400_000;

fn settings() -> IdempotencySettings {
    IdempotencySettings {
        lease_ms: 30_000,
        ..IdempotencySettings::default()
    }
}

fn call(body: &[u8]) -> CallParts<'_> {
    CallParts {
        tenant: "t",
        method: "POST",
        call_name: "predict m",
        query: "",
        content_type: "application/json",
        body,
    }
}

fn scope(key: &str) -> Scope {
    Scope::of(
        &call(b""),
        &IdempotencyKey::parse(key.as_bytes()).expect("a key"),
    )
}

fn outcome(fingerprint: &Fingerprint, completed_ms: u64, body: &str) -> Outcome {
    Outcome::of(
        fingerprint.clone(),
        completed_ms,
        200,
        [],
        body.as_bytes(),
        1 << 20,
    )
}

/// Runs a test as the only caller of a store that fails nothing.
fn alone<F, T>(now_ms: u64, test: F) -> Sim
where
    F: FnOnce(Sim, SimKv) -> T,
    T: Future<Output = ()> + 'static,
{
    let sim = Sim::new(1, now_ms, Faults::NONE);
    let done = Rc::new(RefCell::new(false));
    let test = test(sim.clone(), sim.kv());
    sim.spawn(now_ms, {
        let done = done.clone();
        async move {
            test.await;
            *done.borrow_mut() = true;
        }
    });
    sim.run(|_| {});
    assert!(*done.borrow(), "the test came to its end");
    sim
}

macro_rules! delegate {
    ($inner:ty) => {
        type Swap = <$inner as Kv>::Swap;

        async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
            self.kv.get(kv_key).await
        }
        async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
            self.kv.exists(kv_key).await
        }
        async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
            self.kv.set(kv_key, value).await
        }
        async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
            self.kv.delete(kv_key).await
        }
        async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
            self.kv.increment(kv_key, delta).await
        }
        async fn read_to_swap(
            &self,
            kv_key: &str,
        ) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
            self.kv.read_to_swap(kv_key).await
        }
        async fn swap(&self, swap: Self::Swap, value: &[u8]) -> Result<bool, KvError> {
            self.kv.swap(swap, value).await
        }
    };
}

/// A simulated store that reads several entries at once, or one by one.
struct Batching {
    kv: SimKv,
    batches: bool,
}

impl Kv for Batching {
    delegate!(SimKv);

    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        match self.batches {
            true => self.kv.read_many(kv_keys, values).await,
            false => read_one_by_one(&self.kv, kv_keys, values).await,
        }
    }
}

/// A store on which another caller acts within a read of several entries: after the values and before the counters.
struct Interrupted<'a> {
    kv: &'a MemoryKv,
    /// Number of reads before the other caller acts.
    after: Cell<u32>,
    act: &'a dyn Fn(),
}

impl Kv for Interrupted<'_> {
    delegate!(MemoryKv);

    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        let (values, counters) = kv_keys.split_at(values);
        let values = self.kv.read_many(values, values.len()).await?.values;
        match self.after.get() {
            0 => (self.act)(),
            left => self.after.set(left - 1),
        }
        let counters = self.kv.read_many(counters, 0).await?.counters;
        Ok(Many { values, counters })
    }
}

/// Looks a call up and claims it, alone at its store.
fn grant_alone(
    policy: &mut Idempotency,
    kv: &impl Kv,
    scope: &Scope,
    print: &Fingerprint,
    now_ms: u64,
) -> Lease {
    let Ok(RecordState::Free(slot)) = run_ready(policy.look_up(kv, scope, print, now_ms)) else {
        panic!("the key is free");
    };
    match run_ready(policy.claim(kv, scope, print, &slot, now_ms, 3)) {
        Ok(ClaimResult::Granted(lease)) => lease,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_key_costs_seven_operations_a_replay_two_and_a_key_in_flight_three() {
    let kv = MemoryKv::default();
    let mut policy = Idempotency::new(settings());
    let print = Fingerprint::of(&call(b"1"));
    for n in 0..17 {
        let scope = scope(&n.to_string());
        let before = kv.operations();
        let lease = grant_alone(&mut policy, &kv, &scope, &print, NOON_MS);
        let granted = kv.operations();
        let looked = run_ready(policy.look_up(&kv, &scope, &print, NOON_MS));
        assert!(matches!(looked, Ok(RecordState::InFlight { .. })));
        assert_eq!(kv.operations() - granted, 3);
        let completing = kv.operations();
        let kept = outcome(&print, NOON_MS, "x");
        run_ready(policy.complete(&kv, &scope, &lease, &kept, NOON_MS)).unwrap();
        let cost = granted - before + kv.operations() - completing;
        let places = match n {
            // The first call reads the cursor of the sweep, creates it, and takes one place in the index.
            0 => 3,
            // The second one takes places for sixteen calls.
            1 => 1,
            _ => 0,
        };
        assert_eq!(cost, 7 + places, "call {n}");
        let completed = kv.operations();
        let looked = run_ready(policy.look_up(&kv, &scope, &print, NOON_MS));
        assert_eq!(looked, Ok(RecordState::Done(kept)));
        assert_eq!(kv.operations() - completed, 2);
    }
}

#[test]
fn an_owner_that_completes_between_the_reads_of_a_look_is_believed() {
    // Within the first read, which looks for outcomes and claims, and within the second one, which also looks for the fate.
    for after in [0, 1] {
        let kv = MemoryKv::default();
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let lease = grant_alone(&mut policy, &kv, &scope, &print, NOON_MS);
        let kept = outcome(&print, NOON_MS, "kept");
        let owner = Idempotency::new(settings());
        let complete = || {
            let done = run_ready(owner.complete(&kv, &scope, &lease, &kept, NOON_MS));
            assert_eq!(done, Ok(CompleteResult::Published));
        };
        let interrupted = Interrupted {
            kv: &kv,
            after: Cell::new(after),
            act: &complete,
        };
        let looked = run_ready(policy.look_up(&interrupted, &scope, &print, NOON_MS));
        assert_eq!(looked, Ok(RecordState::Done(kept.clone())), "{after}");
    }
}

#[test]
fn a_claim_made_within_another_callers_lookup_wins_and_the_other_does_not_run() {
    let kv = MemoryKv::default();
    let mut policy = Idempotency::new(settings());
    let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
    let look = run_ready(policy.look_up(&kv, &scope, &print, NOON_MS));
    let Ok(RecordState::Free(slot)) = look else {
        panic!("a new key is free")
    };
    grant_alone(
        &mut Idempotency::new(settings()),
        &kv,
        &scope,
        &print,
        NOON_MS,
    );
    assert!(matches!(
        run_ready(policy.claim(&kv, &scope, &print, &slot, NOON_MS, 3)),
        Ok(ClaimResult::InFlight { .. })
    ));
}

#[test]
fn of_two_callers_on_both_sides_of_midnight_only_the_first_to_claim_runs_the_call() {
    let midnight = NOON_MS / 86_400_000 * 86_400_000 + 86_400_000;
    for times in [[midnight - 1, midnight], [midnight, midnight - 1]] {
        let kv = MemoryKv::default();
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let mut callers = times.map(|now_ms| {
            let policy = Idempotency::new(settings());
            let looked = run_ready(policy.look_up(&kv, &scope, &print, now_ms));
            let Ok(RecordState::Free(slot)) = looked else {
                panic!("both find it free")
            };
            (policy, slot, now_ms)
        });
        // The second one was slow: its lookup is older than the claim of the first.
        let claims = callers.each_mut().map(|(policy, slot, now_ms)| {
            run_ready(policy.claim(&kv, &scope, &print, slot, *now_ms, 3))
        });
        assert!(matches!(claims[0], Ok(ClaimResult::Granted(_))));
        assert!(
            matches!(claims[1], Ok(ClaimResult::InFlight { .. })),
            "{times:?}: {claims:?}"
        );
    }
}

async fn grant(
    policy: &mut Idempotency,
    sim: &Sim,
    kv: &SimKv,
    scope: &Scope,
    print: &Fingerprint,
) -> Lease {
    let RecordState::Free(slot) = policy
        .look_up(kv, scope, print, sim.now_ms())
        .await
        .unwrap()
    else {
        panic!("not free");
    };
    match policy
        .claim(kv, scope, print, &slot, sim.now_ms(), sim.below(1 << 40))
        .await
        .unwrap()
    {
        ClaimResult::Granted(lease) => lease,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_finished_call_is_replayed_until_its_time_is_over_and_then_runs_again() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
        let kept = outcome(&print, sim.now_ms(), "one");
        assert_eq!(
            policy
                .complete(&kv, &scope, &lease, &kept, sim.now_ms())
                .await,
            Ok(CompleteResult::Published)
        );
        for hours in [0, 1, 12, 23] {
            let at = kept.completed_ms + hours * 3_600_000;
            assert_eq!(
                policy.look_up(&kv, &scope, &print, at).await,
                Ok(RecordState::Done(kept.clone())),
                "{hours} h"
            );
            assert_eq!(
                policy
                    .look_up(&kv, &scope, &Fingerprint::of(&call(b"2")), at)
                    .await,
                Ok(RecordState::Mismatch)
            );
        }
        let later = kept.completed_ms + 86_400_000;
        let looked = policy.look_up(&kv, &scope, &print, later).await.unwrap();
        let RecordState::Free(slot) = looked else {
            panic!("{looked:?}")
        };
        assert!(matches!(
            policy.claim(&kv, &scope, &print, &slot, later, 0).await,
            Ok(ClaimResult::Granted(_))
        ));
    });
}

#[test]
fn a_call_in_flight_is_refused_and_another_call_with_its_key_too() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        grant(&mut policy, &sim, &kv, &scope, &print).await;
        assert_eq!(
            policy.look_up(&kv, &scope, &print, sim.now_ms()).await,
            Ok(RecordState::InFlight { retry_after_s: 1 })
        );
        let other = Fingerprint::of(&call(b"2"));
        assert_eq!(
            policy.look_up(&kv, &scope, &other, sim.now_ms()).await,
            Ok(RecordState::Mismatch)
        );
    });
}

#[test]
fn a_released_call_can_be_claimed_at_once_up_to_the_last_epoch() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        for epoch in 1..=1000 {
            let before = sim.operations();
            let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
            assert_eq!(lease.epoch, epoch);
            policy.release(&kv, &scope, &lease).await.unwrap();
            assert!(
                sim.operations() - before < 90,
                "epoch {epoch} is found without a search from the start"
            );
        }
        assert_eq!(
            policy.look_up(&kv, &scope, &print, sim.now_ms()).await,
            Ok(RecordState::Exhausted)
        );
    });
}

#[test]
fn a_dead_owners_call_is_free_after_its_lease_and_its_late_outcome_does_not_count() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let dead = grant(&mut policy, &sim, &kv, &scope, &print).await;
        sim.sleep(29_000).await;
        assert!(matches!(
            policy.look_up(&kv, &scope, &print, sim.now_ms()).await,
            Ok(RecordState::InFlight { .. })
        ));
        sim.sleep(1_001).await;
        let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
        assert_eq!(lease.epoch, 2);
        let late = outcome(&print, sim.now_ms(), "late");
        assert_eq!(
            policy
                .complete(&kv, &scope, &dead, &late, sim.now_ms())
                .await,
            Ok(CompleteResult::Superseded(RecordState::InFlight {
                retry_after_s: 1
            }))
        );
        let kept = outcome(&print, sim.now_ms(), "kept");
        assert_eq!(
            policy
                .complete(&kv, &scope, &lease, &kept, sim.now_ms())
                .await,
            Ok(CompleteResult::Published)
        );
        assert_eq!(
            policy
                .complete(&kv, &scope, &dead, &late, sim.now_ms())
                .await,
            Ok(CompleteResult::Superseded(RecordState::Done(kept)))
        );
    });
}

#[test]
fn an_owner_that_finished_just_before_it_was_replaced_is_believed() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let slow = grant(&mut policy, &sim, &kv, &scope, &print).await;
        sim.sleep(31_000).await;
        let Ok(RecordState::Free(slot)) = policy.look_up(&kv, &scope, &print, sim.now_ms()).await
        else {
            panic!("the lease is over")
        };
        let kept = outcome(&print, sim.now_ms(), "kept");
        assert_eq!(
            policy
                .complete(&kv, &scope, &slow, &kept, sim.now_ms())
                .await,
            Ok(CompleteResult::Published)
        );
        assert_eq!(
            policy
                .claim(&kv, &scope, &print, &slot, sim.now_ms(), 0)
                .await,
            Ok(ClaimResult::Done(kept.clone()))
        );
        assert_eq!(
            policy.look_up(&kv, &scope, &print, sim.now_ms()).await,
            Ok(RecordState::Done(kept))
        );
    });
}

#[test]
fn a_result_is_replayed_for_its_whole_time_also_when_the_time_to_live_was_changed() {
    let midnight = NOON_MS / 86_400_000 * 86_400_000 + 86_400_000;
    for ttl_s in [60, 3_600, 86_400, 7 * 86_400] {
        // ClaimResult just before a day's end and completed after it.
        alone(midnight - 1, move |sim, kv| async move {
            let with = |ttl_s| {
                Idempotency::new(IdempotencySettings {
                    ttl_s,
                    ..settings()
                })
            };
            let mut policy = with(ttl_s);
            let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
            let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
            sim.sleep(25_000).await;
            let kept = outcome(&print, sim.now_ms(), "one");
            let done = policy
                .complete(&kv, &scope, &lease, &kept, sim.now_ms())
                .await;
            assert_eq!(done, Ok(CompleteResult::Published));
            let last = kept.completed_ms + ttl_s * 1_000;
            for at in [kept.completed_ms, last - 1_000, last - 1] {
                let looked = policy.look_up(&kv, &scope, &print, at).await;
                assert_eq!(looked, Ok(RecordState::Done(kept.clone())), "ttl {ttl_s}");
            }
            let looked = policy.look_up(&kv, &scope, &print, last).await;
            assert!(
                matches!(looked, Ok(RecordState::Free(_))),
                "ttl {ttl_s}: {looked:?}"
            );
            for other in [ttl_s + 3_600, 2 * ttl_s] {
                let looked = with(other)
                    .look_up(&kv, &scope, &print, kept.completed_ms + 1)
                    .await;
                assert_eq!(
                    looked,
                    Ok(RecordState::Done(kept.clone())),
                    "ttl {ttl_s}, then {other}"
                );
            }
        });
    }
}

#[test]
fn a_store_that_is_full_is_swept_nevertheless() {
    let kv = MemoryKv::default();
    let mut policy = Idempotency::new(settings());
    for n in 0..400 {
        let (scope, print) = (scope(&format!("{n}")), Fingerprint::of(&call(b"1")));
        let Ok(RecordState::Free(slot)) = run_ready(policy.look_up(&kv, &scope, &print, NOON_MS))
        else {
            panic!("a new key is free")
        };
        run_ready(policy.claim(&kv, &scope, &print, &slot, NOON_MS, 3)).unwrap();
    }
    let before = kv.names().len();
    kv.set_full(true);
    let later = NOON_MS + 3 * 86_400_000;
    for _ in 0..20 {
        run_ready(policy.sweep(&kv, 3, later, 32)).unwrap();
    }
    assert!(
        before > 1_200 && kv.names().len() < 30,
        "{before} and {}",
        kv.names().len()
    );
}

#[test]
fn an_owner_whose_store_fails_leaves_the_key_free() {
    alone(NOON_MS, |sim, kv| async move {
        let mut policy = Idempotency::new(settings());
        let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
        let Ok(RecordState::Free(slot)) = policy.look_up(&kv, &scope, &print, sim.now_ms()).await
        else {
            panic!("a new key is free")
        };
        // The claim is won, and then the intent is lost.
        sim.fail_next_set_of("/r1");
        let claimed = policy
            .claim(&kv, &scope, &print, &slot, sim.now_ms(), 0)
            .await;
        assert!(claimed.is_err());
        let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
        assert_eq!(lease.epoch, 2);
    });
}

#[test]
fn the_number_of_entries_does_not_grow_with_time() {
    let day = 86_400_000;
    let sim = alone(NOON_MS, |sim, kv| async move {
        let mut most = 0;
        for hour in 0..24 * 30 {
            // An instance serves a few calls and is replaced.
            let mut policy = Idempotency::new(settings());
            for n in 0..10 {
                let (scope, print) = (scope(&format!("{hour}-{n}")), Fingerprint::of(&call(b"1")));
                let lease = grant(&mut policy, &sim, &kv, &scope, &print).await;
                match n {
                    0 => policy.release(&kv, &scope, &lease).await.unwrap(),
                    // Its owner dies.
                    1 => {}
                    _ => {
                        let outcome = outcome(&print, sim.now_ms(), "x");
                        policy
                            .complete(&kv, &scope, &lease, &outcome, sim.now_ms())
                            .await
                            .unwrap();
                    }
                }
            }
            sim.sleep(3_600_000).await;
            most = most.max(sim.live_entries());
        }
        // 240 calls a day, at most five entries each, for three days; some index entries and counts.
        assert!(most < 240 * 6 * 3 + 200, "{most} entries");
        assert!(most > 240 * 4, "{most} entries: nothing was kept");
        // Left alone for days, and used again: the remaining entries are removed.
        sim.sleep(10 * day).await;
        let mut policy = Idempotency::new(settings());
        for shard in 0..16 {
            for _ in 0..20 {
                policy.sweep(&kv, shard, sim.now_ms(), 1000).await.unwrap();
            }
        }
    });
    let left: Vec<_> = sim.entries().into_keys().collect();
    assert!(left.len() <= 16, "only cursors are left: {left:?}");
}

// ---------------------------------------------------------------------------------------------------
// Simulation

/// The actions and results of callers, by period of a key's life.
#[derive(Default)]
struct Ledger {
    executed: BTreeSet<(usize, u64, u64)>,
    /// The bodies that callers got for each key, with the times.
    told: BTreeMap<usize, Vec<(u64, String)>>,
    runs: u64,
}

struct Schedule {
    seed: u64,
    now_ms: u64,
    callers: u64,
    keys: u64,
    faults: Faults,
}

/// The outcome of a caller's simulated call.
enum Ended {
    Told(String),
    Retry,
}

async fn one_call(
    sim: &Sim,
    kv: &Batching,
    policy: &mut Idempotency,
    key: usize,
    skew: i64,
    caller: u64,
    ledger: &Rc<RefCell<Ledger>>,
) -> Ended {
    let (scope, print) = (scope(&format!("key-{key}")), Fingerprint::of(&call(b"1")));
    let clock = || sim.now_ms().saturating_add_signed(skew);
    let slot = match policy.look_up(kv, &scope, &print, clock()).await {
        Ok(RecordState::Free(slot)) => slot,
        Ok(RecordState::Done(outcome)) => return Ended::Told(text(&outcome)),
        Ok(RecordState::InFlight { .. }) | Err(_) => return Ended::Retry,
        Ok(other) => panic!("{other:?}"),
    };
    let random = sim.below(u64::MAX);
    let lease = match policy
        .claim(kv, &scope, &print, &slot, clock(), random)
        .await
    {
        Ok(ClaimResult::Granted(lease)) => lease,
        Ok(ClaimResult::Done(outcome)) => return Ended::Told(text(&outcome)),
        Ok(ClaimResult::InFlight { .. }) | Err(_) => return Ended::Retry,
    };
    {
        let mut ledger = ledger.borrow_mut();
        ledger.runs += 1;
        assert!(
            ledger.executed.insert((key, lease.period, lease.epoch)),
            "epoch {lease:?} of key {key} ran twice"
        );
    }
    // Mostly within the lease, sometimes far beyond it.
    let run_ms = if sim.below(10) == 0 {
        sim.below(90_000)
    } else {
        sim.below(500)
    };
    sim.sleep(run_ms).await;
    if sim.below(8) == 0 {
        // Provably not run, as the model's queue was full.
        let _ = policy.release(kv, &scope, &lease).await;
        return Ended::Retry;
    }
    let body = format!("{caller}/{}/{}", lease.period, lease.epoch);
    let outcome = outcome(&print, clock(), &body);
    match policy.complete(kv, &scope, &lease, &outcome, clock()).await {
        Ok(CompleteResult::Published) => Ended::Told(body),
        Ok(CompleteResult::Superseded(RecordState::Done(outcome))) => Ended::Told(text(&outcome)),
        Ok(CompleteResult::Superseded(_)) | Err(_) => Ended::Retry,
    }
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.body.clone().expect("small")).expect("text")
}

/// Every caller of a key is told the same, or nothing.
fn one_published_result(ledger: &Ledger, seed: u64) {
    for (key, told) in &ledger.told {
        let first = &told[0].1;
        for (_, body) in told {
            assert_eq!(first, body, "seed {seed}: key {key} has two results");
        }
    }
}

fn run(schedule: &Schedule) -> (u64, usize) {
    let Schedule {
        seed,
        now_ms,
        callers,
        keys,
        faults,
    } = *schedule;
    let sim = Sim::new(seed, now_ms, faults);
    // One store in five cannot read several entries at once.
    let batches = !seed.is_multiple_of(5);
    let store = |sim: &Sim| Batching {
        kv: sim.kv(),
        batches,
    };
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    for caller in 0..callers {
        let (kv, ledger) = (store(&sim), ledger.clone());
        let key = sim.below(keys) as usize;
        // Machines' clocks are up to 2 s off; callers of one machine share its clock.
        let skew = [0, 2_000, -2_000][(caller % 3) as usize];
        let start = now_ms + sim.below(3_000);
        let sim_ = sim.clone();
        sim.spawn(start, async move {
            let sim = sim_;
            let mut policy = Idempotency::new(settings());
            // As often as a patient client tries.
            for _ in 0..6 {
                match one_call(&sim, &kv, &mut policy, key, skew, caller, &ledger).await {
                    Ended::Told(body) => {
                        let mut ledger = ledger.borrow_mut();
                        let at = sim.now_ms();
                        ledger.told.entry(key).or_default().push((at, body));
                        return;
                    }
                    Ended::Retry => sim.sleep(1_000 + sim.below(20_000)).await,
                }
            }
        });
    }
    sim.run(|_| one_published_result(&ledger.borrow(), seed));
    // A key is usable after the longest lease and every schedule: a caller without trouble is answered.
    sim.set_faults(Faults::NONE);
    for key in 0..keys as usize {
        let (kv, ledger, sim_) = (store(&sim), ledger.clone(), sim.clone());
        let at = sim.now_ms() + 31_000 + 4_000;
        sim.spawn(at, async move {
            let sim = sim_;
            let mut policy = Idempotency::new(settings());
            for _ in 0..40 {
                if let Ended::Told(body) =
                    one_call(&sim, &kv, &mut policy, key, 0, 1_000, &ledger).await
                {
                    let mut ledger = ledger.borrow_mut();
                    ledger
                        .told
                        .entry(key)
                        .or_default()
                        .push((sim.now_ms(), body));
                    return;
                }
                sim.sleep(5_000).await;
            }
            panic!("key {key} is not usable after its lease");
        });
    }
    sim.run(|_| one_published_result(&ledger.borrow(), seed));
    let ledger = ledger.borrow();
    for key in 0..keys as usize {
        assert!(
            ledger.told.contains_key(&key),
            "seed {seed}: key {key} was never answered"
        );
    }
    // Five entries for each epoch that was claimed, and the index; entries of callers that died before registering are in
    // the bound as well.
    let bound = 6 * (ledger.runs as usize + callers as usize * 6) + 40;
    assert!(sim.live_entries() <= bound, "seed {seed}");
    (ledger.runs, sim.live_entries())
}

fn seeds() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("PENSTOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("PENSTOCK_SCHEDULES").unwrap_or(100_000)),
    }
}

/// 100,000 schedules by default. `PENSTOCK_SEED=n` replays one, `PENSTOCK_SCHEDULES=n` runs more.
#[test]
fn under_losses_delays_and_crashes_one_epoch_runs_once_and_one_result_is_told() {
    let (first, count) = seeds();
    let threads = 2.min(count);
    let runs: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut runs = 0;
                    for seed in (first + thread..first + count).step_by(threads as usize) {
                        runs += schedule(seed);
                    }
                    runs
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("the seed is in the message above"))
            .sum()
    });
    println!("{count} schedules, {runs} runs of the model");
    assert!(runs >= count, "every schedule runs something");
}

fn schedule(seed: u64) -> u64 {
    let result = std::panic::catch_unwind(|| {
        // Some at noon, some across the end of a period.
        let midnight = NOON_MS / 86_400_000 * 86_400_000 + 86_400_000;
        let now_ms = match seed % 3 {
            0 => NOON_MS,
            1 => midnight - 2_000,
            _ => midnight - 45_000,
        };
        let faults = match seed % 4 {
            0 => Faults::NONE,
            1 => Faults {
                lost_request: 30,
                lost_reply: 30,
                long_delay: 30,
                long_ms: 5_000,
                crash: 10,
            },
            2 => Faults {
                lost_request: 0,
                lost_reply: 100,
                long_delay: 100,
                long_ms: 8_000,
                crash: 60,
            },
            // Delays longer than a lease: no clock can be trusted.
            _ => Faults {
                lost_request: 10,
                lost_reply: 10,
                long_delay: 80,
                long_ms: 100_000,
                crash: 20,
            },
        };
        run(&Schedule {
            seed,
            now_ms,
            callers: 2 + seed % 7,
            keys: 1 + seed % 2,
            faults,
        })
    });
    match result {
        Ok((runs, _)) => runs,
        Err(panic) => {
            eprintln!("failed with PENSTOCK_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn sixty_four_racers_run_a_call_once() {
    for seed in 0..200 {
        let sim = Sim::new(seed, NOON_MS, Faults::NONE);
        let granted = Rc::new(RefCell::new(0));
        for _ in 0..64 {
            let (kv, granted, sim_) = (sim.kv(), granted.clone(), sim.clone());
            sim.spawn(NOON_MS, async move {
                let mut policy = Idempotency::new(settings());
                let (scope, print) = (scope("k"), Fingerprint::of(&call(b"1")));
                let looked = policy.look_up(&kv, &scope, &print, sim_.now_ms()).await;
                if let Ok(RecordState::Free(slot)) = looked {
                    let claimed = policy
                        .claim(&kv, &scope, &print, &slot, sim_.now_ms(), sim_.below(99))
                        .await;
                    if let Ok(ClaimResult::Granted(_)) = claimed {
                        *granted.borrow_mut() += 1;
                    }
                }
            });
        }
        sim.run(|_| {});
        assert_eq!(*granted.borrow(), 1, "seed {seed}");
    }
}

#[test]
fn counters_are_only_incremented_and_values_only_set() {
    // SimKv panics otherwise, which every test above relies on; here is the proof that it does.
    for misuse in [0, 1] {
        let caught = std::panic::catch_unwind(|| {
            let sim = Sim::new(1, NOON_MS, Faults::NONE);
            let kv = sim.kv();
            sim.spawn(NOON_MS, async move {
                kv.increment("c", 1).await.unwrap();
                match misuse {
                    0 => drop(kv.get("c").await),
                    _ => drop(kv.set("c", b"1").await),
                }
            });
            sim.run(|_| {});
        });
        assert!(caught.is_err(), "misuse {misuse}");
    }
}
