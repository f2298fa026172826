//! The results of quota for a call: the status of each limit, and the reason of a refusal.

use super::limits::Unit;
use super::words::RefusalKind;

/// The status of one limit after a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name of the limit in the policy.
    pub name: String,
    /// Units in the window; for a token bucket, its burst.
    pub limit: u64,
    /// Length of the window in seconds, rounded up; for a token bucket, the time that restores the burst. `None` for
    /// concurrent calls.
    pub window_s: Option<u64>,
    /// Units that are left after the call.
    pub remaining: u64,
    /// Seconds until the window ends or the bucket is full; for the limit that refused, until a retry can pass. Rounded
    /// up.
    pub reset_s: u64,
    /// The unit that it counts.
    pub unit: Unit,
    /// Whether the limit only reports.
    pub shadow: bool,
    /// Whether the call exceeded the limit. A `shadow` limit admits it nevertheless.
    pub over: bool,
}

impl Status {
    /// The quota unit in the registry of the draft; `None` for the registry's default. Units that the registry lacks keep
    /// their own name.
    pub fn quota_unit(&self) -> Option<&'static str> {
        match (self.window_s, self.unit) {
            (None, _) => Some("concurrent-requests"),
            (_, Unit::Requests) => None,
            (_, Unit::Bytes) => Some("content-bytes"),
            (_, unit) => Some(unit.as_str()),
        }
    }
}

/// A refused call, with the status of each limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRefusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// The limit that refused; `None` for [`RefusalKind::BackOff`].
    pub limit: Option<String>,
    /// The unit of that limit.
    pub unit: Option<Unit>,
    /// Seconds after which a retry can pass, at least 1.
    pub retry_after_s: u64,
    /// Message for the caller: the cause and the remedy.
    pub message: String,
    /// The statuses of the limits that were charged before, and of the one that refused.
    pub statuses: Vec<Status>,
}

/// Counts of calls and failures since the instance began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that every limit admitted.
    pub admitted: u64,
    /// Calls refused because a limit was used up or too small.
    pub refused: u64,
    /// The part of these calls that was refused from memory, without the store.
    pub refused_from_memory: u64,
    /// Calls of callers that were blocked after too many refusals.
    pub backed_off: u64,
    /// Times a shadow limit would have refused.
    pub shadow_refusals: u64,
    /// Failed operations of the store.
    pub store_failures: StoreFailures,
}

/// Counts of failed store operations, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFailures {
    /// Charges that failed, each of one limit.
    pub charges: u64,
    /// The part of these charges whose calls went on uncounted, because the limit says `open`.
    pub passed_open: u64,
    /// Refunds that failed: their units stay used until their window passes.
    pub refunds: u64,
    /// Releases of a concurrent call: a place that stays taken until its lease ends.
    pub releases: u64,
    /// Compute time that was not charged.
    pub settlements: u64,
    /// Writes and reads of a caller's refusal counter.
    pub back_off: u64,
    /// Registrations of a new entry for deletion. The instance tries again.
    pub registrations: u64,
}
