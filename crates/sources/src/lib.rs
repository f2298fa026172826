//! Models from elsewhere: an address is resolved, downloaded, checked, unpacked and installed.
//!
//! * [`settings`], [`address`]: what the operator asks for;
//! * [`plan`], [`transfer`], [`retry`], [`arrange`]: what to do next, as pure functions;
//! * [`http`], [`adapters`]: how it is fetched; [`archive`]: how it is unpacked;
//! * [`cache`]: what was fetched, by content; [`install`]: how it becomes a version of a model;
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
pub use install::{Record, Verdict};
pub use progress::{Progress, Silent};
pub use pull::{Outcome, Puller};
pub use settings::{PullSettings, Source, SourceSettings};
