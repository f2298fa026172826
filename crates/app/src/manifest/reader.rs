//! Interprets each part of a manifest's text, and finds all its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use semver::Version;
use toml::de::{DeTable, DeValue};

use super::dependency::check_words;
use super::types::{Application, Component, HttpTrigger, Manifest, Provider, Variable};
use crate::document::{Reader, Section};
use crate::finding::{self, Finding, Lines};

/// The place where a manifest grants labels that Spin would not know.
pub(super) const OWN_LABELS: &str = "tool.penstock.key_value_stores";

/// The beginning of the paths that Spin reserves for itself.
pub(super) const RESERVED_PREFIX: &str = "/.well-known/spin";

/// Returns the manifest of a document, or all its faults in the order of the file.
pub(super) fn read(
    file: &Path,
    root: &Path,
    lines: Lines<'_>,
    document: &DeTable<'_>,
) -> Result<Manifest, Vec<Finding>> {
    let mut reader = Reader {
        file,
        root,
        lines,
        findings: Vec::new(),
        warnings: Vec::new(),
    };
    let manifest = reader.manifest(document);
    let (mut findings, mut warnings) = (reader.findings, reader.warnings);
    if findings.is_empty() {
        finding::sort(&mut warnings);
        return Ok(Manifest {
            warnings,
            ..manifest
        });
    }
    findings.append(&mut warnings);
    finding::sort(&mut findings);
    Err(findings)
}

impl<'a> Reader<'a> {
    /// Settings of other tools. Their content is not checked, except for our own.
    pub(super) fn tool(&mut self, section: &Section<'_>) {
        let Some(tools) = self.subsection(section, "tool", format!("`tool` in {}", section.name))
        else {
            return;
        };
        for (key, value) in tools.table {
            let key: &str = key.get_ref();
            if !value.get_ref().is_table() {
                self.wrong_type(
                    value,
                    &format!("`tool.{key}` in {}", section.name),
                    "a table",
                );
            }
        }
    }

    fn manifest(&mut self, document: &DeTable<'_>) -> Manifest {
        let root = Section {
            name: "the manifest".to_owned(),
            table: document,
            span: 0..0,
        };
        self.version(&root);
        self.only(
            &root,
            &[
                "spin_manifest_version",
                "application",
                "variables",
                "trigger",
                "component",
            ],
        );
        let application = self.application(&root);
        let variables = self.variables(&root);
        let components = self.components(&root, &variables);
        let triggers = self.triggers(&root, &components);
        self.flatness(&components);
        self.unused(&components, &triggers);
        Manifest {
            path: self.file.to_owned(),
            root: self.root.to_owned(),
            application,
            variables,
            triggers,
            components,
            warnings: Vec::new(),
        }
    }

    fn version(&mut self, root: &Section<'_>) {
        const FIELD: &str = "spin_manifest_version";
        const REMEDY: &str = "write `spin_manifest_version = 2` at the top and the rest as Spin's manifest reference has it";
        match root.table.get(FIELD) {
            None => self.error(&root.span, format!("`{FIELD}` is missing"), REMEDY),
            Some(value) => match value.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 && number.as_str() == "2" => {}
                _ => self.error(
                    &value.span(),
                    format!("`{FIELD}` is not the number 2, the only version this host reads"),
                    REMEDY,
                ),
            },
        }
    }

    fn application(&mut self, root: &Section<'_>) -> Application {
        let Some(section) = self.subsection(root, "application", "[application]".to_owned()) else {
            if !root.table.contains_key("application") {
                self.error(
                    &root.span,
                    "`[application]` is missing",
                    "add `[application]` with `name = \"…\"`",
                );
            }
            return Application::default();
        };
        self.only(
            &section,
            &[
                "name",
                "version",
                "description",
                "authors",
                "targets",
                "trigger",
                "tool",
            ],
        );
        self.tool(&section);
        self.targets(&section);
        if let Some(settings) = self.subsection(&section, "trigger", "[application.trigger]".into())
        {
            for (key, value) in settings.table {
                let kind: &str = key.get_ref();
                // Spin's scaffolding leaves empty tables behind. An empty one has no effect.
                if value
                    .get_ref()
                    .as_table()
                    .is_none_or(|table| !table.is_empty())
                {
                    self.not_served(
                        &key.span(),
                        &format!(
                            "`[application.trigger.{kind}]`, settings for all triggers of a kind,"
                        ),
                        "remove it",
                    );
                }
            }
        }
        let name = self.string(&section, "name");
        match &name {
            None if section.table.contains_key("name") => {}
            Some(name) if !name.value.trim().is_empty() => {}
            _ => {
                let span = name
                    .as_ref()
                    .map_or(section.span.clone(), |name| name.span.clone());
                self.error(
                    &span,
                    "the application has no name",
                    "add `name = \"…\"` to [application]",
                );
            }
        }
        let version = self.string(&section, "version");
        if let Some(version) = &version
            && !version.value.is_empty()
            && Version::parse(version.value).is_err()
        {
            let place = self.place(&version.span);
            self.warning_at(
                place,
                format!("`{}` is not a version such as 1.2.3", version.value),
                "write three numbers, as semver has it",
            );
        }
        Application {
            name: name.map(|name| name.value.to_owned()).unwrap_or_default(),
            version: version
                .map(|version| version.value.to_owned())
                .unwrap_or_default(),
            description: self.owned(&section, "description").unwrap_or_default(),
            authors: self
                .strings(&section, "authors")
                .into_iter()
                .map(|author| author.value.to_owned())
                .collect(),
        }
    }

    /// The Spin environments that the author targets. This host checks only their shape.
    pub(super) fn targets(&mut self, section: &Section<'_>) {
        if let Some(value) = section.table.get("targets")
            && !value.get_ref().is_array()
        {
            self.wrong_type(value, &format!("`targets` in {}", section.name), "an array");
        }
    }

    fn variables(&mut self, root: &Section<'_>) -> BTreeMap<String, Variable> {
        let mut variables = BTreeMap::new();
        let Some(section) = self.subsection(root, "variables", "[variables]".to_owned()) else {
            return variables;
        };
        for (key, value) in section.table {
            let name: &str = key.get_ref();
            self.check_variable_name(name, &key.span());
            let title = format!("variable `{name}`");
            let Some(entry) = self.section(title, value, key.span()) else {
                continue;
            };
            self.only(&entry, &["description", "required", "default", "secret"]);
            let required = self.flag(&entry, "required").unwrap_or(false);
            let default = self.owned(&entry, "default");
            if required == entry.table.contains_key("default") {
                let (message, remedy) = if required {
                    ("is required and has a default", "keep one of the two")
                } else {
                    (
                        "has neither a default nor `required = true`",
                        "add `default = \"…\"` or `required = true`",
                    )
                };
                self.error(&entry.span, format!("variable `{name}` {message}"), remedy);
            }
            let variable = Variable {
                place: self.place(&key.span()),
                description: self.owned(&entry, "description"),
                default,
                secret: self.flag(&entry, "secret").unwrap_or(false),
            };
            variables.insert(name.to_owned(), variable);
        }
        variables
    }

    pub(super) fn check_variable_name(&mut self, name: &str, span: &Range<usize>) {
        if let Err(problem) = check_words(name, '_', false) {
            self.error(
                span,
                format!("a variable cannot be named so: {problem}"),
                "name it in lower_snake_case",
            );
        }
    }

    pub(super) fn required(&mut self, section: &Section<'_>, field: &str) -> Option<String> {
        if !section.table.contains_key(field) {
            self.error(
                &section.span,
                format!("{} has no `{field}`", section.name),
                format!("add `{field} = \"…\"`"),
            );
        }
        self.owned(section, field)
    }

    /// Spin's composition is flat, and a component's configuration does not follow it into another. So a component that
    /// is a dependency may have no configuration. Otherwise its author would believe that it has it.
    fn flatness(&mut self, components: &BTreeMap<String, Component>) {
        for component in components.values() {
            for dependency in &component.dependencies {
                let Provider::Component(id) = &dependency.provider else {
                    continue;
                };
                let Some(provider) = components.get(id) else {
                    self.no_such_component(id, dependency.place, components);
                    continue;
                };
                for (field, place) in &provider.configured {
                    let remedy = if *field == "dependencies" {
                        "link its dependencies when you build it".to_owned()
                    } else {
                        format!(
                            "move it to [component.{}], and let the dependency inherit it with `inherit_configuration`",
                            component.id
                        )
                    };
                    self.error_at(
                        *place,
                        format!(
                            "component `{id}` is a dependency of `{}` (line {}), so it may have no `{field}` of its own",
                            component.id, dependency.place.line
                        ),
                        remedy,
                    );
                }
            }
        }
    }

    fn unused(&mut self, components: &BTreeMap<String, Component>, triggers: &[HttpTrigger]) {
        let plugged = components
            .values()
            .flat_map(|component| &component.dependencies);
        let used: BTreeSet<&str> = plugged
            .filter_map(|dependency| match &dependency.provider {
                Provider::Component(id) => Some(id.as_str()),
                Provider::File(_) => None,
            })
            .chain(triggers.iter().map(|trigger| trigger.component.as_str()))
            .collect();
        for component in components.values() {
            if !used.contains(component.id.as_str()) {
                self.warning_at(
                    component.place,
                    format!(
                        "component `{}` is used by no trigger and no dependency",
                        component.id
                    ),
                    "remove it, or name it in the trigger or dependency that uses it",
                );
            }
        }
    }
}

/// Returns whether a value has no effect, so that writing it is harmless.
pub(super) fn is_empty(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Array(items) => items.is_empty(),
        DeValue::Table(table) => table.is_empty(),
        _ => false,
    }
}
