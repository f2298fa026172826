//! Decides which application manifests are accepted: Spin's `spin.toml`, version 2, read strictly.
//!
//! The manifest describes the application: the component for each path, the parts of each component, and their
//! permissions. A field that is misspelt or ignored would be a false promise. So every field is one of three things:
//! served here, harmless (build instructions, descriptions, tool settings), or an error with its line. A field that
//! Spin knows and this host does not serve yet is named as such. An unknown field comes with the most likely name.
//!
//! All faults are reported at once. [`Manifest::parse`] reads only the text. [`Manifest::load`] also checks the files
//! that it names.

mod components;
mod dependency;
mod reader;
mod triggers;
mod types;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use dependency::DependencyName;
pub(crate) use dependency::compatible;
pub use types::{
    Application, Capability, Component, Dependency, EntryPointKind, FileEntry, FileForm, HttpRoute,
    HttpTrigger, Inherit, Manifest, Nn, OtherSource, Provider, Serving, StoreLabel, Variable,
};

use super::finding::{self, Finding, Lines, SourceLocation};

/// The longest manifest that is read. Real ones are a few KiB. The limit keeps a wrong path (a model, a log) from being
/// read whole.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// The remedy for missing files of the manifest.
const BUILD_REMEDY: &str = "run scripts/build (with --portable for --door http, --nn component and other hosts), or correct the path";

impl Manifest {
    /// Reads a manifest, decides from which file each component is served, and checks that these exist.
    ///
    /// # Errors
    ///
    /// All faults, in the order of the file.
    pub fn load(path: &Path, serving: Serving) -> Result<Manifest, Vec<Finding>> {
        let text = read(path).map_err(|finding| vec![finding])?;
        let mut manifest = Self::parse(path, &text)?;
        if serving.entry_point == EntryPointKind::Direct {
            manifest.prefer_direct();
        }
        if serving.nn == Nn::Native {
            manifest.prefer_native();
        }
        let findings = manifest.missing_files();
        if findings.is_empty() {
            Ok(manifest)
        } else {
            Err(findings)
        }
    }

    /// Reads the text of a manifest. `path` is its source and is not opened.
    ///
    /// # Errors
    ///
    /// All faults, in the order of the file.
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, Vec<Finding>> {
        let lines = Lines::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // Parts recovered from a broken text would only cause findings that vanish with the fault.
            let mut findings: Vec<Finding> = errors
                .iter()
                .map(|error| {
                    Finding::error(
                        path,
                        error.span().map(|span| lines.place(span.start)),
                        format!("this is not TOML: {}", error.message()),
                        "correct the syntax here; the rest of the file was not checked",
                    )
                })
                .collect();
            finding::sort(&mut findings);
            return Err(findings);
        }
        let root = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        reader::read(path, &root, lines, document.get_ref())
    }

    /// The id of the component for a path: the exact route if there is one, otherwise the longest `/...` route that
    /// covers it. A slash at the end of the path makes no difference.
    pub fn route(&self, path: &str) -> Option<&str> {
        let path = path.trim_matches('/');
        let mut best: Option<(usize, &str)> = None;
        for trigger in &self.triggers {
            match &trigger.route {
                HttpRoute::Exact(exact) if exact == path => return Some(&trigger.component),
                HttpRoute::Below(prefix)
                    if covers(prefix, path)
                        && best.is_none_or(|(length, _)| length < prefix.len()) =>
                {
                    best = Some((prefix.len(), &trigger.component));
                }
                _ => {}
            }
        }
        best.map(|(_, component)| component)
    }

    /// Serves every component that has a `direct` file from it instead of from its `source`.
    fn prefer_direct(&mut self) {
        for component in self.components.values_mut() {
            if let Some(direct) = component.direct.take() {
                component.serve_from(direct);
            }
        }
    }

    /// Serves every component that has a `native` file from it instead of from its `source` or `direct` file. A dependency
    /// then inherits nothing through an entry that was written for the `source`: the host provides everything that the
    /// native file needs.
    fn prefer_native(&mut self) {
        let mut replaced = BTreeSet::new();
        for component in self.components.values_mut() {
            if let Some(native) = component.native.take() {
                component.serve_from(native);
                replaced.insert(component.id.clone());
            }
        }
        for dependency in (self.components.values_mut()).flat_map(|c| &mut c.dependencies) {
            if matches!(&dependency.provider, Provider::Component(id) if replaced.contains(id)) {
                dependency.inherit = Inherit::Nothing;
            }
        }
    }

    /// The WebAssembly file of a dependency.
    pub fn provider_path<'m>(&'m self, dependency: &'m Dependency) -> Option<&'m Path> {
        match &dependency.provider {
            Provider::File(path) => Some(path),
            Provider::Component(id) => Some(&self.components.get(id)?.source),
        }
    }

    fn missing_files(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut look = |path: &Path, place: SourceLocation, whose: String| {
            let problem = match std::fs::metadata(path) {
                Ok(found) if found.is_file() => return,
                Ok(_) => "is not a file".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    "does not exist".to_owned()
                }
                Err(error) => format!("cannot be examined ({error})"),
            };
            findings.push(Finding::error(
                &self.path,
                Some(place),
                format!("{whose} is `{}`, which {problem}", path.display()),
                BUILD_REMEDY,
            ));
        };
        for component in self.components.values() {
            look(
                &component.source,
                component.source_place,
                format!("the source of component `{}`", component.id),
            );
            for dependency in &component.dependencies {
                if let Provider::File(path) = &dependency.provider {
                    look(
                        path,
                        dependency.place,
                        format!("the file of dependency `{}`", dependency.name),
                    );
                }
            }
        }
        finding::sort(&mut findings);
        findings
    }
}

/// Returns whether a path is the prefix or below it. Both have no slashes at either end.
fn covers(prefix: &str, path: &str) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn read(path: &Path) -> Result<String, Finding> {
    let unreadable = |error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::NotFound {
            "run this where the manifest is, or name it with its path"
        } else {
            "make the file readable to this user"
        };
        Finding::about(
            path,
            format!("the manifest cannot be read ({error})"),
            remedy,
        )
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Finding::about(
            path,
            "the manifest is not a file",
            "name the file itself, such as spin.toml",
        ));
    }
    if metadata.len() > MAX_MANIFEST_BYTES {
        return Err(Finding::about(
            path,
            format!(
                "the manifest is {} bytes long; at most {MAX_MANIFEST_BYTES} are read",
                metadata.len()
            ),
            "name the manifest, not another file",
        ));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        Finding {
            line: Some(line),
            ..Finding::about(path, "the manifest is not UTF-8 text", "save it as UTF-8")
        }
    })
}

#[cfg(test)]
mod tests;
