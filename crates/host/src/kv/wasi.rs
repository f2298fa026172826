//! `wasi:keyvalue@0.2.0-draft2`: store, atomics and batch.

use super::access::{Access, Fault, NO_HANDLES};
use super::bindings::wasi::keyvalue::{atomics, batch, store};
use crate::state::InstanceState;
use penstock_kv::Swap;
use wasmtime::component::Resource;

/// A store a guest has open.
pub struct Bucket(Access);

/// An entry as a guest has seen it, to be replaced if it is still so.
pub struct Cas {
    access: Access,
    name: String,
    seen: Option<Vec<u8>>,
}

impl From<Fault> for store::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Denied => Self::AccessDenied,
            Fault::NoSuchStore => Self::NoSuchStore,
            Fault::NoHandles => Self::Other(NO_HANDLES.to_owned()),
            Fault::Other(words) => Self::Other(words),
        }
    }
}

/// What a function of these interfaces gives: the outer error ends the guest and means that the host
/// and the guest disagree about handles, which a guest cannot bring about.
type Answer<T> = wasmtime::Result<Result<T, store::Error>>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    Ok(result.map_err(store::Error::from))
}

impl InstanceState {
    fn bucket(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<&Access> {
        Ok(&self.table.get(bucket)?.0)
    }

    /// Gives a guest an entry as it was seen. The value stays in the host's memory and counts as
    /// held there, as tensors do.
    fn hand_out_cas(&mut self, cas: Cas) -> Result<Resource<Cas>, Fault> {
        let held = self.tensor_bytes.saturating_add(cas.held_bytes());
        if held > self.max_tensor_bytes {
            return Err(Fault::Other(format!(
                "the instance holds {held} bytes in the host; the limit is {}",
                self.max_tensor_bytes
            )));
        }
        let handle = self.hand_out(cas)?;
        self.tensor_bytes = held;
        Ok(handle)
    }

    fn take_cas(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Cas> {
        let cas = self.table.delete(cas)?;
        self.tensor_bytes = self.tensor_bytes.saturating_sub(cas.held_bytes());
        Ok(cas)
    }
}

impl Cas {
    fn held_bytes(&self) -> usize {
        self.name.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

impl store::Host for InstanceState {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        answer(self.open_as(&identifier, Bucket))
    }
}

impl store::HostBucket for InstanceState {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        answer(self.bucket(&bucket)?.get(&key).await)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        answer(self.bucket(&bucket)?.set(&key, &value).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        answer(self.bucket(&bucket)?.delete(&key).await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        answer(self.bucket(&bucket)?.exists(&key).await)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Answer<store::KeyResponse> {
        let page = self.bucket(&bucket)?.list(cursor.as_deref()).await;
        answer(page.map(|page| store::KeyResponse {
            keys: page.names,
            cursor: page.cursor,
        }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl batch::Host for InstanceState {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        answer(self.bucket(&bucket)?.get_many(keys).await)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        answer(self.bucket(&bucket)?.set_many(&key_values).await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        answer(self.bucket(&bucket)?.delete_many(&keys).await)
    }
}

impl atomics::HostCas for InstanceState {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        let access = self.bucket(&bucket)?.clone();
        let seen = match access.read_to_swap(&key).await {
            Ok(seen) => seen,
            Err(fault) => return answer(Err(fault)),
        };
        answer(self.hand_out_cas(Cas {
            access,
            name: key,
            seen,
        }))
    }

    fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.take_cas(cas).map(drop)
    }
}

impl atomics::Host for InstanceState {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Answer<i64> {
        answer(self.bucket(&bucket)?.increment(&key, delta).await)
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        let Cas { access, name, seen } = self.take_cas(cas)?;
        let failed = |fault: Fault| Ok(Err(atomics::CasError::StoreError(fault.into())));
        match access.swap(&name, seen.as_deref(), &value).await {
            Ok(Swap::Swapped) => Ok(Ok(())),
            Ok(Swap::Differs(seen)) => match self.hand_out_cas(Cas { access, name, seen }) {
                Ok(latest) => Ok(Err(atomics::CasError::CasFailed(latest))),
                Err(fault) => failed(fault),
            },
            Err(fault) => failed(fault),
        }
    }
}
