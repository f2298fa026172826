//! Decides which results of models are kept for who asks the same again, how long, and who runs what many ask at the same
//! time.
//!
//! * [`settings`]: the operator's `[[cache]]`;
//! * [`digest`]: which calls ask the same;
//! * [`result`]: how outputs are kept;
//! * [`control`]: what `Cache-Control` asks for, and what an answer says of the cache;
//! * [`place`]: what is found, and who of many runs it, on stores that offer nothing but `increment`;
//! * [`words`], [`service`]: what the gate asks and is answered, and the service that answers it.
//!
//! Sources: RFC 9111 (caching), RFC 9211 (`Cache-Status`).

pub mod control;
pub mod digest;
pub mod place;
pub mod result;
pub mod service;
pub mod settings;
pub mod words;

pub use control::{CacheOptions, Directives, Served, Why};
pub use digest::{DIGEST_BYTES, Question, fingerprint};
pub use place::Address;
pub use settings::{CacheEntry, Scope};
pub use words::{Kept, Looked};
