//! The usage component: wiring only. It is given the durable store and nothing else.

#![allow(missing_docs)]

penstock_guest::usage::bindings::export!(Component with_types_in penstock_guest::usage::bindings);
use penstock_guest::usage::Component;
