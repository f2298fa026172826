//! The tests of this crate, as one binary.

mod common;

mod registry;
mod s3;
mod tls;
mod web;
