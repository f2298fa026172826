//! The plan, by tables and by seeded random histories.

use super::*;
use std::collections::BTreeSet;

fn seen(contract: u64, versions: &[(u64, u64)]) -> Option<FoundModel> {
    sized(contract, versions, 10)
}

fn sized(contract: u64, versions: &[(u64, u64)], bytes: u64) -> Option<FoundModel> {
    let graph = |stamp| Graph {
        stamp: Stamp(stamp),
        bytes,
    };
    Some(FoundModel {
        contract: ContractState {
            stamp: Stamp(contract),
            pinned: Ok(false),
        },
        versions: versions
            .iter()
            .map(|(number, stamp)| (*number, graph(*stamp)))
            .collect(),
    })
}

fn unreadable(contract: u64, versions: &[(u64, u64)]) -> Option<FoundModel> {
    seen(contract, versions).map(|seen| FoundModel {
        contract: ContractState {
            pinned: Err("line 1".into()),
            ..seen.contract
        },
        ..seen
    })
}

fn pinned(seen: Option<FoundModel>) -> Option<FoundModel> {
    seen.map(|seen| FoundModel {
        contract: ContractState {
            pinned: Ok(true),
            ..seen.contract
        },
        ..seen
    })
}

/// A book with a simulated performer: loads succeed unless the graph's or the contract's stamp is in `broken`.
struct Simulation {
    book: Book,
    now_ms: u64,
    broken: BTreeSet<u64>,
    /// The measured memory of a load, if it differs from its files' size.
    measured: Option<u64>,
    used: BTreeMap<(String, u64), Usage>,
    running: Vec<(String, u64, Job)>,
    next_id: u64,
    loads: Vec<(String, u64)>,
}

impl Simulation {
    fn new(budget: Option<u64>) -> Self {
        Self {
            book: Book::new(budget, 2),
            now_ms: 10_000,
            broken: BTreeSet::new(),
            measured: None,
            used: BTreeMap::new(),
            running: Vec::new(),
            next_id: 1,
            loads: Vec::new(),
        }
    }

    fn plan(&mut self) -> bool {
        let used = self.used.clone();
        let usage = |name: &str, version| {
            used.get(&(name.to_owned(), version))
                .copied()
                .unwrap_or_default()
        };
        let plan = self.book.plan(self.now_ms, usage);
        let acted = !plan.actions.is_empty();
        for action in plan.actions {
            match action {
                Action::Evict {
                    name,
                    version,
                    busy,
                } => {
                    assert_eq!(usage(&name, version).busy, busy, "{name} {version}");
                    assert!(!self.book.models[&name].pinned(), "{name} is pinned");
                    self.book.evicted(&name, version);
                }
                Action::Start { name, version, job } => {
                    let same = |(n, v, _): &(String, u64, Job)| *n == name && *v == version;
                    let there = self.running.iter().filter(|running| same(running)).count();
                    let known = self.book.models[&name].versions[&version]
                        .job
                        .map(|job| job.id);
                    // One that was given up on when its folder went may still be running.
                    assert!(
                        there == 0 || known == Some(job.id),
                        "two loads of {name} {version}"
                    );
                    self.loads.push((name.clone(), version));
                    self.running.push((name, version, job));
                }
            }
        }
        acted
    }

    fn finish(&mut self, at: usize) {
        let (name, version, job) = self.running.remove(at);
        let id = self.next_id;
        self.next_id += 1;
        let stamps = [job.graph.0, job.contract.0, mix(job)];
        let outcome = if stamps.iter().any(|stamp| self.broken.contains(stamp)) {
            Err("broken".into())
        } else {
            Ok((id, self.measured.unwrap_or(job.file_bytes)))
        };
        self.book
            .finished(&name, version, job, outcome, self.now_ms);
    }

    /// Performs plans and finishes loads until there is nothing to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let acted = self.plan();
            if !self.running.is_empty() {
                self.finish(0);
            } else if !acted {
                return;
            }
        }
        panic!("the plans never end");
    }

    fn call(&mut self, name: &str, version: u64) {
        let usage = self.used.entry((name.to_owned(), version)).or_default();
        usage.last_used_ms = self.now_ms;
    }

    fn states(&self, name: &str) -> String {
        let Some(model) = self.book.models.get(name) else {
            return "none".into();
        };
        let one = |(number, version): (&u64, &Version)| {
            let state = match &version.phase {
                Phase::Waiting => "waiting".to_owned(),
                Phase::Ready(load) => format!("{}/{}", load.contract.0, load.graph.0),
                Phase::Evicted { .. } => "evicted".to_owned(),
                Phase::Unloaded => "unloaded".to_owned(),
                Phase::Failed(reason) => format!("failed({})", &reason[..reason.len().min(9)]),
            };
            format!("{number}:{state}")
        };
        model.versions.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// A number for one graph under one contract.
fn mix(job: Job) -> u64 {
    job.contract.0 * 1_000 + job.graph.0
}

#[test]
fn versions_on_disk_are_loaded_and_a_changed_graph_replaces_its_version() {
    let mut simulation = Simulation::new(None);
    simulation
        .book
        .seen("m", seen(1, &[(1, 11), (2, 21)]), false);
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:1/11 2:1/21");
    assert_eq!(simulation.loads, [("m".to_owned(), 2), ("m".to_owned(), 1)]);
    // A newer version, a changed graph, and one that is gone.
    simulation
        .book
        .seen("m", seen(1, &[(2, 22), (3, 31)]), true);
    assert_eq!(simulation.states("m"), "2:1/21 3:waiting");
    assert_eq!(simulation.book.models["m"].default_version(), Some(2));
    simulation.settle();
    assert_eq!(simulation.states("m"), "2:1/22 3:1/31");
    assert_eq!(simulation.book.models["m"].default_version(), Some(3));
    simulation.book.seen("m", None, true);
    assert_eq!(simulation.states("m"), "none");
}

#[test]
fn a_broken_graph_is_tried_once_and_never_replaces_a_version_that_answers() {
    let mut simulation = Simulation::new(None);
    simulation.broken = [22, 31].into();
    simulation.book.seen("m", seen(1, &[(2, 21)]), false);
    simulation.settle();
    simulation
        .book
        .seen("m", seen(1, &[(2, 22), (3, 31)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "2:1/21 3:failed(broken)");
    assert_eq!(simulation.book.models["m"].default_version(), Some(2));
    assert!(
        simulation.book.models["m"].versions[&2]
            .kept_because()
            .is_some()
    );
    assert!(simulation.book.models["m"].versions[&3].newcomer);
    let tries = simulation.loads.len();
    simulation
        .book
        .seen("m", seen(1, &[(2, 22), (3, 31)]), true);
    simulation.settle();
    assert_eq!(simulation.loads.len(), tries, "nothing changed since");
    simulation
        .book
        .seen("m", seen(1, &[(2, 23), (3, 32)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "2:1/23 3:1/32");
    assert!(
        simulation.book.models["m"].versions[&2]
            .kept_because()
            .is_none()
    );
}

#[test]
fn all_versions_change_to_a_new_contract_at_once_or_none_does() {
    for (broken, after, refused) in [
        (vec![], "1:2/11 2:2/21 3:2/31", false),
        // The highest version that answered does not run under it, and nothing newer does.
        (vec![2031], "1:1/11 2:1/21 3:1/31", true),
        // A lower one does not; it is no reason to keep the others back.
        (vec![2021], "1:2/11 2:failed(broken) 3:2/31", false),
        (vec![2], "1:1/11 2:1/21 3:1/31", true),
    ] {
        let mut simulation = Simulation::new(None);
        simulation.broken = broken.iter().copied().collect();
        simulation
            .book
            .seen("m", seen(1, &[(1, 11), (2, 21), (3, 31)]), false);
        simulation.settle();
        simulation
            .book
            .seen("m", seen(2, &[(1, 11), (2, 21), (3, 31)]), true);
        for _ in 0..20 {
            let mixed = simulation.states("m");
            assert!(mixed == "1:1/11 2:1/21 3:1/31" || mixed == after, "{mixed}");
            simulation.plan();
            if !simulation.running.is_empty() {
                simulation.finish(0);
            }
        }
        assert_eq!(simulation.states("m"), after, "{broken:?}");
        assert_eq!(
            simulation.book.models["m"].refused.is_some(),
            refused,
            "{broken:?}"
        );
        if refused {
            assert!(
                simulation.loads.len() <= 4,
                "lower versions are not tried for nothing"
            );
        }
        // Every graph in memory is known to the book; the results of useless tries are not.
        let known = (1..simulation.next_id)
            .filter(|id| simulation.book.knows(*id))
            .count();
        assert_eq!(known, after.matches('/').count());
    }
}

#[test]
fn a_new_contract_is_used_if_only_a_newer_version_runs_under_it() {
    let mut simulation = Simulation::new(None);
    simulation.broken = [2021].into();
    simulation.book.seen("m", seen(1, &[(2, 21)]), false);
    simulation.settle();
    simulation
        .book
        .seen("m", seen(2, &[(2, 21), (3, 31)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "2:failed(broken) 3:2/31");
    // And going back to the old contract is a new contract like any other.
    simulation
        .book
        .seen("m", seen(1, &[(2, 21), (3, 31)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "2:1/21 3:1/31");
}

#[test]
fn an_unreadable_contract_is_refused_if_a_version_answers_and_is_a_fault_if_none_does() {
    let mut simulation = Simulation::new(None);
    simulation
        .book
        .seen("new", unreadable(1, &[(1, 11)]), false);
    simulation.book.seen("m", seen(1, &[(1, 11)]), false);
    simulation.settle();
    assert!(simulation.book.models["new"].in_force.pinned.is_err());
    simulation
        .book
        .seen("m", unreadable(2, &[(1, 11), (2, 21)]), true);
    simulation.settle();
    assert_eq!(
        simulation.states("m"),
        "1:1/11 2:1/21",
        "graphs change under the old contract"
    );
    assert_eq!(
        simulation.book.models["m"].refused.as_deref(),
        Some("line 1")
    );
    simulation.book.seen("new", seen(2, &[(1, 11)]), true);
    simulation.settle();
    assert_eq!(simulation.states("new"), "1:2/11");
}

#[test]
fn an_unloaded_version_stays_unloaded_until_it_is_loaded_by_request() {
    let mut simulation = Simulation::new(None);
    simulation
        .book
        .seen("m", seen(1, &[(1, 11), (2, 21)]), false);
    simulation.settle();
    simulation.book.unload("m", Some(2));
    simulation.book.unload("m", Some(2));
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:1/11 2:unloaded");
    simulation
        .book
        .seen("m", seen(2, &[(1, 11), (2, 22)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:2/11 2:unloaded");
    simulation.book.unload("m", None);
    simulation
        .book
        .seen("m", seen(2, &[(1, 11), (2, 22), (3, 31)]), true);
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:unloaded 2:unloaded 3:unloaded");
    simulation.book.load("m", Some(2));
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:unloaded 2:2/22 3:unloaded");
    simulation.book.load("m", None);
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:2/11 2:2/22 3:2/31");
}

#[test]
fn a_version_that_is_unloaded_while_it_loads_does_not_become_ready() {
    let mut simulation = Simulation::new(None);
    simulation.book.seen("m", seen(1, &[(1, 11)]), false);
    simulation.plan();
    simulation.book.unload("m", None);
    simulation.book.load("m", None);
    simulation.plan();
    assert_eq!(simulation.running.len(), 1, "the load under way will do");
    simulation.book.unload("m", None);
    simulation.finish(0);
    simulation.settle();
    assert_eq!(simulation.states("m"), "1:unloaded");
    assert!(!simulation.book.knows(1));
}

#[test]
fn over_the_budget_the_least_recently_used_version_is_evicted_and_loaded_again_for_a_call() {
    let mut simulation = Simulation::new(Some(25));
    for name in ["a", "b"] {
        simulation.book.seen(name, seen(1, &[(1, 11)]), false);
    }
    simulation.settle();
    simulation.now_ms += 5_000;
    simulation.call("b", 1);
    simulation.now_ms += 5_000;
    simulation.call("a", 1);
    simulation.book.seen("c", seen(1, &[(1, 11)]), true);
    simulation.settle();
    assert_eq!(
        (
            simulation.states("a"),
            simulation.states("b"),
            simulation.states("c")
        ),
        ("1:1/11".into(), "1:evicted".into(), "1:1/11".into())
    );
    // `c` was never called: it goes before `a`.
    simulation.book.want("b", 1);
    simulation.settle();
    assert_eq!(simulation.states("c"), "1:evicted");
    assert_eq!(simulation.states("b"), "1:1/11");
    simulation.call("b", 1);
    // Both were called since they came up, and `b` has just come: it has its time first.
    simulation.book.want("c", 1);
    simulation.used.entry(("a".into(), 1)).or_default().busy = true;
    simulation.settle();
    assert_eq!(simulation.states("b"), "1:1/11");
    simulation.now_ms += MIN_STAY_MS;
    simulation.settle();
    assert_eq!(simulation.states("b"), "1:evicted");
    assert_eq!(simulation.states("a"), "1:1/11", "it runs");
    assert!(simulation.book.held_bytes() <= 25);
}

#[test]
fn two_busy_models_that_do_not_fit_together_take_turns() {
    let mut simulation = Simulation::new(Some(15));
    simulation.book.seen("a", sized(1, &[(1, 11)], 10), false);
    simulation.settle();
    simulation.call("a", 1);
    simulation.used.entry(("a".into(), 1)).or_default().busy = true;
    simulation.book.seen("b", sized(1, &[(1, 11)], 10), true);
    simulation.settle();
    assert_eq!(simulation.states("a"), "1:1/11", "it has its stay");
    for turn in 0..6 {
        let (goes, comes) = [("a", "b"), ("b", "a")][turn % 2];
        simulation.book.want(comes, 1);
        simulation.now_ms += MIN_STAY_MS;
        simulation.settle();
        assert_eq!(simulation.states(goes), "1:evicted", "turn {turn}");
        assert_eq!(simulation.states(comes), "1:1/11", "turn {turn}");
        simulation.call(comes, 1);
        simulation.used.entry((comes.into(), 1)).or_default().busy = true;
        simulation.used.entry((goes.into(), 1)).or_default().busy = false;
    }
}

#[test]
fn pinned_models_stay_loaded_and_a_model_that_can_never_fit_fails_with_the_reason() {
    let mut simulation = Simulation::new(Some(25));
    simulation
        .book
        .seen("p", pinned(sized(1, &[(1, 11)], 20)), false);
    simulation.book.seen("q", sized(1, &[(1, 11)], 10), false);
    simulation
        .book
        .seen("large", sized(1, &[(1, 11)], 26), false);
    simulation.settle();
    assert_eq!(simulation.states("p"), "1:1/11");
    let failed = |name: &str, part: &str| {
        let Phase::Failed(reason) = &simulation.book.models[name].versions[&1].phase else {
            panic!("{name}: {}", simulation.states(name));
        };
        assert!(reason.contains(part), "{reason}");
    };
    failed("q", "pinned models hold 20");
    failed("large", "takes 26 bytes");
    // One that turns out larger than its files said.
    let mut simulation = Simulation::new(Some(25));
    simulation.measured = Some(30);
    simulation.book.seen("m", seen(1, &[(1, 11)]), false);
    simulation.settle();
    assert!(
        simulation.states("m").starts_with("1:failed"),
        "{}",
        simulation.states("m")
    );
}

#[test]
fn more_models_than_the_budget_holds_are_each_tried_once_at_start() {
    let mut simulation = Simulation::new(Some(25));
    for number in 0..10 {
        simulation
            .book
            .seen(&format!("m{number}"), seen(1, &[(1, 11)]), false);
    }
    simulation.settle();
    assert_eq!(simulation.loads.len(), 10, "{:?}", simulation.loads);
    assert!(simulation.book.models.values().all(Model::answers));
    assert_eq!(simulation.book.held_bytes(), 20);
}

/// Numbers from a seed, so that a history that fails can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[test]
fn a_version_that_answers_keeps_answering_and_the_budget_is_kept_in_every_history() {
    let first = std::env::var("PENSTOCK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..400, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("PENSTOCK_SEED={seed}");
        let mut dice = Dice(seed);
        let budget = (dice.roll(2) == 0).then_some(45);
        let mut simulation = Simulation::new(budget);
        let names = ["a", "b", "c"];
        let mut disk: BTreeMap<&str, FoundModel> = BTreeMap::new();
        for step in 0..200 {
            let name = names[dice.roll(3) as usize];
            let answered: BTreeMap<&str, Option<u64>> = names
                .iter()
                .map(|name| {
                    let model = simulation
                        .book
                        .models
                        .get(*name)
                        .filter(|model| model.answers());
                    (*name, model.and_then(Model::default_version))
                })
                .collect();
            // A version that the operator takes away may stop answering.
            let mut taken: Option<&str> = None;
            match dice.roll(10) {
                0 | 1 => {
                    let stamp = dice.roll(50);
                    let seen = disk.entry(name).or_insert_with(|| seen(1, &[]).unwrap());
                    let bytes = 5 + dice.roll(45);
                    seen.versions.insert(
                        1 + dice.roll(4),
                        Graph {
                            stamp: Stamp(stamp),
                            bytes,
                        },
                    );
                    simulation.book.seen(name, Some(seen.clone()), step > 5);
                }
                2 => {
                    if let Some(seen) = disk.get_mut(name) {
                        seen.contract.stamp = Stamp(100 + dice.roll(20));
                        seen.contract.pinned = match dice.roll(4) {
                            0 => Err("line 1".into()),
                            1 => Ok(true),
                            _ => Ok(false),
                        };
                        simulation.book.seen(name, Some(seen.clone()), true);
                    }
                }
                3 => {
                    taken = Some(name);
                    if dice.roll(2) == 0 {
                        disk.remove(name);
                        simulation.book.seen(name, None, true);
                    } else if let Some(seen) = disk.get_mut(name) {
                        seen.versions.pop_first();
                        simulation.book.seen(name, Some(seen.clone()), true);
                    }
                }
                4 => {
                    taken = Some(name);
                    simulation
                        .book
                        .unload(name, (dice.roll(2) == 0).then_some(1 + dice.roll(4)));
                }
                5 => simulation
                    .book
                    .load(name, (dice.roll(2) == 0).then_some(1 + dice.roll(4))),
                6 => simulation.book.want(name, 1 + dice.roll(4)),
                7 => {
                    let key = (name.to_owned(), 1 + dice.roll(4));
                    let usage = Usage {
                        last_used_ms: simulation.now_ms,
                        busy: dice.roll(2) == 0,
                    };
                    simulation.used.insert(key, usage);
                }
                8 => {
                    simulation.broken = (0..30).map(|_| dice.roll(160)).collect();
                    simulation.now_ms += dice.roll(3_000);
                }
                _ => {}
            }
            simulation.plan();
            assert!(
                simulation.running.len() <= 2 + 8,
                "loads that were given up on"
            );
            let running = simulation.book.jobs().count();
            let slow = |job: &Job| simulation.now_ms - job.began_ms >= SLOW_LOAD_MS;
            let slow = simulation.book.jobs().filter(slow).count();
            assert!(
                running - slow <= 2 && running <= 2 + MAX_SLOW_LOADS,
                "seed {seed}, step {step}: {running} loads at once, {slow} of them slow"
            );
            if !simulation.running.is_empty() && dice.roll(2) == 0 {
                let at = dice.roll(simulation.running.len() as u64) as usize;
                simulation.finish(at);
                simulation.plan();
            }
            for (name, before) in answered {
                let model = simulation.book.models.get(name);
                if taken == Some(name) || before.is_none() {
                    continue;
                }
                let now = model
                    .filter(|model| model.answers())
                    .and_then(Model::default_version);
                // An evicted version that cannot be loaded again has failed: its files changed or its room is gone.
                let fell = model.is_some_and(|model| {
                    // It may have got another contract by that: there is nothing left to protect.
                    !model.versions[&before.unwrap()].phase.answers()
                });
                assert!(
                    now >= before || (budget.is_some() && fell),
                    "seed {seed}, step {step}: {name} went from {before:?} to {now:?}"
                );
            }
        }
        // Without calls it becomes stable, within its budget except for pinned models.
        simulation.used.clear();
        simulation.now_ms += 100_000;
        simulation.settle();
        let pinned: u64 = (simulation.book.serving())
            .filter(|(name, _, _)| simulation.book.models[*name].pinned())
            .map(|(_, _, load)| load.bytes)
            .sum();
        if let Some(budget) = budget {
            let held = simulation.book.held_bytes();
            assert!(
                held <= budget.max(pinned),
                "seed {seed}: {held} bytes, {pinned} pinned"
            );
        }
        for model in simulation
            .book
            .models
            .values()
            .filter(|model| model.in_force.pinned.is_ok())
        {
            assert!(
                model.versions.values().all(Version::is_settled),
                "seed {seed}: {model:?}"
            );
        }
    }
}

#[test]
fn a_slow_load_delays_no_other_load_and_the_number_of_slow_loads_is_bounded() {
    let mut simulation = Simulation::new(None);
    let names: Vec<String> = (0..20).map(|number| format!("m{number:02}")).collect();
    for name in &names {
        simulation.book.seen(name, seen(1, &[(1, 1)]), false);
    }
    let mut running = Vec::new();
    for _ in 0..10 {
        simulation.plan();
        running.push(simulation.running.len());
        simulation.now_ms += SLOW_LOAD_MS - 1;
        simulation.plan();
        assert_eq!(
            running.last(),
            Some(&simulation.running.len()),
            "none is slow yet"
        );
        simulation.now_ms += 1;
    }
    assert_eq!(running[..3], [2, 4, 6]);
    assert!(
        running[3..]
            .iter()
            .all(|at_once| *at_once == 2 + MAX_SLOW_LOADS)
    );
    // One that ends makes room for one.
    simulation.finish(0);
    simulation.plan();
    assert_eq!(simulation.running.len(), 2 + MAX_SLOW_LOADS);
}
