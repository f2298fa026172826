//! Reads the triggers of a manifest: the component for each path.

use super::reader::{RESERVED_PREFIX, is_empty};
use super::types::{Component, HttpRoute, HttpTrigger};
use crate::document::{Reader, Section, Text};
use crate::finding::{self, SourceLocation};
use std::collections::BTreeMap;
use toml::de::DeValue;

impl<'a> Reader<'a> {
    pub(super) fn triggers(
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

    pub(super) fn trigger(
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
                // A static response has been reported already, and has no component.
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

    pub(super) fn check_component(
        &mut self,
        id: &Text<'_>,
        components: &BTreeMap<String, Component>,
    ) {
        if !components.contains_key(id.value) {
            let place = self.place(&id.span);
            self.no_such_component(id.value, place, components);
        }
    }

    pub(super) fn no_such_component(
        &mut self,
        id: &str,
        place: SourceLocation,
        components: &BTreeMap<String, Component>,
    ) {
        let remedy = match finding::nearest(id, components.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add `[component.{id}]`"),
        };
        self.error_at(place, format!("there is no component `{id}`"), remedy);
    }

    pub(super) fn executor(&mut self, section: &Section<'_>) {
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

    pub(super) fn route(&mut self, section: &Section<'_>) -> Option<HttpRoute> {
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
                return Some(HttpRoute::Private);
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
                    "route `{text}` contains `{}`, which a path cannot contain",
                    wrong.escape_default()
                ),
                "write only the path",
            );
        }
        if path.starts_with(RESERVED_PREFIX) {
            let place = self.place(&value.span());
            self.warning_at(
                place,
                format!("Spin reserves the route `{text}`"),
                "choose another path if the application is to run under Spin",
            );
        }
        let path = path.trim_matches('/').to_owned();
        Some(if below {
            HttpRoute::Below(path)
        } else {
            HttpRoute::Exact(path)
        })
    }

    pub(super) fn clashes(&mut self, triggers: &[HttpTrigger]) {
        for (at, later) in triggers.iter().enumerate() {
            if later.route == HttpRoute::Private {
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
}
