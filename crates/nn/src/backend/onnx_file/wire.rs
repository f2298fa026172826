//! Protocol buffers' wire format, read once from front to back without holding the file.

use std::io::{BufRead, Read, Seek};

use super::field;
use crate::backend::rows::MAX_NUMBERS;

/// The largest depth of nested graphs (the branches of an `If`, the body of a `Loop`). Protocol buffers' own readers stop at
/// 100 nested messages, which is fewer graphs than this.
pub const MAX_DEPTH: usize = 64;

/// The longest name that is read. Exporters' longest are a few hundred bytes; a false length must not allocate memory.
const MAX_NAME_BYTES: u64 = 64 * 1024;

/// The reason why bytes cannot be read as an ONNX file.
pub struct Malformed(pub &'static str);

impl From<std::io::Error> for Malformed {
    fn from(_: std::io::Error) -> Self {
        Malformed("it ends early or cannot be read")
    }
}

/// A value in the wire format, as far as its tag alone describes it.
pub enum Item {
    /// A whole number, as a varint.
    Number(u64),
    /// A string or a message that ends at this offset.
    Until(u64),
    /// A number of 32 bits.
    Bits(u32),
    /// A number of 64 bits. No field of interest has one.
    Fixed,
}

/// The result of reading a part of a file.
pub type Walked<T> = Result<T, Malformed>;

/// A position in a file that only moves forward.
pub struct Wire<R> {
    source: R,
    /// Bytes that were read or skipped.
    pub at: u64,
}

impl<R: BufRead + Seek> Wire<R> {
    /// A reader at the start of a file.
    pub fn new(source: R) -> Self {
        Self { source, at: 0 }
    }

    /// The length of the file in bytes. Call this before anything is read.
    pub fn length(&mut self) -> Walked<u64> {
        let end = self.source.seek(std::io::SeekFrom::End(0))?;
        self.source.rewind()?;
        Ok(end)
    }

    pub fn byte(&mut self) -> Walked<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    pub fn varint(&mut self) -> Walked<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            // Only one bit of the tenth byte counts. The bits above it are dropped, as other readers do.
            value |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("it holds a number of more than ten bytes"))
    }

    /// The next field of a message that ends at `end`.
    pub fn next(&mut self, end: u64) -> Walked<Option<(u64, Item)>> {
        if self.at == end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let item = match tag & 7 {
            0 => Item::Number(self.varint()?),
            1 => {
                self.skip_to(self.at + 8)?;
                Item::Fixed
            }
            2 => {
                let length = self.varint()?;
                let until = self.at.checked_add(length).filter(|until| *until <= end);
                Item::Until(until.ok_or(Malformed("a part of it is longer than the whole"))?)
            }
            5 => {
                let mut bytes = [0; 4];
                self.source.read_exact(&mut bytes)?;
                self.at += 4;
                Item::Bits(u32::from_le_bytes(bytes))
            }
            _ => return Err(Malformed("it is not in protocol buffers' format")),
        };
        if self.at > end || tag >> 3 == 0 {
            return Err(Malformed("it is not in protocol buffers' format"));
        }
        Ok(Some((tag >> 3, item)))
    }

    pub fn skip_to(&mut self, to: u64) -> Walked<()> {
        let ahead = i64::try_from(to - self.at).map_err(|_| Malformed("it is too long"))?;
        self.source.seek_relative(ahead)?;
        self.at = to;
        Ok(())
    }

    /// Whole numbers one after the other; `None`, and skipped, if they are many.
    pub fn numbers(&mut self, end: u64) -> Walked<Option<Vec<i64>>> {
        // A number has ten bytes at most.
        if end - self.at > 10 * MAX_NUMBERS as u64 {
            self.skip_to(end)?;
            return Ok(None);
        }
        let mut numbers = Vec::new();
        while self.at < end {
            numbers.push(self.varint()? as i64);
        }
        match self.at == end {
            true => Ok(Some(numbers)),
            false => Err(Malformed("it is not in protocol buffers' format")),
        }
    }

    /// The bytes up to `end`; `None`, and skipped, if they are many.
    pub fn bytes(&mut self, end: u64) -> Walked<Option<Vec<u8>>> {
        let length = end - self.at;
        // An element has eight bytes at most.
        if length > 8 * MAX_NUMBERS as u64 {
            self.skip_to(end)?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        self.at = end;
        Ok(Some(bytes))
    }

    /// The version of ONNX's own operators; `None` if the set belongs to another domain.
    pub fn opset(&mut self, end: u64) -> Walked<Option<i64>> {
        let (domain, version) = self.operators_of(end)?;
        Ok(domain.is_empty().then_some(version.cast_signed()))
    }

    /// A set of operators: its domain, and its version.
    pub fn operators_of(&mut self, end: u64) -> Walked<(String, u64)> {
        let (mut domain, mut version) = (String::new(), 1);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::OPSET_DOMAIN, Item::Until(until)) => domain = self.text(until)?,
                (field::OPSET_VERSION, Item::Number(number)) => version = number,
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        // ONNX's own operators go by two names.
        if domain == "ai.onnx" {
            domain.clear();
        }
        Ok((domain, version))
    }

    pub fn text(&mut self, end: u64) -> Walked<String> {
        let length = end - self.at;
        if length > MAX_NAME_BYTES {
            return Err(Malformed("it holds a name of more than 64 KiB"));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Malformed("it ends early or cannot be read"));
        }
        self.at = end;
        String::from_utf8(bytes).map_err(|_| Malformed("it holds a name that is not UTF-8"))
    }
    /// A text for people. It never makes the file unreadable: a text that is too long is left out, and bytes that are
    /// not UTF-8 are replaced.
    pub fn note(&mut self, end: u64) -> Walked<String> {
        if end - self.at > MAX_NAME_BYTES {
            self.skip_to(end)?;
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        (&mut self.source)
            .take(end - self.at)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 != end - self.at {
            return Err(Malformed("it ends early or cannot be read"));
        }
        self.at = end;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn entry(&mut self, end: u64) -> Walked<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::ENTRY_KEY, Item::Until(until)) => key = self.note(until)?,
                (field::ENTRY_VALUE, Item::Until(until)) => value = self.note(until)?,
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok((key, value))
    }
}

/// The numbers of 32 bits that lie in these bytes.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let (four, _) = bytes.as_chunks::<4>();
    four.iter().map(|bytes| u32::from_le_bytes(*bytes))
}
