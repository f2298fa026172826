//! Decides which idempotency keys are accepted, the scope of a key, and when two calls are the same.
//!
//! The header is a string of structured fields (RFC 9651 §3.3.3). A bare word is accepted too, because most clients send
//! one; `"k"` and `k` are the same key. Keys of different tenants, methods or calls are independent. Two calls with one
//! key are the same if method, name, query, content type and body are equal, byte for byte.

use std::fmt;

/// Longest idempotency key without its quotes: the bound of Stripe and others.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// A caller's idempotency key: 1 to 255 visible ASCII characters or spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The reason why an `Idempotency-Key` header is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// More than one header line.
    Several,
    /// The value has no characters.
    Empty,
    /// More than [`MAX_IDEMPOTENCY_KEY_BYTES`]; the number of its bytes.
    TooLong(usize),
    /// Neither a string of structured fields nor a bare word.
    Malformed,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Several => f.write_str(
                "the request has more than one Idempotency-Key header; send one",
            ),
            Self::Empty => f.write_str(
                "the Idempotency-Key header is empty; send 1 to 255 characters, e.g. a UUID in double quotes",
            ),
            Self::TooLong(bytes) => write!(
                f,
                "the idempotency key has {bytes} characters; at most {MAX_IDEMPOTENCY_KEY_BYTES} are accepted"
            ),
            Self::Malformed => f.write_str(
                "the Idempotency-Key header is neither a string in double quotes (RFC 9651) nor a bare word of visible ASCII \
                 without quotes, commas and semicolons",
            ),
        }
    }
}

impl IdempotencyKey {
    /// Parses the values of all `Idempotency-Key` headers of a request; `None` without such a header.
    pub fn from_headers<'a>(
        mut values: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, KeyFault> {
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(KeyFault::Several);
        }
        Self::parse(value).map(Some)
    }

    /// Parses the value of one header `Idempotency-Key`.
    pub fn parse(value: &[u8]) -> Result<Self, KeyFault> {
        let text = std::str::from_utf8(value)
            .map_err(|_| KeyFault::Malformed)?
            .trim_matches([' ', '\t']);
        let inner = match text.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None => {
                let bare = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';');
                if !text.bytes().all(bare) {
                    return Err(KeyFault::Malformed);
                }
                text.to_owned()
            }
        };
        match inner.len() {
            0 => Err(KeyFault::Empty),
            1..=MAX_IDEMPOTENCY_KEY_BYTES => Ok(Self(inner)),
            more => Err(KeyFault::TooLong(more)),
        }
    }

    /// The key as sent, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Parses a structured string after its opening quote, up to the closing one. Written by hand, because a parser of all
/// structured fields would be larger than the rest of this component.
fn unquote(rest: &str) -> Result<String, KeyFault> {
    let mut inner = String::with_capacity(rest.len());
    let mut bytes = rest.bytes();
    loop {
        match bytes.next() {
            Some(b'\\') => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => inner.push(char::from(escaped)),
                _ => return Err(KeyFault::Malformed),
            },
            Some(b'"') => break,
            Some(plain @ 0x20..=0x7e) => inner.push(char::from(plain)),
            _ => return Err(KeyFault::Malformed),
        }
    }
    // No parameter of the item is defined; unknown ones are ignored (RFC 9651 §3.1.2).
    let parameters: Vec<u8> = bytes.collect();
    let parameters = parameters.trim_ascii();
    let plausible = parameters.is_empty()
        || (parameters[0] == b';' && parameters.iter().all(|b| (0x20..=0x7e).contains(b)));
    plausible.then_some(inner).ok_or(KeyFault::Malformed)
}

/// The parts of a call that its scope and fingerprint hash.
#[derive(Clone, Copy, Debug)]
pub struct CallParts<'a> {
    /// The tenant of the caller. Two tenants may use the same key for different calls.
    pub tenant: &'a str,
    /// The method in upper case.
    pub method: &'a str,
    /// The form of the call and its model, for example `predict iris`.
    pub call_name: &'a str,
    /// The text after `?`; empty without a query.
    pub query: &'a str,
    /// The content type as sent; empty without one.
    pub content_type: &'a str,
    /// The body as sent.
    pub body: &'a [u8],
}

/// The name of the records of one idempotency key of one tenant, method and call: 128 bits of a hash, in hexadecimal. It
/// is a hash, so that no caller chooses the names of entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope(String);

impl Scope {
    /// The scope of a key in a call.
    pub fn of(call: &CallParts<'_>, key: &IdempotencyKey) -> Self {
        let hash = hash_parts(
            "penstock idempotency scope 1",
            &[
                call.tenant.as_bytes(),
                call.method.as_bytes(),
                call.call_name.as_bytes(),
                key.as_str().as_bytes(),
            ],
        );
        Self(hash.to_hex().as_str()[..32].to_owned())
    }

    /// Parses a name made by [`Scope::of`]; `None` for another text.
    pub fn from_name(name: &str) -> Option<Self> {
        let fits = name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(name.to_owned()))
    }

    /// Returns the digest as 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A hash of the parts that equal calls share: 256 bits, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a call.
    pub fn of(call: &CallParts<'_>) -> Self {
        let hash = hash_parts(
            "penstock idempotency fingerprint 1",
            &[
                call.method.as_bytes(),
                call.call_name.as_bytes(),
                call.query.as_bytes(),
                call.content_type.as_bytes(),
                call.body,
            ],
        );
        Self(hash.to_hex().as_str().to_owned())
    }

    /// Parses a fingerprint made by [`Fingerprint::of`]; `None` for another text.
    pub fn from_name(name: &str) -> Option<Self> {
        let fits = name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(name.to_owned()))
    }

    /// Returns the digest as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hashes parts with their lengths, so that moving a byte from one part to the next changes the hash.
fn hash_parts(context: &str, parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bare_spellings_are_one_key() {
        for (header, key) in [
            (&b"abc"[..], "abc"),
            (b"\"abc\"", "abc"),
            (b" \t\"abc\" ", "abc"),
            (b"\"a b\"", "a b"),
            (br#""a\"b\\c""#, r#"a"b\c"#),
            (
                b"8e03978e-40d5-43dd-bc93-6894a57f9324",
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
            ),
            (b"\"a,b;c\"", "a,b;c"),
            (b"\"abc\";v=1; w", "abc"),
        ] {
            assert_eq!(IdempotencyKey::parse(header).unwrap().as_str(), key);
        }
    }

    #[test]
    fn a_header_that_is_no_key_is_refused_with_its_fault() {
        for (header, fault) in [
            (&b""[..], KeyFault::Empty),
            (b"   ", KeyFault::Empty),
            (b"\"\"", KeyFault::Empty),
            (b"\"abc", KeyFault::Malformed),
            (b"abc\"", KeyFault::Malformed),
            (b"\"abc\"x", KeyFault::Malformed),
            (b"\"a\\bc\"", KeyFault::Malformed),
            (b"\"abc\\", KeyFault::Malformed),
            (b"a b", KeyFault::Malformed),
            (b"a,b", KeyFault::Malformed),
            (b"\"a\xc3\xa4\"", KeyFault::Malformed),
            (b"a\xff", KeyFault::Malformed),
            (b"\"a\x01\"", KeyFault::Malformed),
        ] {
            assert_eq!(
                IdempotencyKey::parse(header),
                Err(fault),
                "{:?}",
                String::from_utf8_lossy(header)
            );
        }
        let longest = vec![b'k'; 255];
        assert!(IdempotencyKey::parse(&longest).is_ok());
        assert_eq!(
            IdempotencyKey::parse(&vec![b'k'; 256]),
            Err(KeyFault::TooLong(256))
        );
        // Escapes do not count.
        let escaped = format!("\"{}\"", "\\\"".repeat(255));
        assert!(IdempotencyKey::parse(escaped.as_bytes()).is_ok());
        let two = [&b"a"[..], b"a"];
        assert_eq!(
            IdempotencyKey::from_headers(two.into_iter()),
            Err(KeyFault::Several)
        );
        assert_eq!(IdempotencyKey::from_headers([].into_iter()), Ok(None));
    }

    #[test]
    fn scope_and_fingerprint_depend_on_all_they_name_and_on_nothing_else() {
        let call = CallParts {
            tenant: "t",
            method: "POST",
            call_name: "predict m",
            query: "a=1",
            content_type: "application/json",
            body: b"{}",
        };
        let key = IdempotencyKey::parse(b"k").unwrap();
        let scope = |call: &CallParts<'_>| Scope::of(call, &key);
        let print = Fingerprint::of;
        let other = |change: fn(&mut CallParts<'_>)| {
            let mut other = call;
            change(&mut other);
            other
        };
        for (change, same_scope, same_print) in [
            ((|c| c.tenant = "u") as fn(&mut CallParts<'_>), false, true),
            (|c| c.method = "PUT", false, false),
            (|c| c.call_name = "predict n", false, false),
            (|c| c.query = "a=2", true, false),
            (|c| c.content_type = "text/plain", true, false),
            (|c| c.body = b"{ }", true, false),
        ] {
            let other = other(change);
            assert_eq!(scope(&other) == scope(&call), same_scope, "{other:?}");
            assert_eq!(print(&other) == print(&call), same_print, "{other:?}");
        }
        assert_ne!(
            Scope::of(&call, &IdempotencyKey::parse(b"j").unwrap()),
            scope(&call)
        );
        // A byte that moves from one part to the next is another call.
        let moved = CallParts {
            query: "a=1a",
            content_type: "pplication/json",
            ..call
        };
        assert_ne!(print(&moved), print(&call));
        assert_eq!(Scope::from_name(scope(&call).as_str()), Some(scope(&call)));
        assert_eq!(
            Fingerprint::from_name(print(&call).as_str()),
            Some(print(&call))
        );
        assert_eq!(Scope::from_name("../x"), None);
    }
}
