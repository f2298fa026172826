//! A table of counters by label values. It only grows, up to a bound, so that reading it takes no lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counters by key. Finding the counters of a known key takes no lock and no memory. Two threads that add the same key at once
/// agree on one entry.
#[derive(Debug)]
pub struct Table<K, V> {
    slots: Box<[OnceLock<(K, V)>]>,
    /// The number of entries that count against the bound.
    bounded: AtomicUsize,
    most: usize,
}

impl<K, V> Table<K, V> {
    /// An empty table for at most `most` entries, and for `reserved` others that [`Table::reserved`] adds.
    pub fn new(most: usize, reserved: usize) -> Self {
        // Half of the slots stay free, so that a search ends soon.
        let slots = (most + reserved) * 2;
        Self {
            slots: (0..slots.max(1)).map(|_| OnceLock::new()).collect(),
            bounded: AtomicUsize::new(0),
            most,
        }
    }

    /// The counters of a key, which are added if they are missing; `None` if the table is full.
    pub fn bounded(
        &self,
        hash: u64,
        is: impl Fn(&K) -> bool,
        make: impl FnOnce() -> (K, V),
    ) -> Option<&V> {
        let place = || {
            let next = |count| (count < self.most).then_some(count + 1);
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            self.bounded.fetch_update(set, fetch, next).is_ok()
        };
        let return_place = || {
            self.bounded.fetch_sub(1, Ordering::Relaxed);
        };
        self.find(hash, is, make, place, return_place)
    }

    /// The counters of a key for which there is always room, because the caller has no more than `reserved` such keys.
    pub fn reserved(
        &self,
        hash: u64,
        is: impl Fn(&K) -> bool,
        make: impl FnOnce() -> (K, V),
    ) -> Option<&V> {
        self.find(hash, is, make, || true, || {})
    }

    fn find(
        &self,
        hash: u64,
        is: impl Fn(&K) -> bool,
        make: impl FnOnce() -> (K, V),
        place: impl FnOnce() -> bool,
        return_place: impl FnOnce(),
    ) -> Option<&V> {
        let count = self.slots.len();
        let first = usize::try_from(hash % count as u64).unwrap_or_default();
        let mut slots = self.slots.iter().cycle().skip(first).take(count);
        let free = loop {
            let slot = slots.next()?;
            match slot.get() {
                Some((key, value)) if is(key) => return Some(value),
                Some(_) => {}
                None => break slot,
            }
        };
        if !place() {
            return None;
        }
        let mut made = make();
        let mut slot = free;
        loop {
            match slot.set(made) {
                Ok(()) => return slot.get().map(|(_, value)| value),
                // Another thread was faster, perhaps with the same key.
                Err(back) => made = back,
            }
            match slot.get() {
                Some((key, value)) if is(key) => {
                    return_place();
                    return Some(value);
                }
                _ => slot = slots.next()?,
            }
        }
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots
            .iter()
            .filter_map(|slot| slot.get().map(|(key, value)| (key, value)))
    }
}

/// The hash of the parts of a key (FNV-1a). An attacker that finds collisions makes a search visit more slots, at most as many as
/// the table has.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn count(table: &Table<u64, AtomicU64>, key: u64, hash: u64) -> bool {
        let counter = table.bounded(hash, |k| *k == key, || (key, AtomicU64::new(0)));
        counter.is_some_and(|counter| {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        })
    }

    #[test]
    fn a_full_table_keeps_its_entries_and_takes_no_others() {
        let table = Table::new(8, 2);
        for round in 0..3 {
            for key in 0..20 {
                assert_eq!(count(&table, key, key * 7), key < 8, "{round} {key}");
            }
        }
        for key in [100, 101] {
            let counter = table.reserved(0, |k| *k == key, || (key, AtomicU64::new(0)));
            assert!(counter.is_some());
        }
        let mut entries: Vec<(u64, u64)> = (table.entries())
            .map(|(key, counter)| (*key, counter.load(Ordering::Relaxed)))
            .collect();
        entries.sort_unstable();
        let expected: Vec<(u64, u64)> = (0..8).map(|key| (key, 3)).collect();
        assert_eq!(entries[..8], expected);
        assert_eq!(entries[8..], [(100, 0), (101, 0)]);
    }

    #[test]
    fn threads_that_add_the_same_keys_share_one_entry_for_each() {
        let table = Table::new(64, 0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let table = &table;
                scope.spawn(move || {
                    for at in 0..640 {
                        let key = (at + thread * 5) % 64;
                        // All in one chain of slots.
                        assert!(count(table, key, 3));
                    }
                });
            }
        });
        assert_eq!(table.entries().count(), 64);
        assert!(
            table
                .entries()
                .all(|(_, n)| n.load(Ordering::Relaxed) == 80)
        );
        assert!(!count(&table, 64, 3), "no place was lost or won");
    }

    #[test]
    fn the_parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_eq!(hash(&[b"ab", b"c"]), hash(&[b"ab", b"c"]));
    }
}
