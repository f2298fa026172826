//! Native key-value stores behind one trait: where the state of every policy lives.
//!
//! A store applies each operation at once and atomically, so that everybody sees it in one order;
//! when it will survive a crash is a second question, asked with [`Store::durable`]. That split is
//! what makes a durable store fast: a request writes several entries, waits for the disk once, before
//! its answer leaves, and shares that wait with every other request (group commit). An answer is never
//! sent before all that the request wrote *or read* is durable, so a crash can only undo what nobody
//! outside was told.

#[cfg(feature = "embedded")]
mod disk;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
mod store;

#[cfg(feature = "embedded")]
pub use embedded::{EmbeddedSettings, EmbeddedStore};
pub use memory::{MemorySettings, MemoryStore};
#[cfg(feature = "redis")]
pub use redis::{RedisSettings, RedisStore};

pub use store::{
    MAX_KV_KEY_BYTES, MAX_LIST_PAGE, MAX_VALUE_BYTES, Page, Position, Reply, Store, StoreError,
    Swap,
};
pub use store::{check_kv_key, check_value};
