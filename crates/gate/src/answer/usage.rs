//! Defines the answer of `/v1/usage`.

use penstock_core::clock::rfc3339;
use penstock_policy::usage::{DAY_MS, Report, Row};
use schemars::JsonSchema;
use serde::Serialize;

/// A page of the caller's own usage.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Usage<'a> {
    tenant: &'a str,
    usage: Vec<UsageRow<'a>>,
    /// The token of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

impl<'a> Usage<'a> {
    /// Returns the answer to a tenant with a page of its report.
    pub(crate) fn new(tenant: &'a str, report: &'a Report) -> Self {
        Self {
            tenant,
            usage: report.rows.iter().map(UsageRow::new).collect(),
            next_page_token: report.next.map(|(day, place)| format!("{day}.{place}")),
        }
    }
}

/// The usage of one day, model and API key.
#[derive(Serialize, JsonSchema)]
struct UsageRow<'a> {
    #[schemars(extend("format" = "date"))]
    date: String,
    tenant: &'a str,
    model: &'a str,
    requests: u64,
    items: u64,
    /// The bytes of the requests' bodies.
    bytes: u64,
    /// The compute time in milliseconds.
    compute_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<&'a str>,
    /// The counts of `[[usage.alerts]]` that were reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alerts: Vec<UsageAlert<'a>>,
}

impl<'a> UsageRow<'a> {
    fn new(row: &'a Row) -> Self {
        let mut date = rfc3339(row.day.saturating_mul(DAY_MS));
        // The rest is the time of day.
        date.truncate("YYYY-MM-DD".len());
        let alerts = row.alerts.iter();
        let alerts = alerts.map(|(name, at)| UsageAlert {
            name,
            reached: rfc3339(*at),
        });
        Self {
            date,
            tenant: &row.subject.tenant,
            model: &row.subject.model,
            requests: row.requests,
            items: row.items,
            bytes: row.bytes,
            compute_ms: row.compute_us as f64 / 1_000.0,
            api_key_id: row.subject.api_key_id.as_deref(),
            alerts: alerts.collect(),
        }
    }
}

/// A count of `[[usage.alerts]]` that was reached.
#[derive(Serialize, JsonSchema)]
struct UsageAlert<'a> {
    /// The alert's name.
    name: &'a str,
    #[schemars(extend("format" = "date-time"))]
    reached: String,
}
