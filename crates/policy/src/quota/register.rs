//! Decides that every entry that is made is deleted again: see [`crate::sweep`].

use super::store::Ask;
use crate::sweep::{DeleteNamed, Index};
use penstock_core::{Kv, KvError};

/// Names an instance keeps while the store refuses to register them. What is forgotten beyond that
/// stays in the store for ever.
const MAX_PENDING: usize = 64;

/// Shards of an index: busy instances rarely meet on one, and a quiet limit has few to sweep.
const SHARDS: u32 = 4;

/// The entries of one limit, on their way to deletion.
#[derive(Debug)]
pub struct Register {
    index: Index,
    pending: Vec<String>,
}

impl Register {
    /// A register for entries that matter for at most twice `width_ms`, or, where they lie in windows
    /// of exactly `width_ms`, until the end of the window after theirs.
    pub fn new(prefix: String, width_ms: u64) -> Self {
        Self {
            index: Index::new(prefix, width_ms, SHARDS),
            pending: Vec::new(),
        }
    }

    /// Registers an entry that was just made, and what failed before; how many failures there were.
    pub async fn add<K: Kv>(&mut self, ask: Ask<'_, K>, name: String) -> u64 {
        self.suspect(name);
        match self.add_pending(ask).await {
            Ok(()) => 0,
            Err(_) => 1,
        }
    }

    /// Keeps the name of an entry that may have been made, for the next registration. Deleting what
    /// does not exist does no harm.
    pub fn suspect(&mut self, name: String) {
        if !self.pending.contains(&name) && self.pending.len() < MAX_PENDING {
            self.pending.push(name);
        }
    }

    async fn add_pending<K: Kv>(&mut self, ask: Ask<'_, K>) -> Result<(), KvError> {
        while let Some(name) = self.pending.last() {
            let place = self
                .index
                .place(
                    ask.kv,
                    self.index.bucket(ask.now_ms),
                    ask.now_ms,
                    ask.random,
                    &mut DeleteNamed,
                )
                .await?;
            ask.kv.set(&place, name.as_bytes()).await?;
            self.pending.pop();
        }
        Ok(())
    }
}
