//! Decides which caller a request is from, and whether the request is allowed.
//!
//! * [`settings`]: the `[auth]` of a policy file;
//! * [`scopes`]: the rights of a caller;
//! * [`credential`]: which credential a request carries;
//! * [`api_key`]: the form of an API key, and its digest;
//! * [`token`]: verifies tokens (JWT);
//! * [`signature`]: verifies signed requests (RFC 9421);
//! * [`record`]: the stored records of keys and tenants;
//! * [`registry`]: creates, lists, rotates and revokes them;
//! * [`cache`]: how long a record is used without a new read;
//! * [`check`]: the whole decision;
//! * [`refusal`]: the message and the challenge of a refusal;
//! * [`words`] and [`service`]: the types and the trait that the gate uses.
//!
//! `words` and the trait of the service need no cryptography. They exist without the feature `auth`.

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
pub use refusal::CheckRefusal;
pub use words::{Admitted, CertificateShown, CredentialKind, Presented, RefusalKind};
