//! Downloaded files, by content.
//!
//! ```text
//! blobs/ab/ab12…       a file, by its SHA-256; read-only
//! sources/<key>.json   the files that a source was made of, the last time
//! partial/<key>.part   an unfinished download; its state is in <key>.json
//! locks/<key>          held by the process that pulls the source
//! lock                 held for reading by pulls, and for writing by prune
//! ```
//!
//! Everything appears under its name by a rename, after its bytes are on the disk.

use crate::digest::{Digest, Hasher};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes of a download between two points that survive a crash of the machine.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Age after which a partial download is not resumed.
const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The SHA-256 of its bytes, by which the cache names it.
    pub sha256: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One download of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downloaded {
    /// Its path in the source.
    pub path: String,
    /// The server's own name for the file's state.
    pub validator: Option<String>,
    /// Its content in the cache.
    #[serde(flatten)]
    pub blob: Blob,
}

/// The files that a source was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The address of the source, without secrets.
    pub from: String,
    /// The checksum for pinning: of the single file, or over all files.
    pub pin: Digest,
    /// The commit or digest that the source states.
    pub identity: Option<String>,
    /// The key that signed it.
    pub signed_by: Option<String>,
    /// The files that were downloaded, archives packed.
    pub items: Vec<Downloaded>,
    /// The files that came out of them, by path.
    pub files: BTreeMap<String, Blob>,
}

/// A folder with downloads and the files that came out of them, by content.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Locks that end when it is dropped.
pub struct Guard {
    _files: Vec<File>,
}

/// The result of a prune.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of files that were removed.
    pub files: u64,
    /// Their bytes, as far as no version of a model still holds them.
    pub bytes: u64,
    /// Number of files that stay.
    pub kept: u64,
}

impl Cache {
    /// Opens a cache, and makes its folders.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for folder in ["blobs", "sources", "partial", "locks", "tmp"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder)
                .map_err(|e| Error::io(format!("make {}", folder.display()), e))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The path of a blob.
    pub fn blob(&self, sha256: Digest) -> PathBuf {
        let name = sha256.to_string();
        self.root.join("blobs").join(&name[..2]).join(name)
    }

    /// Returns whether a blob is there, by its size.
    pub fn has(&self, blob: &Blob) -> bool {
        std::fs::metadata(self.blob(blob.sha256))
            .is_ok_and(|found| found.is_file() && found.len() == blob.bytes)
    }

    /// The size of a blob that is there.
    pub fn size(&self, sha256: Digest) -> Option<u64> {
        std::fs::metadata(self.blob(sha256))
            .ok()
            .map(|found| found.len())
    }

    /// Returns whether a blob still has its sum; one that has not is removed.
    pub fn sound(&self, blob: &Blob) -> bool {
        let path = self.blob(blob.sha256);
        let sound = Digest::of_file(&path).is_ok_and(|(sum, _)| sum == blob.sha256);
        if !sound {
            let _ = std::fs::remove_file(path);
        }
        sound
    }

    /// Removes a blob from the cache, if it is there.
    pub fn forget(&self, sha256: Digest) {
        let _ = std::fs::remove_file(self.blob(sha256));
    }

    /// Stores the bytes of a reader, and returns their checksum and size.
    pub fn keep(&self, from: &mut dyn Read) -> Result<Blob, Error> {
        let cannot = |e| Error::io("write to the cache", e);
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp")).map_err(cannot)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut bytes = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                // This covers an archive with a wrong checksum, too.
                Err(e) => return Err(Error::refused(format!("a file cannot be read: {e}"))),
            };
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(cannot)?;
            bytes += count as u64;
        }
        let blob = Blob {
            sha256: hasher.finish(),
            bytes,
        };
        file.as_file().sync_all().map_err(cannot)?;
        self.take(
            file.into_temp_path()
                .keep()
                .map_err(|e| cannot(e.error))?
                .as_path(),
            &blob,
        )?;
        Ok(blob)
    }

    /// Gives a file that is on the disk its name.
    fn take(&self, file: &Path, blob: &Blob) -> Result<(), Error> {
        let to = self.blob(blob.sha256);
        let cannot = |e| Error::io(format!("write {}", to.display()), e);
        let folder = to.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(cannot)?;
        // Versions share the file, so a change to one would change all.
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).map_err(cannot)?;
        std::fs::rename(file, &to).map_err(cannot)?;
        sync_folder(folder).map_err(cannot)
    }

    /// The file in which a source is remembered.
    fn source(&self, key: &str) -> PathBuf {
        self.root.join("sources").join(format!("{key}.json"))
    }

    /// The files that a source was made of the last time.
    pub fn known(&self, key: &str) -> Option<Known> {
        serde_json::from_slice(&std::fs::read(self.source(key)).ok()?).ok()
    }

    /// Remembers the files that a source was made of.
    pub fn remember(&self, key: &str, known: &Known) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(known).map_err(|e| Error::local(e.to_string()))?;
        write_whole(&self.source(key), &text)
    }

    /// Locks a source; `None` where another process holds it.
    pub fn lock(&self, key: &str) -> Result<Option<Guard>, Error> {
        let own = self.open_lock(&self.root.join("locks").join(key))?;
        let all = self.open_lock(&self.root.join("lock"))?;
        let cannot = |e| Error::io("lock the cache", e);
        for tried in [own.try_lock(), all.try_lock_shared()] {
            match tried {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(cannot(e)),
            }
        }
        Ok(Some(Guard {
            _files: vec![own, all],
        }))
    }

    /// Waits for a turn to install: two versions of a new model would both make its folder.
    pub fn install_turn(&self) -> Result<Guard, Error> {
        let file = self.open_lock(&self.root.join("locks/install"))?;
        file.lock().map_err(|e| Error::io("lock the cache", e))?;
        Ok(Guard { _files: vec![file] })
    }

    fn open_lock(&self, path: &Path) -> Result<File, Error> {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        opened.map_err(|e| Error::io(format!("open {}", path.display()), e))
    }

    /// Removes entries that are neither part of a source in `keys` nor named by a checksum in `used`. `dry` only
    /// counts.
    pub fn prune(
        &self,
        keys: &BTreeSet<String>,
        used: &BTreeSet<Digest>,
        dry: bool,
    ) -> Result<Pruned, Error> {
        let all = self.open_lock(&self.root.join("lock"))?;
        match all.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::local(
                    "a model is being pulled into this cache; try again when it is done",
                ));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock the cache", e)),
        }
        let cannot = |e| Error::io(format!("clean {}", self.root.display()), e);
        let mut used = used.clone();
        let mut pruned = Pruned::default();
        for (path, name) in files(&self.root.join("sources")).map_err(cannot)? {
            let key = name.trim_end_matches(".json");
            match self.known(key).filter(|_| keys.contains(key)) {
                Some(known) => used.extend(known.files.values().map(|blob| blob.sha256)),
                None if dry => {}
                None => std::fs::remove_file(path).map_err(cannot)?,
            }
        }
        let mut remove = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let found = std::fs::metadata(path)?;
            pruned.files += 1;
            // A blob that a version still holds under another name frees no room.
            pruned.bytes += if found.nlink() > 1 { 0 } else { found.len() };
            if dry {
                Ok(())
            } else {
                std::fs::remove_file(path)
            }
        };
        let mut kept = 0;
        for folder in std::fs::read_dir(self.root.join("blobs")).map_err(cannot)? {
            let folder = folder.map_err(cannot)?.path();
            for (path, name) in files(&folder).map_err(cannot)? {
                match Digest::parse(&name) {
                    Some(sum) if used.contains(&sum) => kept += 1,
                    _ => remove(&path).map_err(cannot)?,
                }
            }
        }
        // No process holds a lock, so no process writes these.
        for (path, _) in files(&self.root.join("tmp")).map_err(cannot)? {
            remove(&path).map_err(cannot)?;
        }
        for (path, _) in files(&self.root.join("partial")).map_err(cannot)? {
            let changed = std::fs::metadata(&path)
                .and_then(|found| found.modified())
                .map_err(cannot)?;
            let age = SystemTime::now()
                .duration_since(changed)
                .unwrap_or_default();
            if age > PARTIAL_AGE {
                remove(&path).map_err(cannot)?;
            }
        }
        pruned.kept = kept;
        Ok(pruned)
    }

    /// A download that resumes where it ended.
    pub fn partial(&self, key: &str) -> Result<Partial, Error> {
        Partial::open(&self.root.join("partial").join(format!("{key}.part")))
    }

    /// Moves a finished download to its place in the cache.
    pub fn finish(&self, partial: Partial) -> Result<Blob, Error> {
        let cannot = |e| Error::io("write to the cache", e);
        partial.file.sync_all().map_err(cannot)?;
        let blob = Blob {
            sha256: partial.hasher.clone().finish(),
            bytes: partial.bytes,
        };
        self.take(&partial.path, &blob)?;
        let _ = std::fs::remove_file(partial.state_path());
        Ok(blob)
    }
}

fn files(folder: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            ));
        }
    }
    Ok(files)
}

/// Makes renames in a folder survive a crash.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let cannot = |e| Error::io(format!("write {}", path.display()), e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".penstock-")
        .tempfile_in(folder)
        .map_err(cannot)?;
    file.write_all(bytes).map_err(cannot)?;
    let readable = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(readable).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    file.persist(path).map_err(|e| cannot(e.error))?;
    sync_folder(folder).map_err(cannot)
}

/// The state of a partial download.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    validator: Option<String>,
    /// Bytes that are on the disk.
    synced: u64,
    /// The machine's start in which they were written.
    boot: String,
}

/// A download that is not finished.
pub struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    bytes: u64,
    state: State,
}

impl Partial {
    fn open(path: &Path) -> Result<Self, Error> {
        let cannot = |e| Error::io(format!("write {}", path.display()), e);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path);
        let mut partial = Self {
            path: path.to_owned(),
            file: opened.map_err(cannot)?,
            hasher: Hasher::default(),
            bytes: 0,
            state: State::default(),
        };
        let state = std::fs::read(partial.state_path()).ok();
        let state: State = state
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let length = partial.file.metadata().map_err(cannot)?.len();
        // After a crash of the machine, bytes that were not synced to the disk may be zeros.
        let good = if state.boot == boot() {
            length
        } else {
            length.min(state.synced)
        };
        partial.file.set_len(good).map_err(cannot)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        while partial.bytes < good {
            let count = partial.file.read(&mut buffer).map_err(cannot)?;
            if count == 0 {
                break;
            }
            partial.hasher.update(&buffer[..count]);
            partial.bytes += count as u64;
        }
        partial.state = State {
            boot: boot(),
            ..state
        };
        Ok(partial)
    }

    fn state_path(&self) -> PathBuf {
        self.path.with_extension("json")
    }

    /// The bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The server's own name for the file's state.
    pub fn validator(&self) -> Option<&str> {
        self.state.validator.as_deref()
    }

    /// The checksum of the bytes so far.
    pub fn sum(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Drops all bytes; the next ones belong to this state of the file.
    pub fn start_over(&mut self, validator: Option<String>) -> Result<(), Error> {
        use std::io::Seek;
        let cannot = |e| Error::io("write to the cache", e);
        self.file.set_len(0).map_err(cannot)?;
        self.file.rewind().map_err(cannot)?;
        self.hasher = Hasher::default();
        self.bytes = 0;
        self.state = State {
            validator,
            synced: 0,
            boot: boot(),
        };
        // Saved before the bytes: bytes of one state must not be taken for those of another.
        self.save()
    }

    /// Adds bytes to the end, and syncs them from time to time.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(chunk)
            .map_err(|e| Error::io("write to the cache", e))?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        if self.bytes - self.state.synced >= CHECKPOINT_BYTES {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Syncs the bytes so far to the disk.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("write to the cache", e))?;
        self.state.synced = self.bytes;
        self.save()
    }

    fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_vec(&self.state).map_err(|e| Error::local(e.to_string()))?;
        write_whole(&self.state_path(), &text)
    }

    /// Removes the file and its state.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.state_path());
    }
}

/// An identifier of this start of the machine; empty without one, which then never matches.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| format!("{:032x}", rand::random::<u128>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_download_is_taken_up_and_one_of_another_start_only_as_far_as_it_was_forced_to_the_disk()
     {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let mut part = cache.partial("k").unwrap();
        part.start_over(Some("\"a\"".to_owned())).unwrap();
        part.write(b"12345").unwrap();
        part.checkpoint().unwrap();
        part.write(b"678").unwrap();
        drop(part);
        let part = cache.partial("k").unwrap();
        assert_eq!((part.bytes(), part.validator()), (8, Some("\"a\"")));
        assert_eq!(part.sum(), Digest::of(b"12345678"));
        let state = State {
            boot: "another".to_owned(),
            ..part.state.clone()
        };
        std::fs::write(part.state_path(), serde_json::to_vec(&state).unwrap()).unwrap();
        drop(part);
        let mut part = cache.partial("k").unwrap();
        assert_eq!((part.bytes(), part.sum()), (5, Digest::of(b"12345")));
        part.write(b"9").unwrap();
        let blob = cache.finish(part).unwrap();
        assert_eq!(
            blob,
            Blob {
                sha256: Digest::of(b"123459"),
                bytes: 6
            }
        );
        assert!(cache.has(&blob) && cache.sound(&blob));
        assert_eq!(cache.partial("k").unwrap().bytes(), 0);
    }

    #[test]
    fn prune_keeps_what_is_named_and_removes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let keep = |text: &str| cache.keep(&mut text.as_bytes()).unwrap();
        let (used, known, loose) = (keep("used"), keep("known"), keep("loose"));
        let remembered = |blob: &Blob| Known {
            from: "x".to_owned(),
            pin: blob.sha256,
            identity: None,
            signed_by: None,
            items: Vec::new(),
            files: BTreeMap::from([("model.onnx".to_owned(), blob.clone())]),
        };
        cache.remember("one", &remembered(&known)).unwrap();
        cache.remember("two", &remembered(&loose)).unwrap();
        let (keys, sums) = (
            BTreeSet::from(["one".to_owned()]),
            BTreeSet::from([used.sha256]),
        );
        let expected = Pruned {
            files: 1,
            bytes: 5,
            kept: 2,
        };
        assert_eq!(cache.prune(&keys, &sums, true), Ok(expected));
        assert!(cache.has(&loose));
        let held = cache.lock("one").unwrap();
        assert!(held.is_some() && cache.lock("one").unwrap().is_none());
        assert!(
            cache.prune(&keys, &sums, false).is_err(),
            "while a model is pulled"
        );
        drop(held);
        assert_eq!(cache.prune(&keys, &sums, false), Ok(expected));
        assert!(cache.has(&used) && cache.has(&known) && !cache.has(&loose));
        assert_eq!(
            (cache.known("one").is_some(), cache.known("two").is_some()),
            (true, false)
        );
    }

    #[test]
    fn a_blob_that_changed_is_noticed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let blob = cache.keep(&mut &b"content"[..]).unwrap();
        let path = cache.blob(blob.sha256);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"CONTENT").unwrap();
        assert!(cache.has(&blob) && !cache.sound(&blob) && !cache.has(&blob));
    }
}
