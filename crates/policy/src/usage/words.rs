//! The words between usage and the gate: what is counted of a call, and what is reported.
//!
//! The WIT package `penstock:usage` says the same for components; the shells in `guest` convert and add nothing.

use serde::{Deserialize, Serialize};

/// What one call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Calls; 1.
    pub requests: u64,
    /// Items that were run; 0 for a replay or a refusal.
    pub items: u64,
    /// Bytes of the body.
    pub bytes: u64,
    /// Microseconds the model ran for.
    pub compute_us: u64,
}

/// Whose counts these are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Who {
    /// The tenant.
    pub tenant: String,
    /// The API key's id, if the caller showed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_id: Option<String>,
    /// The model.
    pub model: String,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Days since 1970-01-01.
    #[serde(skip)]
    pub day: u64,
    /// Whose.
    #[serde(flatten)]
    pub who: Who,
    /// Calls.
    pub requests: u64,
    /// Items.
    pub items: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Microseconds of computing.
    #[serde(skip)]
    pub compute_us: u64,
    /// Names of alerts that were reached, each with when, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<(String, u64)>,
}

/// A page of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By day, then in the order of first use.
    pub rows: Vec<Row>,
    /// Where the next page begins: day and place in its directory. `None` at the end.
    pub next: Option<(u64, u64)>,
}
