//! The auth component: wiring only. It is given the stores, for keys and what was seen of signatures, and the variables that
//! hold secrets, and nothing else.

#![allow(missing_docs)]

penstock_guest::auth::bindings::export!(Component with_types_in penstock_guest::auth::bindings);
use penstock_guest::auth::Component;
