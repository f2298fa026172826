//! `spin:key-value/key-value@3.0.0`, asynchronous: an instance continues while its stores work. Names are listed as a
//! stream, page by page, as fast as the guest reads.

use super::access::{Access, AccessError};
use super::bindings::spin::key_value::key_value::{Error, Host, HostStore, HostStoreWithStore};
use super::resources::Spin3Store;
use super::view::{HasKv, KvView};
use penstock_kv::Page;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, Destination, FutureReader, Resource, StreamProducer, StreamReader, StreamResult,
    VecBuffer,
};

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

/// Returns the store behind a handle. It is cloned, because the handle may be dropped during an operation.
fn opened<T>(
    accessor: &Accessor<T, HasKv>,
    store: &Resource<Spin3Store>,
) -> wasmtime::Result<Access> {
    accessor.with(|mut access| Ok(access.get().table.get(store)?.0.clone()))
}

impl Host for KvView<'_> {}

impl HostStore for KvView<'_> {
    async fn drop(&mut self, store: Resource<Spin3Store>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

impl<T: 'static> HostStoreWithStore<T> for HasKv {
    async fn open(accessor: &Accessor<T, Self>, label: String) -> HostResult<Resource<Spin3Store>> {
        accessor.with(|mut access| answer(access.get().open_as(&label, Spin3Store)))
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<Spin3Store>,
        key: String,
    ) -> HostResult<Option<Vec<u8>>> {
        answer(opened(accessor, &store)?.get(&key).await)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<Spin3Store>,
        key: String,
        value: Vec<u8>,
    ) -> HostResult<()> {
        answer(opened(accessor, &store)?.set(&key, &value).await)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<Spin3Store>,
        key: String,
    ) -> HostResult<()> {
        answer(opened(accessor, &store)?.delete(&key).await)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<Spin3Store>,
        key: String,
    ) -> HostResult<bool> {
        answer(opened(accessor, &store)?.exists(&key).await)
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<Spin3Store>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let listed = opened(accessor, &store)?;
        let (outcome, ended) = oneshot::channel();
        let names = Names {
            access: listed,
            next: Next::Ask(None),
            outcome: Some(outcome),
        };
        accessor.with(|mut access| {
            let names = StreamReader::new(&mut access, names)?;
            let ended = FutureReader::new(&mut access, ended)?;
            Ok((names, ended))
        })
    }
}

type PageFuture = Pin<Box<dyn Future<Output = Result<Page, AccessError>> + Send>>;

/// The names of a store that are being sent to a guest.
struct Names {
    access: Access,
    next: Next,
    /// Gets the result of the listing. A guest waits for it after the last name.
    outcome: Option<oneshot::Sender<Result<(), Error>>>,
}

/// The next step of a listing when the guest wants more.
enum Next {
    /// Request the page after a cursor.
    Ask(Option<String>),
    /// Wait for a page that is on its way.
    Wait(PageFuture),
    /// The listing has given all names.
    End,
}

impl Names {
    fn end(&mut self, outcome: Result<(), Error>) {
        self.next = Next::End;
        if let Some(told) = self.outcome.take() {
            // A guest that ignores the result has dropped the other side.
            let _ = told.send(outcome);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // If a guest stops reading early, its listing ends without an error.
        self.end(Ok(()));
    }
}

impl<D> StreamProducer<D> for Names {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, String, VecBuffer<String>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let names = &mut *self;
        loop {
            match &mut names.next {
                Next::End => return Poll::Ready(Ok(StreamResult::Dropped)),
                Next::Ask(cursor) => {
                    let (access, cursor) = (names.access.clone(), cursor.take());
                    let asked = Box::pin(async move { access.list(cursor.as_deref()).await });
                    names.next = Next::Wait(asked);
                }
                Next::Wait(asked) => {
                    let page = match asked.as_mut().poll(context) {
                        Poll::Pending if finish => {
                            return Poll::Ready(Ok(StreamResult::Cancelled));
                        }
                        polled => ready!(polled),
                    };
                    match page {
                        Err(fault) => names.end(Err(fault.into())),
                        Ok(page) => {
                            match page.cursor {
                                Some(cursor) => names.next = Next::Ask(Some(cursor)),
                                None => names.end(Ok(())),
                            }
                            // A page may be empty and not the last.
                            if !page.names.is_empty() {
                                destination.set_buffer(page.names.into());
                                let more = !matches!(names.next, Next::End);
                                return Poll::Ready(Ok(if more {
                                    StreamResult::Completed
                                } else {
                                    StreamResult::Dropped
                                }));
                            }
                        }
                    }
                }
            }
        }
    }
}
