//! Takes the tensors out of a message that the host holds, so that only the rest of it is copied and decoded.
//!
//! The message is read in windows. Each large `raw_input_contents` stays where it is, and an empty one takes its place.

use penstock_tensor::Buffer;
use prost::encoding::{self, WireType};

/// The number of `raw_input_contents` in a `ModelInferRequest`.
const RAW: u32 = 7;

/// The bytes that one step copies.
const WINDOW_BYTES: usize = 4096;

/// The longest key and length of a field.
const MAX_HEAD_BYTES: usize = 20;

/// Raw contents of at least so many bytes stay in the host. There are at most as many of them as windows.
const HELD_FROM_BYTES: usize = WINDOW_BYTES;

/// The longest other field. A message with a longer one is copied whole: it has typed contents.
const MAX_FIELD_BYTES: usize = 64 << 10;

/// The longest rest of a message. A longer one is copied whole.
const MAX_REST_BYTES: usize = 1 << 20;

/// A message without its large raw contents.
#[derive(Clone, Debug, Default)]
pub struct Condensed {
    /// The message, with empty contents in their places.
    pub message: Vec<u8>,
    /// The contents that stay in the host, each with its place among the raw contents.
    pub raw: Vec<(usize, Buffer)>,
}

/// Takes the large raw contents out of a message. Returns `None` if there are none, if the rest is long, or if the message is not
/// well formed. The caller then decodes the whole message, which tells the place of a fault.
pub fn condense(body: &Buffer) -> Option<Condensed> {
    body.place()?;
    let mut reader = Reader {
        body,
        at: 0,
        window: Vec::new(),
        start: 0,
    };
    let mut condensed = Condensed::default();
    let mut raw_count = 0;
    while reader.at < body.len() {
        let head = reader.ahead(MAX_HEAD_BYTES)?;
        let mut after = head;
        let (number, kind) = encoding::decode_key(&mut after).ok()?;
        let value_bytes = match kind {
            WireType::Varint => {
                let before = after.len();
                encoding::decode_varint(&mut after).ok()?;
                before - after.len()
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => {
                let bytes = encoding::decode_varint(&mut after).ok()?;
                usize::try_from(bytes).ok()?
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let head_bytes = match kind {
            // The value was read with the key.
            WireType::Varint => head.len() - after.len() - value_bytes,
            _ => head.len() - after.len(),
        };
        let start = reader.at.checked_add(head_bytes)?;
        let end = start.checked_add(value_bytes)?;
        let is_raw = number == RAW && kind == WireType::LengthDelimited;
        if is_raw && value_bytes >= HELD_FROM_BYTES {
            condensed.raw.push((raw_count, body.slice(start..end)?));
            encoding::encode_key(RAW, WireType::LengthDelimited, &mut condensed.message);
            encoding::encode_varint(0, &mut condensed.message);
            reader.at = end;
        } else {
            let bytes = end - reader.at;
            if bytes > MAX_FIELD_BYTES || condensed.message.len() + bytes > MAX_REST_BYTES {
                return None;
            }
            reader.copy_to(&mut condensed.message, bytes)?;
        }
        raw_count += usize::from(is_raw);
    }
    (!condensed.raw.is_empty()).then_some(condensed)
}

/// Reads a buffer in windows.
struct Reader<'b> {
    body: &'b Buffer,
    /// The offset of the next byte in the buffer.
    at: usize,
    window: Vec<u8>,
    /// The offset of the window.
    start: usize,
}

impl Reader<'_> {
    /// Returns the next bytes: as many as these, or up to the end.
    fn ahead(&mut self, bytes: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(bytes)?.min(self.body.len());
        if self.at < self.start || end > self.start + self.window.len() {
            let last = self.at.checked_add(WINDOW_BYTES.max(bytes))?;
            let range = self.at..last.min(self.body.len());
            self.window = self.body.part(range)?.into_owned();
            self.start = self.at;
        }
        self.window.get(self.at - self.start..end - self.start)
    }

    /// Appends the next bytes; `None` if there are not as many.
    fn copy_to(&mut self, out: &mut Vec<u8>, bytes: usize) -> Option<()> {
        let part = self.ahead(bytes).filter(|part| part.len() == bytes)?;
        out.extend_from_slice(part);
        self.at += bytes;
        Some(())
    }
}
