//! Decides how a component and its dependencies are joined, and which interfaces a dependency may not reach.
//!
//! The component that a trigger names is the root. Each dependency is instantiated once. Its exports are connected to
//! the imports of the root that the manifest's key names. The root's exports are exported. Imports that no dependency
//! satisfies become imports of the whole, for the host. The shape is flat, as in Spin: dependencies do not see each
//! other.
//!
//! **Least privilege.** A dependency may always compute: use clocks, randomness, its standard output, the models
//! (`wasi:nn`) and other `penstock:` interfaces. It may import interfaces that carry configuration or reach outside
//! only if its entry inherits that configuration. Otherwise the composition is refused with the name of the import. Two
//! imports that every Rust component has are satisfied with empty answers instead (an empty environment, no
//! directories), so that an ordinary build passes.
//!
//! Spin lets such a component start and makes the calls fail. This host refuses it before it serves, so that a policy
//! with such calls is found at deployment and not at the first call.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

use semver::Version;
use wac_graph::types::{ItemKind, Package, Type, Types, WorldId, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};

use super::finding::{self, Finding, SourceLocation};
use super::manifest::{
    Capability, Component, Dependency, DependencyName, Inherit, Manifest, Provider, compatible,
};
use super::stub;

/// Largest WebAssembly file that is read. The largest real one contains an inference engine, is not stripped, and has
/// about 20 MB. Composing holds a file in memory a few times.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// A component and its dependencies, as one.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The component, encoded and validated.
    pub bytes: Vec<u8>,
    /// The names of its imports, in their order.
    pub imports: Vec<String>,
    /// Problems that do not prevent serving but will surprise somebody.
    pub warnings: Vec<Finding>,
}

/// Composes a component of a manifest with its dependencies. `provided` says whether the host provides an import, given
/// its full name, such as `wasi:io/streams@0.2.6`. It is not asked about imports that only name types, because these
/// need no provider.
///
/// # Errors
///
/// Every problem that prevents it, with its line in the manifest.
pub fn compose(
    manifest: &Manifest,
    component_id: &str,
    provided: impl Fn(&str) -> bool,
) -> Result<Composed, Vec<Finding>> {
    let Some(root) = manifest.components.get(component_id) else {
        return Err(vec![unknown_component(manifest, component_id)]);
    };
    let mut composer = Composer {
        manifest,
        graph: CompositionGraph::new(),
        findings: Vec::new(),
        warnings: Vec::new(),
        stubs: BTreeMap::new(),
    };
    let composed = composer.compose(root, &provided);
    finding::sort(&mut composer.findings);
    match composed {
        Some((bytes, imports)) if composer.findings.is_empty() => {
            finding::sort(&mut composer.warnings);
            Ok(Composed {
                bytes,
                imports,
                warnings: composer.warnings,
            })
        }
        _ => Err(composer.findings),
    }
}

/// The error for a component that a manifest does not have.
pub(super) fn unknown_component(manifest: &Manifest, id: &str) -> Finding {
    let known = || manifest.components.keys().map(String::as_str);
    let remedy = match finding::nearest(id, known()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!(
            "the components of this manifest are {}",
            finding::list(known())
        ),
    };
    Finding::about(
        &manifest.path,
        format!("there is no component `{id}`"),
        remedy,
    )
}

/// A component that was read, and its instance in the graph.
#[derive(Clone, Copy)]
struct Part {
    world: WorldId,
    instance: NodeId,
}

struct Composer<'m> {
    manifest: &'m Manifest,
    graph: CompositionGraph,
    findings: Vec<Finding>,
    warnings: Vec<Finding>,
    /// The stand-ins made so far, by their imports. They hold no state, so all dependencies share them.
    stubs: BTreeMap<String, Option<Part>>,
}

impl<'m> Composer<'m> {
    fn error(
        &mut self,
        place: SourceLocation,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let path = &self.manifest.path;
        self.findings
            .push(Finding::error(path, Some(place), message, remedy));
    }

    /// Returns the composed bytes and their imports, or `None` if a finding gives the reason.
    fn compose(
        &mut self,
        root: &'m Component,
        provided: &dyn Fn(&str) -> bool,
    ) -> Option<(Vec<u8>, Vec<String>)> {
        let label = format!("component `{}`", root.id);
        let (bytes, part) = self.add(&root.source, root.source_place, &label)?;
        let mut seen: Vec<(PathBuf, &Dependency, Option<Part>)> = Vec::new();
        for dependency in &root.dependencies {
            let Some(path) = self.manifest.provider_path(dependency) else {
                // Only a manifest that was changed after reading has such a dependency.
                self.error(
                    dependency.place,
                    format!("dependency `{}` names no component", dependency.name),
                    "name a component of this manifest",
                );
                continue;
            };
            let earlier = seen.iter().find(|(earlier, _, _)| earlier == path);
            let provider = match earlier {
                Some((_, earlier, provider)) => {
                    if earlier.inherit != dependency.inherit {
                        let message = format!(
                            "{} serves `{}` (line {}) and `{}`, which differ in what they inherit",
                            describe(dependency),
                            earlier.name,
                            earlier.place.line,
                            dependency.name
                        );
                        let provider = *provider;
                        self.error(
                            dependency.place,
                            message,
                            "give both the same `inherit_configuration`: they are one instance",
                        );
                        provider
                    } else {
                        *provider
                    }
                }
                None => {
                    let provider = self.dependency(path, dependency, provided);
                    seen.push((path.to_owned(), dependency, provider));
                    provider
                }
            };
            if let Some(provider) = provider {
                self.plug(root, part, dependency, provider);
            }
        }
        for (import, kind) in self.graph.types()[part.world].imports.clone() {
            // A problem with an import that a key names was reported at the key.
            let mut names = root.dependencies.iter().map(|dependency| &dependency.name);
            if names.any(|name| matches(name, &import) != Match::No)
                || carries_nothing(self.graph.types(), kind)
                || provided(&import)
            {
                continue;
            }
            self.error(
                root.place,
                format!(
                    "component `{}` imports {import}, which neither a dependency nor this host provides",
                    root.id
                ),
                format!(
                    "add \"{import}\" = {{ component = \"…\" }} to [component.{}.dependencies], or build the component without it",
                    root.id
                ),
            );
        }
        if !self.findings.is_empty() {
            return None;
        }
        if root.dependencies.is_empty() {
            let imports = self.graph.types()[part.world].imports.keys().cloned();
            return Some((bytes, imports.collect()));
        }
        self.finish(root, part)
    }

    /// Gives the composed component the exports of the root, and encodes it.
    fn finish(&mut self, root: &Component, part: Part) -> Option<(Vec<u8>, Vec<String>)> {
        let exports: Vec<String> = self.graph.types()[part.world]
            .exports
            .keys()
            .cloned()
            .collect();
        for export in exports {
            let exported = match self.graph.alias_instance_export(part.instance, &export) {
                Ok(alias) => self.graph.export(alias, &export).map_err(|e| chain(&e)),
                Err(error) => Err(chain(&error)),
            };
            if let Err(cause) = exported {
                self.error(
                    root.place,
                    format!(
                        "export {export} of component `{}` cannot be passed on: {cause}",
                        root.id
                    ),
                    "build the component with its interfaces as WIT describes them",
                );
                return None;
            }
        }
        // Reading the result validates it and lists its imports at once.
        let encoded = self
            .graph
            .encode(EncodeOptions {
                validate: false,
                ..EncodeOptions::default()
            })
            .map_err(|error| chain(&error))
            .and_then(|bytes| {
                let mut types = Types::default();
                let package = Package::from_bytes("composed", None, bytes, &mut types)
                    .map_err(|error| format!("{error:#}"))?;
                let imports = types[package.ty()].imports.keys().cloned().collect();
                Ok((package.bytes().to_vec(), imports))
            });
        match encoded {
            Ok(encoded) => Some(encoded),
            Err(cause) => {
                self.error(
                    root.place,
                    format!(
                        "component `{}` and its dependencies cannot be made into one: {cause}",
                        root.id
                    ),
                    "build all of them from the same WIT packages",
                );
                None
            }
        }
    }

    /// Reads a component and instantiates it.
    fn add(&mut self, path: &Path, place: SourceLocation, label: &str) -> Option<(Vec<u8>, Part)> {
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err((problem, remedy)) => {
                self.error(
                    place,
                    format!("{label}: `{}` {problem}", path.display()),
                    remedy,
                );
                return None;
            }
        };
        let part = self.register(label, bytes.clone()).map_err(|cause| {
            self.error(
                place,
                format!(
                    "{label}: `{}` is not a valid component: {cause}",
                    path.display()
                ),
                "build it again with the tools this project pins",
            );
        });
        Some((bytes, part.ok()?))
    }

    fn register(&mut self, label: &str, bytes: Vec<u8>) -> Result<Part, String> {
        // The name only has to differ from the others in this graph.
        let name = format!("{}: {label}", self.graph.packages().count());
        let package = Package::from_bytes(&name, None, bytes, self.graph.types_mut())
            .map_err(|error| format!("{error:#}"))?;
        let world = package.ty();
        let package = self
            .graph
            .register_package(package)
            .map_err(|error| chain(&error))?;
        Ok(Part {
            world,
            instance: self.graph.instantiate(package),
        })
    }

    /// Reads a dependency, and closes the interfaces that it may not reach.
    fn dependency(
        &mut self,
        path: &Path,
        dependency: &Dependency,
        provided: &dyn Fn(&str) -> bool,
    ) -> Option<Part> {
        let label = describe(dependency);
        let (_, part) = self.add(path, dependency.place, &label)?;
        let imports = self.graph.types()[part.world].imports.clone();
        for (import, kind) in &imports {
            if carries_nothing(self.graph.types(), *kind) {
                continue;
            }
            let reach = reach(import);
            let inherited = match reach {
                Reach::Computing => true,
                Reach::Configured(capability) => dependency.inherit.allows(capability),
                Reach::Unknown => dependency.inherit == Inherit::Everything,
            };
            if inherited {
                if !provided(import) {
                    self.error(
                        dependency.place,
                        format!("{label} imports {import}, which this host does not provide"),
                        "build it without this import; a dependency cannot have its own dependencies, so link the import when you build the component",
                    );
                }
                continue;
            }
            let names = imports.keys().map(String::as_str);
            if let Some(stub) = self.stub(import, names) {
                if let Err(cause) = self.connect(part, import, stub, import) {
                    self.error(
                        dependency.place,
                        format!(
                            "{label} imports {import} in a form that cannot be closed: {cause}"
                        ),
                        "build it again from the published WASI packages",
                    );
                }
                continue;
            }
            let (why, remedy) = match reach {
                Reach::Configured(capability) => (
                    inherits(&dependency.inherit, capability),
                    format!(
                        "add inherit_configuration = [\"{}\"] to its dependency entry, or build it without this import",
                        capability.name()
                    ),
                ),
                _ => (
                    "may not use it by default",
                    "build it without this import, or add inherit_configuration = true to its dependency entry, which gives it everything that its parent has".to_owned(),
                ),
            };
            let message = format!("{label} imports {import} but {why}");
            self.error(dependency.place, message, remedy);
        }
        Some(part)
    }

    /// The stand-in for an import, made once.
    fn stub<'i>(&mut self, import: &str, imports: impl Iterator<Item = &'i str>) -> Option<Part> {
        if let Some(made) = self.stubs.get(import) {
            return *made;
        }
        let part = stub::empty(import, imports)
            .and_then(|bytes| self.register(&format!("empty {import}"), bytes).ok());
        self.stubs.insert(import.to_owned(), part);
        part
    }

    /// Connects a dependency's exports to the imports of the root that its key names.
    fn plug(&mut self, root: &Component, part: Part, dependency: &Dependency, provider: Part) {
        let imports = self.graph.types()[part.world].imports.clone();
        let mut matched = false;
        for (import, kind) in &imports {
            let exact = match matches(&dependency.name, import) {
                Match::No => continue,
                Match::Exact => true,
                Match::Compatible => false,
            };
            matched = true;
            let exports = &self.graph.types()[provider.world].exports;
            let wanted = dependency.export.as_deref().unwrap_or(import);
            let export = if exports.contains_key(wanted) {
                Some(wanted.to_owned())
            } else {
                exports
                    .keys()
                    .find(|export| are_semver_compatible(export, wanted))
                    .cloned()
            };
            let Some(export) = export else {
                if carries_nothing(self.graph.types(), *kind) {
                    continue;
                }
                let has: Vec<&str> = exports.keys().map(String::as_str).collect();
                let remedy = match finding::nearest(wanted, has.iter().copied()) {
                    Some(meant) => {
                        format!("did you mean {meant}? Build both from the same WIT package")
                    }
                    None if has.is_empty() => {
                        "build it so that it exports the interface".to_owned()
                    }
                    None => format!("it exports {}; name another component", finding::list(has)),
                };
                let message = format!(
                    "{} does not export {wanted}, which component `{}` imports",
                    describe(dependency),
                    root.id
                );
                self.error(dependency.place, message, remedy);
                continue;
            };
            if !exact || export != wanted {
                self.warnings.push(Finding::warning(
                    &self.manifest.path,
                    Some(dependency.place),
                    format!(
                        "`{}` joins import {import} with export {export}: this host accepts compatible versions, Spin does not",
                        dependency.name
                    ),
                    format!("write `{import}` in the manifest and build both from that version"),
                ));
            }
            if let Err(cause) = self.connect(part, import, provider, &export) {
                let message = format!(
                    "{} exports {export}, but not as component `{}` imports it: {cause}",
                    describe(dependency),
                    root.id
                );
                self.error(
                    dependency.place,
                    message,
                    "build both from the same WIT package",
                );
            }
        }
        if !matched {
            let names = || imports.keys().map(String::as_str);
            let remedy = match finding::nearest(&dependency.name.to_string(), names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!(
                    "remove it; the component imports {}",
                    finding::list(names())
                ),
            };
            self.error(
                dependency.place,
                format!(
                    "component `{}` imports nothing called `{}`",
                    root.id, dependency.name
                ),
                remedy,
            );
        }
    }

    fn connect(
        &mut self,
        into: Part,
        import: &str,
        from: Part,
        export: &str,
    ) -> Result<(), String> {
        let alias = self
            .graph
            .alias_instance_export(from.instance, export)
            .map_err(|error| chain(&error))?;
        self.graph
            .set_instantiation_argument(into.instance, import, alias)
            .map_err(|error| chain(&error))
    }
}

/// The name of a dependency in messages.
fn describe(dependency: &Dependency) -> String {
    match &dependency.provider {
        Provider::Component(id) => format!("component `{id}`"),
        Provider::File(path) => format!("`{}`", path.display()),
    }
}

fn inherits(inherit: &Inherit, capability: Capability) -> &'static str {
    match (inherit, capability) {
        (Inherit::Nothing, _) => "inherits no configuration",
        (_, Capability::Files) => "does not inherit `files`",
        (_, Capability::Environment) => "does not inherit `environment`",
        _ => "does not inherit the configuration for it",
    }
}

/// The access that an import gives a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The import gives no access to configuration.
    Computing,
    /// The access that this configuration grants.
    Configured(Capability),
    /// The import is not in the list.
    Unknown,
}

/// Returns the access that an import gives a dependency. If Spin has a name for the configuration, it is Spin's name.
/// Spin lists single versions of single interfaces. This list goes by package, so that an interface that is added to a
/// package later is closed and not open.
fn reach(import: &str) -> Reach {
    use Capability::*;
    let name = import.split('@').next().unwrap_or(import);
    let Some((package, interface)) = name.split_once('/') else {
        return Reach::Unknown;
    };
    match (package, interface) {
        ("wasi:nn" | "wasi:io" | "wasi:clocks" | "wasi:random", _) => Reach::Computing,
        (package, _) if package.starts_with("penstock:") => Reach::Computing,
        ("wasi:cli", "stdin" | "stdout" | "stderr" | "exit") => Reach::Computing,
        ("wasi:cli", interface) if interface.starts_with("terminal-") => Reach::Computing,
        ("wasi:cli", "environment") => Reach::Configured(Environment),
        // All its functions need a descriptor, and only preopens gives the first one.
        ("wasi:filesystem", "types") => Reach::Computing,
        ("wasi:filesystem", _) => Reach::Configured(Files),
        ("wasi:keyvalue" | "spin:key-value", _) | ("fermyon:spin", "key-value") => {
            Reach::Configured(KeyValueStores)
        }
        ("wasi:config" | "spin:variables", _) | ("fermyon:spin", "config" | "variables") => {
            Reach::Configured(Variables)
        }
        ("spin:sqlite", _) | ("fermyon:spin", "sqlite") => Reach::Configured(SqliteDatabases),
        ("fermyon:spin", "llm") => Reach::Configured(AiModels),
        ("wasi:http" | "wasi:sockets", _)
        | ("spin:mqtt" | "spin:mysql" | "spin:postgres" | "spin:redis", _)
        | ("fermyon:spin", "http" | "mqtt" | "mysql" | "postgres" | "redis") => {
            Reach::Configured(AllowedOutboundHosts)
        }
        _ => Reach::Unknown,
    }
}

/// Returns whether an import only names types, none of them a resource: there is nothing to call or to hold.
fn carries_nothing(types: &Types, kind: ItemKind) -> bool {
    match kind {
        ItemKind::Type(Type::Resource(_)) => false,
        ItemKind::Type(_) => true,
        ItemKind::Instance(interface) => types[interface]
            .exports
            .values()
            .all(|kind| carries_nothing(types, *kind)),
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Match {
    No,
    Exact,
    /// A version stands in for another, compatible one.
    Compatible,
}

/// Compares the key of a dependency with the name of an import.
fn matches(name: &DependencyName, import: &str) -> Match {
    let (wanted_package, wanted_interface, wanted_version) = match name {
        DependencyName::Plain(plain) if plain == import => return Match::Exact,
        DependencyName::Plain(_) => return Match::No,
        DependencyName::Package {
            package,
            interface,
            version,
        } => (package, interface, version),
    };
    let (path, version) = match import.split_once('@') {
        Some((path, version)) => (path, Version::parse(version).ok()),
        None => (import, None),
    };
    let Some((package, interface)) = path.split_once('/') else {
        return Match::No;
    };
    if package != wanted_package || wanted_interface.as_ref().is_some_and(|w| w != interface) {
        return Match::No;
    }
    match (wanted_version, version) {
        (None, _) => Match::Exact,
        (Some(wanted), Some(version)) if *wanted == version => Match::Exact,
        (Some(wanted), Some(version)) if compatible(wanted, &version) => Match::Compatible,
        _ => Match::No,
    }
}

/// Reads a component, or returns the fault of the file and the remedy.
fn read(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    const BUILD: &str = "run scripts/build, or correct the path";
    let unreadable = |error: std::io::Error| (format!("cannot be read ({error})"), BUILD);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_COMPONENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_COMPONENT_BYTES {
        return Err((
            format!("is larger than {MAX_COMPONENT_BYTES} bytes"),
            "strip it, and link only what it uses",
        ));
    }
    match bytes.get(..8) {
        // After the magic number, the second half of the version distinguishes components and modules.
        Some(&[0, b'a', b's', b'm', _, _, 1, 0]) => Ok(bytes),
        Some(&[0, b'a', b's', b'm', ..]) => Err((
            "is a core module, not a component".to_owned(),
            "build it for wasm32-wasip2, or wrap it with wasm-tools component new",
        )),
        _ => Err(("is not WebAssembly".to_owned(), BUILD)),
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
