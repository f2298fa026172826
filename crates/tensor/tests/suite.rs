//! The tests of this crate, as one binary.

mod binary_common;

mod agreement;
mod binary;
mod binary_outputs;
mod buffer;
mod contracts;
mod docs;
mod explaining;
mod generate;
mod lenient;
mod numbers;
mod outputs;
mod rendering;
mod requests;
