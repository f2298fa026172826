//! The memory of an instance between calls. It is bounded, and correctness never depends on it.

use super::gcra::State;
use std::collections::BTreeMap;

/// Most subjects that an instance remembers over all its limits. Each takes about a hundred bytes, so together half a
/// megabyte.
pub const REMEMBERED: usize = 4_096;
/// Most subjects that it remembers of each limit when there are many limits.
pub const REMEMBERED_EACH: usize = 128;

/// A map that forgets entries that were not used for a while. An entry stays at least until as many others as half the
/// capacity were used.
#[derive(Debug)]
pub struct Memory<V> {
    capacity: usize,
    recent: BTreeMap<u128, V>,
    older: BTreeMap<u128, V>,
}

impl<V: Default> Memory<V> {
    /// One of `count` memories of an instance.
    pub fn one_of(count: usize) -> Self {
        Self {
            capacity: (REMEMBERED / count.max(1)).max(REMEMBERED_EACH),
            recent: BTreeMap::new(),
            older: BTreeMap::new(),
        }
    }

    /// The entry of a subject; creates an empty one if there is none.
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

    /// The entry of a subject, if there is one.
    pub fn known(&mut self, subject: u128) -> Option<&mut V> {
        match self.recent.get_mut(&subject) {
            Some(known) => Some(known),
            None => self.older.get_mut(&subject),
        }
    }

    /// The number of remembered subjects.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

/// The counters of a subject, as an instance last saw them. Its own charges and refunds since then are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownCounters {
    /// The counters of the previous window and of this one.
    Window {
        /// The counter of the previous window; 0 for windows that do not slide.
        before: i64,
        /// The counter of this window.
        count: i64,
    },
    /// The stored value of a bucket.
    Bucket(State),
}

/// The counter of the previous window, as an instance read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its value in units when it was read.
    pub count: i64,
    /// The time of the reading, in milliseconds since the Unix epoch.
    pub read_ms: u64,
    /// Whether it was read so late that no charge arrives any more.
    pub settled: bool,
}

/// The memory of an instance about one subject of one limit.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// The window, period, generation or lease bucket to which the other members belong.
    pub span: u64,
    /// Whether this instance registered the counter for deletion.
    pub registered: bool,
    /// The counter of the previous window, once it was read.
    pub before: Option<Before>,
    /// Units taken ahead and not used yet.
    pub tokens: u64,
    /// The counters, once they were read.
    pub seen: Option<KnownCounters>,
    /// The time of the last read.
    pub seen_ms: u64,
    /// Calls of [`Local::denied_cost`] or more are refused from memory before this time.
    pub denied_until_ms: u64,
    /// The cost that was refused.
    pub denied_cost: u64,
}

impl Local {
    /// Forgets the values of another window.
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
