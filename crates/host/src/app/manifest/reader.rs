//! Decides what each part of a manifest's text means, and finds all that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use semver::Version;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::dependency::{DependencyName, check_kebab, check_words};
use super::types::{
    Application, Capability, Component, Dependency, FileEntry, FileForm, HttpTrigger, Inherit,
    Manifest, NativeSource, Provider, Route, StoreLabel, Variable,
};
use crate::app::document::{Reader, Section, Text};
use crate::app::finding::{self, Finding, Lines, Place};

/// Where a manifest grants labels that Spin would not know.
const OWN_LABELS: &str = "tool.penstock.key_value_stores";

/// Paths under which Spin answers by itself.
const RESERVED_PREFIX: &str = "/.well-known/spin";

/// The manifest in a document, or all that is wrong with it in the order of the file.
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
    /// Settings of other tools: what is in them is theirs, but for our own.
    fn tool(&mut self, section: &Section<'_>) {
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
                // Spin's scaffolding leaves empty tables behind; an empty one asks for nothing.
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

    /// Which Spin environments the author had in mind: no concern of this host, beyond its shape.
    fn targets(&mut self, section: &Section<'_>) {
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

    fn check_variable_name(&mut self, name: &str, span: &Range<usize>) {
        if let Err(problem) = check_words(name, '_', false) {
            self.error(
                span,
                format!("a variable cannot be named so: {problem}"),
                "name it in lower_snake_case",
            );
        }
    }

    fn components(
        &mut self,
        root: &Section<'_>,
        variables: &BTreeMap<String, Variable>,
    ) -> BTreeMap<String, Component> {
        let mut components = BTreeMap::new();
        let Some(section) = self.subsection(root, "component", "[component]".to_owned()) else {
            if !root.table.contains_key("component") {
                self.error(
                    &root.span,
                    "the manifest has no component",
                    "add `[component.<id>]` with `source = \"….wasm\"`",
                );
            }
            return components;
        };
        for (key, value) in section.table {
            let id: &str = key.get_ref();
            if let Err(problem) = check_kebab(id) {
                self.error(
                    &key.span(),
                    format!("a component cannot be named so: {problem}"),
                    "name it in kebab-case",
                );
            }
            if let Some(entry) = self.section(format!("[component.{id}]"), value, key.span()) {
                let component = self.component(id, &entry, variables);
                components.insert(id.to_owned(), component);
            }
        }
        components
    }

    fn component(
        &mut self,
        id: &str,
        section: &Section<'_>,
        variables: &BTreeMap<String, Variable>,
    ) -> Component {
        /// What a component may be given: a dependency may have none of these filled in.
        const CONFIGURATION: [&str; 9] = [
            "ai_models",
            "allowed_http_hosts",
            "allowed_outbound_hosts",
            "dependencies",
            "environment",
            "files",
            "key_value_stores",
            "sqlite_databases",
            "variables",
        ];
        /// What Spin would give a component and this host cannot yet.
        const NOT_SERVED: [(&str, &str); 5] = [
            (
                "ai_models",
                "use the penstock:inference interface, which runs models through wasi:nn",
            ),
            (
                "allowed_http_hosts",
                "remove it: components here reach no network",
            ),
            (
                "allowed_outbound_hosts",
                "remove it: components here reach no network",
            ),
            ("sqlite_databases", "remove it"),
            (
                "profile",
                "remove it: point `source` at the build that is to be served",
            ),
        ];
        self.only(
            section,
            &[
                "source",
                "description",
                "variables",
                "environment",
                "files",
                "exclude_files",
                "allowed_http_hosts",
                "allowed_outbound_hosts",
                "key_value_stores",
                "sqlite_databases",
                "ai_models",
                "targets",
                "build",
                "tool",
                "dependencies_inherit_configuration",
                "dependencies",
                "profile",
            ],
        );
        self.tool(section);
        self.targets(section);
        self.build(section);
        for (field, remedy) in NOT_SERVED {
            if let Some((key, value)) = section.table.get_key_value(field)
                && !is_empty(value.get_ref())
            {
                self.not_served(
                    &key.span(),
                    &format!("`{field}` in {}", section.name),
                    remedy,
                );
            }
        }
        let mut configured: Vec<(&'static str, Place)> = CONFIGURATION
            .into_iter()
            .filter_map(|field| {
                let (key, value) = section.table.get_key_value(field)?;
                (!is_empty(value.get_ref())).then(|| (field, self.place(&key.span())))
            })
            .collect();
        let mut key_value_stores = self.labels(section);
        let (own, native) = self.own_table(section);
        if let Some(first) = own.first() {
            configured.push((OWN_LABELS, first.place));
        }
        key_value_stores.extend(own);
        let (source, source_place) = self.source(section);
        let mut own_variables = BTreeMap::new();
        for (name, value) in self.map(section, "variables") {
            self.check_variable_name(name.value, &name.span);
            self.check_template(&value, variables);
            own_variables.insert(name.value.to_owned(), value.value.to_owned());
        }
        let mut environment = BTreeMap::new();
        for (name, value) in self.map(section, "environment") {
            if name.value.is_empty()
                || name.value.contains(['=', '\0'])
                || value.value.contains('\0')
            {
                self.error(
                    &name.span,
                    format!(
                        "`{}` cannot be an environment variable",
                        name.value.escape_default()
                    ),
                    "use a name without `=`, and no NUL in name or value",
                );
            }
            environment.insert(name.value.to_owned(), value.value.to_owned());
        }
        let exclude_files_place = section
            .table
            .get_key_value("exclude_files")
            .filter(|(_, value)| !is_empty(value.get_ref()))
            .map(|(key, _)| self.place(&key.span()));
        Component {
            id: id.to_owned(),
            place: self.place(&section.span),
            description: self.owned(section, "description").unwrap_or_default(),
            source,
            source_place,
            native,
            environment,
            files: self.files(section),
            exclude_files: self
                .strings(section, "exclude_files")
                .into_iter()
                .map(|pattern| pattern.value.to_owned())
                .collect(),
            exclude_files_place,
            variables: own_variables,
            key_value_stores,
            dependencies: self.dependencies(section),
            configured,
        }
    }

    /// The labels under `key_value_stores`.
    fn labels(&mut self, section: &Section<'_>) -> Vec<StoreLabel> {
        let mut labels = Vec::new();
        for label in self.strings(section, "key_value_stores") {
            if label.value.is_empty() {
                self.error(
                    &label.span,
                    format!("a label of `key_value_stores` in {} is empty", section.name),
                    "write the label of a store, such as \"default\"",
                );
                continue;
            }
            labels.push(StoreLabel {
                place: self.place(&label.span),
                name: label.value.to_owned(),
            });
        }
        labels
    }

    /// What only this host acts on, in a table that Spin does not look at: labels it grants beside those Spin would
    /// (which knows one and refuses the others unless it is told what they stand for), and the file it serves where
    /// it brings natively what the `source` carries.
    fn own_table(&mut self, section: &Section<'_>) -> (Vec<StoreLabel>, Option<NativeSource>) {
        let tools = section
            .table
            .get("tool")
            .and_then(|v| v.get_ref().as_table());
        let Some((key, value)) = tools.and_then(|tools| tools.get_key_value("penstock")) else {
            return Default::default();
        };
        // What is no table has been reported with the other tools.
        let Some(table) = value.get_ref().as_table() else {
            return Default::default();
        };
        let own = Section {
            name: format!("`tool.penstock` in {}", section.name),
            table,
            span: key.span(),
        };
        self.only(&own, &["key_value_stores", "native"]);
        let native = self.string(&own, "native").map(|path| {
            if path.value.is_empty() {
                self.error(
                    &path.span,
                    format!("`native` in {} is empty", own.name),
                    "write the path of the WebAssembly file, or leave it out",
                );
            }
            NativeSource {
                place: self.place(&path.span),
                path: self.root.join(path.value),
            }
        });
        (self.labels(&own), native)
    }

    fn source(&mut self, section: &Section<'_>) -> (PathBuf, Place) {
        let nowhere = (PathBuf::new(), self.place(&section.span));
        let Some((key, value)) = section.table.get_key_value("source") else {
            self.error(
                &section.span,
                format!("{} has no `source`", section.name),
                "add `source = \"….wasm\"`",
            );
            return nowhere;
        };
        match value.get_ref() {
            DeValue::String(path) if !path.is_empty() => {
                (self.root.join(&**path), self.place(&value.span()))
            }
            DeValue::String(_) => {
                self.error(
                    &value.span(),
                    format!("`source` in {} is empty", section.name),
                    "write the path of the WebAssembly file",
                );
                nowhere
            }
            DeValue::Table(_) => {
                self.not_served(
                    &key.span(),
                    &format!(
                        "`source` in {} as a download from a URL or a registry",
                        section.name
                    ),
                    "download the file, check it, and write its path",
                );
                nowhere
            }
            _ => {
                let what = format!("`source` in {}", section.name);
                self.wrong_type(value, &what, "a path in quotes");
                nowhere
            }
        }
    }

    /// Build instructions: other tools act on them, so only their shape is looked at.
    fn build(&mut self, section: &Section<'_>) {
        let name = format!("`build` in {}", section.name);
        let Some(build) = self.subsection(section, "build", name) else {
            return;
        };
        self.only(&build, &["command", "workdir", "watch"]);
        self.string(&build, "workdir");
        self.strings(&build, "watch");
        if build
            .table
            .get("command")
            .is_some_and(|value| value.get_ref().is_array())
        {
            self.strings(&build, "command");
        } else {
            self.string(&build, "command");
        }
    }

    fn files(&mut self, section: &Section<'_>) -> Vec<FileEntry> {
        let Some(value) = section.table.get("files") else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!("`files` in {}", section.name);
            self.wrong_type(value, &what, "an array");
            return Vec::new();
        };
        let mut files = Vec::new();
        for item in items.iter() {
            let place = self.place(&item.span());
            let name = format!("an entry of `files` in {}", section.name);
            let form = match item.get_ref() {
                DeValue::String(pattern) => FileForm::Pattern(pattern.to_string()),
                DeValue::Table(table) => {
                    let entry = Section {
                        name,
                        table,
                        span: item.span(),
                    };
                    self.only(&entry, &["source", "destination"]);
                    let source = self.required(&entry, "source");
                    let destination = self.required(&entry, "destination");
                    let (Some(source), Some(destination)) = (source, destination) else {
                        continue;
                    };
                    FileForm::Directory {
                        source,
                        destination,
                    }
                }
                _ => {
                    self.wrong_type(item, &name, "`{ source = \"…\", destination = \"/…\" }`");
                    continue;
                }
            };
            files.push(FileEntry { place, form });
        }
        files
    }

    fn required(&mut self, section: &Section<'_>, field: &str) -> Option<String> {
        if !section.table.contains_key(field) {
            self.error(
                &section.span,
                format!("{} has no `{field}`", section.name),
                format!("add `{field} = \"…\"`"),
            );
        }
        self.owned(section, field)
    }

    /// Whether every `{{ name }}` in a text is an application variable.
    fn check_template(&mut self, text: &Text<'_>, variables: &BTreeMap<String, Variable>) {
        let mut rest = text.value;
        while let Some((_, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                self.error(
                    &text.span,
                    "a `{{` has no `}}` after it",
                    "write `{{ name }}`, with the name of a variable under [variables]",
                );
                return;
            };
            let name = name.trim();
            if !variables.contains_key(name) {
                let remedy = match finding::nearest(name, variables.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{{{{ {meant} }}}}`?"),
                    None => format!("declare `{name}` under [variables]"),
                };
                self.error(&text.span, format!("there is no variable `{name}`"), remedy);
            }
            rest = after;
        }
    }

    fn dependencies(&mut self, section: &Section<'_>) -> Vec<Dependency> {
        let all = self.flag(section, "dependencies_inherit_configuration");
        let title = format!("[{}.dependencies]", section.name.trim_matches(['[', ']']));
        let Some(table) = self.subsection(section, "dependencies", title) else {
            return Vec::new();
        };
        let mut dependencies: Vec<Dependency> = Vec::new();
        for (key, value) in table.table {
            let span = key.span();
            let written: &str = key.get_ref();
            let name = match DependencyName::parse(written) {
                Ok(name) => name,
                Err(problem) => {
                    self.error(
                        &span,
                        format!("`{written}` names no interface: {problem}"),
                        "write `namespace:package/interface@1.2.3` or `namespace:package@1.2.3`",
                    );
                    continue;
                }
            };
            if let Some(dependency) = self.dependency(name, value, &span, all) {
                dependencies.push(dependency);
            }
        }
        dependencies.sort_by_key(|dependency| dependency.place);
        self.disjoint(&dependencies);
        dependencies
    }

    fn dependency(
        &mut self,
        name: DependencyName,
        value: &Spanned<DeValue<'_>>,
        span: &Range<usize>,
        all: Option<bool>,
    ) -> Option<Dependency> {
        const REMEDY: &str =
            "download the component, and write `{ path = \"….wasm\" }` or `{ component = \"…\" }`";
        let what = format!("dependency `{name}`");
        let table = match value.get_ref() {
            DeValue::Table(table) => table,
            DeValue::String(_) => {
                self.not_served(
                    span,
                    &format!("{what}, a version to fetch from a registry,"),
                    REMEDY,
                );
                return None;
            }
            _ => {
                self.wrong_type(value, &what, "`{ component = \"…\" }`");
                return None;
            }
        };
        let entry = Section {
            name: what.clone(),
            table,
            span: span.clone(),
        };
        self.only(
            &entry,
            &[
                "component",
                "path",
                "export",
                "inherit_configuration",
                "version",
                "registry",
                "package",
                "url",
                "digest",
            ],
        );
        let remote = ["version", "registry", "package", "url", "digest"];
        if let Some(field) = remote.into_iter().find(|field| table.contains_key(*field)) {
            let form = format!("{what}, to be fetched as its `{field}` says,");
            self.not_served(span, &form, REMEDY);
            return None;
        }
        let inherit = self.inherit(&entry, all);
        let export = self.owned(&entry, "export");
        if export.is_some()
            && matches!(
                &name,
                DependencyName::Package {
                    interface: None,
                    ..
                }
            )
        {
            self.error(
                span,
                format!("{what} stands for a whole package, but names one `export`"),
                "name the interface in the key, or remove `export`",
            );
        }
        let component = self.string(&entry, "component");
        let path = self.string(&entry, "path");
        let provider = match (component, path) {
            (Some(component), None) => Provider::Component(component.value.to_owned()),
            (None, Some(path)) => Provider::File(self.root.join(path.value)),
            (None, None) => {
                if !table.contains_key("component") && !table.contains_key("path") {
                    self.error(
                        span,
                        format!("{what} does not say what satisfies it"),
                        "add `component = \"…\"`, the id of a component in this manifest, or `path = \"….wasm\"`",
                    );
                }
                return None;
            }
            (Some(_), Some(_)) => {
                self.error(
                    span,
                    format!("{what} has a `component` and a `path`"),
                    "keep one of the two",
                );
                return None;
            }
        };
        Some(Dependency {
            place: self.place(span),
            name,
            provider,
            export,
            inherit,
        })
    }

    fn inherit(&mut self, entry: &Section<'_>, all: Option<bool>) -> Inherit {
        const FIELD: &str = "inherit_configuration";
        let Some(value) = entry.table.get(FIELD) else {
            return match all {
                Some(true) => Inherit::Everything,
                _ => Inherit::Nothing,
            };
        };
        if all.is_some() {
            self.error(
                &value.span(),
                format!(
                    "{} has `{FIELD}` while its component has `dependencies_inherit_configuration`",
                    entry.name
                ),
                "keep one of the two; the one on the dependency can be narrower",
            );
        }
        match value.get_ref() {
            DeValue::Boolean(true) => Inherit::Everything,
            DeValue::Boolean(false) => Inherit::Nothing,
            DeValue::Array(_) => {
                let mut inherited = BTreeSet::new();
                for text in self.strings(entry, FIELD) {
                    let known = Capability::ALL
                        .iter()
                        .find(|known| known.name() == text.value);
                    if let Some(known) = known {
                        inherited.insert(*known);
                        continue;
                    }
                    let names = || Capability::ALL.iter().map(|known| known.name());
                    let remedy = match finding::nearest(text.value, names()) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => format!("what can be inherited is {}", finding::list(names())),
                    };
                    self.error(
                        &text.span,
                        format!(
                            "`{}` is not a configuration that can be inherited",
                            text.value
                        ),
                        remedy,
                    );
                }
                Inherit::Only(inherited)
            }
            _ => {
                let what = format!("`{FIELD}` of {}", entry.name);
                self.wrong_type(value, &what, "`true`, `false` or an array of names");
                Inherit::Nothing
            }
        }
    }

    fn disjoint(&mut self, dependencies: &[Dependency]) {
        for (at, later) in dependencies.iter().enumerate() {
            for earlier in &dependencies[..at] {
                if later.name.overlaps(&earlier.name) {
                    self.error_at(
                        later.place,
                        format!(
                            "dependencies `{}` (line {}) and `{}` can satisfy the same import",
                            earlier.name, earlier.place.line, later.name
                        ),
                        "keep one, or name the interface or the version each is for",
                    );
                } else if let (
                    DependencyName::Package { package: a, .. },
                    DependencyName::Package { package: b, .. },
                ) = (&earlier.name, &later.name)
                    && a == b
                {
                    self.warning_at(
                        later.place,
                        format!(
                            "`{}` (line {}) and `{}` are of one package: this host joins them, Spin refuses to",
                            earlier.name, earlier.place.line, later.name
                        ),
                        "put each interface in a package of its own if the application is to run under Spin",
                    );
                }
            }
        }
    }

    fn triggers(
        &mut self,
        root: &Section<'_>,
        components: &BTreeMap<String, Component>,
    ) -> Vec<HttpTrigger> {
        let mut triggers = Vec::new();
        const REMEDY: &str =
            "add `[[trigger.http]]` with `route = \"/...\"` and `component = \"…\"`";
        let Some(section) = self.subsection(root, "trigger", "[trigger]".to_owned()) else {
            if !root.table.contains_key("trigger") {
                self.error(&root.span, "the manifest has no trigger", REMEDY);
            }
            return triggers;
        };
        for (key, value) in section.table {
            let kind: &str = key.get_ref();
            if kind != "http" {
                let remedy = match finding::nearest(kind, ["http"]) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "remove it: this host serves HTTP".to_owned(),
                };
                self.not_served(&key.span(), &format!("a trigger of kind `{kind}`"), &remedy);
                continue;
            }
            let DeValue::Array(items) = value.get_ref() else {
                self.wrong_type(
                    value,
                    "`trigger.http`",
                    "`[[trigger.http]]`, with two brackets,",
                );
                continue;
            };
            for item in items.iter() {
                let entry = self.section("[[trigger.http]]".to_owned(), item, item.span());
                if let Some(trigger) = entry.and_then(|entry| self.trigger(&entry, components)) {
                    triggers.push(trigger);
                }
            }
            if items.is_empty() {
                self.error(&key.span(), "the manifest has no HTTP trigger", REMEDY);
            }
        }
        if !section.table.contains_key("http") {
            self.error(&section.span, "the manifest has no HTTP trigger", REMEDY);
        }
        self.clashes(&triggers);
        triggers
    }

    fn trigger(
        &mut self,
        section: &Section<'_>,
        components: &BTreeMap<String, Component>,
    ) -> Option<HttpTrigger> {
        self.only(
            section,
            &[
                "id",
                "route",
                "component",
                "executor",
                "components",
                "dependencies",
                "static_response",
            ],
        );
        for field in ["components", "dependencies", "static_response"] {
            if let Some((key, value)) = section.table.get_key_value(field)
                && !is_empty(value.get_ref())
            {
                self.not_served(
                    &key.span(),
                    &format!("`{field}` in {}", section.name),
                    "remove it",
                );
            }
        }
        self.executor(section);
        let id = self.owned(section, "id");
        let route = self.route(section);
        let component = match section.table.get_key_value("component") {
            None => {
                // A static response has been reported already, and has no component by nature.
                if !section.table.contains_key("static_response") {
                    self.error(
                        &section.span,
                        "an HTTP trigger has no `component`",
                        "add `component = \"…\"`, the id of a component",
                    );
                }
                None
            }
            Some((key, value)) if value.get_ref().is_table() => {
                self.not_served(
                    &key.span(),
                    "a component written inside its trigger",
                    "move it to a `[component.<id>]` of its own and write the id here",
                );
                None
            }
            Some((_, value)) => self.text(value, "`component` in [[trigger.http]]"),
        };
        if let Some(component) = &component {
            self.check_component(component, components);
        }
        Some(HttpTrigger {
            place: self.place(&section.span),
            id,
            route: route?,
            component: component?.value.to_owned(),
        })
    }

    fn check_component(&mut self, id: &Text<'_>, components: &BTreeMap<String, Component>) {
        if !components.contains_key(id.value) {
            let place = self.place(&id.span);
            self.no_such_component(id.value, place, components);
        }
    }

    fn no_such_component(
        &mut self,
        id: &str,
        place: Place,
        components: &BTreeMap<String, Component>,
    ) {
        let remedy = match finding::nearest(id, components.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add `[component.{id}]`"),
        };
        self.error_at(place, format!("there is no component `{id}`"), remedy);
    }

    fn executor(&mut self, section: &Section<'_>) {
        let name = "`executor` in [[trigger.http]]".to_owned();
        let Some(executor) = self.subsection(section, "executor", name) else {
            return;
        };
        match self.string(&executor, "type") {
            // Spin's two names for the same thing.
            Some(kind) if matches!(kind.value, "http" | "spin") => self.only(&executor, &["type"]),
            Some(kind) => self.not_served(
                &kind.span,
                &format!("the executor `{}`", kind.value),
                "remove `executor`, and export wasi:http/handler from the component",
            ),
            None if executor.table.contains_key("type") => {}
            None => self.error(&executor.span, "`executor` has no `type`", "remove it"),
        }
    }

    fn route(&mut self, section: &Section<'_>) -> Option<Route> {
        let Some(value) = section.table.get("route") else {
            self.error(
                &section.span,
                "an HTTP trigger has no `route`",
                "add `route = \"/...\"`, or a path such as \"/v2/...\"",
            );
            return None;
        };
        let text: &str = match value.get_ref() {
            DeValue::Table(table) => {
                let entry = Section {
                    name: "`route` in [[trigger.http]]".to_owned(),
                    table,
                    span: value.span(),
                };
                self.only(&entry, &["private"]);
                if self.flag(&entry, "private") != Some(true) {
                    self.error(
                        &value.span(),
                        "a route written as a table is not `{ private = true }`",
                        "write a path, or `{ private = true }`",
                    );
                }
                return Some(Route::Private);
            }
            DeValue::String(text) => text,
            _ => {
                self.wrong_type(
                    value,
                    "`route` in [[trigger.http]]",
                    "a path such as \"/...\"",
                );
                return None;
            }
        };
        let (path, below) = match text
            .strip_suffix("/...")
            .or_else(|| text.strip_suffix("/*"))
        {
            Some(path) => (path, true),
            None => (text, false),
        };
        if !text.starts_with('/') {
            self.error(
                &value.span(),
                format!("route `{text}` does not start with a slash"),
                format!("write `/{text}`"),
            );
        }
        if let Some(part) = path
            .split('/')
            .find(|part| part.starts_with(':') || part.contains('*') || *part == "...")
        {
            self.not_served(
                &value.span(),
                &format!("the part `{part}` of route `{text}`, which stands for any text,"),
                "write a path that ends in /..., and let the component tell paths apart",
            );
        } else if let Some(wrong) = path
            .chars()
            .find(|c| matches!(c, '?' | '#') || c.is_whitespace())
        {
            self.error(
                &value.span(),
                format!(
                    "route `{text}` has a `{}`, which no path has",
                    wrong.escape_default()
                ),
                "write the path alone",
            );
        }
        if path.starts_with(RESERVED_PREFIX) {
            let place = self.place(&value.span());
            self.warning_at(
                place,
                format!("route `{text}` is among those Spin answers by itself"),
                "choose another path if the application is to run under Spin",
            );
        }
        let path = path.trim_matches('/').to_owned();
        Some(if below {
            Route::Below(path)
        } else {
            Route::Exact(path)
        })
    }

    fn clashes(&mut self, triggers: &[HttpTrigger]) {
        for (at, later) in triggers.iter().enumerate() {
            if later.route == Route::Private {
                continue;
            }
            if let Some(earlier) = triggers[..at]
                .iter()
                .find(|earlier| earlier.route == later.route)
            {
                self.error_at(
                    later.place,
                    format!(
                        "the routes of `{}` (line {}) and `{}` are the same",
                        earlier.component, earlier.place.line, later.component
                    ),
                    "give one of them another route",
                );
            }
        }
    }

    /// Spin's composition is flat, and what a component is given does not follow it into another: so a
    /// component that is a dependency may be given nothing, lest someone believe that it has it.
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
                        "plug its dependencies in when it is built".to_owned()
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
                    "remove it, or name it where it belongs",
                );
            }
        }
    }
}

/// Whether a value asks for nothing, so that writing it is harmless.
fn is_empty(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Array(items) => items.is_empty(),
        DeValue::Table(table) => table.is_empty(),
        _ => false,
    }
}
