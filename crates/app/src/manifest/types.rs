//! The content of a manifest after reading.

use super::dependency::DependencyName;
use crate::finding::{Finding, SourceLocation};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A manifest that can be served, with relative paths resolved against its own folder.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file it was read from, as it was named.
    pub path: PathBuf,
    /// The folder that relative paths in it start from.
    pub root: PathBuf,
    /// The section `[application]`: name, version, description and authors.
    pub application: Application,
    /// The section `[variables]`, by the variables' names.
    pub variables: BTreeMap<String, Variable>,
    /// `[[trigger.http]]`, in the order of the file.
    pub triggers: Vec<HttpTrigger>,
    /// The sections `[component.<id>]`, by id.
    pub components: BTreeMap<String, Component>,
    /// Problems that do not prevent serving but will surprise somebody.
    pub warnings: Vec<Finding>,
}

/// The facts that the application gives about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Application {
    /// The name of the application. Logs and messages show it.
    pub name: String,
    /// Its version, empty when not given.
    pub version: String,
    /// A text for people; empty if none is given.
    pub description: String,
    /// The authors, in the order of the file; empty if none is given.
    pub authors: Vec<String>,
}

/// An application variable, which component variables refer to as `{{ name }}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The location of its declaration.
    pub place: SourceLocation,
    /// A text for people, if one is given.
    pub description: Option<String>,
    /// Its value if none is supplied. Without it, a value must be supplied.
    pub default: Option<String>,
    /// Whether its value must be kept out of logs.
    pub secret: bool,
}

/// The paths of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTrigger {
    /// The location of its declaration.
    pub place: SourceLocation,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// The paths that the component answers.
    pub route: HttpRoute,
    /// The id of the component.
    pub component: String,
}

/// The paths that a trigger answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpRoute {
    /// The trigger answers only this path, without its slashes at either end.
    Exact(String),
    /// The trigger answers this path and all below it, without its slashes at either end.
    Below(String),
    /// The trigger answers no path: only other components can call the component.
    Private,
}

/// A component and its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The id in the section's name, `[component.<id>]`.
    pub id: String,
    /// The location of its declaration.
    pub place: SourceLocation,
    /// A text for people; empty if none is given.
    pub description: String,
    /// The WebAssembly file, resolved against the manifest's folder.
    pub source: PathBuf,
    /// The location at which the source is named.
    pub source_place: SourceLocation,
    /// `native` of `[component.<id>.tool.penstock]`: the file that replaces the source on a host that provides the part
    /// that the source carries.
    pub native: Option<OtherSource>,
    /// `direct` of the same table: the file that replaces the source if the host calls only the direct entry point.
    pub direct: Option<OtherSource>,
    /// Environment variables that the component sees, by name.
    pub environment: BTreeMap<String, String>,
    /// Files it may read; [`visible`](crate::files::visible) resolves them.
    pub files: Vec<FileEntry>,
    /// Patterns of files it may not read although `files` covers them.
    pub exclude_files: Vec<String>,
    /// The place of `exclude_files` in the manifest; `None` if it is absent.
    pub exclude_files_place: Option<SourceLocation>,
    /// Values by name: text in which `{{ name }}` stands for an application variable.
    pub variables: BTreeMap<String, String>,
    /// Labels of the key-value stores it may open, Spin's and this host's own together.
    pub key_value_stores: Vec<StoreLabel>,
    /// The components plugged into its imports, in the order of the file.
    pub dependencies: Vec<Dependency>,
    /// Fields that give it configuration, with their places. A dependency may not have them.
    pub(super) configured: Vec<(&'static str, SourceLocation)>,
}

impl Component {
    /// Serves the component from another file.
    pub(super) fn serve_from(&mut self, other: OtherSource) {
        self.source = other.path;
        self.source_place = other.place;
    }
}

/// The entry point that requests go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPointKind {
    /// The typed entry point `penstock:gate/door`.
    #[default]
    Direct,
    /// The standard entry point `wasi:http/handler`.
    Http,
}

/// Decides which file of a component is served if it has several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Serving {
    /// The engine that runs the models.
    pub nn: Nn,
    /// The entry point that the host calls.
    pub entry_point: EntryPointKind,
}

/// The engine that runs the models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nn {
    /// Models run in this host, outside WebAssembly: components with a `native` file are served from it.
    #[default]
    Native,
    /// Models run in WebAssembly, in the component that is linked into the `source`, as on Spin.
    Component,
}

/// A component's file that this host serves instead of its `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherSource {
    /// The place in the manifest that names the file.
    pub place: SourceLocation,
    /// The WebAssembly file, resolved against the manifest's folder.
    pub path: PathBuf,
}

/// The label of a key-value store that a component may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLabel {
    /// The place of the label in the manifest.
    pub place: SourceLocation,
    /// The label, by which the component opens the store.
    pub name: String,
}

/// One of the `files` that a component may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// The place of the entry in the manifest.
    pub place: SourceLocation,
    /// The entry as a pattern, or as a pair of paths.
    pub form: FileForm,
}

/// The two forms an entry of `files` may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileForm {
    /// A pattern, or the path of one file.
    Pattern(String),
    /// A directory of the host and the path the component sees it under.
    Directory {
        /// The directory of the host, as written.
        source: String,
        /// The path the component sees.
        destination: String,
    },
}

/// A component connected to imports of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The place of the dependency in the manifest.
    pub place: SourceLocation,
    /// The imports that it satisfies.
    pub name: DependencyName,
    /// The component or file that satisfies them.
    pub provider: Provider,
    /// The name of the export to use. Without it, the export is named like the import.
    pub export: Option<String>,
    /// The part of its parent's configuration that it inherits.
    pub inherit: Inherit,
}

/// The component or file that satisfies a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A component of this manifest, by id.
    Component(String),
    /// A WebAssembly file, resolved against the manifest's folder.
    File(PathBuf),
}

/// The part of its parent's configuration that a dependency inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Inherit {
    /// The dependency inherits nothing: it computes.
    #[default]
    Nothing,
    /// The dependency inherits all configuration of its parent.
    Everything,
    /// The dependency inherits only these kinds.
    Only(BTreeSet<Capability>),
}

/// A kind of configuration that can be inherited one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// The models that it may run, `ai_models`.
    AiModels,
    /// The hosts that it may call, `allowed_outbound_hosts`.
    AllowedOutboundHosts,
    /// The environment variables, `environment`.
    Environment,
    /// The files that it may read, `files`.
    Files,
    /// The stores that it may open, `key_value_stores`.
    KeyValueStores,
    /// The databases that it may open, `sqlite_databases`.
    SqliteDatabases,
    /// The application variables, `variables`.
    Variables,
}

impl Capability {
    /// Every kind, in alphabetical order.
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
    /// Returns whether this kind of configuration is inherited.
    pub fn allows(&self, capability: Capability) -> bool {
        match self {
            Inherit::Nothing => false,
            Inherit::Everything => true,
            Inherit::Only(some) => some.contains(&capability),
        }
    }
}
