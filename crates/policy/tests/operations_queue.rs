//! Properties of the queue of operations, for random pushes, pops and removals.

use penstock_core::OperationId;
use penstock_policy::operations::queue::{FairQueue, Job, LOWER_EVERY};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const NOW_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// A job of a tenant, a priority and a number of items, due after a delay.
    Push(u8, Option<u8>, u64, u64),
    /// An earlier job again.
    PushAgain(usize),
    Pop,
    Remove(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority = prop_oneof![Just(None), (1_u8..4).prop_map(Some)];
    let items = prop_oneof![4 => Just(1_u64), 1 => 1_u64..300, 1 => Just(u64::MAX)];
    let delay = prop_oneof![3 => Just(0_u64), 1 => 1_u64..50];
    let step = prop_oneof![
        5 => (0_u8..6, priority, items, delay)
            .prop_map(|(tenant, priority, items, delay)| Step::Push(tenant, priority, items, delay)),
        1 => (0_usize..200).prop_map(Step::PushAgain),
        4 => Just(Step::Pop),
        1 => (0_usize..200).prop_map(Step::Remove),
        1 => (0_u64..30).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

fn job(number: usize, tenant: u8, priority: Option<u8>, items: u64) -> Job {
    Job {
        id: OperationId::generate(NOW_MS, number as u128),
        tenant: format!("t{tenant}"),
        model: "m".to_owned(),
        priority,
        items,
    }
}

proptest! {
    #[test]
    fn no_job_is_lost_or_begins_twice_or_too_early(steps in steps(), capacity in 1_usize..80) {
        let mut queue = FairQueue::new(capacity);
        let mut now_ms = NOW_MS;
        let mut made: Vec<(Job, u64)> = Vec::new();
        let mut waiting: BTreeMap<OperationId, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Push(tenant, priority, items, delay) => {
                    let new = job(made.len(), tenant, priority, items);
                    let due_ms = now_ms + delay;
                    let room = waiting.len() < capacity;
                    prop_assert_eq!(queue.push(new.clone(), due_ms, now_ms), room);
                    if room {
                        waiting.insert(new.id.clone(), due_ms);
                    }
                    made.push((new, due_ms));
                }
                Step::PushAgain(at) if at < made.len() => {
                    let (again, _) = made[at].clone();
                    let there = waiting.contains_key(&again.id);
                    let room = waiting.len() < capacity;
                    prop_assert_eq!(queue.push(again.clone(), 0, now_ms), there || room);
                    if !there && room {
                        waiting.insert(again.id, 0);
                    }
                }
                Step::Pop => {
                    let is_due = |due_ms: &u64| *due_ms <= now_ms;
                    match queue.pop(now_ms) {
                        Some(taken) => {
                            let due_ms = waiting.remove(&taken.id);
                            prop_assert!(due_ms.is_some_and(|due_ms| due_ms <= now_ms), "{:?}", taken);
                        }
                        None => prop_assert!(!waiting.values().any(is_due), "a job is due"),
                    }
                }
                Step::Remove(at) if at < made.len() => {
                    let id = &made[at].0.id;
                    prop_assert_eq!(queue.remove(id), waiting.remove(id).is_some());
                    prop_assert_eq!(queue.position(id), None);
                }
                Step::Wait(ms) => now_ms += ms,
                Step::PushAgain(_) | Step::Remove(_) => {}
            }
            prop_assert_eq!(queue.len(), waiting.len());
            prop_assert_eq!(queue.is_empty(), waiting.is_empty());
            if let Some(due_ms) = queue.next_due_ms() {
                prop_assert!(waiting.values().any(|due| *due == due_ms));
            }
        }
        let mut left: BTreeSet<OperationId> = waiting.into_keys().collect();
        while let Some(taken) = queue.pop(u64::MAX) {
            prop_assert!(left.remove(&taken.id), "{:?}", taken);
        }
        prop_assert!(left.is_empty(), "{:?} never begin", left);
        prop_assert!(queue.is_empty());
    }

    #[test]
    fn a_new_tenants_first_job_waits_for_one_job_of_each_other_tenant_and_the_share_of_the_lowest(
        before in prop::collection::vec((0_u8..6, 0_u8..2), 0..150),
        pops in 0_usize..40,
    ) {
        // Priority 1 is that of the new tenant; priority 2 is the lowest.
        let mut queue = FairQueue::new(1_000);
        for (number, (tenant, level)) in before.iter().enumerate() {
            queue.push(job(number, *tenant, Some(1 + level), 1), 0, NOW_MS);
        }
        for _ in 0..pops {
            queue.pop(NOW_MS);
        }
        let new = job(1_000, 99, Some(1), 1);
        queue.push(new.clone(), 0, NOW_MS);
        let mut of_each: HashMap<String, u64> = HashMap::new();
        let (mut begun, mut lower) = (0, 0);
        loop {
            let taken = queue.pop(NOW_MS).expect("the new job waits");
            if taken.id == new.id {
                break;
            }
            begun += 1;
            match taken.priority {
                Some(1) => *of_each.entry(taken.tenant).or_default() += 1,
                _ => lower += 1,
            }
        }
        prop_assert!(of_each.values().all(|jobs| *jobs <= 1), "{:?}", of_each);
        prop_assert!(lower <= begun / LOWER_EVERY + 1, "{} of {}", lower, begun);
    }

    #[test]
    fn the_position_is_exact_within_a_priority_if_all_jobs_cost_one_turn(
        tenants in prop::collection::vec(0_u8..6, 1..80),
        removed in prop::collection::vec(0_usize..80, 0..20),
        pops in 0_usize..30,
    ) {
        let mut queue = FairQueue::new(1_000);
        for (number, tenant) in tenants.iter().enumerate() {
            queue.push(job(number, *tenant, None, 1), 0, NOW_MS);
        }
        for _ in 0..pops {
            queue.pop(NOW_MS);
        }
        for at in removed {
            queue.remove(&job(at, 0, None, 1).id);
        }
        let told: HashMap<OperationId, usize> = (0..tenants.len())
            .map(|number| job(number, 0, None, 1).id)
            .filter_map(|id| queue.position(&id).map(|position| (id, position)))
            .collect();
        prop_assert_eq!(told.len(), queue.len());
        let mut begun = 0;
        while let Some(taken) = queue.pop(NOW_MS) {
            prop_assert_eq!(told[&taken.id], begun);
            begun += 1;
        }
    }

    /// One turn in `LOWER_EVERY` goes to the lowest priority. A job of a higher one may so begin later than told by one in that many,
    /// and a job of the lowest one earlier by as many as are before it.
    #[test]
    fn the_position_among_several_priorities_is_off_by_the_share_of_the_lowest_at_most(
        jobs in prop::collection::vec((0_u8..5, 1_u8..4), 1..80),
    ) {
        let mut queue = FairQueue::new(1_000);
        for (number, (tenant, priority)) in jobs.iter().enumerate() {
            queue.push(job(number, *tenant, Some(*priority), 1), 0, NOW_MS);
        }
        let told: HashMap<OperationId, usize> = (0..jobs.len())
            .map(|number| job(number, 0, None, 1).id)
            .map(|id| (id.clone(), queue.position(&id).expect("it waits")))
            .collect();
        let mut begun = 0;
        while let Some(taken) = queue.pop(NOW_MS) {
            let late = begun / LOWER_EVERY as usize + 1;
            prop_assert!(begun <= told[&taken.id] + late, "{} {}", begun, told[&taken.id]);
            begun += 1;
        }
        prop_assert_eq!(begun, jobs.len());
    }

    /// A job of many items saves turns; jobs of others pass it meanwhile, a bounded number of each tenant.
    #[test]
    fn a_job_of_many_items_begins_after_sixteen_jobs_of_each_other_tenant_at_most(
        others in prop::collection::vec((0_u8..4, 1_u64..200), 0..200),
        items in 1_u64..u64::MAX,
    ) {
        let mut queue = FairQueue::new(1_000);
        let large = job(1_000, 99, None, items);
        for (number, (tenant, items)) in others.iter().enumerate() {
            queue.push(job(number, *tenant, None, *items), 0, NOW_MS);
        }
        queue.push(large.clone(), 0, NOW_MS);
        let mut of_each: HashMap<String, u64> = HashMap::new();
        loop {
            let taken = queue.pop(NOW_MS).expect("the large job waits");
            if taken.id == large.id {
                break;
            }
            *of_each.entry(taken.tenant).or_default() += 1;
        }
        let turns = items.div_ceil(64).min(16);
        prop_assert!(of_each.values().all(|jobs| *jobs <= turns), "{:?} {}", of_each, turns);
    }
}
