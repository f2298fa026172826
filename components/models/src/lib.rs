//! The models component: wiring only. It is given the durable store, the one for counters, and what the host says of its
//! models.

#![allow(missing_docs)]

penstock_guest::models::bindings::export!(Component with_types_in penstock_guest::models::bindings);
use penstock_guest::models::Component;
