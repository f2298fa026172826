//! Decides the values of a component's variables: `[component.<id>.variables]` of the manifest, texts in which `{{ name
//! }}` stands for an application variable. Components read them through `fermyon:spin/variables@2.0.0`, as on Spin.
//!
//! The value of an application variable is `SPIN_VARIABLE_<NAME>`, or the content of the file that
//! `SPIN_VARIABLE_<NAME>_FILE` names, or its default. [`PEPPER`] is special: if nothing gives it a value, the host
//! creates one and keeps it.

use crate::finding::Finding;
use crate::manifest::Manifest;
use crate::secrets::{self, Environment, Origin, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The variable that is mixed into the hashes of API keys, and the name of its file.
pub const PEPPER: &str = "pepper";

const PREFIX: &str = "SPIN_VARIABLE_";

/// The variables of one component.
#[derive(Default)]
pub struct Variables(BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Returns a set without variables.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the values of a component's variables.
    ///
    /// # Errors
    ///
    /// A finding for each needed application variable that has no value or cannot be read.
    pub fn resolve(
        manifest: &Manifest,
        component: &str,
        state_dir: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, Vec<Finding>> {
        let mut values = BTreeMap::new();
        let mut findings = Vec::new();
        for name in needed(manifest, component) {
            let found = match name {
                PEPPER => pepper(manifest, state_dir, environment).map(|pepper| Some(pepper.text)),
                name => value(manifest, name, environment),
            };
            match found {
                Ok(Some(value)) => {
                    values.insert(name, value);
                }
                Ok(None) => findings.push(missing(manifest, name)),
                Err(error) => findings.push(unreadable(manifest, name, &error)),
            }
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        let templates = manifest.components[component].variables.iter();
        let filled = templates.map(|(name, text)| (name.clone(), fill(text, &values)));
        Ok(Self(filled.collect()))
    }
}

/// Returns the problems that would prevent a component's variables from having values. It creates nothing.
pub fn findings(
    manifest: &Manifest,
    component: &str,
    environment: Environment<'_>,
) -> Vec<Finding> {
    let needed = needed(manifest, component).into_iter();
    needed
        .filter_map(|name| match value(manifest, name, environment) {
            Ok(None) if name != PEPPER => Some(missing(manifest, name)),
            Ok(_) => None,
            Err(error) => Some(unreadable(manifest, name, &error)),
        })
        .collect()
}

/// Returns the pepper of API keys: the given one, else the manifest's, else one that is created once and kept.
///
/// # Errors
///
/// See [`secrets::given`] and [`secrets::kept`].
pub fn pepper(
    manifest: &Manifest,
    state_dir: &Path,
    environment: Environment<'_>,
) -> anyhow::Result<Secret> {
    let text = value(manifest, PEPPER, environment)?.filter(|text| !text.is_empty());
    if let Some(text) = text {
        let origin = Origin::Given;
        return Ok(Secret { text, origin });
    }
    let pepper = secrets::kept(state_dir, PEPPER)?;
    if let Origin::Made(path) = &pepper.origin {
        tracing::info!(
            "a new pepper for API keys is in {}; without it no key is valid: back it \
             up, and give it to every machine that shares the store, with SPIN_VARIABLE_PEPPER_FILE",
            path.display()
        );
    }
    Ok(pepper)
}

/// Returns the application variables that a component's variables use.
fn needed<'m>(manifest: &'m Manifest, component: &str) -> BTreeSet<&'m str> {
    let texts = manifest.components[component].variables.values();
    texts
        .flat_map(|text| pieces(text))
        .filter_map(|piece| match piece {
            Piece::Variable(name) => Some(name),
            Piece::Text(_) => None,
        })
        .collect()
}

enum Piece<'t> {
    Text(&'t str),
    Variable(&'t str),
}

/// Splits a text at each `{{ name }}`. The manifest's reader has checked its form.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Variable(name.trim()));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    pieces
}

fn fill(text: &str, values: &BTreeMap<&str, String>) -> String {
    let filled = pieces(text).into_iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Variable(name) => values.get(name).map_or("", String::as_str),
    });
    filled.collect()
}

/// Returns the value of an application variable, if it has one.
fn value(
    manifest: &Manifest,
    name: &str,
    environment: Environment<'_>,
) -> anyhow::Result<Option<String>> {
    let given = secrets::given(&variable(name), environment)?;
    let default = || manifest.variables.get(name)?.default.clone();
    Ok(given.or_else(default))
}

/// The environment variable of an application variable.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

fn missing(manifest: &Manifest, name: &str) -> Finding {
    let variable = variable(name);
    Finding::error(
        &manifest.path,
        manifest.variables.get(name).map(|found| found.place),
        format!("the variable `{name}` has no value"),
        format!("set {variable}, or {variable}_FILE to a file that holds it"),
    )
}

fn unreadable(manifest: &Manifest, name: &str, error: &anyhow::Error) -> Finding {
    Finding::error(
        &manifest.path,
        manifest.variables.get(name).map(|found| found.place),
        format!("the value of the variable `{name}` cannot be read: {error:#}"),
        "correct the environment variable that sets it; its name begins with SPIN_VARIABLE_",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const MANIFEST: &str = r#"
spin_manifest_version = 2
[application]
name = "a"
[variables]
region = { default = "eu" }
token = { required = true, secret = true }
pepper = { default = "", secret = true }
unused = { required = true }
[[trigger.http]]
route = "/..."
component = "gate"
[component.gate]
source = "gate.wasm"
[component.gate.variables]
where = "in {{ region }}: {{token}}{{ region }}"
plain = "text"
pepper = "{{ pepper }}"
"#;

    fn manifest() -> Manifest {
        Manifest::parse(Path::new("spin.toml"), MANIFEST).unwrap()
    }

    fn with<'a>(values: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| {
            let found = values.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        }
    }

    #[test]
    fn templates_are_filled_from_environment_file_and_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "t0k\n").unwrap();
        let values = [
            ("SPIN_VARIABLE_TOKEN_FILE", file.to_str().unwrap()),
            ("SPIN_VARIABLE_PEPPER", "0123456789abcdef"),
        ];
        let resolve = |values: &[(&str, &str)]| {
            Variables::resolve(&manifest(), "gate", folder.path(), &with(values))
        };
        let variables = resolve(&values).unwrap();
        assert_eq!(variables.get("where"), Some("in eu: t0keu"));
        assert_eq!(variables.get("plain"), Some("text"));
        assert_eq!(variables.get("pepper"), Some("0123456789abcdef"));
        assert_eq!(variables.get("token"), None);
        assert!(!format!("{variables:?}").contains("t0k"));
        let values = [("SPIN_VARIABLE_TOKEN", "x"), ("SPIN_VARIABLE_REGION", "us")];
        let variables = resolve(&values).unwrap();
        assert_eq!(variables.get("where"), Some("in us: xus"));
        // Nothing gives the pepper a value, so one is created, and it is the same at the next start.
        let pepper = variables.get("pepper").unwrap().to_owned();
        assert_eq!(pepper.len(), 64);
        assert_eq!(resolve(&values).unwrap().get("pepper"), Some(&*pepper));
    }

    #[test]
    fn a_required_variable_without_a_value_is_found_with_the_ways_to_give_it() {
        let folder = tempfile::tempdir().unwrap();
        let none = with(&[]);
        let errors = Variables::resolve(&manifest(), "gate", folder.path(), &none).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = errors[0].to_string();
        assert!(text.contains("spin.toml:7"), "{text}");
        assert!(text.contains("SPIN_VARIABLE_TOKEN_FILE"), "{text}");
        let before = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(findings(&manifest(), "gate", &none), errors);
        let after = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(before, after, "a check makes nothing");
        let both = [
            ("SPIN_VARIABLE_TOKEN", "secret"),
            ("SPIN_VARIABLE_TOKEN_FILE", "/nowhere"),
        ];
        let text = findings(&manifest(), "gate", &with(&both))[0].to_string();
        assert!(
            text.contains("keep one") && !text.contains("secret"),
            "{text}"
        );
    }
}
