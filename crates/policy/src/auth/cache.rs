//! Decides for how long what was read of a store may be used without asking again, and for how long after that it may be
//! used while the store does not answer. Bounded: who floods it pushes out the oldest and nothing else.

use std::collections::{HashMap, VecDeque};

/// What was read under each name, and when that was last confirmed.
#[derive(Debug)]
pub struct Cache<V> {
    entries: HashMap<String, Entry<V>>,
    /// In the order in which they came.
    order: VecDeque<String>,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    confirmed_ms: u64,
}

/// How old something that was read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Younger than this it is used without asking.
    pub fresh_ms: u64,
    /// Younger than this it is used where asking failed.
    pub grace_ms: u64,
}

impl<V> Cache<V> {
    /// A cache of at most so many entries.
    pub fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            most: most.max(1),
        }
    }

    fn younger_than(&self, name: &str, limit_ms: u64, now_ms: u64) -> Option<&V> {
        let entry = self.entries.get(name)?;
        // A clock that went back makes nothing young.
        let age_ms = now_ms.checked_sub(entry.confirmed_ms)?;
        (age_ms < limit_ms).then_some(&entry.value)
    }

    /// What may be used without asking.
    pub fn fresh(&self, name: &str, ages: Ages, now_ms: u64) -> Option<&V> {
        self.younger_than(name, ages.fresh_ms, now_ms)
    }

    /// What may be used now that asking failed.
    pub fn in_grace(&self, name: &str, ages: Ages, now_ms: u64) -> Option<&V> {
        self.younger_than(name, ages.grace_ms, now_ms)
    }

    /// Keeps what was just read.
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

    /// Forgets what was read.
    pub fn forget(&mut self, name: &str) {
        if self.entries.remove(name).is_some() {
            self.order.retain(|kept| kept != name);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
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
    fn what_was_read_is_fresh_then_in_grace_and_then_gone() {
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
