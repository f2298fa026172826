//! A bounded store in memory. Its entries are lost when the process ends.
//!
//! It is for state that may be lost at a crash (rate limit windows) and for tests. Names are spread over shards with a
//! lock each. A lock is held for one operation and never across a wait, so every operation answers at once and
//! allocates only when it creates something. The number of entries and their bytes are both bounded. A write that would
//! pass a bound is refused; increments of existing counters, shrinking and deleting still work, so a full store goes on
//! serving its entries.

use crate::store::{
    MAX_LIST_PAGE, Page, Position, Reply, Store, StoreError, Swap, check_kv_key, check_value,
};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most entries by default. A million sliding windows of callers at once is far more than one machine
/// serves, and costs a few hundred megabytes at the very most.
pub const DEFAULT_MAX_ENTRIES: u64 = 1_000_000;

/// Most bytes by default: small compared with a model, and enough for a million counters.
pub const DEFAULT_MAX_BYTES: u64 = 256 << 20;

/// Bytes that an entry costs beside its name and its value: its slot, its share of free slots, and two allocation
/// headers. They are counted so that a flood of tiny entries meets the bound too.
pub const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Number of locks, one for each shard. There are many more than cores, so that two threads seldom meet. A page of a listing
/// visits one shard, so many shards also keep a page short.
const SHARDS: usize = 256;

/// Prefix of this store's cursors.
const CURSOR_PREFIX: &str = "memory:";

/// The bounds of a [`MemoryStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    /// Most entries that the store may have.
    pub max_entries: u64,
    /// Most bytes of names, values and [`ENTRY_OVERHEAD_BYTES`] each.
    pub max_bytes: u64,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            max_entries: DEFAULT_MAX_ENTRIES,
            max_bytes: DEFAULT_MAX_BYTES,
        }
    }
}

/// The value of an entry. The two kinds are kept apart, so that 8 bytes written by `set` are not taken for a counter.
enum Value {
    Counter(i64),
    Bytes(Box<[u8]>),
}

impl Value {
    fn bytes(&self) -> u64 {
        match self {
            Self::Counter(_) => 8,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::Counter(count) => count.to_le_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }

    fn is(&self, expected: &[u8]) -> bool {
        match self {
            Self::Counter(count) => count.to_le_bytes() == expected,
            Self::Bytes(bytes) => **bytes == *expected,
        }
    }
}

struct Slot {
    name: Box<str>,
    value: Value,
}

/// Each shard has its own cache line, so that two cores do not compete for neighbouring locks.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<HashTable<Slot>>);

/// A store in the memory of this process.
pub struct MemoryStore {
    settings: MemorySettings,
    // The hash key is random. Callers choose a part of the names and must not be able to make them collide.
    hasher: RandomState,
    shards: Box<[Shard]>,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemorySettings::default())
    }
}

impl MemoryStore {
    /// An empty store with these bounds.
    pub fn new(settings: MemorySettings) -> Self {
        Self {
            settings,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// The number of entries in all shards.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of all entries, as [`MemorySettings::max_bytes`] counts them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Slot>> {
        // The table itself uses the lowest and the highest bits.
        &self.shards[(hash >> 32) as usize % SHARDS].0
    }

    /// Accounts for growth, or refuses it.
    fn grow(&self, entries: u64, bytes: u64) -> Result<(), StoreError> {
        take(&self.bytes, bytes, self.settings.max_bytes)
            .map_err(|limit| StoreError::Full(format!("at most {limit} bytes are kept")))?;
        take(&self.entries, entries, self.settings.max_entries).map_err(|limit| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            StoreError::Full(format!("at most {limit} entries are kept"))
        })
    }

    fn shrink(&self, entries: u64, bytes: u64) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Looks at an entry under its lock.
    fn read<T>(
        &self,
        kv_key: &str,
        look: impl FnOnce(Option<&Value>) -> T,
    ) -> Result<T, StoreError> {
        check_kv_key(kv_key)?;
        let hash = self.hasher.hash_one(kv_key);
        let table = self.shard(hash).lock();
        let found = table.find(hash, |slot| *slot.name == *kv_key);
        Ok(look(found.map(|slot| &slot.value)))
    }

    /// Changes an entry under its lock: `change` sees the value and returns the new one, if any.
    fn write<T>(
        &self,
        kv_key: &str,
        change: impl FnOnce(Option<&Value>) -> Result<(T, Option<Value>), StoreError>,
    ) -> Result<T, StoreError> {
        check_kv_key(kv_key)?;
        let hash = self.hasher.hash_one(kv_key);
        let mut table = self.shard(hash).lock();
        let entry = table.entry(
            hash,
            |slot| *slot.name == *kv_key,
            |slot| self.hasher.hash_one(&*slot.name),
        );
        match entry {
            Entry::Occupied(mut occupied) => {
                let slot = occupied.get_mut();
                let (answer, write) = change(Some(&slot.value))?;
                if let Some(value) = write {
                    let (old, new) = (slot.value.bytes(), value.bytes());
                    if new > old {
                        self.grow(0, new - old)?;
                    } else if old > new {
                        self.shrink(0, old - new);
                    }
                    slot.value = value;
                }
                Ok(answer)
            }
            Entry::Vacant(vacant) => {
                let (answer, write) = change(None)?;
                if let Some(value) = write {
                    self.grow(1, cost(kv_key, &value))?;
                    vacant.insert(Slot {
                        name: kv_key.into(),
                        value,
                    });
                }
                Ok(answer)
            }
        }
    }

    fn put(&self, kv_key: &str, value: &[u8]) -> Result<(), StoreError> {
        check_value(value)?;
        self.write(kv_key, |_| Ok(((), Some(Value::Bytes(value.into())))))
    }

    fn remove(&self, kv_key: &str) -> Result<(), StoreError> {
        check_kv_key(kv_key)?;
        let hash = self.hasher.hash_one(kv_key);
        let mut table = self.shard(hash).lock();
        if let Ok(found) = table.find_entry(hash, |slot| *slot.name == *kv_key) {
            let (slot, _) = found.remove();
            self.shrink(1, cost(kv_key, &slot.value));
            // Give the memory of a flood of entries back once they are gone.
            if table.capacity() > 1024 && table.len() < table.capacity() / 8 {
                let double = table.len() * 2;
                table.shrink_to(double, |slot| self.hasher.hash_one(&*slot.name));
            }
        }
        Ok(())
    }

    fn add(&self, kv_key: &str, delta: i64) -> Result<i64, StoreError> {
        self.write(kv_key, |value| {
            let count = match value {
                None => 0,
                Some(Value::Counter(count)) => *count,
                Some(Value::Bytes(_)) => return Err(StoreError::NotACounter),
            };
            let sum = count.checked_add(delta).ok_or(StoreError::Overflow)?;
            Ok((sum, (delta != 0).then_some(Value::Counter(sum))))
        })
    }

    fn swap(
        &self,
        kv_key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_value(value)?;
        self.write(kv_key, |found| {
            let same = match (found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.is(expected),
                _ => false,
            };
            if same {
                Ok((Swap::Swapped, Some(Value::Bytes(value.into()))))
            } else {
                Ok((Swap::Differs(found.map(Value::to_vec)), None))
            }
        })
    }

    /// Names go shard by shard, in order within each. A name never changes its shard, so an entry that exists
    /// throughout is met exactly once, also if others are added or removed during the listing.
    fn page(&self, cursor: Option<&str>) -> Result<Page, StoreError> {
        let (mut shard, mut after) = match cursor {
            None => (0, None),
            Some(text) => parse_cursor(text).ok_or(StoreError::BadCursor)?,
        };
        let mut names: Vec<String> = Vec::new();
        while shard < SHARDS {
            let room = MAX_LIST_PAGE - names.len();
            if room == 0 {
                let cursor = Some(format!("{CURSOR_PREFIX}{shard}"));
                return Ok(Page { names, cursor });
            }
            let (mut found, more) = {
                let table = self.shards[shard].0.lock();
                let mut met: Vec<&str> = table.iter().map(|slot| &*slot.name).collect();
                if let Some(after) = after {
                    met.retain(|name| *name > after);
                }
                let more = met.len() > room;
                if more {
                    met.select_nth_unstable(room);
                    met.truncate(room);
                }
                let found: Vec<String> = met.into_iter().map(str::to_owned).collect();
                (found, more)
            };
            if more {
                found.sort_unstable();
                let last = found.last().expect("there was room for one");
                let cursor = Some(format!("{CURSOR_PREFIX}{shard}:{last}"));
                names.append(&mut found);
                return Ok(Page { names, cursor });
            }
            names.append(&mut found);
            shard += 1;
            after = None;
        }
        Ok(Page {
            names,
            cursor: None,
        })
    }
}

fn cost(kv_key: &str, value: &Value) -> u64 {
    kv_key.len() as u64 + value.bytes() + ENTRY_OVERHEAD_BYTES
}

/// Adds to a sum that may not pass a limit, or gives the limit.
fn take(sum: &AtomicU64, amount: u64, limit: u64) -> Result<(), u64> {
    if amount == 0 {
        return Ok(());
    }
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
        now.checked_add(amount).filter(|after| *after <= limit)
    })
    .map(|_| ())
    .map_err(|_| limit)
}

/// The shard a cursor stands in and, if part of that shard was listed, the last name of that part.
fn parse_cursor(text: &str) -> Option<(usize, Option<&str>)> {
    let rest = text.strip_prefix(CURSOR_PREFIX)?;
    let (shard, after) = match rest.split_once(':') {
        Some((shard, after)) => (shard, Some(after)),
        None => (rest, None),
    };
    let shard: usize = shard.parse().ok()?;
    (shard < SHARDS).then_some((shard, after))
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        format!(
            "in memory (at most {} entries, {} bytes)",
            self.settings.max_entries, self.settings.max_bytes
        )
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        Reply::ready(self.read(kv_key, |value| value.map(Value::to_vec)))
    }

    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        let read = |kv_key: &String| self.read(kv_key, |value| value.map(Value::to_vec));
        Reply::ready(kv_keys.iter().map(read).collect())
    }

    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool> {
        Reply::ready(self.read(kv_key, |value| value.is_some()))
    }

    fn set<'a>(&'a self, kv_key: &'a str, value: &'a [u8]) -> Reply<'a, ()> {
        Reply::ready(self.put(kv_key, value))
    }

    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        Reply::ready(entries.iter().try_for_each(|(k, v)| self.put(k, v)))
    }

    fn delete<'a>(&'a self, kv_key: &'a str) -> Reply<'a, ()> {
        Reply::ready(self.remove(kv_key))
    }

    fn delete_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, ()> {
        Reply::ready(kv_keys.iter().try_for_each(|kv_key| self.remove(kv_key)))
    }

    fn increment<'a>(&'a self, kv_key: &'a str, delta: i64) -> Reply<'a, i64> {
        Reply::ready(self.add(kv_key, delta))
    }

    fn compare_and_swap<'a>(
        &'a self,
        kv_key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap> {
        Reply::ready(self.swap(kv_key, expected, value))
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page> {
        Reply::ready(self.page(cursor))
    }

    /// Always the same position: no entry here becomes durable.
    fn position(&self) -> Position {
        Position::default()
    }

    fn durable<'a>(&'a self, _up_to: Position) -> Reply<'a, ()> {
        Reply::ready(Ok(()))
    }
}
