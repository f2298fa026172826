//! The admin API for keys, tenants and rollouts, and the commands that use it. It has its own listener, which shares no
//! limit with the public one.
//!
//! * `listener`: authentication of administrators, and time limits of requests;
//! * [`action`]: the actions on keys and tenants;
//! * [`rollouts`]: the actions on versions of models;
//! * [`store`]: the store of the keys, as a port of the policies;
//! * [`client`]: requests to a running server; [`keys_command`], [`rollouts_command`]: the commands.

pub mod action;
pub mod client;
mod fields;
pub mod keys_command;
mod listener;
#[cfg(test)]
mod read_back;
pub mod rollouts;
pub mod rollouts_command;
pub mod store;

pub use listener::{Admin, AdminListen, Administrating, STORE, exposed};
