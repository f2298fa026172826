//! The cache component: wiring only. It is given the store for counters and nothing else.

#![allow(missing_docs)]

penstock_guest::cache::bindings::export!(Component with_types_in penstock_guest::cache::bindings);
use penstock_guest::cache::Component;
