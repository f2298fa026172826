//! The store as one call of quota uses it, and the bounds on late clocks and writes.

use penstock_core::{Kv, KvError};

/// The most by which the clocks of two machines may differ, in milliseconds: each is at most two seconds off. Time
/// services keep clocks far closer.
pub const CLOCK_SPREAD_MS: u64 = 4_000;

/// Time after the end of a window at which its last writes have arrived, in milliseconds. It covers different clocks
/// and slow operations. A reader that read the counter by then misses a later write.
pub const SETTLED_MS: u64 = 30_000;

/// The store, with the time of the call and a random number for names that must not collide.
#[derive(Debug)]
pub struct StoreAccess<'a, K> {
    /// The store for counters.
    pub kv: &'a K,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Random bits, new for each call.
    pub random: u64,
}

impl<K> Clone for StoreAccess<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for StoreAccess<'_, K> {}

impl<'a, K: Kv> StoreAccess<'a, K> {
    /// Gives a call access to the store.
    pub fn new(kv: &'a K, now_ms: u64, random: u64) -> Self {
        Self { kv, now_ms, random }
    }
}

/// The value of a counter; 0 where it does not exist. Does not create it.
pub async fn read_counter<K: Kv>(kv: &K, name: &str) -> Result<i64, KvError> {
    if kv.exists(name).await? {
        kv.increment(name, 0).await
    } else {
        Ok(0)
    }
}
