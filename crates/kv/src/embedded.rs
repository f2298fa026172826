//! What one machine remembers through a crash, and when it may be called remembered.
//!
//! An operation is applied at once, to an overlay in memory over the database on disk, gets the next
//! [`Position`], and joins the open batch; of several writes of one name a batch keeps the last. One
//! thread takes the whole batch, commits it with one sync of the disk, moves the durable position on, and
//! drops from the overlay what is not newer. While it waits for the disk the next batch fills, so the
//! number of writes a commit carries grows with the load and nobody waits for more than two commits.
//!
//! **Order.** A write gets its position and its place in a batch under one lock, so a batch is all the
//! writes between two positions; batches are committed one after another and each one whole or not at
//! all. A crash therefore leaves exactly the writes up to some position, at or after the last one
//! [`Store::durable`] spoke for.
//!
//! **Back pressure.** When the open batch is full, writers wait, without holding a thread, until it is
//! taken. Memory for what is not yet on disk is bounded by two batches.
//!
//! **A full disk.** Writes that grow the store are refused with [`StoreError::Full`] while it takes more
//! than [`EmbeddedSettings::max_disk_bytes`] or less than
//! [`EmbeddedSettings::min_free_disk_bytes`] is left; deleting goes on, and what it frees is given
//! back in the background. The bounds are looked at before every commit, so they are passed by a batch
//! or two: that is what the reserve is for. On a disk that others fill to the last byte a commit fails.
//!
//! **A failed commit.** Nobody can say what reached the disk, and after a failed sync even the operating
//! system cannot: trying again may report success over lost pages. So the store fails for good: every
//! operation, and `durable` for every position not yet durable, gives [`StoreError::Unavailable`] until
//! the process opens the directory afresh, which reads what the disk really holds.
//!
//! **Reading.** What the overlay does not hold is read from the database on the calling thread: from
//! memory in microseconds, and from disk when it was not used lately. Listing, which may touch many
//! blocks, happens on a thread of its own.

use crate::store::{
    MAX_LIST_PAGE, MAX_VALUE_BYTES, Page, Position, Reply, Store, StoreError, Swap, check_kv_key,
    check_value,
};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Most entries in a batch by default. At tens of thousands of writes a second it takes a disk that
/// stalls for a second to fill it.
pub const DEFAULT_MAX_PENDING_ENTRIES: usize = 65_536;

/// Most bytes in a batch by default: some of the largest values, and what a slow disk still writes in
/// well under a second.
pub const DEFAULT_MAX_PENDING_BYTES: usize = 64 << 20;

/// Most bytes on disk by default. The policies keep what they need bounded; this stops what they miss.
pub const DEFAULT_MAX_DISK_BYTES: u64 = 8 << 30;

/// Room left on the disk by default: for the two batches that may still come, for what is in the journal
/// and not yet in tables, and for merging tables while entries are being deleted.
pub const DEFAULT_MIN_FREE_DISK_BYTES: u64 = 512 << 20;

/// Memory for blocks read from disk by default.
pub const DEFAULT_CACHE_BYTES: u64 = 32 << 20;

/// What an entry of a batch costs beside its name and its value, counted so that tiny entries meet the
/// bound on bytes as well.
const PENDING_OVERHEAD_BYTES: usize = 128;

/// Locks of the overlay. One is held during a read of the database, so there are many more than threads.
const SHARDS: usize = 256;

/// The most the database writes ahead before it moves it into tables: bounds the time a start takes.
const MAX_JOURNAL_BYTES: u64 = 128 << 20;

/// The most of the newest entries the database keeps in memory before it writes a table.
const MAX_MEMTABLE_BYTES: u64 = 16 << 20;

/// The database's own threads. Two, so that newest entries reach their table while old tables are merged.
const DATABASE_THREADS: usize = 2;

/// How often the room on the disk is looked at while nobody writes.
const ROOM_EVERY: Duration = Duration::from_millis(500);

/// The longest that giving room back waits for the newest entries to reach a table.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// How often giving room back is tried after the last entry was deleted from a full store: the first
/// time may find merges under way that hold what it looks for.
const RECLAIMS: u32 = 5;

/// The pause between two of these.
const RECLAIM_EVERY: Duration = Duration::from_secs(2);

/// Listings waiting for their thread; a further one waits asynchronously.
const LISTINGS_QUEUED: usize = 64;

/// What starts a cursor of this store.
const CURSOR_PREFIX: &str = "embedded:";

/// Where an [`EmbeddedStore`] lives, and its bounds.
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

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another store, of this process or another, has the directory.
    #[error(
        "{} is in use by another process: a store on disk has one user at a time; stop the other \
         one, give each its own directory, or share a Redis server",
        .0.display()
    )]
    InUse(PathBuf),
    /// The directory or a file in it cannot be made or read.
    #[error("cannot open the store in {}: {message}", .directory.display())]
    Failed {
        /// Where.
        directory: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Setting(&'static str),
}

/// What an entry holds. Stored with a tag, so 8 bytes that `set` wrote are no counter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Counter(i64),
    Bytes(Arc<[u8]>),
}

const TAG_BYTES: u8 = 0;
const TAG_COUNTER: u8 = 1;

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Counter(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
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

    fn encode(&self) -> Vec<u8> {
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

    fn decode(stored: &[u8]) -> Result<Self, StoreError> {
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
type Write = Option<Value>;

/// The writes between two positions, the last one of each name.
#[derive(Default)]
struct Batch {
    writes: HashMap<Arc<str>, Write>,
    bytes: usize,
}

/// What lies below the overlay. A trait, so that tests can have a disk that is slow or fails.
trait Disk: Send + Sync + 'static {
    fn get(&self, name: &str) -> Result<Option<Value>, String>;
    /// Whole or not at all, and on the disk when it returns.
    fn commit(&self, batch: &Batch) -> Result<(), String>;
    /// Names after this one, in order.
    fn names<'a>(
        &'a self,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = Result<String, String>> + 'a>;
    /// Bytes the store takes.
    fn used(&self) -> Result<u64, String>;
    /// Bytes the disk has left.
    fn free(&self) -> Result<u64, String>;
    /// Gives back what deleted entries take, as far as there is room to. May take long.
    fn reclaim(&self) -> Result<(), String>;
}

/// Entries on disk, in fjall. See docs/decisions/0007-embedded-store.md.
struct FjallDisk {
    directory: PathBuf,
    // Before the database: it refers to it.
    entries: fjall::Keyspace,
    database: fjall::Database,
}

impl FjallDisk {
    fn open(settings: &EmbeddedSettings) -> Result<Self, OpenError> {
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

/// Stands in front of every name: the database takes no empty one, and a store does.
const NAME_PREFIX: u8 = b'e';

/// What is removed, never having been there. Not a name.
const SETTLE_MARK: &[u8] = b"s";

/// A name as it is stored.
fn stored_name(name: &str) -> Vec<u8> {
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
        // Merging everything writes what is kept before it removes the rest. Without the room for that,
        // the database's own smaller merges have to do.
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
    /// Has the newest entries written to a table. With that the database lets go of journals, and of old
    /// tables and versions of entries, which it otherwise does after much was written.
    fn settle(&self) -> Result<(), String> {
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
fn free_bytes(directory: &Path) -> Result<u64, String> {
    let room = rustix::fs::statvfs(directory).map_err(|error| error.to_string())?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Not asked elsewhere: a full disk then fails a commit, and with it the store.
#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Result<u64, String> {
    Ok(u64::MAX)
}

/// A write the database does not have yet.
struct Pending {
    write: Write,
    position: Position,
}

#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<HashMap<Arc<str>, Pending>>);

/// The batch that is being filled. Locked after a shard, never before one.
struct Open {
    batch: Batch,
    last: Position,
    /// The writer thread sleeps and must be woken.
    writer_sleeps: bool,
    /// Nothing is taken any more.
    closed: bool,
}

/// How far the disk is.
#[derive(Clone)]
struct Progress {
    durable: Position,
    failed: Option<StoreError>,
}

struct Inner {
    settings: EmbeddedSettings,
    hasher: RandomState,
    shards: Box<[Shard]>,
    open: Mutex<Open>,
    /// Wakes the writer thread.
    filled: Condvar,
    /// Wakes writers that wait for room in the batch.
    taken: Notify,
    /// The last position, for those who only ask.
    last: AtomicU64,
    progress: watch::Sender<Progress>,
    /// Set once, together with `progress.failed`; for a cheap look at every operation.
    failed: OnceLock<StoreError>,
    /// Why nothing may grow, if so.
    full: Mutex<Option<String>>,
    is_full: AtomicBool,
    disk: Box<dyn Disk>,
}

/// Why an operation was not carried out this time.
enum Refusal {
    /// The batch is full; try again when it was taken.
    Wait,
    /// For good.
    Error(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

impl Inner {
    fn new(settings: EmbeddedSettings, disk: Box<dyn Disk>) -> Self {
        Self {
            settings,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            open: Mutex::new(Open {
                batch: Batch::default(),
                last: Position::default(),
                writer_sleeps: false,
                closed: false,
            }),
            filled: Condvar::new(),
            taken: Notify::new(),
            last: AtomicU64::new(0),
            progress: watch::Sender::new(Progress {
                durable: Position::default(),
                failed: None,
            }),
            failed: OnceLock::new(),
            full: Mutex::new(None),
            is_full: AtomicBool::new(false),
            disk,
        }
    }

    fn shard(&self, name: &str) -> &Mutex<HashMap<Arc<str>, Pending>> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS].0
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn fail(&self, message: String) {
        let error = StoreError::Unavailable(format!(
            "the disk failed, and the store with it until it is opened afresh: {message}"
        ));
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(store = %self.settings.directory.display(), %error, "the store failed");
        }
        self.progress
            .send_modify(|progress| progress.failed = Some(error));
        self.taken.notify_waiters();
    }

    fn read_disk(&self, name: &str) -> Result<Option<Value>, StoreError> {
        self.disk.get(name).map_err(StoreError::Unavailable)
    }

    /// The value of an entry. Between the look at the overlay and the look at the disk the lock is
    /// free: an entry leaves the overlay only once the disk has it, so what is read was current at some
    /// moment since the call.
    fn read(&self, kv_key: &str) -> Result<Option<Value>, StoreError> {
        check_kv_key(kv_key)?;
        self.check()?;
        if let Some(pending) = self.shard(kv_key).lock().get(kv_key) {
            return Ok(pending.write.clone());
        }
        self.read_disk(kv_key)
    }

    /// Changes an entry: `change` sees its value and says what to write, if anything. Nothing is done
    /// when this is refused.
    fn write<T>(
        &self,
        kv_key: &str,
        change: impl Fn(Option<&Value>) -> Result<(T, Option<Write>), StoreError>,
    ) -> Result<T, Refusal> {
        check_kv_key(kv_key)?;
        self.check()?;
        let mut shard = self.shard(kv_key).lock();
        let on_disk;
        let current = match shard.get(kv_key) {
            Some(pending) => pending.write.as_ref(),
            None => {
                on_disk = self.read_disk(kv_key)?;
                on_disk.as_ref()
            }
        };
        let (answer, write) = change(current)?;
        let Some(write) = write else {
            return Ok(answer);
        };
        if let Some(value) = &write
            && self.is_full.load(Ordering::Relaxed)
            && current.is_none_or(|current| value.len() > current.len())
        {
            let why = self.full.lock().clone().unwrap_or_default();
            return Err(StoreError::Full(why).into());
        }
        let (name, position) = self.enqueue(kv_key, &write)?;
        match shard.entry(name) {
            hash_map::Entry::Occupied(mut entry) => {
                *entry.get_mut() = Pending { write, position };
            }
            hash_map::Entry::Vacant(entry) => {
                entry.insert(Pending { write, position });
            }
        }
        Ok(answer)
    }

    /// Gives a write its position and its place in the open batch, both at once.
    fn enqueue(&self, kv_key: &str, write: &Write) -> Result<(Arc<str>, Position), Refusal> {
        let size = |write: &Write| write.as_ref().map_or(0, Value::len);
        let mut open = self.open.lock();
        if open.closed {
            // Set under this lock by a writer that failed as well as by closing.
            self.check()?;
            return Err(StoreError::Unavailable("the store is closed".into()).into());
        }
        if open.batch.writes.len() >= self.settings.max_pending_entries
            || open.batch.bytes >= self.settings.max_pending_bytes
        {
            return Err(Refusal::Wait);
        }
        let batch = &mut open.batch;
        let name = match batch.writes.get_key_value(kv_key) {
            Some((name, _)) => Arc::clone(name),
            None => {
                batch.bytes += kv_key.len() + PENDING_OVERHEAD_BYTES;
                Arc::from(kv_key)
            }
        };
        batch.bytes += size(write);
        if let Some(old) = batch.writes.insert(Arc::clone(&name), write.clone()) {
            batch.bytes -= size(&old);
        }
        open.last.0 += 1;
        let position = open.last;
        self.last.store(position.0, Ordering::Release);
        if open.writer_sleeps {
            open.writer_sleeps = false;
            self.filled.notify_one();
        }
        Ok((name, position))
    }

    /// A write that waits for room in the batch, if there is none, without holding a thread.
    fn write_reply<'a, T: Send + 'a>(
        self: &'a Arc<Self>,
        attempt: impl Fn(&Inner) -> Result<T, Refusal> + Send + 'a,
    ) -> Reply<'a, T> {
        match attempt(self) {
            Ok(answer) => Reply::ready(Ok(answer)),
            Err(Refusal::Error(error)) => Reply::ready(Err(error)),
            Err(Refusal::Wait) => Reply::later(self.write_patiently(attempt)),
        }
    }

    async fn write_patiently<T>(
        &self,
        attempt: impl Fn(&Inner) -> Result<T, Refusal>,
    ) -> Result<T, StoreError> {
        loop {
            // Listening starts before the attempt, so a batch taken in between is not missed.
            let mut taken = std::pin::pin!(self.taken.notified());
            taken.as_mut().enable();
            match attempt(self) {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Wait) => taken.await,
            }
        }
    }

    fn put(&self, kv_key: &str, value: &[u8]) -> Result<(), Refusal> {
        check_value(value)?;
        let value = Value::Bytes(value.into());
        self.write(kv_key, |_| Ok(((), Some(Some(value.clone())))))
    }

    fn remove(&self, kv_key: &str) -> Result<(), Refusal> {
        self.write(kv_key, |current| Ok(((), current.map(|_| None))))
    }

    fn add(&self, kv_key: &str, delta: i64) -> Result<i64, Refusal> {
        self.write(kv_key, |current| {
            let count = match current {
                None => 0,
                Some(Value::Counter(count)) => *count,
                Some(Value::Bytes(_)) => return Err(StoreError::NotACounter),
            };
            let sum = count.checked_add(delta).ok_or(StoreError::Overflow)?;
            Ok((sum, (delta != 0).then_some(Some(Value::Counter(sum)))))
        })
    }

    fn swap(&self, kv_key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<Swap, Refusal> {
        check_value(value)?;
        self.write(kv_key, |current| {
            let same = match (current, expected) {
                (None, None) => true,
                (Some(current), Some(expected)) => current.is(expected),
                _ => false,
            };
            Ok(if same {
                (Swap::Swapped, Some(Some(Value::Bytes(value.into()))))
            } else {
                (Swap::Differs(current.map(Value::to_vec)), None)
            })
        })
    }

    /// A page of names, by their order. The overlay is looked at before the disk: what has left it by
    /// then is on the disk already, so nothing that exists throughout falls between.
    fn page(&self, cursor: Option<&str>) -> Result<Page, StoreError> {
        self.check()?;
        let after = match cursor {
            Some(text) => Some(
                text.strip_prefix(CURSOR_PREFIX)
                    .ok_or(StoreError::BadCursor)?,
            ),
            None => None,
        };
        let mut overlay: Vec<(Arc<str>, bool)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.0.lock();
            let later = shard
                .iter()
                .filter(|(name, _)| after.is_none_or(|after| &***name > after));
            overlay
                .extend(later.map(|(name, pending)| (Arc::clone(name), pending.write.is_some())));
        }
        overlay.sort_unstable();
        let mut overlay = overlay.into_iter().peekable();
        let mut disk = self.disk.names(after).peekable();
        let mut names: Vec<String> = Vec::new();
        loop {
            // One from each side; on both, the overlay knows better.
            let from_disk = match disk.peek() {
                Some(Ok(name)) => Some(name.as_str()),
                Some(Err(message)) => return Err(StoreError::Unavailable(message.clone())),
                None => None,
            };
            let order = match (overlay.peek(), from_disk) {
                (None, None) => {
                    return Ok(Page {
                        names,
                        cursor: None,
                    });
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((name, _)), Some(other)) => (**name).cmp(other),
            };
            if names.len() == MAX_LIST_PAGE {
                let last = names.last().map_or("", String::as_str);
                let cursor = Some(format!("{CURSOR_PREFIX}{last}"));
                return Ok(Page { names, cursor });
            }
            if order.is_ge()
                && let Some(Ok(name)) = disk.next()
                && order.is_gt()
            {
                names.push(name);
            }
            if order.is_le()
                && let Some((name, true)) = overlay.next()
            {
                names.push(name.to_string());
            }
        }
    }

    /// What the writer thread does until the store is closed and everything is on disk.
    fn write_batches(&self, reclaim: &SyncSender<()>) {
        let mut reclaims = 0;
        let mut reclaimed: Option<Instant> = None;
        loop {
            // Microseconds beside a sync, and a fast disk fills a reserve in a second.
            self.look_for_room();
            // The database merges when much was written, and into a full store little is.
            if reclaims > 0
                && self.is_full.load(Ordering::Relaxed)
                && reclaimed.is_none_or(|at| at.elapsed() >= RECLAIM_EVERY)
                && reclaim.try_send(()).is_ok()
            {
                reclaims -= 1;
                reclaimed = Some(Instant::now());
            }
            let (batch, last) = {
                let mut open = self.open.lock();
                while open.batch.writes.is_empty() {
                    if open.closed {
                        return;
                    }
                    open.writer_sleeps = true;
                    // Woken now and then as well: room comes back without anybody writing.
                    let woken = self.filled.wait_for(&mut open, ROOM_EVERY);
                    open.writer_sleeps = false;
                    if woken.timed_out() {
                        break;
                    }
                }
                if open.batch.writes.is_empty() {
                    continue;
                }
                (std::mem::take(&mut open.batch), open.last)
            };
            self.taken.notify_waiters();
            if batch.writes.values().any(Option::is_none) {
                reclaims = RECLAIMS;
            }
            if let Err(message) = self.disk.commit(&batch) {
                // Failed first, closed second: who meets the closed batch finds the reason.
                self.fail(message);
                let mut open = self.open.lock();
                open.closed = true;
                open.batch = Batch::default();
                return;
            }
            self.progress
                .send_modify(|progress| progress.durable = last);
            for name in batch.writes.keys() {
                let mut shard = self.shard(name).lock();
                if shard.get(name).is_some_and(|now| now.position <= last) {
                    shard.remove(name);
                }
            }
        }
    }

    fn look_for_room(&self) {
        let why = match (self.disk.used(), self.disk.free()) {
            (Ok(used), _) if used >= self.settings.max_disk_bytes => Some(format!(
                "{used} bytes on disk, of at most {}",
                self.settings.max_disk_bytes
            )),
            (_, Ok(free)) if free < self.settings.min_free_disk_bytes => Some(format!(
                "the disk has {free} bytes left, and {} are kept free",
                self.settings.min_free_disk_bytes
            )),
            // Not known: the disk itself will tell.
            _ => None,
        };
        let mut full = self.full.lock();
        if full.is_some() != why.is_some() {
            let store = self.settings.directory.display();
            match &why {
                Some(why) => tracing::warn!(%store, %why, "the store is full"),
                None => tracing::info!(%store, "the store has room again"),
            }
        }
        self.is_full.store(why.is_some(), Ordering::Relaxed);
        *full = why;
    }

    fn close(&self) {
        let mut open = self.open.lock();
        open.closed = true;
        self.filled.notify_one();
        drop(open);
        self.taken.notify_waiters();
    }
}

/// A listing somebody waits for.
type Listing = (Option<String>, oneshot::Sender<Result<Page, StoreError>>);

/// A durable store in a directory of this machine.
///
/// Dropping it writes what is pending and waits for the disk: a moment, but on the dropping thread.
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    listings: Option<mpsc::Sender<Listing>>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, which is made, with its parents, if it is missing.
    pub fn open(settings: EmbeddedSettings) -> Result<Self, OpenError> {
        if settings.max_pending_entries == 0 {
            return Err(OpenError::Setting("max_pending_entries must be at least 1"));
        }
        if settings.max_pending_bytes < MAX_VALUE_BYTES {
            return Err(OpenError::Setting(
                "max_pending_bytes must leave room for the largest value, 4 MiB",
            ));
        }
        let disk = FjallDisk::open(&settings)?;
        Self::over(settings, Box::new(disk))
    }

    fn over(settings: EmbeddedSettings, disk: Box<dyn Disk>) -> Result<Self, OpenError> {
        let directory = settings.directory.clone();
        let inner = Arc::new(Inner::new(settings, disk));
        // Before the first write, not some time after it.
        inner.look_for_room();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let failed = |error: std::io::Error| OpenError::Failed {
            directory: directory.clone(),
            message: format!("cannot start a thread: {error}"),
        };
        let (listings, mut asked) = mpsc::channel::<Listing>(LISTINGS_QUEUED);
        let lists = Arc::clone(&inner);
        let lister = thread("kv-list")
            .spawn(move || {
                while let Some((cursor, answer)) = asked.blocking_recv() {
                    // Whoever gave up waiting needs no answer.
                    if !answer.is_closed() {
                        let _ = answer.send(lists.page(cursor.as_deref()));
                    }
                }
            })
            .map_err(&failed)?;
        let (reclaim, wanted) = sync_channel::<()>(1);
        let reclaims = Arc::clone(&inner);
        let reclaimer = thread("kv-reclaim")
            .spawn(move || {
                while let Ok(()) = wanted.recv() {
                    if let Err(error) = reclaims.disk.reclaim() {
                        let store = reclaims.settings.directory.display();
                        tracing::warn!(%store, %error, "no room could be given back");
                    }
                }
            })
            .map_err(&failed)?;
        let writes = Arc::clone(&inner);
        let writer = thread("kv-write")
            .spawn(move || {
                // A panic in the database must not leave callers waiting for the disk for ever.
                let run = std::panic::AssertUnwindSafe(|| writes.write_batches(&reclaim));
                if std::panic::catch_unwind(run).is_err() {
                    writes.fail("the writing thread panicked".into());
                    writes.close();
                }
            })
            .map_err(failed)?;
        Ok(Self {
            inner,
            listings: Some(listings),
            // The writer first: the reclaimer ends when it does.
            threads: vec![writer, reclaimer, lister],
        })
    }

    /// Writes of distinct names that wait for the disk in the open batch: for metrics.
    pub fn pending(&self) -> usize {
        self.inner.open.lock().batch.writes.len()
    }

    /// Everything up to here is on the disk: for metrics.
    pub fn durable_position(&self) -> Position {
        self.inner.progress.borrow().durable
    }

    /// Writes what is pending, waits for the disk and gives the directory back. An error says that not
    /// everything reached the disk. Blocks the calling thread for a moment.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.shut();
        self.inner.check()
    }

    fn shut(&mut self) {
        self.inner.close();
        drop(self.listings.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shut();
    }
}

fn closed<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the store is closed".into()))
}

impl Store for EmbeddedStore {
    fn describe(&self) -> String {
        format!("embedded ({})", self.inner.settings.directory.display())
    }

    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        let value = self.inner.read(kv_key);
        Reply::ready(value.map(|value| value.map(|value| value.to_vec())))
    }

    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        let read = |kv_key: &String| {
            let value = self.inner.read(kv_key)?;
            Ok(value.map(|value| value.to_vec()))
        };
        Reply::ready(kv_keys.iter().map(read).collect())
    }

    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool> {
        Reply::ready(self.inner.read(kv_key).map(|value| value.is_some()))
    }

    fn set<'a>(&'a self, kv_key: &'a str, value: &'a [u8]) -> Reply<'a, ()> {
        self.inner
            .write_reply(move |inner| inner.put(kv_key, value))
    }

    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        for (index, (kv_key, value)) in entries.iter().enumerate() {
            match self.inner.put(kv_key, value) {
                Ok(()) => {}
                Err(Refusal::Error(error)) => return Reply::ready(Err(error)),
                Err(Refusal::Wait) => {
                    return Reply::later(async move {
                        for (kv_key, value) in &entries[index..] {
                            self.set(kv_key, value).await?;
                        }
                        Ok(())
                    });
                }
            }
        }
        Reply::ready(Ok(()))
    }

    fn delete<'a>(&'a self, kv_key: &'a str) -> Reply<'a, ()> {
        self.inner.write_reply(move |inner| inner.remove(kv_key))
    }

    fn delete_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, ()> {
        for (index, kv_key) in kv_keys.iter().enumerate() {
            match self.inner.remove(kv_key) {
                Ok(()) => {}
                Err(Refusal::Error(error)) => return Reply::ready(Err(error)),
                Err(Refusal::Wait) => {
                    return Reply::later(async move {
                        for kv_key in &kv_keys[index..] {
                            self.delete(kv_key).await?;
                        }
                        Ok(())
                    });
                }
            }
        }
        Reply::ready(Ok(()))
    }

    fn increment<'a>(&'a self, kv_key: &'a str, delta: i64) -> Reply<'a, i64> {
        self.inner
            .write_reply(move |inner| inner.add(kv_key, delta))
    }

    fn compare_and_swap<'a>(
        &'a self,
        kv_key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap> {
        self.inner
            .write_reply(move |inner| inner.swap(kv_key, expected, value))
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page> {
        let Some(listings) = &self.listings else {
            return Reply::ready(closed());
        };
        Reply::later(async move {
            let (answer, answered) = oneshot::channel();
            let asked = (cursor.map(str::to_owned), answer);
            if listings.send(asked).await.is_err() {
                return closed();
            }
            match answered.await {
                Ok(page) => page,
                Err(_) => closed(),
            }
        })
    }

    fn position(&self) -> Position {
        Position(self.inner.last.load(Ordering::Acquire))
    }

    fn durable<'a>(&'a self, up_to: Position) -> Reply<'a, ()> {
        // What was never written is not waited for.
        let up_to = up_to.min(self.position());
        let settled = move |progress: &Progress| -> Option<Result<(), StoreError>> {
            if progress.durable >= up_to {
                Some(Ok(()))
            } else {
                progress.failed.clone().map(Err)
            }
        };
        if let Some(answer) = settled(&self.inner.progress.borrow()) {
            return Reply::ready(answer);
        }
        Reply::later(async move {
            let mut progress = self.inner.progress.subscribe();
            let seen = progress.wait_for(|progress| settled(progress).is_some());
            let answer = seen.await.ok().and_then(|progress| settled(&progress));
            answer.unwrap_or_else(closed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicUsize;

    /// What a disk does when the test says so.
    #[derive(Default)]
    struct Control {
        entries: Mutex<BTreeMap<String, Value>>,
        commits: AtomicUsize,
        held: AtomicBool,
        fails: AtomicBool,
        panics: AtomicBool,
    }

    struct TestDisk(Arc<Control>);

    impl Disk for TestDisk {
        fn get(&self, name: &str) -> Result<Option<Value>, String> {
            Ok(self.0.entries.lock().get(name).cloned())
        }

        fn commit(&self, batch: &Batch) -> Result<(), String> {
            while self.0.held.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!self.0.panics.load(Ordering::Acquire), "as the test asked");
            if self.0.fails.load(Ordering::Acquire) {
                return Err("No space left on device".into());
            }
            let mut entries = self.0.entries.lock();
            for (name, write) in &batch.writes {
                match write {
                    Some(value) => entries.insert(name.to_string(), value.clone()),
                    None => entries.remove(&**name),
                };
            }
            self.0.commits.fetch_add(1, Ordering::AcqRel);
            Ok(())
        }

        fn names<'a>(
            &'a self,
            after: Option<&str>,
        ) -> Box<dyn Iterator<Item = Result<String, String>> + 'a> {
            let names = self.0.entries.lock().keys().cloned().collect::<Vec<_>>();
            let after = after.map(str::to_owned);
            Box::new(
                names
                    .into_iter()
                    .filter(move |name| after.as_ref().is_none_or(|after| name > after))
                    .map(Ok),
            )
        }

        fn used(&self) -> Result<u64, String> {
            Ok(0)
        }

        fn free(&self) -> Result<u64, String> {
            Ok(u64::MAX)
        }

        fn reclaim(&self) -> Result<(), String> {
            Ok(())
        }
    }

    fn open(max_pending_entries: usize) -> (Arc<Control>, Arc<EmbeddedStore>) {
        let control = Arc::new(Control::default());
        let mut settings = EmbeddedSettings::new("nowhere");
        settings.max_pending_entries = max_pending_entries;
        let store = EmbeddedStore::over(settings, Box::new(TestDisk(Arc::clone(&control))));
        (control, Arc::new(store.unwrap()))
    }

    /// The writer thread has taken the open batch, and is held in the commit.
    async fn taken(store: &EmbeddedStore) {
        while store.pending() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_full_batch_makes_writers_wait_and_lets_them_go_on() {
        let (control, store) = open(3);
        control.held.store(true, Ordering::Release);
        store.set("first", b"").await.unwrap();
        taken(&store).await;
        for name in ["a", "b", "c"] {
            assert!(matches!(store.set(name, b""), Reply::Ready(_)));
        }
        let waits = Arc::clone(&store);
        let waiting = tokio::spawn(async move {
            let names: Vec<_> = (0..10).map(|i| (format!("many/{i}"), vec![])).collect();
            waits.set_many(&names).await?;
            waits.increment("a counter", 1).await
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!waiting.is_finished());
        assert_eq!(store.pending(), 3, "the bound holds");
        // Reading is not held up, nor is what changes nothing.
        assert!(store.exists("c").await.unwrap());
        assert_eq!(store.increment("counter", 0).await.unwrap(), 0);

        control.held.store(false, Ordering::Release);
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
        store.durable(store.position()).await.unwrap();
        assert_eq!(control.entries.lock().len(), 4 + 10 + 1);
    }

    #[tokio::test]
    async fn of_several_writes_of_a_name_a_batch_keeps_the_last() {
        let (control, store) = open(1000);
        control.held.store(true, Ordering::Release);
        store.set("first", b"").await.unwrap();
        taken(&store).await;
        for _ in 0..500 {
            store.increment("counter", 1).await.unwrap();
        }
        store.set("gone", b"x").await.unwrap();
        store.delete("gone").await.unwrap();
        assert_eq!(store.pending(), 2);
        assert_eq!(store.position(), Position(503));
        control.held.store(false, Ordering::Release);
        store.durable(store.position()).await.unwrap();
        assert_eq!(control.commits.load(Ordering::Acquire), 2);
        let entries = control.entries.lock();
        assert_eq!(entries.get("counter"), Some(&Value::Counter(500)));
        assert!(!entries.contains_key("gone"));
    }

    #[tokio::test]
    async fn pages_are_right_across_overlay_and_disk() {
        let (control, store) = open(1000);
        for name in ["b", "d", "f"] {
            store.set(name, b"").await.unwrap();
        }
        store.durable(store.position()).await.unwrap();
        control.held.store(true, Ordering::Release);
        for name in ["a", "d", "g"] {
            store.set(name, b"new").await.unwrap();
        }
        store.delete("b").await.unwrap();
        store.delete("f").await.unwrap();
        let page = store.list(None).await.unwrap();
        assert_eq!(page.names, ["a", "d", "g"]);
        let page = store.list(Some("embedded:a")).await.unwrap();
        assert_eq!(page.names, ["d", "g"]);
        control.held.store(false, Ordering::Release);
    }

    /// A store whose disk failed says so: to who waits, to who comes later, and about reading as well.
    #[tokio::test]
    async fn a_failed_commit_is_never_called_durable() {
        for panics in [false, true] {
            let (control, store) = open(2);
            store.set("before", b"").await.unwrap();
            let before = store.position();
            store.durable(before).await.unwrap();

            control.held.store(true, Ordering::Release);
            store.set("lost", b"").await.unwrap();
            let lost = store.position();
            taken(&store).await;
            let waits = Arc::clone(&store);
            let durable = tokio::spawn(async move { waits.durable(lost).await });
            store.set("a", b"").await.unwrap();
            store.set("b", b"").await.unwrap();
            let waits = Arc::clone(&store);
            let writer = tokio::spawn(async move { waits.set("c", b"").await });
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!durable.is_finished() && !writer.is_finished());
            control.fails.store(true, Ordering::Release);
            control.panics.store(panics, Ordering::Release);
            control.held.store(false, Ordering::Release);

            let unavailable = |error: Option<StoreError>| match error {
                Some(StoreError::Unavailable(message)) => message,
                other => panic!("{other:?}"),
            };
            let message = unavailable(durable.await.unwrap().err());
            assert!(panics || message.contains("No space left"), "{message}");
            unavailable(writer.await.unwrap().err());
            unavailable(store.set("d", b"").await.err());
            unavailable(store.get("before").await.err());
            unavailable(store.list(None).await.err());
            unavailable(store.durable(store.position()).await.err());
            // What was durable still is.
            store.durable(before).await.unwrap();
            assert_eq!(store.durable_position(), before);
            // The disk being well again changes nothing.
            control.fails.store(false, Ordering::Release);
            control.panics.store(false, Ordering::Release);
            unavailable(store.set("d", b"").await.err());
            let store = Arc::into_inner(store).unwrap();
            unavailable(store.close().err());
            assert_eq!(control.entries.lock().len(), 1);
        }
    }

    #[test]
    fn values_keep_their_kind_on_disk() {
        for value in [
            Value::Counter(i64::MIN),
            Value::Bytes(Arc::from(&b""[..])),
            Value::Bytes(Arc::from(&[TAG_COUNTER; 8][..])),
        ] {
            assert_eq!(Value::decode(&value.encode()), Ok(value));
        }
        for unknown in [&b""[..], &[7, 1, 2], &[TAG_COUNTER, 1]] {
            assert!(Value::decode(unknown).is_err());
        }
    }
}
