//! The result of a run, and whether two answers agree.

use super::job::{CallResult, Job};
use crate::error::{EngineRefusal, NnError};
use crate::schedule::Waiting;
use crate::stats::BatchStats;
use crate::tensor::{NnTensor, TensorType, elements};

/// The result of a run.
pub(crate) struct Outcome {
    /// One answer for each call.
    pub(crate) answers: Vec<CallResult>,
    /// Runs of the graph that succeeded: items, and time spent.
    pub(crate) rows: Vec<(u32, BatchStats)>,
    pub(crate) spent: BatchStats,
    pub(crate) failed_executions: u64,
    /// Whether it was one run that succeeded, so that its time counts.
    pub(crate) sound: bool,
    pub(crate) items: u32,
    pub(crate) bytes: u64,
    /// The reason that calls of this model must not share runs, if the run showed one.
    pub(crate) unshareable: Option<String>,
}

impl Outcome {
    pub(crate) fn of(calls: &[Waiting<Job>]) -> Self {
        let gone = || {
            NnError::refused(
                EngineRefusal::Gone,
                "the caller went away before the model ran",
            )
        };
        Self {
            answers: calls.iter().map(|_| Err(gone())).collect(),
            rows: Vec::new(),
            spent: BatchStats::default(),
            failed_executions: 0,
            sound: true,
            items: calls.iter().map(|call| call.ask.items).sum(),
            bytes: calls.iter().map(|call| call.ask.bytes).sum(),
            unshareable: None,
        }
    }
}

/// The largest difference between two answers, as a part of the largest element of each output.
pub(crate) fn differences(a: &[NnTensor], b: &[NnTensor]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max)
}

/// The largest difference between two tensors' elements, as a part of the largest element; whole numbers are the same
/// or differ without bound.
pub(crate) fn difference(a: &NnTensor, b: &NnTensor) -> f64 {
    if a.dims != b.dims || a.ty != b.ty {
        return f64::INFINITY;
    }
    if a.data == b.data {
        return 0.0;
    }
    if matches!(a.ty, TensorType::U8 | TensorType::I32 | TensorType::I64) {
        return f64::INFINITY;
    }
    let (a, b) = (elements(a), elements(b));
    let largest = a
        .iter()
        .map(|x| x.abs())
        .filter(|x| x.is_finite())
        .fold(0.0, f64::max);
    let apart = |(a, b): (&f64, &f64)| {
        if a == b || (a.is_nan() && b.is_nan()) {
            0.0
        } else {
            (a - b).abs()
        }
    };
    let most = a.iter().zip(&b).map(apart).fold(0.0, |most: f64, x| {
        if x.is_nan() {
            f64::INFINITY
        } else {
            most.max(x)
        }
    });
    if most == 0.0 {
        0.0
    } else {
        most / largest.max(f64::MIN_POSITIVE)
    }
}
