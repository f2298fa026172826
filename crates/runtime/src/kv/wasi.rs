//! `wasi:keyvalue@0.2.0-draft2`: store, atomics and batch.

use super::access::{Access, AccessError, NO_HANDLES};
use super::bindings::wasi::keyvalue::{atomics, batch, store};
use super::resources::{Bucket, Cas};
use super::view::KvView;
use crate::held::OverLimit;
use penstock_kv::Swap;
use wasmtime::component::Resource;

impl From<AccessError> for store::Error {
    fn from(fault: AccessError) -> Self {
        match fault {
            AccessError::Denied => Self::AccessDenied,
            AccessError::NoSuchStore => Self::NoSuchStore,
            AccessError::NoHandles => Self::Other(NO_HANDLES.to_owned()),
            AccessError::Other(words) => Self::Other(words),
        }
    }
}

/// The result of a function of these interfaces. The outer error ends the guest. It means that the host and the guest
/// disagree about handles, which a guest cannot cause.
type HostResult<T> = wasmtime::Result<Result<T, store::Error>>;

fn answer<T>(result: Result<T, AccessError>) -> HostResult<T> {
    Ok(result.map_err(store::Error::from))
}

impl KvView<'_> {
    fn bucket(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<&Access> {
        Ok(&self.table.get(bucket)?.0)
    }

    /// Gives a guest an entry as it was read. The value stays in the host's memory and counts as held there, like
    /// tensors.
    fn hand_out_cas(&mut self, cas: Cas) -> Result<Resource<Cas>, AccessError> {
        let bytes = cas.held_bytes();
        self.held.take(bytes).map_err(|OverLimit { held, limit }| {
            AccessError::Other(format!(
                "the instance holds {held} bytes in the host; the limit is {limit}"
            ))
        })?;
        self.hand_out(cas).inspect_err(|_| self.held.release(bytes))
    }

    fn take_cas(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Cas> {
        let cas = self.table.delete(cas)?;
        self.held.release(cas.held_bytes());
        Ok(cas)
    }
}

impl store::Host for KvView<'_> {
    fn open(&mut self, identifier: String) -> HostResult<Resource<Bucket>> {
        answer(self.open_as(&identifier, Bucket))
    }
}

impl store::HostBucket for KvView<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> HostResult<Option<Vec<u8>>> {
        answer(self.bucket(&bucket)?.get(&key).await)
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> HostResult<()> {
        answer(self.bucket(&bucket)?.set(&key, &value).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> HostResult<()> {
        answer(self.bucket(&bucket)?.delete(&key).await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> HostResult<bool> {
        answer(self.bucket(&bucket)?.exists(&key).await)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> HostResult<store::KeyResponse> {
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

impl batch::Host for KvView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> HostResult<Vec<(String, Option<Vec<u8>>)>> {
        answer(self.bucket(&bucket)?.get_many(keys).await)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> HostResult<()> {
        answer(self.bucket(&bucket)?.set_many(&key_values).await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> HostResult<()> {
        answer(self.bucket(&bucket)?.delete_many(&keys).await)
    }
}

impl atomics::HostCas for KvView<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> HostResult<Resource<Cas>> {
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

    fn current(&mut self, cas: Resource<Cas>) -> HostResult<Option<Vec<u8>>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.take_cas(cas).map(drop)
    }
}

impl atomics::Host for KvView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> HostResult<i64> {
        answer(self.bucket(&bucket)?.increment(&key, delta).await)
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        let Cas { access, name, seen } = self.take_cas(cas)?;
        let failed = |fault: AccessError| Ok(Err(atomics::CasError::StoreError(fault.into())));
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
