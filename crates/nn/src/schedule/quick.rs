//! Decides whether a run may happen on a server thread. Pure.
//!
//! A run on a server thread cannot be interrupted and delays every request on that thread, health checks included. So
//! three conditions must hold:
//!
//! - The time of a run follows from the shapes of its inputs ([`Cost`]), so that no value can make it long.
//! - A run on inputs that are at least as long in every dimension was measured, and was short. The growth of time with
//!   a shape is not guessed: a call with half the bytes can cost a thousand times as much (`x · xᵀ` of a column and of
//!   a row).
//! - The last runs were all short. One long run takes the model off the server threads.
//!
//! A model returns after a number of short runs elsewhere. The number doubles if the next long run comes soon after the
//! return, so a model whose time varies is on server threads less and less. It halves again if the long run came late:
//! the operating system may have interrupted it.

use super::queue::Nanos;
use super::run_time::INLINE_BUDGET;
use crate::backend::Cost;

/// Short runs in a row before the first run on a server thread.
pub const FIRST_RUNS: u32 = 4;

/// The least number of short runs in a row after a long one.
pub const COME_BACK_RUNS: u32 = 16;

/// The largest number of runs before a return. A model with one long run among so many delays few requests.
pub const MOST_COME_BACK_RUNS: u32 = 4096;

/// A long run comes soon after a return when fewer runs than so many times the required number were between.
const SOON: u32 = 4;

/// Most shapes that are remembered if a longer shape covers a shorter one.
const MAX_SHAPES: usize = 4;

/// Most shapes that are remembered if each counts for itself: as many as a shared run has items (`batching::MAX_ITEMS`).
/// tract remembers far more shapes that it is prepared for.
const MAX_SAME_SHAPES: usize = 32;

/// Shape by shape, one for each input.
type Shapes = Vec<Vec<u32>>;

/// The relation of a run to a measured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Like {
    /// No run may happen on a server thread.
    Never,
    /// No dimension is longer than in the measured run.
    Within,
    /// The shapes are the same.
    Same,
}

/// The measurements of a model's runs.
#[derive(Debug, Clone)]
pub struct Quick {
    like: Like,
    /// Short runs in a row, up to `needed`.
    streak: u32,
    /// Short runs in a row that are needed.
    needed: u32,
    /// Short runs since that many were there.
    since: u32,
    /// Shapes of short runs since the last long one, the last measured last.
    short: Vec<Shapes>,
    /// Whether a server thread waits for at most the budget, also if the run takes longer.
    bounded: bool,
}

impl Quick {
    /// A model that has not run. `bounded` if a server thread waits at most [`INLINE_BUDGET`] for a run.
    pub fn new(cost: &Cost, bounded: bool) -> Self {
        Self {
            bounded,
            like: match cost {
                Cost::Values(_) if bounded => Like::Within,
                Cost::Shapes => Like::Within,
                Cost::EachShape => Like::Same,
                Cost::Values(_) => Like::Never,
            },
            streak: 0,
            needed: FIRST_RUNS,
            since: 0,
            short: Vec::new(),
        }
    }

    /// Returns whether a run on inputs of these shapes may happen on a server thread.
    pub fn allows<'a>(&self, shapes: impl Iterator<Item = &'a [u32]> + Clone) -> bool {
        self.like != Like::Never
            && self.streak >= self.needed
            && (self.short.iter()).any(|known| self.covers(known, shapes.clone()))
    }

    /// Records a run, on any thread. `sound` if it ended without an error: a run that failed at once
    /// proves nothing about the time of its shapes.
    pub fn ran<'a>(
        &mut self,
        shapes: impl Iterator<Item = &'a [u32]> + Clone,
        took: Nanos,
        sound: bool,
    ) {
        if self.like == Like::Never {
            return;
        }
        if u128::from(took) > INLINE_BUDGET.as_nanos() {
            self.long();
        } else if sound {
            self.short(shapes);
        }
    }

    fn long(&mut self) {
        self.needed = if self.bounded {
            FIRST_RUNS
        } else if self.streak < self.needed {
            self.needed.max(COME_BACK_RUNS)
        } else if self.since < self.needed.saturating_mul(SOON) && self.needed >= COME_BACK_RUNS {
            (self.needed * 2).min(MOST_COME_BACK_RUNS)
        } else {
            (self.needed / 2).max(COME_BACK_RUNS)
        };
        self.streak = 0;
        self.since = 0;
        self.short.clear();
    }

    fn short<'a>(&mut self, shapes: impl Iterator<Item = &'a [u32]> + Clone) {
        if self.streak < self.needed {
            self.streak += 1;
        } else {
            self.since = self.since.saturating_add(1);
        }
        let known = (self.short.iter()).position(|known| self.covers(known, shapes.clone()));
        match known {
            Some(at) if self.like == Like::Same => {
                let known = self.short.remove(at);
                self.short.push(known);
            }
            Some(_) => {}
            None => {
                let new: Shapes = shapes.map(<[u32]>::to_vec).collect();
                let like = self.like;
                // This is only for shapes that are compared by size: a larger shape covers a smaller one.
                self.short.retain(|known| {
                    like == Like::Same || !within(&new, known.iter().map(Vec::as_slice))
                });
                let most = match self.like {
                    Like::Same => MAX_SAME_SHAPES,
                    Like::Within | Like::Never => MAX_SHAPES,
                };
                if self.short.len() >= most {
                    self.short.remove(0);
                }
                self.short.push(new);
            }
        }
    }

    fn covers<'a>(&self, known: &Shapes, shapes: impl Iterator<Item = &'a [u32]> + Clone) -> bool {
        match self.like {
            Like::Never => false,
            Like::Within => within(known, shapes),
            Like::Same => known.iter().map(Vec::as_slice).eq(shapes),
        }
    }
}

/// Returns whether no dimension is longer than the same one of `known`.
fn within<'a>(known: &Shapes, mut shapes: impl Iterator<Item = &'a [u32]>) -> bool {
    let each = known.iter().all(|known| {
        shapes.next().is_some_and(|shape| {
            shape.len() == known.len() && shape.iter().zip(known).all(|(dim, most)| dim <= most)
        })
    });
    each && shapes.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Nanos = 20_000;
    const LONG: Nanos = 5_000_000;

    fn run(quick: &mut Quick, shape: &[u32], took: Nanos) {
        quick.ran([shape].into_iter(), took, true);
    }

    fn allows(quick: &Quick, shape: &[u32]) -> bool {
        quick.allows([shape].into_iter())
    }

    fn measured(cost: &Cost, shape: &[u32]) -> Quick {
        let mut quick = Quick::new(cost, false);
        for _ in 0..FIRST_RUNS {
            assert!(!allows(&quick, shape), "it is not known yet");
            run(&mut quick, shape, SHORT);
        }
        quick
    }

    #[test]
    fn by_cost_and_measured_shape_a_run_is_allowed_or_not() {
        let values = Cost::Values("Loop".into());
        // cost, measured, asked, allowed
        for (cost, shape, asked, allowed) in [
            (&Cost::Shapes, &[8, 16][..], &[8, 16][..], true),
            (&Cost::Shapes, &[8, 16], &[1, 16], true),
            (&Cost::Shapes, &[8, 16], &[9, 16], false),
            // Fewer elements, and yet one dimension is longer.
            (&Cost::Shapes, &[8, 16], &[17, 1], false),
            (&Cost::Shapes, &[8, 16], &[8], false),
            (&Cost::Shapes, &[8, 16], &[8, 16, 1], false),
            (&Cost::EachShape, &[8, 16], &[8, 16], true),
            (&Cost::EachShape, &[8, 16], &[1, 16], false),
        ] {
            let quick = measured(cost, shape);
            assert_eq!(
                allows(&quick, asked),
                allowed,
                "{cost:?} {shape:?} {asked:?}"
            );
        }
        let mut never = Quick::new(&values, false);
        for _ in 0..10_000 {
            run(&mut never, &[1], 1);
            assert!(!allows(&never, &[1]));
        }
        let quick = measured(&Cost::Shapes, &[8]);
        assert!(!quick.allows([&[8][..], &[1]].into_iter()), "another input");
        assert!(!quick.allows([].into_iter()), "no input");
    }

    #[test]
    fn one_long_run_takes_the_model_off_until_so_many_short_ones_in_a_row() {
        let mut quick = measured(&Cost::Shapes, &[8]);
        run(&mut quick, &[8], LONG);
        for _ in 0..COME_BACK_RUNS {
            assert!(!allows(&quick, &[8]));
            run(&mut quick, &[8], SHORT);
        }
        assert!(allows(&quick, &[8]));
        run(&mut quick, &[8], LONG);
        for _ in 0..COME_BACK_RUNS - 1 {
            run(&mut quick, &[8], SHORT);
        }
        run(&mut quick, &[8], LONG);
        assert_eq!(
            quick.streak, 0,
            "a long one in between begins the count anew"
        );
    }

    #[test]
    fn a_model_that_is_long_soon_after_its_return_comes_back_later_each_time() {
        let mut quick = measured(&Cost::Shapes, &[8]);
        let (mut runs, mut on_server_threads) = (0u32, 0u32);
        let mut longs = 0;
        while longs < 30 {
            // As often as it is let back: the worst a caller can do.
            let here = allows(&quick, &[8]);
            runs += 1;
            if here {
                on_server_threads += 1;
                longs += 1;
            }
            run(&mut quick, &[8], if here { LONG } else { SHORT });
        }
        assert_eq!(quick.needed, MOST_COME_BACK_RUNS);
        assert!(
            runs / on_server_threads > 1000,
            "{runs} {on_server_threads}"
        );
    }

    #[test]
    fn a_long_run_that_comes_late_is_taken_for_an_interruption() {
        let mut quick = measured(&Cost::Shapes, &[8]);
        let mut elsewhere = 0;
        for number in 0..100_000 {
            elsewhere += u32::from(!allows(&quick, &[8]));
            run(
                &mut quick,
                &[8],
                if number % 1000 == 999 { LONG } else { SHORT },
            );
        }
        assert!(elsewhere < 2_000, "{elsewhere} of 100000");
    }

    #[test]
    fn where_the_wait_is_bounded_a_model_comes_back_soon_and_holds_one_run_in_five_at_worst() {
        for cost in [Cost::Shapes, Cost::Values("Loop".into())] {
            let mut quick = Quick::new(&cost, true);
            let mut held = 0;
            for _ in 0..10_000 {
                let here = allows(&quick, &[8]);
                held += u32::from(here);
                run(&mut quick, &[8], if here { LONG } else { SHORT });
            }
            assert_eq!(held, 10_000 / (FIRST_RUNS + 1), "{cost:?}");
            // One run in a hundred is late, as on a busy machine.
            let mut elsewhere = 0;
            for number in 0..10_000 {
                elsewhere += u32::from(!allows(&quick, &[8]));
                let late = number % 100 == 99;
                run(&mut quick, &[8], if late { LONG } else { SHORT });
            }
            assert!(elsewhere <= 100 * FIRST_RUNS + 4, "{elsewhere}");
        }
    }

    #[test]
    fn a_run_that_fails_at_once_says_nothing_of_its_shape() {
        let mut quick = measured(&Cost::Shapes, &[8]);
        quick.ran([&[1000][..]].into_iter(), 1, false);
        assert!(!allows(&quick, &[1000]));
        quick.ran([&[8][..]].into_iter(), LONG, false);
        assert!(!allows(&quick, &[8]), "a long failure counts");
    }

    #[test]
    fn the_memory_of_shapes_is_bounded() {
        for cost in [Cost::Shapes, Cost::EachShape] {
            let mut quick = Quick::new(&cost, false);
            for number in 1..1000 {
                run(&mut quick, &[number, 1000 - number], SHORT);
                assert!(quick.short.len() <= MAX_SAME_SHAPES);
                assert!(quick.streak < FIRST_RUNS || allows(&quick, &[number, 1000 - number]));
            }
        }
        let mut growing = Quick::new(&Cost::Shapes, false);
        for number in 1..10 {
            run(&mut growing, &[number], SHORT);
        }
        assert_eq!(
            growing.short,
            [vec![vec![9]]],
            "the largest stands for the others"
        );
    }
}
