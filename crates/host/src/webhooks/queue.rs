//! The order in which this host looks at deliveries. It is in memory: the entries of the store are the truth.
//!
//! Tenants take turns, and each has at most some attempts at the same time. So a tenant with slow receivers does not stop the
//! others. `penstock_policy::operations::queue` has no such bound, because a host has no slow receivers there.
//!
//! Room is shared by a dynamic threshold (A. K. Choudhury and E. L. Hahne, 1998): a tenant may have as many deliveries as there
//! are free places. So one tenant fills half of the queue at most, and a new tenant always finds a place. Of a tenant that has
//! more, those that are due first stay. The others are found in the store later.

use penstock_core::OperationId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The longest time that the loop sleeps if nothing is due. Each push wakes it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The place of a delivery.
#[derive(Debug)]
enum Place {
    Ready,
    /// It waits until its time; this is its key among those that wait.
    Later((u64, u64)),
    /// It is looked at. `again` says that it was announced meanwhile.
    Running {
        again: bool,
    },
}

/// The deliveries of one tenant.
#[derive(Debug, Default)]
struct Tenant {
    ready: VecDeque<OperationId>,
    /// The keys of those that wait.
    later: BTreeSet<(u64, u64)>,
    running: usize,
    /// Whether it is among the turns.
    has_turn: bool,
}

impl Tenant {
    fn len(&self) -> usize {
        self.ready.len() + self.later.len() + self.running
    }
}

/// The deliveries of one host.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    /// The most deliveries of one tenant that are looked at at the same time.
    most_running: usize,
    places: HashMap<OperationId, (Place, Arc<str>)>,
    tenants: HashMap<Arc<str>, Tenant>,
    /// The tenants with ready deliveries that may run, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// Deliveries that wait, by the time when they are due and a number.
    later: BTreeMap<(u64, u64), (OperationId, Arc<str>)>,
    /// The number of the last one that had to wait.
    number: u64,
    /// Whether a delivery found no room.
    has_refused: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize, most_running: usize) -> Self {
        Self {
            capacity,
            most_running,
            places: HashMap::new(),
            tenants: HashMap::new(),
            turns: VecDeque::new(),
            later: BTreeMap::new(),
            number: 0,
            has_refused: false,
        }
    }

    /// Adds a delivery that is due at a time. One that is there already keeps its place.
    pub(super) fn offer(&mut self, id: &OperationId, tenant: &str, due_ms: u64, now_ms: u64) {
        if self.places.contains_key(id) {
            return;
        }
        if !self.make_room(tenant, due_ms) {
            self.has_refused = true;
            return;
        }
        let tenant = match self.tenants.get_key_value(tenant) {
            Some((known, _)) => known.clone(),
            None => Arc::from(tenant),
        };
        self.insert(id.clone(), tenant, due_ms, now_ms);
    }

    /// Adds a delivery that is due now. One that waits becomes due. One that is looked at is looked at once more.
    pub(super) fn announce(&mut self, id: &OperationId, tenant: &str, now_ms: u64) {
        match self.places.get_mut(id) {
            None => self.offer(id, tenant, now_ms, now_ms),
            Some((Place::Running { again }, _)) => *again = true,
            Some((Place::Ready, _)) => {}
            Some((Place::Later(key), _)) => {
                let key = *key;
                if let Some((id, tenant)) = self.take_later(key) {
                    self.insert(id, tenant, now_ms, now_ms);
                }
            }
        }
    }

    /// Takes the next delivery, until [`Queue::done`].
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<OperationId> {
        self.ripen(now_ms);
        while let Some(name) = self.turns.pop_front() {
            let Some(tenant) = self.tenants.get_mut(&name) else {
                continue;
            };
            tenant.has_turn = false;
            let Some(id) = tenant.ready.pop_front() else {
                continue;
            };
            tenant.running += 1;
            let place = (Place::Running { again: false }, name.clone());
            self.places.insert(id.clone(), place);
            self.give_turn(&name);
            return Some(id);
        }
        None
    }

    /// Ends the look at a delivery. With `due_ms` it is looked at again.
    pub(super) fn done(&mut self, id: &OperationId, due_ms: Option<u64>, now_ms: u64) {
        let Some((Place::Running { again }, name)) = self.places.remove(id) else {
            return;
        };
        if let Some(tenant) = self.tenants.get_mut(&name) {
            tenant.running -= 1;
        }
        let due_ms = if again { Some(now_ms) } else { due_ms };
        match due_ms {
            Some(due_ms) => self.insert(id.clone(), name.clone(), due_ms, now_ms),
            None => self.forget_idle(&name),
        }
        self.give_turn(&name);
    }

    /// The time at which the next waiting delivery is due.
    fn next_due_ms(&self) -> Option<u64> {
        self.later.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Returns whether a delivery found no room since the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.has_refused)
    }

    /// Makes room for a delivery, if necessary by removing the tenant's delivery that is due last, and later than this one. Returns
    /// whether there is room.
    fn make_room(&mut self, tenant: &str, due_ms: u64) -> bool {
        let free = self.capacity.saturating_sub(self.places.len());
        let Some(tenant) = self.tenants.get(tenant) else {
            return free > 0;
        };
        if tenant.len() < free {
            return true;
        }
        let last = tenant.later.last().filter(|(last_ms, _)| *last_ms > due_ms);
        let Some((id, name)) = last.copied().and_then(|key| self.take_later(key)) else {
            return false;
        };
        self.places.remove(&id);
        self.forget_idle(&name);
        self.has_refused = true;
        true
    }

    fn insert(&mut self, id: OperationId, name: Arc<str>, due_ms: u64, now_ms: u64) {
        let tenant = self.tenants.entry(name.clone()).or_default();
        if due_ms <= now_ms {
            tenant.ready.push_back(id.clone());
            self.give_turn(&name);
            self.places.insert(id, (Place::Ready, name));
            return;
        }
        self.number += 1;
        let key = (due_ms, self.number);
        tenant.later.insert(key);
        self.later.insert(key, (id.clone(), name.clone()));
        self.places.insert(id, (Place::Later(key), name));
    }

    /// Takes a waiting delivery out. Its place remains.
    fn take_later(&mut self, key: (u64, u64)) -> Option<(OperationId, Arc<str>)> {
        let (id, name) = self.later.remove(&key)?;
        if let Some(tenant) = self.tenants.get_mut(&name) {
            tenant.later.remove(&key);
        }
        Some((id, name))
    }

    /// Makes the deliveries ready that are due.
    fn ripen(&mut self, now_ms: u64) {
        while let Some((key, _)) = self.later.first_key_value()
            && key.0 <= now_ms
        {
            let key = *key;
            if let Some((id, name)) = self.take_later(key) {
                self.insert(id, name, now_ms, now_ms);
            }
        }
    }

    /// Gives a tenant a turn, if it has something to do with one.
    fn give_turn(&mut self, name: &Arc<str>) {
        if let Some(tenant) = self.tenants.get_mut(name)
            && !tenant.has_turn
            && !tenant.ready.is_empty()
            && tenant.running < self.most_running
        {
            tenant.has_turn = true;
            self.turns.push_back(name.clone());
        }
    }

    /// Forgets a tenant without deliveries.
    fn forget_idle(&mut self, name: &Arc<str>) {
        if self
            .tenants
            .get(name)
            .is_some_and(|tenant| tenant.len() == 0)
        {
            self.tenants.remove(name);
        }
    }
}

/// A queue that several tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    pushed: Notify,
}

impl Shared {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            queue: Mutex::new(queue),
            pushed: Notify::new(),
        }
    }

    /// Locks the queue for the caller. Hold it only for a moment.
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the loop after something was added.
    pub(super) fn wake(&self) {
        self.pushed.notify_one();
    }

    /// Resolves when something was added or is due.
    pub(super) async fn ready(&self, now_ms: u64) {
        let due_ms = self.lock().next_due_ms();
        let pause = due_ms.map_or(LONGEST_PAUSE, |due_ms| {
            Duration::from_millis(due_ms.saturating_sub(now_ms).max(1)).min(LONGEST_PAUSE)
        });
        let _ = tokio::time::timeout(pause, self.pushed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> OperationId {
        OperationId::generate(1_700_000_000_000, number)
    }

    /// The numbers of the deliveries that may run now.
    fn popped(queue: &mut Queue, now_ms: u64) -> Vec<u128> {
        let ids: Vec<OperationId> = std::iter::from_fn(|| queue.pop(now_ms)).collect();
        let number = |found: &OperationId| (0..1_000).find(|number| id(*number) == *found);
        ids.iter().filter_map(number).collect()
    }

    #[test]
    fn tenants_take_turns_and_each_has_some_at_the_same_time_at_most() {
        let mut queue = Queue::new(100, 2);
        for number in 0..5 {
            queue.offer(&id(number), "a", 0, 0);
        }
        queue.offer(&id(10), "b", 0, 0);
        assert_eq!(popped(&mut queue, 0), [0, 10, 1]);
        queue.done(&id(0), None, 0);
        assert_eq!(popped(&mut queue, 0), [2]);
        queue.done(&id(1), Some(50), 0);
        queue.done(&id(2), None, 0);
        assert_eq!(popped(&mut queue, 0), [3, 4]);
        queue.done(&id(3), None, 0);
        assert_eq!(queue.next_due_ms(), Some(50));
        assert_eq!(popped(&mut queue, 50), [1]);
        for number in [1, 4, 10] {
            queue.done(&id(number), None, 50);
        }
        assert!(queue.tenants.is_empty() && queue.places.is_empty());
    }

    #[test]
    fn an_announcement_makes_a_delivery_due_and_is_not_lost_while_it_runs() {
        let mut queue = Queue::new(100, 8);
        queue.offer(&id(1), "a", 900, 0);
        queue.offer(&id(1), "a", 0, 0);
        assert!(
            popped(&mut queue, 0).is_empty(),
            "an offer changes no place"
        );
        queue.announce(&id(1), "a", 0);
        queue.announce(&id(1), "a", 0);
        assert_eq!(popped(&mut queue, 0), [1]);
        queue.offer(&id(1), "a", 0, 0);
        queue.done(&id(1), Some(900), 0);
        queue.announce(&id(1), "a", 0);
        assert_eq!(popped(&mut queue, 0), [1]);
        queue.announce(&id(1), "a", 0);
        assert!(popped(&mut queue, 0).is_empty(), "it runs");
        queue.done(&id(1), None, 0);
        assert_eq!(popped(&mut queue, 0), [1]);
        queue.done(&id(1), None, 0);
        assert!(popped(&mut queue, u64::MAX).is_empty());
    }

    #[test]
    fn a_tenant_has_as_many_as_there_are_free_places_and_those_that_are_due_first() {
        let mut queue = Queue::new(10, 8);
        for number in 0..20 {
            queue.offer(&id(number), "a", 1_000 + number as u64, 0);
        }
        assert!(queue.take_refused());
        assert!(!queue.take_refused());
        assert_eq!(queue.places.len(), 5);
        for (tenant, number) in [("b", 100), ("c", 200), ("d", 300)] {
            queue.offer(&id(number), tenant, 5_000, 0);
        }
        assert!(!queue.take_refused(), "new tenants find room");
        // The last one of the same tenant makes room.
        queue.announce(&id(50), "a", 0);
        assert!(queue.take_refused());
        assert_eq!(queue.places.len(), 8);
        queue.offer(&id(51), "a", 2_000, 0);
        assert!(queue.take_refused(), "it is due later than all others");
        assert_eq!(popped(&mut queue, 0), [50]);
        let mut due = popped(&mut queue, 9_000);
        due.sort_unstable();
        assert_eq!(due, [0, 1, 2, 3, 100, 200, 300]);
    }
}
