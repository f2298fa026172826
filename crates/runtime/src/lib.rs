//! The runtime of components: compiles them, keeps instances ready, and gives an instance its interfaces: WASI, `wasi:nn`,
//! key-value stores and variables.
//!
//! * [`engine`]: how WebAssembly runs; [`compile`](mod@compile): when machine code from an earlier run may be trusted;
//! * [`entry_points`]: the entry points of a composed component, and pools of instances behind them;
//! * [`state`]: the state of one instance; `linker`: which interfaces a component may import;
//! * [`nn`], [`kv`], [`variables`]: the interfaces, each with its own context and its own view of an instance;
//! * [`request`], [`cancellation`]: the request that an instance serves;
//! * `items`: the bytes that the host holds for a request; [`held`]: the number of bytes that it holds for an instance;
//! * `guest_log`: the part of a component's standard error that reaches the log.

pub mod cancellation;
pub mod compile;
pub mod engine;
pub mod entry_points;
mod guest_log;
pub mod held;
mod items;
pub mod kv;
mod linker;
pub mod nn;
pub mod request;
pub mod settings;
pub mod state;
pub mod variables;

pub use compile::{CacheOutcome, Cached, Compiled, compile};
