//! The form of an API key, and the digest that is stored in its place.
//!
//! ```text
//! pnst_7Kx0aQ2mBv9Z_4wq…(32)…Tz1LmP0d
//! ╰─┬─╯╰────┬─────╯ ╰─────┬────╯╰─┬──╯
//! prefix     │          secret    CRC-32 of the text before it, so that a typing error costs no lookup
//!            id: names the key in lists, logs and limits
//! ```
//!
//! The id and the secret are letters and digits: 62^32 secrets are 190 bits. The store holds the HMAC-SHA-256 of the whole
//! key with the server's pepper, so a copy of the store alone gives no access.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// The prefix of every API key. Secret scanners search for it.
pub const PREFIX: &str = "pnst_";
/// The prefix of every signing secret.
pub const SIGNING_PREFIX: &str = "pnss_";
/// Number of characters of an id.
pub const ID_CHARS: usize = 12;
/// Number of characters of a secret.
pub const SECRET_CHARS: usize = 32;
const CHECK_CHARS: usize = 6;
/// Characters of a whole key.
pub const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
/// The shortest pepper, in bytes: 128 bits, if it is random.
pub const MIN_PEPPER_BYTES: usize = 16;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of the server that goes into every stored digest. It is kept outside the store.
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

impl Pepper {
    /// Makes a pepper; the error is a sentence for the operator.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < MIN_PEPPER_BYTES {
            return Err(format!(
                "the pepper has {} bytes; use at least {MIN_PEPPER_BYTES} random bytes",
                secret.len()
            ));
        }
        let keyed = Hmac::new_from_slice(secret).expect("HMAC takes a key of any length");
        Ok(Self(keyed))
    }

    fn of(&self, purpose: &str, text: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(purpose.as_bytes());
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// The digest of a key, as it is stored.
    pub fn digest(&self, api_key: &str) -> [u8; 32] {
        self.of("penstock api-key v1\0", api_key)
    }

    /// The secret that signs requests for a key. It is derived from the id, so it is not stored.
    pub fn signing_secret(&self, id: &str) -> String {
        let bytes = self.of("penstock signing-secret v1\0", id);
        format!("{SIGNING_PREFIX}{}", hex(&bytes))
    }
}

/// Writes bytes in lower-case hexadecimal, two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Parses 32 bytes from lower-case hexadecimal.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// A well-formed API key of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApiKey<'a> {
    /// The whole key as the caller sent it, 56 characters. It is a secret: do not log it.
    pub text: &'a str,
    /// The characters between `pnst_` and the second `_`. They name the key in lists, logs and limits.
    pub id: &'a str,
}

impl fmt::Debug for ApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({PREFIX}{}_…)", self.id)
    }
}

/// Returns whether a text has the prefix of an API key.
pub fn is_meant(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Returns whether a text can be a key's id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Parses a key and checks its checksum, without the store. The error names the fault and never repeats the key.
pub fn parse(text: &str) -> Result<ApiKey<'_>, &'static str> {
    let rest = text
        .strip_prefix(PREFIX)
        .ok_or("an API key begins with `pnst_`")?;
    if text.len() != KEY_CHARS {
        return Err("an API key has 56 characters; this one is shorter or longer");
    }
    let fits = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    let broken = "an API key has letters and digits only, and one `_` on each side of its id";
    let (id, secret) = rest.split_once('_').ok_or(broken)?;
    if id.len() != ID_CHARS || !fits(id) || !fits(secret) {
        return Err(broken);
    }
    let (body, check) = text.split_at(KEY_CHARS - CHECK_CHARS);
    if check != checksum(body) {
        return Err("the API key's checksum does not match; a character was changed");
    }
    Ok(ApiKey { text, id })
}

/// Makes a key from random bytes.
pub fn generate(mut random: impl FnMut(&mut [u8])) -> String {
    let mut text = String::with_capacity(KEY_CHARS);
    text.push_str(PREFIX);
    let mut fill = |text: &mut String, count: usize| {
        let end = text.len() + count;
        let mut bytes = [0_u8; 64];
        while text.len() < end {
            random(&mut bytes);
            // 248 is the largest multiple of 62 in a byte. Larger values would favour some characters.
            let even = bytes.iter().filter(|&&b| b < 248);
            let chars = even.map(|b| char::from(ALPHABET[usize::from(b % 62)]));
            let missing = end - text.len();
            text.extend(chars.take(missing));
        }
    };
    fill(&mut text, ID_CHARS);
    text.push('_');
    fill(&mut text, SECRET_CHARS);
    let check = checksum(&text);
    text.push_str(&check);
    text
}

fn checksum(body: &str) -> String {
    let mut left = crc32fast::hash(body.as_bytes());
    let mut chars = [b'0'; CHECK_CHARS];
    for at in chars.iter_mut().rev() {
        *at = ALPHABET[(left % 62) as usize];
        left /= 62;
    }
    chars.iter().map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0_u8;
        move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(7);
            }
        }
    }

    #[test]
    fn a_generated_key_is_whole_and_any_change_of_it_is_seen() {
        let text = generate(counting());
        let key = parse(&text).unwrap();
        assert_eq!((key.text, key.id.len()), (text.as_str(), ID_CHARS));
        assert!(is_id(key.id) && is_meant(&text));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(parse(&changed).is_err(), "{at}");
        }
        for wrong in [
            "",
            "pnst_",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{key:?}").contains(&text[20..]));
    }

    #[test]
    fn characters_of_keys_are_all_as_likely() {
        let mut counts = [0_u32; 62];
        let mut state = 1_u64;
        for _ in 0..5_000 {
            let text = generate(|bytes| {
                for byte in bytes {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *byte = (state >> 32) as u8;
                }
            });
            let secret = &text[PREFIX.len() + ID_CHARS + 1..][..SECRET_CHARS];
            for byte in secret.bytes() {
                counts[ALPHABET.iter().position(|&b| b == byte).unwrap()] += 1;
            }
        }
        let expected = 5_000.0 * SECRET_CHARS as f64 / 62.0;
        for count in counts {
            assert!(
                (f64::from(count) / expected - 1.0).abs() < 0.1,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_stored_digest_depends_on_key_pepper_and_purpose() {
        let one = Pepper::new(&[1; 32]).unwrap();
        let two = Pepper::new(&[2; 32]).unwrap();
        assert_eq!(one.digest("a"), one.clone().digest("a"));
        assert_ne!(one.digest("a"), one.digest("b"));
        assert_ne!(one.digest("a"), two.digest("a"));
        assert_ne!(one.signing_secret("a"), two.signing_secret("a"));
        assert_ne!(one.signing_secret("a")[5..], hex(&one.digest("a")));
        assert!(Pepper::new(&[0; 15]).is_err());
    }
}
