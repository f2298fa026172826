//! The comparisons with another backend that wait for their turn, and the results of those that were made. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use super::cell::Loaded;
use super::plan::Stamp;
use crate::agreement::Agreement;
use crate::backend::{Backend, GraphSource, LoadOptions};
use crate::model::Named;

/// Most comparisons that wait: one for each model that a server lists.
const MAX_WAITING: usize = 1024;

/// Most bytes of tensors of the comparisons that wait.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Most results that are kept. A result saves the comparison when a version is loaded again, such as after an eviction.
const MAX_RESULTS: usize = 4096;

/// A made-up call, and the answer of the backend that serves.
pub(super) struct Answered {
    pub how: &'static str,
    pub inputs: Named,
    pub outputs: Named,
}

/// The comparison of a version with other backends.
pub(super) struct Comparison {
    pub name: String,
    pub version: u64,
    /// The contract and the graph that are compared.
    pub stamps: (Stamp, Stamp),
    /// The other backends that read the graph's format, the most preferred first.
    pub backends: Vec<Arc<dyn Backend>>,
    pub source: GraphSource,
    pub options: LoadOptions,
    /// Bytes that the graph is expected to hold once another backend has loaded it.
    pub estimate: u64,
    /// Bytes that the process of the other backend may map.
    pub process_bytes: u64,
    pub answered: Vec<Answered>,
    /// The result, if it is known without a run.
    pub settled: Option<Agreement>,
}

impl Comparison {
    fn bytes(&self) -> usize {
        self.answered.iter().map(Answered::bytes).sum()
    }
}

impl Answered {
    pub fn bytes(&self) -> usize {
        let tensors = self.inputs.iter().chain(&self.outputs);
        tensors.map(|(_, tensor)| tensor.data.len()).sum()
    }
}

/// The outcome of [`Comparisons::push`].
pub(super) enum Pushed {
    /// It waits, and no thread takes it: start one.
    First,
    /// It waits for its turn.
    Waits,
    /// Too many wait.
    Refused,
}

/// The waiting comparisons and the known results.
#[derive(Default)]
pub(super) struct Comparisons {
    waiting: VecDeque<(Comparison, Weak<Loaded>)>,
    /// Whether a thread takes them, one at a time.
    is_running: bool,
    results: BTreeMap<(String, u64), ((Stamp, Stamp), Agreement)>,
}

impl Comparisons {
    pub fn push(&mut self, comparison: Comparison, loaded: Weak<Loaded>) -> Pushed {
        let waiting: usize = self.waiting.iter().map(|(one, _)| one.bytes()).sum();
        let bytes = waiting.saturating_add(comparison.bytes());
        if self.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return Pushed::Refused;
        }
        self.waiting.push_back((comparison, loaded));
        match std::mem::replace(&mut self.is_running, true) {
            true => Pushed::Waits,
            false => Pushed::First,
        }
    }

    /// The next one. After `None`, the thread that asked ends.
    pub fn take_next(&mut self) -> Option<(Comparison, Weak<Loaded>)> {
        let next = self.waiting.pop_front();
        self.is_running = next.is_some();
        next
    }

    /// The result of an earlier comparison of the same contract and graph.
    pub fn known(&self, name: &str, version: u64, stamps: (Stamp, Stamp)) -> Option<Agreement> {
        let (compared, agreement) = self.results.get(&(name.to_owned(), version))?;
        (*compared == stamps).then(|| agreement.clone())
    }

    /// Keeps a result.
    pub fn keep(&mut self, comparison: &Comparison, agreement: Agreement) {
        if self.results.len() >= MAX_RESULTS {
            self.results.clear();
        }
        let key = (comparison.name.clone(), comparison.version);
        self.results.insert(key, (comparison.stamps, agreement));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{NnTensor, TensorType};

    fn comparison(name: &str, bytes: usize) -> Comparison {
        let tensor = NnTensor::new(TensorType::U8, vec![bytes as u32], vec![0u8; bytes]).unwrap();
        Comparison {
            name: name.into(),
            version: 1,
            stamps: (Stamp(1), Stamp(2)),
            backends: Vec::new(),
            source: GraphSource::Bytes(Default::default()),
            options: LoadOptions::default(),
            estimate: 0,
            process_bytes: 0,
            answered: vec![Answered {
                how: "for a test",
                inputs: vec![("x".into(), tensor)],
                outputs: Vec::new(),
            }],
            settled: None,
        }
    }

    #[test]
    fn comparisons_are_taken_in_turn_by_one_thread_and_are_bounded() {
        let mut comparisons = Comparisons::default();
        let push = |comparisons: &mut Comparisons, name: &str, bytes| {
            comparisons.push(comparison(name, bytes), Weak::new())
        };
        assert!(matches!(push(&mut comparisons, "a", 8), Pushed::First));
        assert!(matches!(push(&mut comparisons, "b", 8), Pushed::Waits));
        let too_large = push(&mut comparisons, "c", MAX_WAITING_BYTES - 15);
        assert!(matches!(too_large, Pushed::Refused));
        for name in ["a", "b"] {
            let (next, _) = comparisons.take_next().expect("it waits");
            assert_eq!(next.name, name);
        }
        assert!(comparisons.take_next().is_none());
        // The thread has ended.
        assert!(matches!(push(&mut comparisons, "d", 8), Pushed::First));
        for _ in 1..MAX_WAITING {
            assert!(matches!(push(&mut comparisons, "e", 1), Pushed::Waits));
        }
        assert!(matches!(push(&mut comparisons, "f", 1), Pushed::Refused));
    }

    #[test]
    fn a_result_counts_for_the_same_contract_and_graph_alone() {
        let mut comparisons = Comparisons::default();
        let found = Agreement::Unknown("for a test".into());
        comparisons.keep(&comparison("a", 1), found.clone());
        let known = |name, version, graph| comparisons.known(name, version, (Stamp(1), graph));
        assert_eq!(known("a", 1, Stamp(2)), Some(found));
        assert_eq!(known("a", 1, Stamp(3)), None);
        assert_eq!(known("a", 2, Stamp(2)), None);
        assert_eq!(known("b", 1, Stamp(2)), None);
    }
}
