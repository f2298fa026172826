//! The order in which one host runs operations. It is in memory: the entries of the store are the truth, and a host fills its
//! queue from them when it starts.
//!
//! Tenants take turns (deficit round robin, M. Shreedhar and G. Varghese, 1995). In each turn a tenant may begin one job, or saves
//! the turn for a job of many items. So the jobs of one tenant, however many, delay the first job of another by one job at most.
//! Priorities are served in their order; one turn in [`LOWER_EVERY`] goes to the lowest one that waits, so that none starves.

use penstock_core::OperationId;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// One turn in this many goes to the lowest priority that waits.
pub const LOWER_EVERY: u64 = 8;

/// Items that one turn pays for.
const ITEMS_PER_TURN: u64 = 64;

/// The most turns that one job costs. A larger job must not wait for ever.
const MAX_TURNS: u64 = 16;

/// The priority of jobs of tiers without one: the lowest.
const LOWEST: u8 = u8::MAX;

/// An operation in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The id of the operation, unique in the queue.
    pub id: OperationId,
    /// The tenant to which it belongs. Tenants take turns.
    pub tenant: String,
    /// The model that runs it, by name.
    pub model: String,
    /// The priority of its caller's tier; 1 runs first.
    pub priority: Option<u8>,
    /// Its number of items.
    pub items: u64,
}

impl Job {
    /// The number of turns that it costs.
    fn turns(&self) -> u64 {
        (1 + self.items.saturating_sub(1) / ITEMS_PER_TURN).min(MAX_TURNS)
    }

    fn level(&self) -> u8 {
        self.priority.unwrap_or(LOWEST)
    }
}

/// The place of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    /// It is due at this time.
    Later(u64),
}

/// The jobs of one priority.
#[derive(Debug, Default)]
struct Level {
    /// Each tenant's jobs, and the turns that it has saved.
    tenants: HashMap<String, (VecDeque<Job>, u64)>,
    /// The tenants with jobs, in the order of their turns.
    turns: VecDeque<String>,
    len: usize,
}

impl Level {
    fn push(&mut self, job: Job) {
        let (jobs, _) = self.tenants.entry(job.tenant.clone()).or_default();
        if jobs.is_empty() {
            self.turns.push_back(job.tenant.clone());
        }
        jobs.push_back(job);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Job> {
        // Each pass gives each tenant one turn, so the loop ends after MAX_TURNS passes.
        loop {
            let tenant = self.turns.pop_front()?;
            let Some((jobs, saved)) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            let Some(first) = jobs.front() else {
                self.tenants.remove(&tenant);
                continue;
            };
            *saved += 1;
            let cost = first.turns();
            if *saved < cost {
                self.turns.push_back(tenant);
                continue;
            }
            *saved -= cost;
            let job = jobs.pop_front();
            if jobs.is_empty() {
                self.tenants.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
            self.len -= 1;
            return job;
        }
    }

    fn remove(&mut self, id: &OperationId, tenant: &str) -> bool {
        let Some((jobs, _)) = self.tenants.get_mut(tenant) else {
            return false;
        };
        let before = jobs.len();
        jobs.retain(|job| job.id != *id);
        let removed = jobs.len() < before;
        if jobs.is_empty() {
            self.tenants.remove(tenant);
            self.turns.retain(|other| other != tenant);
        }
        self.len -= usize::from(removed);
        removed
    }

    /// The number of jobs that begin before a job of a tenant, if all cost one turn.
    fn before(&self, id: &OperationId, tenant: &str) -> Option<usize> {
        let (jobs, _) = self.tenants.get(tenant)?;
        let own = jobs.iter().position(|job| job.id == *id)?;
        let turn = self.turns.iter().position(|other| other == tenant)?;
        let others = self.turns.iter().enumerate().map(|(at, other)| {
            let waiting = self.tenants.get(other).map_or(0, |(jobs, _)| jobs.len());
            match at.cmp(&turn) {
                std::cmp::Ordering::Less => waiting.min(own + 1),
                std::cmp::Ordering::Equal => own,
                std::cmp::Ordering::Greater => waiting.min(own),
            }
        });
        Some(others.sum())
    }
}

/// The jobs of one host.
#[derive(Debug)]
pub struct FairQueue {
    levels: BTreeMap<u8, Level>,
    /// Jobs whose next attempt is later, by the time and a number.
    later: BTreeMap<(u64, u64), Job>,
    places: HashMap<OperationId, (Place, u8, String)>,
    capacity: usize,
    pushed: u64,
    popped: u64,
}

impl FairQueue {
    /// A queue for at most `capacity` jobs.
    pub fn new(capacity: usize) -> Self {
        Self {
            levels: BTreeMap::new(),
            later: BTreeMap::new(),
            places: HashMap::new(),
            capacity,
            pushed: 0,
            popped: 0,
        }
    }

    /// The number of jobs, waiting or due later.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a job that may begin at `due_ms`. A job that is there already keeps its place. Returns whether there was room.
    pub fn push(&mut self, job: Job, due_ms: u64, now_ms: u64) -> bool {
        if self.places.contains_key(&job.id) {
            return true;
        }
        if self.places.len() >= self.capacity {
            return false;
        }
        let place = match due_ms <= now_ms {
            true => Place::Waiting,
            false => Place::Later(due_ms),
        };
        let known = (place, job.level(), job.tenant.clone());
        self.places.insert(job.id.clone(), known);
        match place {
            Place::Waiting => self.levels.entry(job.level()).or_default().push(job),
            Place::Later(due_ms) => {
                self.pushed += 1;
                self.later.insert((due_ms, self.pushed), job);
            }
        }
        true
    }

    /// Takes the next job that is due.
    pub fn pop(&mut self, now_ms: u64) -> Option<Job> {
        self.ripen(now_ms);
        self.popped += 1;
        let level = match self.popped.is_multiple_of(LOWER_EVERY) {
            true => self.levels.last_entry(),
            false => self.levels.first_entry(),
        };
        let mut level = level?;
        let job = level.get_mut().pop();
        if level.get().len == 0 {
            level.remove();
        }
        if let Some(job) = &job {
            self.places.remove(&job.id);
        }
        job
    }

    /// Moves jobs that are due to their level.
    fn ripen(&mut self, now_ms: u64) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now_ms
        {
            let job = entry.remove();
            if let Some((place, ..)) = self.places.get_mut(&job.id) {
                *place = Place::Waiting;
            }
            self.levels.entry(job.level()).or_default().push(job);
        }
    }

    /// Removes a job, waiting or due later. Returns whether it was there.
    pub fn remove(&mut self, id: &OperationId) -> bool {
        let Some((place, level, tenant)) = self.places.remove(id) else {
            return false;
        };
        match place {
            Place::Waiting => {
                if let Some(found) = self.levels.get_mut(&level) {
                    found.remove(id, &tenant);
                    if found.len == 0 {
                        self.levels.remove(&level);
                    }
                }
            }
            Place::Later(_) => self.later.retain(|_, job| job.id != *id),
        }
        true
    }

    /// The time at which the next later job is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.later.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// The number of jobs that begin before a job, about; `None` if it does not wait for a worker.
    pub fn position(&self, id: &OperationId) -> Option<usize> {
        let (Place::Waiting, level, tenant) = self.places.get(id)? else {
            return None;
        };
        let higher: usize = self.levels.range(..level).map(|(_, level)| level.len).sum();
        let before = self.levels.get(level)?.before(id, tenant)?;
        Some(higher + before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u128, tenant: &str) -> Job {
        Job {
            id: OperationId::generate(1_700_000_000_000, number),
            tenant: tenant.to_owned(),
            model: "m".to_owned(),
            priority: None,
            items: 1,
        }
    }

    fn order(queue: &mut FairQueue, now_ms: u64) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now_ms))
            .map(|job| job.tenant)
            .collect()
    }

    #[test]
    fn ten_thousand_jobs_of_one_tenant_delay_the_first_of_another_by_one_job() {
        let mut queue = FairQueue::new(20_000);
        for number in 0..10_000 {
            assert!(queue.push(job(number, "busy"), 0, 0));
        }
        assert_eq!(queue.pop(0).unwrap().tenant, "busy");
        let late = job(20_000, "late");
        queue.push(late.clone(), 0, 0);
        assert_eq!(queue.position(&late.id), Some(1));
        assert_eq!(queue.pop(0).unwrap().tenant, "busy");
        assert_eq!(queue.pop(0).unwrap().tenant, "late");
    }

    #[test]
    fn tenants_take_turns_and_each_keeps_its_own_order() {
        let mut queue = FairQueue::new(100);
        for number in 0..3 {
            queue.push(job(number, "a"), 0, 0);
        }
        for number in 10..12 {
            queue.push(job(number, "b"), 0, 0);
        }
        let mut own = Vec::new();
        while let Some(next) = queue.pop(0) {
            own.push((next.tenant, next.id));
        }
        let tenants: Vec<&str> = own.iter().map(|(tenant, _)| tenant.as_str()).collect();
        assert_eq!(tenants, ["a", "b", "a", "b", "a"]);
        let ids = |of: &str| {
            own.iter()
                .filter(|(t, _)| t == of)
                .map(|(_, id)| id.clone())
                .collect::<Vec<_>>()
        };
        assert!(ids("a").is_sorted() && ids("b").is_sorted());
    }

    #[test]
    fn a_job_of_many_items_costs_its_tenant_several_turns() {
        let mut queue = FairQueue::new(100);
        queue.push(
            Job {
                items: 200,
                ..job(0, "large")
            },
            0,
            0,
        );
        queue.push(job(1, "large"), 0, 0);
        for number in 10..16 {
            queue.push(job(number, "small"), 0, 0);
        }
        assert_eq!(
            order(&mut queue, 0),
            [
                "small", "small", "small", "large", "small", "large", "small", "small"
            ]
        );
        // Alone, it waits for nobody.
        queue.push(
            Job {
                items: u64::MAX,
                ..job(0, "large")
            },
            0,
            0,
        );
        assert_eq!(order(&mut queue, 0), ["large"]);
    }

    #[test]
    fn higher_priorities_run_first_and_no_priority_starves() {
        let mut queue = FairQueue::new(100);
        for number in 0..20 {
            queue.push(
                Job {
                    priority: Some(1),
                    ..job(number, "first")
                },
                0,
                0,
            );
        }
        queue.push(job(99, "last"), 0, 0);
        let order = order(&mut queue, 0);
        assert_eq!(order.iter().position(|tenant| tenant == "last"), Some(7));
        assert_eq!(order.len(), 21);
    }

    #[test]
    fn a_job_for_later_waits_for_its_time_and_a_removed_one_is_gone() {
        let mut queue = FairQueue::new(3);
        queue.push(job(1, "a"), 50, 10);
        queue.push(job(2, "a"), 0, 10);
        queue.push(job(3, "a"), 60, 10);
        assert!(!queue.push(job(4, "a"), 0, 10), "there is no room");
        assert!(queue.push(job(2, "a"), 0, 10), "it is there already");
        assert_eq!(queue.position(&job(1, "a").id), None);
        assert_eq!(queue.pop(10).unwrap().id, job(2, "a").id);
        assert_eq!((queue.pop(49), queue.next_due_ms()), (None, Some(50)));
        assert!(queue.remove(&job(1, "a").id));
        assert!(!queue.remove(&job(1, "a").id));
        assert_eq!(queue.pop(60).unwrap().id, job(3, "a").id);
        assert!(queue.is_empty());
        queue.push(job(5, "b"), 0, 0);
        assert!(queue.remove(&job(5, "b").id));
        assert_eq!(queue.pop(0), None);
    }

    #[test]
    fn the_position_of_a_job_is_the_number_of_jobs_that_begin_before_it() {
        let mut queue = FairQueue::new(1_000);
        let mut random = 7_u64;
        for number in 0..200 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let tenant = format!("t{}", (random >> 33) % 7);
            queue.push(job(number, &tenant), 0, 0);
        }
        let told: HashMap<OperationId, usize> = (0..200)
            .map(|number| {
                let id = job(number, "").id;
                (id.clone(), queue.position(&id).unwrap())
            })
            .collect();
        for begun in 0.. {
            let Some(job) = queue.pop(0) else { break };
            assert_eq!(told[&job.id], begun);
        }
    }
}
