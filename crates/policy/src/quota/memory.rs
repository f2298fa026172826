//! Decides what an instance remembers between calls: bounded, and never needed for correctness.

use std::collections::BTreeMap;

/// Subjects an instance remembers at least, and half of those at most. A subject is about a hundred
/// bytes, and an instance has one memory for all its limits.
pub const REMEMBERED: usize = 2_048;

/// A map that forgets what was not asked for in a while.
#[derive(Debug)]
pub struct Memory<V> {
    recent: BTreeMap<u128, V>,
    older: BTreeMap<u128, V>,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self {
            recent: BTreeMap::new(),
            older: BTreeMap::new(),
        }
    }
}

impl<V: Default> Memory<V> {
    /// What is remembered of a subject, nothing at first.
    pub fn of(&mut self, subject: u128) -> &mut V {
        if !self.recent.contains_key(&subject) {
            if self.recent.len() >= REMEMBERED / 2 {
                self.older = std::mem::take(&mut self.recent);
            }
            let value = self.older.remove(&subject).unwrap_or_default();
            self.recent.insert(subject, value);
        }
        self.recent.get_mut(&subject).expect("inserted above")
    }

    /// How many subjects are remembered.
    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

/// What an instance remembers of one subject of one limit.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// The window, period, generation or lease bucket the rest is about.
    pub span: u64,
    /// Whether this instance has seen to the deletion of its counter.
    pub registered: bool,
    /// The counter of the window before, once it cannot change any more.
    pub before: Option<i64>,
    /// Units taken ahead and not used yet.
    pub tokens: u64,
    /// Units that were left when the store was last asked.
    pub left: u64,
    /// Nothing of [`Local::denied_cost`] or more is asked for before this time.
    pub denied_until_ms: u64,
    /// What was denied.
    pub denied_cost: u64,
    /// When what was denied has a chance.
    pub retry_at_ms: u64,
}

impl Local {
    /// Forgets what was about another window.
    pub fn turn(&mut self, span: u64) {
        if self.span != span {
            *self = Self {
                span,
                denied_until_ms: self.denied_until_ms,
                denied_cost: self.denied_cost,
                retry_at_ms: self.retry_at_ms,
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_keeps_what_is_asked_for() {
        let mut memory = Memory::<u64>::default();
        for subject in 0..100_000 {
            *memory.of(subject + 1) = 1;
            *memory.of(0) += 1;
            assert!(memory.len() <= REMEMBERED);
        }
        assert_eq!(*memory.of(0), 100_000);
        assert_eq!(*memory.of(1), 0);
    }
}
