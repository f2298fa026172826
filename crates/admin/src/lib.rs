//! The admin API: keys, tenants and rollouts, on a listener of its own that shares no limit with the public one; and the
//! commands that use it.
//!
//! * `listener`: who may administer, and how long a request may take;
//! * [`action`]: what can be asked for about keys and tenants;
//! * [`rollouts`]: what can be asked for about versions of models;
//! * [`store`]: the store that keys are kept in, as policies see stores;
//! * [`client`]: asks a running server; [`keys_command`], [`rollouts_command`]: `penstock keys`, `penstock rollout`.

pub mod action;
pub mod client;
mod fields;
pub mod keys_command;
mod listener;
pub mod rollouts;
pub mod rollouts_command;
pub mod store;

pub use listener::{Admin, AdminListen, Administrating, STORE, exposed};
