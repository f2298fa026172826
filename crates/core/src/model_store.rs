//! The models of our host as a store of `wasi:keyvalue` under the label [`LABEL`]. Reading an entry queries the models, and
//! writing one performs an operation. This module is the only place that formats and parses its names and failures.
//!
//! ```text
//! get  index                        JSON: every version, as in the repository index of the Open Inference Protocol
//! get  index/ready                  the same for versions that are ready
//! get  statistics                   JSON: the statistics of every version, as in the protocol
//! get  statistics/<model>           of one model's versions; absent where there is no such model
//! get  statistics/<model>/<version> of one version; absent where there is no such version
//! set  load/<model>                 loads it, or reloads it if its files changed; returns when done
//! set  unload/<model>               unloads it; returns when done
//!
//! failure = word ": " message
//! word    = "not_found" / "failed_precondition" / "failed"
//! ```
//!
//! `exists` works like `get`. Every other operation fails.

use std::fmt;

/// The label of the store.
pub const LABEL: &str = "models";

const INDEX: &str = "index";
const READY: &str = "ready";
const STATISTICS: &str = "statistics";
const LOAD: &str = "load";
const UNLOAD: &str = "unload";

/// An entry of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelEntry<'a> {
    /// The index of the repository.
    Index {
        /// Whether only of versions that are ready.
        ready: bool,
    },
    /// The run counts and times of a model or version.
    Statistics {
        /// Selects the statistics of this model; `None` for all.
        model: Option<&'a str>,
        /// Selects this version, as text; requires a model.
        version: Option<&'a str>,
    },
    /// Writing it loads a model.
    Load(&'a str),
    /// Writing it unloads a model.
    Unload(&'a str),
}

impl<'a> ModelEntry<'a> {
    /// Parses an entry's name; `None` for an unknown name.
    pub fn parse(kv_key: &'a str) -> Option<Self> {
        let mut steps = kv_key.split('/');
        let first = steps.next()?;
        let (second, third) = (steps.next(), steps.next());
        let none_is_empty = ![second, third].contains(&Some(""));
        if steps.next().is_some() || !none_is_empty {
            return None;
        }
        match (first, second, third) {
            (INDEX, None, None) => Some(Self::Index { ready: false }),
            (INDEX, Some(READY), None) => Some(Self::Index { ready: true }),
            (STATISTICS, model, version) => Some(Self::Statistics { model, version }),
            (LOAD, Some(model), None) => Some(Self::Load(model)),
            (UNLOAD, Some(model), None) => Some(Self::Unload(model)),
            _ => None,
        }
    }
}

impl fmt::Display for ModelEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index { ready: false } => f.write_str(INDEX),
            Self::Index { ready: true } => write!(f, "{INDEX}/{READY}"),
            Self::Statistics { model: None, .. } => f.write_str(STATISTICS),
            Self::Statistics {
                model: Some(model),
                version: None,
            } => write!(f, "{STATISTICS}/{model}"),
            Self::Statistics {
                model: Some(model),
                version: Some(version),
            } => write!(f, "{STATISTICS}/{model}/{version}"),
            Self::Load(model) => write!(f, "{LOAD}/{model}"),
            Self::Unload(model) => write!(f, "{UNLOAD}/{model}"),
        }
    }
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFault {
    /// The model or version does not exist.
    NotFound,
    /// The current state does not allow it: the files are not a model, or the operator does not permit it.
    FailedPrecondition,
    /// The host failed internally. This is also the kind of a message of another form.
    Failed,
}

impl ModelFault {
    /// All kinds, for [`Self::parse`].
    pub const ALL: [Self; 3] = [Self::NotFound, Self::FailedPrecondition, Self::Failed];

    /// The word in the failure.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::FailedPrecondition => "failed_precondition",
            Self::Failed => "failed",
        }
    }

    /// Parses the message of a store's error. A message of another form is a failure of the store.
    pub fn parse(words: &str) -> (Self, &str) {
        let of = |fault: &Self| {
            let message = words.strip_prefix(fault.as_str())?.strip_prefix(": ")?;
            Some((*fault, message))
        };
        Self::ALL
            .iter()
            .find_map(of)
            .unwrap_or((Self::Failed, words))
    }

    /// Writes the failure as [`Self::parse`] reads it: the word, a colon, and the message.
    pub fn say(self, message: impl fmt::Display) -> String {
        format!("{}: {message}", self.as_str())
    }
}

/// A failure that a component finds itself: the host's answer does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFault<'a> {
    /// The name cannot be a model's.
    NoName,
    /// The host has no such entry for this model, or for its version.
    NoModel(&'a str),
    /// The host has no index.
    NoIndex,
    /// An entry is not UTF-8.
    NotText,
    /// The host has no store of its models for this component.
    NotOffered,
    /// The host has withdrawn its store.
    Withdrawn,
}

impl fmt::Display for AccessFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("there is no model of this name"),
            Self::NoModel(model) => {
                write!(f, "there is no model `{model}`, or no such version of it")
            }
            Self::NoIndex => f.write_str("the host gives no index of its models"),
            Self::NotText => f.write_str("the host's data about its models is not a string"),
            Self::NotOffered => {
                f.write_str("this host does not let components list, load or unload models")
            }
            Self::Withdrawn => {
                f.write_str("the host no longer gives components access to its models")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_s_name_is_read_as_it_was_written() {
        for (entry, written) in [
            (ModelEntry::Index { ready: false }, "index"),
            (ModelEntry::Index { ready: true }, "index/ready"),
            (
                ModelEntry::Statistics {
                    model: None,
                    version: None,
                },
                "statistics",
            ),
            (
                ModelEntry::Statistics {
                    model: Some("cls"),
                    version: None,
                },
                "statistics/cls",
            ),
            (
                ModelEntry::Statistics {
                    model: Some("cls"),
                    version: Some("3"),
                },
                "statistics/cls/3",
            ),
            (ModelEntry::Load("cls"), "load/cls"),
            (ModelEntry::Unload("load"), "unload/load"),
        ] {
            assert_eq!(entry.to_string(), written);
            assert_eq!(ModelEntry::parse(written), Some(entry), "{written}");
        }
    }

    #[test]
    fn a_name_that_is_no_entry_s_is_none() {
        for name in [
            "",
            "/",
            "index/",
            "index/READY",
            "index/ready/",
            "indexes",
            "statistics/",
            "statistics//1",
            "statistics/cls/",
            "statistics/cls/1/2",
            "load",
            "load/",
            "load/a/b",
            "/load/a",
            "unload",
            "unload/",
            "reload/a",
        ] {
            assert_eq!(ModelEntry::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_failure_is_read_as_it_was_said_and_other_words_are_the_store_s() {
        for fault in ModelFault::ALL {
            for message in ["", "x", "failed: x", "a: b"] {
                assert_eq!(ModelFault::parse(&fault.say(message)), (fault, message));
            }
        }
        for words in [
            "",
            "gone",
            "not_found",
            "not_found:x",
            "failed_preconditions: x",
        ] {
            assert_eq!(ModelFault::parse(words), (ModelFault::Failed, words));
        }
    }
}
