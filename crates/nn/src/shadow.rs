//! Decides whether a shadow run's outputs agree with those that were answered, and how many shadow runs there may be.
//!
//! A shadow run is a run of a version that does not answer: it gets the inputs of a call that another version answered,
//! and its outputs are compared and dropped. No caller waits for it, so it comes after all calls:
//!
//! - It begins only if an instance is free and no call waits for any model of the repository. Until then it waits apart
//!   from the queue.
//! - A call that has to wait drops its version's shadow runs that have not begun, and ends the running ones if the
//!   backend can end a run; otherwise it waits for one run at most. Running shadow runs of other versions continue;
//!   those that have not begun are dropped when their turn comes, if calls still wait.
//! - There are at most [`MAX_OF_MODEL`] for a version and [`MAX_IN_ALL`] on the server, with at most [`MAX_BYTES`] of
//!   tensors; a further one is dropped at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::histogram::Histogram;
use crate::tensor::{NnTensor, TensorType, elements};

/// Most shadow runs of one version at once, those that have not begun included: a burst from one gate, and no more than
/// can run in the time that a caller waits for an answer.
pub const MAX_OF_MODEL: usize = 8;

/// The same on the server.
pub const MAX_IN_ALL: usize = 32;

/// Bytes of tensors that shadow runs may hold together: their inputs, and the outputs they are compared with. They
/// outlive the request they came with, so no instance's limit counts them.
pub const MAX_BYTES: u64 = 64 << 20;

/// The relative difference at which floating-point elements still agree: this part of the element that was answered, …
pub const RELATIVE: f64 = 1e-3;

/// … plus this absolute difference, for elements near zero.
pub const ABSOLUTE: f64 = 1e-5;

/// The results of a version's shadow runs since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShadowStats {
    /// Runs that came to their end.
    pub runs: u64,
    /// Dropped before their end, because calls wait or there are too many.
    pub shed: u64,
    /// Runs that failed, and inputs the version does not take.
    pub failed: u64,
    /// Runs whose outputs agree with those that were answered.
    pub agreed: u64,
    /// Runs whose outputs do not.
    pub differed: u64,
    /// Rows of outputs with two axes. Their largest element counts.
    pub rows: u64,
    /// Those of them whose largest element is at the same place as in the answer.
    pub rows_agreed: u64,
    /// The largest difference of two elements, of all runs. Infinite where shapes, types or names differ.
    pub largest_difference: f64,
    /// The time that runs took in the backend.
    pub compute: Histogram,
    /// Those that run or have not begun.
    pub in_flight: usize,
}

impl ShadowStats {
    pub(crate) fn compared(&mut self, comparison: &Comparison) {
        if comparison.agrees {
            self.agreed += 1;
        } else {
            self.differed += 1;
        }
        self.rows += comparison.rows;
        self.rows_agreed += comparison.rows_agreed;
        self.largest_difference = self.largest_difference.max(comparison.largest_difference);
    }
}

/// The comparison of two answers to the same inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Whether all elements agree: integers are the same, floating-point numbers within [`RELATIVE`] and [`ABSOLUTE`].
    pub agrees: bool,
    /// The largest difference of two elements; infinite if there is nothing to compare them with.
    pub largest_difference: f64,
    /// Rows of floating-point outputs with two axes, the second of more than one element: scores, one a class.
    pub rows: u64,
    /// Those whose largest element is in the same place.
    pub rows_agreed: u64,
}

/// Compares a shadow run's outputs with the answer. Outputs that were not answered are ignored.
pub fn compare(expected: &[(String, NnTensor)], ran: &[(String, NnTensor)]) -> Comparison {
    let mut whole = Comparison {
        agrees: true,
        largest_difference: 0.0,
        rows: 0,
        rows_agreed: 0,
    };
    for (name, expected) in expected {
        let same = |(_, tensor): &&(String, NnTensor)| {
            // `wasi:nn` says U8 for BOOL and INT8 too.
            let named = tensor.ty == expected.ty
                || (expected.ty == TensorType::U8
                    && matches!(tensor.ty, TensorType::Bool | TensorType::I8));
            named && tensor.dims == expected.dims && tensor.data.len() == expected.data.len()
        };
        let found = ran.iter().find(|(other, _)| other == name).filter(same);
        let Some((_, ran)) = found else {
            whole.agrees = false;
            whole.largest_difference = f64::INFINITY;
            continue;
        };
        one(expected, ran, &mut whole);
    }
    whole
}

/// Compares two tensors of one type and shape.
fn one(expected: &NnTensor, ran: &NnTensor, whole: &mut Comparison) {
    let exact = !expected.ty.is_float();
    if exact && expected.data == ran.data {
        return;
    }
    let (expected_elements, ran_elements) = (elements(expected), elements(ran));
    for (expected, ran) in expected_elements.iter().zip(&ran_elements) {
        let apart = match (expected.is_nan(), ran.is_nan()) {
            (true, true) => 0.0,
            (false, false) if expected == ran => 0.0,
            (false, false) => (expected - ran).abs(),
            _ => f64::INFINITY,
        };
        whole.largest_difference = whole.largest_difference.max(apart);
        // An infinite number allows no difference.
        let allowed = match (exact, expected.is_finite()) {
            (false, true) => RELATIVE * expected.abs() + ABSOLUTE,
            _ => 0.0,
        };
        whole.agrees &= apart <= allowed;
    }
    // Integers beyond 2^53 can differ although the floating-point numbers made of them do not.
    whole.agrees &= !exact;
    let row = match expected.dims[..] {
        [_, columns] if !exact && columns > 1 => columns as usize,
        _ => return,
    };
    let rows = expected_elements
        .chunks_exact(row)
        .zip(ran_elements.chunks_exact(row));
    for (expected, ran) in rows {
        whole.rows += 1;
        whole.rows_agreed += u64::from(largest(expected) == largest(ran));
    }
}

/// The index of the largest element, the first of several.
fn largest(row: &[f64]) -> Option<usize> {
    let numbers = row
        .iter()
        .enumerate()
        .filter(|(_, number)| !number.is_nan());
    numbers
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(at, _)| at)
}

/// The memory of all shadow runs of a repository, and the calls that wait meanwhile.
#[derive(Debug, Default)]
pub struct ShadowTotals {
    runs: AtomicUsize,
    bytes: AtomicU64,
    /// Calls that wait in the lines of all models.
    waiting: AtomicUsize,
    /// Runs of all models that do not end.
    pub(crate) lost: Arc<crate::overdue::Count>,
}

/// One model's part of the calls that wait, taken back when it is dropped.
#[derive(Debug)]
pub(crate) struct Waits {
    held: Arc<ShadowTotals>,
    own: usize,
}

impl Waits {
    pub fn of(held: &Arc<ShadowTotals>) -> Self {
        Self {
            held: held.clone(),
            own: 0,
        }
    }

    /// Notes how many wait for this model now.
    pub fn set(&mut self, own: usize) {
        if own > self.own {
            (self.held.waiting).fetch_add(own - self.own, Ordering::Relaxed);
        } else if own < self.own {
            (self.held.waiting).fetch_sub(self.own - own, Ordering::Relaxed);
        }
        self.own = own;
    }

    /// Returns whether a call waits for any model.
    pub fn anybody(&self) -> bool {
        self.held.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A shadow run's share of the limit for all shadow runs. It is given back when it is dropped.
#[derive(Debug)]
pub struct ShadowPermit {
    held: Arc<ShadowTotals>,
    bytes: u64,
}

impl ShadowTotals {
    /// A share for another run, if there is room.
    pub fn share(self: &Arc<Self>, bytes: u64) -> Option<ShadowPermit> {
        let share = ShadowPermit {
            held: self.clone(),
            bytes,
        };
        let runs = self.runs.fetch_add(1, Ordering::SeqCst);
        let before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let fits = runs < MAX_IN_ALL && before.saturating_add(bytes) <= MAX_BYTES;
        // If the share is dropped, it gives its count back.
        fits.then_some(share)
    }
}

impl Drop for ShadowPermit {
    fn drop(&mut self) {
        self.held.runs.fetch_sub(1, Ordering::SeqCst);
        self.held.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(ty: TensorType, dims: &[u32], data: Vec<u8>) -> NnTensor {
        NnTensor {
            ty,
            dims: dims.to_vec(),
            data: data.into(),
        }
    }

    fn floats(dims: &[u32], numbers: &[f32]) -> NnTensor {
        let data = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        tensor(TensorType::Fp32, dims, data)
    }

    fn wide(numbers: &[i64]) -> NnTensor {
        let data = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        tensor(TensorType::I64, &[numbers.len() as u32], data)
    }

    fn of(expected: NnTensor, ran: NnTensor) -> Comparison {
        compare(&[("y".to_owned(), expected)], &[("y".to_owned(), ran)])
    }

    #[test]
    fn floating_point_numbers_agree_within_the_tolerance_and_no_further() {
        for (expected, ran, agrees) in [
            (1.0, 1.0, true),
            (1.0, 1.0009, true),
            (1.0, 1.002, false),
            (-100.0, -100.09, true),
            (-100.0, -100.2, false),
            (0.0, 9e-6, true),
            (0.0, 2e-5, false),
            (f32::NAN, f32::NAN, true),
            (f32::NAN, 1.0, false),
            (1.0, f32::NAN, false),
            (f32::INFINITY, f32::INFINITY, true),
            (f32::INFINITY, f32::NEG_INFINITY, false),
            (f32::INFINITY, 1.0, false),
            (1.0, f32::INFINITY, false),
        ] {
            let compared = of(floats(&[1], &[expected]), floats(&[1], &[ran]));
            assert_eq!(compared.agrees, agrees, "{expected} and {ran}");
            assert_eq!(compared.rows, 0, "one axis has no rows");
        }
        let compared = of(
            floats(&[3], &[1.0, 2.0, 3.0]),
            floats(&[3], &[1.0, 2.5, 2.75]),
        );
        assert_eq!(compared.largest_difference, 0.5);
    }

    #[test]
    fn integers_agree_when_they_are_the_same() {
        assert!(of(wide(&[1, -7]), wide(&[1, -7])).agrees);
        assert!(!of(wide(&[1, -7]), wide(&[1, -6])).agrees);
        // As floating-point numbers these are one.
        let (one, other) = (i64::MAX, i64::MAX - 1);
        assert!(!of(wide(&[one]), wide(&[other])).agrees);
        let bytes = |b: u8| tensor(TensorType::U8, &[1, 2], vec![b, 0]);
        assert!(of(bytes(4), bytes(4)).agrees);
        let compared = of(bytes(4), bytes(5));
        assert!(!compared.agrees && compared.rows == 0);
        assert_eq!(compared.largest_difference, 1.0);
    }

    #[test]
    fn rows_of_scores_agree_when_they_choose_the_same() {
        let expected = floats(&[3, 2], &[0.9, 0.1, 0.4, 0.6, 0.5, 0.5]);
        let ran = floats(&[3, 2], &[0.6, 0.4, 0.7, 0.3, 0.6, 0.4]);
        let compared = of(expected, ran);
        assert!(!compared.agrees);
        assert_eq!((compared.rows, compared.rows_agreed), (3, 2));
        let nothing = floats(&[1, 2], &[f32::NAN, f32::NAN]);
        let compared = of(nothing.clone(), nothing);
        assert_eq!((compared.rows, compared.rows_agreed), (1, 1));
        // One column chooses nothing, and no rows at all are no rows.
        assert_eq!(
            of(floats(&[2, 1], &[1.0, 2.0]), floats(&[2, 1], &[3.0, 2.0])).rows,
            0
        );
        assert_eq!(of(floats(&[0, 2], &[]), floats(&[0, 2], &[])).rows, 0);
    }

    #[test]
    fn outputs_that_cannot_be_compared_differ_by_infinity() {
        let expected = || vec![("y".to_owned(), floats(&[1, 2], &[1.0, 2.0]))];
        for ran in [
            vec![],
            vec![("z".to_owned(), floats(&[1, 2], &[1.0, 2.0]))],
            vec![("y".to_owned(), floats(&[2], &[1.0, 2.0]))],
            vec![("y".to_owned(), floats(&[1, 2], &[1.0]))],
            vec![("y".to_owned(), tensor(TensorType::I32, &[1, 2], vec![0; 8]))],
        ] {
            let compared = compare(&expected(), &ran);
            assert!(!compared.agrees);
            assert_eq!(compared.largest_difference, f64::INFINITY);
        }
        // Elements beyond those that were answered are not compared.
        let mut more = expected();
        more.push(("z".to_owned(), floats(&[1], &[0.0])));
        assert!(compare(&expected(), &more).agrees);
        assert!(compare(&[], &more).agrees);
    }

    #[test]
    fn shadow_runs_are_bounded_in_number_and_in_bytes_and_give_their_share_back() {
        let held = Arc::new(ShadowTotals::default());
        let shares: Vec<_> = (0..MAX_IN_ALL).map(|_| held.share(1).unwrap()).collect();
        assert!(held.share(1).is_none());
        drop(shares);
        assert!(held.share(MAX_BYTES + 1).is_none());
        assert!(held.share(u64::MAX / 2).is_none());
        let whole = held.share(MAX_BYTES).unwrap();
        assert!(held.share(1).is_none());
        drop(whole);
        assert!(held.share(MAX_BYTES).is_some());
    }
}
