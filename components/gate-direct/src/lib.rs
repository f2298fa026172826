//! The gate component for Penstock's own host; this crate contains only wiring. It exports the typed entry point.
//!
//! It is no feature of `component-gate`: Cargo keeps one file for each package, so two sets of features would be linked anew
//! in turn.

#![allow(missing_docs)]

use penstock_guest::gate::DirectEntryPoint;

penstock_guest::imports::bindings::export!(DirectEntryPoint with_types_in penstock_guest::imports::bindings);
