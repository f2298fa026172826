//! One operation on one store, for all three interfaces. It respects the limits, is noted in the ledger, and reports
//! errors: the guest gets the part that it can act on, and the log gets the rest.

use super::ledger::Ledger;
use super::stores::Granted;
use penstock_app::Durability;
use penstock_kv::{Page, Reply, Store, StoreError, Swap, check_kv_key, check_value};
use std::sync::Arc;

/// Most names or entries in one `get-many`, `set-many` or `delete-many`. A policy has a handful. Each entry is work of
/// the host that does not count as the guest's computing time.
pub const MAX_BATCH: usize = 1000;

/// Entries of a batch that are read from a store together. Values may have 4 MiB, so this bounds the memory of the host
/// before it knows their size.
const BATCH_PART: usize = 16;

/// Most bytes of names that `get-keys` of Spin's version 2 returns. It has no pages, so all of them are in memory at
/// once.
pub const MAX_LISTING_BYTES: usize = 16 << 20;

/// The values of one batch may take one part in this many of an instance's limit: they are in the host's memory and in
/// the guest's at once.
const BATCH_SHARE: usize = 4;

/// The reason why an operation was not done, as far as the interfaces can express it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AccessError {
    /// The label was not granted.
    Denied,
    /// The label was granted and no store is configured for it.
    NoSuchStore,
    /// The instance has too many open stores.
    NoHandles,
    /// Any other reason, as text.
    Other(String),
}

/// The message of [`AccessError::NoHandles`] for interfaces that have no such case.
pub(super) const NO_HANDLES: &str = "this instance has too many open stores: close unused ones";

/// A store that an instance has opened.
#[derive(Clone)]
pub(super) struct Access {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    /// The index of its label among the granted ones.
    at: usize,
    /// The most bytes of values in one batch.
    batch_bytes: usize,
}

impl Access {
    /// Opens a store by label. `held_limit` is the most bytes that the host may hold for the instance.
    pub(super) fn open(
        ledger: &Arc<Ledger>,
        label: &str,
        held_limit: usize,
    ) -> Result<Self, AccessError> {
        let stores = ledger.stores();
        let at = stores.find(label).ok_or(AccessError::Denied)?;
        let store = stores.granted[at].store.as_ref();
        Ok(Self {
            store: store.ok_or(AccessError::NoSuchStore)?.clone(),
            ledger: ledger.clone(),
            at,
            batch_bytes: held_limit / BATCH_SHARE,
        })
    }

    fn granted(&self) -> &Granted {
        &self.ledger.stores().granted[self.at]
    }

    /// Waits for an answer and notes the position that the instance may know by then.
    async fn ask<T>(&self, reply: Reply<'_, T>) -> Result<T, AccessError> {
        let answer = reply.await;
        // A failed operation may have been applied, and its visible effects must be durable as well.
        self.ledger.note(self.at, self.store.position());
        answer.map_err(|error| self.fault(error))
    }

    /// The same for a write, which is durable already if its label says so.
    async fn tell<T>(&self, reply: Reply<'_, T>) -> Result<T, AccessError> {
        let answer = self.ask(reply).await?;
        if self.granted().durability == Durability::Write {
            let lasts = self.store.durable(self.store.position()).await;
            lasts.map_err(|error| self.fault(error))?;
        }
        Ok(answer)
    }

    fn fault(&self, error: StoreError) -> AccessError {
        let label = &self.granted().label;
        AccessError::Other(match &error {
            // The reason is for the operator: it may name machines and files.
            StoreError::Unavailable(_) => {
                self.granted().complain(&error);
                format!("store {label} is not available; the server's log says why")
            }
            StoreError::Full(_) => {
                self.granted().complain(&error);
                format!("store {label} is full; entries must be deleted first")
            }
            StoreError::Refused(words) => words.clone(),
            _ => format!("store {label}: {error}"),
        })
    }

    fn check_name(&self, name: &str) -> Result<(), AccessError> {
        check_kv_key(name).map_err(|error| self.fault(error))
    }

    fn check_entry(&self, name: &str, value: &[u8]) -> Result<(), AccessError> {
        self.check_name(name)?;
        check_value(value).map_err(|error| self.fault(error))
    }

    fn check_batch(&self, entries: usize) -> Result<(), AccessError> {
        if entries > MAX_BATCH {
            return Err(AccessError::Other(format!(
                "{entries} entries in one call; at most {MAX_BATCH} are accepted: use several calls"
            )));
        }
        Ok(())
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, AccessError> {
        self.check_name(name)?;
        self.ask(self.store.get(name)).await
    }

    pub(super) async fn exists(&self, name: &str) -> Result<bool, AccessError> {
        self.check_name(name)?;
        self.ask(self.store.exists(name)).await
    }

    pub(super) async fn set(&self, name: &str, value: &[u8]) -> Result<(), AccessError> {
        self.check_entry(name, value)?;
        self.tell(self.store.set(name, value)).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), AccessError> {
        self.check_name(name)?;
        self.tell(self.store.delete(name)).await
    }

    pub(super) async fn increment(&self, name: &str, delta: i64) -> Result<i64, AccessError> {
        self.check_name(name)?;
        self.tell(self.store.increment(name, delta)).await
    }

    /// Reads the value for a compare-and-swap.
    pub(super) async fn read_to_swap(&self, name: &str) -> Result<Option<Vec<u8>>, AccessError> {
        if !self.store.sound_compare_and_swap() {
            return Err(AccessError::Other(format!(
                "store {} cannot compare and swap atomically; use increment",
                self.granted().label
            )));
        }
        self.get(name).await
    }

    pub(super) async fn swap(
        &self,
        name: &str,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Swap, AccessError> {
        self.check_entry(name, value)?;
        self.tell(self.store.compare_and_swap(name, expected, value))
            .await
    }

    pub(super) async fn get_many(
        &self,
        names: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, AccessError> {
        self.check_batch(names.len())?;
        for name in &names {
            self.check_name(name)?;
        }
        let mut values = Vec::with_capacity(names.len());
        let mut bytes = 0usize;
        for part in names.chunks(BATCH_PART) {
            let found = self.ask(self.store.get_many(part)).await?;
            if found.len() != part.len() {
                return Err(AccessError::Other(format!(
                    "store {} answered {} of {} names",
                    self.granted().label,
                    found.len(),
                    part.len()
                )));
            }
            bytes += found.iter().flatten().map(Vec::len).sum::<usize>();
            if bytes > self.batch_bytes {
                return Err(AccessError::Other(format!(
                    "the values exceed {} bytes, the limit of one call: request fewer",
                    self.batch_bytes
                )));
            }
            values.extend(found);
        }
        Ok(names.into_iter().zip(values).collect())
    }

    pub(super) async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), AccessError> {
        self.check_batch(entries.len())?;
        // All are checked first, so that a wrong one does not leave half of them written.
        for (name, value) in entries {
            self.check_entry(name, value)?;
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.tell(self.store.set_many(entries)).await
    }

    pub(super) async fn delete_many(&self, names: &[String]) -> Result<(), AccessError> {
        self.check_batch(names.len())?;
        for name in names {
            self.check_name(name)?;
        }
        if names.is_empty() {
            return Ok(());
        }
        self.tell(self.store.delete_many(names)).await
    }

    pub(super) async fn list(&self, cursor: Option<&str>) -> Result<Page, AccessError> {
        self.ask(self.store.list(cursor)).await
    }

    /// Lists all names at once, for interfaces without pages.
    pub(super) async fn list_all(&self) -> Result<Vec<String>, AccessError> {
        let mut names: Vec<String> = Vec::new();
        let mut bytes = 0usize;
        let mut cursor: Option<String> = None;
        loop {
            let page = self.list(cursor.as_deref()).await?;
            bytes += page
                .names
                .iter()
                .map(|name| listed_bytes(name))
                .sum::<usize>();
            if bytes > MAX_LISTING_BYTES {
                return Err(AccessError::Other(format!(
                    "the names of store {} exceed {MAX_LISTING_BYTES} bytes, the limit of \
                     one answer: list them in pages, with wasi:keyvalue or spin:key-value@3.0.0",
                    self.granted().label
                )));
            }
            names.extend(page.names);
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(names),
            }
        }
    }
}

/// The cost of a listed name: its bytes and its place in a list.
fn listed_bytes(name: &str) -> usize {
    name.len() + size_of::<String>()
}
