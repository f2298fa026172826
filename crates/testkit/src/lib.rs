//! Test doubles shared by Penstock's tests: a clock that stands where it is put, the gate's ports in
//! memory, a store that fails when told, and a Redis server to stop and start. With them the suite that
//! every store passes. Used as a dev-dependency only.

pub mod clock;
pub mod faulty_kv;
pub mod kv_suite;
pub mod ports;
pub mod redis_server;

pub use clock::FakeClock;
pub use faulty_kv::{Faults, FaultyStore};
pub use ports::InMemory;
pub use redis_server::RedisServer;
