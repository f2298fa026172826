//! A durable store on one machine, with group commit.
//!
//! An operation is applied at once, to an overlay in memory over the database on disk. It gets the next [`Position`]
//! and enters the open batch; of several writes of one name a batch keeps the last. One thread takes the whole batch,
//! commits it with one sync of the disk, moves the durable position on, and drops the batch's entries from the overlay.
//! While the thread waits for the disk the next batch fills. So a commit carries more writes under load, and no write
//! waits for more than two commits.
//!
//! **Order.** A write gets its position and its place in a batch under one lock, so a batch is all the writes between
//! two positions. Batches are committed one after another, each one whole or not at all. A crash therefore leaves
//! exactly the writes up to some position, at or after the last one that [`Store::durable`] confirmed.
//!
//! **Back pressure.** When the open batch is full, writers wait until it is taken; they hold no thread. Memory for
//! writes that are not on disk yet is bounded by two batches.
//!
//! **A full disk.** Writes that grow the store are refused with [`StoreError::Full`] while it takes more than
//! [`EmbeddedSettings::max_disk_bytes`] or less than [`EmbeddedSettings::min_free_disk_bytes`] is left. Deleting still
//! works, and the freed space is given back in the background. The bounds are checked before every commit, so a batch
//! or two may pass them; the reserve is for that. If other programs fill the disk to the last byte, a commit fails.
//!
//! **A failed commit.** After a failed sync it is unknown which bytes reached the disk; even the operating system does
//! not know. A second try may report success although pages are lost. So the store fails for good: every operation, and
//! `durable` for every position that is not durable yet, returns [`StoreError::Unavailable`] until the process opens
//! the directory again, which reads the true contents of the disk.
//!
//! **Reading.** Entries that the overlay does not hold are read from the database on the calling thread: in
//! microseconds from memory, and from disk if they were not used lately. Listing, which may touch many blocks, runs on
//! its own thread.

use crate::disk::{Batch, Disk, FjallDisk, RECLAIMS, Value, Write};
pub use crate::disk::{
    DEFAULT_CACHE_BYTES, DEFAULT_MAX_DISK_BYTES, DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_MAX_PENDING_ENTRIES, DEFAULT_MIN_FREE_DISK_BYTES, EmbeddedSettings, OpenError,
};
use crate::store::{
    MAX_LIST_PAGE, MAX_VALUE_BYTES, Page, Position, Reply, Store, StoreError, Swap, check_kv_key,
    check_value,
};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Bytes that an entry of a batch costs beside its name and its value. They are counted so that tiny entries meet the
/// bound on bytes as well.
const PENDING_OVERHEAD_BYTES: usize = 128;

/// Locks of the overlay. One is held during a read of the database, so there are many more than threads.
const SHARDS: usize = 256;

/// Interval at which the free space on the disk is checked while no write comes.
const ROOM_EVERY: Duration = Duration::from_millis(500);

/// The pause between two tries to give room back.
const RECLAIM_EVERY: Duration = Duration::from_secs(2);

/// Listings waiting for their thread; a further one waits asynchronously.
const LISTINGS_QUEUED: usize = 64;

/// Prefix of this store's cursors.
const CURSOR_PREFIX: &str = "embedded:";

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
    /// Whether the store takes no more writes.
    closed: bool,
}

/// The progress of writing to disk.
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
    /// Wakes the writer thread when there are writes.
    filled: Condvar,
    /// Wakes writers that wait for room in the batch.
    taken: Notify,
    /// The last position, for reads that need no notification.
    last: AtomicU64,
    progress: watch::Sender<Progress>,
    /// Set once, together with `progress.failed`; for a cheap look at every operation.
    failed: OnceLock<StoreError>,
    /// The reason that writes may not grow the store, if there is one.
    full: Mutex<Option<String>>,
    is_full: AtomicBool,
    disk: Box<dyn Disk>,
}

/// The reason that an operation was not carried out at this attempt.
enum NotDone {
    /// The batch is full; try again when it was taken.
    Wait,
    /// The operation failed for good.
    Error(StoreError),
}

impl From<StoreError> for NotDone {
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
            "the disk failed, and the store is unavailable until it is opened again: {message}"
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

    /// The value of an entry. The lock is free between the read of the overlay and the read of the disk. An entry
    /// leaves the overlay only once the disk has it, so the returned value was current at some moment since the call.
    fn read(&self, kv_key: &str) -> Result<Option<Value>, StoreError> {
        check_kv_key(kv_key)?;
        self.check()?;
        if let Some(pending) = self.shard(kv_key).lock().get(kv_key) {
            return Ok(pending.write.clone());
        }
        self.read_disk(kv_key)
    }

    /// Changes an entry: `change` sees its value and returns the write to make, if any. If it is refused, nothing is done.
    fn write<T>(
        &self,
        kv_key: &str,
        change: impl Fn(Option<&Value>) -> Result<(T, Option<Write>), StoreError>,
    ) -> Result<T, NotDone> {
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
    fn enqueue(&self, kv_key: &str, write: &Write) -> Result<(Arc<str>, Position), NotDone> {
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
            return Err(NotDone::Wait);
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
        attempt: impl Fn(&Inner) -> Result<T, NotDone> + Send + 'a,
    ) -> Reply<'a, T> {
        match attempt(self) {
            Ok(answer) => Reply::ready(Ok(answer)),
            Err(NotDone::Error(error)) => Reply::ready(Err(error)),
            Err(NotDone::Wait) => Reply::later(self.write_patiently(attempt)),
        }
    }

    async fn write_patiently<T>(
        &self,
        attempt: impl Fn(&Inner) -> Result<T, NotDone>,
    ) -> Result<T, StoreError> {
        loop {
            // Listening starts before the attempt, so a batch taken in between is not missed.
            let mut taken = std::pin::pin!(self.taken.notified());
            taken.as_mut().enable();
            match attempt(self) {
                Ok(answer) => return Ok(answer),
                Err(NotDone::Error(error)) => return Err(error),
                Err(NotDone::Wait) => taken.await,
            }
        }
    }

    fn put(&self, kv_key: &str, value: &[u8]) -> Result<(), NotDone> {
        check_value(value)?;
        let value = Value::Bytes(value.into());
        self.write(kv_key, |_| Ok(((), Some(Some(value.clone())))))
    }

    fn remove(&self, kv_key: &str) -> Result<(), NotDone> {
        self.write(kv_key, |current| Ok(((), current.map(|_| None))))
    }

    fn add(&self, kv_key: &str, delta: i64) -> Result<i64, NotDone> {
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

    fn swap(&self, kv_key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<Swap, NotDone> {
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

    /// A page of names, in order. The overlay is read before the disk: an entry that has left it by then is on the disk
    /// already, so an entry that exists throughout is never missed.
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
            // A name from the overlay and one from the disk. If a name is on both, the overlay is right.
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

    /// The loop of the writer thread. It ends when the store is closed and everything is on disk.
    fn write_batches(&self, reclaim: &SyncSender<()>) {
        let mut reclaims = 0;
        let mut reclaimed: Option<Instant> = None;
        loop {
            // The check takes microseconds, little beside a sync, and a fast disk can fill the reserve in a second.
            self.look_for_room();
            // The database merges after many writes, and a full store gets few.
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
                    // Wake up at intervals as well: the disk may get free space without any write.
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
                // Fail the store before the batch is closed, so that a caller that meets the closed batch finds the
                // reason.
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
            // Unknown: a commit on a full disk will fail.
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

/// A listing that a caller waits for.
type Listing = (Option<String>, oneshot::Sender<Result<Page, StoreError>>);

/// A durable store in a directory of this machine.
///
/// Dropping it writes the pending entries and waits for the disk. That takes a moment on the dropping thread.
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
        // Check before the first write.
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
                    // A caller that stopped waiting needs no answer.
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

    /// Writes the pending entries, waits for the disk and releases the directory. An error means that not everything
    /// reached the disk. Blocks the calling thread for a moment.
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

    fn is_exclusive(&self) -> bool {
        true
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
                Err(NotDone::Error(error)) => return Reply::ready(Err(error)),
                Err(NotDone::Wait) => {
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
                Err(NotDone::Error(error)) => return Reply::ready(Err(error)),
                Err(NotDone::Wait) => {
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
        // A position that was never written is not waited for.
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
mod tests;
