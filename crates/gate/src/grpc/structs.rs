//! Writes JSON as the message `google.protobuf.Struct`, or as a `google.protobuf.Value` if it is not an object. The bytes are
//! written while the text is read: a tree of it would take many times the memory.

use penstock_proto::google::protobuf::Any;
use prost::encoding::encode_varint;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The type of a JSON object in an `Any`.
pub const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
/// The type of any other JSON value in an `Any`.
pub const VALUE: &str = "type.googleapis.com/google.protobuf.Value";

/// The keys of the fields of a `Value`: the number of the field, shifted by the three bits of its wire type.
mod key {
    pub const NULL: u8 = 1 << 3;
    pub const NUMBER: u8 = (2 << 3) | 1;
    pub const TEXT: u8 = (3 << 3) | 2;
    pub const BOOL: u8 = 4 << 3;
    pub const STRUCT: u8 = (5 << 3) | 2;
    pub const LIST: u8 = (6 << 3) | 2;
    /// An entry of a `Struct`, an element of a `ListValue`, and the name in an entry.
    pub const FIRST: u8 = (1 << 3) | 2;
    /// The value in an entry.
    pub const SECOND: u8 = (2 << 3) | 2;
}

/// Returns a JSON text as a message of at most `limit` bytes. `None` if the text is not JSON, or the message is larger.
pub fn any_of(json: &[u8], limit: usize) -> Option<Any> {
    let is_object = json.trim_ascii_start().first() == Some(&b'{');
    let mut out = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let writer = Writer {
        out: &mut out,
        limit,
    };
    match is_object {
        true => Fields(writer).deserialize(&mut reader).ok()?,
        false => OneValue(writer).deserialize(&mut reader).ok()?,
    }
    reader.end().ok()?;
    let type_url = match is_object {
        true => STRUCT,
        false => VALUE,
    };
    Some(Any {
        type_url: type_url.to_owned(),
        value: out,
    })
}

/// The bytes of the message so far, and their largest number.
struct Writer<'w> {
    out: &'w mut Vec<u8>,
    limit: usize,
}

impl Writer<'_> {
    fn again(&mut self) -> Writer<'_> {
        Writer {
            out: self.out,
            limit: self.limit,
        }
    }

    fn put<E: Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.out.len().saturating_add(bytes.len()) > self.limit {
            return Err(E::custom("the message is too large"));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn text<E: Error>(&mut self, key: u8, text: &str) -> Result<(), E> {
        self.nested(key, |writer| writer.put(text.as_bytes()))
    }

    /// Writes a field whose length is known after its content is written.
    fn nested<E: Error>(
        &mut self,
        key: u8,
        content: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.put::<E>(&[key])?;
        let start = self.out.len();
        content(self)?;
        let mut length = Vec::with_capacity(10);
        encode_varint((self.out.len() - start) as u64, &mut length);
        self.out.splice(start..start, length);
        Ok(())
    }
}

/// Writes the fields of a `Struct`.
struct Fields<'w>(Writer<'w>);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        members(&mut self.0, map)
    }
}

fn members<'de, A: MapAccess<'de>>(writer: &mut Writer<'_>, mut map: A) -> Result<(), A::Error> {
    while let Some(name) = map.next_key::<String>()? {
        writer.nested::<A::Error>(key::FIRST, |entry| {
            entry.text::<A::Error>(key::FIRST, &name)?;
            entry.nested(key::SECOND, |value| {
                map.next_value_seed(OneValue(value.again()))
            })
        })?;
    }
    Ok(())
}

/// Writes the field of a `Value`.
struct OneValue<'w>(Writer<'w>);

impl<'de> DeserializeSeed<'de> for OneValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.0.put(&[key::NULL, 0])
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.0.put(&[key::BOOL, u8::from(value)])
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        self.0.put::<E>(&[key::NUMBER])?;
        self.0.put(&value.to_le_bytes())
    }

    // A `Value` has no integers.
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<(), E> {
        self.0.text(key::TEXT, value)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.0.nested(key::LIST, |writer| {
            loop {
                let mut is_over = false;
                let at = writer.out.len();
                writer.nested::<A::Error>(key::FIRST, |element| {
                    let read = list.next_element_seed(OneValue(element.again()))?;
                    is_over = read.is_none();
                    Ok(())
                })?;
                if is_over {
                    writer.out.truncate(at);
                    return Ok(());
                }
            }
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        self.0.nested(key::STRUCT, |writer| members(writer, map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_proto::google::protobuf::{ListValue, Struct, Value, value::Kind};
    use prost::Message;
    use serde_json::json;

    /// The JSON of a message, to compare it with its source.
    fn json_of(value: &Value) -> serde_json::Value {
        match value.kind.as_ref().expect("a kind") {
            Kind::NullValue(_) => json!(null),
            Kind::NumberValue(number) => json!(number),
            Kind::StringValue(text) => json!(text),
            Kind::BoolValue(is) => json!(is),
            Kind::StructValue(object) => object_of(object),
            Kind::ListValue(ListValue { values }) => values.iter().map(json_of).collect(),
        }
    }

    fn object_of(object: &Struct) -> serde_json::Value {
        let members = object.fields.iter();
        let members = members.map(|(name, value)| (name.clone(), json_of(value)));
        serde_json::Value::Object(members.collect())
    }

    #[test]
    fn an_object_becomes_a_struct_with_the_same_members() {
        let long = "\u{e9}".repeat(300);
        let object = json!({
            "a": null, "b": [true, false, 1.5, -2.0, "", long, [], [[0.0], [1e300]], {}],
            "c": { "d": { "e": [ { "f": "g" } ] } }, "h": 7.0,
        });
        let any = any_of(object.to_string().as_bytes(), usize::MAX).expect("a message");
        assert_eq!(any.type_url, STRUCT);
        let read = Struct::decode(any.value.as_slice()).expect("a Struct");
        assert_eq!(object_of(&read), object);
        assert_eq!(read.encoded_len(), any.value.len());
    }

    #[test]
    fn any_other_value_becomes_a_value_and_integers_become_doubles() {
        for (text, expected) in [
            ("[1,-2]", json!([1.0, -2.0])),
            (
                " 18446744073709551615 ",
                json!(18446744073709551615_u64 as f64),
            ),
            ("\"x\"", json!("x")),
            ("null", json!(null)),
            ("true", json!(true)),
        ] {
            let any = any_of(text.as_bytes(), usize::MAX).expect(text);
            assert_eq!(any.type_url, VALUE, "{text}");
            let read = Value::decode(any.value.as_slice()).expect(text);
            assert_eq!(json_of(&read), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_json_and_a_message_beyond_the_limit_have_no_message() {
        for text in ["", "{", "{}x", "[1,]", "nul", "{\"a\":}"] {
            assert_eq!(any_of(text.as_bytes(), usize::MAX), None, "{text}");
        }
        let text = json!({ "a": [1, 2, 3] }).to_string();
        let whole = any_of(text.as_bytes(), usize::MAX).expect("a message");
        // Lengths are inserted after the content that they count.
        assert_eq!(any_of(text.as_bytes(), whole.value.len()), Some(whole));
        assert_eq!(any_of(text.as_bytes(), 30), None);
        let deep = "[".repeat(100_000);
        assert_eq!(any_of(deep.as_bytes(), usize::MAX), None);
    }
}
