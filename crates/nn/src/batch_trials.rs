//! Tries at load, after the graph's operators allow it, whether an answer is the same for all other rows that its run may
//! have.
//!
//! The operators of a graph ([`crate::backend::Rows`]) define the computation, and not a runtime's way to do it: a
//! runtime may choose another kernel for another size, or quantise without being asked. So a few rows run alone and then
//! together with rows that would reveal it: far larger, far smaller, at the ends of the contract's bounds, NaN and
//! infinity. They run first, last and in between, in runs of several sizes, and with other lengths if an axis is filled.

use std::time::{Duration, Instant};

use penstock_tensor::contract::Contract;

use crate::backend::Rows;
use crate::contract_check::{self, Elements, LARGE_ELEMENT};
use crate::error::{ErrorCode, NnError};
use crate::model::{Model, Named, SharedRuns};
use crate::outcome::differences;
use crate::tensor::NnTensor;

/// Time that trials may add to a load. The first trial is always made; others only if they are expected to end within
/// it.
const MOST_TIME: Duration = Duration::from_secs(1);

/// The most bytes of one row's inputs at other than the least lengths: usual lengths of images are megabytes.
const MAX_ROW_BYTES: usize = 4 << 20;

/// The length of a usual row, beyond the least.
const USUAL_LONGER: u64 = 24;

/// The length of the longer of two rows, beyond the least, if an axis is filled.
const FILLED_LONGER: u64 = 7;

/// The largest run that is tried: as many items as runs have by default.
const MOST_ROWS: usize = 32;

/// The lengths of the symbolic axes of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lengths {
    Least,
    /// The padded axis is longer than the least.
    Filled,
    Usual,
}

/// A kind of row: its elements, the seed they are made with, and its lengths.
type Kind = (Elements, u64, Lengths);

/// A trial run: the watched rows, and a description of the other rows.
struct Trial {
    rows: Vec<Kind>,
    /// The rows that are compared with their answers alone.
    watched: Vec<usize>,
    beside: &'static str,
}

/// Tries whether calls may share runs before any do, and notes the result with the model.
pub fn try_rows(model: &Model, contract: &Contract) {
    if model.rows() != Rows::Independent {
        return;
    }
    let mut tries = Tries {
        model,
        contract,
        began: Instant::now(),
        a_row_takes: Duration::ZERO,
        alone: Vec::new(),
    };
    let made = tries.all();
    if made == 0 {
        // The model may not accept made-up elements. The least call has run before, and shows at least that shapes add
        // up.
        let least = || contract_check::example(contract);
        let tried = least().and_then(|first| Ok((first, least()?)));
        let _ = tried.and_then(|(first, second)| model.try_batching(first, second));
    }
}

struct Tries<'a> {
    model: &'a Model,
    contract: &'a Contract,
    began: Instant,
    a_row_takes: Duration,
    /// Rows that were run alone, with their answers.
    alone: Vec<(Kind, Option<Vec<NnTensor>>)>,
}

impl Tries<'_> {
    /// Makes all trials, until the time is over or a difference is found. Returns the number of trials.
    fn all(&mut self) -> usize {
        let mut made = 0;
        for (index, trial) in trials(self.contract).into_iter().enumerate() {
            let expected = self.a_row_takes * trial.rows.len() as u32;
            if index > 0 && self.began.elapsed() + expected > MOST_TIME {
                break;
            }
            made += usize::from(self.run(&trial));
            if self.model.rows() != Rows::Independent {
                break;
            }
        }
        if made > 0 && self.model.shared_runs() == SharedRuns::Yes(None) {
            self.model.settle_rows(Ok(0.0), "");
        }
        made
    }

    fn row(&self, (elements, seed, lengths): Kind) -> Option<Named> {
        let filled = self.contract.batching.padding.as_ref();
        let length = |symbol: &str| {
            let bounds = self.contract.axes.get(symbol);
            let least = bounds.map_or(1, |bounds| bounds.min);
            let most = bounds.and_then(|bounds| bounds.max).unwrap_or(u64::MAX);
            let is_filled = filled.is_some_and(|filled| filled.axis == symbol);
            let longer = match lengths {
                Lengths::Least => 0,
                Lengths::Filled if is_filled => FILLED_LONGER,
                Lengths::Filled => 0,
                Lengths::Usual => USUAL_LONGER,
            };
            least.saturating_add(longer).min(most)
        };
        let row = contract_check::row(self.contract, elements, seed, &length);
        let row = row.ok().flatten()?;
        let bytes: usize = row.iter().map(|(_, tensor)| tensor.data.len()).sum();
        (lengths == Lengths::Least || bytes <= MAX_ROW_BYTES).then_some(row)
    }

    /// The answer to a row that runs alone; `None` if it fails, which proves nothing about shared runs.
    fn alone(&mut self, kind: Kind) -> Option<Vec<NnTensor>> {
        if let Some((_, answer)) = self.alone.iter().find(|(known, _)| *known == kind) {
            return answer.clone();
        }
        let row = self.row(kind)?;
        let began = Instant::now();
        let answer = self.model.try_alone(row).ok();
        self.a_row_takes = self.a_row_takes.max(began.elapsed());
        self.alone.push((kind, answer.clone()));
        answer
    }

    /// Makes a trial run. Returns whether it had a result.
    fn run(&mut self, trial: &Trial) -> bool {
        let mut rows = Vec::new();
        for (at, kind) in trial.rows.iter().enumerate() {
            let answer = match trial.watched.contains(&at) {
                true => match self.alone(*kind) {
                    Some(answer) => Some(answer),
                    None => continue,
                },
                false => None,
            };
            if let Some(row) = self.row(*kind) {
                rows.push((*kind, row, answer));
            }
        }
        match self.together(&rows) {
            None => false,
            Some(Ok(largest)) => {
                self.model.settle_rows(Ok(largest), trial.beside);
                true
            }
            // The memory limit of a run may be too small for so many rows. That proves nothing about shared runs.
            Some(Err(error)) if error.code == ErrorCode::TooLarge => false,
            Some(Err(error)) => {
                // A row that fails alone, too, would soon leave a shared run.
                let before = rows.len();
                rows.retain(|(kind, _, _)| self.alone(*kind).is_some());
                if rows.len() == before {
                    self.model.cannot_share_runs(&error);
                    return true;
                }
                match self.together(&rows) {
                    None => return false,
                    Some(Ok(largest)) => self.model.settle_rows(Ok(largest), trial.beside),
                    Some(Err(error)) => self.model.cannot_share_runs(&error),
                }
                true
            }
        }
    }

    /// The largest move of the watched answers; `None` if there is nothing to compare.
    fn together(
        &self,
        rows: &[(Kind, Named, Option<Vec<NnTensor>>)],
    ) -> Option<Result<f64, NnError>> {
        if rows.len() < 2 || rows.iter().all(|(_, _, answer)| answer.is_none()) {
            return None;
        }
        let calls = rows.iter().map(|(_, row, _)| row.clone()).collect();
        let together = match self.model.try_together(calls) {
            Ok(together) => together?,
            Err(error) => return Some(Err(error)),
        };
        let pairs = rows.iter().zip(&together);
        let apart =
            pairs.filter_map(|((_, _, alone), own)| Some(differences(alone.as_ref()?, own)));
        Some(Ok(apart.fold(0.0, f64::max)))
    }
}

/// The trials of a contract, the most conclusive first.
fn trials(contract: &Contract) -> Vec<Trial> {
    use Elements::{All, Greatest, Least, Small, Spread, Usual};
    use Lengths::{Filled, Least as Short, Usual as Long};
    let most = contract
        .batching
        .max_items
        .map_or(MOST_ROWS, |most| most as usize);
    let most = most.min(usize::try_from(contract.limits.max_items).unwrap_or(MOST_ROWS));
    let most = most.min(MOST_ROWS);
    let usual = |seed| (Usual, seed, Short);
    let large = |lengths| (All(LARGE_ELEMENT), 0, lengths);
    let mut trials = vec![
        Trial {
            rows: vec![usual(1), large(Short), usual(2)],
            watched: vec![0, 2],
            beside: "of ten thousands",
        },
        Trial {
            rows: vec![usual(1), (Greatest, 0, Short)],
            watched: vec![0],
            beside: "of the greatest values the contract allows",
        },
        Trial {
            rows: vec![
                (Least, 0, Short),
                (Small, 3, Short),
                usual(2),
                (Spread, 4, Short),
                (Greatest, 0, Short),
                usual(5),
                (Spread, 6, Short),
            ],
            watched: vec![1, 2, 3, 5, 6],
            beside: "at an end of the contract's bounds",
        },
    ];
    // By itself, because a row that cannot be run would hide the others.
    for (value, beside) in [
        (f64::NAN, "of NaN"),
        (f64::INFINITY, "of infinity"),
        (f64::NEG_INFINITY, "of negative infinity"),
    ] {
        trials.push(Trial {
            rows: vec![usual(1), (All(value), 0, Short), usual(2)],
            watched: vec![0, 2],
            beside,
        });
    }
    if contract.batching.padding.is_some() {
        trials.push(Trial {
            rows: vec![
                usual(1),
                (Usual, 7, Filled),
                usual(2),
                (Greatest, 0, Filled),
            ],
            watched: vec![0, 1, 2],
            beside: "of another length",
        });
    }
    trials.push(Trial {
        rows: vec![
            (Usual, 8, Long),
            large(Long),
            (Greatest, 0, Long),
            (Usual, 9, Long),
        ],
        watched: vec![0, 3],
        beside: "of usual length",
    });
    for size in [most.min(16), most] {
        let rows: Vec<Kind> = (0..size as u64).map(|at| usual(at + 1)).collect();
        trials.push(Trial {
            watched: [0, 1, 4, size.saturating_sub(1)]
                .into_iter()
                .filter(|at| *at < size)
                .collect(),
            rows,
            beside: "among many",
        });
    }
    let limit = most.max(1);
    trials.retain(|trial| trial.rows.len() >= 2);
    for trial in &mut trials {
        trial.rows.truncate(limit);
        let count = trial.rows.len();
        trial.watched.retain(|at| *at < count);
    }
    trials
}
