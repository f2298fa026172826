//! The settings for the instances of an entry point.

use std::time::Duration;

/// The value of [`EntryPointSettings::retained_bytes`] if models run in the host. An instance that grew larger is not
/// kept, and the next large request makes its own. Policies start with about 5 MiB together.
pub const RETAINED_BYTES: usize = 48 << 20;

/// The settings for the instances of entry points.
#[derive(Clone, Debug)]
pub struct EntryPointSettings {
    /// Largest linear memory in bytes with which an instance is kept after a request.
    pub retained_bytes: usize,
    /// Instances that may exist at once. Each serves one request at a time.
    pub count: u32,
    /// Requests an instance serves before it is replaced.
    pub max_reuse: u32,
    /// Total time of one request.
    pub total_timeout: Duration,
}
