//! A store of the host as a port of the policies.

use penstock_core::{Kv, KvError};
use penstock_kv::{Store, StoreError, Swap};
use std::sync::Arc;

/// A store behind the port.
#[derive(Clone)]
pub struct StoreKv(Arc<dyn Store>);

fn failed(error: StoreError) -> KvError {
    KvError::new(error.to_string())
}

impl StoreKv {
    /// Makes a store of the host usable for the policies.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Waits until all data that were read or written are durable.
    ///
    /// # Errors
    ///
    /// If they may not be durable.
    pub async fn settled(&self) -> Result<(), KvError> {
        self.0.durable(self.0.position()).await.map_err(failed)
    }
}

impl Kv for StoreKv {
    type Swap = (String, Option<Vec<u8>>);

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(kv_key).await.map_err(failed)
    }

    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        self.0.exists(kv_key).await.map_err(failed)
    }

    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        self.0.set(kv_key, value).await.map_err(failed)
    }

    async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), KvError> {
        self.0.set_many(entries).await.map_err(failed)
    }

    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        self.0.delete(kv_key).await.map_err(failed)
    }

    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        self.0.increment(kv_key, delta).await.map_err(failed)
    }

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        let value = self.get(kv_key).await?;
        Ok((value.clone(), (kv_key.to_owned(), value)))
    }

    async fn swap(&self, (kv_key, was): Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        let swapped = self.0.compare_and_swap(&kv_key, was.as_deref(), value);
        Ok(swapped.await.map_err(failed)? == Swap::Swapped)
    }
}
