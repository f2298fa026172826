//! Implements the storage port over `wasi:keyvalue`. A store is opened once in the life of an instance.
//!
//! `list-keys` is not used, because on some hosts it is unbounded.

use penstock_core::kv::{BatchedReads, Many};
use penstock_core::{Kv, KvError};
use std::cell::OnceCell;

#[allow(missing_docs)]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package penstock:guest-side;
            world stores {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }
        ",
        path: ["../../wit/deps/keyvalue"],
        world: "penstock:guest-side/stores",
        generate_all,
    });
}

pub use bindings::wasi::keyvalue::{atomics, batch, store};

/// The label of the durable store, for data that must survive a crash.
pub const DEFAULT: &str = "default";
/// The label of the fast store, for data that a crash may lose. If a host has none, the durable store is used.
pub const COUNTERS: &str = "counters";

/// A store, opened on first use under the first of its labels that the host grants.
pub struct WitKv {
    labels: &'static [&'static str],
    opened: OnceCell<store::Bucket>,
    batched_reads: BatchedReads,
}

impl WitKv {
    /// Creates a store with its labels, best first.
    pub const fn new(labels: &'static [&'static str]) -> Self {
        Self {
            labels,
            opened: OnceCell::new(),
            batched_reads: BatchedReads::new(),
        }
    }

    /// Returns whether the host has a store under one of the labels and grants access to it.
    pub fn is_granted(&self) -> bool {
        let refused = |label: &&str| {
            matches!(
                store::open(label),
                Err(store::Error::NoSuchStore | store::Error::AccessDenied)
            )
        };
        self.opened.get().is_some() || !self.labels.iter().all(refused)
    }

    fn bucket(&self) -> Result<&store::Bucket, KvError> {
        if let Some(bucket) = self.opened.get() {
            return Ok(bucket);
        }
        let mut refusal = KvError::no_label();
        for label in self.labels {
            match store::open(label) {
                Ok(bucket) => return Ok(self.opened.get_or_init(|| bucket)),
                Err(store::Error::NoSuchStore) => refusal = KvError::no_store(label),
                Err(store::Error::AccessDenied) => refusal = KvError::no_grant(label),
                // The store exists but does not answer now. Another store would have other entries, so do not try it.
                Err(store::Error::Other(message)) => return Err(KvError::new(message)),
            }
        }
        Err(refusal)
    }
}

fn failed(error: store::Error) -> KvError {
    match error {
        store::Error::NoSuchStore => KvError::gone(),
        store::Error::AccessDenied => KvError::forbidden(),
        store::Error::Other(message) => KvError::new(message),
    }
}

impl Kv for WitKv {
    type Swap = atomics::Cas;

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.bucket()?.get(kv_key).map_err(failed)
    }

    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        self.bucket()?.exists(kv_key).map_err(failed)
    }

    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        let bucket = self.bucket()?;
        let get_many = |asked: &[String]| batch::get_many(bucket, asked).ok();
        let reads = &self.batched_reads;
        reads.read(self, kv_keys, values, get_many).await
    }

    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        self.bucket()?.set(kv_key, value).map_err(failed)
    }

    async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), KvError> {
        if let [(kv_key, value)] = entries {
            return self.set(kv_key, value).await;
        }
        batch::set_many(self.bucket()?, entries).map_err(failed)
    }

    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        self.bucket()?.delete(kv_key).map_err(failed)
    }

    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        atomics::increment(self.bucket()?, kv_key, delta).map_err(failed)
    }

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        let cas = atomics::Cas::new(self.bucket()?, kv_key).map_err(failed)?;
        let value = cas.current().map_err(failed)?;
        Ok((value, cas))
    }

    async fn swap(&self, cas: Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        match atomics::swap(cas, value) {
            Ok(()) => Ok(true),
            Err(atomics::CasError::CasFailed(_)) => Ok(false),
            Err(atomics::CasError::StoreError(error)) => Err(failed(error)),
        }
    }
}
