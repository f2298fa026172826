//! `wasi:nn` in WebAssembly; this crate contains only wiring. It reads models from files and calls no other import.

#![allow(missing_docs)]

penstock_guest::nn::bindings::export!(Nn with_types_in penstock_guest::nn::bindings);
use penstock_guest::nn::Nn;
