//! Tracks which entries an instance has seen in its stores, and how an answer waits until they are durable.
//!
//! For each store, the ledger keeps the position in the store's order of writes up to which the instance may have seen
//! data. It is kept for the life of the instance and not of a request, because the guest's memory may carry data from
//! an earlier request into a later answer.

use super::stores::Stores;
use penstock_kv::{Position, Reply, StoreError};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

/// The positions that one instance has seen. The instance and its entry point share it.
#[derive(Debug)]
pub struct Ledger {
    stores: Arc<Stores>,
    /// For each granted store: 0 if it was never used, otherwise the position plus one.
    seen: Box<[AtomicU64]>,
    /// Whether the instance ran out of handles.
    spent: AtomicBool,
}

/// The data of an answer may not be durable.
#[derive(Debug, thiserror::Error)]
#[error("store {label}: the entries written or read are not durable: {cause}")]
pub struct NotDurable {
    /// The label of the store.
    pub label: String,
    /// The error of the store that did not make them durable.
    pub cause: StoreError,
}

impl Ledger {
    /// An empty ledger over these stores.
    pub fn new(stores: Arc<Stores>) -> Arc<Self> {
        let seen = stores.granted.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            stores,
            seen,
            spent: AtomicBool::new(false),
        })
    }

    /// The stores that the instance may open.
    pub(super) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Notes that the instance used a store and may have seen writes up to a position.
    pub(super) fn note(&self, at: usize, place: Position) {
        self.seen[at].fetch_max(place.0.saturating_add(1), Ordering::Relaxed);
    }

    /// Notes that the instance ran out of handles.
    pub(super) fn note_spent(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// Returns whether the instance ran out of handles. Then it is useless, because leaked handles cannot be reclaimed.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Waits until all data that the instance may have seen are durable. It waits for the stores together. Stores that
    /// were not used, and stores with everything on disk, cost nothing.
    ///
    /// # Errors
    ///
    /// The first store that cannot confirm it.
    pub async fn settled(&self) -> Result<(), NotDurable> {
        let mut waits: Vec<(usize, Reply<'_, ()>)> = Vec::new();
        for (at, seen) in self.seen.iter().enumerate() {
            let Some(place) = seen.load(Ordering::Relaxed).checked_sub(1) else {
                continue;
            };
            let Some(store) = &self.stores.granted[at].store else {
                continue;
            };
            // A store that can confirm at once costs only the question.
            match store.durable(Position(place)) {
                Reply::Ready(Some(Ok(()))) => {}
                Reply::Ready(Some(Err(cause))) => return Err(self.not_durable(at, cause)),
                later => waits.push((at, later)),
            }
        }
        if waits.is_empty() {
            return Ok(());
        }
        let settled = poll_fn(|context| {
            let mut failed = None;
            waits.retain_mut(|(at, reply)| match Pin::new(reply).poll(context) {
                Poll::Pending => true,
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(cause)) => {
                    failed.get_or_insert((*at, cause));
                    false
                }
            });
            match failed {
                Some(failed) => Poll::Ready(Err(failed)),
                None if waits.is_empty() => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        });
        settled
            .await
            .map_err(|(at, cause)| self.not_durable(at, cause))
    }

    fn not_durable(&self, at: usize, cause: StoreError) -> NotDurable {
        NotDurable {
            label: self.stores.granted[at].label.clone(),
            cause,
        }
    }
}
