//! The reason that a model could not be pulled.

use std::fmt;
use std::time::Duration;

/// The kind of a failure. It decides whether the cache may serve instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The source could not be reached, or has failed. An earlier pull may serve.
    Unreachable,
    /// The source answered, and its answer or its data is not acceptable.
    Refused,
    /// The fault is on this machine: its disk or its settings.
    Local,
}

/// A failure, in words for the operator. The words hold no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of failure, which decides whether the cache may serve instead.
    pub kind: Kind,
    /// The problem, its place and the remedy.
    pub message: String,
    /// The wait that the server asks for before the next try.
    pub after: Option<Duration>,
}

impl Error {
    fn new(kind: Kind, message: String) -> Self {
        let after = None;
        Self {
            kind,
            message,
            after,
        }
    }

    /// The source could not be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message.into())
    }

    /// The source sent something that is not accepted.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message.into())
    }

    /// Something on this machine failed.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Kind::Local, message.into())
    }

    /// A file system operation failed.
    pub fn io(doing: impl fmt::Display, error: std::io::Error) -> Self {
        Self::local(format!("cannot {doing}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
