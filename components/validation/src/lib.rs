//! The validation component; this crate contains only wiring. It parses untrusted bodies, so it is built without
//! system interfaces and imports only types.

#![allow(missing_docs)]

penstock_guest::validation::bindings::export!(Validation with_types_in penstock_guest::validation::bindings);
use penstock_guest::validation::Validation;
