//! A deterministic simulation: virtual callers over one key-value store, in virtual time.
//!
//! Each caller is a future. Each operation on the store travels there, is applied, and its reply travels back. The seed
//! decides how long each takes, which are lost on the way, and where callers die. Operations that a dead caller had
//! sent still arrive. Every event is a function of the seed, so a failing seed is a reproducer.

use penstock_core::kv::Many;
use penstock_core::{Kv, KvError};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The generator SplitMix64: small, and good enough to choose schedules.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Creates a generator that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound.max(1)
    }

    /// True in `chance` of 1000 cases.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }
}

/// Runs a schedule for each seed, and names the seed that fails. The environment decides the seeds: `<prefix>_SEED` is the only
/// one; `<prefix>_FIRST` is the first one, and `<prefix>_SCHEDULES` is their number in place of `count`. Returns whether they
/// were several, so that they should have seen everything.
pub fn for_seeds(prefix: &str, count: u64, mut run: impl FnMut(u64)) -> bool {
    let number = |name: &str| {
        let value = std::env::var(format!("{prefix}_{name}")).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("SEED") {
        run(seed);
        return false;
    }
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + number("SCHEDULES").unwrap_or(count) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("the schedule that failed: {prefix}_SEED={seed}");
            resume_unwind(panic);
        }
    }
    true
}

/// Rates of faults, each in thousandths of the operations.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The operation never arrives, and the caller gets an error.
    pub lost_request: u64,
    /// The operation is applied, and the caller gets an error.
    pub lost_reply: u64,
    /// The operation or its reply takes up to [`Faults::long_ms`] instead of a few milliseconds.
    pub long_delay: u64,
    /// The longest of long delays, in milliseconds.
    pub long_ms: u64,
    /// The caller dies here. Its sent operations still arrive.
    pub crash: u64,
}

impl Faults {
    /// The setting without faults. Only the order of events varies.
    pub const NONE: Self = Self {
        lost_request: 0,
        lost_reply: 0,
        long_delay: 0,
        long_ms: 0,
        crash: 0,
    };
}

/// An entry of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Written by `set` or `swap`.
    Value(Vec<u8>),
    /// A number that `increment` made.
    Counter(i64),
}

type Applied = Box<dyn FnOnce(&mut BTreeMap<String, Entry>)>;

enum Event {
    Poll(usize),
    Apply(Applied),
}

struct Scheduled {
    at_ms: u64,
    /// Chosen at random, so that events of the same time happen in any order.
    tie: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.tie) == (other.at_ms, other.tie)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.tie).cmp(&(other.at_ms, other.tie))
    }
}

struct World {
    now_ms: Cell<u64>,
    random: RefCell<Random>,
    faults: Cell<Faults>,
    entries: RefCell<BTreeMap<String, Entry>>,
    queue: RefCell<BinaryHeap<Reverse<Scheduled>>>,
    current: Cell<usize>,
    doomed: Cell<bool>,
    operations: Cell<u64>,
    fail_set_of: RefCell<Option<String>>,
}

impl World {
    fn schedule(&self, at_ms: u64, event: Event) {
        let tie = self.random.borrow_mut().bits();
        self.queue
            .borrow_mut()
            .push(Reverse(Scheduled { at_ms, tie, event }));
    }

    fn delay(&self) -> u64 {
        let faults = self.faults.get();
        let mut random = self.random.borrow_mut();
        if random.permille(faults.long_delay) {
            random.below(faults.long_ms + 1)
        } else {
            random.below(4)
        }
    }

    /// Counts an operation, and decides whether its request and its reply get lost.
    fn begin_operation(&self) -> (bool, bool) {
        self.operations.set(self.operations.get() + 1);
        let faults = self.faults.get();
        let mut random = self.random.borrow_mut();
        (
            random.permille(faults.lost_request),
            random.permille(faults.lost_reply),
        )
    }
}

/// A caller that has not finished.
type Caller = Pin<Box<dyn Future<Output = ()>>>;

/// A simulated world of callers, a clock and a store. Clones are the same world.
#[derive(Clone)]
pub struct Sim {
    world: Rc<World>,
    callers: Rc<RefCell<Vec<Option<Caller>>>>,
}

impl Sim {
    /// Creates a world in which everything follows from `seed`, beginning at `now_ms`.
    pub fn new(seed: u64, now_ms: u64, faults: Faults) -> Self {
        Self {
            world: Rc::new(World {
                now_ms: Cell::new(now_ms),
                random: RefCell::new(Random::new(seed)),
                faults: Cell::new(faults),
                entries: RefCell::default(),
                queue: RefCell::default(),
                current: Cell::new(usize::MAX),
                doomed: Cell::new(false),
                operations: Cell::new(0),
                fail_set_of: RefCell::default(),
            }),
            callers: Rc::default(),
        }
    }

    /// True time, in milliseconds since the Unix epoch. A caller's clock may differ.
    pub fn now_ms(&self) -> u64 {
        self.world.now_ms.get()
    }

    /// A number below `bound`, from the seed.
    pub fn below(&self, bound: u64) -> u64 {
        self.world.random.borrow_mut().below(bound)
    }

    /// Sets the rates of faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world.faults.set(faults);
    }

    /// Loses the next `set` of an entry whose name has this end.
    pub fn fail_next_set_of(&self, end_of_name: &str) {
        *self.world.fail_set_of.borrow_mut() = Some(end_of_name.to_owned());
    }

    /// Number of operations that were sent to the store so far.
    pub fn operations(&self) -> u64 {
        self.world.operations.get()
    }

    /// Starts a caller at `at_ms`.
    pub fn spawn(&self, at_ms: u64, caller: impl Future<Output = ()> + 'static) {
        let mut callers = self.callers.borrow_mut();
        callers.push(Some(Box::pin(caller)));
        self.world.schedule(at_ms, Event::Poll(callers.len() - 1));
    }

    /// The store, as a caller sees it.
    pub fn kv(&self) -> SimKv {
        SimKv { sim: self.clone() }
    }

    /// Waits in virtual time, like a run of a model. A caller may die meanwhile.
    pub async fn sleep(&self, ms: u64) {
        self.wait_until(self.now_ms() + ms).await;
    }

    /// The entries of the store now.
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.world.entries.borrow().clone()
    }

    /// The number of entries in the store now.
    pub fn live_entries(&self) -> usize {
        self.world.entries.borrow().len()
    }

    /// Runs until no events are left. `check` is called after every event.
    pub fn run(&self, mut check: impl FnMut(&Sim)) {
        loop {
            let next = self.world.queue.borrow_mut().pop();
            let Some(Reverse(Scheduled { at_ms, event, .. })) = next else {
                return;
            };
            self.world.now_ms.set(self.world.now_ms.get().max(at_ms));
            match event {
                Event::Apply(apply) => apply(&mut self.world.entries.borrow_mut()),
                Event::Poll(id) => self.poll(id),
            }
            check(self);
        }
    }

    fn poll(&self, id: usize) {
        let Some(mut future) = self.callers.borrow_mut()[id].take() else {
            return;
        };
        self.world.current.set(id);
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_pending() && !self.world.doomed.take() {
            self.callers.borrow_mut()[id] = Some(future);
        }
    }

    /// Decides whether the running caller dies at this point.
    fn maybe_die(&self) {
        let faults = self.world.faults.get();
        if self.world.random.borrow_mut().permille(faults.crash) {
            self.world.doomed.set(true);
        }
    }

    fn wait_until(&self, at_ms: u64) -> WaitUntil {
        WaitUntil {
            sim: self.clone(),
            at_ms,
            asked: false,
        }
    }

    /// Sends an operation to the store. It is applied after some time, and the reply comes some time later.
    async fn send<T: 'static>(
        &self,
        operation: impl FnOnce(&mut BTreeMap<String, Entry>) -> Result<T, KvError> + 'static,
    ) -> Result<T, KvError> {
        let world = &self.world;
        let (lost_request, lost_reply) = world.begin_operation();
        let applied_ms = world.now_ms.get() + world.delay();
        let replied_ms = applied_ms + 1 + world.delay();
        let outcome: Rc<RefCell<Option<Result<T, KvError>>>> = Rc::default();
        if !lost_request {
            let outcome = outcome.clone();
            world.schedule(
                applied_ms,
                Event::Apply(Box::new(move |entries| {
                    *outcome.borrow_mut() = Some(operation(entries));
                })),
            );
        }
        self.wait_until(replied_ms).await;
        let outcome = outcome.borrow_mut().take();
        match outcome {
            _ if lost_reply => Err(KvError::new("the reply was lost")),
            Some(outcome) => outcome,
            None => Err(KvError::new("the request was lost")),
        }
    }

    /// Reads entries in one operation, each at its own time and in any order, with operations of others in between.
    async fn read_each(&self, kv_keys: Vec<String>) -> Result<Vec<Option<Entry>>, KvError> {
        let world = &self.world;
        let (lost_request, lost_reply) = world.begin_operation();
        let mut last_ms = world.now_ms.get();
        let read: Rc<RefCell<Vec<Option<Entry>>>> = Rc::default();
        read.borrow_mut().resize(kv_keys.len(), None);
        for (at, kv_key) in kv_keys.into_iter().enumerate() {
            let read_ms = world.now_ms.get() + world.delay();
            last_ms = last_ms.max(read_ms);
            if !lost_request {
                let read = read.clone();
                world.schedule(
                    read_ms,
                    Event::Apply(Box::new(move |entries| {
                        read.borrow_mut()[at] = entries.get(&kv_key).cloned();
                    })),
                );
            }
        }
        self.wait_until(last_ms + 1 + world.delay()).await;
        match (lost_request, lost_reply) {
            (true, _) => Err(KvError::new("the request was lost")),
            (_, true) => Err(KvError::new("the reply was lost")),
            _ => Ok(read.take()),
        }
    }
}

struct WaitUntil {
    sim: Sim,
    at_ms: u64,
    asked: bool,
}

impl Future for WaitUntil {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.asked {
            return Poll::Ready(());
        }
        self.asked = true;
        self.sim.maybe_die();
        let id = self.sim.world.current.get();
        self.sim.world.schedule(self.at_ms, Event::Poll(id));
        Poll::Pending
    }
}

/// The store of a simulated world, as one caller sees it.
#[derive(Clone)]
pub struct SimKv {
    sim: Sim,
}

impl Kv for SimKv {
    type Swap = (String, Option<Entry>);

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        let kv_key = kv_key.to_owned();
        self.sim
            .send(move |entries| match entries.get(&kv_key) {
                None => Ok(None),
                Some(Entry::Value(value)) => Ok(Some(value.clone())),
                Some(Entry::Counter(_)) => {
                    panic!("a policy read the counter {kv_key} with get, which no two stores answer alike")
                }
            })
            .await
    }

    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        let kv_key = kv_key.to_owned();
        self.sim
            .send(move |entries| Ok(entries.contains_key(&kv_key)))
            .await
    }

    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        let read = self.sim.read_each(kv_keys.to_vec()).await?;
        let found = read
            .into_iter()
            .enumerate()
            .map(|(at, entry)| match entry? {
                Entry::Value(value) => Some(value),
                Entry::Counter(_) => {
                    let name = &kv_keys[at];
                    assert!(at >= values, "a policy read the counter {name} as a value");
                    Some(Vec::new())
                }
            });
        Ok(Many::of(found, values))
    }

    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        let lost = self
            .sim
            .world
            .fail_set_of
            .borrow_mut()
            .take_if(|end| kv_key.ends_with(end.as_str()));
        if lost.is_some() {
            return Err(KvError::new("the request was lost, as the test said"));
        }
        let (kv_key, value) = (kv_key.to_owned(), value.to_vec());
        self.sim
            .send(move |entries| {
                let old = entries.insert(kv_key.clone(), Entry::Value(value));
                assert!(
                    !matches!(old, Some(Entry::Counter(_))),
                    "a policy set the counter {kv_key}"
                );
                Ok(())
            })
            .await
    }

    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        let kv_key = kv_key.to_owned();
        self.sim
            .send(move |entries| {
                entries.remove(&kv_key);
                Ok(())
            })
            .await
    }

    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        let kv_key = kv_key.to_owned();
        self.sim
            .send(move |entries| {
                // As on stores that create a counter when it is read.
                match entries.entry(kv_key.clone()).or_insert(Entry::Counter(0)) {
                    Entry::Counter(count) => {
                        *count = count.checked_add(delta).expect("a counter overflowed");
                        Ok(*count)
                    }
                    Entry::Value(_) => panic!("a policy incremented the value {kv_key}"),
                }
            })
            .await
    }

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        let kv_key = kv_key.to_owned();
        self.sim
            .send(move |entries| {
                let entry = entries.get(&kv_key).cloned();
                let value = match &entry {
                    None => None,
                    Some(Entry::Value(value)) => Some(value.clone()),
                    Some(Entry::Counter(_)) => panic!("a policy swaps the counter {kv_key}"),
                };
                Ok((value, (kv_key, entry)))
            })
            .await
    }

    async fn swap(&self, (kv_key, was): Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        let value = value.to_vec();
        self.sim
            .send(move |entries| {
                let same = entries.get(&kv_key) == was.as_ref();
                if same {
                    entries.insert(kv_key, Entry::Value(value));
                }
                Ok(same)
            })
            .await
    }
}
