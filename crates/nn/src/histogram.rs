//! Times, counted by size.

/// Upper bounds of a histogram's buckets in nanoseconds; one more bucket is for longer times. From a tenth of
/// the quickest model's run to the longest a caller waits.
pub const BOUNDS_NS: [u64; 20] = [
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    60_000_000_000,
];

/// Times, how often and in all, and by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// The number of observations.
    pub count: u64,
    /// The sum of all observations in nanoseconds.
    pub sum_ns: u64,
    /// The number of observations in each bucket of [`BOUNDS_NS`], and above the last.
    pub buckets: [u64; BOUNDS_NS.len() + 1],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            count: 0,
            sum_ns: 0,
            buckets: [0; BOUNDS_NS.len() + 1],
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, ns: u64) {
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.buckets[BOUNDS_NS.partition_point(|bound| *bound < ns)] += 1;
    }

    /// The bound below which a part of the times lie (`0.99` of them), in nanoseconds; `u64::MAX` above the last
    /// bucket, zero without times.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        if self.count == 0 {
            return 0;
        }
        let mut seen = 0;
        for (count, bound) in self.buckets.iter().zip(BOUNDS_NS) {
            seen += count;
            if seen >= wanted {
                return bound;
            }
        }
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_bucket_whose_bound_is_not_below_it() {
        let mut histogram = Histogram::default();
        for ns in [0, 20_000, 20_001, 60_000_000_000, 60_000_000_001] {
            histogram.add(ns);
        }
        assert_eq!(histogram.count, 5);
        assert_eq!((histogram.buckets[0], histogram.buckets[1]), (2, 1));
        assert_eq!((histogram.buckets[19], histogram.buckets[20]), (1, 1));
        assert_eq!(histogram.quantile_ns(0.4), 20_000);
        assert_eq!(histogram.quantile_ns(0.5), 50_000);
        assert_eq!(histogram.quantile_ns(1.0), u64::MAX);
        assert_eq!(Histogram::default().quantile_ns(0.5), 0);
    }
}
