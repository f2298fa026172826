//! Test doubles shared by Penstock's tests: a clock that moves only when told, the gate's ports in memory, stores that
//! fail when told, callers simulated in virtual time, a Redis server to stop and start, and the suite that every store
//! must pass. Used as a dev-dependency only.
//!
//! A whole gate over ports in memory, with the real policies:
//!
//! ```
//! use penstock_testkit::{InMemory, models, send};
//!
//! let ports = InMemory::new(&[("echo", models::ECHO, &["1"])], models::echo);
//! let json = [("content-type", "application/json")];
//! let body = br#"{"inputs":{"a":[[1,2]]}}"#;
//! let response = send(&ports, "POST", "/v1/models/echo:predict", &json, body);
//! assert_eq!(response.status, 200);
//! ```

pub mod client;
pub mod clock;
pub mod counting;
pub mod custom;
pub mod faulty_kv;
pub mod free_port;
pub mod held;
pub mod keys;
pub mod kv;
pub mod kv_suite;
pub mod models;
pub mod ports;
pub mod redis_server;
pub mod sim;

pub use client::{request, send};
pub use clock::FakeClock;
pub use custom::ScriptedPolicy;
pub use faulty_kv::FaultyStore;
pub use free_port::free_port;
pub use held::HostBody;
pub use kv::MemoryKv;
pub use ports::{InMemory, LIMITS};
pub use redis_server::RedisServer;
pub use sim::{Faults, Random, Sim, SimKv, for_seeds};
