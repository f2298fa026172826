//! A call that waits for its run, and the instance that runs it.

use crate::backend::{Instance, Interrupt};
use crate::error::NnError;
use crate::schedule::{Nanos, RunId, Waiting};
use crate::tensor::NnTensor;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A place for an instance; empty if the instance must be made again before its next use.
pub(crate) struct Slot {
    pub(crate) instance: Option<Box<dyn Instance>>,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    /// The time that the run took before `Inner::execute` began.
    pub(crate) ahead: Nanos,
    /// The inputs of a run of several calls, if they were put together before `Inner::execute` began.
    pub(crate) batch: Option<Batch>,
}

/// Inputs of several calls, put together for one run.
pub(crate) struct Batch {
    pub(crate) inputs: Vec<NnTensor>,
    /// The time that putting them together took.
    pub(crate) took: Nanos,
}

impl Slot {
    pub(crate) fn of(instance: Box<dyn Instance>) -> Self {
        Self {
            interrupt: instance.interrupt(),
            instance: Some(instance),
            ahead: 0,
            batch: None,
        }
    }

    pub(crate) fn empty() -> Self {
        Self {
            instance: None,
            interrupt: None,
            ahead: 0,
            batch: None,
        }
    }
}

/// The inputs of a call in the queue, and the channel for its answer.
pub(crate) struct Job {
    pub(crate) inputs: Vec<NnTensor>,
    pub(crate) reply: oneshot::Sender<CallResult>,
    pub(crate) begun: Option<Arc<AtomicBool>>,
}

pub(crate) type CallResult = Result<Vec<NnTensor>, NnError>;

/// A run and the instance it is to happen on.
pub(crate) struct Start {
    pub(crate) run: RunId,
    pub(crate) calls: Vec<Waiting<Job>>,
    pub(crate) slot: Slot,
    /// Whether it may happen on a server thread.
    pub(crate) quick: bool,
    /// The shapes of its inputs, if it is of several calls.
    pub(crate) batch: Option<Vec<Vec<u32>>>,
}

impl Start {
    pub(crate) fn shapes(&self) -> Shapes<'_> {
        match &self.batch {
            Some(shapes) => Shapes::Batch(shapes.iter()),
            None => Shapes::One(self.calls[0].payload.inputs.iter()),
        }
    }
}

/// The shapes of a run's inputs.
#[derive(Clone)]
pub(crate) enum Shapes<'a> {
    One(std::slice::Iter<'a, NnTensor>),
    Batch(std::slice::Iter<'a, Vec<u32>>),
}

impl<'a> Iterator for Shapes<'a> {
    type Item = &'a [u32];

    fn next(&mut self) -> Option<&'a [u32]> {
        match self {
            Self::One(tensors) => tensors.next().map(|tensor| &tensor.dims[..]),
            Self::Batch(shapes) => shapes.next().map(|shape| &shape[..]),
        }
    }
}

/// A shadow run under way.
pub(crate) struct ShadowRun {
    pub(crate) run: RunId,
    pub(crate) began: Instant,
    /// Whether it was told to end.
    pub(crate) told: bool,
}

pub(crate) fn total_bytes(inputs: &[NnTensor]) -> u64 {
    inputs.iter().map(|tensor| tensor.data.len() as u64).sum()
}

pub(crate) fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}
