//! The cache component; this crate contains only wiring. It has access only to the store for counters.

#![allow(missing_docs)]

penstock_guest::cache::bindings::export!(Component with_types_in penstock_guest::cache::bindings);
use penstock_guest::cache::Component;
