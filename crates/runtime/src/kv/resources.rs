//! The objects behind a guest's handles.

use super::access::Access;

/// An open store of `wasi:keyvalue`.
pub struct Bucket(pub(super) Access);

/// An entry that a guest has read, to be replaced if it is unchanged.
pub struct Cas {
    pub(super) access: Access,
    pub(super) name: String,
    pub(super) seen: Option<Vec<u8>>,
}

impl Cas {
    /// The bytes that the host holds for it.
    pub(super) fn held_bytes(&self) -> usize {
        self.name.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

/// An open store of `fermyon:spin/key-value@2.0.0`.
pub struct Spin2Store(pub(super) Access);

/// An open store of `spin:key-value/key-value@3.0.0`.
pub struct Spin3Store(pub(super) Access);
