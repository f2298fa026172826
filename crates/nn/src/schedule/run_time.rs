//! Run times of a model, learnt from recent runs: a fixed cost of every run, and a cost for each byte of its inputs.
//! They decide whether a run is short enough for the caller's task, when a call would be done, and how much time a
//! shared run saves.

use std::time::Duration;

use super::queue::Nanos;

/// The longest predicted time of a run on the caller's task. A hop to the blocking pool and back costs 10 to 20 µs
/// between busy threads, and 100 µs and more if the other thread sleeps on a virtual machine. A run of this length
/// delays the other requests on a server thread by no more than parsing one large body.
pub const INLINE_BUDGET: Duration = Duration::from_millis(1);

/// The weight of a new run in the averages is one part in this number.
const AVERAGE_OVER: f64 = 8.0;

/// The most that a run counts above the average, or as a multiple of it. One run that the operating system interrupted
/// must not push a quick model off its task; two in a row may.
const MOST_ABOVE_NS: f64 = INLINE_BUDGET.as_nanos() as f64 * AVERAGE_OVER / 2.0;
const MOST_TIMES: f64 = 4.0;

/// The part of the average by which sizes must have differed before the two costs are told apart.
const LEAST_SPREAD: f64 = 0.05;

/// Averages over recent runs, from which the time of the next one is predicted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunTimeEstimate {
    time: f64,
    bytes: f64,
    variance: f64,
    covariance: f64,
}

impl RunTimeEstimate {
    /// Begins the averages with one run.
    pub fn start(&mut self, took: Nanos, bytes: u64) {
        *self = Self {
            time: took.max(1) as f64,
            bytes: bytes.max(1) as f64,
            ..Self::default()
        };
    }

    /// Takes a run into account.
    pub fn observe(&mut self, took: Nanos, bytes: u64) {
        if self.time == 0.0 {
            return self.start(took, bytes);
        }
        let part = 1.0 / AVERAGE_OVER;
        let expected = self.predict(bytes) as f64;
        let took = (took.max(1) as f64).min((expected + MOST_ABOVE_NS).max(expected * MOST_TIMES));
        let (time, size) = (took - self.time, bytes.max(1) as f64 - self.bytes);
        self.time += part * time;
        self.bytes += part * size;
        self.variance = (1.0 - part) * (self.variance + part * size * size);
        self.covariance = (1.0 - part) * (self.covariance + part * size * time);
    }

    /// The mean time of a run; zero before the first.
    pub fn mean(&self) -> Nanos {
        self.time as Nanos
    }

    /// The predicted time of a run with so many bytes; unbounded before the first run.
    pub fn predict(&self, bytes: u64) -> Nanos {
        if self.time == 0.0 {
            return Nanos::MAX;
        }
        let bytes = bytes as f64;
        match self.parts() {
            Some((fixed, each)) => fixed + each * bytes,
            // In proportion if it is larger than recent runs, and like them if it is smaller.
            None => self.time * (bytes / self.bytes).max(1.0),
        }
        .max(1.0) as Nanos
    }

    /// The predicted time of so many runs with so many bytes in all.
    pub fn predict_runs(&self, runs: u64, bytes: u64) -> Nanos {
        let (fixed, each) = self
            .parts()
            .unwrap_or((0.0, self.time / self.bytes.max(1.0)));
        (fixed * runs as f64 + each * bytes as f64) as Nanos
    }

    /// The fixed cost of a run, which sharing a run saves; zero until sizes have differed.
    pub fn fixed(&self) -> Nanos {
        self.parts().map_or(0, |(fixed, _)| fixed as Nanos)
    }

    /// The two parts of the cost: of a run, and of each byte.
    fn parts(&self) -> Option<(f64, f64)> {
        let spread = LEAST_SPREAD * self.bytes;
        if self.variance <= spread * spread {
            return None;
        }
        let each = (self.covariance / self.variance).clamp(0.0, self.time / self.bytes);
        Some(((self.time - each * self.bytes).max(0.0), each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Nanos = INLINE_BUDGET.as_nanos() as Nanos;

    #[test]
    fn one_interrupted_run_does_not_move_a_quick_model_off_its_task_but_two_do() {
        let mut run_time = RunTimeEstimate::default();
        assert_eq!(run_time.predict(100), Nanos::MAX);
        run_time.start(20_000, 100);
        assert!(run_time.predict(100) <= BUDGET);
        run_time.observe(50_000_000, 100);
        assert!(run_time.predict(100) <= BUDGET, "{}", run_time.predict(100));
        run_time.observe(50_000_000, 100);
        assert!(run_time.predict(100) > BUDGET, "{}", run_time.predict(100));
        for _ in 0..40 {
            run_time.observe(20_000, 100);
        }
        assert!(run_time.predict(100) <= BUDGET);
    }

    #[test]
    fn a_call_much_larger_than_the_usual_is_not_expected_to_be_quick() {
        let mut run_time = RunTimeEstimate::default();
        run_time.start(20_000, 100);
        assert!(run_time.predict(100 * 100) > BUDGET);
        assert_eq!(run_time.predict(1), run_time.predict(100));
        assert!(run_time.predict(u64::MAX) > 1 << 60);
    }

    #[test]
    fn runs_of_different_sizes_tell_what_a_run_costs_and_what_a_byte_costs() {
        let mut run_time = RunTimeEstimate::default();
        for round in 0..200u64 {
            let bytes = 1000 * (1 + round % 8);
            run_time.observe(500_000 + 100 * bytes, bytes);
        }
        let fixed = run_time.fixed() as f64;
        assert!((fixed / 500_000.0 - 1.0).abs() < 0.05, "{fixed}");
        let large = run_time.predict(64_000) as f64;
        assert!((large / 6_900_000.0 - 1.0).abs() < 0.05, "{large}");
        let runs = run_time.predict_runs(4, 10_000) as f64;
        assert!((runs / 3_000_000.0 - 1.0).abs() < 0.05, "{runs}");
    }

    #[test]
    fn a_model_without_a_fixed_cost_saves_nothing_in_a_batch() {
        let mut run_time = RunTimeEstimate::default();
        for round in 0..200u64 {
            let bytes = 1000 * (1 + round % 8);
            run_time.observe(100 * bytes, bytes);
        }
        assert!(run_time.fixed() < 1000, "{}", run_time.fixed());
    }

    #[test]
    fn a_model_that_becomes_slower_is_believed_within_a_few_runs() {
        let mut run_time = RunTimeEstimate::default();
        run_time.start(20_000, 100);
        for _ in 0..60 {
            run_time.observe(400_000_000, 100);
        }
        assert!(run_time.mean() > 300_000_000, "{}", run_time.mean());
    }
}
