//! Decides whether a call with an idempotency key is run, replayed or refused. A client that does not know whether its
//! call arrived can therefore send it again.
//!
//! * [`key`]: which `Idempotency-Key` headers are accepted, and when two calls are the same;
//! * [`record`]: the stored record of a call, and the part of its answer that is replayed;
//! * [`claim`]: which caller runs the call, on stores that offer only `increment`;
//! * [`words`] and [`service`]: the types and the trait that the gate uses;
//! * [`settings`]: the operator's `[idempotency]`.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header-07.

pub mod claim;
pub mod key;
pub mod record;
pub mod service;
pub mod settings;
pub mod words;

pub(crate) use claim::claimed_ms;
pub use claim::{ClaimResult, CompleteResult, Idempotency, Lease, RecordState, Slot};
pub use key::{CallParts, Fingerprint, IdempotencyKey, KeyFault, Scope};
pub use record::Outcome;
pub use settings::{IdempotencySettings, OnStoreFailure};
