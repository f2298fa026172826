//! `[[cache]]` in `penstock.toml`: the models with a cache, its scope, its time to live and its size.

use penstock_core::ModelName;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Most entries of `[[cache]]`: as many as the models of one server.
pub const MAX_ENTRIES: usize = 1024;
/// The longest time to live, in seconds. By then the place of a result is usually overwritten.
const MAX_TTL_S: u64 = 7 * 86_400;
/// Smallest `max_result_bytes`: a few numbers with their names.
const MIN_RESULT_BYTES: u64 = 256;
/// Bytes of the largest result. Every store accepts values of this size, with room for the head.
pub const MAX_RESULT_BYTES: u64 = 3 << 20;
/// Bytes of the largest cache: 1 TiB, so that the number of places fits its type.
const MAX_CACHE_BYTES: u64 = 1 << 40;
/// Milliseconds of the shortest lease: shorter than any run worth sharing.
const MIN_LEASE_MS: u32 = 100;
/// Milliseconds of the longest lease: longer than a request may take by default.
const MAX_LEASE_MS: u32 = 300_000;
/// Bytes of a place beside its result: the head, the claims, and the names of the entries.
pub const PLACE_OVERHEAD_BYTES: u64 = 2_048;

/// The callers that share results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Callers of the same tenant share results.
    #[default]
    Tenant,
    /// All callers share results. The time of an answer then reveals whether another tenant made the same call.
    Shared,
}

/// An entry of `[[cache]]`: the results of one model are cached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheEntry {
    /// The name of the model, without a version.
    pub model: String,
    /// Seconds for which a result is used.
    pub ttl_s: u64,
    /// Most bytes of all its results together.
    pub max_bytes: u64,
    /// Most bytes of one result. A larger one is not cached.
    pub max_result_bytes: u64,
    /// The callers that share results.
    pub scope: Scope,
    /// Milliseconds after which a run counts as dead for the callers that wait for its result.
    pub lease_ms: u32,
}

impl Default for CacheEntry {
    fn default() -> Self {
        Self {
            model: String::new(),
            ttl_s: 60,
            max_bytes: 64 << 20,
            max_result_bytes: 64 << 10,
            scope: Scope::Tenant,
            lease_ms: 2_000,
        }
    }
}

impl CacheEntry {
    /// The number of places. Even if all are full, they stay within `max_bytes`.
    pub fn places(&self) -> u32 {
        let each = self.max_result_bytes.saturating_add(PLACE_OVERHEAD_BYTES);
        u32::try_from(self.max_bytes / each).unwrap_or(u32::MAX)
    }
}

/// The entry of a model.
pub fn entry<'e>(entries: &'e [CacheEntry], model: &str) -> Option<&'e CacheEntry> {
    entries.iter().find(|entry| entry.model == model)
}

/// All faults of the entries, each with its remedy.
pub fn faults(entries: &[CacheEntry]) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    if entries.len() > MAX_ENTRIES {
        faults.push((
            "cache".to_owned(),
            format!(
                "may have at most {MAX_ENTRIES} entries, not {}",
                entries.len()
            ),
        ));
    }
    let mut models = BTreeSet::new();
    for (at, entry) in entries.iter().enumerate() {
        let mut fault = |setting: &str, message: String| {
            faults.push((format!("cache[{at}].{setting}"), message));
        };
        let CacheEntry {
            model,
            ttl_s,
            max_bytes,
            max_result_bytes,
            scope: _,
            lease_ms,
        } = entry;
        if ModelName::parse(model).is_none() {
            fault(
                "model",
                format!(
                    "must be the name of one model, not `{}`",
                    model.chars().take(64).collect::<String>().escape_debug()
                ),
            );
        } else if !models.insert(model) {
            fault(
                "model",
                format!("is `{model}`, which an earlier entry names; keep one of the two"),
            );
        }
        if !(1..=MAX_TTL_S).contains(ttl_s) {
            fault(
                "ttl_s",
                format!("must be 1 to {MAX_TTL_S} seconds, not {ttl_s}"),
            );
        }
        if !(MIN_RESULT_BYTES..=MAX_RESULT_BYTES).contains(max_result_bytes) {
            fault(
                "max_result_bytes",
                format!("must be {MIN_RESULT_BYTES} to {MAX_RESULT_BYTES}, not {max_result_bytes}"),
            );
        } else if *max_bytes > MAX_CACHE_BYTES {
            fault(
                "max_bytes",
                format!("must be at most {MAX_CACHE_BYTES}, not {max_bytes}"),
            );
        } else if entry.places() == 0 {
            fault(
                "max_bytes",
                format!(
                    "is {max_bytes}, which holds no result of {max_result_bytes} bytes; a place takes \
                     {PLACE_OVERHEAD_BYTES} more"
                ),
            );
        }
        if !(MIN_LEASE_MS..=MAX_LEASE_MS).contains(lease_ms) {
            fault(
                "lease_ms",
                format!("must be {MIN_LEASE_MS} to {MAX_LEASE_MS} ms, not {lease_ms}"),
            );
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_together_stay_within_the_bytes_that_are_allowed() {
        let mut entry = CacheEntry {
            model: "m".into(),
            ..CacheEntry::default()
        };
        assert_eq!(entry.places(), 992);
        for (max_bytes, max_result_bytes) in [(3_000, 256), (1 << 40, 256), (64 << 20, 3 << 20)] {
            (entry.max_bytes, entry.max_result_bytes) = (max_bytes, max_result_bytes);
            let each = max_result_bytes + PLACE_OVERHEAD_BYTES;
            assert!(u64::from(entry.places()) * each <= max_bytes);
            assert_eq!(faults(std::slice::from_ref(&entry)), []);
        }
    }
}
