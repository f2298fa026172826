//! The way a child process is started.

use std::ffi::OsString;
use std::path::PathBuf;

/// The command that starts a child.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables in addition to those that every child gets.
    pub environment: Vec<(OsString, OsString)>,
}

impl Launcher {
    /// The program that runs now, with these arguments. It is found also when its file was replaced or removed.
    pub fn this_program(arguments: &[&str]) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: arguments.iter().map(Into::into).collect(),
            environment: Vec::new(),
        }
    }
}
