//! Decides who calls, from what a request shows, and whether they may.
//!
//! * [`settings`]: the `[auth]` of a policy file;
//! * [`scopes`]: what a caller may do;
//! * [`credential`]: which credential a request shows;
//! * [`api_key`]: what an API key looks like and what is kept of it;
//! * [`token`]: what a token says (JWT);
//! * [`signature`]: what a signed request says (RFC 9421);
//! * [`record`]: what is kept of keys and tenants, and where;
//! * [`registry`]: who makes and unmakes them;
//! * [`cache`]: how long what was read is trusted;
//! * [`check`]: all of it together;
//! * [`refusal`]: what a refused caller is told;
//! * [`words`] and [`service`]: what the gate asks and is answered, over a store that answers at once.
//!
//! The words and the trait of the service need no cryptography and are there without the feature `auth`.

#[cfg(feature = "auth")]
pub mod api_key;
#[cfg(feature = "auth")]
pub mod cache;
#[cfg(feature = "auth")]
pub mod check;
#[cfg(feature = "auth")]
pub mod credential;
#[cfg(feature = "auth")]
pub mod record;
#[cfg(feature = "auth")]
pub mod refusal;
#[cfg(feature = "auth")]
pub mod registry;
#[cfg(feature = "auth")]
pub mod scopes;
pub mod service;
#[cfg(feature = "auth")]
pub mod settings;
#[cfg(feature = "auth")]
pub mod signature;
#[cfg(feature = "auth")]
pub mod token;
pub mod words;

#[cfg(feature = "auth")]
pub use check::{Authenticator, Secrets};
#[cfg(feature = "auth")]
pub use refusal::Refusal;
pub use words::{Admitted, CertificateShown, CredentialKind, Presented, RefusalKind};
