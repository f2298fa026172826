//! Rollouts in numbers and in time. The tests measure how exactly callers are spread and how firmly they stay, how soon a
//! bad canary ends and how seldom a good one does. They also check the document while several administrators and many
//! instances change it. The store loses and delays, and callers die in the middle of things.
//!
//! `PENSTOCK_SEED=n` replays one schedule, `PENSTOCK_SCHEDULES=n` runs more.

use penstock_core::ModelVersion;
use penstock_policy::rollout::edit::{Change, Environment};
use penstock_policy::rollout::judge::{
    self, Judgement, Outcome, counter, is_to_judge, judge, numbers,
};
use penstock_policy::rollout::store::{self, Tallies};
use penstock_policy::rollout::{
    Alias, Arm, Bounds, Chosen, Percent, RolloutQuery, Rollouts, SplitArm, Target, Version, Why,
};
use penstock_testkit::sim::Entry;
use penstock_testkit::{Faults, Random, Sim, SimKv};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const NOON_MS: u64 = 1_795_262_400_000;
const CALLERS: u64 = 100_000;
const MS: u64 = 1_000_000;

fn versions() -> Vec<ModelVersion> {
    ["1", "2", "3"]
        .map(|n| ModelVersion::parse(n).unwrap())
        .to_vec()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn alias(text: &str) -> Alias {
    Alias::parse(text).unwrap()
}

fn change(rollouts: &mut Rollouts, change: Change, random: u64) {
    let around = Environment {
        versions: &versions(),
        rolled_back: None,
        now_ms: NOON_MS,
        random,
    };
    rollouts.change("m", change, &around).unwrap();
}

/// `stable` is version 1 and the default.
fn with_stable() -> Rollouts {
    let mut rollouts = Rollouts::new();
    let set = Change::SetAlias {
        alias: alias("stable"),
        version: version(1),
    };
    change(&mut rollouts, set, 0);
    let to = Some(Target::Alias(alias("stable")));
    change(&mut rollouts, Change::SetDefault { to }, 0);
    rollouts
}

fn ask(rollouts: &Rollouts, caller: &str) -> Chosen {
    let asked = RolloutQuery {
        pinned: None,
        caller,
        header: &|_| None,
        versions: &versions(),
        ready: &|_| true,
        rolled_back: &|_| false,
        now_ms: NOON_MS,
        random: 0,
    };
    rollouts.choose("m", &asked).unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs schedules one after the other and says which one failed.
fn schedules(count: u64, mut run: impl FnMut(u64)) -> u64 {
    let (first, count) = match number("PENSTOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("PENSTOCK_SCHEDULES").unwrap_or(count)),
    };
    for seed in first..first + count {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = ran {
            eprintln!("failed with PENSTOCK_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    count
}

/// Callers as they are: keys of tenants, subjects, addresses.
fn callers(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let caller = |n: u64| match n % 3 {
        0 => format!("tenant{}\0k{:x}", n % 50, random.bits()),
        1 => format!("acme\0suser-{n}"),
        _ => format!(
            "anonymous\0a10.{}.{}.{}",
            n >> 16 & 255,
            n >> 8 & 255,
            n & 255
        ),
    };
    (0..CALLERS).map(caller).collect()
}

#[test]
fn a_canary_gets_its_part_of_the_callers_within_one_percent_and_who_is_in_stays_in() {
    let mut worst: f64 = 0.0;
    schedules(1, |seed| {
        let callers = callers(seed);
        let mut rollouts = with_stable();
        let percent = Percent::new(0.0).unwrap();
        let start = Change::StartCanary {
            version: version(2),
            percent,
            rollback: Some(Bounds::default()),
        };
        change(&mut rollouts, start, Random::new(seed).bits());
        let mut before = BTreeSet::new();
        for percentage in [0.0, 0.5, 5.25, 50.0, 100.0] {
            let set = Change::SetCanary {
                percent: Percent::new(percentage),
                rollback: None,
            };
            change(&mut rollouts, set, 0);
            let tries = |caller: &&String| ask(&rollouts, caller).version.get() == 2;
            let inside: BTreeSet<&String> = callers.iter().filter(tries).collect();
            // Another time, another instance: always the same.
            let read = Rollouts::parse(&rollouts.text()).unwrap();
            for caller in &callers {
                let chosen = ask(&read, caller);
                assert_eq!(chosen.version.get() == 2, inside.contains(caller));
                let arm = if inside.contains(caller) {
                    Arm::Canary
                } else {
                    Arm::Stable
                };
                assert_eq!(chosen.canary.unwrap().1, arm);
            }
            let lost = before.difference(&inside).count();
            assert_eq!(lost, 0, "who was in is out at {percentage} %");
            let off = (inside.len() as f64 / CALLERS as f64 * 100.0 - percentage).abs();
            assert!(off < 1.0, "{percentage} % are {} callers", inside.len());
            worst = worst.max(off);
            before = inside;
        }
    });
    println!("a canary's part is off by at most {worst:.3} points, at {CALLERS} callers");
}

#[test]
fn a_split_gives_each_arm_its_part_within_one_percent_and_other_runs_draw_others() {
    let mut worst: f64 = 0.0;
    schedules(1, |seed| {
        let callers = callers(seed);
        let split = |random| {
            let mut rollouts = with_stable();
            let arm = |number, weight| SplitArm {
                to: Target::Version(version(number)),
                weight,
            };
            let arms = vec![arm(1, 50), arm(2, 30), arm(3, 20)];
            let split = Some((arms, None));
            change(&mut rollouts, Change::SetSplit { split }, random);
            rollouts
        };
        let mut random = Random::new(seed);
        let (one, other) = (split(random.bits()), split(random.bits()));
        let (mut counts, mut same) = (BTreeMap::new(), 0);
        for caller in &callers {
            let chosen = ask(&one, caller);
            assert_eq!(chosen, ask(&one, caller), "a caller stays");
            assert!(matches!(chosen.why, Why::Split(_)));
            same += u64::from(chosen.version == ask(&other, caller).version);
            *counts.entry(chosen.version.get()).or_insert(0_u64) += 1;
        }
        for (version, percentage) in [(1, 50.0), (2, 30.0), (3, 20.0)] {
            let off = (counts[&version] as f64 / CALLERS as f64 * 100.0 - percentage).abs();
            assert!(off < 1.0, "{counts:?}");
            worst = worst.max(off);
        }
        // Two splits that have nothing to do with each other agree on 0.25 + 0.09 + 0.04 of the callers.
        let agree = same as f64 / CALLERS as f64;
        assert!((agree - 0.38).abs() < 0.01, "{agree}");
    });
    println!("an arm's part is off by at most {worst:.3} points, at {CALLERS} callers");
}

/// The behaviour of a version.
#[derive(Clone, Copy)]
struct Does {
    /// The number of failures in a thousand calls.
    failed_permille: u64,
    /// The median of its latencies; one in a hundred takes five times as long.
    latency_ns: u64,
}

impl Does {
    fn call(self, random: &mut Random) -> (Outcome, u64) {
        if random.permille(self.failed_permille) {
            return (Outcome::Failed, 0);
        }
        // Half as long to half as long again.
        let latency_ns = self.latency_ns / 2 + random.below(self.latency_ns);
        let slow = if random.permille(10) { 5 } else { 1 };
        (Outcome::Served, latency_ns * slow)
    }
}

/// Calls of a run until it is rolled back, all and those of the canary; `None` where it does not within `most` calls.
fn until_rollback(
    seed: u64,
    percentage: u64,
    stable: Does,
    canary: Does,
    most: u64,
) -> Option<(u64, u64)> {
    let mut random = Random::new(seed);
    let bounds = Bounds::default();
    let mut tallies = vec![0; judge::COUNTERS as usize];
    let mut tried = 0;
    for n in 1..=most {
        let (arm, does) = match random.below(100) < percentage {
            true => (Arm::Canary, canary),
            false => (Arm::Stable, stable),
        };
        tried += u64::from(arm == Arm::Canary);
        let (outcome, latency_ns) = does.call(&mut random);
        tallies[counter(arm, outcome, latency_ns) as usize] += 1;
        if is_to_judge(arm, outcome, random.bits())
            && let Judgement::RollBack(_) = judge(&tallies, &bounds)
        {
            return Some((n, tried));
        }
    }
    None
}

/// A canary that does as well is hardly ever rolled back, however often it is judged; one that exceeds its bound does soon.
#[test]
fn noise_rolls_no_canary_back_and_a_bad_one_is_rolled_back_within_its_bound() {
    let well = Does {
        failed_permille: 10,
        latency_ns: 3 * MS,
    };
    let failing = |failed_permille| Does {
        failed_permille,
        ..well
    };
    let slower = |times| Does {
        latency_ns: well.latency_ns * times,
        ..well
    };
    const CALLS: u64 = 20_000;
    for (name, stable, canary) in [
        ("as good", well, well),
        ("within the bound of errors", well, failing(25)),
        ("both failing often", failing(200), failing(200)),
        (
            "a little slower",
            well,
            Does {
                latency_ns: 4 * MS,
                ..well
            },
        ),
        ("better", failing(200), well),
    ] {
        for percentage in [2, 10, 50] {
            let mut rolled_back = 0;
            let count = schedules(50, |seed| {
                rolled_back +=
                    u64::from(until_rollback(seed, percentage, stable, canary, CALLS).is_some());
            });
            println!(
                "{name}, {percentage} %: {rolled_back} of {count} runs of {CALLS} calls are rolled back"
            );
            assert!(
                rolled_back * 100 <= count,
                "{rolled_back} of {count} runs are rolled back for nothing"
            );
        }
    }
    // Calls of the canary within which a run must have ended, nine times in ten.
    for (name, canary, bound) in [
        ("all fail", failing(1_000), 80),
        ("half fail", failing(500), 100),
        ("one in five fails", failing(200), 300),
        ("one in ten fails", failing(100), 1_000),
        ("eight times as slow", slower(8), 700),
    ] {
        for percentage in [2, 10, 50] {
            let mut took = Vec::new();
            let count = schedules(50, |seed| {
                let (_, tried) = until_rollback(seed, percentage, well, canary, 20 * CALLS)
                    .expect("a bad canary is rolled back");
                took.push(tried);
            });
            took.sort_unstable();
            let at = |part: usize| took[(took.len() - 1) * part / 100];
            println!(
                "{name}, {percentage} %: ended after {} calls of the canary in the middle, {} at p90, {} at most, of {count} runs",
                at(50),
                at(90),
                at(100)
            );
            assert!(at(90) <= bound, "{name}: {} calls", at(90));
        }
    }
}

/// The state of several instances that count for one run.
struct Instances {
    sim: Sim,
    id: u64,
    canary_calls: Rc<RefCell<u64>>,
    calls_after_rollback: Rc<RefCell<u64>>,
    rolled_back_ms: Rc<RefCell<Option<u64>>>,
    firsts: Rc<RefCell<u64>>,
}

/// The document that an instance caches, and until when.
const REFRESH_MS: u64 = 1_000;

impl Instances {
    /// Runs one instance: calls, counts, judges and ends; it dies where the simulation says, and another takes its place.
    async fn serve(self: Rc<Self>, kv: SimKv, canary: Does, until_ms: u64, seed: u64) {
        let (sim, id) = (&self.sim, self.id);
        let mut random = Random::new(seed);
        let bounds = Bounds {
            window_s: 20,
            ..Bounds::default()
        };
        let stable = Does {
            failed_permille: 10,
            latency_ns: 3 * MS,
        };
        let mut tallies = Tallies::default();
        let mut known = (0, false);
        while sim.now_ms() < until_ms {
            sim.sleep(5 + sim.below(20)).await;
            let now_ms = sim.now_ms();
            if known.0 + REFRESH_MS <= now_ms {
                match store::rolled_back(&kv, "m", id).await {
                    Ok(why) => known = (now_ms, why.is_some()),
                    Err(_) => continue,
                }
            }
            if known.1 {
                return;
            }
            let (arm, does) = match random.permille(200) {
                true => (Arm::Canary, canary),
                false => (Arm::Stable, stable),
            };
            if arm == Arm::Canary {
                *self.canary_calls.borrow_mut() += 1;
                if let Some(rolled_back_ms) = *self.rolled_back_ms.borrow()
                    && sim.now_ms() > rolled_back_ms + REFRESH_MS
                {
                    *self.calls_after_rollback.borrow_mut() += 1;
                }
            }
            let (outcome, latency_ns) = does.call(&mut random);
            let now_ms = sim.now_ms();
            let (number, before) = numbers(id, NOON_MS, &bounds, now_ms);
            let _ = tallies
                .tally(&kv, "m", number, counter(arm, outcome, latency_ns))
                .await;
            if !is_to_judge(arm, outcome, random.bits()) {
                continue;
            }
            let count = judge::COUNTERS;
            let (Ok(mut sums), Ok(earlier)) = (
                store::tallies(&kv, "m", number, count).await,
                store::tallies(&kv, "m", before, count).await,
            ) else {
                continue;
            };
            for (sum, more) in sums.iter_mut().zip(earlier) {
                *sum += more;
            }
            if let Judgement::RollBack(why) = judge(&sums, &bounds)
                && let Ok(first) = store::roll_back(&kv, "m", id, &why).await
            {
                *self.firsts.borrow_mut() += u64::from(first);
                known = (sim.now_ms(), true);
            }
        }
    }
}

/// Whether the run ended, after how many of its calls.
fn instances(seed: u64, failed_permille: u64) -> (bool, u64) {
    let faults = Faults {
        // To judge takes some 170 operations, and all must succeed.
        lost_request: seed % 2,
        lost_reply: seed / 2 % 2,
        long_delay: 5,
        long_ms: 400,
        crash: seed / 4 % 2,
    };
    let sim = Sim::new(seed, NOON_MS, faults);
    let all = Rc::new(Instances {
        sim: sim.clone(),
        id: 64,
        canary_calls: Rc::default(),
        calls_after_rollback: Rc::default(),
        rolled_back_ms: Rc::default(),
        firsts: Rc::default(),
    });
    let canary = Does {
        failed_permille,
        latency_ns: 3 * MS,
    };
    let until_ms = NOON_MS + 120_000;
    // If one dies, another has begun already.
    for n in 0..48 {
        let at_ms = NOON_MS + (n / 4) * 10_000;
        sim.spawn(
            at_ms,
            all.clone()
                .serve(sim.kv(), canary, until_ms, seed * 100 + n),
        );
    }
    let name = format!("rollouts:tripped:m:{}", all.id);
    sim.run(|sim| {
        if all.rolled_back_ms.borrow().is_none() && sim.entries().contains_key(&name) {
            *all.rolled_back_ms.borrow_mut() = Some(sim.now_ms());
        }
    });
    assert!(*all.firsts.borrow() <= 1, "ended twice");
    // A reply may be under way for a while, and a call begun before.
    let late = *all.calls_after_rollback.borrow();
    assert!(
        late <= 8,
        "{late} calls of the canary long after it was ended"
    );
    let entries = sim.live_entries();
    assert!(
        entries <= 3 * judge::COUNTERS as usize + 2,
        "{entries} entries"
    );
    let rolled_back = all.rolled_back_ms.borrow().is_some();
    (rolled_back, *all.canary_calls.borrow())
}

#[test]
fn instances_that_read_late_and_die_end_a_bad_canary_once_and_a_good_one_never() {
    let mut took = Vec::new();
    let count = schedules(8, |seed| {
        let (rolled_back, calls) = instances(seed, 500);
        assert!(rolled_back, "a canary that fails half its calls goes on");
        took.push(calls);
        let (rolled_back, _) = instances(seed, 10);
        assert!(!rolled_back, "a good canary was ended");
    });
    took.sort_unstable();
    let (middle, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{count} schedules: ended after {middle} calls of the canary in the middle, {most} at most"
    );
    assert!(most <= 400, "{most} calls");
}

/// The results that administrators got.
#[derive(Default)]
struct AdminResults {
    /// The performed change by generation.
    done: BTreeMap<u64, (String, u64)>,
    asked: u64,
}

async fn administrate(sim: Sim, kv: SimKv, told: Rc<RefCell<AdminResults>>, skew_ms: u64) {
    for _ in 0..6 {
        // Around the end of a window of claims.
        sim.sleep(sim.below(9_000)).await;
        let name = ["a", "b", "c"][sim.below(3) as usize];
        let number = 1 + sim.below(3);
        told.borrow_mut().asked += 1;
        let now_ms = sim.now_ms() + skew_ms;
        let changed = store::change(
            &kv,
            &kv,
            "m",
            now_ms,
            |rollouts: &mut Rollouts, _: Option<&str>| {
                let around = Environment {
                    versions: &versions(),
                    rolled_back: None,
                    now_ms,
                    random: 0,
                };
                let set = Change::SetAlias {
                    alias: alias(name),
                    version: version(number),
                };
                rollouts.change("m", set, &around)
            },
        );
        if let Ok(rollouts) = changed.await {
            let before =
                (told.borrow_mut().done).insert(rollouts.generation, (name.to_owned(), number));
            assert_eq!(
                before, None,
                "two changes made generation {}",
                rollouts.generation
            );
        }
    }
}

fn document(sim: &Sim) -> Rollouts {
    match sim.entries().get(store::DOCUMENT) {
        Some(Entry::Value(text)) => Rollouts::parse(std::str::from_utf8(text).unwrap()).unwrap(),
        Some(Entry::Counter(_)) => panic!("the document is no counter"),
        None => Rollouts::new(),
    }
}

/// Every confirmed change is in the document, until a later change of the same alias. Readers see only documents that were
/// written, in their order.
#[test]
fn of_several_administrators_none_undoes_what_another_was_told_of() {
    let mut all = (0, 0);
    let count = schedules(600, |seed| {
        let faults = Faults {
            lost_request: 20 * (seed % 2),
            lost_reply: 20 * (seed / 2 % 2),
            long_delay: 50,
            long_ms: 2_000,
            crash: 15 * (seed / 4 % 2),
        };
        // Ten seconds before a window's end.
        let begin_ms = NOON_MS / 60_000 * 60_000 + 50_000;
        let sim = Sim::new(seed, begin_ms, faults);
        let told = Rc::new(RefCell::new(AdminResults::default()));
        for n in 0..4 {
            let caller = administrate(sim.clone(), sim.kv(), told.clone(), n * 500);
            sim.spawn(begin_ms, caller);
        }
        let seen = RefCell::new(BTreeMap::<u64, Rollouts>::new());
        sim.run(|sim| {
            let now = document(sim);
            let mut seen = seen.borrow_mut();
            if let Some((generation, last)) = seen.last_key_value() {
                let (generation, last) = (*generation, last.clone());
                assert!(
                    now.generation == generation || now.generation == generation + 1,
                    "a change was undone"
                );
                if now.generation == generation {
                    assert_eq!(now, last, "one generation has two forms");
                }
            }
            seen.insert(now.generation, now);
        });
        let told = told.borrow();
        let seen = seen.borrow();
        for (generation, (name, number)) in &told.done {
            let document = &seen[generation];
            let aliases = &document.of("m").unwrap().aliases;
            assert_eq!(
                aliases[&alias(name)].get(),
                *number,
                "generation {generation}"
            );
        }
        all.0 += told.done.len();
        all.1 += told.asked;
        // All operations work two minutes later, even if callers died in the middle of them.
        sim.set_faults(Faults::NONE);
        let last = Rc::new(RefCell::new(AdminResults::default()));
        let caller = administrate(sim.clone(), sim.kv(), last.clone(), 0);
        sim.spawn(sim.now_ms() + 190_000, caller);
        sim.run(|_| {});
        assert_eq!(last.borrow().done.len(), 6, "nobody is in the way");
    });
    println!(
        "{count} schedules: {} changes made of {} asked for",
        all.0, all.1
    );
}

/// A call by an alias gets the version that the alias named when the document was last read, and never another one. All
/// readers see the alias move at the same moment.
#[test]
fn no_call_gets_a_wrong_version_after_an_alias_moved() {
    let mut calls = 0;
    let count = schedules(200, |seed| {
        let sim = Sim::new(
            seed,
            NOON_MS,
            Faults {
                long_delay: 50,
                long_ms: 300,
                ..Faults::NONE
            },
        );
        // The versions that the alias named, with the times, as the store has them.
        let named = Rc::new(RefCell::new(Vec::<(u64, u64)>::new()));
        let served = Rc::new(RefCell::new(Vec::<(u64, u64, u64)>::new()));
        sim.spawn(NOON_MS, {
            let (sim, kv) = (sim.clone(), sim.kv());
            async move {
                for n in 0..6 {
                    let now_ms = sim.now_ms();
                    let moved = store::change(
                        &kv,
                        &kv,
                        "m",
                        now_ms,
                        |rollouts: &mut Rollouts, _: Option<&str>| {
                            let set = Change::SetAlias {
                                alias: alias("stable"),
                                version: version(1 + n % 3),
                            };
                            change(rollouts, set, 0);
                            Ok(())
                        },
                    );
                    moved.await.unwrap();
                    sim.sleep(1_000 + sim.below(2_000)).await;
                }
            }
        });
        for _ in 0..4 {
            let (sim_, kv, served) = (sim.clone(), sim.kv(), served.clone());
            sim.spawn(NOON_MS + 2_000, async move {
                let mut read: Option<(u64, Rollouts)> = None;
                for _ in 0..150 {
                    sim_.sleep(sim_.below(50)).await;
                    let asked_ms = sim_.now_ms();
                    if read
                        .as_ref()
                        .is_none_or(|(at, _)| at + REFRESH_MS <= asked_ms)
                    {
                        read = Some((asked_ms, store::read(&kv).await.unwrap()));
                    }
                    let (read_ms, rollouts) = read.as_ref().unwrap();
                    let asked = RolloutQuery {
                        pinned: Some("stable"),
                        caller: "",
                        header: &|_| None,
                        versions: &versions(),
                        ready: &|_| true,
                        rolled_back: &|_| false,
                        now_ms: asked_ms,
                        random: 0,
                    };
                    let chosen = rollouts.choose("m", &asked).unwrap();
                    served
                        .borrow_mut()
                        .push((*read_ms, sim_.now_ms(), chosen.version.get()));
                }
            });
        }
        sim.run(|sim| {
            let Some(rollout) = document(sim).of("m").cloned() else {
                return;
            };
            let now = rollout.aliases[&alias("stable")].get();
            let mut named = named.borrow_mut();
            if named.last().is_none_or(|(_, last)| *last != now) {
                named.push((sim.now_ms(), now));
            }
        });
        let named = named.borrow();
        for (read_ms, served_ms, got) in served.borrow().iter() {
            // A version that the alias named at some moment since the read was sent.
            let fits = named.iter().enumerate().any(|(n, (from_ms, version))| {
                let until_ms = named.get(n + 1).map_or(u64::MAX, |(at, _)| *at);
                version == got && *from_ms <= *served_ms && until_ms >= *read_ms
            });
            assert!(
                fits,
                "version {got} at {served_ms}, read at {read_ms}: {named:?}"
            );
            calls += 1;
        }
    });
    println!(
        "{count} schedules, {calls} calls: none got a version the alias did not name within {REFRESH_MS} ms before"
    );
}
