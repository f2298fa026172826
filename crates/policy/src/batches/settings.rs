//! `[batches]` in `penstock.toml`.

use serde::Deserialize;

/// The longest time for which files and batches are kept: 30 days, as OpenAI keeps them. Lists search each hour of it.
pub(super) const MAX_RESULT_TTL_S: u64 = 30 * 86_400;
/// The longest window. OpenAI has one of a day.
const MAX_WINDOW_S: u64 = 7 * 86_400;
/// The largest file: as large as the largest body of a request. A file is in the memory of an instance as a whole when it is read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most lines of a file: as many as OpenAI takes. The ids of all lines are in memory while they are checked.
const MAX_LINES: u64 = 50_000;
/// The most files of one tenant. Their number and their bytes share one counter of 64 bits.
const MAX_FILES_PER_TENANT: u64 = 1 << 16;
/// The most bytes of files of one tenant, for the same reason.
const MAX_BYTES_PER_TENANT: u64 = 1 << 39;
/// The most batches of one tenant that are not over. Each keeps its results beside the files of its tenant until it is over.
const MAX_LIVE_PER_TENANT: u64 = 1_000;

/// The section `[batches]`: files and batches in OpenAI's form, and their bounds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchesSettings {
    /// Whether there are files and batches. They also need `operations.enabled`.
    pub enabled: bool,
    /// The largest file in bytes, of uploads and of results.
    pub max_file_bytes: u64,
    /// Most lines of a file.
    pub max_lines: u64,
    /// Most files of one tenant, results included.
    pub max_files_per_tenant: u64,
    /// Most bytes of files of one tenant, results included.
    pub max_bytes_per_tenant: u64,
    /// Most batches of one tenant that are not over.
    pub max_live_per_tenant: u64,
    /// Seconds after the creation of a batch from which no line begins.
    pub window_s: u64,
    /// Seconds for which a file is kept after its creation, and a batch after its end.
    pub result_ttl_s: u64,
}

impl Default for BatchesSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_file_bytes: 16 << 20,
            max_lines: MAX_LINES,
            max_files_per_tenant: 1_000,
            max_bytes_per_tenant: 1 << 30,
            max_live_per_tenant: 16,
            window_s: 86_400,
            result_ttl_s: 7 * 86_400,
        }
    }
}

impl BatchesSettings {
    /// All faults of the settings, each with its remedy.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let rows = [
            (
                "max_file_bytes",
                self.max_file_bytes,
                1_024,
                MAX_FILE_BYTES,
                " bytes",
            ),
            ("max_lines", self.max_lines, 1, MAX_LINES, ""),
            (
                "max_files_per_tenant",
                self.max_files_per_tenant,
                1,
                MAX_FILES_PER_TENANT,
                "",
            ),
            (
                "max_bytes_per_tenant",
                self.max_bytes_per_tenant,
                1,
                MAX_BYTES_PER_TENANT,
                " bytes",
            ),
            (
                "max_live_per_tenant",
                self.max_live_per_tenant,
                1,
                MAX_LIVE_PER_TENANT,
                "",
            ),
            ("window_s", self.window_s, 60, MAX_WINDOW_S, " seconds"),
            (
                "result_ttl_s",
                self.result_ttl_s,
                3_600,
                MAX_RESULT_TTL_S,
                " seconds",
            ),
        ];
        let wrong = rows
            .into_iter()
            .filter(|(_, value, least, most, _)| !(least..=most).contains(&value));
        let fault = |(name, value, least, most, unit): (&'static str, u64, u64, u64, &str)| {
            (
                name,
                format!("must be {least} to {most}{unit}, not {value}"),
            )
        };
        wrong.map(fault).collect()
    }

    /// Milliseconds for which the entries of a file or a batch are needed after its creation: a batch may begin over a file that
    /// is about to expire.
    pub(super) fn keep_ms(&self) -> u64 {
        (self.window_s + self.result_ttl_s + SLACK_S) * 1_000
    }
}

/// Seconds that a batch may need to end after its window: for its last step, and for a host that was down.
const SLACK_S: u64 = 86_400;
