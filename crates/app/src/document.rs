//! Reads the parts of a TOML document so that all its faults are found at once, each with its place. Unknown fields
//! come with the most likely name, and values of the wrong type with the expected one. The users of the parts know
//! their meaning.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{self, Finding, Lines, SourceLocation};

/// A table of the document, with its name for messages.
pub(crate) struct Section<'t> {
    pub(crate) name: String,
    pub(crate) table: &'t DeTable<'t>,
    /// The place of its name, for missing parts.
    pub(crate) span: Range<usize>,
}

/// A string of the document and its place.
pub(crate) struct Text<'t> {
    pub(crate) value: &'t str,
    pub(crate) span: Range<usize>,
}

/// Reads the parts of a document and collects all faults.
pub(crate) struct Reader<'a> {
    /// The file the document came from.
    pub(crate) file: &'a Path,
    /// The folder that relative paths in it start from.
    pub(crate) root: &'a Path,
    /// The positions of its lines, for the places of faults.
    pub(crate) lines: Lines<'a>,
    /// Faults that prevent its use.
    pub(crate) findings: Vec<Finding>,
    /// Problems that will surprise somebody.
    pub(crate) warnings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(crate) fn place(&self, span: &Range<usize>) -> SourceLocation {
        self.lines.place(span.start)
    }

    pub(crate) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = self.place(span);
        self.error_at(place, message, remedy);
    }

    pub(crate) fn error_at(
        &mut self,
        place: SourceLocation,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings
            .push(Finding::error(self.file, Some(place), message, remedy));
    }

    pub(crate) fn warning_at(
        &mut self,
        place: SourceLocation,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings
            .push(Finding::warning(self.file, Some(place), message, remedy));
    }

    pub(crate) fn not_served(&mut self, span: &Range<usize>, what: &str, remedy: &str) {
        self.error(
            span,
            format!("{what} is not served by this host yet"),
            remedy,
        );
    }

    pub(crate) fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, what: &str, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::Integer(_) => "an integer",
            DeValue::Array(_) => "an array",
            DeValue::Boolean(_) => "true or false",
            DeValue::String(_) => "a string",
            DeValue::Float(_) => "a number",
            DeValue::Datetime(_) => "a date",
            DeValue::Table(_) => "a table",
        };
        self.error(
            &value.span(),
            format!("{what} is {found}; {wanted} was expected"),
            format!("write {wanted}"),
        );
    }

    /// Reports every field of a section that is not known.
    pub(crate) fn only(&mut self, section: &Section<'_>, known: &[&str]) {
        for key in section.table.keys() {
            let written: &str = key.get_ref();
            if known.contains(&written) {
                continue;
            }
            let remedy = match finding::nearest(written, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!(
                    "remove it; the fields here are {}",
                    finding::list(known.iter().copied())
                ),
            };
            self.error(
                &key.span(),
                format!("unknown field `{written}` in {}", section.name),
                remedy,
            );
        }
    }

    pub(crate) fn section<'t>(
        &mut self,
        name: String,
        value: &'t Spanned<DeValue<'t>>,
        span: Range<usize>,
    ) -> Option<Section<'t>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Section { name, table, span }),
            _ => {
                self.wrong_type(value, &name, "a table");
                None
            }
        }
    }

    /// A table inside a section, called `name` in messages.
    pub(crate) fn subsection<'t>(
        &mut self,
        section: &Section<'t>,
        field: &str,
        name: String,
    ) -> Option<Section<'t>> {
        let (key, value) = section.table.get_key_value(field)?;
        self.section(name, value, key.span())
    }

    pub(crate) fn text<'t>(
        &mut self,
        value: &'t Spanned<DeValue<'t>>,
        what: &str,
    ) -> Option<Text<'t>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Text {
                value: text,
                span: value.span(),
            }),
            _ => {
                self.wrong_type(value, what, "a string");
                None
            }
        }
    }

    pub(crate) fn string<'t>(&mut self, section: &Section<'t>, field: &str) -> Option<Text<'t>> {
        let value = section.table.get(field)?;
        self.text(value, &format!("`{field}` in {}", section.name))
    }

    pub(crate) fn owned(&mut self, section: &Section<'_>, field: &str) -> Option<String> {
        self.string(section, field)
            .map(|text| text.value.to_owned())
    }

    pub(crate) fn strings<'t>(&mut self, section: &Section<'t>, field: &str) -> Vec<Text<'t>> {
        let Some(value) = section.table.get(field) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(
                value,
                &format!("`{field}` in {}", section.name),
                "an array of strings",
            );
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| {
                self.text(item, &format!("an entry of `{field}` in {}", section.name))
            })
            .collect()
    }

    pub(crate) fn flag(&mut self, section: &Section<'_>, field: &str) -> Option<bool> {
        let value = section.table.get(field)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                let what = format!("`{field}` in {}", section.name);
                self.wrong_type(value, &what, "`true` or `false`");
                None
            }
        }
    }

    pub(crate) fn map<'t>(
        &mut self,
        section: &Section<'t>,
        field: &str,
    ) -> Vec<(Text<'t>, Text<'t>)> {
        let name = format!("`{field}` in {}", section.name);
        let Some(inner) = self.subsection(section, field, name) else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (key, value) in inner.table {
            let name: &str = key.get_ref();
            if let Some(value) = self.text(value, &format!("`{name}` of {}", inner.name)) {
                let key = Text {
                    value: name,
                    span: key.span(),
                };
                entries.push((key, value));
            }
        }
        entries
    }
}
