//! The types between usage and the gate: the counts of a call, and the reports.
//!
//! The WIT package `penstock:usage` has the same types for components. The components in `guest` only convert.

use serde::{Deserialize, Serialize};

/// The counts of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Number of calls; 1 for a call.
    pub requests: u64,
    /// Items that were run; 0 for a replay or a refusal.
    pub items: u64,
    /// Size of the body in bytes.
    pub bytes: u64,
    /// Compute time in microseconds.
    pub compute_us: u64,
}

/// The combination to which counts belong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UsageSubject {
    /// The tenant of the caller.
    pub tenant: String,
    /// The id of the caller's API key, if it used one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_id: Option<String>,
    /// The model that the call named.
    pub model: String,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Number of the day since 1970-01-01, in UTC.
    #[serde(skip)]
    pub day: u64,
    /// The combination to which the counts belong.
    #[serde(flatten)]
    pub subject: UsageSubject,
    /// Number of calls of that day.
    pub requests: u64,
    /// Number of items that were run.
    pub items: u64,
    /// Sum of the sizes of request bodies, in bytes.
    pub bytes: u64,
    /// Compute time in microseconds.
    #[serde(skip)]
    pub compute_us: u64,
    /// Names of alerts that were reached, each with its time in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<(String, u64)>,
}

/// A page of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The rows by day, then in the order of first use.
    pub rows: Vec<Row>,
    /// The start of the next page: day and place in its directory. `None` at the end.
    pub next: Option<(u64, u64)>,
}
