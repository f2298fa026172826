//! The names and records of the entries of files and batches.

use super::words::Purpose;
use crate::operations::period;
use penstock_core::{BatchId, Caller, FileId};
use serde::{Deserialize, Serialize};

/// Bytes in one entry of a file. Every store takes values of this size.
pub(super) const PART_BYTES: usize = 1 << 20;

/// The amount by which one file moves the counter of its owner. The lower bits count bytes.
pub(super) const ONE: i64 = 1 << 40;

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Batch,
}

impl Kind {
    pub const fn letter(self) -> char {
        match self {
            Self::File => 'f',
            Self::Batch => 'b',
        }
    }

    /// The counter of an owner: files and their bytes, or batches that are not over.
    pub fn used(self, owner: &str) -> String {
        format!("b{}u/{owner}", self.letter())
    }

    /// The counter of those that an owner made in an hour.
    pub fn made(self, hour: u64, owner: &str) -> String {
        format!("b{}n/{hour}/{owner}", self.letter())
    }

    /// The place of one in the list of its owner.
    pub fn listed(self, hour: u64, owner: &str, number: u64) -> String {
        format!("b{}l/{hour}/{owner}/{number}", self.letter())
    }
}

/// The names of the entries of a file or of a batch.
#[derive(Clone, Debug)]
pub(super) struct Names {
    folder: String,
    pub hour: u64,
}

impl Names {
    pub fn of_file(id: &FileId) -> Self {
        Self::of(Kind::File, id.unix_ms(), id.short())
    }

    pub fn of_batch(id: &BatchId) -> Self {
        Self::of(Kind::Batch, id.unix_ms(), id.short())
    }

    fn of(kind: Kind, unix_ms: u64, short: &str) -> Self {
        let hour = period(unix_ms);
        Self {
            folder: format!("b{}/{hour}/{short}/", kind.letter()),
            hour,
        }
    }

    fn entry(&self, what: &str) -> String {
        format!("{}{what}", self.folder)
    }

    /// The record.
    pub fn head(&self) -> String {
        self.entry("h")
    }

    /// The counter of charges for its place.
    pub fn charged(&self) -> String {
        self.entry("c")
    }

    /// The counter of returns of its place.
    pub fn returned(&self) -> String {
        self.entry("r")
    }

    /// The mark of a file that was deleted.
    pub fn deleted(&self) -> String {
        self.entry("d")
    }

    /// A part of a file.
    pub fn part(&self, number: u64) -> String {
        self.entry(&format!("p{number}"))
    }

    /// The counter of the batches over a file.
    pub fn uses(&self) -> String {
        self.entry("u")
    }

    /// The id of one of these batches.
    pub fn used_by(&self, number: u64) -> String {
        self.entry(&format!("u{number}"))
    }

    /// The time at which a caller asked for the end of a batch.
    pub fn cancel(&self) -> String {
        self.entry("x")
    }

    /// The number of the newest step of a batch, or of an earlier one.
    pub fn newest(&self) -> String {
        self.entry("n")
    }
}

/// The record of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub tenant: String,
    pub owner: String,
    pub filename: String,
    pub purpose: Purpose,
    pub bytes: u64,
    pub created_ms: u64,
    /// Its number among those of its owner and hour.
    pub number: u64,
}

/// The record of a batch. It is written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BatchRecord {
    /// The caller, without its address.
    pub caller: Caller,
    pub owner: String,
    pub priority: Option<u8>,
    pub endpoint: String,
    /// The file, by its id.
    pub input_file: String,
    pub metadata: Vec<(String, String)>,
    pub request_id: String,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// Its number among those of its owner and hour.
    pub number: u64,
}

/// The owner in names of entries: a hash, because tenants' names may be long.
pub(super) fn owner(tenant: &str) -> String {
    let hash = blake3::hash(tenant.as_bytes()).to_hex();
    hash[..32].to_owned()
}

/// The entry of the index. It names the entries that exist before the record does, because the instance may die before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Indexed {
    pub kind: Kind,
    pub id: String,
    pub owner: String,
    pub number: u64,
}

impl Indexed {
    /// Writes the fields as text with spaces between them.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            kind,
            id,
            owner,
            number,
        } = self;
        format!("{} {id} {owner} {number}", kind.letter()).into_bytes()
    }

    /// Parses the bytes of [`Indexed::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(bytes).ok()?.split(' ');
        Some(Self {
            kind: match fields.next()? {
                "f" => Kind::File,
                "b" => Kind::Batch,
                _ => return None,
            },
            id: fields.next()?.to_owned(),
            owner: fields.next()?.to_owned(),
            number: fields.next()?.parse().ok()?,
        })
    }

    /// The names of its entries; `None` for an id of another form.
    pub fn names(&self) -> Option<Names> {
        match self.kind {
            Kind::File => FileId::parse(&self.id).map(|id| Names::of_file(&id)),
            Kind::Batch => BatchId::parse(&self.id).map(|id| Names::of_batch(&id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_index_reads_back_as_it_was_and_other_bytes_are_none() {
        let indexed = Indexed {
            kind: Kind::Batch,
            id: BatchId::generate(1_700_000_000_000, 7).as_str().to_owned(),
            owner: "o".to_owned(),
            number: 3,
        };
        assert!(indexed.names().is_some());
        assert_eq!(Indexed::decode(&indexed.encode()), Some(indexed));
        for bytes in [&b""[..], b"x batch_1 o 1", b"b batch_1 o", b"\xff"] {
            assert_eq!(Indexed::decode(bytes), None);
        }
    }

    #[test]
    fn names_are_short_enough_for_every_store() {
        let names = Names::of_file(&FileId::generate(u64::MAX >> 16, u128::MAX));
        assert!(names.part(u64::MAX).len() < 200);
    }
}
