//! Decides whether one more call may run at once.
//!
//! Running calls are counted by the lease bucket in which they began; a bucket lasts `lease_s`. A call first counts
//! itself and then reads the neighbouring buckets. If several calls together exceed the limit, the last one to count
//! itself sees all the others. While leases are longer than calls, never more calls than the limit run at once. Two
//! calls that begin at the same moment on both sides of a bucket's end may see each other and both be refused.
//!
//! A bucket is read while it is a neighbour. The place of a caller that died is therefore forgotten after one to two
//! leases. So is the place of a live call that runs longer.

/// The bucket of a time.
pub fn bucket(lease_ms: u64, now_ms: u64) -> u64 {
    now_ms / lease_ms.max(1)
}

/// Whether a call that counted itself may run, and the places left for others. `own` is the sum that its increment
/// returned.
pub fn decide(limit: u64, own: i64, before: i64, after: i64) -> (bool, u64) {
    // A counter below zero was decremented after it was deleted, so it is ignored.
    let running = i128::from(own) + i128::from(before.max(0)) + i128::from(after.max(0));
    let free = i128::from(limit) - running;
    let fits = free >= 0;
    let free = if fits { free } else { free + 1 };
    (fits, u64::try_from(free).unwrap_or(0).min(limit))
}

/// The time until which instances read a bucket's counter. Later, giving a place back has no effect.
pub fn matters_until_ms(lease_ms: u64, bucket: u64) -> u64 {
    (bucket + 2)
        .saturating_mul(lease_ms)
        .saturating_add(super::store::CLOCK_SPREAD_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_runs_while_the_neighbouring_buckets_leave_a_place() {
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
