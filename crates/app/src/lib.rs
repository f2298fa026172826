//! An application, as its manifest and its runtime configuration describe it. Reads `spin.toml`, joins its components
//! into one, finds the values of their variables, and opens their stores.
//!
//! * [`manifest`]: accepts or refuses manifests, with all faults;
//! * [`files`]: the directories and files of the host that a component sees, with their paths;
//! * [`compose`](mod@compose): joins a component and its dependencies, and closes interfaces to a dependency;
//! * [`runtime_config`]: the store of each label; [`open_stores`](mod@open_stores): opens the stores;
//! * [`variables`], [`secrets`]: the secret values of components and the host;
//! * `document`: reads a TOML document so that all its faults are found;
//! * [`finding`]: reports a fault with its place and its remedy.
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
pub use finding::{Finding, Severity, SourceLocation};
pub use manifest::{EntryPointKind, Manifest, Nn, Serving};
pub use one_line::one_line;
pub use open_stores::open_stores;
pub use runtime_config::{Durability, RuntimeConfig, StoreConfig, StoreKind};
pub use variables::Variables;
