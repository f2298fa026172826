//! Native key-value stores behind one trait: the state of every policy is kept here.
//!
//! A store applies each operation at once and atomically, so all callers see operations in one order. Whether an
//! operation survives a crash is a separate question, asked with [`Store::durable`]. This separation makes a durable
//! store fast: a request writes several entries and waits for the disk once, before its answer is sent. It shares that
//! wait with every other request (group commit). An answer is never sent before everything that the request wrote *or
//! read* is durable. So a crash can only undo operations that no client has seen.

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
