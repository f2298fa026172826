//! The tests of this crate, as one binary.

mod docs;
mod pictures;
mod recordings;
