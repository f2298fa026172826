//! The models component; this crate contains only wiring. It has access only to the durable store, the store for
//! counters, and the store through which the host reports and controls its models.

#![allow(missing_docs)]

penstock_guest::models::bindings::export!(Component with_types_in penstock_guest::models::bindings);
use penstock_guest::models::Component;
