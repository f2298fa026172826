//! The element types and their names. They are the tensor data types of the Open Inference Protocol v2 ("Tensor Data
//! Types" in its REST specification), `BF16`, which common servers add, and ONNX's types of at most a byte. For these no
//! server has names (decisions/0048).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The type of a tensor's elements.
///
/// ```
/// use penstock_tensor::Datatype;
///
/// let datatype: Datatype = "FP32".parse().unwrap();
/// assert_eq!(datatype, Datatype::Fp32);
/// assert_eq!(datatype.size_bytes(), Some(4));
/// assert_eq!(Datatype::Bytes.size_bytes(), None);
/// assert_eq!(Datatype::Int4.integer_range(), Some((-8, 7)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned integer of 1 byte, 0 to 255.
    Uint8,
    /// Unsigned integer of 2 bytes.
    Uint16,
    /// Unsigned integer of 4 bytes.
    Uint32,
    /// Unsigned integer of 8 bytes.
    Uint64,
    /// Integer of 1 byte in two's complement, −128 to 127.
    Int8,
    /// Integer of 2 bytes in two's complement.
    Int16,
    /// Integer of 4 bytes in two's complement.
    Int32,
    /// Integer of 8 bytes in two's complement.
    Int64,
    /// IEEE 754 binary16, half precision, 2 bytes.
    Fp16,
    /// The upper half of an IEEE 754 binary32, 2 bytes.
    Bf16,
    /// IEEE 754 binary32, single precision, 4 bytes.
    Fp32,
    /// IEEE 754 binary64, double precision, 8 bytes.
    Fp64,
    /// Byte strings, each with its own length.
    Bytes,
    /// Two's complement of 2 bits, −2 to 1, in its own byte.
    Int2,
    /// Unsigned, 2 bits, 0 to 3, in its own byte.
    Uint2,
    /// Two's complement of 4 bits, −8 to 7, in its own byte.
    Int4,
    /// Unsigned, 4 bits, 0 to 15, in its own byte.
    Uint4,
    /// 1 byte: 4 bits of exponent, 3 of mantissa, no infinity ([`Fp8::E4m3fn`](crate::fp8::Fp8::E4m3fn)).
    Fp8E4m3fn,
    /// 1 byte: 4 bits of exponent, 3 of mantissa, no infinity, no negative zero.
    Fp8E4m3fnuz,
    /// 1 byte: 5 bits of exponent, 2 of mantissa.
    Fp8E5m2,
    /// 1 byte: 5 bits of exponent, 2 of mantissa, no infinity, no negative zero.
    Fp8E5m2fnuz,
}

impl Datatype {
    /// All datatypes, first those of the protocol's table in its order. Stored results contain the index of a datatype, so add
    /// new ones at the end.
    pub const ALL: &'static [Datatype] = &[
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bytes,
        Datatype::Int2,
        Datatype::Uint2,
        Datatype::Int4,
        Datatype::Uint4,
        Datatype::Fp8E4m3fn,
        Datatype::Fp8E4m3fnuz,
        Datatype::Fp8E5m2,
        Datatype::Fp8E5m2fnuz,
    ];

    /// The protocol's name, e.g. `FP32`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Bf16 => "BF16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bytes => "BYTES",
            Datatype::Int2 => "INT2",
            Datatype::Uint2 => "UINT2",
            Datatype::Int4 => "INT4",
            Datatype::Uint4 => "UINT4",
            Datatype::Fp8E4m3fn => "FP8E4M3FN",
            Datatype::Fp8E4m3fnuz => "FP8E4M3FNUZ",
            Datatype::Fp8E5m2 => "FP8E5M2",
            Datatype::Fp8E5m2fnuz => "FP8E5M2FNUZ",
        }
    }

    /// The datatype of this exact name; case matters. `None` for other texts.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|datatype| datatype.as_str() == name)
    }

    /// Bytes of one element; `None` for `BYTES`, whose elements differ in size.
    pub const fn size_bytes(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Int2 | Datatype::Uint2 | Datatype::Int4 | Datatype::Uint4 => Some(1),
            Datatype::Fp8E4m3fn
            | Datatype::Fp8E4m3fnuz
            | Datatype::Fp8E5m2
            | Datatype::Fp8E5m2fnuz => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }

    /// Returns whether the elements are binary floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Datatype::Fp16
                | Datatype::Bf16
                | Datatype::Fp32
                | Datatype::Fp64
                | Datatype::Fp8E4m3fn
                | Datatype::Fp8E4m3fnuz
                | Datatype::Fp8E5m2
                | Datatype::Fp8E5m2fnuz
        )
    }

    /// The least and the greatest value of an integer datatype that does not use all bits of its byte; `None` for others.
    pub const fn narrow_range(self) -> Option<(i8, i8)> {
        match self {
            Datatype::Int2 => Some((-2, 1)),
            Datatype::Uint2 => Some((0, 3)),
            Datatype::Int4 => Some((-8, 7)),
            Datatype::Uint4 => Some((0, 15)),
            _ => None,
        }
    }

    /// The least and the greatest value of an integer datatype; `None` for others.
    pub const fn integer_range(self) -> Option<(i128, i128)> {
        match self {
            Datatype::Uint8 => Some((0, u8::MAX as i128)),
            Datatype::Uint16 => Some((0, u16::MAX as i128)),
            Datatype::Uint32 => Some((0, u32::MAX as i128)),
            Datatype::Uint64 => Some((0, u64::MAX as i128)),
            Datatype::Int8 => Some((i8::MIN as i128, i8::MAX as i128)),
            Datatype::Int16 => Some((i16::MIN as i128, i16::MAX as i128)),
            Datatype::Int32 => Some((i32::MIN as i128, i32::MAX as i128)),
            Datatype::Int64 => Some((i64::MIN as i128, i64::MAX as i128)),
            other => match other.narrow_range() {
                Some((least, greatest)) => Some((least as i128, greatest as i128)),
                None => None,
            },
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownDatatype;

impl fmt::Display for UnknownDatatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a datatype; use one of ")?;
        write_list(f)
    }
}

impl std::error::Error for UnknownDatatype {}

fn write_list(f: &mut impl fmt::Write) -> fmt::Result {
    for (i, datatype) in Datatype::ALL.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        write!(f, "{separator}{}", datatype.as_str())?;
    }
    Ok(())
}

impl FromStr for Datatype {
    type Err = UnknownDatatype;

    fn from_str(name: &str) -> Result<Self, UnknownDatatype> {
        Self::parse(name).ok_or(UnknownDatatype)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Datatype {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Datatype".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = Self::ALL.iter().map(|datatype| datatype.as_str()).collect();
        schemars::json_schema!({
            "type": "string",
            "description": "The type of a tensor's elements.",
            "enum": names,
        })
    }
}

impl Serialize for Datatype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Datatype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl de::Visitor<'_> for Name {
            type Value = Datatype;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of ")?;
                write_list(f)
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Datatype, E> {
                Datatype::parse(name)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &self))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_is_read_back_from_its_name() {
        for datatype in Datatype::ALL {
            assert_eq!(Datatype::parse(datatype.as_str()), Some(*datatype));
            let json = serde_json::to_string(datatype).unwrap();
            assert_eq!(serde_json::from_str::<Datatype>(&json).unwrap(), *datatype);
        }
        for bad in ["", "fp32", "FP8", "FLOAT", "STRING", " FP32"] {
            assert!(bad.parse::<Datatype>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_datatype_is_answered_with_the_known_ones() {
        assert!(UnknownDatatype.to_string().contains("FP16, BF16, FP32"));
        let error = serde_json::from_str::<Datatype>("\"X\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("one of BOOL, UINT8"), "{error}");
    }
}
