//! The interface of all stores.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Longest name of an entry, in bytes. Spin's SQLite store takes more and its cloud stores less; the
/// policies stay below 200.
pub const MAX_KV_KEY_BYTES: usize = 512;

/// Largest value, in bytes. The largest thing stored is a recorded answer, whose own limit is lower.
pub const MAX_VALUE_BYTES: usize = 4 << 20;

/// Most names in one page of a listing.
pub const MAX_LIST_PAGE: usize = 1000;

/// A place in the order of a store's writes. Everything up to it is durable once
/// [`Store::durable`] says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// The reason that a store refused or failed an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or its disk failed. Whether the operation was applied is not known.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store holds as much as it may; nothing was applied. Entries must be deleted first.
    #[error("the store is full: {0}")]
    Full(String),
    /// A name or a value is larger than a store takes; nothing was applied.
    #[error("{what} has {bytes} bytes; a store takes at most {limit}")]
    TooLarge {
        /// "a name" or "a value".
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// `increment` met a value that `set` wrote and that is not a counter; nothing was applied.
    #[error("the entry is not a counter")]
    NotACounter,
    /// `increment` would leave the range of an `i64`; nothing was applied.
    #[error("the counter would leave the range of 64 bits")]
    Overflow,
    /// The cursor of a listing did not come from this store.
    #[error("the cursor is not one of this store's")]
    BadCursor,
    /// A store that does more than keep entries refused an operation. The message is meant for the caller.
    #[error("{0}")]
    Refused(String),
}

/// The outcome of a compare-and-swap that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The entry was as expected and now has the new value.
    Swapped,
    /// The entry was something else, which it still is: `None` when it is absent.
    Differs(Option<Vec<u8>>),
}

/// Some of a store's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The names, at most [`MAX_LIST_PAGE`] of them.
    pub names: Vec<String>,
    /// The cursor of the next page; `None` at the end.
    pub cursor: Option<String>,
}

/// An answer that is ready or comes later. A store in memory answers at once, and a request must not
/// pay an allocation for that.
pub enum Reply<'a, T> {
    /// The answer is here. It is taken out when polled.
    Ready(Option<Result<T, StoreError>>),
    /// The answer comes later.
    Later(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

impl<'a, T> Reply<'a, T> {
    /// An answer that is ready.
    pub fn ready(answer: Result<T, StoreError>) -> Self {
        Self::Ready(Some(answer))
    }

    /// An answer that comes later.
    pub fn later(answer: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Self {
        Self::Later(Box::pin(answer))
    }
}

impl<T> Unpin for Reply<'_, T> {}

impl<T> Future for Reply<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(answer) => Poll::Ready(answer.take().expect("polled after it was ready")),
            Self::Later(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for Reply<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Reply::Ready",
            Self::Later(_) => "Reply::Later",
        })
    }
}

/// A store of entries by name. All operations are linearizable; `set_many` and `delete_many` apply each entry by itself and
/// stop at the first error. On Redis, later entries of the same part may still be applied.
///
/// A counter is an entry that `increment` made. The bytes that `get` returns for one differ between stores
/// (8 little-endian bytes here, decimal text on Redis): read it with `increment(name, 0)`, which does
/// not create it, and never `set` one.
pub trait Store: Send + Sync + 'static {
    /// The store's description for a log line, such as `embedded (/var/lib/penstock/default.kv)`.
    fn describe(&self) -> String;

    /// Returns whether [`Store::compare_and_swap`] is atomic. All stores here say so; it is asked because
    /// others exist.
    fn sound_compare_and_swap(&self) -> bool {
        true
    }

    /// Returns whether no other process can use the store while this one has it open.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// The value of an entry.
    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>>;
    /// The values of several entries, in their order.
    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>>;
    /// Returns whether there is such an entry.
    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool>;
    /// Writes an entry, and replaces its value.
    fn set<'a>(&'a self, kv_key: &'a str, value: &'a [u8]) -> Reply<'a, ()>;
    /// Writes several entries, in their order.
    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()>;
    /// Removes an entry, which need not exist.
    fn delete<'a>(&'a self, kv_key: &'a str) -> Reply<'a, ()>;
    /// Removes several entries, which need not exist.
    fn delete_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, ()>;
    /// Adds to a counter, which is 0 when absent, and gives the sum.
    fn increment<'a>(&'a self, kv_key: &'a str, delta: i64) -> Reply<'a, i64>;
    /// Writes an entry if it is as expected (`None`: absent).
    fn compare_and_swap<'a>(
        &'a self,
        kv_key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap>;
    /// Names of entries, in no stated order. An entry that exists throughout a listing is in it exactly
    /// once on stores of this machine, and at least once on Redis.
    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page>;

    /// The place of the last write that was applied.
    fn position(&self) -> Position;
    /// Waits until everything up to a place survives a crash of the process and of the machine. Ready
    /// at once on a store whose writes are already as durable as they get.
    fn durable<'a>(&'a self, up_to: Position) -> Reply<'a, ()>;
}

/// The check of a name that every store makes first.
pub fn check_kv_key(kv_key: &str) -> Result<(), StoreError> {
    if kv_key.len() > MAX_KV_KEY_BYTES {
        return Err(StoreError::TooLarge {
            what: "a name",
            bytes: kv_key.len(),
            limit: MAX_KV_KEY_BYTES,
        });
    }
    Ok(())
}

/// The check of a value that every store makes first.
pub fn check_value(value: &[u8]) -> Result<(), StoreError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(StoreError::TooLarge {
            what: "a value",
            bytes: value.len(),
            limit: MAX_VALUE_BYTES,
        });
    }
    Ok(())
}
