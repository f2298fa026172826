//! The usage component; this crate contains only wiring. It has access only to the durable store.

#![allow(missing_docs)]

penstock_guest::usage::bindings::export!(Component with_types_in penstock_guest::usage::bindings);
use penstock_guest::usage::Component;
