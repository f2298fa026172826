//! Decides who calls, from what a request shows, and whether they may.
//!
//! * [`settings`]: the `[auth]` of a policy file;
//! * [`scopes`]: what a caller may do;
//! * [`api_key`]: what an API key looks like and what is kept of it;
//! * [`record`]: what is kept of keys and tenants, and where;
//! * [`signature`]: whether a request was signed with a key's secret;
//! * [`token`]: what a token proves.

pub mod api_key;
pub mod record;
pub mod scopes;
pub mod settings;
pub mod signature;
pub mod token;
