//! A store between a test and another store. It fails and delays at the configured rates, and always in the same way
//! for the same seed.

use penstock_kv::{Page, Position, Reply, Store, StoreError, Swap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Rates of faults, in thousandths of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The operation fails and was not applied.
    pub before: u32,
    /// The operation fails although it was applied: the reply was lost.
    pub after: u32,
    /// The operation yields to others, before and after it is applied.
    pub delay: u32,
}

/// A store that fails at configured rates.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    random: AtomicU64,
    faults: Mutex<Faults>,
    failures: AtomicU32,
}

impl FaultyStore {
    /// Makes a store that fails as `faults` say, and otherwise does the same as `inner`.
    pub fn new(inner: Arc<dyn Store>, seed: u64, faults: Faults) -> Self {
        Self {
            inner,
            random: AtomicU64::new(seed),
            faults: Mutex::new(faults),
            failures: AtomicU32::new(0),
        }
    }

    /// Sets the rates from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().expect("no panic inside") = faults;
    }

    /// Number of failures that were made so far.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Decides whether an event of this rate happens now.
    fn happens(&self, thousandths: u32) -> bool {
        let mut z = self
            .random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % 1000) < u64::from(thousandths)
    }

    fn fails(&self, thousandths: u32, how: &str) -> Result<(), StoreError> {
        if !self.happens(thousandths) {
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        Err(StoreError::Unavailable(format!("as the test asked: {how}")))
    }

    async fn delay(&self, thousandths: u32) {
        if self.happens(thousandths) {
            tokio::task::yield_now().await;
        }
    }

    fn pass<'a, T: Send + 'a>(
        &'a self,
        operation: impl FnOnce() -> Reply<'a, T> + Send + 'a,
    ) -> Reply<'a, T> {
        Reply::later(async move {
            let faults = *self.faults.lock().expect("no panic inside");
            self.fails(faults.before, "not applied")?;
            self.delay(faults.delay).await;
            let answer = operation().await?;
            self.delay(faults.delay).await;
            self.fails(faults.after, "applied, the reply lost")?;
            Ok(answer)
        })
    }
}

impl Store for FaultyStore {
    fn describe(&self) -> String {
        format!("{}, with faults", self.inner.describe())
    }

    fn sound_compare_and_swap(&self) -> bool {
        self.inner.sound_compare_and_swap()
    }

    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        self.pass(|| self.inner.get(kv_key))
    }

    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        self.pass(|| self.inner.get_many(kv_keys))
    }

    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool> {
        self.pass(|| self.inner.exists(kv_key))
    }

    fn set<'a>(&'a self, kv_key: &'a str, value: &'a [u8]) -> Reply<'a, ()> {
        self.pass(|| self.inner.set(kv_key, value))
    }

    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        self.pass(|| self.inner.set_many(entries))
    }

    fn delete<'a>(&'a self, kv_key: &'a str) -> Reply<'a, ()> {
        self.pass(|| self.inner.delete(kv_key))
    }

    fn delete_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, ()> {
        self.pass(|| self.inner.delete_many(kv_keys))
    }

    fn increment<'a>(&'a self, kv_key: &'a str, delta: i64) -> Reply<'a, i64> {
        self.pass(move || self.inner.increment(kv_key, delta))
    }

    fn compare_and_swap<'a>(
        &'a self,
        kv_key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap> {
        self.pass(move || self.inner.compare_and_swap(kv_key, expected, value))
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page> {
        self.pass(move || self.inner.list(cursor))
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn durable<'a>(&'a self, up_to: Position) -> Reply<'a, ()> {
        self.pass(move || self.inner.durable(up_to))
    }
}
