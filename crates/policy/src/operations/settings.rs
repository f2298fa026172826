//! `[operations]` in `penstock.toml`.

use serde::Deserialize;

/// The longest time for which results are kept: as long as idempotency keys at most.
const MAX_RESULT_TTL_S: u64 = 7 * 86_400;
/// The longest time in the queue: as long as results are kept at most.
const MAX_QUEUE_TIME_S: u64 = 7 * 86_400;
/// Milliseconds of the longest run: a day. A longer one is a training job, not a prediction.
const MAX_RUN_TIMEOUT_MS: u64 = 86_400_000;
/// Milliseconds of the shortest lease. Its holder renews it three times in this time, and a busy machine may delay each
/// renewal.
const MIN_LEASE_MS: u64 = 1_000;
/// Milliseconds of the longest lease: a dead worker is replaced after this time.
const MAX_LEASE_MS: u64 = 600_000;
/// Most attempts of an operation. Each has its own entries.
const MAX_ATTEMPTS: u32 = 16;
/// Bytes of the largest result. It is in the memory of an instance as a whole.
const MAX_RESULT_BYTES: u64 = 64 << 20;
/// The most operations of one tenant. Their number and their bytes share one counter of 64 bits.
const MAX_PER_TENANT: u64 = 1 << 22;
/// The most bytes of one tenant, for the same reason.
const MAX_BYTES_PER_TENANT: u64 = 1 << 39;
/// The most runs of operations at the same time on one host. Each needs an instance.
const MAX_WORKERS: u32 = 256;
/// The most event streams of one host. Each is a connection, or a part of one.
const MAX_STREAMS: u32 = 65_536;
/// Milliseconds of the shortest life of an event stream. Its client reconnects after two seconds.
const MIN_STREAM_TIMEOUT_MS: u64 = 1_000;
/// Milliseconds of the longest life of an event stream: a day, as for a run.
const MAX_STREAM_TIMEOUT_MS: u64 = MAX_RUN_TIMEOUT_MS;
/// Milliseconds of the shortest time between two signs of life of an event stream. Shorter ones only cost packets.
const MIN_HEARTBEAT_MS: u64 = 100;
/// Milliseconds of the longest time between two signs of life. Proxies commonly end connections on which nothing moves for a minute.
const MAX_HEARTBEAT_MS: u64 = 60_000;

/// The longest delay before another attempt, in milliseconds.
pub(super) const LONGEST_DELAY_MS: u64 = 60_000;

/// The section `[operations]`: the calls that become operations, and the bounds of their time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperationsSettings {
    /// Whether calls may become operations.
    pub enabled: bool,
    /// Seconds for which a result is kept after the end of its operation.
    pub result_ttl_s: u64,
    /// Seconds within which an operation must begin. It fails if it did not.
    pub max_queue_time_s: u64,
    /// Milliseconds that one run may take.
    pub run_timeout_ms: u64,
    /// Milliseconds after which a worker that does not renew its lease counts as dead, and another one runs the operation.
    pub lease_ms: u64,
    /// Runs of one operation, if they fail for reasons that may pass or their worker dies.
    pub max_attempts: u32,
    /// Most operations of one tenant that are stored, finished ones included.
    pub max_per_tenant: u64,
    /// Most bytes of requests and results of one tenant that are stored.
    pub max_bytes_per_tenant: u64,
    /// The largest result, in bytes. An operation with a larger one fails.
    pub max_result_bytes: u64,
    /// A call with at least this many items becomes an operation without being asked to; 0 for never.
    pub from_items: u64,
    /// Most operations that run at the same time on this host.
    pub workers: u32,
    /// Most event streams of operations that are open at the same time on this host.
    pub max_streams: u32,
    /// Milliseconds after which an event stream ends, so that its client reconnects and is authenticated again.
    pub stream_timeout_ms: u64,
    /// Milliseconds without an event after which an event stream has a comment, so that proxies keep its connection.
    pub heartbeat_ms: u64,
}

impl Default for OperationsSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            result_ttl_s: 86_400,
            max_queue_time_s: 86_400,
            run_timeout_ms: 300_000,
            lease_ms: 15_000,
            max_attempts: 3,
            max_per_tenant: 100_000,
            max_bytes_per_tenant: 1 << 30,
            max_result_bytes: 16 << 20,
            from_items: 0,
            workers: 8,
            max_streams: 4_096,
            stream_timeout_ms: 300_000,
            heartbeat_ms: 15_000,
        }
    }
}

impl OperationsSettings {
    /// All faults of the settings, each with its remedy.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut within = |name: &'static str, value: u64, least: u64, most: u64, unit: &str| {
            if !(least..=most).contains(&value) {
                faults.push((
                    name,
                    format!("must be {least} to {most}{unit}, not {value}"),
                ));
            }
        };
        within(
            "result_ttl_s",
            self.result_ttl_s,
            60,
            MAX_RESULT_TTL_S,
            " seconds",
        );
        within(
            "max_queue_time_s",
            self.max_queue_time_s,
            1,
            MAX_QUEUE_TIME_S,
            " seconds",
        );
        within(
            "run_timeout_ms",
            self.run_timeout_ms,
            100,
            MAX_RUN_TIMEOUT_MS,
            " ms",
        );
        within("lease_ms", self.lease_ms, MIN_LEASE_MS, MAX_LEASE_MS, " ms");
        within(
            "max_attempts",
            self.max_attempts.into(),
            1,
            MAX_ATTEMPTS.into(),
            "",
        );
        within("max_per_tenant", self.max_per_tenant, 1, MAX_PER_TENANT, "");
        within(
            "max_bytes_per_tenant",
            self.max_bytes_per_tenant,
            1,
            MAX_BYTES_PER_TENANT,
            " bytes",
        );
        within(
            "max_result_bytes",
            self.max_result_bytes,
            1_024,
            MAX_RESULT_BYTES,
            " bytes",
        );
        within("workers", self.workers.into(), 1, MAX_WORKERS.into(), "");
        within(
            "max_streams",
            self.max_streams.into(),
            1,
            MAX_STREAMS.into(),
            "",
        );
        within(
            "stream_timeout_ms",
            self.stream_timeout_ms,
            MIN_STREAM_TIMEOUT_MS,
            MAX_STREAM_TIMEOUT_MS,
            " ms",
        );
        within(
            "heartbeat_ms",
            self.heartbeat_ms,
            MIN_HEARTBEAT_MS,
            MAX_HEARTBEAT_MS,
            " ms",
        );
        faults
    }

    /// Milliseconds for which the entries of an operation are needed after its creation.
    pub(super) fn keep_ms(&self) -> u64 {
        let run_ms = self.run_timeout_ms + self.lease_ms + LONGEST_DELAY_MS;
        let runs_ms = run_ms * u64::from(self.max_attempts);
        (self.result_ttl_s + self.max_queue_time_s) * 1_000 + runs_ms
    }
}
