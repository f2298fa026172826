//! What quota tells the gate about a call: how each limit stands, and why a call was refused.

use super::limits::Unit;
use super::words::RefusalKind;

/// How one limit stands after a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The limit's name.
    pub name: String,
    /// Units in the window; a token bucket's burst.
    pub limit: u64,
    /// Seconds of the window, rounded up; for a token bucket, in which the burst is restored. `None`
    /// for calls at once.
    pub window_s: Option<u64>,
    /// Units left.
    pub remaining: u64,
    /// Seconds until the window ends or the bucket is full; on the limit that refused, until a retry
    /// has a chance. Rounded up.
    pub reset_s: u64,
    /// What is counted.
    pub unit: Unit,
    /// Whether the limit only reports.
    pub shadow: bool,
    /// Whether the call was more than the limit allows; it passed nevertheless if `shadow`.
    pub over: bool,
}

impl Status {
    /// The quota unit of the draft's registry, `None` for its default; units it does not have keep
    /// their name.
    pub fn quota_unit(&self) -> Option<&'static str> {
        match (self.window_s, self.unit) {
            (None, _) => Some("concurrent-requests"),
            (_, Unit::Requests) => None,
            (_, Unit::Bytes) => Some("content-bytes"),
            (_, unit) => Some(unit.as_str()),
        }
    }
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub kind: RefusalKind,
    /// The limit that refused; `None` for [`RefusalKind::BackOff`].
    pub limit: Option<String>,
    /// What that limit counts.
    pub unit: Option<Unit>,
    /// Seconds after which a retry has a chance, at least 1.
    pub retry_after_s: u64,
    /// What happened and what to do, for the caller.
    pub message: String,
    /// The limits that were asked before the refusal, and the one that refused.
    pub statuses: Vec<Status>,
}

/// What became of calls, and what failed, since the instance began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls admitted.
    pub admitted: u64,
    /// Calls refused because a limit was used up or too small.
    pub refused: u64,
    /// Of those, refused from what the instance remembered, without a trip to the store.
    pub refused_from_memory: u64,
    /// Calls refused for having been refused too often.
    pub backed_off: u64,
    /// Times a shadow limit would have refused.
    pub shadow_refusals: u64,
    /// What the store failed at.
    pub store_failures: StoreFailures,
}

/// How often the store did not answer, by what it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFailures {
    /// Charges of a limit.
    pub charges: u64,
    /// Of those, calls that went on uncounted because the limit says `open`.
    pub passed_open: u64,
    /// Refunds: units that stay used until their window passes.
    pub refunds: u64,
    /// Releases of a concurrent call: a place that stays taken until its lease ends.
    pub releases: u64,
    /// Compute time that was not charged.
    pub settlements: u64,
    /// Counting or reading a caller's refusals.
    pub back_off: u64,
    /// Registering a new entry for deletion. The instance tries again.
    pub registrations: u64,
}
