//! The files that a source has, and the limits for them.

use crate::digest::Digest;
use crate::error::Error;
use std::path::PathBuf;
use url::Url;

/// The place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileLocation {
    /// A path on this machine.
    Local(PathBuf),
    /// A URL of http or https.
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
    /// The place from which it is read.
    pub place: FileLocation,
    /// Its size, if the source states it.
    pub bytes: Option<u64>,
    /// Its checksum, if the source states it.
    pub sha256: Option<Digest>,
    /// The source's own name for the file's state, such as an entity tag.
    pub validator: Option<String>,
    /// Whether its place always has the same content.
    pub immutable: bool,
    /// Whether it is an archive that must be unpacked.
    pub archive: bool,
}

/// The contents of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Its files, in the source's order.
    pub items: Vec<Item>,
    /// Its commit or digest, for people.
    pub identity: Option<String>,
    /// Its checksum, if the source states one.
    pub pin: Option<Digest>,
    /// Whether it is one file, whose own sum is the pin and which is unpacked if it is an archive.
    pub single: bool,
}

/// Most files and most bytes of one model.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files, downloaded and unpacked.
    pub bytes: u64,
    /// Number of files, downloaded and unpacked.
    pub files: usize,
}

/// The error for a model that is too large.
pub fn too_large(limits: Limits) -> Error {
    Error::refused(format!(
        "it has more than {} bytes; raise max_bytes in [models.pull] if that is intended",
        limits.bytes
    ))
}

/// The error for a model with too many files.
pub fn too_many(limits: Limits) -> Error {
    Error::refused(format!(
        "it has more than {} files; raise max_files in [models.pull] if that is intended",
        limits.files
    ))
}
