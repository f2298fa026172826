//! The stored bytes of records of operations and batches: the format, and JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format of the records that this release writes.
const FORM: u8 = 1;

/// The stored bytes of a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![FORM];
    serde_json::to_writer(&mut bytes, record).expect("strings and numbers are JSON");
    bytes
}

/// Parses the bytes of [`encode`]; `None` for other bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (&form, text) = bytes.split_first()?;
    (form == FORM)
        .then(|| serde_json::from_slice(text).ok())
        .flatten()
}
