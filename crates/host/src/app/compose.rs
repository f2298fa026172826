//! Decides how a component and its dependencies become one, and what a dependency may not reach.
//!
//! The component that a trigger names is the root. Each dependency is instantiated once, what it
//! exports is plugged into the imports of the root that the manifest's key names, and what the root
//! exports is exported. Imports nobody satisfies become imports of the whole, for the host. The shape
//! is flat, as in Spin: dependencies do not see each other.
//!
//! **Least privilege.** A dependency may always compute: use clocks, randomness, its standard output,
//! the models (`wasi:nn`) and other `penstock:` interfaces. Whatever carries configuration or reaches
//! outside it may only import if its entry inherits that configuration; otherwise the composition is
//! refused with the name of the import. Two imports that every Rust component has are answered with
//! emptiness instead (an empty environment, no directories), so that an ordinary build passes.
//!
//! Unlike Spin, which lets such a component start and makes the calls fail, this refuses it before
//! it serves: a policy that calls out is found when it is deployed, not when it is asked.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

use semver::Version;
use wac_graph::types::{ItemKind, Package, Type, Types, WorldId, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};

use super::finding::{self, Finding, Place};
use super::manifest::{
    Capability, Component, Dependency, DependencyName, Inherit, Manifest, Provider, compatible,
};
use super::stub;

/// The largest WebAssembly file that is read. The largest real one, with an inference engine in it and
/// not stripped, is about 20 MB; composing holds a file in memory a few times over.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// A component and its dependencies, as one.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The component, encoded and validated.
    pub bytes: Vec<u8>,
    /// The names of its imports, in their order.
    pub imports: Vec<String>,
    /// What will surprise somebody but does not prevent serving.
    pub warnings: Vec<Finding>,
}

/// Composes a component of a manifest with its dependencies. `provided` says whether the host provides
/// an import, given its full name, such as `wasi:io/streams@0.2.6`; imports that only name types need
/// nobody to provide them and are not asked about.
///
/// # Errors
///
/// Everything that prevents it, with the line of the manifest it comes from.
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

/// That a manifest has no such component.
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
    /// The stand-ins made so far, by the import they satisfy: they hold no state, so all share them.
    stubs: BTreeMap<String, Option<Part>>,
}

impl<'m> Composer<'m> {
    fn error(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        let path = &self.manifest.path;
        self.findings
            .push(Finding::error(path, Some(place), message, remedy));
    }

    /// The composed bytes and their imports, or none if a finding says why not.
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
                // Only a manifest that was changed after it was read has such a dependency.
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
            // What was wrong with an import that a key names has been said where the key stands.
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
                    "add \"{import}\" = {{ component = \"…\" }} to [component.{}.dependencies], or build it without",
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

    /// Exports what the root exports and encodes the whole.
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
        // Reading the result back validates it and lists its imports in one go.
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
    fn add(&mut self, path: &Path, place: Place, label: &str) -> Option<(Vec<u8>, Part)> {
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

    /// Reads a dependency, and closes what it may not reach.
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
                        "build it without; a dependency cannot have dependencies of its own, so plug this in when it is built",
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
                        "add inherit_configuration = [\"{}\"] to its dependency entry, or build it without",
                        capability.name()
                    ),
                ),
                _ => (
                    "is not among what a dependency may use by itself",
                    "build it without, or add inherit_configuration = true to its dependency entry, which gives it everything its parent has".to_owned(),
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

    /// Plugs what a dependency exports into the imports of the root that its key names.
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
                        "`{}` joins import {import} with export {export}: this host takes compatible versions for the same, Spin does not",
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

/// What a dependency is called in messages.
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

/// What an import lets a dependency reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Nothing that anyone configured.
    Computing,
    /// What this configuration grants.
    Configured(Capability),
    /// Something this list does not know.
    Unknown,
}

/// What an import lets a dependency reach. Where Spin has a name for the configuration, it is Spin's;
/// unlike Spin's list, which has single versions of single interfaces, this one goes by package, so
/// that an interface added to a package tomorrow is closed and not open.
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
        // Everything in it is done to a descriptor, and only preopens hands out the first one.
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

/// Whether an import only names types, none of them a resource: there is nothing to call or to hold.
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

/// Whether a dependency's key names an import.
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

/// Reads a component, or says what is wrong with the file and what to do.
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
        // After the magic number, the second half of the version tells components from modules.
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
mod tests {
    use super::*;
    use tempfile::TempDir;
    use wasmtime::component::{Linker, ResourceType};
    use wasmtime::{Engine, Store};

    /// A door that passes on what it imports.
    const GATE: &str = r#"(component
        (import "a:b/c@0.1.0" (instance $c (export "f" (func (result u32)))))
        (instance $door (export "f" (func $c "f")))
        (export "p:q/door@0.1.0" (instance $door)))"#;

    /// A component that exports a function that answers seven, after these imports.
    fn seven(imports: &str, export: &str) -> String {
        format!(
            r#"(component {imports}
            (core module $m (func (export "f") (result i32) i32.const 7))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $c (export "f" (func $f)))
            (export "{export}" (instance $c)))"#
        )
    }

    fn import(name: &str) -> String {
        format!(r#"(import "{name}" (instance (export "g" (func))))"#)
    }

    /// An application in a folder of its own: a gate, and a policy as a dependency of it.
    struct Application {
        dir: TempDir,
        dependencies: String,
    }

    impl Application {
        fn new(gate: &str, policy: &str) -> Self {
            let application = Self {
                dir: tempfile::tempdir().expect("a directory"),
                dependencies: r#""a:b/c@0.1.0" = { component = "policy" }"#.to_owned(),
            };
            application.file("gate.wasm", gate);
            application.file("policy.wasm", policy);
            application
        }

        fn depending(mut self, dependencies: &str) -> Self {
            self.dependencies = dependencies.to_owned();
            self
        }

        fn file(&self, name: &str, text: &str) {
            let bytes = wat::parse_str(text).expect(text);
            std::fs::write(self.dir.path().join(name), bytes).expect("written");
        }

        fn manifest(&self) -> Manifest {
            let text = format!(
                "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
                 [[trigger.http]]\nroute = \"/...\"\ncomponent = \"gate\"\n\
                 [component.gate]\nsource = \"gate.wasm\"\n\
                 [component.policy]\nsource = \"policy.wasm\"\n\
                 [component.gate.dependencies]\n{}\n",
                self.dependencies
            );
            let path = self.dir.path().join("spin.toml");
            Manifest::parse(&path, &text).unwrap_or_else(|findings| panic!("{findings:#?}"))
        }

        fn compose(&self) -> Result<Composed, Vec<Finding>> {
            compose(&self.manifest(), "gate", |name| name.starts_with("wasi:"))
        }

        #[track_caller]
        fn composed(&self) -> Composed {
            self.compose().unwrap_or_else(|findings| {
                let shown: Vec<String> = findings.iter().map(Finding::to_string).collect();
                panic!("{}", shown.join("\n"))
            })
        }

        /// Asserts that it has exactly one finding, on this line, that says all this.
        #[track_caller]
        fn refused(&self, line: usize, said: &[&str]) {
            let findings = self.compose().expect_err("refused");
            assert_eq!(findings.len(), 1, "{findings:#?}");
            let shown = findings[0].to_string();
            for said in said {
                assert!(shown.contains(said), "expected `{said}` in\n{shown}");
            }
            assert_eq!(findings[0].line, Some(line), "{shown}");
        }
    }

    /// What the composed door answers.
    fn answer(composed: &Composed) -> u32 {
        let engine = Engine::default();
        let component =
            wasmtime::component::Component::new(&engine, &composed.bytes).expect("valid");
        let mut linker: Linker<()> = Linker::new(&engine);
        for import in &composed.imports {
            let mut instance = linker.instance(import).expect("an instance");
            if import.starts_with("wasi:filesystem/types") {
                let descriptor = ResourceType::host::<()>();
                instance
                    .resource("descriptor", descriptor, |_, _| Ok(()))
                    .expect("a resource");
            }
        }
        let mut store = Store::new(&engine, ());
        let instance = linker
            .instantiate(&mut store, &component)
            .expect("instantiated");
        let door = component
            .get_export_index(None, "p:q/door@0.1.0")
            .expect("a door");
        let f = component
            .get_export_index(Some(&door), "f")
            .expect("a function");
        let f = instance
            .get_typed_func::<(), (u32,)>(&mut store, &f)
            .expect("its type");
        f.call(&mut store, ()).expect("an answer").0
    }

    #[test]
    fn a_dependency_is_plugged_into_the_import_its_key_names() {
        for key in ["a:b/c@0.1.0", "a:b/c", "a:b@0.1.0", "a:b"] {
            let application = Application::new(GATE, &seven("", "a:b/c@0.1.0"))
                .depending(&format!(r#""{key}" = {{ component = "policy" }}"#));
            let composed = application.composed();
            assert!(composed.imports.is_empty(), "{key}: {:?}", composed.imports);
            assert_eq!(answer(&composed), 7, "{key}");
            assert_eq!(composed.warnings, []);
        }
    }

    #[test]
    fn a_dependency_may_be_a_file_and_its_export_may_have_another_name() {
        let application = Application::new(GATE, &seven("", "x:y/z@2.0.0"))
            .depending(r#""a:b/c" = { path = "policy.wasm", export = "x:y/z@2.0.0" }"#);
        assert_eq!(answer(&application.composed()), 7);
    }

    #[test]
    fn a_compatible_version_stands_in_with_a_warning_and_another_does_not() {
        let application = Application::new(GATE, &seven("", "a:b/c@0.1.3"));
        let composed = application.composed();
        assert_eq!(answer(&composed), 7);
        assert_eq!(composed.warnings.len(), 1);
        assert!(composed.warnings[0].message.contains("Spin does not"));

        let application = Application::new(GATE, &seven("", "a:b/c@0.2.0"));
        application.refused(
            12,
            &["does not export a:b/c@0.1.0", "did you mean a:b/c@0.2.0"],
        );
    }

    #[test]
    fn types_that_both_sides_import_stay_one_and_need_nobody_to_provide_them() {
        let types = r#"(import "penstock:types/types@0.1.0" (instance $t
                (type $r (record (field "n" u32)))
                (export "r" (type (eq $r)))))
            (alias export $t "r" (type $r))"#;
        let gate = format!(
            r#"(component {types}
                (import "a:b/c@0.1.0" (instance $c
                    (alias outer 1 $r (type $outer))
                    (export "r" (type $named (eq $outer)))
                    (export "f" (func (result $named)))))
                (instance $door (export "f" (func $c "f")))
                (export "p:q/door@0.1.0" (instance $door)))"#
        );
        let policy = format!(
            r#"(component {types}
                (core module $m (func (export "f") (result i32) i32.const 7))
                (core instance $i (instantiate $m))
                (func $f (result $r) (canon lift (core func $i "f")))
                (instance $c (export "r" (type $r)) (export "f" (func $f)))
                (export "a:b/c@0.1.0" (instance $c)))"#
        );
        let composed = Application::new(&gate, &policy).composed();
        assert_eq!(composed.imports, ["penstock:types/types@0.1.0"]);
    }

    #[test]
    fn what_a_dependency_needs_to_compute_is_left_to_the_host() {
        let imports: String = [
            "wasi:io/streams@0.2.6",
            "wasi:clocks/monotonic-clock@0.2.6",
            "wasi:random/random@0.2.6",
            "wasi:cli/stdout@0.2.6",
            "wasi:cli/terminal-stdout@0.2.6",
            "wasi:nn/inference@0.2.0-rc-2024-10-28",
        ]
        .map(import)
        .concat();
        let composed = Application::new(GATE, &seven(&imports, "a:b/c@0.1.0")).composed();
        assert_eq!(composed.imports.len(), 6, "{:?}", composed.imports);
    }

    #[test]
    fn what_reaches_outside_is_refused_by_name_unless_it_is_inherited() {
        for (name, capability) in [
            ("wasi:http/outgoing-handler@0.2.6", "allowed_outbound_hosts"),
            (
                "wasi:sockets/tcp-create-socket@0.2.6",
                "allowed_outbound_hosts",
            ),
            ("wasi:keyvalue/store@0.2.0-draft2", "key_value_stores"),
            ("wasi:keyvalue/atomics@0.2.0-draft2", "key_value_stores"),
            ("fermyon:spin/key-value@2.0.0", "key_value_stores"),
            ("spin:key-value/key-value@3.0.0", "key_value_stores"),
            ("wasi:config/store@0.2.0-rc.1", "variables"),
            ("fermyon:spin/llm@2.0.0", "ai_models"),
            ("spin:sqlite/sqlite@3.1.0", "sqlite_databases"),
            ("wasi:filesystem/preopens@0.2.6", "files"),
            ("wasi:filesystem/tomorrow@0.4.0", "files"),
        ] {
            let policy = seven(&import(name), "a:b/c@0.1.0");
            let application = Application::new(GATE, &policy);
            let remedy = format!(r#"inherit_configuration = ["{capability}"]"#);
            application.refused(
                12,
                &["`policy`", name, "inherits no configuration", &remedy],
            );

            for inherit in [&format!(r#"["{capability}"]"#), "true"] {
                let entry = format!(
                    r#""a:b/c" = {{ component = "policy", inherit_configuration = {inherit} }}"#
                );
                let application = Application::new(GATE, &policy).depending(&entry);
                let composed = compose(&application.manifest(), "gate", |_| true).expect(name);
                assert_eq!(composed.imports, [name]);
            }
            let other =
                r#""a:b/c" = { component = "policy", inherit_configuration = ["environment"] }"#;
            Application::new(GATE, &policy)
                .depending(other)
                .refused(12, &[name, "not inherit"]);
        }
    }

    #[test]
    fn an_import_no_list_knows_is_refused() {
        let application = Application::new(GATE, &seven(&import("x:y/z@1.0.0"), "a:b/c@0.1.0"));
        application.refused(12, &["x:y/z@1.0.0", "inherit_configuration = true"]);
        let bare = seven(r#"(import "g" (func))"#, "a:b/c@0.1.0");
        Application::new(GATE, &bare).refused(12, &["imports g "]);
    }

    #[test]
    fn the_environment_of_a_dependency_that_inherits_nothing_is_empty() {
        for (version, cwd) in [
            ("0.2.6", "initial-cwd"),
            ("0.2.0", "initial-cwd"),
            ("0.3.0", "get-initial-cwd"),
        ] {
            // The answer counts the variables, the arguments and the working directories.
            let policy = format!(
                r#"(component
                (import "wasi:cli/environment@{version}" (instance $env
                    (export "get-environment" (func (result (list (tuple string string)))))
                    (export "get-arguments" (func (result (list string))))
                    (export "{cwd}" (func (result (option string))))))
                (core module $memory
                    (memory (export "memory") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
                (core instance $memory (instantiate $memory))
                (alias core export $memory "memory" (core memory $shared))
                (alias core export $memory "realloc" (core func $realloc))
                (core func $env (canon lower (func $env "get-environment") (memory $shared) (realloc $realloc)))
                (core func $args (canon lower (func $env "get-arguments") (memory $shared) (realloc $realloc)))
                (core func $cwd (canon lower (func $env "{cwd}") (memory $shared) (realloc $realloc)))
                (core module $m
                    (import "" "env" (func $env (param i32)))
                    (import "" "args" (func $args (param i32)))
                    (import "" "cwd" (func $cwd (param i32)))
                    (import "" "memory" (memory 1))
                    (func (export "f") (result i32)
                        (i32.store (i32.const 20) (i32.const 99))
                        (i32.store (i32.const 36) (i32.const 99))
                        (i32.store (i32.const 48) (i32.const 99))
                        (call $env (i32.const 16))
                        (call $args (i32.const 32))
                        (call $cwd (i32.const 48))
                        (i32.add (i32.load (i32.const 20))
                            (i32.add (i32.load (i32.const 36)) (i32.load8_u (i32.const 48))))))
                (core instance $i (instantiate $m (with "" (instance
                    (export "env" (func $env)) (export "args" (func $args)) (export "cwd" (func $cwd))
                    (export "memory" (memory $shared))))))
                (func $f (result u32) (canon lift (core func $i "f")))
                (instance $c (export "f" (func $f)))
                (export "a:b/c@0.1.0" (instance $c)))"#
            );
            let composed = Application::new(GATE, &policy).composed();
            assert!(composed.imports.is_empty(), "{:?}", composed.imports);
            assert_eq!(answer(&composed), 0, "{version}");
        }
    }

    #[test]
    fn a_dependency_that_inherits_nothing_sees_no_directory() {
        let policy = r#"(component
            (import "wasi:filesystem/types@0.2.6" (instance $types
                (export "descriptor" (type (sub resource)))))
            (alias export $types "descriptor" (type $descriptor))
            (import "wasi:filesystem/preopens@0.2.6" (instance $preopens
                (alias outer 1 $descriptor (type $outer))
                (export "descriptor" (type $named (eq $outer)))
                (export "get-directories" (func (result (list (tuple (own $named) string)))))))
            (core module $memory
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $memory (instantiate $memory))
            (alias core export $memory "memory" (core memory $shared))
            (alias core export $memory "realloc" (core func $realloc))
            (core func $get (canon lower (func $preopens "get-directories") (memory $shared) (realloc $realloc)))
            (core module $m
                (import "" "get" (func $get (param i32)))
                (import "" "memory" (memory 1))
                (func (export "f") (result i32)
                    (i32.store (i32.const 20) (i32.const 99))
                    (call $get (i32.const 16))
                    (i32.load (i32.const 20))))
            (core instance $i (instantiate $m (with "" (instance
                (export "get" (func $get)) (export "memory" (memory $shared))))))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $c (export "f" (func $f)))
            (export "a:b/c@0.1.0" (instance $c)))"#;
        let composed = Application::new(GATE, policy).composed();
        assert_eq!(composed.imports, ["wasi:filesystem/types@0.2.6"]);
        assert_eq!(answer(&composed), 0);
    }

    #[test]
    fn one_component_for_two_imports_is_one_instance() {
        let gate = r#"(component
            (import "a:b/c@0.1.0" (instance $c (export "f" (func (result u32)))))
            (import "d:e/f@0.1.0" (instance $d (export "f" (func (result u32)))))
            (instance $door (export "f" (func $c "f")) (export "g" (func $d "f")))
            (export "p:q/door@0.1.0" (instance $door)))"#;
        let policy = r#"(component
            (core module $m (global $n (mut i32) (i32.const 7))
                (func (export "f") (result i32) global.get $n))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $c (export "f" (func $f)))
            (export "a:b/c@0.1.0" (instance $c))
            (export "d:e/f@0.1.0" (instance $c)))"#;
        let both = "\"a:b/c\" = { component = \"policy\" }\n\"d:e/f\" = { component = \"policy\" }";
        let composed = Application::new(gate, policy).depending(both).composed();
        assert!(composed.imports.is_empty());
        assert_eq!(answer(&composed), 7);
        let magic = b"\0asm\x0d\0\x01\0";
        let components = composed.bytes.windows(magic.len()).filter(|at| at == magic);
        assert_eq!(components.count(), 3, "the whole, the gate and the policy");

        let uneven = "\"a:b/c\" = { component = \"policy\" }\n\"d:e/f\" = { component = \"policy\", inherit_configuration = true }";
        let application = Application::new(gate, policy).depending(uneven);
        application.refused(13, &["differ in what they inherit"]);
    }

    #[test]
    fn what_nobody_provides_is_refused_by_name() {
        let gate = GATE.replacen(
            "(component",
            &format!("(component {}", import("x:y/z@1.0.0")),
            1,
        );
        let application = Application::new(&gate, &seven("", "a:b/c@0.1.0"));
        application.refused(7, &["`gate` imports x:y/z@1.0.0", "nor this host provides"]);
        let policy = seven(&import("penstock:other/other@0.1.0"), "a:b/c@0.1.0");
        let application = Application::new(GATE, &policy);
        application.refused(12, &["penstock:other/other@0.1.0", "does not provide"]);
    }

    #[test]
    fn a_key_that_names_no_import_is_refused() {
        let application = Application::new(GATE, &seven("", "a:b/c@0.1.0")).depending(
            "\"a:b/c\" = { component = \"policy\" }\n\"a:b/d@0.2.0\" = { component = \"policy\" }",
        );
        application.refused(13, &["imports nothing called `a:b/d@0.2.0`"]);
    }

    #[test]
    fn an_export_of_another_type_is_refused() {
        let policy =
            seven("", "a:b/c@0.1.0").replace("(func $f (result u32)", "(func $f (result s32)");
        let application = Application::new(GATE, &policy);
        application.refused(
            12,
            &["but not as component `gate` imports it", "same WIT package"],
        );
    }

    #[test]
    fn a_component_without_dependencies_is_served_as_it_is() {
        let application =
            Application::new(&seven("", "p:q/door@0.1.0"), &seven("", "a:b/c@0.1.0")).depending("");
        let composed = application.composed();
        let source = std::fs::read(application.dir.path().join("gate.wasm")).expect("the file");
        assert_eq!(composed.bytes, source);
        assert_eq!(answer(&composed), 7);
    }

    #[test]
    fn a_file_that_is_no_component_is_refused_with_what_it_is() {
        let application = Application::new(GATE, "(module)");
        application.refused(12, &["is a core module", "wasm32-wasip2"]);
        let policy = application.dir.path().join("policy.wasm");
        for (content, said) in [
            (&b"text"[..], "is not WebAssembly"),
            (b"", "is not WebAssembly"),
            (b"\0asm\x0d\0\x01\0\xff", "is not a valid component"),
        ] {
            std::fs::write(&policy, content).expect("written");
            application.refused(12, &["`policy`", said]);
        }
        std::fs::remove_file(&policy).expect("removed");
        application.refused(12, &["cannot be read", "scripts/build"]);
    }

    #[test]
    fn an_unknown_component_is_refused_with_the_known_ones() {
        let application = Application::new(GATE, &seven("", "a:b/c@0.1.0"));
        let findings = compose(&application.manifest(), "gat", |_| true).expect_err("unknown");
        assert!(findings[0].remedy.contains("`gate`"), "{}", findings[0]);
    }

    #[test]
    fn all_that_is_wrong_is_found_at_once() {
        let gate = GATE.replacen(
            "(component",
            &format!("(component {}", import("x:y/z@1.0.0")),
            1,
        );
        let policy = seven(
            &[
                import("wasi:http/client@0.3.0"),
                import("wasi:sockets/types@0.3.0"),
            ]
            .concat(),
            "a:b/c@0.1.0",
        );
        let findings = Application::new(&gate, &policy)
            .compose()
            .expect_err("refused");
        assert_eq!(findings.len(), 3, "{findings:#?}");
    }
}
