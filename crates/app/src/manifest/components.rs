//! Reads the components of a manifest: files, stores, variables and dependencies.

use super::dependency::{DependencyName, check_kebab};
use super::reader::{OWN_LABELS, is_empty};
use super::types::{
    Capability, Component, Dependency, FileEntry, FileForm, Inherit, OtherSource, Provider,
    StoreLabel, Variable,
};
use crate::document::{Reader, Section, Text};
use crate::finding::{self, SourceLocation};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

/// All fields of a component.
const FIELDS: [&str; 17] = [
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
];
/// The configuration of a component. A dependency may have none of these fields.
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
/// Configuration that Spin would give a component and this host cannot yet.
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

impl<'a> Reader<'a> {
    pub(super) fn components(
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

    pub(super) fn component(
        &mut self,
        id: &str,
        section: &Section<'_>,
        variables: &BTreeMap<String, Variable>,
    ) -> Component {
        self.only(section, &FIELDS);
        self.tool(section);
        self.targets(section);
        self.build(section);
        self.refuse_not_served(section);
        let mut configured: Vec<(&'static str, SourceLocation)> = CONFIGURATION
            .into_iter()
            .filter_map(|field| {
                let (key, value) = section.table.get_key_value(field)?;
                (!is_empty(value.get_ref())).then(|| (field, self.place(&key.span())))
            })
            .collect();
        let mut key_value_stores = self.labels(section);
        let (own, native, direct) = self.own_table(section);
        if let Some(first) = own.first() {
            configured.push((OWN_LABELS, first.place));
        }
        key_value_stores.extend(own);
        let (source, source_place) = self.source(section);
        let own_variables = self.own_variables(section, variables);
        let environment = self.environment(section);
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
            direct,
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

    /// Reports the configuration that this host does not serve.
    fn refuse_not_served(&mut self, section: &Section<'_>) {
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
    }

    /// Reads the variables of a component. `variables` are those of the application.
    fn own_variables(
        &mut self,
        section: &Section<'_>,
        variables: &BTreeMap<String, Variable>,
    ) -> BTreeMap<String, String> {
        let mut own_variables = BTreeMap::new();
        for (name, value) in self.map(section, "variables") {
            self.check_variable_name(name.value, &name.span);
            self.check_template(&value, variables);
            own_variables.insert(name.value.to_owned(), value.value.to_owned());
        }
        own_variables
    }

    /// Reads the environment variables of a component.
    fn environment(&mut self, section: &Section<'_>) -> BTreeMap<String, String> {
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
        environment
    }

    /// Reads the labels under `key_value_stores`, each with its place.
    pub(super) fn labels(&mut self, section: &Section<'_>) -> Vec<StoreLabel> {
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

    /// Reads the table of this host, which Spin does not read. It has labels that the host grants beside those that Spin
    /// would (Spin knows one and refuses the others unless it is told their stores). It also has the files that the host
    /// serves instead of the `source`. The host serves `native` if it provides natively the part that the `source`
    /// carries, and `direct` if it calls only the direct entry point.
    pub(super) fn own_table(
        &mut self,
        section: &Section<'_>,
    ) -> (Vec<StoreLabel>, Option<OtherSource>, Option<OtherSource>) {
        let tools = section
            .table
            .get("tool")
            .and_then(|v| v.get_ref().as_table());
        let Some((key, value)) = tools.and_then(|tools| tools.get_key_value("penstock")) else {
            return Default::default();
        };
        // A value that is no table was reported with the other tools.
        let Some(table) = value.get_ref().as_table() else {
            return Default::default();
        };
        let own = Section {
            name: format!("`tool.penstock` in {}", section.name),
            table,
            span: key.span(),
        };
        self.only(&own, &["key_value_stores", "native", "direct"]);
        let native = self.other_source(&own, "native");
        let direct = self.other_source(&own, "direct");
        (self.labels(&own), native, direct)
    }

    fn other_source(&mut self, own: &Section<'_>, field: &str) -> Option<OtherSource> {
        let path = self.string(own, field)?;
        if path.value.is_empty() {
            self.error(
                &path.span,
                format!("`{field}` in {} is empty", own.name),
                "write the path of the WebAssembly file, or leave it out",
            );
        }
        Some(OtherSource {
            place: self.place(&path.span),
            path: self.root.join(path.value),
        })
    }

    pub(super) fn source(&mut self, section: &Section<'_>) -> (PathBuf, SourceLocation) {
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

    /// Checks the build instructions. Other tools use them, so only their shape is checked.
    pub(super) fn build(&mut self, section: &Section<'_>) {
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

    pub(super) fn files(&mut self, section: &Section<'_>) -> Vec<FileEntry> {
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

    /// Reports each `{{ name }}` in a text that is no application variable.
    pub(super) fn check_template(
        &mut self,
        text: &Text<'_>,
        variables: &BTreeMap<String, Variable>,
    ) {
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

    pub(super) fn dependencies(&mut self, section: &Section<'_>) -> Vec<Dependency> {
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

    pub(super) fn dependency(
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
                        format!("{what} names neither a component nor a path"),
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

    pub(super) fn inherit(&mut self, entry: &Section<'_>, all: Option<bool>) -> Inherit {
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
                        None => format!("these can be inherited: {}", finding::list(names())),
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

    pub(super) fn disjoint(&mut self, dependencies: &[Dependency]) {
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
                        "put each interface into its own package to run the application under Spin",
                    );
                }
            }
        }
    }
}
