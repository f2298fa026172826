//! Reads the values of a `model.toml`, and collects all faults with their line, column and remedy.

use crate::excerpt::excerpt;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest name of a symbolic axis, an adapter or a configuration file.
pub const MAX_NAME_BYTES: usize = 64;
/// Most faults that are reported for one file.
pub const MAX_FAULTS: usize = 100;

/// One fault of a `model.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractFault {
    /// The line in the file, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// A sentence that names the fault.
    pub message: String,
    /// The change that corrects it.
    pub remedy: String,
}

impl fmt::Display for ContractFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}. {}",
            self.line, self.column, self.message, self.remedy
        )
    }
}

impl std::error::Error for ContractFault {}

/// The members of a table that were not read yet.
pub(super) struct Members<'t, 'i> {
    /// The place of the table, for a missing member.
    span: Range<usize>,
    /// The name of the table in messages.
    what: &'static str,
    entries: Vec<(&'t str, Range<usize>, &'t Spanned<DeValue<'i>>)>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Members<'t, 'i> {
    pub(super) fn new(table: &'t DeTable<'i>, span: Range<usize>, what: &'static str) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
            .collect();
        Self {
            span,
            what,
            entries,
            known: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(name);
        let index = self.entries.iter().position(|(key, ..)| *key == name)?;
        Some(self.entries.remove(index).2)
    }
}

pub(super) struct Reader<'i> {
    pub(super) text: &'i str,
    pub(super) faults: Vec<(usize, ContractFault)>,
}

impl<'i> Reader<'i> {
    pub(super) fn fault(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let start = self
            .text
            .floor_char_boundary(span.start.min(self.text.len()));
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let fault = ContractFault {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message: message.into(),
            remedy: remedy.into(),
        };
        self.faults.push((start, fault));
    }

    pub(super) fn finish(mut self) -> Vec<ContractFault> {
        self.faults.sort_by_key(|(start, _)| *start);
        self.faults.into_iter().map(|(_, fault)| fault).collect()
    }

    pub(super) fn unknown_members(&mut self, members: Members<'_, '_>) {
        for (name, span, _) in members.entries {
            let message = format!("{} has no member {:?}", members.what, excerpt(name));
            let remedy = format!("Remove it, or use one of: {}.", members.known.join(", "));
            self.fault(span, message, remedy);
        }
    }

    pub(super) fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, name: &str, wanted: &str) {
        let found = type_name(value.get_ref());
        self.fault(
            value.span(),
            format!("{name} is {found}"),
            format!("Write {wanted}."),
        );
    }

    pub(super) fn table<'t, 'v>(
        &mut self,
        value: &'t Spanned<DeValue<'v>>,
        name: &'static str,
    ) -> Option<Members<'t, 'v>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Members::new(table, value.span(), name)),
            _ => {
                self.wrong_type(value, name, "a table");
                None
            }
        }
    }

    pub(super) fn string(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            _ => {
                self.wrong_type(value, name, "a string");
                None
            }
        }
    }

    pub(super) fn missing(&mut self, members: &Members<'_, '_>, name: &str, remedy: &str) {
        self.fault(
            members.span.clone(),
            format!("{} has no {name}", members.what),
            remedy,
        );
    }

    /// An integer within `least..=greatest`.
    pub(super) fn integer(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        (least, greatest): (i64, i64),
    ) -> Option<i64> {
        let wanted = if greatest == i64::MAX {
            format!("an integer of at least {least}")
        } else {
            format!("an integer from {least} to {greatest}")
        };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, name, &wanted);
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (least..=greatest).contains(&number) => Some(number),
            _ => {
                let found = excerpt(integer.as_str());
                self.fault(
                    value.span(),
                    format!("{name} is {found}"),
                    format!("Write {wanted}."),
                );
                None
            }
        }
    }

    pub(super) fn count(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<u64> {
        self.integer(value, name, (1, i64::MAX))
            .and_then(|n| u64::try_from(n).ok())
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.string(value, name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("{name} is {:?}", excerpt(&text));
            self.fault(
                value.span(),
                message,
                format!("Write one of: {}.", known.join(", ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A name that is also a file name or an identifier: no separators, nothing hidden.
    pub(super) fn plain_name(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        extra: &[u8],
    ) -> Option<String> {
        let text = self.string(value, name)?;
        let bytes = text.as_bytes();
        let plain = bytes.len() <= MAX_NAME_BYTES
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || extra.contains(b))
            && !text.contains("..");
        if !plain {
            let extra: Vec<String> = extra.iter().map(|b| char::from(*b).to_string()).collect();
            let remedy = format!(
                "Write 1 to {MAX_NAME_BYTES} letters, digits or any of {}, beginning with a letter \
                 or a digit, without \"..\".",
                extra.join(" ")
            );
            self.fault(
                value.span(),
                format!("{name} is {:?}", excerpt(&text)),
                remedy,
            );
            return None;
        }
        Some(text)
    }

    pub(super) fn strings(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
    ) -> Option<Vec<String>> {
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(value, name, "an array of strings");
            return None;
        };
        let mut strings = Vec::new();
        for entry in entries.iter() {
            strings.push(self.string(entry, "a label").unwrap_or_default());
        }
        Some(strings)
    }

    pub(super) fn boolean(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            _ => {
                self.wrong_type(value, name, "true or false");
                None
            }
        }
    }

    /// A number, whole or not, within `least..=greatest`.
    pub(super) fn number(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        (least, greatest): (f64, f64),
    ) -> Option<f64> {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|number| number as f64),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type(value, name, "a number");
                return None;
            }
        };
        let sound = number.filter(|number| (least..=greatest).contains(number));
        if sound.is_none() {
            let wanted = if least == f64::MIN {
                "Write a finite number.".to_owned()
            } else {
                format!("Write a number from {least} to {greatest}.")
            };
            self.fault(value.span(), format!("{name} is out of range"), wanted);
        }
        sound
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
