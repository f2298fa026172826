//! Decides which stores an instance may open and what an answer waits for.
//!
//! A component names a store by a label. It may open the labels its manifest grants it and no others;
//! a composed component is one instance, so what the root is granted is what all of its parts that
//! inherit `key_value_stores` can reach, and the composition sees to it that the others cannot even
//! ask. Three interfaces lead to the same stores: `wasi:keyvalue`, and Spin's `key-value` in its
//! versions 2 (synchronous) and 3 (asynchronous), so that foreign components run unchanged.
//!
//! * [`ledger`]: what an instance has seen of its stores, and how an answer waits until that lasts;
//! * [`models`]: the store that is what this host knows of its models, and no entries;
//! * `stores`: the stores by label; `access`: one operation on one store, within its limits;
//! * `view`: what these interfaces see of an instance; `resources`: what its handles stand for;
//! * `wasi`, `spin2`, `spin3`: the three interfaces.
//!
//! An operation is applied at once and everybody sees it; it is the answer that waits for the disk,
//! in the door, and only for stores the instance has used. A component with other ways out than its
//! answer needs `durability = "write"`: then each write waits.

mod access;
mod bindings;
pub mod ledger;
pub mod models;
mod resources;
mod spin2;
mod spin3;
mod stores;
mod view;
mod wasi;

pub use access::{MAX_BATCH, MAX_LISTING_BYTES};
pub use ledger::{Ledger, NotDurable};
pub use models::ModelStore;
pub use stores::Stores;
pub use view::{KvCtx, KvView};

use view::HasKv;
use wasmtime::component::Linker;

/// The interfaces, as components import them.
pub const INTERFACES: [&str; 5] = [
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "fermyon:spin/key-value@2.0.0",
    "spin:key-value/key-value@3.0.0",
];

/// Adds the interfaces to a linker. `view` makes the view of an instance's state.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KvView<'_>,
) -> wasmtime::Result<()> {
    use bindings::fermyon::spin::key_value as spin2;
    use bindings::spin::key_value::key_value as spin3;
    use bindings::wasi::keyvalue::{atomics, batch, store};
    store::add_to_linker::<_, HasKv>(linker, view)?;
    atomics::add_to_linker::<_, HasKv>(linker, view)?;
    batch::add_to_linker::<_, HasKv>(linker, view)?;
    spin2::add_to_linker::<_, HasKv>(linker, view)?;
    spin3::add_to_linker::<_, HasKv>(linker, view)
}
