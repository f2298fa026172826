//! Decides which stores an instance may open and which writes an answer waits for.
//!
//! A component names a store by a label. It may open the labels that its manifest grants, and no others. A composed
//! component is one instance. So all parts that inherit `key_value_stores` can reach the root's stores, and the
//! composition prevents the others from asking. Three interfaces lead to the same stores: `wasi:keyvalue`, and Spin's
//! `key-value` in its versions 2 (synchronous) and 3 (asynchronous), so that foreign components run unchanged.
//!
//! * [`ledger`]: the entries that an instance has seen in its stores, and how an answer waits until they are durable;
//! * [`models`]: the store with this host's facts about its models, and no entries;
//! * `stores`: the stores by label; `access`: one operation on one store, within its limits;
//! * `view`: the view of an instance for these interfaces; `resources`: the objects behind its handles;
//! * `wasi`, `spin2`, `spin3`: the three interfaces.
//!
//! An operation is applied at once and visible to all. The answer waits for the disk, in the entry point, and only for
//! stores that the instance has used. A component that sends data in other ways than its answer needs `durability =
//! "write"`: then each write waits.

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

/// Returns whether an interface has asynchronous functions. Then it needs
/// [`Concurrency::On`](crate::engine::Concurrency::On).
pub fn is_async(interface: &str) -> bool {
    interface == "spin:key-value/key-value@3.0.0"
}

/// Adds the interfaces without asynchronous functions to a linker. `view` makes the view of an instance's state.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KvView<'_>,
) -> wasmtime::Result<()> {
    use bindings::fermyon::spin::key_value as spin2;
    use bindings::wasi::keyvalue::{atomics, batch, store};
    store::add_to_linker::<_, HasKv>(linker, view)?;
    atomics::add_to_linker::<_, HasKv>(linker, view)?;
    batch::add_to_linker::<_, HasKv>(linker, view)?;
    spin2::add_to_linker::<_, HasKv>(linker, view)
}

/// Adds the other interfaces, for engines that allow them.
pub fn add_async_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KvView<'_>,
) -> wasmtime::Result<()> {
    use bindings::spin::key_value::key_value as spin3;
    spin3::add_to_linker::<_, HasKv>(linker, view)
}
