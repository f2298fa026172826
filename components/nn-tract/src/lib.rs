//! `wasi:nn` in WebAssembly: wiring only. It reads models from files and imports nothing else that it calls.

#![allow(missing_docs)]

penstock_guest::nn::bindings::export!(Nn with_types_in penstock_guest::nn::bindings);
use penstock_guest::nn::Nn;
