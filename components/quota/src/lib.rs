//! The quota component; this crate contains only wiring. It has access only to the store for counters.

#![allow(missing_docs)]

penstock_guest::quota::bindings::export!(Component with_types_in penstock_guest::quota::bindings);
use penstock_guest::quota::Component;
