//! Registers every new entry for deletion; see [`crate::sweep`].

use super::store::StoreAccess;
use crate::sweep::{DeleteNamed, Index};
use penstock_core::{Kv, KvError};

/// Most names that an instance keeps while the store cannot register them. Entries beyond this number stay in the
/// store for ever.
const MAX_PENDING: usize = 64;

/// Shards of an index. Busy instances rarely write to the same shard, and a quiet limit has few shards to sweep.
const SHARDS: u32 = 4;

/// The entries of one limit that await deletion.
#[derive(Debug)]
pub struct Register {
    index: Index,
    pending: Vec<String>,
}

impl Register {
    /// A register for entries that matter for at most twice `width_ms`. Entries in windows of exactly `width_ms` matter
    /// until the end of the next window.
    pub fn new(prefix: String, width_ms: u64) -> Self {
        Self {
            index: Index::new(prefix, width_ms, SHARDS),
            pending: Vec::new(),
        }
    }

    /// Registers a new entry, and those that failed before. Returns the number of failures.
    pub async fn add<K: Kv>(&mut self, store: StoreAccess<'_, K>, name: String) -> u64 {
        self.suspect(name);
        match self.add_pending(store).await {
            Ok(()) => 0,
            Err(_) => 1,
        }
    }

    /// Keeps the name of an entry that may exist, for the next registration. Deleting a missing entry does no harm.
    pub fn suspect(&mut self, name: String) {
        if !self.pending.contains(&name) && self.pending.len() < MAX_PENDING {
            self.pending.push(name);
        }
    }

    async fn add_pending<K: Kv>(&mut self, store: StoreAccess<'_, K>) -> Result<(), KvError> {
        while let Some(name) = self.pending.last() {
            let place = self
                .index
                .place(
                    store.kv,
                    self.index.bucket(store.now_ms),
                    store.now_ms,
                    store.random,
                    &mut DeleteNamed,
                )
                .await?;
            store.kv.set(&place, name.as_bytes()).await?;
            self.pending.pop();
        }
        Ok(())
    }
}
