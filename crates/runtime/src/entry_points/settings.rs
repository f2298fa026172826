//! Which entry point requests take, and how it uses its instances.

use std::time::Duration;

/// Which door requests go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPointKind {
    /// The typed door.
    #[default]
    Direct,
    /// `wasi:http/handler`.
    Http,
}

/// What [`EntryPointSettings::retained_bytes`] is where models run in the host: an instance that grew larger is not kept,
/// the next large request can pay for its own. Policies start with about 5 MiB together.
pub const RETAINED_BYTES: usize = 48 << 20;

/// How doors use their instances.
#[derive(Clone, Debug)]
pub struct EntryPointSettings {
    /// Bytes of linear memory an instance may hold after a request and still be kept.
    pub retained_bytes: usize,
    /// Instances at once.
    pub count: u32,
    /// Requests an instance serves before it is replaced.
    pub max_reuse: u32,
    /// How long one request may take in all.
    pub total_timeout: Duration,
}
