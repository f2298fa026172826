//! Bytes that lie here, or in the host until they are needed.
//!
//! On Penstock's own host a large body of a request stays outside of WebAssembly, and so do large outputs of a model. A
//! [`Buffer`] of them is a place: it can be cut, checked and handed on without a copy. Everything else may use it as a slice:
//! the first such use copies the bytes, once.

use crate::rule::ValueRule;
use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, OnceLock};

/// Bytes that the host holds for the current request: its body, or an output of a model.
pub trait HostBytes: fmt::Debug + Send + Sync {
    /// The number by which the host knows them.
    fn item(&self) -> u32;
    /// Copies a part of them. The caller keeps within their length.
    fn read(&self, offset: usize, length: usize) -> Vec<u8>;
    /// Returns whether each element of a part meets a rule. The host decides that where the bytes are.
    fn suits(&self, offset: usize, length: usize, rule: &ValueRule) -> bool;
    /// Tells that the host takes them from now on. They are not given up with the last buffer.
    fn hand_over(&self);
}

/// The place of bytes that the host holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number by which the host knows them.
    pub item: u32,
    /// The offset of the first byte.
    pub offset: u64,
    /// The number of bytes of the part.
    pub length: u64,
}

/// Bytes that lie here, or in the host.
#[derive(Clone)]
pub struct Buffer(Bytes);

#[derive(Clone)]
enum Bytes {
    Here(Vec<u8>),
    Held(Part),
    Joined(Joined),
}

/// Several buffers, one after the other.
struct Joined {
    parts: Vec<Buffer>,
    length: usize,
    /// The copy of all, once it was needed.
    copy: OnceLock<Vec<u8>>,
}

impl Joined {
    fn copied(&self) -> &Vec<u8> {
        self.copy.get_or_init(|| self.gathered(0..self.length))
    }

    /// Copies some of the bytes. The parts keep no copy of their own.
    fn gathered(&self, range: Range<usize>) -> Vec<u8> {
        let mut gathered = Vec::with_capacity(range.len());
        let mut start = 0;
        for part in &self.parts {
            let end = start + part.len();
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to
                && let Some(bytes) = part.part(from - start..to - start)
            {
                gathered.extend_from_slice(&bytes);
            }
            start = end;
        }
        gathered
    }
}

/// A clone has the place alone: it is seldom read, and a copy may be large.
impl Clone for Part {
    fn clone(&self) -> Self {
        Self {
            host: self.host.clone(),
            offset: self.offset,
            length: self.length,
            copy: OnceLock::new(),
        }
    }
}

impl Clone for Joined {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            length: self.length,
            copy: OnceLock::new(),
        }
    }
}

/// A part of bytes that the host holds.
struct Part {
    host: Arc<dyn HostBytes>,
    offset: usize,
    length: usize,
    /// The copy, once it was needed.
    copy: OnceLock<Vec<u8>>,
}

impl Part {
    fn copied(&self) -> &Vec<u8> {
        self.copy
            .get_or_init(|| self.host.read(self.offset, self.length))
    }
}

impl Buffer {
    /// All bytes of an item that the host holds.
    pub fn held(host: Arc<dyn HostBytes>, length: usize) -> Self {
        Self(Bytes::Held(Part {
            host,
            offset: 0,
            length,
            copy: OnceLock::new(),
        }))
    }

    /// Buffers one after the other. Bytes in the host stay there.
    pub fn joined(parts: Vec<Self>) -> Self {
        Self(Bytes::Joined(Joined {
            length: parts.iter().map(Self::len).sum(),
            parts,
            copy: OnceLock::new(),
        }))
    }

    /// The number of bytes. It copies nothing.
    pub fn len(&self) -> usize {
        match &self.0 {
            Bytes::Here(bytes) => bytes.len(),
            Bytes::Held(part) => part.length,
            Bytes::Joined(joined) => joined.length,
        }
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; a copy of them if the host holds them.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Bytes::Here(bytes) => bytes,
            Bytes::Held(part) => part.copied(),
            Bytes::Joined(joined) => joined.copied(),
        }
    }

    /// Some of the bytes. If the host holds them, only these are copied. `None` if there are not as many.
    pub fn part(&self, range: Range<usize>) -> Option<Cow<'_, [u8]>> {
        let length = range.end.checked_sub(range.start)?;
        match &self.0 {
            Bytes::Here(bytes) => bytes.get(range).map(Cow::Borrowed),
            Bytes::Joined(joined) if range.end > joined.length => None,
            Bytes::Joined(joined) => Some(match joined.copy.get() {
                Some(copy) => Cow::Borrowed(copy.get(range)?),
                None => Cow::Owned(joined.gathered(range)),
            }),
            Bytes::Held(part) if range.end > part.length => None,
            Bytes::Held(part) => Some(match part.copy.get() {
                Some(copy) => Cow::Borrowed(copy.get(range)?),
                None => Cow::Owned(part.host.read(part.offset + range.start, length)),
            }),
        }
    }

    /// Some of the bytes, as a buffer. Bytes in the host stay there. `None` if there are not as many.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let length = range.end.checked_sub(range.start)?;
        match &self.0 {
            Bytes::Here(bytes) => bytes.get(range).map(Self::from),
            Bytes::Joined(_) => self.part(range).map(|bytes| bytes.into_owned().into()),
            Bytes::Held(part) if range.end > part.length => None,
            Bytes::Held(part) => Some(Self(Bytes::Held(Part {
                host: part.host.clone(),
                offset: part.offset + range.start,
                length,
                copy: OnceLock::new(),
            }))),
        }
    }

    /// The place of the bytes, if the host holds them.
    pub fn place(&self) -> Option<Place> {
        match &self.0 {
            Bytes::Held(part) => Some(Place {
                item: part.host.item(),
                offset: part.offset as u64,
                length: part.length as u64,
            }),
            Bytes::Here(_) | Bytes::Joined(_) => None,
        }
    }

    /// The buffers that were joined, or this one. Bytes in the host are still there, even if they were copied meanwhile.
    pub fn into_parts(self) -> Vec<Self> {
        match self.0 {
            Bytes::Joined(joined) => joined.parts,
            _ => vec![self],
        }
    }

    /// The number of bytes that lie in the host and not here.
    pub fn bytes_elsewhere(&self) -> usize {
        match &self.0 {
            Bytes::Held(part) if part.copy.get().is_none() => part.length,
            _ => 0,
        }
    }

    /// The host's decision whether each element meets a rule. `None` if the bytes are here.
    pub fn host_suits(&self, rule: &ValueRule) -> Option<bool> {
        match &self.0 {
            Bytes::Held(part) if part.copy.get().is_none() => {
                Some(part.host.suits(part.offset, part.length, rule))
            }
            _ => None,
        }
    }

    /// Leaves bytes that the host holds to the host: it keeps them until the request ends.
    pub fn hand_over(&self) {
        if let Bytes::Held(part) = &self.0 {
            part.host.hand_over();
        }
    }

    /// The bytes, to be changed. Those of the host are copied, and the copy takes their place.
    pub fn to_mut(&mut self) -> &mut Vec<u8> {
        let copy = match &mut self.0 {
            Bytes::Here(_) => None,
            Bytes::Held(part) => {
                part.copied();
                part.copy.take()
            }
            Bytes::Joined(joined) => {
                joined.copied();
                joined.copy.take()
            }
        };
        if let Some(copy) = copy {
            self.0 = Bytes::Here(copy);
        }
        match &mut self.0 {
            Bytes::Here(bytes) => bytes,
            Bytes::Held(_) | Bytes::Joined(_) => unreachable!("the bytes were copied above"),
        }
    }

    /// Returns the bytes as a vector. Bytes that the host holds are copied into memory here.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(self.to_mut())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.to_mut()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::Here(bytes))
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl<const N: usize> From<[u8; N]> for Buffer {
    fn from(bytes: [u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

impl<const N: usize> From<&[u8; N]> for Buffer {
    fn from(bytes: &[u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

impl FromIterator<u8> for Buffer {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        bytes.into_iter().collect::<Vec<u8>>().into()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Bytes::Here(bytes) => bytes.fmt(f),
            Bytes::Held(_) => self.place().fmt(f),
            Bytes::Joined(joined) => joined.parts.fmt(f),
        }
    }
}

/// Compares the bytes, wherever they lie.
impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Buffer {
    fn eq(&self, other: &T) -> bool {
        self.as_slice() == other.as_ref()
    }
}

impl Eq for Buffer {}
