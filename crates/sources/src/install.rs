//! Turns a pull's files into a version of a model, and checks later whether the version is unchanged.
//!
//! A version's folder is made under a temporary name and appears at its place by a rename, with its record in it. Its
//! large files share their bytes with the cache: as reflinks if the file system has them, else as hard links, else as
//! copies.

use crate::arrange::Arrangement;
use crate::cache::{Blob, Cache, sync_folder, write_whole};
use crate::digest::Digest;
use crate::error::Error;
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The record in a version's folder; models do not have hidden files.
pub const RECORD: &str = ".penstock.json";
/// Prefix of folders that are being made. The server ignores hidden folders.
const STAGE: &str = ".pull-";
/// Files up to here are copied: people edit contracts and labels, and no other version must change with them.
const COPIED_BYTES: u64 = 256 << 10;
/// The largest record that is read.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// The origin and the contents of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The address of the source, without secrets.
    pub from: String,
    /// The source's key in the cache.
    pub source: String,
    /// The checksum for pinning: of the single file, or over all files.
    pub sha256: Digest,
    /// The commit or digest that the source states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// The time of the pull, in seconds since 1970.
    pub pulled_s: u64,
    /// Files of the version's folder.
    pub files: BTreeMap<String, Blob>,
    /// Files of the model's folder.
    pub beside: BTreeMap<String, Blob>,
}

/// The result of an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Whether it replaced a version of that number.
    pub replaced: bool,
    /// Files of the model's folder that were changed since they were pulled, or are the operator's own, and were kept.
    pub kept: Vec<String>,
}

/// The record of an installed version.
pub fn record(models: &Path, name: &str, version: u64) -> Option<Record> {
    let path = models.join(name).join(version.to_string()).join(RECORD);
    let found = std::fs::metadata(&path).ok()?;
    if found.len() > MAX_RECORD_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Returns whether all files of a record are there, by their sizes.
pub fn whole(models: &Path, name: &str, version: u64, record: &Record) -> bool {
    let folder = models.join(name);
    let within = folder.join(version.to_string());
    let there = |path: PathBuf, blob: &Blob| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == blob.bytes)
    };
    // Files beside the version may have been edited, but must exist.
    record
        .files
        .iter()
        .all(|(path, blob)| there(within.join(path), blob))
        && record.beside.keys().all(|path| folder.join(path).is_file())
}

/// Installs the files of a version in the models directory. The version appears there as a whole.
pub fn install(
    models: &Path,
    name: &str,
    version: u64,
    cache: &Cache,
    arrangement: &Arrangement,
    files: &BTreeMap<String, Blob>,
    mut record: Record,
) -> Result<Installed, Error> {
    let blob = |from: &String| {
        files
            .get(from)
            .cloned()
            .ok_or_else(|| Error::local(format!("{from} is not in the cache")))
    };
    for (to, from) in &arrangement.version {
        record.files.insert(to.clone(), blob(from)?);
    }
    for (to, from) in &arrangement.beside {
        record.beside.insert(to.clone(), blob(from)?);
    }
    let text = serde_json::to_vec_pretty(&record).map_err(|e| Error::local(e.to_string()))?;
    let folder = models.join(name);
    let number = version.to_string();
    let exists = folder.exists();
    let place = folder.join(&number);
    if place.exists() && self::record(models, name, version).is_none() {
        return Err(Error::local(format!(
            "version {version} of model {name} exists and was not pulled; remove {}, or pull as another version",
            place.display()
        )));
    }
    let cannot = |doing: &str, path: &Path| {
        let doing = format!("{doing} {}", path.display());
        move |e| Error::io(doing, e)
    };
    std::fs::create_dir_all(models).map_err(cannot("make", models))?;
    // A model that is new appears whole, with its contract.
    let stage = match exists {
        true => folder.join(format!("{STAGE}{version}")),
        false => models.join(format!("{STAGE}{name}-{version}")),
    };
    remove(&stage)?;
    let within = if exists {
        stage.clone()
    } else {
        stage.join(&number)
    };
    std::fs::create_dir_all(&within).map_err(cannot("make", &within))?;
    for (path, blob) in &record.files {
        put(cache, blob, &within.join(path))?;
    }
    write_whole(&within.join(RECORD), &text)?;
    let mut installed = Installed::default();
    if !exists {
        for (path, blob) in &record.beside {
            put_copy(cache, blob, &stage.join(path))?;
        }
        sync_folder(&stage).map_err(cannot("write", &stage))?;
        std::fs::rename(&stage, &folder).map_err(cannot("write", &folder))?;
        sync_folder(models).map_err(cannot("write", models))?;
        return Ok(installed);
    }
    let pulled = pulled_beside(&folder);
    for (path, blob) in &record.beside {
        let to = folder.join(path);
        let there = to
            .exists()
            .then(|| Digest::of_file(&to).map(|(sum, _)| sum));
        match there {
            Some(Ok(sum)) if sum == blob.sha256 => {}
            Some(Ok(sum)) if !pulled.iter().any(|(of, was)| of == path && *was == sum) => {
                installed.kept.push(path.clone());
            }
            Some(Err(e)) => return Err(cannot("read", &to)(e)),
            _ => {
                let bytes = std::fs::read(cache.blob(blob.sha256)).map_err(cannot("read", &to))?;
                write_whole(&to, &bytes)?;
            }
        }
    }
    if place.exists() {
        installed.replaced = true;
        let swapped = rustix::fs::renameat_with(CWD, &stage, CWD, &place, RenameFlags::EXCHANGE);
        if swapped.is_err() {
            // On file systems without an exchange the version is missing for a moment. It is never half there.
            let old = folder.join(format!("{STAGE}{version}-old"));
            remove(&old)?;
            std::fs::rename(&place, &old).map_err(cannot("move", &place))?;
            std::fs::rename(&stage, &place).map_err(cannot("write", &place))?;
            remove(&old)?;
        }
    } else {
        std::fs::rename(&stage, &place).map_err(cannot("write", &place))?;
    }
    sync_folder(&folder).map_err(cannot("write", &folder))?;
    remove(&stage)?;
    Ok(installed)
}

/// The files that versions of a model put beside themselves when they were pulled.
fn pulled_beside(folder: &Path) -> Vec<(String, Digest)> {
    let versions = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let records = versions.filter_map(|entry| {
        let text = std::fs::read(entry.path().join(RECORD)).ok()?;
        serde_json::from_slice::<Record>(&text).ok()
    });
    records
        .flat_map(|record| {
            record
                .beside
                .into_iter()
                .map(|(path, blob)| (path, blob.sha256))
        })
        .collect()
}

fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()), e))
        }
        _ => Ok(()),
    }
}

fn put(cache: &Cache, blob: &Blob, to: &Path) -> Result<(), Error> {
    let cannot = |e| Error::io(format!("write {}", to.display()), e);
    if blob.bytes <= COPIED_BYTES {
        return put_copy(cache, blob, to);
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    let from = cache.blob(blob.sha256);
    let cloned = (|| -> std::io::Result<()> {
        let from = File::open(&from)?;
        let file = File::create_new(to)?;
        rustix::fs::ioctl_ficlone(&file, &from)?;
        file.sync_all()
    })();
    if cloned.is_ok() {
        return Ok(());
    }
    let _ = std::fs::remove_file(to);
    if std::fs::hard_link(&from, to).is_ok() {
        return Ok(());
    }
    put_copy(cache, blob, to)
}

fn put_copy(cache: &Cache, blob: &Blob, to: &Path) -> Result<(), Error> {
    let cannot = |e| Error::io(format!("write {}", to.display()), e);
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    let mut from = File::open(cache.blob(blob.sha256)).map_err(cannot)?;
    let mut file = File::create_new(to).map_err(cannot)?;
    std::io::copy(&mut from, &mut file).map_err(cannot)?;
    file.sync_all().map_err(cannot)
}

/// The result of comparing a version with its pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The name of the model.
    pub name: String,
    /// The number of the version.
    pub version: u64,
    /// The record of the pull.
    pub record: Record,
    /// Files that have changed, and how.
    pub faults: Vec<String>,
    /// Files beside the versions that were edited; that is allowed.
    pub edited: Vec<String>,
}

/// Every version with a record. `hash` reads all files; without it only sizes are compared.
pub fn verify(models: &Path, hash: bool) -> Result<Vec<Verification>, Error> {
    let list = |folder: &Path| -> Result<Vec<String>, Error> {
        let entries = match std::fs::read_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(format!("list {}", folder.display()), e))?,
        };
        let names = entries.flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    };
    let mut verifications = Vec::new();
    for name in list(models)? {
        let folder = models.join(&name);
        let mut versions: Vec<u64> = list(&folder)?
            .iter()
            .filter_map(|version| version.parse().ok())
            .collect();
        versions.sort_unstable();
        for version in versions {
            let Some(record) = record(models, &name, version) else {
                continue;
            };
            let within = folder.join(version.to_string());
            let mut verification = Verification {
                name: name.clone(),
                version,
                record,
                faults: Vec::new(),
                edited: Vec::new(),
            };
            for (path, blob) in &verification.record.files {
                verification
                    .faults
                    .extend(fault(&within.join(path), path, blob, hash));
            }
            for (path, blob) in &verification.record.beside {
                match fault(&folder.join(path), path, blob, true) {
                    Some(fault) if fault.ends_with("missing") => verification.faults.push(fault),
                    Some(_) => verification.edited.push(path.clone()),
                    None => {}
                }
            }
            for path in below(&within, "") {
                if path != RECORD && !verification.record.files.contains_key(&path) {
                    verification.faults.push(format!("{path} was added"));
                }
            }
            verifications.push(verification);
        }
    }
    Ok(verifications)
}

/// Paths of the files below a folder. The folder was made from a bounded listing; files added since are bounded by the
/// disk.
fn below(folder: &Path, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => paths.extend(below(&entry.path(), &path)),
            _ => paths.push(path),
        }
    }
    paths.sort();
    paths
}

fn fault(path: &Path, shown: &str, blob: &Blob, hash: bool) -> Option<String> {
    let Ok(found) = std::fs::metadata(path) else {
        return Some(format!("{shown} is missing"));
    };
    if found.len() != blob.bytes {
        return Some(format!(
            "{shown} has {} bytes, not {}",
            found.len(),
            blob.bytes
        ));
    }
    if !hash {
        return None;
    }
    match Digest::of_file(path) {
        Ok((sum, _)) if sum == blob.sha256 => None,
        Ok((sum, _)) => Some(format!(
            "{shown} has the SHA-256 {sum}, not {}",
            blob.sha256
        )),
        Err(e) => Some(format!("{shown} cannot be read: {e}")),
    }
}
