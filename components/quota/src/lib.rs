//! The quota component: wiring only. It is given the store for counters and nothing else.

#![allow(missing_docs)]

penstock_guest::quota::bindings::export!(Component with_types_in penstock_guest::quota::bindings);
use penstock_guest::quota::Component;
