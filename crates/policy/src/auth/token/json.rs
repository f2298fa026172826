//! Parses untrusted JSON strictly: UTF-8, no repeated member, and bounds on depth and number of values.
//!
//! Two parsers that treat a repeated member differently see two tokens in one (RFC 8725, 2.6). Common parsers silently
//! keep the last.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

/// Levels of the deepest nesting. Claims have two or three levels, a key set four.
const MAX_DEPTH: usize = 8;

/// The members of an object.
pub(super) type Members = BTreeMap<String, Json>;

/// A parsed JSON value. Members of objects have unique names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    /// A whole number that is not negative.
    Whole(u64),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Members),
}

impl Json {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list of texts.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(values) => values.iter().map(Self::text).collect(),
            _ => None,
        }
    }

    /// A NumericDate (RFC 7519) in milliseconds; it may have a fraction. Values out of range become the first or the last
    /// possible time.
    pub(super) fn date_ms(&self) -> Option<u64> {
        match self {
            Self::Whole(seconds) => Some(seconds.saturating_mul(1_000)),
            // The cast saturates.
            Self::Number(seconds) => Some((seconds * 1_000.0) as u64),
            _ => None,
        }
    }
}

/// Parses an object of at most `max_values` values. The error names the fault without repeating the text.
pub(super) fn object(bytes: &[u8], max_values: usize) -> Result<Members, String> {
    let left = Cell::new(max_values);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        left: &left,
        depth: 0,
    };
    let value = seed.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err("is not a JSON object".to_owned()),
        Err(e) => Err(format!("is not valid JSON for a token or key set: {e}")),
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("more than {MAX_DEPTH} levels")));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let left = self.left.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut members = Members::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is given twice"));
            }
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_and_what_is_none_is_not() {
        let members = object(br#"{"a":"b","n":null,"l":["x","y"]}"#, 9).unwrap();
        assert_eq!(members["a"].text(), Some("b"));
        assert_eq!(members["n"], Json::Null);
        assert_eq!(members["l"].texts(), Some(vec!["x", "y"]));
        for wrong in [
            &b""[..],
            b"[]",
            b"\"a\"",
            b"{",
            b"{}{}",
            b"{\"a\":1,}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":1e999}",
            b"\xef\xbb\xbf{}",
            b"\xfe\xff\0{\0}",
            b"{\0}\0",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":NaN}",
        ] {
            assert!(object(wrong, 9).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_member_that_is_there_twice_is_seen_however_it_is_written() {
        for wrong in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"b":{"a":1,"c":2,"a":3}}"#,
            r#"{"b":[{"a":1,"a":1}]}"#,
        ] {
            let said = object(wrong.as_bytes(), 99).unwrap_err();
            assert!(said.contains("twice"), "{said}");
        }
        assert!(object(br#"{"a":{"a":1},"A":1}"#, 99).is_ok());
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |levels: usize| {
            let inside = levels - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(inside), "]".repeat(inside))
        };
        assert!(object(nested(MAX_DEPTH).as_bytes(), 99).is_ok());
        let said = object(nested(MAX_DEPTH + 1).as_bytes(), 99).unwrap_err();
        assert!(said.contains("levels"), "{said}");
        assert!(object(nested(100_000).as_bytes(), usize::MAX).is_err());
        assert!(object(br#"{"a":[1,2]}"#, 4).is_ok());
        assert!(object(br#"{"a":[1,2]}"#, 3).is_err());
    }

    #[test]
    fn dates_have_fractions_and_stop_at_the_ends_of_time() {
        for (text, ms) in [
            ("1", Some(1_000)),
            ("1.5", Some(1_500)),
            ("0", Some(0)),
            ("-1", Some(0)),
            ("-1e300", Some(0)),
            ("1e300", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", Some(u64::MAX)),
            ("9223372036854775807", Some(u64::MAX)),
            ("\"1\"", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
        ] {
            let members = object(format!("{{\"d\":{text}}}").as_bytes(), 9).unwrap();
            assert_eq!(members["d"].date_ms(), ms, "{text}");
        }
    }
}
