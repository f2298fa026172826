//! The auth component; this crate contains only wiring. It has access only to the stores, for keys and seen
//! signatures, and to the variables with secrets.

#![allow(missing_docs)]

penstock_guest::auth::bindings::export!(Component with_types_in penstock_guest::auth::bindings);
use penstock_guest::auth::Component;
