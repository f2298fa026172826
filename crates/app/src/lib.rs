//! An application: what is served, as its manifest and its runtime configuration say. Reads `spin.toml`, joins its components
//! into one, finds the values of their variables, and opens their stores.
//!
//! * [`manifest`]: which manifests are accepted, and what is wrong with the others;
//! * [`files`]: which directories and files of the host a component sees, and where;
//! * [`compose`](mod@compose): how a component and its dependencies become one, and what a dependency may not reach;
//! * [`runtime_config`]: which store a label stands for; [`open_stores`](mod@open_stores): makes the stores;
//! * [`variables`], [`secrets`]: the values that components and the host are given in confidence;
//! * `document`: how a TOML document is read so that all its mistakes are found;
//! * [`finding`]: how a mistake is told to the person who can correct it.
//!
//! This crate runs no WebAssembly and serves no request: its work is done once, before the first request.

pub mod compose;
mod document;
pub mod files;
pub mod finding;
pub mod manifest;
mod one_line;
pub mod open_stores;
pub mod runtime_config;
pub mod secrets;
mod stub;
pub mod variables;

pub use compose::{Composed, compose};
pub use files::{Mount, SingleFile, Visible, copy, visible};
pub use finding::{Finding, Place, Severity};
pub use manifest::{Manifest, Nn};
pub use one_line::one_line;
pub use open_stores::open_stores;
pub use runtime_config::{Durability, RuntimeConfig, StoreConfig, StoreKind};
pub use variables::Variables;
