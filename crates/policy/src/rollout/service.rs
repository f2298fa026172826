//! Rollouts as a service, over stores whose operations complete immediately.

use super::store::{self, Tallies};
use super::words::RolloutFailure;
use penstock_core::kv::run_ready;
use penstock_core::{Kv, KvError};
use std::cell::RefCell;

/// Reads the rollouts, and counts the calls of canary runs.
pub trait RolloutService {
    /// The document, as JSON text; `None` where none was written.
    fn document(&self) -> Result<Option<String>, RolloutFailure>;
    /// Counts one answered call of a canary's run. `number` is one of [`super::judge::numbers`].
    fn count(&self, model: &str, number: u64, counter: u32) -> Result<(), RolloutFailure>;
    /// The first `counters` counters under a number of a canary's run.
    fn counts(&self, model: &str, number: u64, counters: u32) -> Result<Vec<u64>, RolloutFailure>;
    /// Rolls a canary's run back. Returns whether this call was the first to do so.
    fn roll_back(&self, model: &str, run: u64, why: &str) -> Result<bool, RolloutFailure>;
    /// Returns the reason why a canary's run was rolled back; `None` while it goes on.
    fn rolled_back(&self, model: &str, run: u64) -> Result<Option<String>, RolloutFailure>;
}

/// Rollouts over a durable store, with their counters in a store that need not be durable.
#[derive(Debug)]
pub struct KvRollouts<K> {
    kv: K,
    counters: K,
    tallies: RefCell<Tallies>,
    is_there: fn(&K) -> bool,
}

impl<K: Kv> KvRollouts<K> {
    /// Rollouts in a store. `is_there` returns whether the host has the store at all; it is asked after a first operation.
    pub fn new(kv: K, counters: K, is_there: fn(&K) -> bool) -> Self {
        Self {
            kv,
            counters,
            tallies: RefCell::default(),
            is_there,
        }
    }
}

fn failed(error: KvError) -> RolloutFailure {
    RolloutFailure::Failed(error.message)
}

impl<K: Kv> RolloutService for KvRollouts<K> {
    fn document(&self) -> Result<Option<String>, RolloutFailure> {
        let read = run_ready(store::read_text(&self.kv));
        read.map_err(|error| match (self.is_there)(&self.kv) {
            true => failed(error),
            false => RolloutFailure::Unsupported(error.message),
        })
    }

    fn count(&self, model: &str, number: u64, counter: u32) -> Result<(), RolloutFailure> {
        let mut tallies = self.tallies.borrow_mut();
        run_ready(tallies.tally(&self.counters, model, number, counter)).map_err(failed)
    }

    fn counts(&self, model: &str, number: u64, counters: u32) -> Result<Vec<u64>, RolloutFailure> {
        run_ready(store::tallies(&self.counters, model, number, counters)).map_err(failed)
    }

    fn roll_back(&self, model: &str, run: u64, why: &str) -> Result<bool, RolloutFailure> {
        run_ready(store::roll_back(&self.kv, model, run, why)).map_err(failed)
    }

    fn rolled_back(&self, model: &str, run: u64) -> Result<Option<String>, RolloutFailure> {
        run_ready(store::rolled_back(&self.kv, model, run)).map_err(failed)
    }
}
