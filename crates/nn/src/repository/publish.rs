//! The guests' view of the models: an immutable directory for each state of the catalogue.
//!
//! Guests read contracts and version folders from files. If these were the operator's own files, a guest could read a
//! contract that the engine has not accepted and never will. So it reads a copy of the accepted state, which is never
//! written to. When the catalogue changes there is another copy with a higher generation, and instances made under the
//! old one are dropped. A copy is removed with the last instance that sees it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::plan::Stamp;
use crate::layout::CONTRACT_FILE;

/// One model as guests see it.
#[derive(Clone)]
pub(super) struct Listed {
    pub name: String,
    pub contract: Stamp,
    pub text: Option<Arc<[u8]>>,
    pub files: Vec<(String, Arc<[u8]>)>,
    /// Its versions, and whether each answers.
    pub versions: Vec<(u64, bool)>,
}

/// The parts by which two states of the catalogue differ.
pub(super) type Key = Vec<(String, Stamp, Vec<(u64, bool)>)>;

pub(super) fn key(models: &[Listed]) -> Key {
    let one = |model: &Listed| (model.name.clone(), model.contract, model.versions.clone());
    models.iter().map(one).collect()
}

/// The same without the facts that files do not show.
fn shown(key: &Key) -> impl Iterator<Item = (&str, Stamp, impl Iterator<Item = u64>)> {
    key.iter().map(|(name, contract, versions)| {
        let versions = versions.iter().map(|(number, _)| *number);
        (name.as_str(), *contract, versions)
    })
}

/// The catalogue at one time, as files.
pub struct Snapshot {
    generation: u64,
    dir: Arc<TempDir>,
    key: Key,
    contracts: BTreeMap<String, Stamp>,
}

impl Snapshot {
    /// The folder of the files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The generation; higher than those of all earlier snapshots.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The contract a model has in it.
    pub(super) fn contract(&self, model: &str) -> Option<Stamp> {
        self.contracts.get(model).copied()
    }

    /// The snapshot of a catalogue after `last`, or `None` without a difference.
    pub(super) fn after(last: Option<&Self>, models: &[Listed]) -> io::Result<Option<Self>> {
        let key = key(models);
        if last.is_some_and(|last| last.key == key) {
            return Ok(None);
        }
        let same = |last: &&Self| {
            let (old, new) = (shown(&last.key), shown(&key));
            old.map(|(name, contract, versions)| (name, contract, versions.collect::<Vec<_>>()))
                .eq(new.map(|(name, contract, versions)| (name, contract, versions.collect())))
        };
        let dir = match last.filter(same) {
            Some(last) => last.dir.clone(),
            None => Arc::new(write(models)?),
        };
        Ok(Some(Self {
            generation: last.map_or(1, |last| last.generation + 1),
            dir,
            contracts: models
                .iter()
                .map(|model| (model.name.clone(), model.contract))
                .collect(),
            key,
        }))
    }
}

fn write(models: &[Listed]) -> io::Result<TempDir> {
    let root = tempfile::Builder::new()
        .prefix("penstock-models-")
        .tempdir()?;
    for model in models {
        let dir = root.path().join(&model.name);
        std::fs::create_dir(&dir)?;
        if let Some(text) = &model.text {
            std::fs::write(dir.join(CONTRACT_FILE), text)?;
        }
        for (name, bytes) in &model.files {
            let file = dir.join(name);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(file, bytes)?;
        }
        for (version, _) in &model.versions {
            std::fs::create_dir_all(dir.join(version.to_string()))?;
        }
    }
    Ok(root)
}
