//! Reads typed contents of an input (`InferTensorContents`). It counts the elements first, then copies them into the
//! tensor's form.

use super::faults::{Faults, malformed};
use crate::grpc::wire::{self, Broken, Element, Piece, Value};
use crate::route::shorten;
use penstock_core::Code;
use penstock_core::violation::MAX_VIOLATIONS;
use penstock_tensor::tensor::{elements, push_byte_string};
use penstock_tensor::{Datatype, Rejection};

/// Reserves bytes for a tensor and takes them from `room`. Errors with `BodyTooLarge` if they exceed it.
fn reserved(bytes: u64, room: &mut u64, limit: u64) -> Result<Vec<u8>, Rejection> {
    counted(bytes, room, limit)?;
    let mut data = Vec::new();
    // The operator's limit may exceed the available memory, so the allocation can fail.
    usize::try_from(bytes)
        .ok()
        .and_then(|bytes| data.try_reserve_exact(bytes).ok())
        .ok_or_else(|| too_large(limit))?;
    Ok(data)
}

/// Takes a number of bytes from `room`. Errors with `BodyTooLarge` if they exceed it.
pub(super) fn counted(bytes: u64, room: &mut u64, limit: u64) -> Result<(), Rejection> {
    *room = room.checked_sub(bytes).ok_or_else(|| too_large(limit))?;
    Ok(())
}

fn too_large(limit: u64) -> Rejection {
    let message = format!(
        "the inputs are more than {limit} bytes as tensors, which is the limit for decoded bodies of this model here; \
         send fewer items"
    );
    Rejection {
        code: Code::BodyTooLarge,
        message,
        violations: Vec::new(),
        omitted: 0,
    }
}

/// Copies bytes and takes their number from `room`. Errors as [`reserved`] does.
pub(super) fn copied(bytes: &[u8], room: &mut u64, limit: u64) -> Result<Vec<u8>, Rejection> {
    let mut data = reserved(bytes.len() as u64, room, limit)?;
    data.extend_from_slice(bytes);
    Ok(data)
}

/// The fields of `InferTensorContents`, with the wire form of their elements.
const CONTENTS: [(&str, Option<Element>); 8] = [
    ("bool_contents", Some(Element::Varint)),
    ("int_contents", Some(Element::Varint)),
    ("int64_contents", Some(Element::Varint)),
    ("uint_contents", Some(Element::Varint)),
    ("uint64_contents", Some(Element::Varint)),
    ("fp32_contents", Some(Element::Fixed32)),
    ("fp64_contents", Some(Element::Fixed64)),
    ("bytes_contents", None),
];

/// Returns the field number for a datatype's elements; `None` if the datatype has raw contents only.
fn field_of(datatype: Datatype) -> Option<u32> {
    Some(match datatype {
        Datatype::Bool => 1,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => 2,
        Datatype::Int64 => 3,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => 4,
        Datatype::Uint64 => 5,
        Datatype::Fp32 => 6,
        Datatype::Fp64 => 7,
        Datatype::Bytes => 8,
        // The protocol has no typed field for these datatypes.
        _ => return None,
    })
}

/// Typed contents of one input.
pub(super) struct Contents<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub shape: &'a [u64],
    pub pointer: &'a str,
}

impl Contents<'_> {
    /// Returns the elements in the tensor's form. Returns `None` after it has reported a violation.
    pub fn read(
        &self,
        input: Piece<'_>,
        room: &mut u64,
        limit: u64,
        faults: &mut Faults,
    ) -> Result<Option<Vec<u8>>, Rejection> {
        let own = field_of(self.datatype);
        let (mut count, mut string_bytes, mut other) = (0u64, 0u64, None);
        each_content(input, |number, value, at| {
            let Some((_, element)) = CONTENTS.get(number as usize - 1) else {
                return Ok(());
            };
            let found = match element {
                Some(element) => wire::count(*element, value, at)?,
                None => {
                    if Some(number) == own {
                        string_bytes += value.piece(at)?.bytes.len() as u64;
                    }
                    value.piece(at).map(|_| 1)?
                }
            };
            if Some(number) == own {
                count += found;
            } else if found > 0 {
                other = other.or(Some(number));
            }
            Ok(())
        })
        .map_err(malformed)?;
        if other.is_some() || own.is_none() {
            self.wrong_contents(own, other, faults);
            return Ok(None);
        }
        if elements(self.shape) != Some(count) {
            self.wrong_count(count, faults);
            return Ok(None);
        }
        let bytes = match self.datatype.size_bytes() {
            Some(size) => count.checked_mul(size as u64),
            None => count
                .checked_mul(penstock_tensor::tensor::BYTES_PREFIX_BYTES as u64)
                .and_then(|lengths| lengths.checked_add(string_bytes)),
        };
        let mut data = reserved(bytes.unwrap_or(u64::MAX), room, limit)?;
        let mut index = 0u64;
        let mut out_of_range = Vec::new();
        let mut beyond = 0u64;
        each_content(input, |number, value, at| {
            if Some(number) != own {
                return Ok(());
            }
            self.copy(value, at, &mut data, |found| {
                if let Some(found) = found {
                    if out_of_range.len() < MAX_VIOLATIONS {
                        out_of_range.push((index, found));
                    } else {
                        beyond += 1;
                    }
                }
                index += 1;
            })
        })
        .map_err(malformed)?;
        for (index, found) in &out_of_range {
            let at = format!("{}/contents/{index}", self.pointer);
            faults.contract(&at, "out_of_range", || {
                (
                    format!("a value of {}", self.datatype),
                    format!(
                        "input {:?} has the value {found}, which is no {}",
                        shorten(self.name),
                        self.datatype
                    ),
                )
            });
        }
        faults.omit(beyond);
        Ok(out_of_range.is_empty().then_some(data))
    }

    /// Reports elements in another field than the datatype's `own`.
    fn wrong_contents(&self, own: Option<u32>, other: Option<u32>, faults: &mut Faults) {
        let name = |number: u32| {
            CONTENTS
                .get(number as usize - 1)
                .map_or("", |(name, _)| name)
        };
        let pointer = format!("{}/contents", self.pointer);
        faults.contract(&pointer, "wrong_contents", || {
            let expected = match own {
                Some(own) => name(own),
                None => "raw_input_contents",
            };
            let found = match other {
                Some(other) => format!("its elements are in {}", name(other)),
                None => "has no typed contents".to_owned(),
            };
            (
                expected.to_owned(),
                format!(
                    "input {:?} is {}, and {found}; send them in {expected}",
                    shorten(self.name),
                    self.datatype
                ),
            )
        });
    }

    /// Reports a number of elements that the shape does not have.
    fn wrong_count(&self, count: u64, faults: &mut Faults) {
        faults.contract(&format!("{}/contents", self.pointer), "wrong_count", || {
            let expected = match elements(self.shape) {
                Some(count) => format!("{count} elements for its shape"),
                None => "the elements of its shape, whose number is too large".to_owned(),
            };
            let message = format!(
                "input {:?} has {count} elements; send {expected}",
                shorten(self.name)
            );
            (expected, message)
        });
    }

    /// Appends the elements of one field. Calls `each` for every integer, with its value if the datatype cannot
    /// represent it.
    fn copy(
        &self,
        value: Value<'_>,
        at: usize,
        data: &mut Vec<u8>,
        mut each: impl FnMut(Option<i64>),
    ) -> Result<(), Broken> {
        macro_rules! narrowed {
            ($type:ty, $read:ty) => {
                wire::varints(value, at, |bits| {
                    // As protobuf specifies, a 32-bit integer is the lower half of the varint.
                    let wide = bits as $read;
                    let narrow = <$type>::try_from(wide);
                    each(narrow.is_err().then_some(i64::from(wide)));
                    data.extend_from_slice(&narrow.unwrap_or_default().to_le_bytes());
                })
            };
        }
        match self.datatype {
            Datatype::Bool => wire::varints(value, at, |bits| data.push(u8::from(bits != 0))),
            Datatype::Int8 => narrowed!(i8, i32),
            Datatype::Int16 => narrowed!(i16, i32),
            Datatype::Int32 => narrowed!(i32, i32),
            Datatype::Uint8 => narrowed!(u8, u32),
            Datatype::Uint16 => narrowed!(u16, u32),
            Datatype::Uint32 => narrowed!(u32, u32),
            Datatype::Int64 | Datatype::Uint64 => wire::varints(value, at, |bits| {
                data.extend_from_slice(&bits.to_le_bytes())
            }),
            Datatype::Fp32 | Datatype::Fp64 => {
                // The first pass checked the wire type and the length.
                match value {
                    Value::Fixed32(bytes) => data.extend_from_slice(&bytes),
                    Value::Fixed64(bytes) => data.extend_from_slice(&bytes),
                    Value::Piece(piece) => data.extend_from_slice(piece.bytes),
                    Value::Varint(_) | Value::Group => {}
                }
                Ok(())
            }
            Datatype::Bytes => {
                push_byte_string(data, value.piece(at)?.bytes);
                Ok(())
            }
            // The other datatypes have no typed field.
            _ => Ok(()),
        }
    }
}

/// Visits every field of an input's contents. If a message repeats the contents field, all parts are visited.
fn each_content<'a>(
    input: Piece<'a>,
    mut each: impl FnMut(u32, Value<'a>, usize) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut fields = input.fields();
    while let Some((number, value)) = fields.field()? {
        let (5, Value::Piece(contents)) = (number, value) else {
            continue;
        };
        let mut contents = contents.fields();
        loop {
            let at = contents.at();
            let Some((number, value)) = contents.field()? else {
                break;
            };
            each(number, value, at)?;
        }
    }
    Ok(())
}
