//! Storage as a parameter: the key-value operations a policy may use.
//!
//! Policies are written once as asynchronous functions over [`Kv`]. In a component every operation
//! answers at once and [`run_ready`] runs the whole; in a simulation each is a point where other
//! callers run, replies get lost and callers die.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Seconds a caller is told to wait for a store that does not answer: it reconnects within seconds.
pub const RETRY_STORE_S: u32 = 2;

/// A store did not answer, or refused. Whether a write was applied is not known, so no policy may
/// assume either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvError {
    /// What the store said, for the operator.
    pub message: String,
}

impl KvError {
    /// An error with the store's words.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// One opened store. What must hold on every host uses `get`, `exists`, `set`, `delete` and
/// `increment` only; [`Kv::set_many`] is those in one trip, and [`Kv::read_to_swap`] is for stores whose
/// compare-and-swap was found sound.
///
/// A counter is read with `increment(name, 0)` and never `set`: how it is stored differs between
/// stores. On some stores that read creates the counter and costs a write, so ask `exists` first where
/// absence is the common case.
#[allow(async_fn_in_trait)]
pub trait Kv {
    /// What a compare-and-swap begun by [`Kv::read_to_swap`] is ended with.
    type Swap;

    /// The value of an entry that `set` wrote.
    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError>;
    /// Whether there is such an entry, a counter or not.
    async fn exists(&self, kv_key: &str) -> Result<bool, KvError>;
    /// Writes an entry.
    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError>;
    /// Writes several entries in their order, in one trip where the store can. Not atomic.
    async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), KvError> {
        for (kv_key, value) in entries {
            self.set(kv_key, value).await?;
        }
        Ok(())
    }
    /// Removes an entry, which need not exist.
    async fn delete(&self, kv_key: &str) -> Result<(), KvError>;
    /// Adds to a counter, 0 when absent, and gives the sum. Atomic on every store.
    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError>;
    /// Begins a compare-and-swap: the value now, and what to end it with.
    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError>;
    /// Writes if the entry is still as it was read; whether it was.
    async fn swap(&self, swap: Self::Swap, value: &[u8]) -> Result<bool, KvError>;
}

/// Runs a policy over a store that answers at once.
///
/// # Panics
///
/// When something in it waits; no store a component is given does.
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
