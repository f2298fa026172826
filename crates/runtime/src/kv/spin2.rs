//! `fermyon:spin/key-value@2.0.0`, which components built for Spin 2 and 3 import.

use super::access::{Access, AccessError};
use super::bindings::fermyon::spin::key_value::{Error, Host, HostStore};
use super::resources::Spin2Store;
use super::view::KvView;
use wasmtime::component::Resource;

impl From<AccessError> for Error {
    fn from(fault: AccessError) -> Self {
        match fault {
            AccessError::Denied => Self::AccessDenied,
            AccessError::NoSuchStore => Self::NoSuchStore,
            AccessError::NoHandles => Self::StoreTableFull,
            AccessError::Other(words) => Self::Other(words),
        }
    }
}

/// The outer error ends the guest; see the same type for `wasi:keyvalue`.
type HostResult<T> = wasmtime::Result<Result<T, Error>>;

fn answer<T>(result: Result<T, AccessError>) -> HostResult<T> {
    Ok(result.map_err(Error::from))
}

impl KvView<'_> {
    fn opened(&self, store: &Resource<Spin2Store>) -> wasmtime::Result<&Access> {
        Ok(&self.table.get(store)?.0)
    }
}

impl Host for KvView<'_> {}

impl HostStore for KvView<'_> {
    fn open(&mut self, label: String) -> HostResult<Resource<Spin2Store>> {
        answer(self.open_as(&label, Spin2Store))
    }

    async fn get(
        &mut self,
        store: Resource<Spin2Store>,
        key: String,
    ) -> HostResult<Option<Vec<u8>>> {
        answer(self.opened(&store)?.get(&key).await)
    }

    async fn set(
        &mut self,
        store: Resource<Spin2Store>,
        key: String,
        value: Vec<u8>,
    ) -> HostResult<()> {
        answer(self.opened(&store)?.set(&key, &value).await)
    }

    async fn delete(&mut self, store: Resource<Spin2Store>, key: String) -> HostResult<()> {
        answer(self.opened(&store)?.delete(&key).await)
    }

    async fn exists(&mut self, store: Resource<Spin2Store>, key: String) -> HostResult<bool> {
        answer(self.opened(&store)?.exists(&key).await)
    }

    async fn get_keys(&mut self, store: Resource<Spin2Store>) -> HostResult<Vec<String>> {
        answer(self.opened(&store)?.list_all().await)
    }

    async fn drop(&mut self, store: Resource<Spin2Store>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}
