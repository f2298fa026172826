//! Decides what an instance remembers between calls: bounded, and never needed for correctness.

use super::gcra::State;
use std::collections::BTreeMap;

/// Subjects an instance remembers at most, over all its limits: about a hundred bytes each, so half a
/// megabyte.
pub const REMEMBERED: usize = 4_096;
/// Subjects it remembers at most of each limit, where limits are many.
pub const REMEMBERED_EACH: usize = 128;

/// A map that forgets what was not asked for in a while: what was asked for since, it remembers at
/// least until half of its capacity of others were.
#[derive(Debug)]
pub struct Memory<V> {
    capacity: usize,
    recent: BTreeMap<u128, V>,
    older: BTreeMap<u128, V>,
}

impl<V: Default> Memory<V> {
    /// A memory that is one of `count` of an instance.
    pub fn one_of(count: usize) -> Self {
        Self {
            capacity: (REMEMBERED / count.max(1)).max(REMEMBERED_EACH),
            recent: BTreeMap::new(),
            older: BTreeMap::new(),
        }
    }

    /// What is remembered of a subject, nothing at first.
    pub fn of(&mut self, subject: u128) -> &mut V {
        if !self.recent.contains_key(&subject) {
            if self.recent.len() >= self.capacity / 2 {
                self.older = std::mem::take(&mut self.recent);
            }
            let value = self.older.remove(&subject).unwrap_or_default();
            self.recent.insert(subject, value);
        }
        self.recent.get_mut(&subject).expect("inserted above")
    }

    /// What is remembered of a subject, if anything is.
    pub fn known(&mut self, subject: u128) -> Option<&mut V> {
        match self.recent.get_mut(&subject) {
            Some(known) => Some(known),
            None => self.older.get_mut(&subject),
        }
    }

    /// How many subjects are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

/// The counters of a subject, as an instance last saw them. Its own charges and refunds since then are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The counters of the window before and of this one.
    Window {
        /// The older one, 0 where windows do not slide.
        before: i64,
        /// This window's.
        count: i64,
    },
    /// A bucket's value.
    Bucket(State),
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
    /// The counters, once the store was asked.
    pub seen: Option<Seen>,
    /// When the store was last asked.
    pub seen_ms: u64,
    /// Nothing of [`Local::denied_cost`] or more is asked for before this time.
    pub denied_until_ms: u64,
    /// What was denied.
    pub denied_cost: u64,
}

impl Local {
    /// Forgets what was about another window.
    pub fn turn(&mut self, span: u64) {
        if self.span != span {
            *self = Self {
                span,
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
        let mut memory = Memory::<u64>::one_of(1);
        for subject in 0..100_000 {
            *memory.of(subject + 1) = 1;
            *memory.of(0) += 1;
            assert!(memory.len() <= REMEMBERED);
        }
        assert_eq!(*memory.of(0), 100_000);
        assert_eq!(*memory.of(1), 0);
    }
}
