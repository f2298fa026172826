//! The idempotency component: wiring only. It is given the durable store and nothing else.

#![allow(missing_docs)]

penstock_guest::idempotency::bindings::export!(Component with_types_in penstock_guest::idempotency::bindings);
use penstock_guest::idempotency::Component;
