//! A cache's places on a store in memory: tables first, and then a simulation of many callers over a store that loses,
//! delays and outlives them.

use penstock_core::Kv;
use penstock_core::kv::run_ready;
use penstock_policy::cache::place::ENTRIES_OF_A_PLACE;
use penstock_policy::cache::words::NO_TICKET;
use penstock_policy::cache::{Address, Lookup, StoredResult};
use penstock_testkit::{Faults, MemoryKv, Sim, SimKv};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const NOON_MS: u64 = 1_795_262_400_000;
const TTL_MS: u64 = 60_000;
const LEASE_MS: u32 = 2_000;

/// The digest of a number; where it is kept among two places follows from it being even.
fn digest(of: u8) -> [u8; 32] {
    [of; 32]
}

fn address(places: u32, of: u8) -> Address {
    Address::new("m", places, &digest(of), LEASE_MS).expect("it can be")
}

fn look(kv: &MemoryKv, at: &Address, now_ms: u64) -> Lookup {
    run_ready(at.look_up(kv, now_ms - TTL_MS, None, now_ms)).expect("the store answers")
}

fn begin(kv: &MemoryKv, at: &Address, now_ms: u64) -> u64 {
    match look(kv, at, now_ms) {
        Lookup::Run(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn hit(value: &[u8], kept_ms: u64) -> Lookup {
    Lookup::Hit(StoredResult {
        value: value.to_vec(),
        kept_ms,
    })
}

#[test]
fn a_result_is_found_until_it_is_too_old_for_who_asks() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    let ticket = begin(&kv, &at, NOON_MS);
    let kept_ms = NOON_MS + 40;
    run_ready(at.keep(&kv, ticket, b"one", kept_ms)).unwrap();
    for ago in [0, 1, TTL_MS - 1, TTL_MS] {
        assert_eq!(look(&kv, &at, kept_ms + ago), hit(b"one", kept_ms));
    }
    // Younger than it is: the next flight, of which there is one.
    let later = kept_ms + 10_000;
    let younger = |waiting| run_ready(at.look_up(&kv, later - 9_999, waiting, later));
    assert!(matches!(younger(None), Ok(Lookup::Run(_))));
    assert_eq!(younger(None), Ok(Lookup::Wait));
    // A caller that accepts its age gets it meanwhile.
    assert_eq!(look(&kv, &at, later), hit(b"one", kept_ms));
}

#[test]
fn another_question_is_never_answered_and_its_caller_never_held_up() {
    let kv = MemoryKv::default();
    let (one, other) = (address(1, 1), address(1, 2));
    let ticket = begin(&kv, &one, NOON_MS);
    assert_eq!(look(&kv, &one, NOON_MS), Lookup::Wait);
    assert_eq!(look(&kv, &other, NOON_MS), Lookup::Bypass);
    run_ready(one.keep(&kv, ticket, b"one", NOON_MS)).unwrap();
    // It overwrites the place, so the first call runs again.
    let ticket = begin(&kv, &other, NOON_MS);
    assert_eq!(look(&kv, &one, NOON_MS), hit(b"one", NOON_MS));
    run_ready(other.keep(&kv, ticket, b"other", NOON_MS)).unwrap();
    assert_eq!(look(&kv, &other, NOON_MS), hit(b"other", NOON_MS));
    begin(&kv, &one, NOON_MS);
}

#[test]
fn a_run_that_came_to_nothing_lets_the_next_one_begin_at_once() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    for _ in 0..20 {
        let ticket = begin(&kv, &at, NOON_MS);
        assert_eq!(look(&kv, &at, NOON_MS), Lookup::Wait);
        run_ready(at.release(&kv, ticket)).unwrap();
    }
}

#[test]
fn a_runner_that_dies_is_replaced_by_one_when_its_lease_is_over() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    for life in 0..20 {
        let now_ms = NOON_MS + life * u64::from(LEASE_MS);
        begin(&kv, &at, now_ms);
        let last_ms = now_ms + u64::from(LEASE_MS) - 1;
        for now_ms in [now_ms, now_ms + 1, last_ms] {
            assert_eq!(look(&kv, &at, now_ms), Lookup::Wait);
        }
    }
}

#[test]
fn nobody_waits_for_ever() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    begin(&kv, &at, NOON_MS);
    let lease_ms = u64::from(LEASE_MS);
    let again =
        |now_ms| run_ready(at.look_up(&kv, 0, Some(NOON_MS), now_ms)).expect("the store answers");
    assert_eq!(again(NOON_MS + lease_ms - 1), Lookup::Wait);
    assert!(matches!(again(NOON_MS + lease_ms), Lookup::Run(_)));
    assert_eq!(again(NOON_MS + 2 * lease_ms - 1), Lookup::Wait);
    assert_eq!(again(NOON_MS + 2 * lease_ms), Lookup::Bypass);
}

#[test]
fn a_run_beyond_its_lease_is_kept_unless_a_later_one_was() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    let slow = begin(&kv, &at, NOON_MS);
    let later = NOON_MS + 2_500;
    let next = begin(&kv, &at, later);
    run_ready(at.keep(&kv, slow, b"slow", later)).unwrap();
    assert_eq!(look(&kv, &at, later), hit(b"slow", later));
    run_ready(at.keep(&kv, next, b"next", later + 1)).unwrap();
    run_ready(at.keep(&kv, slow, b"slow", later + 2)).unwrap();
    assert_eq!(look(&kv, &at, later + 2), hit(b"next", later + 1));
}

#[test]
fn the_result_of_a_run_without_a_lookup_is_found_too() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    run_ready(at.keep(&kv, NO_TICKET, b"first", NOON_MS)).unwrap();
    assert_eq!(look(&kv, &at, NOON_MS), hit(b"first", NOON_MS));
    let other = address(1, 2);
    let ticket = begin(&kv, &other, NOON_MS);
    run_ready(at.keep(&kv, NO_TICKET, b"again", NOON_MS + 1)).unwrap();
    assert_eq!(look(&kv, &at, NOON_MS + 1), hit(b"again", NOON_MS + 1));
    // The flight goes on beside it.
    assert_eq!(look(&kv, &other, NOON_MS + 1), Lookup::Wait);
    run_ready(other.keep(&kv, ticket, b"other", NOON_MS + 2)).unwrap();
    assert_eq!(look(&kv, &other, NOON_MS + 2), hit(b"other", NOON_MS + 2));
}

#[test]
fn a_result_of_a_time_that_is_not_yet_is_not_believed() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    run_ready(at.keep(&kv, NO_TICKET, b"one", NOON_MS + 3_600_000)).unwrap();
    let ticket = begin(&kv, &at, NOON_MS);
    run_ready(at.keep(&kv, ticket, b"two", NOON_MS)).unwrap();
    assert_eq!(look(&kv, &at, NOON_MS), hit(b"two", NOON_MS));
}

#[test]
fn a_place_whose_claims_are_all_dead_comes_back() {
    let kv = MemoryKv::default();
    let at = address(1, 1);
    for claim in 0..8 {
        let name = format!("cache-flight:m:0:{claim}");
        run_ready(kv.increment(&name, NOON_MS as i64 - 3_600_000)).unwrap();
    }
    assert_eq!(look(&kv, &at, NOON_MS), Lookup::Bypass);
    let ticket = begin(&kv, &at, NOON_MS);
    run_ready(at.keep(&kv, ticket, b"one", NOON_MS)).unwrap();
    assert_eq!(look(&kv, &at, NOON_MS), hit(b"one", NOON_MS));
}

#[test]
fn a_store_that_fails_is_said_to_and_a_result_too_large_is_not_kept() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    let large = vec![0; (3 << 20) + 1];
    assert!(run_ready(at.keep(&kv, NO_TICKET, &large, NOON_MS)).is_err());
    assert_eq!(kv.names(), [] as [&str; 0]);
    kv.set_failing(true);
    assert!(run_ready(at.look_up(&kv, 0, None, NOON_MS)).is_err());
    assert!(run_ready(at.keep(&kv, 1, b"x", NOON_MS)).is_err());
    assert!(run_ready(at.release(&kv, 1)).is_err());
}

#[test]
fn a_hit_is_one_operation_of_the_store() {
    let (kv, at) = (MemoryKv::default(), address(1, 1));
    run_ready(at.keep(&kv, NO_TICKET, b"one", NOON_MS)).unwrap();
    let before = kv.operations();
    look(&kv, &at, NOON_MS);
    assert_eq!(kv.operations() - before, 1);
}

// ---------------------------------------------------------------------------------------------------
// Simulation

/// A run that a caller was told to make.
struct Running {
    place: u8,
    /// The time its claim carries.
    dated_ms: u64,
    ended: bool,
}

#[derive(Default)]
struct Ledger {
    running: Vec<Running>,
    /// Runs made because the cache said so.
    runs: u64,
    /// Runs made beside it.
    beside: u64,
    hits: u64,
    /// Runs that began while another of the place was within its lease.
    doubled: u64,
    started: u64,
    ended: u64,
    died: u64,
    longest_wait_ms: u64,
}

/// Notes whether a caller came to its end.
struct Life {
    ledger: Rc<RefCell<Ledger>>,
    ended: Cell<bool>,
}

impl Life {
    fn new(ledger: &Rc<RefCell<Ledger>>) -> Self {
        ledger.borrow_mut().started += 1;
        Self {
            ledger: ledger.clone(),
            ended: Cell::new(false),
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut ledger = self.ledger.borrow_mut();
        match self.ended.get() {
            true => ledger.ended += 1,
            false => ledger.died += 1,
        }
    }
}

/// The times and failures of simulated runs.
#[derive(Clone, Copy)]
struct RunBehaviour {
    /// Milliseconds of a usual run.
    run_ms: u64,
    /// The number of 16 runs that take longer than the lease.
    slow: u64,
    /// The number of 16 runs that fail.
    fail: u64,
}

#[allow(clippy::too_many_arguments)]
async fn one_call(
    sim: &Sim,
    kv: &SimKv,
    places: u32,
    of: u8,
    skew: i64,
    behaviour: RunBehaviour,
    slack_ms: u64,
    ledger: &Rc<RefCell<Ledger>>,
) -> bool {
    let at = address(places, of);
    let place = (of as u32 % places) as u8;
    let clock = || sim.now_ms().saturating_add_signed(skew);
    let began_ms = sim.now_ms();
    let mut waiting = None;
    loop {
        let now_ms = clock();
        let looked = at.look_up(kv, now_ms - TTL_MS, waiting, now_ms).await;
        let waited_ms = sim.now_ms() - began_ms;
        match looked {
            Ok(Lookup::Wait) => {
                waiting.get_or_insert(now_ms);
                sim.sleep(3 + sim.below(5)).await;
                continue;
            }
            Ok(Lookup::Hit(kept)) => {
                assert_eq!(
                    kept.value.first(),
                    Some(&of),
                    "the result of another question"
                );
                ledger.borrow_mut().hits += 1;
            }
            Ok(Lookup::Run(ticket)) => {
                let id = {
                    let mut ledger = ledger.borrow_mut();
                    let lease_ms = u64::from(LEASE_MS);
                    let doubled = ledger.running.iter().any(|other| {
                        other.place == place
                            && !other.ended
                            && other.dated_ms + lease_ms > sim.now_ms() + slack_ms
                    });
                    ledger.doubled += u64::from(doubled);
                    ledger.runs += 1;
                    ledger.running.push(Running {
                        place,
                        dated_ms: now_ms,
                        ended: false,
                    });
                    ledger.running.len() - 1
                };
                let run_ms = if sim.below(16) < behaviour.slow {
                    sim.below(6_000)
                } else {
                    sim.below(behaviour.run_ms + 1)
                };
                sim.sleep(run_ms).await;
                ledger.borrow_mut().running[id].ended = true;
                if sim.below(16) < behaviour.fail {
                    let _ = at.release(kv, ticket).await;
                } else {
                    let value = [of, ticket as u8];
                    let _ = at.keep(kv, ticket, &value, clock()).await;
                }
            }
            Ok(Lookup::Bypass) | Err(_) => {
                ledger.borrow_mut().beside += 1;
                sim.sleep(sim.below(behaviour.run_ms + 1)).await;
                // A caller that asked for a run stores its result.
                if sim.below(8) == 0 {
                    let _ = at.keep(kv, NO_TICKET, &[of, 0], clock()).await;
                }
                let mut ledger = ledger.borrow_mut();
                ledger.longest_wait_ms = ledger.longest_wait_ms.max(waited_ms);
                return false;
            }
        }
        let mut ledger = ledger.borrow_mut();
        ledger.longest_wait_ms = ledger.longest_wait_ms.max(waited_ms);
        return true;
    }
}

/// The events of one schedule.
struct Events {
    runs: u64,
    hits: u64,
    doubled: u64,
}

fn schedule(seed: u64) -> Events {
    let result = std::panic::catch_unwind(|| simulate(seed));
    result.unwrap_or_else(|panic| {
        eprintln!("failed with PENSTOCK_SEED={seed}");
        std::panic::resume_unwind(panic);
    })
}

/// Returns whether a schedule's store answers all reads of one lookup within a lease.
fn is_prompt(seed: u64) -> bool {
    seed % 4 != 3
}

fn simulate(seed: u64) -> Events {
    let faults = match seed % 4 {
        0 => Faults::NONE,
        1 => Faults {
            lost_request: 30,
            lost_reply: 30,
            long_delay: 100,
            long_ms: 50,
            crash: 15,
        },
        2 => Faults {
            lost_request: 0,
            lost_reply: 80,
            long_delay: 50,
            long_ms: 50,
            crash: 60,
        },
        // Longer than a lease: claims, intents and records arrive when everything has changed.
        _ => Faults {
            lost_request: 10,
            lost_reply: 10,
            long_delay: 120,
            long_ms: 10_000,
            crash: 20,
        },
    };
    let behaviour = RunBehaviour {
        run_ms: [5, 60, 400][(seed / 4 % 3) as usize],
        slow: seed / 8 % 2,
        fail: seed / 16 % 3,
    };
    let places = 1 + (seed / 3 % 2) as u32;
    let digests = 1 + (seed / 5 % 4) as u8;
    // Machines' clocks differ by up to a tenth of a second.
    let skews: [i64; 3] = if seed.is_multiple_of(2) {
        [0; 3]
    } else {
        [0, 50, -50]
    };
    let sim = Sim::new(seed, NOON_MS, faults);
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let callers = 2 + seed % 11;
    for caller in 0..callers {
        let (kv, ledger, sim_) = (sim.kv(), ledger.clone(), sim.clone());
        let of = sim.below(u64::from(digests)) as u8;
        let start = NOON_MS + sim.below([1, 50, 3_000][(seed / 7 % 3) as usize]);
        sim.spawn(start, async move {
            let sim = sim_;
            let life = Life::new(&ledger);
            for _ in 0..3 {
                let skew = skews[(caller % 3) as usize];
                one_call(&sim, &kv, places, of, skew, behaviour, 150, &ledger).await;
                sim.sleep(sim.below(200)).await;
            }
            life.ended.set(true);
        });
    }
    let most = u64::from(places) * ENTRIES_OF_A_PLACE;
    let check = |sim: &Sim| {
        assert!(sim.live_entries() as u64 <= most, "entries pile up");
        assert!(
            sim.now_ms() < NOON_MS + 600_000,
            "somebody is still at it after ten minutes"
        );
    };
    sim.run(check);
    {
        let ledger = ledger.borrow();
        assert_eq!(ledger.started, ledger.ended + ledger.died);
        if faults.crash == 0 {
            assert_eq!(ledger.died, 0);
        }
        if is_prompt(seed) {
            assert_eq!(ledger.doubled, 0, "two run at once within a lease");
            // Two leases, and the look that finds that they are over.
            assert!(
                ledger.longest_wait_ms < 2 * u64::from(LEASE_MS) + 2_000,
                "{}",
                ledger.longest_wait_ms
            );
        }
    }
    // A place is usable again after every schedule: a caller without faults is answered from the cache.
    sim.set_faults(Faults::NONE);
    let usable = Rc::new(Cell::new(0));
    for of in 0..digests {
        let (kv, ledger, sim_, usable) = (sim.kv(), ledger.clone(), sim.clone(), usable.clone());
        let at = sim.now_ms() + u64::from(of) * 60_000;
        sim.spawn(at, async move {
            let sim = sim_;
            let behaviour = RunBehaviour {
                run_ms: 20,
                slow: 0,
                fail: 0,
            };
            for _ in 0..8 {
                let hits = ledger.borrow().hits;
                one_call(&sim, &kv, places, of, 0, behaviour, 0, &ledger).await;
                if ledger.borrow().hits > hits {
                    usable.set(usable.get() + 1);
                    return;
                }
                sim.sleep(u64::from(LEASE_MS)).await;
            }
        });
    }
    sim.run(|sim| assert!(sim.live_entries() as u64 <= most, "entries pile up"));
    assert_eq!(usable.get(), u32::from(digests), "a place is stuck");
    let ledger = ledger.borrow();
    Events {
        runs: ledger.runs,
        hits: ledger.hits,
        doubled: ledger.doubled,
    }
}

fn seeds() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("PENSTOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("PENSTOCK_SCHEDULES").unwrap_or(20_000)),
    }
}

/// `PENSTOCK_SEED=n` replays one schedule, `PENSTOCK_SCHEDULES=n` runs more.
#[test]
fn under_losses_delays_and_crashes_no_result_is_anothers_and_one_runs_within_a_lease() {
    let (first, count) = seeds();
    let mut all = Events {
        runs: 0,
        hits: 0,
        doubled: 0,
    };
    for seed in first..first + count {
        let told = schedule(seed);
        all.runs += told.runs;
        all.hits += told.hits;
        all.doubled += told.doubled;
    }
    let Events {
        runs,
        hits,
        doubled,
    } = all;
    println!("{count} schedules, {runs} runs, {hits} hits; {doubled} runs doubled by slow stores");
    assert!(runs >= count && hits >= count, "every schedule has both");
}

#[test]
fn of_many_identical_misses_one_runs_and_all_others_have_its_result() {
    for seed in 0..200 {
        let sim = Sim::new(seed, NOON_MS, Faults::NONE);
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let behaviour = RunBehaviour {
            run_ms: 300,
            slow: 0,
            fail: 0,
        };
        for _ in 0..64 {
            let (kv, ledger, sim_) = (sim.kv(), ledger.clone(), sim.clone());
            sim.spawn(NOON_MS + sim.below(20), async move {
                one_call(&sim_, &kv, 4, 1, 0, behaviour, 0, &ledger).await;
            });
        }
        sim.run(|_| {});
        let ledger = ledger.borrow();
        let told = (ledger.runs, ledger.hits, ledger.beside);
        assert_eq!(told, (1, 63, 0), "seed {seed}");
    }
}
