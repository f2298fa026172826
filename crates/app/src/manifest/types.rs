//! What a manifest says, once it has been read.

use super::dependency::DependencyName;
use crate::finding::{Finding, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
    /// Files it may read; [`visible`](crate::files::visible) resolves them.
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
    pub(super) configured: Vec<(&'static str, Place)>,
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
