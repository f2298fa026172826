//! Decides where the fields of a protobuf message begin and end, without making anything of them: a field costs nothing
//! until somebody wants it. Keys, varints and groups are prost's.

use prost::encoding::{self, DecodeContext, WireType};

/// A message is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The byte of the whole message at which it breaks.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A piece of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where they begin in the whole message.
    pub at: usize,
}

impl<'a> Piece<'a> {
    /// A whole message.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Its fields, where it is a message.
    pub fn fields(self) -> Fields<'a> {
        Fields { rest: self }
    }

    /// Its text, where it is a string.
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
            .map_err(|_| self.broken("a number breaks off or has more than 64 bits"))?;
        self.advance(self.bytes.len() - rest.len());
        Ok(value)
    }

    fn take(&mut self, bytes: usize) -> Result<Piece<'a>, Broken> {
        let Some((taken, _)) = self.bytes.split_at_checked(bytes) else {
            return Err(self.broken("a field is longer than what is left of the message"));
        };
        let piece = Piece {
            bytes: taken,
            at: self.at,
        };
        self.advance(bytes);
        Ok(piece)
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A truth value, an enumeration or an integer that is not of fixed size.
    Varint(u64),
    /// Four bytes.
    Fixed32([u8; 4]),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// A string, bytes, a message, or many numbers.
    Piece(Piece<'a>),
    /// A group, which none of our messages has.
    Group,
}

impl<'a> Value<'a> {
    /// The value as a piece: text, bytes, a message or packed numbers. `at` is where it stands in the message.
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
    /// Where the next field begins in the whole message.
    pub fn at(&self) -> usize {
        self.rest.at
    }

    /// The next field and its number; `None` at the end.
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, Broken> {
        let rest = &mut self.rest;
        if rest.bytes.is_empty() {
            return Ok(None);
        }
        let mut after = rest.bytes;
        let (number, kind) = encoding::decode_key(&mut after)
            .map_err(|_| rest.broken("here begins no field of a message"))?;
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
            WireType::EndGroup => return Err(rest.broken("a group ends that did not begin")),
        };
        Ok(Some((number, value)))
    }
}

/// How the elements of a repeated number are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Integers and truth values.
    Varint,
    /// FP32.
    Fixed32,
    /// FP64.
    Fixed64,
}

/// How many elements one field of a repeated number has, packed or alone.
pub fn count(element: Element, value: Value<'_>, at: usize) -> Result<u64, Broken> {
    match (element, value) {
        (Element::Varint, Value::Piece(piece)) => {
            // Each ends with the byte that has no bit for more.
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
        (_, Value::Piece(piece)) => Err(piece.broken("packed numbers are cut within one of them")),
        _ => Err(Broken {
            at,
            what: WRONG_KIND,
        }),
    }
}

/// What is said of a field whose kind is not the one its definition has.
pub const WRONG_KIND: &str = "a field is not of the kind its definition says";

/// The integers of one field of a repeated number, packed or alone.
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
    fn what_breaks_off_or_lies_about_its_length_is_broken_where_it_is() {
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
