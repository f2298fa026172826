//! The batches component; this crate contains only wiring. It has access only to the durable store.

#![allow(missing_docs)]

penstock_guest::batches::bindings::export!(Component with_types_in penstock_guest::batches::bindings);
use penstock_guest::batches::Component;
