//! The statistics and the index of models for clients of the Open Inference Protocol: Triton's statistics and model
//! repository extensions, member for member, with our own members added. Pure.
//!
//! Differences from Triton: counts start when the version is loaded, not when the server starts. A version that is not
//! in memory is listed, with zeros. `fail` counts calls that failed when they ran, and `refusals` those that were
//! refused before. `queue`, `compute_input`, `compute_infer` and `compute_output` count all calls that ran. The engine
//! has no cache, so the cache counts are zero.

use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use crate::backend::ProcessStats;
use crate::histogram::Histogram;
use crate::repository::IndexEntry;
use crate::shadow::ShadowStats;
use crate::stats::{Refusals, VersionStats};

/// Writes the answer of the statistics extension.
pub fn statistics(versions: &[VersionStats]) -> Value {
    json!({ "model_stats": versions.iter().map(version_stats).collect::<Vec<_>>() })
}

fn version_stats(version: &VersionStats) -> Value {
    let VersionStats {
        model,
        version,
        stats,
    } = version;
    let last_inference_ms = stats
        .last_inference
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
    let calls = stats.compute.count;
    let batches: Vec<Value> = (stats.batches.iter())
        .map(|(size, batch)| {
            json!({
                "batch_size": size,
                "compute_input": duration(batch.count, batch.compute_input_ns),
                "compute_infer": duration(batch.count, batch.compute_infer_ns),
                "compute_output": duration(batch.count, batch.compute_output_ns),
            })
        })
        .collect();
    json!({
        "name": model,
        "version": version.to_string(),
        "last_inference": last_inference_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": duration(stats.success, stats.total.sum_ns.saturating_sub(stats.failures_ns)),
            "fail": duration(stats.failures, stats.failures_ns),
            "queue": duration(stats.queue.count, stats.queue.sum_ns),
            "compute_input": duration(calls, stats.calls_input_ns),
            "compute_infer": duration(calls, stats.compute.sum_ns),
            "compute_output": duration(calls, stats.calls_output_ns),
            "cache_hit": duration(0, 0),
            "cache_miss": duration(0, 0),
        },
        "batch_stats": batches,
        "refusals": refusals(&stats.refusals),
        "in_flight": stats.in_flight,
        "waiting": stats.waiting,
        "lost": stats.lost,
        "overdue": stats.overdue,
        "shadow": shadow(&stats.shadow),
        "process": stats.process.as_ref().map(process),
    })
}

fn process(process: &ProcessStats) -> Value {
    let ProcessStats {
        // Only the operator needs it, and the log has it.
        pid: _,
        down,
        crashes,
        restarts,
        resident_bytes,
    } = process;
    json!({
        "down": down,
        "crashes": crashes,
        "restarts": restarts,
        "resident_bytes": resident_bytes,
    })
}

fn duration(count: u64, ns: u64) -> Value {
    json!({ "count": count, "ns": ns })
}

fn refusals(refusals: &Refusals) -> Value {
    let Refusals {
        invalid,
        queue_full,
        displaced,
        shed,
        deadline,
        cancelled,
        not_ready,
    } = refusals;
    json!({
        "invalid": invalid,
        "queue_full": queue_full,
        "displaced": displaced,
        "shed": shed,
        "deadline": deadline,
        "cancelled": cancelled,
        "not_ready": not_ready,
    })
}

fn shadow(shadow: &ShadowStats) -> Value {
    let ShadowStats {
        runs,
        shed,
        failed,
        agreed,
        differed,
        rows,
        rows_agreed,
        largest_difference,
        compute,
        in_flight,
    } = shadow;
    json!({
        "runs": runs,
        "shed": shed,
        "failed": failed,
        "agreed": agreed,
        "differed": differed,
        "rows": rows,
        "rows_agreed": rows_agreed,
        // JSON has no infinity: `null` where something could not be compared at all.
        "largest_difference": largest_difference,
        "compute": times(compute),
        "in_flight": in_flight,
    })
}

/// Times with the bounds under which half of them and nearly all lie; `null` above the last bound there is.
fn times(times: &Histogram) -> Value {
    let bound = |part| match times.quantile_ns(part) {
        u64::MAX => Value::Null,
        ns => ns.into(),
    };
    json!({ "count": times.count, "ns": times.sum_ns, "p50_ns": bound(0.5), "p99_ns": bound(0.99) })
}

/// The model repository extension's index, of all versions or of those that answer.
pub fn index(entries: &[IndexEntry], ready: bool) -> Value {
    (entries.iter())
        .filter(|entry| !ready || entry.state == READY)
        .map(|entry| {
            let mut listed = Map::new();
            listed.insert("name".to_owned(), entry.model.as_str().into());
            // A directory that is at fault as a whole has no version; the extension leaves it out then.
            if entry.version > 0 {
                listed.insert("version".to_owned(), entry.version.to_string().into());
            }
            listed.insert("state".to_owned(), entry.state.into());
            let reason = entry.reason.as_deref().unwrap_or_default();
            listed.insert("reason".to_owned(), reason.into());
            if let Some(agreement) = entry.agreement {
                listed.insert("agreement".to_owned(), agreement.into());
            }
            Value::Object(listed)
        })
        .collect()
}

/// The state of a version that answers.
const READY: &str = "READY";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::State;
    use crate::stats::{BatchStats, Stats};
    use std::time::Duration;

    fn entry(model: &str, version: u64, state: &'static str, reason: Option<&str>) -> IndexEntry {
        IndexEntry {
            model: model.to_owned(),
            version,
            state,
            reason: reason.map(str::to_owned),
            memory_bytes: 5,
            pinned: false,
            last_used: None,
            is_default: true,
            agreement: None,
        }
    }

    #[test]
    fn the_index_has_the_members_of_the_extension() {
        let entries = [
            entry("a", 1, "UNAVAILABLE", Some("unloaded by request; load it")),
            entry("a", 12, "READY", None),
            entry("b", 0, "UNAVAILABLE", Some("no contract")),
        ];
        assert_eq!(
            index(&entries, false),
            json!([
                { "name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded by request; load it" },
                { "name": "a", "version": "12", "state": "READY", "reason": "" },
                { "name": "b", "state": "UNAVAILABLE", "reason": "no contract" },
            ])
        );
        assert_eq!(
            index(&entries, true),
            json!([{ "name": "a", "version": "12", "state": "READY", "reason": "" }])
        );
        let compared = IndexEntry {
            agreement: Some("pending"),
            ..entry("a", 12, "READY", None)
        };
        assert_eq!(index(&[compared], true)[0]["agreement"], "pending");
        assert_eq!(index(&[], true), json!([]));
        // The word is the one that versions have.
        assert_ne!(State::Loading.as_str(), READY);
    }

    #[test]
    fn statistics_have_the_members_of_the_extension_and_ours_beside_them() {
        let mut stats = Stats {
            success: 4,
            failures: 1,
            failures_ns: 1_000,
            calls_input_ns: 11,
            calls_output_ns: 13,
            last_inference: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            in_flight: 2,
            waiting: 1,
            process: Some(ProcessStats {
                pid: Some(7),
                down: None,
                crashes: 2,
                restarts: 1,
                resident_bytes: Some(4096),
            }),
            refusals: Refusals {
                queue_full: 5,
                ..Refusals::default()
            },
            ..Stats::default()
        };
        for ns in [3_000, 1_000, 500, 500, 500] {
            stats.total.add(ns);
            stats.queue.add(ns / 10);
            stats.compute.add(ns / 2);
        }
        for items in [1, 3, 3] {
            let batch = BatchStats {
                count: 1,
                compute_input_ns: 1,
                compute_infer_ns: 100,
                compute_output_ns: 2,
            };
            stats.ran(items, batch);
        }
        stats.shadow = ShadowStats {
            runs: 2,
            shed: 9,
            failed: 1,
            agreed: 1,
            largest_difference: 0.25,
            ..ShadowStats::default()
        };
        stats.shadow.compute.add(70_000_000_000);
        let written = statistics(&[VersionStats {
            model: "cls".to_owned(),
            version: 3,
            stats,
        }]);
        let batch = |size: u32, count: u32| {
            json!({
                "batch_size": size,
                "compute_input": { "count": count, "ns": count },
                "compute_infer": { "count": count, "ns": count * 100 },
                "compute_output": { "count": count, "ns": count * 2 },
            })
        };
        assert_eq!(
            written,
            json!({ "model_stats": [{
                "name": "cls",
                "version": "3",
                "last_inference": 1_700_000_000_123_u64,
                "inference_count": 7,
                "execution_count": 3,
                "inference_stats": {
                    "success": { "count": 4, "ns": 4_500 },
                    "fail": { "count": 1, "ns": 1_000 },
                    "queue": { "count": 5, "ns": 550 },
                    "compute_input": { "count": 5, "ns": 11 },
                    "compute_infer": { "count": 5, "ns": 2_750 },
                    "compute_output": { "count": 5, "ns": 13 },
                    "cache_hit": { "count": 0, "ns": 0 },
                    "cache_miss": { "count": 0, "ns": 0 },
                },
                "batch_stats": [batch(1, 1), batch(3, 2)],
                "refusals": {
                    "invalid": 0, "queue_full": 5, "displaced": 0, "shed": 0, "deadline": 0, "cancelled": 0,
                    "not_ready": 0,
                },
                "in_flight": 2,
                "waiting": 1,
                "lost": 0,
                "overdue": 0,
                "shadow": {
                    "runs": 2, "shed": 9, "failed": 1, "agreed": 1, "differed": 0, "rows": 0, "rows_agreed": 0,
                    "largest_difference": 0.25,
                    "compute": { "count": 1, "ns": 70_000_000_000_u64, "p50_ns": null, "p99_ns": null },
                    "in_flight": 0,
                },
                "process": { "down": null, "crashes": 2, "restarts": 1, "resident_bytes": 4096 },
            }]})
        );
    }

    #[test]
    fn a_version_that_was_never_called_has_zeros_and_no_rows() {
        let written = statistics(&[VersionStats {
            model: "a".to_owned(),
            version: 1,
            stats: Stats::default(),
        }]);
        let version = &written["model_stats"][0];
        assert_eq!(version["last_inference"], 0);
        assert_eq!(version["batch_stats"], json!([]));
        assert_eq!(
            version["inference_stats"]["success"],
            json!({ "count": 0, "ns": 0 })
        );
        assert_eq!(version["shadow"]["compute"]["p99_ns"], 0);
        assert_eq!(statistics(&[]), json!({ "model_stats": [] }));
    }

    #[test]
    fn a_difference_without_bound_is_null() {
        let stats = Stats {
            shadow: ShadowStats {
                largest_difference: f64::INFINITY,
                ..ShadowStats::default()
            },
            ..Stats::default()
        };
        let written = statistics(&[VersionStats {
            model: "a".to_owned(),
            version: 1,
            stats,
        }]);
        assert!(written["model_stats"][0]["shadow"]["largest_difference"].is_null());
    }
}
