//! The inference component; this crate contains only wiring. It imports only `wasi:nn`, `penstock:nn` and types.

#![allow(missing_docs)]

penstock_guest::inference::bindings::export!(Inference with_types_in penstock_guest::inference::bindings);
use penstock_guest::inference::Inference;
