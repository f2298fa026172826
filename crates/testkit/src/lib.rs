//! Test doubles shared by Penstock's tests: a clock that stands where it is put, the gate's ports in
//! memory, stores that fail when told, callers simulated in virtual time, and a Redis server to stop and
//! start. With them the suite that every store passes. Used as a dev-dependency only.

pub mod clock;
pub mod faulty_kv;
pub mod kv;
pub mod kv_suite;
pub mod ports;
pub mod redis_server;
pub mod sim;

pub use clock::FakeClock;
pub use faulty_kv::FaultyStore;
pub use kv::MemoryKv;
pub use ports::{InMemory, LIMITS};
pub use redis_server::RedisServer;
pub use sim::{Faults, Random, Sim, SimKv};
