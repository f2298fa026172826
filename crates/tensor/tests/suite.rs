//! The tests of this crate, as one binary.

mod agreement;
mod binary;
mod contracts;
mod docs;
mod explaining;
mod generate;
mod lenient;
mod numbers;
mod outputs;
mod rendering;
mod requests;
