//! Connects WIT interfaces to the ports. This is the only guest crate that uses bindings or an SDK. Each module has
//! both sides of one interface: the component that exports it, compiled with the component's feature, and the gate,
//! which imports it.

#[cfg(any(feature = "adapter", feature = "gate"))]
pub mod adapter;
#[cfg(any(feature = "auth", feature = "gate"))]
pub mod auth;
#[cfg(any(feature = "batches", feature = "gate"))]
pub mod batches;
#[cfg(any(feature = "cache", feature = "gate"))]
pub mod cache;
#[cfg(any(feature = "custom", feature = "gate"))]
pub mod custom;
#[cfg(feature = "gate")]
pub mod gate;
#[cfg(any(feature = "idempotency", feature = "gate"))]
pub mod idempotency;
#[cfg(feature = "gate")]
pub mod imports;
#[cfg(any(feature = "inference", feature = "gate"))]
pub mod inference;
#[cfg(any(
    feature = "auth",
    feature = "batches",
    feature = "cache",
    feature = "idempotency",
    feature = "models",
    feature = "operations",
    feature = "quota",
    feature = "usage"
))]
pub mod kv;
#[cfg(any(feature = "models", feature = "gate"))]
pub mod models;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(any(feature = "operations", feature = "gate"))]
pub mod operations;
#[cfg(any(feature = "quota", feature = "gate"))]
pub mod quota;
#[cfg(any(
    feature = "auth",
    feature = "batches",
    feature = "cache",
    feature = "custom",
    feature = "gate",
    feature = "inference",
    feature = "operations",
    feature = "validation",
    feature = "adapter",
    feature = "quota",
    feature = "usage"
))]
pub mod types;
#[cfg(any(feature = "usage", feature = "gate"))]
pub mod usage;
#[cfg(any(feature = "validation", feature = "gate"))]
pub mod validation;
