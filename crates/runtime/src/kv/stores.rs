//! The stores that an application is granted, by label.

use penstock_app::Durability;
use penstock_kv::Store;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The stores an application may open.
#[derive(Default)]
pub struct Stores {
    pub(super) granted: Vec<Granted>,
}

/// A label an application was granted.
pub(super) struct Granted {
    pub(super) label: String,
    /// `None` if no store is configured. Such an application is not served.
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) durability: Durability,
    /// Unix seconds of the last log line about a failure, so that a store that is unavailable for a minute does not
    /// cause a line for each request.
    pub(super) complained: AtomicU64,
}

impl Stores {
    /// Returns a set without stores.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Grants labels of an application from the open stores. A label without a store gets `no-such-store` when it is
    /// opened.
    pub fn grant<'l>(
        labels: impl IntoIterator<Item = &'l str>,
        mut stores: BTreeMap<String, (Arc<dyn Store>, Durability)>,
    ) -> Arc<Self> {
        let mut granted: Vec<Granted> = Vec::new();
        for label in labels {
            if granted.iter().any(|known| known.label == label) {
                continue;
            }
            let (store, durability) = match stores.remove(label) {
                Some((store, durability)) => (Some(store), durability),
                None => (None, Durability::default()),
            };
            granted.push(Granted {
                label: label.to_owned(),
                store,
                durability,
                complained: AtomicU64::new(0),
            });
        }
        Arc::new(Self { granted })
    }

    /// Returns the first of some labels that has a store, and whether its compare-and-swap is sound.
    pub fn first_of<'a>(&self, labels: &[&'a str]) -> Option<(&'a str, bool)> {
        labels.iter().find_map(|label| {
            let granted = self.granted.iter().find(|g| g.label == **label)?;
            let store = granted.store.as_ref()?;
            Some((*label, store.sound_compare_and_swap()))
        })
    }

    /// Returns the store of a label.
    pub fn store(&self, label: &str) -> Option<&Arc<dyn Store>> {
        self.granted[self.find(label)?].store.as_ref()
    }

    /// Describes each label's store, one line each.
    pub fn describe(&self) -> Vec<String> {
        let line = |granted: &Granted| {
            let Granted {
                label, durability, ..
            } = granted;
            match &granted.store {
                Some(store) => format!("store {label}: {}; {durability}", store.describe()),
                None => format!("store {label}: not configured"),
            }
        };
        self.granted.iter().map(line).collect()
    }

    pub(super) fn find(&self, label: &str) -> Option<usize> {
        self.granted.iter().position(|known| known.label == label)
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.describe()).finish()
    }
}

impl Granted {
    /// Logs a failure, at most once a second.
    pub(super) fn complain(&self, error: &dyn fmt::Display) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        if self.complained.swap(now, Ordering::Relaxed) != now {
            let why = penstock_app::one_line(error);
            tracing::error!("store {}: {why}", self.label);
        }
    }
}
