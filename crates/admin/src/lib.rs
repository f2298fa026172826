//! The admin API for keys, tenants and rollouts, and the commands that use it. It has its own listener, which shares no
//! limit with the public one.
//!
//! * `listener`: the answers of the admin API; [`scrape`]: those with metrics, which have a listener of their own, too;
//! * `access`: tokens, and requests of browsers; `serving`: connections, and their limits;
//! * [`action`]: the actions on keys and tenants;
//! * [`rollouts`]: the actions on versions of models;
//! * [`store`]: the store of the keys, as a port of the policies;
//! * [`client`]: requests to a running server; [`keys_command`], [`rollouts_command`]: the commands.

mod access;
pub mod action;
pub mod client;
mod fields;
pub mod keys_command;
mod listener;
#[cfg(test)]
mod read_back;
pub mod rollouts;
pub mod rollouts_command;
pub mod scrape;
mod serving;
pub mod store;

pub use listener::{Admin, AdminListen, STORE, exposed};
pub use serving::Listening;
