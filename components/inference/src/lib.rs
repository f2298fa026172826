//! The inference component: wiring only. It imports `wasi:nn` and types, and nothing else.

#![allow(missing_docs)]

penstock_guest::inference::bindings::export!(Inference with_types_in penstock_guest::inference::bindings);
use penstock_guest::inference::Inference;
