//! Decides who calls, from what a request shows, and whether they may.
//!
//! * [`settings`]: the `[auth]` of a policy file;
//! * [`scopes`]: what a caller may do;
//! * [`api_key`]: what an API key looks like and what is kept of it;
//! * [`record`]: what is kept of keys and tenants, and where;
//! * [`registry`]: making, listing, rotating and taking back keys, and tenants.

pub mod api_key;
pub mod record;
pub mod registry;
pub mod scopes;
pub mod settings;
