//! The tests of this crate, as one binary.

mod crash;
mod embedded;
mod memory;
mod redis;
