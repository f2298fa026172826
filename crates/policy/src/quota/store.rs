//! The store as one call of quota uses it, and how far clocks and writes may lag.

use penstock_core::{Kv, KvError};

/// How far clocks of two machines may differ, in milliseconds: each by two seconds from the true time,
/// which is far beyond what any time service leaves.
pub const CLOCK_SPREAD_MS: u64 = 4_000;

/// After this time past its end nobody writes a window any more, in milliseconds: clocks that differ and
/// operations that are slow. One that is slower is missed by whoever has read the counter by then.
pub const SETTLED_MS: u64 = 30_000;

/// One question to the store: by whom, when, and a random number for what must not collide.
#[derive(Debug)]
pub struct Ask<'a, K> {
    /// The store for counters.
    pub kv: &'a K,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Random bits, new for each call.
    pub random: u64,
}

impl<K> Clone for Ask<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Ask<'_, K> {}

impl<'a, K: Kv> Ask<'a, K> {
    /// A question.
    pub fn new(kv: &'a K, now_ms: u64, random: u64) -> Self {
        Self { kv, now_ms, random }
    }
}

/// The sum of a counter, which is not made by asking.
pub async fn read_counter<K: Kv>(kv: &K, name: &str) -> Result<i64, KvError> {
    if kv.exists(name).await? {
        kv.increment(name, 0).await
    } else {
        Ok(0)
    }
}
