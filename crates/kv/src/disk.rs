//! The database on the disk that the embedded store keeps its entries in.

use crate::store::StoreError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most entries in a batch by default. At tens of thousands of writes a second it takes a disk that
/// stalls for a second to fill it.
pub const DEFAULT_MAX_PENDING_ENTRIES: usize = 65_536;

/// Most bytes in a batch by default: several of the largest values, and as much as a slow disk writes in well under a
/// second.
pub const DEFAULT_MAX_PENDING_BYTES: usize = 64 << 20;

/// Most bytes on disk by default. The policies bound the data they need; this limit stops the rest.
pub const DEFAULT_MAX_DISK_BYTES: u64 = 8 << 30;

/// Room left on the disk by default: for the two batches that may still come, for entries in the journal that are not
/// in tables yet, and for merging tables while entries are deleted.
pub const DEFAULT_MIN_FREE_DISK_BYTES: u64 = 512 << 20;

/// Memory for blocks read from disk by default.
pub const DEFAULT_CACHE_BYTES: u64 = 32 << 20;

/// The most the database writes ahead before it moves it into tables: bounds the time a start takes.
pub(crate) const MAX_JOURNAL_BYTES: u64 = 128 << 20;

/// The most of the newest entries the database keeps in memory before it writes a table.
pub(crate) const MAX_MEMTABLE_BYTES: u64 = 16 << 20;

/// The database's own threads. Two, so that newest entries reach their table while old tables are merged.
pub(crate) const DATABASE_THREADS: usize = 2;

/// The longest that giving room back waits for the newest entries to reach a table.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of times that the store tries to give room back after the last entry was deleted from a full store. The first try may
/// meet merges under way that still hold the room.
pub(crate) const RECLAIMS: u32 = 5;

/// Directory and bounds of an [`EmbeddedStore`](crate::embedded::EmbeddedStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// The directory of the store, which is made if it is missing. One process at a time opens it.
    pub directory: PathBuf,
    /// Most entries waiting for the disk in one batch.
    pub max_pending_entries: usize,
    /// Most bytes waiting for the disk in one batch.
    pub max_pending_bytes: usize,
    /// Bytes on disk beyond which only deleting is allowed. Below half of the disk, so that deleted
    /// entries can be merged away: that needs as much room again.
    pub max_disk_bytes: u64,
    /// Free bytes of the disk below which only deleting is allowed.
    pub min_free_disk_bytes: u64,
    /// Memory for blocks read from disk.
    pub cache_bytes: u64,
}

impl EmbeddedSettings {
    /// The defaults, in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_pending_entries: DEFAULT_MAX_PENDING_ENTRIES,
            max_pending_bytes: DEFAULT_MAX_PENDING_BYTES,
            max_disk_bytes: DEFAULT_MAX_DISK_BYTES,
            min_free_disk_bytes: DEFAULT_MIN_FREE_DISK_BYTES,
            cache_bytes: DEFAULT_CACHE_BYTES,
        }
    }
}

/// The reason that a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another store, of this process or another, has the directory.
    #[error(
        "{} is in use by another process: a store on disk has one user at a time; stop the other \
         process, give each server its own directory with --state-dir, or share a Redis server",
        .0.display()
    )]
    InUse(PathBuf),
    /// The directory or a file in it cannot be made or read.
    #[error("cannot open the store in {}: {message}", .directory.display())]
    Failed {
        /// The directory of the store.
        directory: PathBuf,
        /// The error, for an operator.
        message: String,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Setting(&'static str),
}

/// The value of an entry. It is stored with a tag, so that 8 bytes written by `set` are not taken for a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Counter(i64),
    Bytes(Arc<[u8]>),
}

pub(crate) const TAG_BYTES: u8 = 0;

pub(crate) const TAG_COUNTER: u8 = 1;

impl Value {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Counter(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::Counter(count) => count.to_le_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }

    pub(crate) fn is(&self, expected: &[u8]) -> bool {
        match self {
            Self::Counter(count) => count.to_le_bytes() == expected,
            Self::Bytes(bytes) => **bytes == *expected,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut stored = Vec::with_capacity(1 + self.len());
        match self {
            Self::Counter(count) => {
                stored.push(TAG_COUNTER);
                stored.extend_from_slice(&count.to_le_bytes());
            }
            Self::Bytes(bytes) => {
                stored.push(TAG_BYTES);
                stored.extend_from_slice(bytes);
            }
        }
        stored
    }

    pub(crate) fn decode(stored: &[u8]) -> Result<Self, StoreError> {
        match stored.split_first() {
            Some((&TAG_BYTES, bytes)) => Ok(Self::Bytes(bytes.into())),
            Some((&TAG_COUNTER, count)) if count.len() == 8 => Ok(Self::Counter(
                i64::from_le_bytes(count.try_into().expect("8 bytes")),
            )),
            _ => Err(StoreError::Unavailable(
                "an entry on disk is of a kind this version does not know".into(),
            )),
        }
    }
}

/// A write that waits for the disk: `None` deletes.
pub(crate) type Write = Option<Value>;

/// The writes between two positions, the last one of each name.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) writes: HashMap<Arc<str>, Write>,
    pub(crate) bytes: usize,
}

/// The storage below the overlay. It is a trait so that tests can have a disk that is slow or fails.
pub(crate) trait Disk: Send + Sync + 'static {
    fn get(&self, name: &str) -> Result<Option<Value>, String>;
    /// Writes a batch whole or not at all. It is on the disk when this returns.
    fn commit(&self, batch: &Batch) -> Result<(), String>;
    /// Names after this one, in order.
    fn names<'a>(
        &'a self,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = Result<String, String>> + 'a>;
    /// Bytes that the store takes on the disk.
    fn used(&self) -> Result<u64, String>;
    /// Bytes the disk has left.
    fn free(&self) -> Result<u64, String>;
    /// Gives the room of deleted entries back, as far as free space allows. May take long.
    fn reclaim(&self) -> Result<(), String>;
}

/// Entries on disk, in fjall. See docs/decisions/0007-embedded-store.md.
pub(crate) struct FjallDisk {
    pub(crate) directory: PathBuf,
    // Before the database: it refers to it.
    pub(crate) entries: fjall::Keyspace,
    pub(crate) database: fjall::Database,
}

impl FjallDisk {
    pub(crate) fn open(settings: &EmbeddedSettings) -> Result<Self, OpenError> {
        let directory = &settings.directory;
        let failed = |message: String| OpenError::Failed {
            directory: directory.clone(),
            message,
        };
        std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
        let database = fjall::Database::builder(directory)
            .cache_size(settings.cache_bytes)
            .max_journaling_size(MAX_JOURNAL_BYTES)
            .worker_threads(DATABASE_THREADS)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => OpenError::InUse(directory.clone()),
                other => failed(other.to_string()),
            })?;
        let entries = database
            .keyspace("entries", || {
                fjall::KeyspaceCreateOptions::default().max_memtable_size(MAX_MEMTABLE_BYTES)
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            directory: directory.clone(),
            entries,
            database,
        })
    }
}

/// Prefix of every stored name: a store takes an empty name, and the database does not.
pub(crate) const NAME_PREFIX: u8 = b'e';

/// The key that is removed to settle the database. No entry has it, because it is not a valid name.
pub(crate) const SETTLE_MARK: &[u8] = b"s";

/// A name as it is stored.
pub(crate) fn stored_name(name: &str) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + name.len());
    stored.push(NAME_PREFIX);
    stored.extend_from_slice(name.as_bytes());
    stored
}

impl Disk for FjallDisk {
    fn get(&self, name: &str) -> Result<Option<Value>, String> {
        let stored = self.entries.get(stored_name(name));
        match stored.map_err(|error| error.to_string())? {
            Some(stored) => Value::decode(&stored)
                .map(Some)
                .map_err(|error| error.to_string()),
            None => Ok(None),
        }
    }

    fn commit(&self, batch: &Batch) -> Result<(), String> {
        let mut commit = self
            .database
            .batch()
            .durability(Some(fjall::PersistMode::SyncData));
        for (name, write) in &batch.writes {
            match write {
                Some(value) => commit.insert(&self.entries, stored_name(name), value.encode()),
                None => commit.remove(&self.entries, stored_name(name)),
            }
        }
        commit.commit().map_err(|error| error.to_string())
    }

    fn names<'a>(
        &'a self,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = Result<String, String>> + 'a> {
        use std::ops::Bound;
        let start = match after {
            Some(name) => Bound::Excluded(stored_name(name)),
            None => Bound::Included(vec![NAME_PREFIX]),
        };
        let range = (start, Bound::Excluded(vec![NAME_PREFIX + 1]));
        Box::new(self.entries.range::<Vec<u8>, _>(range).map(|guard| {
            let stored = guard.key().map_err(|error| error.to_string())?;
            let name = stored.get(1..).unwrap_or_default();
            String::from_utf8(name.to_vec()).map_err(|error| error.to_string())
        }))
    }

    fn used(&self) -> Result<u64, String> {
        self.database.disk_space().map_err(|e| e.to_string())
    }

    fn free(&self) -> Result<u64, String> {
        free_bytes(&self.directory)
    }

    fn reclaim(&self) -> Result<(), String> {
        self.settle()?;
        // A full merge writes the kept entries before it removes the others. Without room for that, the database's own
        // smaller merges must do.
        if self.free()? > self.used()? {
            self.entries
                .major_compact()
                .map_err(|error| error.to_string())?;
            self.settle()?;
        }
        Ok(())
    }
}

impl FjallDisk {
    /// Has the newest entries written to a table. The database can then drop journals, old tables and old versions of
    /// entries. Otherwise it does so only after many writes.
    pub(crate) fn settle(&self) -> Result<(), String> {
        let told = |error: fjall::Error| error.to_string();
        // It does nothing when there is nothing new.
        let mut batch = self.database.batch();
        batch.remove(&self.entries, SETTLE_MARK);
        batch.commit().map_err(told)?;
        self.entries.rotate_memtable().map_err(told)?;
        let from = Instant::now();
        while self.entries.sealed_memtable_count() > 0 && from.elapsed() < FLUSH_TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

#[cfg(unix)]
pub(crate) fn free_bytes(directory: &Path) -> Result<u64, String> {
    let room = rustix::fs::statvfs(directory).map_err(|error| error.to_string())?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Other systems are not asked. A full disk there fails a commit, and with it the store.
#[cfg(not(unix))]
pub(crate) fn free_bytes(_directory: &Path) -> Result<u64, String> {
    Ok(u64::MAX)
}
