//! The cache as a service, over a store whose operations complete immediately.

use super::place::Address;
use super::words::{CacheAddress, Lookup};
use penstock_core::Kv;
use penstock_core::kv::run_ready;

/// The cache of results. Its errors are messages of the store; no call fails because of them.
pub trait CacheService {
    /// Looks up a result from `since_ms` or later. A caller that waits for another run passes since when,
    /// `waiting_since_ms`, so that it does not wait for ever.
    fn look_up(
        &self,
        at: &CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Lookup, String>;
    /// Stores the result of a run. A caller that ran without a lookup passes the ticket [`super::words::NO_TICKET`].
    fn keep(
        &self,
        at: &CacheAddress<'_>,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), String>;
    /// Releases a place after a run without a result.
    fn release(&self, at: &CacheAddress<'_>, ticket: u64) -> Result<(), String>;
}

/// The cache over a store.
#[derive(Debug)]
pub struct KvCache<K>(K);

impl<K: Kv> KvCache<K> {
    /// A cache in this store.
    pub const fn new(kv: K) -> Self {
        Self(kv)
    }
}

fn address(at: &CacheAddress<'_>) -> Result<Address, String> {
    Address::new(at.space, at.places, at.digest, at.lease_ms)
}

impl<K: Kv> CacheService for KvCache<K> {
    fn look_up(
        &self,
        at: &CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Lookup, String> {
        let at = address(at)?;
        run_ready(at.look_up(&self.0, since_ms, waiting_since_ms, now_ms)).map_err(|e| e.message)
    }

    fn keep(
        &self,
        at: &CacheAddress<'_>,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), String> {
        run_ready(address(at)?.keep(&self.0, ticket, value, now_ms)).map_err(|e| e.message)
    }

    fn release(&self, at: &CacheAddress<'_>, ticket: u64) -> Result<(), String> {
        run_ready(address(at)?.release(&self.0, ticket)).map_err(|e| e.message)
    }
}
