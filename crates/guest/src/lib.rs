//! Adapters from WIT to the ports: the only guest room that names bindings or an SDK. Each module
//! serves one component and is compiled with that component's feature.

#[cfg(feature = "adapter")]
pub mod adapter;
#[cfg(feature = "auth")]
pub mod auth;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "gate")]
pub mod gate;
#[cfg(feature = "idempotency")]
pub mod idempotency;
#[cfg(feature = "inference")]
pub mod inference;
#[cfg(any(
    feature = "auth",
    feature = "cache",
    feature = "idempotency",
    feature = "models",
    feature = "quota",
    feature = "usage"
))]
pub mod kv;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "quota")]
pub mod quota;
#[cfg(any(
    feature = "auth",
    feature = "cache",
    feature = "gate",
    feature = "inference",
    feature = "validation",
    feature = "adapter",
    feature = "quota",
    feature = "usage"
))]
pub mod types;
#[cfg(feature = "usage")]
pub mod usage;
#[cfg(feature = "validation")]
pub mod validation;
