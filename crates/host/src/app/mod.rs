//! Decides what is served: reads `spin.toml`, joins its components into one, and compiles the result.
//!
//! * [`manifest`]: which manifests are accepted, and what is wrong with the others;
//! * [`files`]: which directories and files of the host a component sees, and where;
//! * [`compose`](mod@compose): how a component and its dependencies become one, and what a dependency may not reach;
//! * [`compile`](mod@compile): when machine code from an earlier run may be trusted;
//! * `document`: how a TOML document is read so that all its mistakes are found;
//! * [`finding`]: how anything wrong is told to the person who can mend it.
//!
//! Nothing here serves a request: it all happens once, before the first one.

pub mod compile;
pub mod compose;
pub(crate) mod document;
pub mod files;
pub mod finding;
pub mod manifest;
mod stub;

pub use compile::{CacheOutcome, Cached, compile};
pub use compose::{Composed, compose};
pub use files::{Mount, SingleFile, Visible, copy, visible};
pub use finding::{Finding, Place, Severity};
pub use manifest::{Manifest, Nn};
