//! Pulls models from other places: an address is resolved, downloaded, checked, unpacked and installed.
//!
//! * [`settings`], [`address`]: the operator's settings;
//! * [`plan`], [`transfer`], [`retry`], [`arrange`]: the next steps, as pure functions;
//! * [`http`], [`adapters`]: downloads; [`archive`]: unpacking;
//! * [`cache`]: downloaded files, by content; [`install`]: making a version of a model;
//! * [`pull`]: performs the plan.

pub mod adapters;
pub mod address;
pub mod archive;
pub mod arrange;
pub mod cache;
pub mod credentials;
pub mod digest;
pub mod error;
pub mod http;
pub mod install;
pub mod plan;
pub mod progress;
pub mod pull;
pub mod retry;
pub mod settings;
pub mod signature;
pub mod transfer;

pub use address::Address;
pub use digest::Digest;
pub use error::{Error, Kind};
pub use install::{Record, Verification};
pub use progress::{Progress, Silent};
pub use pull::{Outcome, Puller};
pub use settings::{PullSettings, Source, SourceSettings};
