//! The idempotency component; this crate contains only wiring. It has access only to the durable store.

#![allow(missing_docs)]

penstock_guest::idempotency::bindings::export!(Component with_types_in penstock_guest::idempotency::bindings);
use penstock_guest::idempotency::Component;
