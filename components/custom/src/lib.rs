//! The built-in custom policy; this crate contains only wiring. It admits every call. An operator can replace it with
//! another component.

#![allow(missing_docs)]

penstock_guest::custom::bindings::export!(Component with_types_in penstock_guest::custom::bindings);
use penstock_guest::custom::Component;
