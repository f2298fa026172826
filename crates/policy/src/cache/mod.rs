//! Caches results of models for equal calls, and shares one run among callers that ask the same at the same time.
//!
//! * [`settings`]: the operator's `[[cache]]`;
//! * [`digest`]: which calls are equal;
//! * [`result`]: the format of cached outputs;
//! * [`control`]: the effect of `Cache-Control`, and the headers of an answer;
//! * [`place`]: lookup, and the choice of the caller that runs, on stores that offer only `increment`;
//! * [`words`], [`service`]: the types and the trait that the gate uses.
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
pub use words::{Lookup, StoredResult};
