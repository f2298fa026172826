//! Histograms with fixed buckets. A bucket is a plain count, so the histograms of several servers add up.

use std::sync::atomic::{AtomicU64, Ordering};

/// The upper bounds of a histogram's buckets. One more bucket counts everything above the last bound.
#[derive(Debug, PartialEq)]
pub struct Bounds {
    /// The bounds in the unit that is counted, in ascending order.
    pub limits: &'static [u64],
    /// How many of the counted unit are one of the unit that is written: 1e9 for nanoseconds that are written as seconds.
    pub scale: f64,
}

/// The bounds of a request's duration: those of OpenTelemetry's conventions for HTTP, from 5 ms to 10 s, and three below, because
/// small models answer in less than 5 ms.
pub const REQUEST_DURATION: Bounds = Bounds {
    limits: &[
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    scale: 1e9,
};

/// The bounds of a body's size: powers of four from 256 bytes to 64 MiB.
pub const BODY_SIZE: Bounds = Bounds {
    limits: &[
        1 << 8,
        1 << 10,
        1 << 12,
        1 << 14,
        1 << 16,
        1 << 18,
        1 << 20,
        1 << 22,
        1 << 24,
        1 << 26,
    ],
    scale: 1.0,
};

/// The bounds of a run's number of items.
pub const BATCH_SIZE: Bounds = Bounds {
    limits: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
    scale: 1.0,
};

/// A histogram that many threads count into.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One for each bound, and one more.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: &'static Bounds) -> Self {
        let buckets = (0..=bounds.limits.len()).map(|_| AtomicU64::new(0));
        Self {
            bounds,
            buckets: buckets.collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one value: two additions.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.limits.partition_point(|limit| *limit < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Reads the counts.
    pub fn read(&self) -> Distribution {
        Distribution {
            bounds: self.bounds,
            counts: (self.buckets.iter())
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// The counts of a histogram at one moment. The number of values is the sum of the buckets, so the two always agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The bounds of the buckets.
    pub bounds: &'static Bounds,
    /// The number of values in each bucket, and above the last.
    pub counts: Vec<u64>,
    /// The sum of all values, in the unit that is counted.
    pub sum: u64,
}

impl Distribution {
    /// A distribution of no values.
    pub fn empty(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.limits.len() + 1],
            sum: 0,
        }
    }

    /// Counts `times` equal values.
    pub fn add_many(&mut self, value: u64, times: u64) {
        let bucket = self.bounds.limits.partition_point(|limit| *limit < value);
        if let Some(bucket) = self.counts.get_mut(bucket) {
            *bucket += times;
        }
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
    }

    /// Adds the counts of another distribution with the same bounds.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_value_is_counted_in_the_bucket_whose_bound_is_not_below_it() {
        let histogram = Histogram::new(&BATCH_SIZE);
        for value in [0, 1, 2, 3, 1024, 1025] {
            histogram.observe(value);
        }
        let read = histogram.read();
        assert_eq!(read.counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((read.count(), read.sum), (6, 2055));
    }

    #[test]
    fn the_bounds_ascend() {
        for bounds in [&REQUEST_DURATION, &BODY_SIZE, &BATCH_SIZE] {
            assert!(bounds.limits.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }

    #[test]
    fn the_distributions_of_two_servers_add_up_to_that_of_both() {
        let (one, other, both) = (
            Histogram::new(&REQUEST_DURATION),
            Histogram::new(&REQUEST_DURATION),
            Histogram::new(&REQUEST_DURATION),
        );
        for value in (0..1_000).map(|n| n * n * 20_011) {
            if value % 3 == 0 { &one } else { &other }.observe(value);
            both.observe(value);
        }
        let mut sum = one.read();
        sum.add(&other.read());
        assert_eq!(sum, both.read());
    }

    #[test]
    fn many_equal_values_count_as_each_of_them() {
        let histogram = Histogram::new(&BATCH_SIZE);
        let mut distribution = Distribution::empty(&BATCH_SIZE);
        for value in [1, 7, 5_000] {
            (0..9).for_each(|_| histogram.observe(value));
            distribution.add_many(value, 9);
        }
        assert_eq!(distribution, histogram.read());
    }

    /// Prints the cost of one value, on one thread and on two that count into the same bucket.
    #[test]
    fn threads_that_count_at_the_same_time_lose_nothing() {
        const VALUES: u64 = 200_000;
        let histogram = Histogram::new(&REQUEST_DURATION);
        for threads in [1, 2] {
            let began = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..VALUES).for_each(|_| histogram.observe(3_000_000)));
                }
            });
            let ns = began.elapsed().as_nanos() as f64 / VALUES as f64;
            println!("{threads} threads: {ns:.1} ns a value");
        }
        assert_eq!(histogram.read().count(), 3 * VALUES);
        assert_eq!(histogram.read().sum, 3 * VALUES * 3_000_000);
    }
}
