//! `[idempotency]` in `penstock.toml`.

use penstock_core::RouteKind;
use serde::Deserialize;

/// Milliseconds of the shortest lease: shorter than any run of a model worth protecting.
const MIN_LEASE_MS: u64 = 1_000;
/// The longest time to live. A key is searched in each of its days.
const MAX_TTL_S: u64 = 7 * 86_400;
/// Bytes of the largest record. Every store accepts values of this size, with room for the head.
const MAX_RECORD_BYTES: u64 = 3 << 20;
/// Most routes that `required` may list.
const MAX_REQUIRED: usize = 64;

/// The treatment of calls while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStoreFailure {
    /// They are refused, so that no call runs twice.
    #[default]
    Closed,
    /// They run as if they had no idempotency key.
    Open,
}

/// The settings for calls with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencySettings {
    /// Whether the header has an effect.
    pub enabled: bool,
    /// Seconds for which a result is replayed.
    pub ttl_s: u64,
    /// Milliseconds after which a run counts as dead and another caller may run the call.
    pub lease_ms: u64,
    /// Largest body of an answer that is stored, in bytes. A call with a larger one counts as done, but is not replayed.
    pub max_record_bytes: u64,
    /// Kinds of routes that need a key, by name (`predict`, `infer`).
    pub required: Vec<String>,
    /// The treatment of calls while the store does not answer.
    pub on_store_failure: OnStoreFailure,
}

impl Default for IdempotencySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl_s: 86_400,
            lease_ms: 60_000,
            max_record_bytes: 1 << 20,
            required: Vec::new(),
            on_store_failure: OnStoreFailure::Closed,
        }
    }
}

impl IdempotencySettings {
    /// All faults of the settings, each with its remedy.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(60..=MAX_TTL_S).contains(&self.ttl_s) {
            faults.push((
                "ttl_s",
                format!("must be 60 to {MAX_TTL_S} seconds, not {}", self.ttl_s),
            ));
        }
        if self.lease_ms < MIN_LEASE_MS || self.lease_ms > self.ttl_s.saturating_mul(1000) {
            faults.push((
                "lease_ms",
                format!(
                    "must be {MIN_LEASE_MS} ms to the time to live, not {}",
                    self.lease_ms
                ),
            ));
        }
        if self.max_record_bytes > MAX_RECORD_BYTES {
            faults.push((
                "max_record_bytes",
                format!(
                    "must be at most {MAX_RECORD_BYTES}, not {}",
                    self.max_record_bytes
                ),
            ));
        }
        if self.required.len() > MAX_REQUIRED {
            faults.push((
                "required",
                format!(
                    "must name at most {MAX_REQUIRED} methods, not {}",
                    self.required.len()
                ),
            ));
        }
        for method in &self.required {
            if !RouteKind::parse(method).is_some_and(RouteKind::runs_model) {
                let known = RouteKind::ALL.into_iter().filter(|kind| kind.runs_model());
                faults.push((
                    "required",
                    format!(
                        "names `{method}`; the methods are {}",
                        RouteKind::list(known)
                    ),
                ));
            }
        }
        faults
    }
}
