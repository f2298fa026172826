//! Storage as a parameter: the key-value operations a policy may use.
//!
//! Policies are asynchronous functions over [`Kv`]. In a component every operation completes immediately, and [`run_ready`]
//! runs the whole function. In a simulation each operation is a point at which other callers run, replies get lost and
//! callers die.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Seconds for `Retry-After` while a store does not answer. It reconnects within seconds.
pub const RETRY_STORE_S: u32 = 2;

/// A store did not answer, or refused. A write may or may not have been applied, and no policy may assume either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvError {
    /// The store's message, for the operator.
    pub message: String,
}

impl KvError {
    /// An error with the store's message.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// The error of a component that has no label for a store.
    pub fn no_label() -> Self {
        Self::new("the component was given no store")
    }

    /// The error of a host that has no store under a label.
    pub fn no_store(label: &str) -> Self {
        Self::new(format!("the host has no store `{label}`"))
    }

    /// The error of a component that may not open a label.
    pub fn no_grant(label: &str) -> Self {
        Self::new(format!(
            "the component was not given the store `{label}`; name it in key_value_stores"
        ))
    }

    /// The error of an open store that the host removed.
    pub fn gone() -> Self {
        Self::new("the store is gone")
    }

    /// The error of an open store whose use the host no longer permits.
    pub fn forbidden() -> Self {
        Self::new("the store may not be used")
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An open key-value store. A policy that must be correct on every host uses only `get`, `exists`, `set`, `delete` and
/// `increment`.
/// [`Kv::read_many`] and [`Kv::set_many`] do several of these in one operation. [`Kv::read_to_swap`] is for stores whose
/// compare-and-swap is sound.
///
/// Read a counter with `increment(name, 0)`, and never `set` it: stores differ in how they store it. On some stores this read
/// creates the counter and costs a write, so call `exists` first if the counter is usually absent.
#[allow(async_fn_in_trait)]
pub trait Kv {
    /// The handle by which [`Kv::read_to_swap`] is completed.
    type Swap;

    /// The value of an entry that `set` wrote.
    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError>;
    /// Returns whether an entry exists; counters included.
    async fn exists(&self, kv_key: &str) -> Result<bool, KvError>;
    /// Reads the values of entries that `set` wrote, and whether counters exist, in one operation if the store can. The first
    /// `values` names are of such entries, the others of counters. The reads are not one moment: each entry is read at some time
    /// between the call and its return, in any order.
    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        read_one_by_one(self, kv_keys, values).await
    }
    /// Writes an entry, and replaces the value that it had.
    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError>;
    /// Writes several entries in order, in one operation if the store can. It is not atomic.
    async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), KvError> {
        for (kv_key, value) in entries {
            self.set(kv_key, value).await?;
        }
        Ok(())
    }
    /// Removes an entry, which need not exist.
    async fn delete(&self, kv_key: &str) -> Result<(), KvError>;
    /// Adds to a counter, 0 if absent, and returns the sum. Atomic on every store.
    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError>;
    /// Begins a compare-and-swap of an entry. Returns the current value, and the handle for [`Kv::swap`].
    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError>;
    /// Writes if the entry is unchanged since it was read. Returns whether it was.
    async fn swap(&self, swap: Self::Swap, value: &[u8]) -> Result<bool, KvError>;
}

/// The result of [`Kv::read_many`], in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Many {
    /// The value under each of the first names; `None` where there is no entry.
    pub values: Vec<Option<Vec<u8>>>,
    /// Whether each counter exists, for the names after the values.
    pub counters: Vec<bool>,
}

/// [`Kv::read_many`] for stores that cannot read several entries at once.
pub async fn read_one_by_one<K: Kv + ?Sized>(
    kv: &K,
    kv_keys: &[String],
    values: usize,
) -> Result<Many, KvError> {
    let mut many = Many::default();
    for (at, kv_key) in kv_keys.iter().enumerate() {
        match at < values {
            true => many.values.push(kv.get(kv_key).await?),
            false => many.counters.push(kv.exists(kv_key).await?),
        }
    }
    Ok(many)
}

impl Many {
    /// Makes the result from the entries that a store found, in the order of the names. The first `values` are values, the
    /// others counters.
    pub fn of(found: impl IntoIterator<Item = Option<Vec<u8>>>, values: usize) -> Self {
        let mut found = found.into_iter();
        Self {
            values: found.by_ref().take(values).collect(),
            // The value that a store returns for a counter is not defined.
            counters: found.map(|counter| counter.is_some()).collect(),
        }
    }
}

/// [`Kv::read_many`] over a host's `get-many`. On some hosts it fails, and its interface promises no order. After an answer that
/// cannot be used, an instance reads one by one.
#[derive(Debug, Default)]
pub struct BatchedReads {
    unusable: Cell<bool>,
}

impl BatchedReads {
    /// Makes the state of an instance that has not asked yet.
    pub const fn new() -> Self {
        Self {
            unusable: Cell::new(false),
        }
    }

    /// Reads entries by `get_many`, whose result is `None` if it failed, or one by one.
    pub async fn read<K: Kv>(
        &self,
        kv: &K,
        kv_keys: &[String],
        values: usize,
        get_many: impl FnOnce(&[String]) -> Option<Vec<(String, Option<Vec<u8>>)>>,
    ) -> Result<Many, KvError> {
        let several = kv_keys.len() > 1;
        // One entry needs no batch, and some stores answer a batch of one by a search.
        if several && !self.unusable.get() {
            let found = get_many(kv_keys);
            if let Some(many) = found.and_then(|found| in_order(found, kv_keys, values)) {
                return Ok(many);
            }
        }
        let many = read_one_by_one(kv, kv_keys, values).await?;
        if several {
            // The store answers, so the failure was that of `get-many`.
            self.unusable.set(true);
        }
        Ok(many)
    }
}

/// The result of `get-many`, if it names all entries in the order in which they were asked for.
fn in_order(
    found: Vec<(String, Option<Vec<u8>>)>,
    asked: &[String],
    values: usize,
) -> Option<Many> {
    let same = found.len() == asked.len() && found.iter().zip(asked).all(|(a, b)| a.0 == *b);
    same.then(|| Many::of(found.into_iter().map(|(_, value)| value), values))
}

/// Runs a policy over a store whose operations complete immediately.
///
/// # Panics
///
/// If the future waits. No store of a component does.
pub fn run_ready<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a component's store answers at once"),
    }
}
