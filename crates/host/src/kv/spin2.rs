//! `fermyon:spin/key-value@2.0.0`, which components built for Spin 2 and 3 import.

use super::access::{Access, Fault};
use super::bindings::fermyon::spin::key_value::{Error, Host, HostStore};
use crate::state::InstanceState;
use wasmtime::component::Resource;

/// A store a guest has open.
pub struct Opened(Access);

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Denied => Self::AccessDenied,
            Fault::NoSuchStore => Self::NoSuchStore,
            Fault::NoHandles => Self::StoreTableFull,
            Fault::Other(words) => Self::Other(words),
        }
    }
}

/// The outer error ends the guest; see the same type for `wasi:keyvalue`.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    Ok(result.map_err(Error::from))
}

impl InstanceState {
    fn spin2_store(&self, store: &Resource<Opened>) -> wasmtime::Result<&Access> {
        Ok(&self.table.get(store)?.0)
    }
}

impl Host for InstanceState {}

impl HostStore for InstanceState {
    fn open(&mut self, label: String) -> Answer<Resource<Opened>> {
        answer(self.open_as(&label, Opened))
    }

    async fn get(&mut self, store: Resource<Opened>, key: String) -> Answer<Option<Vec<u8>>> {
        answer(self.spin2_store(&store)?.get(&key).await)
    }

    async fn set(&mut self, store: Resource<Opened>, key: String, value: Vec<u8>) -> Answer<()> {
        answer(self.spin2_store(&store)?.set(&key, &value).await)
    }

    async fn delete(&mut self, store: Resource<Opened>, key: String) -> Answer<()> {
        answer(self.spin2_store(&store)?.delete(&key).await)
    }

    async fn exists(&mut self, store: Resource<Opened>, key: String) -> Answer<bool> {
        answer(self.spin2_store(&store)?.exists(&key).await)
    }

    async fn get_keys(&mut self, store: Resource<Opened>) -> Answer<Vec<String>> {
        answer(self.spin2_store(&store)?.list_all().await)
    }

    async fn drop(&mut self, store: Resource<Opened>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}
