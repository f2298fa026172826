//! The validation component: wiring only. It parses what strangers send, so it is built without any
//! system interface and imports nothing but types.

#![allow(missing_docs)]

penstock_guest::validation::bindings::export!(Validation with_types_in penstock_guest::validation::bindings);
use penstock_guest::validation::Validation;
