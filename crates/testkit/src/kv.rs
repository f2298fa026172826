//! A store in memory for policies that are tested without a simulation. It answers at once, and fails when the test
//! says so.

use penstock_core::kv::Many;
use penstock_core::{Kv, KvError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A store in memory, for policies. Clones share it.
///
/// ```
/// use penstock_core::Kv;
/// use penstock_core::kv::run_ready;
/// use penstock_testkit::MemoryKv;
///
/// let kv = MemoryKv::default();
/// assert_eq!(run_ready(kv.increment("calls", 2)).unwrap(), 2);
/// kv.set_failing(true);
/// assert!(run_ready(kv.get("name")).is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryKv {
    values: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
    counters: Rc<RefCell<BTreeMap<String, i64>>>,
    failing: Rc<Cell<bool>>,
    full: Rc<Cell<bool>>,
    operations: Rc<Cell<u64>>,
}

impl MemoryKv {
    /// Sets whether every operation from now on fails.
    pub fn set_failing(&self, failing: bool) {
        self.failing.set(failing);
    }

    /// Sets whether writes that create or enlarge an entry fail from now on.
    pub fn set_full(&self, full: bool) {
        self.full.set(full);
    }

    /// Number of operations so far.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// The names of all entries: values first, then counters.
    pub fn names(&self) -> Vec<String> {
        let (values, counters) = (self.values.borrow(), self.counters.borrow());
        values.keys().chain(counters.keys()).cloned().collect()
    }

    fn begin(&self) -> Result<(), KvError> {
        self.operations.set(self.operations.get() + 1);
        if self.failing.get() {
            return Err(KvError::new("the store fails as it was told to"));
        }
        Ok(())
    }
}

impl Kv for MemoryKv {
    type Swap = (String, Option<Vec<u8>>);

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.begin()?;
        Ok(self.values.borrow().get(kv_key).cloned())
    }

    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        self.begin()?;
        Ok(
            self.values.borrow().contains_key(kv_key)
                || self.counters.borrow().contains_key(kv_key),
        )
    }

    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        self.begin()?;
        let (kept, counts) = (self.values.borrow(), self.counters.borrow());
        let found = kv_keys.iter().map(|kv_key| {
            let count = || counts.contains_key(kv_key).then(Vec::new);
            kept.get(kv_key).cloned().or_else(count)
        });
        Ok(Many::of(found, values))
    }

    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        self.begin()?;
        let mut values = self.values.borrow_mut();
        let grows = values.get(kv_key).is_none_or(|old| old.len() < value.len());
        if self.full.get() && grows {
            return Err(KvError::new("the store is full as it was told to be"));
        }
        values.insert(kv_key.to_owned(), value.to_vec());
        Ok(())
    }

    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        self.begin()?;
        self.values.borrow_mut().remove(kv_key);
        self.counters.borrow_mut().remove(kv_key);
        Ok(())
    }

    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        self.begin()?;
        let mut counters = self.counters.borrow_mut();
        if self.full.get() && !counters.contains_key(kv_key) {
            return Err(KvError::new("the store is full as it was told to be"));
        }
        let count = counters.entry(kv_key.to_owned()).or_default();
        *count += delta;
        Ok(*count)
    }

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        let value = self.get(kv_key).await?;
        Ok((value.clone(), (kv_key.to_owned(), value)))
    }

    async fn swap(&self, (kv_key, was): Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        self.begin()?;
        let mut values = self.values.borrow_mut();
        let same = values.get(&kv_key) == was.as_ref();
        if same {
            values.insert(kv_key, value.to_vec());
        }
        Ok(same)
    }
}
