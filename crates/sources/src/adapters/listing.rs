//! The files that a source has, and the limits for them.

use crate::digest::Digest;
use crate::error::Error;
use std::path::PathBuf;
use url::Url;

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// Behind a URL.
    Web(Url),
    /// The key of an object.
    Object(String),
    /// A blob of the registry.
    Blob(Digest),
}

/// A file that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its path in the model, with `/`.
    pub path: String,
    /// Where it is.
    pub place: Place,
    /// Its size, where the source states it.
    pub bytes: Option<u64>,
    /// Its sum, where the source states it.
    pub sha256: Option<Digest>,
    /// What the source names its state, where it does.
    pub validator: Option<String>,
    /// Whether its place stands for one content for ever.
    pub immutable: bool,
    /// Whether it is an archive whose files are meant.
    pub archive: bool,
}

/// What a source has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Its files.
    pub items: Vec<Item>,
    /// Its commit or digest, for people.
    pub identity: Option<String>,
    /// Its sum, where the source states one.
    pub pin: Option<Digest>,
    /// Whether it is one file, whose own sum is the pin and which is unpacked if it is an archive.
    pub single: bool,
}

/// Most files and most bytes of one model.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, downloaded and unpacked.
    pub bytes: u64,
    /// Files.
    pub files: usize,
}

/// That a model is too large.
pub fn too_large(limits: Limits) -> Error {
    Error::refused(format!(
        "it has more than {} bytes; raise max_bytes in [models.pull] if it is to",
        limits.bytes
    ))
}

/// That a model has too many files.
pub fn too_many(limits: Limits) -> Error {
    Error::refused(format!(
        "it has more than {} files; raise max_files in [models.pull] if it is to",
        limits.files
    ))
}
