//! Decides which stores an instance may open and what an answer waits for.
//!
//! A component names a store by a label. It may open the labels its manifest grants it and no others;
//! a composed component is one instance, so what the root is granted is what all of its parts that
//! inherit `key_value_stores` can reach, and the composition sees to it that the others cannot even
//! ask. Three interfaces lead to the same stores: `wasi:keyvalue`, and Spin's `key-value` in its
//! versions 2 (synchronous) and 3 (asynchronous), so that foreign components run unchanged.
//!
//! * [`config`]: which store a label stands for;
//! * [`open`](mod@open): the one place that makes stores;
//! * [`ledger`]: what an instance has seen of its stores, and how an answer waits until that lasts;
//! * [`models`]: the store that is what this host knows of its models, and no entries;
//! * `access`: one operation on one store, within its limits;
//! * `wasi`, `spin2`, `spin3`: the three interfaces.
//!
//! An operation is applied at once and everybody sees it; it is the answer that waits for the disk,
//! in the door, and only for stores the instance has used. A component with other ways out than its
//! answer needs `durability = "write"`: then each write waits.

mod access;
pub mod config;
pub mod ledger;
pub mod models;
pub mod open;
mod spin2;
mod spin3;
mod wasi;

pub use config::{Durability, RuntimeConfig, StoreConfig, StoreKind};
pub use ledger::{Ledger, NotDurable};
pub use models::ModelStore;
pub use open::open;

use crate::state::InstanceState;
use penstock_kv::Store;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use wasmtime::component::{HasData, Linker};

/// The interfaces, as components import them.
pub const INTERFACES: [&str; 5] = [
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "fermyon:spin/key-value@2.0.0",
    "spin:key-value/key-value@3.0.0",
];

/// Most names or entries in one `get-many`, `set-many` or `delete-many`. A policy has a handful; each
/// entry is work the host does without the guest's computing time running.
pub const MAX_BATCH: usize = 1000;

/// Entries of a batch that are asked of a store together. Values may have 4 MiB, so this bounds what
/// the host holds before it knows how large they are.
const BATCH_PART: usize = 16;

/// Most bytes of names that `get-keys` of Spin's version 2 answers with: it has no pages, so all of
/// them are in memory at once.
pub const MAX_LISTING_BYTES: usize = 16 << 20;

/// One part in so many of what an instance may hold may be the values of one batch: they are in the
/// host's memory and in the guest's at once.
const BATCH_SHARE: usize = 4;

#[allow(missing_docs)]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package penstock:host-side;
            world stores {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import fermyon:spin/key-value@2.0.0;
                import spin:key-value/key-value@3.0.0;
            }
        ",
        path: ["../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/deps/spin-key-value"],
        world: "penstock:host-side/stores",
        with: {
            "wasi:keyvalue/store.bucket": super::wasi::Bucket,
            "wasi:keyvalue/atomics.cas": super::wasi::Cas,
            "fermyon:spin/key-value.store": super::spin2::Opened,
            "spin:key-value/key-value.store": super::spin3::Opened,
        },
        imports: {
            "wasi:keyvalue/store.open": trappable,
            "fermyon:spin/key-value.[static]store.open": trappable,
            "wasi:keyvalue/atomics.[method]cas.current": trappable,
            default: async | trappable,
        },
    });
}

/// The stores an application may open.
#[derive(Default)]
pub struct Stores {
    granted: Vec<Granted>,
}

/// A label an application was granted.
struct Granted {
    label: String,
    /// None where nobody configured one; an application is not served so.
    store: Option<Arc<dyn Store>>,
    durability: Durability,
    /// Unix seconds of the last log line about a failure, so that a store that is away for a minute
    /// does not write a line for each request.
    complained: AtomicU64,
}

impl Stores {
    /// No store at all.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// What an application is granted, of the stores there are. A label without a store is told
    /// `no-such-store` when it is opened.
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

    /// The first of some labels that there is a store for, and whether its compare-and-swap is sound.
    pub fn first_of<'a>(&self, labels: &[&'a str]) -> Option<(&'a str, bool)> {
        labels.iter().find_map(|label| {
            let granted = self.granted.iter().find(|g| g.label == **label)?;
            let store = granted.store.as_ref()?;
            Some((*label, store.sound_compare_and_swap()))
        })
    }

    /// The store that a label stands for.
    pub fn store(&self, label: &str) -> Option<&Arc<dyn Store>> {
        self.granted[self.find(label)?].store.as_ref()
    }

    /// What each label stands for, a line each.
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

    fn find(&self, label: &str) -> Option<usize> {
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
    fn complain(&self, error: &dyn fmt::Display) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        if self.complained.swap(now, Ordering::Relaxed) != now {
            let why = crate::log::one_line(error);
            tracing::error!("store {}: {why}", self.label);
        }
    }
}

/// Lets the generated code reach an instance's state.
struct Kv;

impl HasData for Kv {
    type Data<'a> = &'a mut InstanceState;
}

/// Adds the interfaces to a linker.
pub fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    use bindings::fermyon::spin::key_value as spin2;
    use bindings::spin::key_value::key_value as spin3;
    use bindings::wasi::keyvalue::{atomics, batch, store};
    store::add_to_linker::<_, Kv>(linker, |state| state)?;
    atomics::add_to_linker::<_, Kv>(linker, |state| state)?;
    batch::add_to_linker::<_, Kv>(linker, |state| state)?;
    spin2::add_to_linker::<_, Kv>(linker, |state| state)?;
    spin3::add_to_linker::<_, Kv>(linker, |state| state)
}
