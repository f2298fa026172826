//! The queue of a model: calls that wait, in the order of their priority and arrival.

use std::collections::VecDeque;

/// Nanoseconds since the model was loaded.
pub type Nanos = u64;

/// The number of a call, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// The class of a call: calls of one class may share a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// A call that shares no run.
    Alone,
    /// Calls whose tensors have these lengths, apart from the items and the padded axis.
    Like(Box<[u32]>),
}

/// The facts about a call that the scheduler needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its priority from 0, the first to run.
    pub level: u8,
    /// The class of calls that it may share a run with.
    pub class: Class,
    /// The number of items that it brings.
    pub items: u32,
    /// Its length along the padded axis; 1 without one.
    pub length: u32,
    /// The size of its inputs in bytes.
    pub bytes: u64,
    /// The time at which the answer is no longer of use.
    pub deadline: Option<Nanos>,
}

/// A call in the queue.
#[derive(Debug)]
pub struct Waiting<T> {
    /// The number by which the call is known.
    pub id: CallId,
    /// The facts by which it is scheduled.
    pub ask: Ask,
    /// The time at which it arrived.
    pub arrived: Nanos,
    /// The data that the caller keeps with it.
    pub payload: T,
}

/// Calls that wait, by priority and arrival.
#[derive(Debug)]
pub struct Queue<T> {
    levels: Vec<VecDeque<Waiting<T>>>,
    len: usize,
    pub(super) items: u64,
    pub(super) bytes: u64,
}

impl<T> Queue<T> {
    pub(super) fn new(levels: u8) -> Self {
        Self {
            levels: (0..levels.max(1)).map(|_| VecDeque::new()).collect(),
            len: 0,
            items: 0,
            bytes: 0,
        }
    }

    /// The number of waiting calls.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no call waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its calls, the first to run first.
    pub fn calls(&self) -> impl Iterator<Item = &Waiting<T>> {
        self.levels.iter().flatten()
    }

    pub(super) fn push(&mut self, call: Waiting<T>) {
        self.len += 1;
        self.items += u64::from(call.ask.items);
        self.bytes += call.ask.bytes;
        let level = usize::from(call.ask.level).min(self.levels.len() - 1);
        self.levels[level].push_back(call);
    }

    pub(super) fn took(&mut self, call: &Waiting<T>) {
        self.len -= 1;
        self.items -= u64::from(call.ask.items);
        self.bytes -= call.ask.bytes;
    }

    pub(super) fn remove(&mut self, id: CallId) -> Option<Waiting<T>> {
        for level in &mut self.levels {
            // Ids ascend within a level.
            if let Ok(at) = level.binary_search_by_key(&id, |call| call.id) {
                let call = level.remove(at)?;
                self.took(&call);
                return Some(call);
            }
        }
        None
    }

    pub(super) fn remove_late(&mut self, now: Nanos) -> Vec<Waiting<T>> {
        let late = |call: &Waiting<T>| call.ask.deadline.is_some_and(|deadline| deadline <= now);
        // Nearly always no call is late. The queue is not touched then.
        if !self.calls().any(late) {
            return Vec::new();
        }
        let mut removed = Vec::new();
        for level in &mut self.levels {
            for call in std::mem::take(level) {
                if late(&call) {
                    removed.push(call);
                } else {
                    level.push_back(call);
                }
            }
        }
        for call in &removed {
            self.took(call);
        }
        removed
    }

    /// Takes out the newest call of the lowest priority below `level`.
    pub(super) fn displace(&mut self, level: u8) -> Option<Waiting<T>> {
        let lowest = (usize::from(level) + 1..self.levels.len())
            .rev()
            .find(|level| !self.levels[*level].is_empty())?;
        let call = self.levels[lowest].pop_back()?;
        self.took(&call);
        Some(call)
    }
}
