//! Decides whether one more call may run at once.
//!
//! Running calls are counted by the lease bucket in which they began (time cut into `lease_s`). A call
//! counts itself first and reads the neighbouring buckets afterwards, so of calls that together would
//! be too many, the last to count itself sees all the others: with leases longer than calls, never more
//! than the limit run at once. Calls that begin in the same moment on both sides of a bucket's end may
//! each see the other and both be refused.
//!
//! A bucket is read for as long as it is a neighbour. A holder that died is therefore forgotten after
//! one to two leases, and so is a live one that runs longer than that.

/// The bucket of a time.
pub fn bucket(lease_ms: u64, now_ms: u64) -> u64 {
    now_ms / lease_ms.max(1)
}

/// Whether a call that counted itself (`own` is the sum it was given) may run, and how many places
/// are left for others.
pub fn decide(limit: u64, own: i64, before: i64, after: i64) -> (bool, u64) {
    // A neighbour below zero lost places it never gave, and says nothing.
    let running = i128::from(own) + i128::from(before.max(0)) + i128::from(after.max(0));
    let free = i128::from(limit) - running;
    let fits = free >= 0;
    let free = if fits { free } else { free + 1 };
    (fits, u64::try_from(free).unwrap_or(0).min(limit))
}

/// Until when a bucket's counter is read by anybody, so that giving a place back is of use.
pub fn matters_until_ms(lease_ms: u64, bucket: u64) -> u64 {
    (bucket + 2)
        .saturating_mul(lease_ms)
        .saturating_add(super::store::CLOCK_SPREAD_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_run() {
        for (own, before, after, expected) in [
            (1, 0, 0, (true, 3)),
            (4, 0, 0, (true, 0)),
            (5, 0, 0, (false, 0)),
            (2, 1, 1, (true, 0)),
            (2, 2, 1, (false, 0)),
            (1, -5, 0, (true, 3)),
            (1, 9, 0, (false, 0)),
        ] {
            assert_eq!(decide(4, own, before, after), expected);
        }
    }
}
