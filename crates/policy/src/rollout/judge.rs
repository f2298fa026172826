//! Decides whether a canary does worse than the stable version beside it.
//!
//! Each counted call raises one counter of its side: failed calls, or a latency bucket. Both sides serve the same callers
//! at the same time, so a cause that slows both (a busy machine, a full queue) does not count against the canary.
//!
//! A run is rolled back when a bound is almost certainly exceeded. The intervals are [`SIGMAS`] standard deviations wide
//! (Wilson's, and Newcombe's for a difference). They hold for few calls and for none that failed; the plain normal
//! approximation does not. They are that wide because a run is judged many times, and each judgement may err.

use serde::{Deserialize, Deserializer, Serialize};

/// Half the width of every interval in standard deviations: wrong about once in 30,000 judgements, one-sided.
pub const SIGMAS: f64 = 4.0;
/// The rate of failed calls that rolls a run back when the other side has no call to compare with.
pub const ALONE_ERROR_RATE: f64 = 0.5;
/// Latency buckets with an upper bound. One more holds all slower calls.
pub const BUCKETS: usize = 40;
/// The bound of the first bucket: 0.1 ms. It doubles every two buckets; the last is at 74 s.
const FIRST_BOUND_NS: u64 = 100_000;
/// Counters of one side: failed calls, and the buckets.
const COUNTERS_PER_ARM: usize = 2 + BUCKETS;
/// Number of counters of one window of a run, both sides together.
pub const COUNTERS: u32 = 2 * COUNTERS_PER_ARM as u32;
/// One counted call in this many judges the run. The choice is random, so that many instances together judge no more
/// often than one alone.
const JUDGED_ONE_OF: u64 = 16;
/// The same as [`JUDGED_ONE_OF`], for failed calls of the canary.
const JUDGED_FAILED_ONE_OF: u64 = 4;

/// The shortest window, in seconds.
pub const MIN_WINDOW_S: u64 = 10;
/// The longest window, in seconds: a day. Older calls say little about the canary now.
pub const MAX_WINDOW_S: u64 = 86_400;
/// Largest `min_calls` that an operator may set.
pub const MAX_MIN_CALLS: u64 = 1_000_000;

/// Windows that have counters at the same time: the current, the previous and the next.
const WINDOWS: u64 = 3;

/// A side of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The versions that answer all other callers.
    Stable,
    /// The version that is tried.
    Canary,
}

/// The outcome of a call for the health of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model ran and gave an answer.
    Served,
    /// The model failed, took too long or was not ready. A caller's own mistake never counts.
    Failed,
}

/// The bounds at which a canary is rolled back automatically.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// The permitted difference of its error rate to the other side's; 0.02 is two calls in a hundred.
    pub max_error_rate_increase: Option<f64>,
    /// The largest ratio of its latency to the other side's, at the quantile.
    pub max_latency_ratio: Option<f64>,
    /// The quantile at which latencies are compared.
    pub quantile: f64,
    /// Calls of the canary before it is judged at all.
    pub min_calls: u64,
    /// Seconds for which a call counts at least; it counts for twice as long at most.
    pub window_s: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_error_rate_increase: Some(0.02),
            max_latency_ratio: Some(2.0),
            quantile: 0.95,
            min_calls: 50,
            window_s: 600,
        }
    }
}

/// A change of [`Bounds`]; members without a value stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoundsPatch {
    /// `Some(None)` removes the bound.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_error_rate_increase: Option<Option<f64>>,
    /// `Some(None)` removes the bound.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_latency_ratio: Option<Option<f64>>,
    /// A new value of [`Bounds::quantile`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// A new value of [`Bounds::min_calls`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u64>,
    /// A new value of [`Bounds::window_s`].
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
}

/// Reads a member that is present, `null` included.
fn given<'d, D: Deserializer<'d>, T: Deserialize<'d>>(member: D) -> Result<Option<T>, D::Error> {
    T::deserialize(member).map(Some)
}

impl BoundsPatch {
    /// The bounds after the change.
    pub fn onto(&self, bounds: &Bounds) -> Bounds {
        Bounds {
            max_error_rate_increase: (self.max_error_rate_increase)
                .unwrap_or(bounds.max_error_rate_increase),
            max_latency_ratio: self.max_latency_ratio.unwrap_or(bounds.max_latency_ratio),
            quantile: self.quantile.unwrap_or(bounds.quantile),
            min_calls: self.min_calls.unwrap_or(bounds.min_calls),
            window_s: self.window_s.unwrap_or(bounds.window_s),
        }
    }

    /// The bounds of a run that had none: only those that the patch names. `None` where it names none, because the other
    /// members only say how bounds are checked.
    pub fn alone(&self) -> Option<Bounds> {
        let bounds = self.onto(&Bounds {
            max_error_rate_increase: None,
            max_latency_ratio: None,
            ..Bounds::default()
        });
        let ends = bounds.max_error_rate_increase.is_some() || bounds.max_latency_ratio.is_some();
        ends.then_some(bounds)
    }
}

/// The judgement on a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Too few calls to judge.
    TooEarly,
    /// No bound is exceeded with certainty.
    Good,
    /// A bound is exceeded; the sentence says which.
    RollBack(String),
}

const fn bounds_ns() -> [u64; BUCKETS] {
    let mut bounds = [0; BUCKETS];
    let mut n = 0;
    while n < BUCKETS {
        let doubled = FIRST_BOUND_NS << (n / 2);
        // The square root of two, to five digits.
        bounds[n] = if n % 2 == 0 {
            doubled
        } else {
            doubled / 100_000 * 141_421
        };
        n += 1;
    }
    bounds
}

/// Upper bounds of the buckets, in nanoseconds.
pub const BOUNDS_NS: [u64; BUCKETS] = bounds_ns();

/// The counter that a call raises.
pub fn counter(arm: Arm, outcome: Outcome, latency_ns: u64) -> u32 {
    let of_arm = match outcome {
        Outcome::Failed => 0,
        Outcome::Served => 1 + BOUNDS_NS.partition_point(|bound| *bound < latency_ns),
    };
    (offset(arm) + of_arm) as u32
}

fn offset(arm: Arm) -> usize {
    match arm {
        Arm::Stable => 0,
        Arm::Canary => COUNTERS_PER_ARM,
    }
}

/// Returns whether to look at the counters after a call was counted.
pub fn is_to_judge(arm: Arm, outcome: Outcome, random: u64) -> bool {
    let one_of = match (arm, outcome) {
        (Arm::Canary, Outcome::Failed) => JUDGED_FAILED_ONE_OF,
        _ => JUDGED_ONE_OF,
    };
    random.is_multiple_of(one_of)
}

/// The numbers under which the counters of a run are stored: that of the current window and that of the previous. Numbers
/// repeat after three windows, so the counters of a run are bounded however long it runs.
pub fn numbers(id: u64, started_ms: u64, bounds: &Bounds, now_ms: u64) -> (u64, u64) {
    let window = now_ms.saturating_sub(started_ms) / (bounds.window_s.max(1) * 1_000);
    let number = |window: u64| id + window % WINDOWS;
    (number(window), number(window + WINDOWS - 1))
}

/// The number whose counters come next. The first count under `number` deletes them.
pub fn next_number(number: u64) -> u64 {
    let id = number & !3;
    id + (number - id + 1) % WINDOWS
}

/// All numbers of a run.
pub fn all_numbers(id: u64) -> [u64; WINDOWS as usize] {
    [id, id + 1, id + 2]
}

/// The counts of one side.
struct Side<'a> {
    failed: u64,
    /// Number of served calls in each bucket of latency.
    buckets: &'a [u64],
    served: u64,
}

impl<'a> Side<'a> {
    fn of(tallies: &'a [u64], arm: Arm) -> Self {
        let begin = offset(arm).min(tallies.len());
        let end = (offset(arm) + COUNTERS_PER_ARM).min(tallies.len());
        let (failed, buckets) = tallies[begin..end].split_first().unwrap_or((&0, &[]));
        Self {
            failed: *failed,
            buckets,
            served: buckets
                .iter()
                .fold(0, |sum, count| sum.saturating_add(*count)),
        }
    }

    fn calls(&self) -> u64 {
        self.served.saturating_add(self.failed)
    }

    /// The calls that were certainly slower than a time.
    fn slower(&self, than_ns: f64) -> u64 {
        let counts = self.buckets.iter().enumerate();
        let slower = counts.filter(|(bucket, _)| match bucket.checked_sub(1) {
            None => false,
            Some(below) => BOUNDS_NS[below.min(BUCKETS - 1)] as f64 >= than_ns,
        });
        slower.map(|(_, count)| *count).sum()
    }

    /// An upper bound of the quantile; `None` where there are too few calls.
    fn quantile_at_most_ns(&self, quantile: f64) -> Option<u64> {
        let calls = self.served as f64;
        let part = quantile + SIGMAS * (quantile * (1.0 - quantile) / calls).sqrt();
        let wanted = part * calls;
        // This also catches NaN and infinity, which arise from zero calls.
        if part.is_nan() || part >= 1.0 {
            return None;
        }
        let mut seen = 0;
        for (count, bound) in self.buckets.iter().zip(BOUNDS_NS) {
            seen += count;
            if seen as f64 >= wanted {
                return Some(bound);
            }
        }
        None
    }
}

/// Calls and failed calls of both sides, the stable side first; for operators.
pub fn calls(tallies: &[u64]) -> [(u64, u64); 2] {
    [Arm::Stable, Arm::Canary].map(|arm| {
        let side = Side::of(tallies, arm);
        (side.calls(), side.failed)
    })
}

/// Wilson's interval of a rate.
fn interval(count: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, z2) = (of as f64, SIGMAS * SIGMAS);
    let rate = count as f64 / n;
    let centre = rate + z2 / (2.0 * n);
    let spread = SIGMAS * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    (
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    )
}

/// Judges a run by its counters, summed over the current and the previous window.
pub fn judge(tallies: &[u64], bounds: &Bounds) -> Judgement {
    let (stable, canary) = (
        Side::of(tallies, Arm::Stable),
        Side::of(tallies, Arm::Canary),
    );
    if canary.calls() < bounds.min_calls.max(1) {
        return Judgement::TooEarly;
    }
    let why = fails_more(&stable, &canary, bounds).or_else(|| is_slower(&stable, &canary, bounds));
    why.map_or(Judgement::Good, Judgement::RollBack)
}

fn fails_more(stable: &Side<'_>, canary: &Side<'_>, bounds: &Bounds) -> Option<String> {
    let margin = bounds.max_error_rate_increase?;
    let (failed, calls) = (canary.failed, canary.calls());
    let rate = failed as f64 / calls as f64;
    let (least, _) = interval(failed, calls);
    if stable.calls() == 0 {
        return (least > ALONE_ERROR_RATE.max(margin)).then(|| {
            format!(
                "{failed} of its {calls} calls failed; no call of another version could be compared with them"
            )
        });
    }
    let beside = stable.failed as f64 / stable.calls() as f64;
    let (_, most) = interval(stable.failed, stable.calls());
    // Newcombe's interval of a difference, from the two intervals of rates.
    let surely = (rate - beside) - ((rate - least).powi(2) + (most - beside).powi(2)).sqrt();
    (surely > margin).then(|| {
        format!(
            "{failed} of its {calls} calls failed ({:.1} %), against {} of {} of the other versions ({:.1} %); {:.1} points more are allowed",
            rate * 100.0,
            stable.failed,
            stable.calls(),
            beside * 100.0,
            margin * 100.0,
        )
    })
}

fn is_slower(stable: &Side<'_>, canary: &Side<'_>, bounds: &Bounds) -> Option<String> {
    let ratio = bounds.max_latency_ratio?;
    let quantile = bounds.quantile;
    let beside_ns = stable.quantile_at_most_ns(quantile)?;
    let limit_ns = beside_ns as f64 * ratio;
    let slower = canary.slower(limit_ns);
    let (least, _) = interval(slower, canary.served);
    (least > 1.0 - quantile).then(|| {
        format!(
            "{slower} of its {} answered calls took more than {:.2} ms, {ratio} times the time within which {:.0} % of the {} \
             calls of the other versions end",
            canary.served,
            limit_ns / 1e6,
            quantile * 100.0,
            stable.served,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(calls: &[(Arm, Outcome, u64, u64)]) -> Vec<u64> {
        let mut tallies = vec![0; COUNTERS as usize];
        for (arm, outcome, latency_ns, count) in calls {
            tallies[counter(*arm, *outcome, *latency_ns) as usize] += count;
        }
        tallies
    }

    use Arm::{Canary, Stable};
    use Outcome::{Failed, Served};

    #[test]
    fn every_call_has_a_counter_of_its_side() {
        assert_eq!(counter(Stable, Failed, 5), 0);
        assert_eq!(counter(Stable, Served, 0), 1);
        assert_eq!(counter(Stable, Served, FIRST_BOUND_NS), 1);
        assert_eq!(counter(Stable, Served, FIRST_BOUND_NS + 1), 2);
        assert_eq!(counter(Canary, Served, u64::MAX), COUNTERS - 1);
        assert_eq!(counter(Canary, Failed, 0), COUNTERS / 2);
        assert!(BOUNDS_NS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(BOUNDS_NS[BUCKETS - 1] > 60_000_000_000);
    }

    #[test]
    fn a_run_is_judged_by_what_it_did_beside_the_other_side() {
        let bounds = Bounds::default();
        let ms = 1_000_000;
        let judged = |calls: &[_]| judge(&tallies(calls), &bounds);
        assert_eq!(judged(&[]), Judgement::TooEarly);
        assert_eq!(judged(&[(Canary, Failed, 0, 49)]), Judgement::TooEarly);
        let rolls_back = |calls: &[_], word: &str| match judged(calls) {
            Judgement::RollBack(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        };
        rolls_back(&[(Canary, Failed, 0, 50)], "no call of another version");
        rolls_back(
            &[(Stable, Served, ms, 950), (Canary, Failed, 0, 50)],
            "50 of its 50 calls failed (100.0 %)",
        );
        // A cause that affects both sides does not count against the canary.
        assert_eq!(
            judged(&[
                (Stable, Failed, 0, 500),
                (Stable, Served, ms, 500),
                (Canary, Failed, 0, 50),
                (Canary, Served, ms, 50),
            ]),
            Judgement::Good
        );
        rolls_back(
            &[(Stable, Served, ms, 1_000), (Canary, Served, 10 * ms, 100)],
            "100 of its 100 answered calls took more than",
        );
        assert_eq!(
            judged(&[(Stable, Served, 10 * ms, 1_000), (Canary, Served, ms, 100)]),
            Judgement::Good
        );
        // Too few calls on the other side to know its latency.
        assert_eq!(
            judged(&[(Stable, Served, ms, 100), (Canary, Served, 10 * ms, 100)]),
            Judgement::Good
        );
        // One bound alone.
        let only_latency = Bounds {
            max_error_rate_increase: None,
            ..bounds.clone()
        };
        let failing = tallies(&[(Stable, Served, ms, 950), (Canary, Failed, 0, 50)]);
        assert_eq!(judge(&failing, &only_latency), Judgement::Good);
    }

    #[test]
    fn counters_of_a_shorter_list_are_none() {
        for len in 0..COUNTERS as usize {
            let _ = judge(&vec![1; len], &Bounds::default());
        }
        let huge = vec![u64::MAX / 128; COUNTERS as usize];
        assert_eq!(judge(&huge, &Bounds::default()), Judgement::Good);
    }

    #[test]
    fn numbers_come_again_after_three_windows() {
        let bounds = Bounds {
            window_s: 10,
            ..Bounds::default()
        };
        let at = |s: u64| numbers(64, 1_000, &bounds, 1_000 + s * 1_000);
        assert_eq!(at(0), (64, 66));
        assert_eq!(at(9), (64, 66));
        assert_eq!(at(10), (65, 64));
        assert_eq!(at(20), (66, 65));
        assert_eq!(at(30), (64, 66));
        assert_eq!([64, 65, 66].map(next_number), [65, 66, 64]);
        assert_eq!(numbers(64, 1_000, &bounds, 0), (64, 66));
    }
}
