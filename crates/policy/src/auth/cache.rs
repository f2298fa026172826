//! Caches entries of a store. It decides how long an entry is used without a new read, and how long while the store does
//! not answer. It is bounded: a flood evicts only the oldest entries.

use std::collections::{HashMap, VecDeque};

/// Values by name, each with the time of its last confirmation.
#[derive(Debug)]
pub struct Cache<V> {
    entries: HashMap<String, Entry<V>>,
    /// The names in the order of insertion.
    order: VecDeque<String>,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    confirmed_ms: u64,
}

/// The ages up to which an entry is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Below this age it is used without a read.
    pub fresh_ms: u64,
    /// Below this age it is used if a read fails.
    pub grace_ms: u64,
}

impl<V> Cache<V> {
    /// A cache of at most this many entries.
    pub fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            most: most.max(1),
        }
    }

    fn younger_than(&self, name: &str, limit_ms: u64, now_ms: u64) -> Option<&V> {
        let entry = self.entries.get(name)?;
        // A clock that went back does not make an entry young.
        let age_ms = now_ms.checked_sub(entry.confirmed_ms)?;
        (age_ms < limit_ms).then_some(&entry.value)
    }

    /// The value, if it may be used without a read.
    pub fn fresh(&self, name: &str, ages: Ages, now_ms: u64) -> Option<&V> {
        self.younger_than(name, ages.fresh_ms, now_ms)
    }

    /// The value, if it may be used after a failed read.
    pub fn in_grace(&self, name: &str, ages: Ages, now_ms: u64) -> Option<&V> {
        self.younger_than(name, ages.grace_ms, now_ms)
    }

    /// Stores a value that was just read.
    pub fn put(&mut self, name: &str, value: V, now_ms: u64) -> &V {
        let confirmed_ms = now_ms;
        let entry = Entry {
            value,
            confirmed_ms,
        };
        if self.entries.insert(name.to_owned(), entry).is_none() {
            self.order.push_back(name.to_owned());
            if self.order.len() > self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
        &self.entries[name].value
    }

    /// Removes an entry, so that the next check reads the store. Does nothing if there is no such entry.
    pub fn forget(&mut self, name: &str) {
        if self.entries.remove(name).is_some() {
            self.order.retain(|kept| kept != name);
        }
    }

    /// The number of entries, fresh or not.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages {
        fresh_ms: 1_000,
        grace_ms: 30_000,
    };

    #[test]
    fn an_entry_is_fresh_then_in_grace_and_then_gone() {
        let mut cache = Cache::new(4);
        cache.put("a", 1, 10_000);
        for (now_ms, fresh, grace) in [
            (10_000, true, true),
            (10_999, true, true),
            (11_000, false, true),
            (39_999, false, true),
            (40_000, false, false),
            (9_999, false, false),
        ] {
            assert_eq!(cache.fresh("a", AGES, now_ms).is_some(), fresh, "{now_ms}");
            assert_eq!(
                cache.in_grace("a", AGES, now_ms).is_some(),
                grace,
                "{now_ms}"
            );
        }
        cache.put("a", 2, 11_000);
        assert_eq!(cache.fresh("a", AGES, 11_500), Some(&2));
        cache.forget("a");
        assert!(cache.is_empty());
    }

    #[test]
    fn it_never_holds_more_than_it_may_and_loses_the_oldest() {
        let mut cache = Cache::new(3);
        for at in 0..10_000 {
            cache.put(&at.to_string(), at, 0);
            cache.put("9", 9, 0);
            assert!(cache.len() <= 3 && cache.order.len() == cache.len());
        }
        assert!(cache.fresh("9999", AGES, 0).is_some());
        assert!(cache.fresh("1", AGES, 0).is_none());
    }
}
