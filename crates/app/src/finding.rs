//! Defines how a fault is reported: the file, the line, the fault and the remedy.
//!
//! All readers of files written by people (the manifest, the components it names) return a list of [`Finding`]s instead
//! of the first error, so that one run of `penstock check` shows all faults.

use std::fmt;
use std::path::{Path, PathBuf};

/// The severity of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The application cannot be served.
    Error,
    /// The application is served, but the problem will surprise somebody.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// A location in a file. Line and column count from one, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceLocation {
    /// The number of the line, from one.
    pub line: usize,
    /// The column, from one, in characters.
    pub column: usize,
}

/// One fault, its location, and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its file, as the person named it.
    pub file: PathBuf,
    /// The line, from one. `None` if the finding is about the whole file.
    pub line: Option<usize>,
    /// The column, from one, in characters.
    pub column: Option<usize>,
    /// A sentence that names the fault.
    pub message: String,
    /// The change that corrects it.
    pub remedy: String,
    /// An error prevents serving; a warning does not.
    pub severity: Severity,
}

impl Finding {
    /// A fault that must be corrected before the application can be served.
    pub fn error(
        file: impl Into<PathBuf>,
        place: Option<SourceLocation>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            message: message.into(),
            remedy: remedy.into(),
            severity: Severity::Error,
        }
    }

    /// A problem of an application that is served, but will surprise somebody.
    pub fn warning(
        file: impl Into<PathBuf>,
        place: Option<SourceLocation>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(file, place, message, remedy)
        }
    }

    /// A finding about a whole file.
    pub fn about(file: &Path, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::error(file, None, message, remedy)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}: {}", self.severity, self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Finding {}

/// Puts findings in the order a person reads a file: by file, then line, then column.
pub(crate) fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| {
        (&a.file, a.line, a.column, a.severity).cmp(&(&b.file, b.line, b.column, b.severity))
    });
}

/// Turns byte offsets into a text into [`SourceLocation`]s.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    /// Byte offset of the start of each line.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// The place of a byte offset; offsets past the end are the end.
    pub(crate) fn place(&self, offset: usize) -> SourceLocation {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        SourceLocation {
            line,
            column: self.text[start..offset].chars().count() + 1,
        }
    }
}

/// The longest name that is compared with known ones. Comparing takes quadratic time and memory.
const MAX_COMPARED_BYTES: usize = 200;

/// Returns the name among `known` that is most likely meant by `written`, if one is close enough.
pub(crate) fn nearest<'k>(
    written: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    // Such a long name is not close to any known one.
    if written.len() > MAX_COMPARED_BYTES {
        return None;
    }
    // A third of the letters may be wrong: enough for a typing error, a plural or a wrong separator, and too few to
    // suggest an unrelated word.
    let allowed = (written.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|name| (distance(written, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The number of letters that must be added, dropped, changed or swapped with their neighbour to turn one word into the
/// other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Rows of the usual table, one for each letter of `a`; swaps look two rows back.
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Formats names as `a`, `b` or `c`, for a message about expected values.
pub(crate) fn list<'s>(names: impl IntoIterator<Item = &'s str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_a_compiler_message_with_its_remedy() {
        let place = SourceLocation { line: 3, column: 7 };
        let finding = Finding::error("spin.toml", Some(place), "no such thing", "make one");
        assert_eq!(
            finding.to_string(),
            "spin.toml:3:7: error: no such thing\n  remedy: make one"
        );
        let whole = Finding::warning("spin.toml", None, "odd", "");
        assert_eq!(whole.to_string(), "spin.toml: warning: odd");
    }

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let lines = Lines::new("aé\nb\n");
        let at = |offset| {
            let place = lines.place(offset);
            (place.line, place.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(1), (1, 2));
        assert_eq!(at(2), (1, 2), "the middle of a letter is that letter");
        assert_eq!(at(3), (1, 3));
        assert_eq!(at(4), (2, 1));
        assert_eq!(at(6), (3, 1));
        assert_eq!(at(600), (3, 1), "past the end is the end");
    }

    #[test]
    fn a_slip_is_recognised_and_an_unrelated_word_is_not() {
        let known = ["environment", "files", "source"];
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("file", known), Some("files"));
        assert_eq!(nearest("soruce", known), Some("source"));
        assert_eq!(nearest("flies", known), Some("files"));
        assert_eq!(nearest("wasm", known), None);
        assert_eq!(nearest("", known), None);
    }
}
