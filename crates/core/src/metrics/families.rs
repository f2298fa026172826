//! The families: the one list of what a scrape contains. docs/METRICS.md describes each, and a test compares the two.

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows. The name of its samples ends in `_total`.
    Counter,
    /// A number that may fall.
    Gauge,
    /// Counts by size.
    Histogram,
    /// A constant 1 whose labels are the information. The name of its sample ends in `_info`.
    Info,
    /// A counter that is named as Triton names it, without `_total`.
    TritonCounter,
}

impl Kind {
    /// The word in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter | Self::TritonCounter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A family of samples with one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name, without the suffix of a sample.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The unit at the end of the name, if there is one.
    pub unit: Option<&'static str>,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The meaning, in one line without quotes and backslashes.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $(, unit $unit:literal)? [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                unit: unit!($($unit)?),
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// Every family, in the order of the documentation.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

macro_rules! unit {
    () => {
        None
    };
    ($unit:literal) => {
        Some($unit)
    };
}

families! {
    REQUEST_DURATION = Histogram "http_server_request_duration_seconds", unit "seconds" ["route", "model", "version", "status"]
        "Time from the end of a request's head to its answer. The count is the number of requests.";
    ACTIVE_REQUESTS = Gauge "http_server_active_requests" []
        "Requests whose head has arrived and that have no answer yet.";
    REQUEST_BYTES = Histogram "http_server_request_body_size_bytes", unit "bytes" ["route"]
        "Bytes of a request's body, as far as it was read.";
    RESPONSE_BYTES = Histogram "http_server_response_body_size_bytes", unit "bytes" ["route"]
        "Bytes of an answer's body.";
    REQUEST_ERRORS = Counter "penstock_request_errors" ["route", "model", "version", "code"]
        "Requests that were refused or failed, by the code of the error.";
    REPLAYS = Counter "penstock_idempotent_replays" []
        "Answers that were replayed for a repeated idempotency key.";
    CACHE_RESULTS = Counter "penstock_cache_results" ["result"]
        "Calls of models with a cache, by the origin of the result.";
    CONNECTIONS = Gauge "penstock_connections" []
        "Open connections.";
    CONNECTIONS_OPENED = Counter "penstock_connections_opened" []
        "Connections that were accepted and served.";
    CONNECTIONS_REFUSED = Counter "penstock_connections_refused" []
        "Connections that were refused, because a limit was reached or because they spoke HTTP to a port for HTTPS.";
    GRPC_STREAMS = Gauge "penstock_grpc_streams" []
        "Open streams of gRPC.";
    INSTANCES = Gauge "penstock_instances" []
        "Instances of the components that exist.";
    INSTANCES_IN_USE = Gauge "penstock_instances_in_use" []
        "Instances of the components that serve a request now.";
    INSTANCES_MAX = Gauge "penstock_instances_max" []
        "The most instances that may serve at once.";
    INSTANCE_STARTS = Counter "penstock_instance_starts" []
        "Instances of the components that were made.";
    INSTANCE_TRAPS = Counter "penstock_instance_traps" []
        "Requests that ended in a trap of their instance.";
    OPERATIONS_QUEUED = Gauge "penstock_operations_queued" []
        "Operations in the queue of this server.";
    OPERATIONS_RUNNING = Gauge "penstock_operations_running" []
        "Operations that this server runs now.";
    OPERATIONS_ENDED = Counter "penstock_operations_ended" ["result"]
        "Operations that this server ended, by their result.";
    WEBHOOK_ATTEMPTS = Counter "penstock_webhook_attempts" ["outcome"]
        "Attempts to deliver a webhook, by their outcome.";
    MODELS = Gauge "penstock_models" ["state"]
        "Versions of models, by their state.";
    MODEL_MEMORY = Gauge "penstock_model_memory_bytes", unit "bytes" ["model", "version"]
        "Bytes that a loaded version holds, as the memory budget counts them.";
    MODEL_QUEUE_DEPTH = Gauge "penstock_model_queue_depth" ["model", "version"]
        "Calls that wait in the model's queue.";
    MODEL_RUNNING = Gauge "penstock_model_runs_in_progress" ["model", "version"]
        "Runs in progress.";
    MODEL_QUEUE = Histogram "penstock_model_queue_duration_seconds", unit "seconds" ["model", "version"]
        "Time that a call waited in the model's queue, for an instance or for other calls.";
    MODEL_COMPUTE = Histogram "penstock_model_compute_duration_seconds", unit "seconds" ["model", "version"]
        "Time of a call's run in the backend.";
    MODEL_BATCH = Histogram "penstock_model_batch_size" ["model", "version"]
        "Items of a run that succeeded.";
    MODEL_CALLS = Counter "penstock_model_calls" ["model", "version", "result"]
        "Calls that ran, by their result.";
    MODEL_REFUSED = Counter "penstock_model_calls_refused" ["model", "version", "reason"]
        "Calls that did not run, by the reason.";
    MODEL_FAILED_RUNS = Counter "penstock_model_failed_runs" ["model", "version"]
        "Runs that failed, including shared runs whose calls were run again one by one.";
    MODEL_SHADOW = Counter "penstock_model_shadow_runs" ["model", "version", "result"]
        "Shadow runs, by the comparison of their outputs with the answer.";
    MODEL_OVERDUE = Gauge "penstock_model_overdue_runs" ["model", "version"]
        "Runs that continue although they were interrupted.";
    MODEL_RESTARTS = Counter "penstock_model_process_restarts" ["model", "version"]
        "Times that the process of a model was started again.";
    MODEL_PROCESS_MEMORY = Gauge "penstock_model_process_resident_bytes", unit "bytes" ["model", "version"]
        "Private memory of the process that runs a model.";
    CPU_SECONDS = Counter "process_cpu_seconds", unit "seconds" []
        "Processor time of the server's process, without the processes of models.";
    RESIDENT_BYTES = Gauge "process_resident_memory_bytes", unit "bytes" []
        "Resident memory of the server's process.";
    VIRTUAL_BYTES = Gauge "process_virtual_memory_bytes", unit "bytes" []
        "Virtual memory of the server's process.";
    OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors of the server's process.";
    MAX_FDS = Gauge "process_max_fds" []
        "The most file descriptors that the server's process may open.";
    THREADS = Gauge "process_threads" []
        "Threads of the server's process.";
    START_TIME = Gauge "process_start_time_seconds", unit "seconds" []
        "Time at which the server's process started, since the Unix epoch.";
    BUILD = Info "penstock_build" ["version"]
        "The version of Penstock.";
    TRITON_SUCCESS = TritonCounter "nv_inference_request_success" ["model", "version"]
        "Calls that ran and succeeded.";
    TRITON_FAILURE = TritonCounter "nv_inference_request_failure" ["model", "version"]
        "Calls that failed when they ran, and calls that were refused.";
    TRITON_COUNT = TritonCounter "nv_inference_count" ["model", "version"]
        "Items of runs that succeeded.";
    TRITON_EXEC = TritonCounter "nv_inference_exec_count" ["model", "version"]
        "Runs that succeeded.";
    TRITON_DURATION = TritonCounter "nv_inference_request_duration_us" ["model", "version"]
        "Microseconds from the arrival of calls to their end.";
    TRITON_QUEUE = TritonCounter "nv_inference_queue_duration_us" ["model", "version"]
        "Microseconds that calls waited in the queue.";
    TRITON_INPUT = TritonCounter "nv_inference_compute_input_duration_us" ["model", "version"]
        "Microseconds that calls spent with their inputs.";
    TRITON_INFER = TritonCounter "nv_inference_compute_infer_duration_us" ["model", "version"]
        "Microseconds that calls spent in the backend.";
    TRITON_OUTPUT = TritonCounter "nv_inference_compute_output_duration_us" ["model", "version"]
        "Microseconds that calls spent with their outputs.";
    TRITON_PENDING = Gauge "nv_inference_pending_request_count" ["model", "version"]
        "Calls that wait in the queue.";
    DROPPED_SERIES = Gauge "penstock_metrics_dropped_series" []
        "Series that this scrape leaves out, because it would be too long.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_family_has_a_name_of_its_own_that_both_formats_allow() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            bytes.next().is_some_and(|b| b.is_ascii_lowercase())
                && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        for family in ALL {
            let Family { name, kind, .. } = *family;
            assert!(is_name(name), "{name}");
            assert!(
                family
                    .labels
                    .iter()
                    .all(|label| is_name(label) && *label != "le"),
                "{name}"
            );
            // OpenMetrics reserves these ends for samples.
            for end in ["_total", "_info", "_bucket", "_created", "_sum"] {
                assert!(!name.ends_with(end), "{name}");
            }
            let may_end_in_count = matches!(kind, Kind::TritonCounter) || name.starts_with("nv_");
            assert!(may_end_in_count || !name.ends_with("_count"), "{name}");
            if let Some(unit) = family.unit {
                assert!(name.ends_with(&format!("_{unit}")), "{name} {unit}");
            }
            assert!(!family.help.contains(['"', '\\', '\n']), "{name}");
            assert!(family.help.ends_with('.'), "{name}");
        }
    }
}
