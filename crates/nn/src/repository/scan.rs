//! The state of the disk: the models directory as names, sizes and times of change, and the moment at which a change is
//! complete.
//!
//! Decisions:
//!
//! - **A scan is cheap.** It lists folders and asks for sizes and times; only a changed contract is read.
//! - **Polled, not notified.** Notifications do not cross network file systems, nor the mounts of many containers.
//! - **A change counts when two scans in a row see the same**, so that files are not read while they are copied. A copy
//!   that pauses for longer than that is loaded too early, fails, and is loaded again when the copy continues.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use penstock_tensor::contract::{Contract, Format};

use super::plan::{ContractState, FoundModel, Graph, Reason, Stamp};
use crate::layout::{self, CONTRACT_FILE, GRAPH_FILE};

/// Most files of one version's folder that are looked at; a graph has one file, or a handful with its weights.
const MAX_GRAPH_FILES: usize = 4096;

/// The largest configuration of an adapter in bytes; guests read no larger file.
const MAX_CONFIG_BYTES: u64 = penstock_tensor::contract::MAX_ADAPTER_FILE_BYTES;

/// A contract as it was read.
#[derive(Clone)]
pub(super) struct Reading {
    pub stamp: Stamp,
    /// The contract, if it could be parsed.
    pub contract: Option<Arc<Contract>>,
    /// Its text, if there is one, for guests to read unchanged.
    pub text: Option<Arc<[u8]>>,
    /// The files of the adapter's configuration: name and content.
    pub files: Vec<(String, Arc<[u8]>)>,
    /// The version whose graph alone made the contract, before any run.
    pub derived_from: Option<u64>,
}

/// One look at a model's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    contract: Stamp,
    versions: BTreeMap<u64, Graph>,
    /// Folders that look like versions but have no valid name, a few of them.
    pub(super) no_versions: BTreeSet<String>,
    /// The derived contract, if a run corrected it.
    corrected: Option<Arc<str>>,
}

impl Look {
    /// Takes a corrected text for the derived contract.
    fn correct(&mut self, text: &Arc<str>) {
        self.contract = corrected_stamp(self.contract, text);
        self.corrected = Some(text.clone());
    }
}

/// The most folders of a model that are reported as invalid versions.
const MAX_NO_VERSIONS: usize = 8;

/// Scans a models directory, and remembers the state for the next scan.
#[derive(Default)]
pub(super) struct Looker {
    /// The files beside a contract that belong to it, by the contract's own stamp.
    configs: BTreeMap<String, (Stamp, Vec<String>)>,
    /// Derived contracts that a run corrected, by model: the stamp of the derived one, and the corrected text.
    corrections: BTreeMap<String, (Stamp, Arc<str>)>,
    last: BTreeMap<String, Look>,
    told: BTreeMap<String, Look>,
}

impl Looker {
    /// Every model's directory now, and the changes in them, without waiting for them to be complete.
    pub(super) fn first(&mut self, root: &Path) -> io::Result<Vec<(String, Option<Look>)>> {
        let looks = self.look(root)?;
        self.last = looks.clone();
        self.told = looks.clone();
        Ok(looks
            .into_iter()
            .map(|(name, look)| (name, Some(look)))
            .collect())
    }

    /// Models whose files have changed since the last report and are stable now; `None` is a directory that is gone.
    pub(super) fn settled(&mut self, root: &Path) -> io::Result<Vec<(String, Option<Look>)>> {
        let looks = self.look(root)?;
        let mut news = Vec::new();
        for (name, look) in &looks {
            let is_stable = self.last.get(name) == Some(look);
            if is_stable && self.told.get(name) != Some(look) {
                news.push((name.clone(), Some(look.clone())));
                self.told.insert(name.clone(), look.clone());
            }
        }
        let gone = |name: &&String| !looks.contains_key(*name) && !self.last.contains_key(*name);
        let gone: Vec<String> = self.told.keys().filter(gone).cloned().collect();
        for name in gone {
            self.told.remove(&name);
            self.configs.remove(&name);
            self.corrections.remove(&name);
            news.push((name, None));
        }
        self.last = looks;
        Ok(news)
    }

    /// From now on the model's derived contract of this stamp has the corrected text. It is another contract then. Returns
    /// its stamp, or `None` if the last reported look has another contract by now. Does not read the disk: files that are
    /// being copied would be taken as complete.
    pub(super) fn correct(&mut self, name: &str, derived: Stamp, text: &Arc<str>) -> Option<Stamp> {
        let is_same = |look: &&mut Look| look.contract == derived;
        let told = self.told.get_mut(name).filter(is_same)?;
        told.correct(text);
        if let Some(last) = self.last.get_mut(name).filter(is_same) {
            last.correct(text);
        }
        self.corrections
            .insert(name.to_owned(), (derived, text.clone()));
        Some(told.contract)
    }

    /// One model's directory now, taken as complete on request.
    pub(super) fn at_once(&mut self, root: &Path, name: &str) -> Option<Look> {
        // On a case-insensitive file system `Cls` and `cls` would be two models of one folder.
        let mut listed = std::fs::read_dir(root).ok()?.flatten();
        if !layout::is_model_name(name) || !listed.any(|item| item.file_name() == *name) {
            return None;
        }
        let look = self.look_at(&root.join(name), name).ok()?;
        self.last.insert(name.to_owned(), look.clone());
        self.told.insert(name.to_owned(), look.clone());
        Some(look)
    }

    fn look(&mut self, root: &Path) -> io::Result<BTreeMap<String, Look>> {
        let mut looks = BTreeMap::new();
        for item in std::fs::read_dir(root)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            // Files in the models directory (a README) are not models; nor are hidden folders of tools (.git, .cache).
            if name.starts_with('.') || !item.path().is_dir() {
                continue;
            }
            match self.look_at(&item.path(), &name) {
                Ok(look) => looks.insert(name, look),
                // One that cannot be listed for a moment is not gone.
                Err(_) => (self.last.get(&name).cloned()).and_then(|look| looks.insert(name, look)),
            };
        }
        Ok(looks)
    }

    fn look_at(&mut self, dir: &Path, name: &str) -> io::Result<Look> {
        let mut versions = BTreeMap::new();
        let mut no_versions = BTreeSet::new();
        for item in std::fs::read_dir(dir)? {
            let item = item?;
            let name = item.file_name();
            let Some(name) = name.to_str() else { continue };
            match layout::version_number(name) {
                Some(number) if item.path().is_dir() => {
                    versions.insert(number, graph(&item.path()));
                }
                None if layout::is_no_version(name) && item.path().is_dir() => {
                    no_versions.insert(name.to_owned());
                    if no_versions.len() > MAX_NO_VERSIONS {
                        no_versions.pop_last();
                    }
                }
                _ => {}
            }
        }
        // A sample is tried before the model serves, so a new sample has the effect of a new contract.
        let own = digest(
            ([CONTRACT_FILE, layout::SAMPLE_FILE].into_iter())
                .filter_map(|name| file_of(&dir.join(name), name)),
        );
        let config = match self.configs.get(name) {
            Some((known, config)) if *known == own => config.clone(),
            _ => {
                let contract = layout::contract(name, dir).ok();
                let config = contract.as_ref().map(file_names).unwrap_or_default();
                self.configs.insert(name.to_owned(), (own, config.clone()));
                config
            }
        };
        // A contract that is derived from a graph changes with it.
        let mut corrected = None;
        let own = match dir.join(CONTRACT_FILE).exists() {
            true => own,
            false => {
                let mut hasher = DefaultHasher::new();
                let graph = versions
                    .last_key_value()
                    .map(|(_, graph): (_, &Graph)| graph.stamp);
                (own, graph).hash(&mut hasher);
                let derived = Stamp(hasher.finish());
                corrected = (self.corrections.get(name))
                    .filter(|(of, _)| *of == derived)
                    .map(|(_, text)| text.clone());
                (corrected.as_deref()).map_or(derived, |text| corrected_stamp(derived, text))
            }
        };
        let mut contract = own;
        for name in config {
            if let Some(file) = file_of(&dir.join(&name), &name) {
                let mut hasher = DefaultHasher::new();
                (contract, file).hash(&mut hasher);
                contract = Stamp(hasher.finish());
            }
        }
        Ok(Look {
            contract,
            versions,
            no_versions,
            corrected,
        })
    }
}

/// The stamp of a derived contract that a run corrected.
fn corrected_stamp(derived: Stamp, text: &str) -> Stamp {
    let mut hasher = DefaultHasher::new();
    (derived, text).hash(&mut hasher);
    Stamp(hasher.finish())
}

/// The files that a contract's adapter reads.
fn file_names(contract: &Contract) -> Vec<String> {
    let adapter = contract.adapter.iter();
    adapter
        .flat_map(|adapter| adapter.files())
        .map(str::to_owned)
        .collect()
}

/// The contents of a version's folder, by names, sizes and times.
pub(super) fn graph(dir: &Path) -> Graph {
    let mut files: Vec<File> = (std::fs::read_dir(dir).into_iter().flatten().flatten())
        .take(MAX_GRAPH_FILES)
        .filter_map(|item| item.file_name().into_string().ok())
        // Copying tools give an unfinished file such a name and rename it at the end.
        .filter(|name| !name.starts_with('.'))
        .filter_map(|name| file_of(&dir.join(&name), &name))
        .collect();
    files.sort_unstable();
    Graph {
        bytes: files.iter().map(|file| file.1).sum(),
        stamp: digest(files.into_iter()),
    }
}

/// Name, size, and time of change in nanoseconds.
type File = (String, u64, u128);

fn file_of(path: &Path, name: &str) -> Option<File> {
    let found = std::fs::metadata(path)
        .ok()
        .filter(|found| found.is_file())?;
    let modified = found.modified().ok();
    let time = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Some((
        name.to_owned(),
        found.len(),
        time.unwrap_or_default().as_nanos(),
    ))
}

fn digest(files: impl Iterator<Item = File>) -> Stamp {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
    }
    Stamp(hasher.finish())
}

/// Reads the files that a scan found.
///
/// With `derive`, a folder without a contract has one that is derived from the graph of its highest version. If a run
/// contradicted that one, it is the corrected one.
pub(super) fn read(root: &Path, name: &str, look: Look, derive: bool) -> (FoundModel, Reading) {
    let dir = root.join(name);
    let is_derived = derive && !dir.join(CONTRACT_FILE).exists();
    let derived = is_derived.then(|| match &look.corrected {
        Some(text) => Ok(text.to_string()),
        None => derived(&dir, &look),
    });
    let parsed = match &derived {
        Some(Ok(text)) => layout::parsed(name, text),
        Some(Err(reason)) => Err(reason.clone()),
        None => layout::contract(name, &dir),
    };
    let contract = parsed.as_ref().ok().cloned().map(Arc::new);
    let bounded = |path: &Path, most: u64| -> Option<Arc<[u8]>> {
        let size = std::fs::metadata(path).ok()?.len();
        let bytes = (size <= most).then(|| std::fs::read(path).ok())??;
        Some(bytes.into())
    };
    let names = contract.as_deref().map(file_names).unwrap_or_default();
    let files = names.into_iter().filter_map(|file| {
        let bytes = bounded(&dir.join(&file), MAX_CONFIG_BYTES)?;
        Some((file, bytes))
    });
    let files = files.collect();
    let reading = Reading {
        stamp: look.contract,
        contract,
        derived_from: (is_derived && look.corrected.is_none())
            .then(|| look.versions.keys().next_back().copied())
            .flatten(),
        text: match derived {
            Some(Ok(text)) => Some(text.into_bytes().into()),
            _ => bounded(&dir.join(CONTRACT_FILE), layout::MAX_CONTRACT_BYTES),
        },
        files,
    };
    // The graphs are read only now: their expected memory decides which models have room together.
    let format = contract_format(parsed.as_ref().ok());
    let versions = (look.versions.into_iter())
        .map(|(number, graph)| {
            let path = dir
                .join(number.to_string())
                .join(layout::graph_file(format));
            let bytes = crate::held::estimate(&path, graph.bytes);
            (number, Graph { bytes, ..graph })
        })
        .collect();
    let seen = FoundModel {
        contract: ContractState {
            stamp: look.contract,
            pinned: parsed
                .map(|contract| contract.engine.pinned)
                .map_err(Reason::from),
        },
        versions,
    };
    (seen, reading)
}

/// The contract that the graph of the highest version makes.
fn derived(dir: &Path, look: &Look) -> Result<String, String> {
    let (version, _) = look.versions.last_key_value().ok_or_else(no_version)?;
    let path = dir.join(version.to_string()).join(GRAPH_FILE);
    let graph = crate::backend::Graph::read(&path).map_err(|error| {
        format!(
            "it has no {CONTRACT_FILE}, and none can be derived from version {version}: {}",
            error.message
        )
    })?;
    let derived = crate::derive::derive(&crate::derive::Description::of(&graph));
    match derived.obstacles.first() {
        Some(obstacle) => Err(format!(
            "it has no {CONTRACT_FILE}, and none can be derived: {obstacle}"
        )),
        None => Ok(derived.text),
    }
}

fn contract_format(contract: Option<&Contract>) -> Format {
    contract.map(|contract| contract.format).unwrap_or_default()
}

/// The message for a model without versions.
pub(super) fn no_version() -> String {
    format!("it has no version; put the graph at 1/{GRAPH_FILE} in its directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(news: &[(String, Option<Look>)]) -> Vec<(&str, bool)> {
        news.iter()
            .map(|(name, look)| (name.as_str(), look.is_some()))
            .collect()
    }

    #[test]
    fn a_change_is_told_once_when_two_looks_agree_on_it() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/1/model.onnx", "x");
        let mut looker = Looker::default();
        assert_eq!(names(&looker.first(root.path()).unwrap()), [("a", true)]);
        let mut settled = || looker.settled(root.path()).unwrap();
        assert!(settled().is_empty());
        for growing in ["xx", "xxx", "xxxx"] {
            write("a/1/model.onnx", growing);
            assert!(settled().is_empty(), "it grew since the last look");
        }
        assert_eq!(names(&settled()), [("a", true)]);
        assert!(settled().is_empty());
        write("a/1/.model.onnx.part", "what tools copy into");
        write("a/readme", "not part of it");
        write("b/model.toml", "");
        write(".git/1/model.onnx", "");
        assert!(settled().is_empty());
        assert_eq!(names(&settled()), [("b", true)]);
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        assert!(settled().is_empty(), "gone for one look only");
        assert_eq!(names(&settled()), [("a", false)]);
        assert!(settled().is_empty());
    }

    #[test]
    fn a_corrected_contract_counts_for_the_look_that_was_reported() {
        let root = tempfile::tempdir().unwrap();
        let graph = root.path().join("m/1/model.onnx");
        std::fs::create_dir_all(graph.parent().unwrap()).unwrap();
        std::fs::write(&graph, "x").unwrap();
        let text: Arc<str> = "corrected".into();
        let mut looker = Looker::default();
        looker.first(root.path()).unwrap();
        let derived = looker.told["m"].contract;
        assert_eq!(looker.correct("other", derived, &text), None);
        let corrected = looker.correct("m", derived, &text).expect("it is the same");
        assert_ne!(corrected, derived);
        assert!(looker.settled(root.path()).unwrap().is_empty());
        let look = looker.at_once(root.path(), "m").unwrap();
        assert_eq!(
            (look.contract, look.corrected),
            (corrected, Some(text.clone()))
        );
        assert_eq!(looker.correct("m", derived, &text), None);
        // A correction takes no change of the files as complete.
        let mut looker = Looker::default();
        looker.first(root.path()).unwrap();
        std::fs::write(&graph, "half of").unwrap();
        assert_eq!(looker.correct("m", derived, &text), Some(corrected));
        assert!(looker.settled(root.path()).unwrap().is_empty());
        let news = looker.settled(root.path()).unwrap();
        assert_eq!(names(&news), [("m", true)]);
        assert_eq!(looker.told["m"].corrected, None);
        assert_eq!(looker.correct("m", corrected, &text), None);
    }

    #[test]
    fn a_contract_changes_with_the_file_its_adapter_reads() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        std::fs::create_dir_all(dir.join("1")).unwrap();
        let contract = "description = \"A vector\"\nformat = \"onnx\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [1]\n\
                        [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n\
                        [adapter]\nname = \"a\"\nconfig = \"c.json\"\n";
        std::fs::write(dir.join(CONTRACT_FILE), contract).unwrap();
        std::fs::write(dir.join("c.json"), "{}").unwrap();
        assert_eq!(layout::contract("m", &dir).map(|_| ()), Ok(()));
        let mut looker = Looker::default();
        let first = looker.at_once(root.path(), "m").unwrap();
        assert_eq!(looker.at_once(root.path(), "m").unwrap(), first);
        std::fs::write(dir.join("c.json"), "{\"a\":1}").unwrap();
        let second = looker.at_once(root.path(), "m").unwrap();
        assert_ne!(second.contract, first.contract);
        let (_, reading) = read(root.path(), "m", second, false);
        assert_eq!(reading.files[0].1[..], *b"{\"a\":1}");
        assert_eq!(looker.at_once(root.path(), "../m"), None);
    }
}
