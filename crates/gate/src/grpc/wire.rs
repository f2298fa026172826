//! Splits a protobuf message into fields without decoding them, so that an unused field costs nothing. prost decodes
//! keys, varints and groups.

use prost::encoding::{self, DecodeContext, WireType};

/// An error in the encoding of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The offset of the error in the whole message, in bytes.
    pub at: usize,
    /// A description of the error.
    pub what: &'static str,
}

/// A slice of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes of the slice.
    pub bytes: &'a [u8],
    /// The offset of the slice in the whole message, in bytes.
    pub at: usize,
}

impl<'a> Piece<'a> {
    /// Creates the piece of a whole message.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the fields, if the piece is a message.
    pub fn fields(self) -> Fields<'a> {
        Fields { rest: self }
    }

    /// Returns the text, if the piece is a string. Errors if it is not UTF-8.
    pub fn text(self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes).map_err(|e| Broken {
            at: self.at + e.valid_up_to(),
            what: "a string is not UTF-8",
        })
    }

    fn broken(self, what: &'static str) -> Broken {
        Broken { at: self.at, what }
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes = &self.bytes[bytes..];
        self.at += bytes;
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut rest = self.bytes;
        let value = encoding::decode_varint(&mut rest)
            .map_err(|_| self.broken("a number is incomplete or has more than 64 bits"))?;
        self.advance(self.bytes.len() - rest.len());
        Ok(value)
    }

    fn take(&mut self, bytes: usize) -> Result<Piece<'a>, Broken> {
        let Some((taken, _)) = self.bytes.split_at_checked(bytes) else {
            return Err(self.broken("a field is longer than the rest of the message"));
        };
        let piece = Piece {
            bytes: taken,
            at: self.at,
        };
        self.advance(bytes);
        Ok(piece)
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A boolean, an enumeration or a varint.
    Varint(u64),
    /// A value of four bytes.
    Fixed32([u8; 4]),
    /// A value of eight bytes.
    Fixed64([u8; 8]),
    /// A string, bytes, a message, or packed numbers.
    Piece(Piece<'a>),
    /// The beginning of a group. No message of the served protocols has one.
    Group,
}

impl<'a> Value<'a> {
    /// Returns the value as a piece: text, bytes, a message or packed numbers. `at` is its offset in the message.
    pub fn piece(self, at: usize) -> Result<Piece<'a>, Broken> {
        match self {
            Self::Piece(piece) => Ok(piece),
            _ => Err(Broken {
                at,
                what: WRONG_KIND,
            }),
        }
    }
}

/// The fields of a message, in the order sent.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: Piece<'a>,
}

impl<'a> Fields<'a> {
    /// Returns the offset of the next field in the whole message.
    pub fn at(&self) -> usize {
        self.rest.at
    }

    /// Returns the next field and its number; `None` at the end.
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, Broken> {
        let rest = &mut self.rest;
        if rest.bytes.is_empty() {
            return Ok(None);
        }
        let mut after = rest.bytes;
        let (number, kind) = encoding::decode_key(&mut after)
            .map_err(|_| rest.broken("no field of a message starts here"))?;
        let key_bytes = rest.bytes.len() - after.len();
        rest.advance(key_bytes);
        let value = match kind {
            WireType::Varint => Value::Varint(rest.varint()?),
            WireType::ThirtyTwoBit => {
                let piece = rest.take(4)?;
                Value::Fixed32(piece.bytes.try_into().expect("four were taken"))
            }
            WireType::SixtyFourBit => {
                let piece = rest.take(8)?;
                Value::Fixed64(piece.bytes.try_into().expect("eight were taken"))
            }
            WireType::LengthDelimited => {
                let length = rest.varint()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Value::Piece(rest.take(length)?)
            }
            WireType::StartGroup => {
                let mut after = rest.bytes;
                encoding::skip_field(kind, number, &mut after, DecodeContext::default())
                    .map_err(|_| rest.broken("a group has no end, or is too deep"))?;
                rest.advance(rest.bytes.len() - after.len());
                Value::Group
            }
            WireType::EndGroup => return Err(rest.broken("a group ends without a start")),
        };
        Ok(Some((number, value)))
    }
}

/// The wire type of the elements of a repeated number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Integers and booleans, of one to ten bytes.
    Varint,
    /// Single precision, four bytes.
    Fixed32,
    /// Double precision, eight bytes.
    Fixed64,
}

/// Counts the elements in one field of a repeated number, packed or single.
pub fn count(element: Element, value: Value<'_>, at: usize) -> Result<u64, Broken> {
    match (element, value) {
        (Element::Varint, Value::Piece(piece)) => {
            // The last byte of each varint has no continuation bit.
            let ends = piece.bytes.iter().filter(|byte| **byte < 0x80).count();
            Ok(ends as u64)
        }
        (Element::Fixed32, Value::Piece(piece)) if piece.bytes.len().is_multiple_of(4) => {
            Ok((piece.bytes.len() / 4) as u64)
        }
        (Element::Fixed64, Value::Piece(piece)) if piece.bytes.len().is_multiple_of(8) => {
            Ok((piece.bytes.len() / 8) as u64)
        }
        (Element::Varint, Value::Varint(_))
        | (Element::Fixed32, Value::Fixed32(_))
        | (Element::Fixed64, Value::Fixed64(_)) => Ok(1),
        (_, Value::Piece(piece)) => Err(piece.broken("packed numbers end within a number")),
        _ => Err(Broken {
            at,
            what: WRONG_KIND,
        }),
    }
}

/// The message for a field whose wire type contradicts its definition.
pub const WRONG_KIND: &str = "the wire type of a field differs from its definition";

/// Visits the integers in one field of a repeated number, packed or single.
pub fn varints(value: Value<'_>, at: usize, mut each: impl FnMut(u64)) -> Result<(), Broken> {
    match value {
        Value::Varint(value) => each(value),
        Value::Piece(mut piece) => {
            while !piece.bytes.is_empty() {
                each(piece.varint()?);
            }
        }
        _ => {
            return Err(Broken {
                at,
                what: WRONG_KIND,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind_are_told_apart_and_groups_are_passed_over() {
        let message = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x12, 0x02, b'h', b'i', // 2: two bytes
            0x1d, 1, 2, 3, 4, // 3: four bytes
            0x21, 1, 2, 3, 4, 5, 6, 7, 8, // 4: eight bytes
            0x2b, 0x08, 0x01, 0x2c, // 5: a group with field 1
            0x30, 0x00, // 6: varint 0
        ];
        let mut fields = Piece::whole(&message).fields();
        let mut found = Vec::new();
        while let Some(field) = fields.field().unwrap() {
            found.push(field);
        }
        assert_eq!(
            found,
            [
                (1, Value::Varint(150)),
                (
                    2,
                    Value::Piece(Piece {
                        bytes: b"hi",
                        at: 5
                    })
                ),
                (3, Value::Fixed32([1, 2, 3, 4])),
                (4, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8])),
                (5, Value::Group),
                (6, Value::Varint(0)),
            ]
        );
    }

    #[test]
    fn a_message_that_breaks_off_or_states_a_wrong_length_is_broken_at_its_place() {
        for (message, at) in [
            (&[0x08][..], 1),
            (&[0x08, 0xff], 1),
            (&[0x00, 0x01], 0),
            (&[0x0f], 0),
            (&[0x0c], 1),
            (&[0x0b], 1),
            (&[0x12, 0x05, b'h'], 2),
            (
                &[
                    0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ],
                11,
            ),
            (&[0x0d, 1, 2], 1),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ],
                1,
            ),
        ] {
            let broken = Piece::whole(message).fields().field().unwrap_err();
            assert_eq!(broken.at, at, "{message:?} {broken:?}");
        }
    }

    #[test]
    fn groups_within_groups_end_at_prosts_limit() {
        let mut message = vec![0x0b; 100_000];
        message.extend(vec![0x0c; 100_000]);
        assert!(Piece::whole(&message).fields().field().is_err());
    }
}
