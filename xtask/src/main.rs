//! Build steps that need Rust.
//!
//! `componentize` turns a core module into a component. The module is built for a target with no system interface and
//! has the sections that wit-bindgen leaves in it. A list of permitted imports makes the build fail on an unintended
//! capability. `plug` joins two components, for a host that lacks an import of the first which the second provides. The
//! same list applies.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Parser, Payload, Validator};
use wit_component::ComponentEncoder;

const USAGE: &str = "\
usage: xtask componentize <core.wasm> <out.wasm> [--allow-imports <pattern>[,<pattern>…]]
       xtask plug <socket.wasm> <plug.wasm> <out.wasm> [--allow-imports <pattern>[,<pattern>…]]
       xtask inspect <component.wasm>

patterns name what the component may import: `penstock:types/*,wasi:nn/*`; `*` stands for anything";

fn main() -> ExitCode {
    match Command::parse(std::env::args_os().skip(1)).and_then(Command::perform) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

enum Command {
    Componentize {
        core: PathBuf,
        out: PathBuf,
        allowed: Option<Vec<String>>,
    },
    Plug {
        socket: PathBuf,
        plug: PathBuf,
        out: PathBuf,
        allowed: Option<Vec<String>>,
    },
    Inspect {
        component: PathBuf,
    },
}

impl Command {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut plain = Vec::new();
        let mut allowed = None;
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            if argument == "--allow-imports" {
                let patterns = arguments
                    .next()
                    .context("--allow-imports needs a list of patterns")?;
                let patterns = patterns.to_str().context("the patterns are not text")?;
                let patterns = patterns.split(',').map(str::trim).filter(|p| !p.is_empty());
                allowed = Some(patterns.map(String::from).collect());
            } else if argument.to_string_lossy().starts_with('-') {
                bail!("unknown option {}\n{USAGE}", argument.display());
            } else {
                plain.push(argument);
            }
        }
        let paths: Vec<PathBuf> = plain.iter().skip(1).map(PathBuf::from).collect();
        match (
            plain.first().and_then(|name| name.to_str()),
            paths.as_slice(),
            &allowed,
        ) {
            (Some("componentize"), [core, out], _) => Ok(Self::Componentize {
                core: core.clone(),
                out: out.clone(),
                allowed,
            }),
            (Some("plug"), [socket, plug, out], _) => Ok(Self::Plug {
                socket: socket.clone(),
                plug: plug.clone(),
                out: out.clone(),
                allowed,
            }),
            (Some("inspect"), [component], None) => Ok(Self::Inspect {
                component: component.clone(),
            }),
            _ => bail!("{USAGE}"),
        }
    }

    fn perform(self) -> Result<()> {
        match self {
            Self::Componentize { core, out, allowed } => {
                let module = read(&core)?;
                let component = componentize(&module)
                    .with_context(|| format!("cannot make a component of {}", core.display()))?;
                put(&out, &component, allowed.as_deref())?;
            }
            Self::Plug {
                socket,
                plug,
                out,
                allowed,
            } => {
                let whole = plugged(read(&socket)?, read(&plug)?).with_context(|| {
                    format!("cannot plug {} into {}", plug.display(), socket.display())
                })?;
                put(&out, &whole, allowed.as_deref())?;
            }
            Self::Inspect { component } => {
                let bytes = read(&component)?;
                let surface = Surface::of(&bytes)
                    .with_context(|| format!("cannot read {}", component.display()))?;
                print!("{}", surface.describe(&component, bytes.len()));
            }
        }
        Ok(())
    }
}

/// Encodes a core module as a component and validates the result.
fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    ensure!(Parser::is_core_wasm(module), "it is not a core module");
    let component = ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode())
        .context("the module does not fit the world its sections describe")?;
    Validator::new()
        .validate_all(&component)
        .context("the component is not valid")?;
    Ok(component)
}

/// Joins two components, the plug and the socket: the exports of the plug satisfy imports of the socket. The remaining
/// imports of both become
/// the imports of the whole, and so do the socket's exports.
fn plugged(socket: Vec<u8>, plug: Vec<u8>) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let mut register = |name: &str, bytes: Vec<u8>| {
        let package = Package::from_bytes(name, None, bytes, graph.types_mut())
            .with_context(|| format!("the {name} is not a component"))?;
        anyhow::Ok(graph.register_package(package)?)
    };
    let (socket, plug) = (register("socket", socket)?, register("plug", plug)?);
    wac_graph::plug(&mut graph, vec![plug], socket)
        .context("the plug exports nothing that the socket imports as it imports it")?;
    graph
        .encode(EncodeOptions::default())
        .context("they do not fit together")
}

/// Writes a component, unless it has an import that is not permitted.
fn put(out: &Path, component: &[u8], allowed: Option<&[String]>) -> Result<()> {
    let surface = Surface::of(component)?;
    if let Some(allowed) = allowed {
        surface
            .admit(allowed)
            .with_context(|| format!("refused to write {}", out.display()))?;
    }
    write(out, component)
}

/// The imports and exports of a component: a kind and a name each.
#[derive(Debug, Default, PartialEq)]
struct Surface {
    imports: Vec<(&'static str, String)>,
    exports: Vec<(&'static str, String)>,
}

impl Surface {
    /// Reads the outermost imports and exports of a component.
    fn of(component: &[u8]) -> Result<Self> {
        ensure!(Parser::is_component(component), "it is not a component");
        let mut surface = Self::default();
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        let import = import?;
                        let kind = match import.ty {
                            ComponentTypeRef::Module(_) => "module",
                            ComponentTypeRef::Func(_) => "function",
                            ComponentTypeRef::Value(_) => "value",
                            ComponentTypeRef::Type(_) => "type",
                            ComponentTypeRef::Instance(_) => "interface",
                            ComponentTypeRef::Component(_) => "component",
                        };
                        surface.imports.push((kind, import.name.0.to_owned()));
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        let export = export?;
                        let kind = match export.kind {
                            ComponentExternalKind::Module => "module",
                            ComponentExternalKind::Func => "function",
                            ComponentExternalKind::Value => "value",
                            ComponentExternalKind::Type => "type",
                            ComponentExternalKind::Instance => "interface",
                            ComponentExternalKind::Component => "component",
                        };
                        surface.exports.push((kind, export.name.0.to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    /// Fails if no pattern admits some imports, and names them.
    fn admit(&self, allowed: &[String]) -> Result<()> {
        let refused: Vec<&str> = self
            .imports
            .iter()
            .map(|(_, name)| name.as_str())
            .filter(|name| !allowed.iter().any(|pattern| matches(pattern, name)))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        bail!(
            "it imports what it was not given: {}; it may import {}",
            refused.join(", "),
            if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            }
        )
    }

    fn describe(&self, path: &Path, size: usize) -> String {
        let mut text = format!("{}: {:.1} KiB\n", path.display(), size as f64 / 1024.0);
        for (direction, names) in [("import", &self.imports), ("export", &self.exports)] {
            if names.is_empty() {
                text.push_str(&format!("  {direction}s nothing\n"));
            }
            for (kind, name) in names {
                text.push_str(&format!("  {direction} {kind} {name}\n"));
            }
        }
        text
    }
}

/// Returns whether a name matches a pattern, in which `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| matches(rest, &tail[at..]))
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes the whole file at once, and leaves an identical one unchanged.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, path))
        .inspect_err(|_| drop(fs::remove_file(&part)))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The component with the fewest bytes: a header and nothing else.
    const EMPTY: &[u8] = b"\0asm\x0d\x00\x01\x00";

    fn names(imports: &[&str]) -> Surface {
        let imports = imports
            .iter()
            .map(|name| ("interface", name.to_string()))
            .collect();
        Surface {
            imports,
            exports: Vec::new(),
        }
    }

    fn patterns(list: &[&str]) -> Vec<String> {
        list.iter().map(|pattern| pattern.to_string()).collect()
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        assert!(matches("wasi:nn/*", "wasi:nn/tensor@0.2.0"));
        assert!(matches("wasi:*@0.2.0", "wasi:nn/tensor@0.2.0"));
        assert!(matches("*", ""));
        assert!(matches("a*", "a"));
        assert!(!matches("wasi:nn/*", "wasi:nnx/tensor"));
        assert!(!matches("wasi:nn", "wasi:nn/tensor"));
        assert!(!matches("wasi:*@0.2.0", "wasi:nn/tensor@0.2.01"));
    }

    #[test]
    fn imports_nobody_gave_are_refused_by_name() {
        let surface = names(&[
            "penstock:types/types@0.1.0",
            "wasi:nn/graph",
            "wasi:sockets/tcp",
        ]);
        let error = surface
            .admit(&patterns(&["penstock:types/*"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("wasi:nn/graph, wasi:sockets/tcp;"),
            "{error}"
        );
        assert!(
            surface
                .admit(&patterns(&["penstock:*", "wasi:nn/*", "wasi:sockets/tcp"]))
                .is_ok()
        );
        assert!(
            surface
                .admit(&[])
                .unwrap_err()
                .to_string()
                .ends_with("it may import nothing")
        );
        assert!(names(&[]).admit(&[]).is_ok());
    }

    #[test]
    fn only_components_have_a_surface_and_only_modules_become_components() {
        assert_eq!(Surface::of(EMPTY).unwrap(), Surface::default());
        assert!(Surface::of(b"\0asm\x01\x00\x00\x00").is_err());
        assert!(Surface::of(b"text").is_err());
        assert!(
            componentize(EMPTY)
                .unwrap_err()
                .to_string()
                .contains("not a core module")
        );
        assert!(componentize(b"").is_err());
    }

    #[test]
    fn components_that_do_not_fit_are_not_plugged() {
        assert!(plugged(EMPTY.to_vec(), b"text".to_vec()).is_err());
        let error = plugged(EMPTY.to_vec(), EMPTY.to_vec()).unwrap_err();
        assert!(
            format!("{error:#}").contains("exports nothing"),
            "{error:#}"
        );
    }
}
