//! Decides which results of models are kept for who asks the same again, how long, and who runs what many ask at the same
//! time.
//!
//! * [`settings`]: the operator's `[[cache]]`;
//! * [`digest`]: which calls ask the same;
//! * [`result`]: how outputs are kept;
//! * [`control`]: what `Cache-Control` asks for, and what an answer says of the cache;
//! * [`place`]: what is found, and who of many runs it, on stores that offer nothing but `increment`.
//!
//! Sources: RFC 9111 (caching), RFC 9211 (`Cache-Status`).

pub mod control;
pub mod digest;
pub mod place;
pub mod result;
pub mod settings;

pub use control::{CacheOptions, Directives, Served, Why};
pub use digest::{DIGEST_BYTES, Question, fingerprint};
pub use place::{Address, Kept, Looked};
pub use settings::{CacheEntry, Scope};
