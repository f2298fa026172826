//! Test doubles shared by Penstock's tests: a clock that stands where it is put, and the gate's ports
//! in memory. Used as a dev-dependency only.

pub mod clock;
pub mod kv;
pub mod ports;
pub mod sim;

pub use clock::FakeClock;
pub use kv::MemoryKv;
pub use ports::InMemory;
pub use sim::{Faults, Random, Sim, SimKv};
