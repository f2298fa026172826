//! The cache as a service, over a store that answers at once.

use super::place::Address;
use super::words::{CacheAddress, Looked};
use penstock_core::Kv;
use penstock_core::kv::run_ready;

/// The cache of results. Its errors are what the store says; no call fails for them.
pub trait CacheService {
    /// Looks for a result that was kept at `since_ms` or later. A caller that waits for another one's run since
    /// `waiting_since_ms` is not made to wait for ever.
    fn look(
        &self,
        at: &CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Looked, String>;
    /// Keeps a result. A caller that ran without having looked has the ticket [`super::words::NO_TICKET`].
    fn keep(
        &self,
        at: &CacheAddress<'_>,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), String>;
    /// Gives back a place: the run came to nothing.
    fn release(&self, at: &CacheAddress<'_>, ticket: u64) -> Result<(), String>;
}

/// The cache over a store.
#[derive(Debug)]
pub struct KvCache<K>(K);

impl<K: Kv> KvCache<K> {
    /// A cache in a store.
    pub const fn new(kv: K) -> Self {
        Self(kv)
    }
}

fn address(at: &CacheAddress<'_>) -> Result<Address, String> {
    Address::new(at.space, at.places, at.digest, at.lease_ms)
}

impl<K: Kv> CacheService for KvCache<K> {
    fn look(
        &self,
        at: &CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Looked, String> {
        let at = address(at)?;
        run_ready(at.look(&self.0, since_ms, waiting_since_ms, now_ms)).map_err(|e| e.message)
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
