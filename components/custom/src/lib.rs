//! The built-in custom policy: wiring only. It admits every call. Name a component of your own in its place.

#![allow(missing_docs)]

penstock_guest::custom::bindings::export!(Component with_types_in penstock_guest::custom::bindings);
use penstock_guest::custom::Component;
