//! Decides which application manifests are accepted: Spin's `spin.toml`, version 2, read strictly.
//!
//! The manifest is the picture of the application: which component answers which path, which
//! components it is made of, and what each of them may reach. A word in it that is misspelt or not
//! acted upon would be a promise nobody keeps, so every field is one of three things: served here,
//! harmless (build instructions, descriptions, tool settings), or an error with its line. A field Spin
//! knows and this host does not serve yet says so by name; a field nobody knows comes with the name
//! that was most likely meant.
//!
//! All that is wrong is reported at once. [`Manifest::parse`] looks at the text only; [`Manifest::load`]
//! also looks at the files it names.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use semver::Version;
use toml::de::DeTable;

use super::finding::{self, Finding, Lines, Place};

/// The longest manifest that is read. Real ones are a few KiB; this only keeps a wrong path (a model, a
/// log) from being read whole.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// What brings the files named in the manifest into being.
const BUILD_REMEDY: &str = "run scripts/build, or correct the path";

/// A manifest that can be served, with relative paths resolved against its own folder.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file it was read from, as it was named.
    pub path: PathBuf,
    /// The folder that relative paths in it start from.
    pub root: PathBuf,
    /// `[application]`.
    pub application: Application,
    /// `[variables]`, by name.
    pub variables: BTreeMap<String, Variable>,
    /// `[[trigger.http]]`, in the order of the file.
    pub triggers: Vec<HttpTrigger>,
    /// `[component.…]`, by id.
    pub components: BTreeMap<String, Component>,
    /// What will surprise somebody but does not prevent serving.
    pub warnings: Vec<Finding>,
}

/// What the application says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Application {
    /// Its name.
    pub name: String,
    /// Its version, empty when not given.
    pub version: String,
    /// What it is, for people.
    pub description: String,
    /// Who wrote it.
    pub authors: Vec<String>,
}

/// An application variable, which component variables refer to as `{{ name }}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Where it is declared.
    pub place: Place,
    /// What it is, for people.
    pub description: Option<String>,
    /// Its value when none is supplied; without one, a value must be supplied.
    pub default: Option<String>,
    /// Whether its value must be kept out of logs.
    pub secret: bool,
}

/// Which component answers which paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTrigger {
    /// Where it is declared.
    pub place: Place,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// The paths.
    pub route: Route,
    /// The id of the component.
    pub component: String,
}

/// The paths a trigger answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// This path alone, kept without its slashes at either end.
    Exact(String),
    /// This path and all below it, kept without its slashes at either end.
    Below(String),
    /// No path: the component can only be called from within.
    Private,
}

/// A component and what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its id.
    pub id: String,
    /// Where it is declared.
    pub place: Place,
    /// What it is, for people.
    pub description: String,
    /// The WebAssembly file, resolved against the manifest's folder.
    pub source: PathBuf,
    /// Where the source is named.
    pub source_place: Place,
    /// `native` of `[component.<id>.tool.penstock]`: the file that takes the source's place on a host that brings
    /// what the source carries itself.
    pub native: Option<NativeSource>,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Files it may read; [`super::files::visible`] resolves them.
    pub files: Vec<FileEntry>,
    /// Patterns of files it may not read although `files` covers them.
    pub exclude_files: Vec<String>,
    /// Where `exclude_files` stands.
    pub exclude_files_place: Option<Place>,
    /// Its variables: text in which `{{ name }}` stands for an application variable.
    pub variables: BTreeMap<String, String>,
    /// Labels of the key-value stores it may open, Spin's and this host's own together.
    pub key_value_stores: Vec<StoreLabel>,
    /// The components plugged into its imports, in the order of the file.
    pub dependencies: Vec<Dependency>,
    /// Fields that give it configuration, with their places: what a dependency may not have.
    configured: Vec<(&'static str, Place)>,
}

/// Which of a component's files is served where it has two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nn {
    /// Its `native` one: models run in this host, outside WebAssembly.
    #[default]
    Native,
    /// Its `source`, as Spin serves it: models run in WebAssembly, in the component that is plugged into it.
    Component,
}

/// A component's file for hosts that have natively what its `source` has in WebAssembly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeSource {
    /// Where it stands.
    pub place: Place,
    /// The WebAssembly file, resolved against the manifest's folder.
    pub path: PathBuf,
}

/// The label of a key-value store that a component may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLabel {
    /// Where it stands.
    pub place: Place,
    /// The label.
    pub name: String,
}

/// An entry of `files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub form: FileForm,
}

/// The two forms an entry of `files` may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileForm {
    /// A pattern, or the path of one file.
    Pattern(String),
    /// A directory of the host and the path the component sees it under.
    Directory {
        /// The directory, as written.
        source: String,
        /// The path the component sees.
        destination: String,
    },
}

/// A component plugged into imports of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Where it stands.
    pub place: Place,
    /// Which imports it satisfies.
    pub name: DependencyName,
    /// What satisfies them.
    pub provider: Provider,
    /// The name of the export to use; without it, the export is named like the import.
    pub export: Option<String>,
    /// What it may reach of what the component that depends on it was given.
    pub inherit: Inherit,
}

/// Which imports a dependency satisfies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DependencyName {
    /// An import with a plain name.
    Plain(String),
    /// All imports of a package, or one interface of it, at any version or one.
    Package {
        /// `namespace:name`.
        package: String,
        /// The interface, or none for all of the package.
        interface: Option<String>,
        /// The version, or none for any.
        version: Option<Version>,
    },
}

/// What satisfies a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A component of this manifest, by id.
    Component(String),
    /// A WebAssembly file, resolved against the manifest's folder.
    File(PathBuf),
}

/// What a dependency may reach of what its parent was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Inherit {
    /// Nothing: it computes.
    #[default]
    Nothing,
    /// All of it.
    Everything,
    /// These.
    Only(BTreeSet<Capability>),
}

/// A kind of configuration that can be inherited one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `ai_models`.
    AiModels,
    /// `allowed_outbound_hosts`.
    AllowedOutboundHosts,
    /// `environment`.
    Environment,
    /// `files`.
    Files,
    /// `key_value_stores`.
    KeyValueStores,
    /// `sqlite_databases`.
    SqliteDatabases,
    /// `variables`.
    Variables,
}

impl Capability {
    /// Every kind there is.
    pub const ALL: [Capability; 7] = [
        Capability::AiModels,
        Capability::AllowedOutboundHosts,
        Capability::Environment,
        Capability::Files,
        Capability::KeyValueStores,
        Capability::SqliteDatabases,
        Capability::Variables,
    ];

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Capability::AiModels => "ai_models",
            Capability::AllowedOutboundHosts => "allowed_outbound_hosts",
            Capability::Environment => "environment",
            Capability::Files => "files",
            Capability::KeyValueStores => "key_value_stores",
            Capability::SqliteDatabases => "sqlite_databases",
            Capability::Variables => "variables",
        }
    }
}

impl Inherit {
    /// Whether this kind of configuration is inherited.
    pub fn allows(&self, capability: Capability) -> bool {
        match self {
            Inherit::Nothing => false,
            Inherit::Everything => true,
            Inherit::Only(some) => some.contains(&capability),
        }
    }
}

impl fmt::Display for DependencyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DependencyName::Plain(name) => f.write_str(name),
            DependencyName::Package {
                package,
                interface,
                version,
            } => {
                f.write_str(package)?;
                if let Some(interface) = interface {
                    write!(f, "/{interface}")?;
                }
                if let Some(version) = version {
                    write!(f, "@{version}")?;
                }
                Ok(())
            }
        }
    }
}

impl DependencyName {
    /// Reads `ns:name`, `ns:name@1.2.3`, `ns:name/iface`, `ns:name/iface@1.2.3` or `plain-name`.
    ///
    /// # Errors
    ///
    /// A sentence saying what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains([':', '/', '@']) {
            check_kebab(text)?;
            return Ok(DependencyName::Plain(text.to_owned()));
        }
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => {
                let parsed = Version::parse(version).map_err(|error| {
                    format!("`{version}` is not a version such as 1.2.3 ({error})")
                })?;
                (name, Some(parsed))
            }
        };
        let (package, interface) = match name.split_once('/') {
            None => (name, None),
            Some((package, interface)) => (package, Some(interface)),
        };
        let Some((namespace, bare)) = package.split_once(':') else {
            return Err(format!("`{package}` has no namespace before a colon"));
        };
        for word in [namespace, bare].into_iter().chain(interface) {
            check_kebab(word)?;
        }
        Ok(DependencyName::Package {
            package: package.to_owned(),
            interface: interface.map(str::to_owned),
            version,
        })
    }

    /// Whether two dependencies could claim the same import.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (DependencyName::Plain(a), DependencyName::Plain(b)) => a == b,
            (
                DependencyName::Package {
                    package: package_a,
                    interface: interface_a,
                    version: version_a,
                },
                DependencyName::Package {
                    package: package_b,
                    interface: interface_b,
                    version: version_b,
                },
            ) => {
                let interfaces = match (interface_a, interface_b) {
                    (Some(a), Some(b)) => a == b,
                    _ => true,
                };
                let versions = match (version_a, version_b) {
                    (Some(a), Some(b)) => compatible(a, b),
                    _ => true,
                };
                package_a == package_b && interfaces && versions
            }
            _ => false,
        }
    }
}

/// Whether one version of an interface may stand in for another: the rule of the component model, by
/// which the first part that is not zero must agree, and pre-releases agree only with themselves.
pub(crate) fn compatible(a: &Version, b: &Version) -> bool {
    if !a.pre.is_empty() || !b.pre.is_empty() {
        return a == b;
    }
    match (a.major, a.minor) {
        (0, 0) => (a.major, a.minor, a.patch) == (b.major, b.minor, b.patch),
        (0, _) => (a.major, a.minor) == (b.major, b.minor),
        _ => a.major == b.major,
    }
}

/// Words of letters and digits joined by single hyphens, each starting with a letter.
fn check_kebab(text: &str) -> Result<(), String> {
    check_words(text, '-', true)
}

fn check_words(text: &str, separator: char, upper_allowed: bool) -> Result<(), String> {
    for word in text.split(separator) {
        let starts_with_a_letter = word.starts_with(|c: char| c.is_ascii_alphabetic());
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric());
        let one_case = !word.contains(|c: char| c.is_ascii_uppercase())
            || upper_allowed && !word.contains(|c: char| c.is_ascii_lowercase());
        if !(starts_with_a_letter && plain && one_case) {
            return Err(format!(
                "`{text}` is not made of lower-case words of letters and digits joined by `{separator}`"
            ));
        }
    }
    Ok(())
}

impl Manifest {
    /// Reads a manifest, decides which file each component is served from, and looks whether those exist.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the file.
    pub fn load(path: &Path, inference: Nn) -> Result<Manifest, Vec<Finding>> {
        let text = read(path).map_err(|finding| vec![finding])?;
        let mut manifest = Self::parse(path, &text)?;
        if inference == Nn::Native {
            manifest.prefer_native();
        }
        let findings = manifest.missing_files();
        if findings.is_empty() {
            Ok(manifest)
        } else {
            Err(findings)
        }
    }

    /// Reads the text of a manifest; `path` is where it came from and is not opened.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the file.
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, Vec<Finding>> {
        let lines = Lines::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What could be recovered from a broken text would only raise findings that vanish with the
            // mistake.
            let mut findings: Vec<Finding> = errors
                .iter()
                .map(|error| {
                    Finding::error(
                        path,
                        error.span().map(|span| lines.place(span.start)),
                        format!("this is not TOML: {}", error.message()),
                        "mend the syntax here; the rest of the file was not looked at",
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

    /// The id of the component that answers a path: the exact route if there is one, otherwise the
    /// longest `/...` route that covers it. A slash at the end of the path makes no difference.
    pub fn route(&self, path: &str) -> Option<&str> {
        let path = path.trim_matches('/');
        let mut best: Option<(usize, &str)> = None;
        for trigger in &self.triggers {
            match &trigger.route {
                Route::Exact(exact) if exact == path => return Some(&trigger.component),
                Route::Below(prefix)
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

    /// Serves every component that has a `native` file from it in place of its `source`. A dependency then inherits
    /// nothing through an entry that was written for the `source`: what the native file would need of it, the host
    /// brings.
    fn prefer_native(&mut self) {
        let mut replaced = BTreeSet::new();
        for component in self.components.values_mut() {
            if let Some(native) = component.native.take() {
                component.source = native.path;
                component.source_place = native.place;
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
        let mut look = |path: &Path, place: Place, whose: String| {
            let problem = match std::fs::metadata(path) {
                Ok(found) if found.is_file() => return,
                Ok(_) => "is not a file".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    "does not exist".to_owned()
                }
                Err(error) => format!("cannot be looked at ({error})"),
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

/// Whether a path is the prefix or below it; both are without slashes at either end.
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
