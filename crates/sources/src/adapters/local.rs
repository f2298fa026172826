//! A file or folder on this machine. The operator wrote it down, so links to files are followed; links to folders are not,
//! because they may lead round in a circle.

use super::listing::{FileLocation, Item, Limits, Listing, too_many};
use crate::error::Error;
use std::path::{Path, PathBuf};

/// Levels of folders that are listed.
const MAX_DEPTH: usize = 8;

/// Lists a file or a folder.
pub fn list(path: &Path, limits: Limits) -> Result<Listing, Error> {
    let unreadable = |e| Error::io(format!("read {}", path.display()), e);
    let path = path.canonicalize().map_err(unreadable)?;
    if path.is_file() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("model");
        let items = vec![item(name.to_owned(), path.clone())?];
        return Ok(Listing {
            items,
            single: true,
            ..Listing::default()
        });
    }
    let path = snapshot(&path).unwrap_or(path);
    let mut items = Vec::new();
    walk(&path, String::new(), 0, limits, &mut items)?;
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing {
        items,
        ..Listing::default()
    })
}

/// The snapshot of `main` if a folder is a repository in the cache of huggingface_hub.
fn snapshot(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    if !name.starts_with("models--") {
        return None;
    }
    let commit = crate::credentials::small_file(&path.join("refs/main")).ok()?;
    let commit = commit.trim();
    let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    let found = path.join("snapshots").join(commit);
    (plain && found.is_dir()).then_some(found)
}

fn walk(
    folder: &Path,
    below: String,
    depth: usize,
    limits: Limits,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    let unreadable = |e| Error::io(format!("list {}", folder.display()), e);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(Error::refused(format!(
                "{} has a name that is not UTF-8",
                entry.path().display()
            )));
        };
        // Tools hide folders such as .git and .cache.
        if name.starts_with('.') {
            continue;
        }
        let path = if below.is_empty() {
            name.to_owned()
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() {
            if depth + 1 >= MAX_DEPTH {
                return Err(Error::refused(format!(
                    "{path} is more than {MAX_DEPTH} folders deep"
                )));
            }
            walk(&entry.path(), path, depth + 1, limits, items)?;
        } else if entry.path().is_file() {
            if items.len() >= limits.files {
                return Err(too_many(limits));
            }
            items.push(item(path, entry.path())?);
        }
    }
    Ok(())
}

fn item(path: String, place: PathBuf) -> Result<Item, Error> {
    let found =
        std::fs::metadata(&place).map_err(|e| Error::io(format!("read {}", place.display()), e))?;
    let changed = found
        .modified()
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(Item {
        path,
        place: FileLocation::Local(place),
        bytes: Some(found.len()),
        sha256: None,
        validator: changed.map(|at| format!("{}-{}", found.len(), at.as_nanos())),
        immutable: false,
        archive: false,
    })
}
