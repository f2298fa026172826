//! The operations component; this crate contains only wiring. It has access only to the durable store.

#![allow(missing_docs)]

penstock_guest::operations::bindings::export!(Component with_types_in penstock_guest::operations::bindings);
use penstock_guest::operations::Component;
