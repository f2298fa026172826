//! Decides whether a call with an idempotency key is run, replayed or refused, so that a caller who is
//! not sure whether a call arrived can send it again.
//!
//! * [`key`]: which `Idempotency-Key` headers are taken, and what two calls must share to be the same;
//! * [`record`]: what is kept of a call, and what of an answer is replayed;
//! * [`claim`]: who runs it, on stores that offer nothing but `increment`;
//! * [`words`] and [`service`]: what the gate asks and is answered, over a store that answers at once;
//! * [`settings`]: the operator's `[idempotency]`.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header-07.

pub mod claim;
pub mod key;
pub mod record;
pub mod service;
pub mod settings;
pub mod words;

pub use claim::{Claimed, Completed, Idempotency, Lease, Looked, Slot};
pub use key::{Call, Fingerprint, IdempotencyKey, KeyFault, Scope};
pub use record::Outcome;
pub use settings::{IdempotencySettings, OnStoreFailure};
