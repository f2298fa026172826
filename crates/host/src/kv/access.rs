//! One operation on one store, for all three interfaces: within the limits, noted in the ledger, and
//! with errors that tell a guest what it can act on and the log the rest.

use super::{BATCH_PART, BATCH_SHARE, Durability, Granted, Ledger, MAX_BATCH, MAX_LISTING_BYTES};
use crate::state::InstanceState;
use penstock_kv::{Page, Reply, Store, StoreError, Swap, check_kv_key, check_value};
use std::sync::Arc;
use wasmtime::component::{Resource, ResourceTableError};

/// Why an operation was not done, as the interfaces can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The label was not granted.
    Denied,
    /// The label was granted and no store is configured for it.
    NoSuchStore,
    /// The instance has no handle left.
    NoHandles,
    /// Anything else, in words.
    Other(String),
}

/// What `open` and others say in words where an interface has no case for [`Fault::NoHandles`].
pub(super) const NO_HANDLES: &str =
    "this instance has no handle left: close stores that are not used any more";

/// A store as an instance has it open.
#[derive(Clone)]
pub(super) struct Access {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    /// Which of the granted labels it is.
    at: usize,
    /// The most bytes of values in one batch.
    batch_bytes: usize,
}

impl InstanceState {
    /// Opens a store by label.
    pub(super) fn access(&self, label: &str) -> Result<Access, Fault> {
        let stores = self.ledger.stores();
        let at = stores.find(label).ok_or(Fault::Denied)?;
        let store = stores.granted[at].store.as_ref();
        Ok(Access {
            store: store.ok_or(Fault::NoSuchStore)?.clone(),
            ledger: self.ledger.clone(),
            at,
            batch_bytes: self.max_tensor_bytes / BATCH_SHARE,
        })
    }

    /// Gives a guest a handle. An instance that has none left is not used again.
    pub(super) fn hand_out<T: Send + 'static>(&mut self, thing: T) -> Result<Resource<T>, Fault> {
        self.table.push(thing).map_err(|error| {
            if matches!(error, ResourceTableError::Full) {
                self.ledger.note_spent();
            }
            Fault::NoHandles
        })
    }

    /// Opens a store by label and gives a guest the handle.
    pub(super) fn open_as<T: Send + 'static>(
        &mut self,
        label: &str,
        wrap: impl FnOnce(Access) -> T,
    ) -> Result<Resource<T>, Fault> {
        let access = self.access(label)?;
        self.hand_out(wrap(access))
    }
}

impl Access {
    fn granted(&self) -> &Granted {
        &self.ledger.stores().granted[self.at]
    }

    /// Waits for an answer and notes what the instance may know by then.
    async fn ask<T>(&self, reply: Reply<'_, T>) -> Result<T, Fault> {
        let answer = reply.await;
        // A failed operation may have been applied, and what is seen of it must last as well.
        self.ledger.note(self.at, self.store.position());
        answer.map_err(|error| self.fault(error))
    }

    /// The same for a write, which lasts already when its label says so.
    async fn tell<T>(&self, reply: Reply<'_, T>) -> Result<T, Fault> {
        let answer = self.ask(reply).await?;
        if self.granted().durability == Durability::Write {
            let lasts = self.store.durable(self.store.position()).await;
            lasts.map_err(|error| self.fault(error))?;
        }
        Ok(answer)
    }

    fn fault(&self, error: StoreError) -> Fault {
        let label = &self.granted().label;
        Fault::Other(match &error {
            // Why is the operator's business: it may name machines and files.
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

    fn check_name(&self, name: &str) -> Result<(), Fault> {
        check_kv_key(name).map_err(|error| self.fault(error))
    }

    fn check_entry(&self, name: &str, value: &[u8]) -> Result<(), Fault> {
        self.check_name(name)?;
        check_value(value).map_err(|error| self.fault(error))
    }

    fn check_batch(&self, entries: usize) -> Result<(), Fault> {
        if entries > MAX_BATCH {
            return Err(Fault::Other(format!(
                "{entries} entries in one call; at most {MAX_BATCH} are accepted: use several calls"
            )));
        }
        Ok(())
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.check_name(name)?;
        self.ask(self.store.get(name)).await
    }

    pub(super) async fn exists(&self, name: &str) -> Result<bool, Fault> {
        self.check_name(name)?;
        self.ask(self.store.exists(name)).await
    }

    pub(super) async fn set(&self, name: &str, value: &[u8]) -> Result<(), Fault> {
        self.check_entry(name, value)?;
        self.tell(self.store.set(name, value)).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Fault> {
        self.check_name(name)?;
        self.tell(self.store.delete(name)).await
    }

    pub(super) async fn increment(&self, name: &str, delta: i64) -> Result<i64, Fault> {
        self.check_name(name)?;
        self.tell(self.store.increment(name, delta)).await
    }

    /// Reads what a compare-and-swap will compare with.
    pub(super) async fn read_to_swap(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        if !self.store.sound_compare_and_swap() {
            return Err(Fault::Other(format!(
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
    ) -> Result<Swap, Fault> {
        self.check_entry(name, value)?;
        self.tell(self.store.compare_and_swap(name, expected, value))
            .await
    }

    pub(super) async fn get_many(
        &self,
        names: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, Fault> {
        self.check_batch(names.len())?;
        for name in &names {
            self.check_name(name)?;
        }
        let mut values = Vec::with_capacity(names.len());
        let mut bytes = 0usize;
        for part in names.chunks(BATCH_PART) {
            let found = self.ask(self.store.get_many(part)).await?;
            if found.len() != part.len() {
                return Err(Fault::Other(format!(
                    "store {} answered {} of {} names",
                    self.granted().label,
                    found.len(),
                    part.len()
                )));
            }
            bytes += found.iter().flatten().map(Vec::len).sum::<usize>();
            if bytes > self.batch_bytes {
                return Err(Fault::Other(format!(
                    "the values have more than {} bytes, the most in one call: ask for fewer",
                    self.batch_bytes
                )));
            }
            values.extend(found);
        }
        Ok(names.into_iter().zip(values).collect())
    }

    pub(super) async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), Fault> {
        self.check_batch(entries.len())?;
        // All are looked at first, so that a wrong one does not leave half of them written.
        for (name, value) in entries {
            self.check_entry(name, value)?;
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.tell(self.store.set_many(entries)).await
    }

    pub(super) async fn delete_many(&self, names: &[String]) -> Result<(), Fault> {
        self.check_batch(names.len())?;
        for name in names {
            self.check_name(name)?;
        }
        if names.is_empty() {
            return Ok(());
        }
        self.tell(self.store.delete_many(names)).await
    }

    pub(super) async fn list(&self, cursor: Option<&str>) -> Result<Page, Fault> {
        self.ask(self.store.list(cursor)).await
    }

    /// All names at once, where an interface has no pages.
    pub(super) async fn list_all(&self) -> Result<Vec<String>, Fault> {
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
                return Err(Fault::Other(format!(
                    "the names of store {} have more than {MAX_LISTING_BYTES} bytes, the most in \
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

/// What a listed name costs: its bytes and its place in a list.
fn listed_bytes(name: &str) -> usize {
    name.len() + size_of::<String>()
}
