//! Decides which keys of an issuer's set (RFC 7517) are used, and for which algorithms.
//!
//! A set contains public keys for signatures. Keys for other uses, or of unknown kinds, are ignored. A private member, a
//! shared secret, or a weak or broken key refuses the whole set. The operator then gets an error, and the old set stays in
//! use.

use super::excerpt::excerpt;
use super::json::{self, Json, Members};
use crate::auth::settings::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use p256::ecdsa::signature::Verifier;
use rsa::{BigUint, RsaPublicKey, pkcs1v15, pss};
use sha2::{Sha256, Sha384, Sha512};

/// The largest key set, in bytes. The largest sets of public providers have a tenth of it.
pub const MAX_SET_BYTES: usize = 64 << 10;
/// The most keys in a set. A token may need a search through all of them.
pub const MAX_SET_KEYS: usize = 64;
/// The most values in a set: sixteen members of each key, twice over.
const MAX_SET_VALUES: usize = 2 * 16 * MAX_SET_KEYS;
/// The shortest RSA key: RFC 7518, 3.3.
const MIN_RSA_BITS: usize = 2_048;
/// The longest RSA key that the library supports.
const MAX_RSA_BITS: usize = 4_096;
/// The largest public exponent: the library accepts 33 bits.
const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        use Algorithm::{
            ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
        };
        match algorithm {
            HS256 | HS384 | HS512 => self == Self::Secret,
            RS256 | RS384 | RS512 | PS256 | PS384 | PS512 => self == Self::Rsa,
            ES256 => self == Self::P256,
            ES384 => self == Self::P384,
            EdDSA => self == Self::Ed25519,
        }
    }
}

/// A key that signatures are checked with.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    kind: Kind,
    /// The only algorithm that it may be used with, if the set names one.
    only: Option<Algorithm>,
    material: Material,
}

/// The secret or public key with which signatures are checked.
#[derive(Clone, Debug)]
enum Material {
    Secret(Vec<u8>),
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl Material {
    fn kind(&self) -> Kind {
        match self {
            Self::Secret(_) => Kind::Secret,
            Self::Rsa(_) => Kind::Rsa,
            Self::P256(_) => Kind::P256,
            Self::P384(_) => Kind::P384,
            Self::Ed25519(_) => Kind::Ed25519,
        }
    }

    /// Returns whether a signature of a message verifies with this key and algorithm.
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm::{
            ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
        };
        // HMAC and comparison, in constant time.
        macro_rules! hs {
            ($secret:expr, $hash:ty) => {{
                let keyed = Hmac::<$hash>::new_from_slice($secret);
                let mut mac = keyed.expect("HMAC takes a key of any length");
                mac.update(message);
                mac.verify_slice(signature).is_ok()
            }};
        }
        macro_rules! checks {
            ($key:expr, $signature:ty) => {
                <$signature>::try_from(signature)
                    .is_ok_and(|signature| $key.verify(message, &signature).is_ok())
            };
        }
        match (self, algorithm) {
            (Self::Secret(secret), HS256) => hs!(secret, Sha256),
            (Self::Secret(secret), HS384) => hs!(secret, Sha384),
            (Self::Secret(secret), HS512) => hs!(secret, Sha512),
            (Self::Rsa(key), RS256) => {
                checks!(
                    pkcs1v15::VerifyingKey::<Sha256>::new(key.clone()),
                    pkcs1v15::Signature
                )
            }
            (Self::Rsa(key), RS384) => {
                checks!(
                    pkcs1v15::VerifyingKey::<Sha384>::new(key.clone()),
                    pkcs1v15::Signature
                )
            }
            (Self::Rsa(key), RS512) => {
                checks!(
                    pkcs1v15::VerifyingKey::<Sha512>::new(key.clone()),
                    pkcs1v15::Signature
                )
            }
            (Self::Rsa(key), PS256) => {
                checks!(
                    pss::VerifyingKey::<Sha256>::new(key.clone()),
                    pss::Signature
                )
            }
            (Self::Rsa(key), PS384) => {
                checks!(
                    pss::VerifyingKey::<Sha384>::new(key.clone()),
                    pss::Signature
                )
            }
            (Self::Rsa(key), PS512) => {
                checks!(
                    pss::VerifyingKey::<Sha512>::new(key.clone()),
                    pss::Signature
                )
            }
            (Self::P256(key), ES256) => checks!(key, p256::ecdsa::Signature),
            (Self::P384(key), ES384) => checks!(key, p384::ecdsa::Signature),
            (Self::Ed25519(key), EdDSA) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            _ => false,
        }
    }
}

impl Key {
    /// The secret shared with an issuer.
    pub(super) fn secret(bytes: &[u8]) -> Self {
        Self {
            kid: None,
            kind: Kind::Secret,
            only: None,
            material: Material::Secret(bytes.to_vec()),
        }
    }

    pub(super) fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.fits(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    /// Returns whether a signature (base64url) of a message verifies with this key and algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        let decoded = URL_SAFE_NO_PAD.decode(signature);
        self.fits(algorithm)
            && decoded.is_ok_and(|bytes| self.material.verifies(algorithm, message, &bytes))
    }
}

/// An algorithm by its name in `alg`.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    let all = [
        HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA,
    ];
    all.into_iter().find(|known| known.as_str() == name)
}

/// Parses a key set. The error continues a sentence for the operator that begins with the name of the set.
pub(super) fn read_set(text: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    if text.len() > MAX_SET_BYTES {
        return Err(format!(
            "has {} bytes; at most {MAX_SET_BYTES} are read",
            text.len()
        ));
    }
    let set = json::object(text.as_bytes(), MAX_SET_VALUES)?;
    let Some(Json::List(entries)) = set.get("keys") else {
        return Err("has no list `keys` (RFC 7517, 5)".to_owned());
    };
    if entries.len() > MAX_SET_KEYS {
        return Err(format!(
            "has {} keys; at most {MAX_SET_KEYS} are read",
            entries.len()
        ));
    }
    let mut keys: Vec<Key> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let Json::Object(entry) = entry else {
            return Err(format!("keys[{at}] is not an object"));
        };
        let here = |message: String| match entry.get("kid").and_then(Json::text) {
            Some(kid) => format!("keys[{at}] (`{}`) {message}", excerpt(kid)),
            None => format!("keys[{at}] {message}"),
        };
        let Some(key) = read_key(entry).map_err(here)? else {
            continue;
        };
        let usable = |key: &Key| algorithms.iter().copied().find(|&a| key.fits(a));
        if usable(&key).is_none() {
            continue;
        }
        // Two keys with one `kid` could only be told apart by trying both.
        let rival = keys.iter().any(|other| {
            let both = |&a: &Algorithm| key.fits(a) && other.fits(a);
            key.kid.is_some() && other.kid == key.kid && algorithms.iter().any(both)
        });
        if rival {
            return Err(here("repeats the `kid` of an earlier key".to_owned()));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Refuses a key whose secret part is in the set.
fn has_no_secret(kty: &str, entry: &Members) -> Result<(), String> {
    if kty == "oct" || entry.contains_key("k") {
        return Err(
            "is a shared secret; remove it: with a published secret any reader of the set could make tokens"
                .to_owned(),
        );
    }
    let private: &[&str] = match kty {
        "RSA" => &["d", "p", "q", "dp", "dq", "qi", "oth"],
        _ => &["d", "priv"],
    };
    match private.iter().find(|name| entry.contains_key(**name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "has the private member `{name}`: remove it and make a new key, because every reader of the set can \
             make tokens"
        )),
    }
}

/// Parses a key; `None` if it is not for signatures, or of an unknown kind.
fn read_key(entry: &Members) -> Result<Option<Key>, String> {
    let text = |name: &str| match entry.get(name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("has a `{name}` that is not a string")),
    };
    let Some(kty) = text("kty")? else {
        return Err("has no `kty`".to_owned());
    };
    has_no_secret(kty, entry)?;
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    if let Some(operations) = entry.get("key_ops") {
        let operations = operations.texts();
        let operations = operations.ok_or("has `key_ops` that are not a list of strings")?;
        if !operations.contains(&"verify") {
            return Ok(None);
        }
    }
    let only = match text("alg")? {
        None => None,
        Some(name) => match algorithm(name) {
            Some(algorithm) => Some(algorithm),
            None => return Ok(None),
        },
    };
    let kid = text("kid")?.map(str::to_owned);
    let bytes = |name: &str| -> Result<Vec<u8>, String> {
        let text = text(name)?.ok_or_else(|| format!("has no `{name}`"))?;
        let bytes = URL_SAFE_NO_PAD.decode(text);
        bytes.map_err(|_| format!("has a `{name}` that is not base64url without padding"))
    };
    let coordinate = |name: &str, length: usize| -> Result<Vec<u8>, String> {
        let bytes = bytes(name)?;
        if bytes.len() != length {
            return Err(format!("has a `{name}` that is not {length} bytes long"));
        }
        Ok(bytes)
    };
    let no_point = |_| "is not a point on its curve".to_owned();
    let material = match (kty, text("crv")?) {
        ("RSA", _) => {
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            check_rsa(&modulus, &exponent)?;
            let whole = BigUint::from_bytes_be;
            let key =
                RsaPublicKey::new_with_max_size(whole(&modulus), whole(&exponent), MAX_RSA_BITS);
            Material::Rsa(
                key.map_err(|_| "has an RSA modulus or exponent that is not valid".to_owned())?,
            )
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let length = if curve == "P-256" { 32 } else { 48 };
            let (x, y) = (coordinate("x", length)?, coordinate("y", length)?);
            let point = [&[0x04], &x[..], &y[..]].concat();
            if curve == "P-256" {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                Material::P256(key.map_err(no_point)?)
            } else {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                Material::P384(key.map_err(no_point)?)
            }
        }
        ("OKP", Some("Ed25519")) => {
            let point = coordinate("x", 32)?
                .try_into()
                .expect("it is 32 bytes long");
            let key = ed25519_dalek::VerifyingKey::from_bytes(&point).map_err(no_point)?;
            if key.is_weak() {
                return Err(
                    "is a point of small order, with which one signature fits many messages"
                        .to_owned(),
                );
            }
            Material::Ed25519(key)
        }
        _ => return Ok(None),
    };
    Ok(Some(Key {
        kid,
        kind: material.kind(),
        only,
        material,
    }))
}

fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), String> {
    let leading = modulus.iter().position(|&b| b != 0);
    let bits = leading.map_or(0, |at| {
        (modulus.len() - at) * 8 - modulus[at].leading_zeros() as usize
    });
    if bits < MIN_RSA_BITS {
        return Err(format!(
            "has an RSA modulus of {bits} bits; below {MIN_RSA_BITS} it can be broken"
        ));
    }
    if bits > MAX_RSA_BITS {
        return Err(format!(
            "has an RSA modulus of {bits} bits; at most {MAX_RSA_BITS} are accepted"
        ));
    }
    let exponent = exponent.iter().try_fold(0_u64, |sum, &b| {
        Some(sum.checked_mul(256)? + u64::from(b)).filter(|&sum| sum <= MAX_EXPONENT)
    });
    // With the exponent 1, every message would be its own signature.
    if modulus.last().is_none_or(|b| b % 2 == 0) || exponent.is_none_or(|e| e < 3 || e % 2 == 0) {
        return Err("has an RSA modulus or exponent that is not valid".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const ED: &str =
        r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn rsa() -> String {
        format!(r#""kty":"RSA","n":"{RSA_N}","e":"AQAB""#)
    }

    fn set(entries: &[&str]) -> String {
        let entries: Vec<String> = entries.iter().map(|e| format!("{{{e}}}")).collect();
        format!("{{\"keys\":[{}]}}", entries.join(","))
    }

    const ALL: [Algorithm; 9] = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];

    fn holds(key: &Key, algorithm: Algorithm, token: &str) {
        let (message, signature) = token.rsplit_once('.').unwrap();
        assert!(key.verifies(algorithm, message.as_bytes(), signature));
        assert!(!key.verifies(algorithm, &message.as_bytes()[1..], signature));
        for other in ALL.into_iter().chain([Algorithm::HS256, Algorithm::HS512]) {
            let same = other == algorithm;
            assert_eq!(key.verifies(other, message.as_bytes(), signature), same);
        }
        assert!(!key.verifies(algorithm, message.as_bytes(), ""));
    }

    #[test]
    fn rfc_7515_a_1_hs256_holds() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = Key::secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
        let token = format!(
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
        holds(&key, Algorithm::HS256, &token);
    }

    #[test]
    fn rfc_7515_a_2_rs256_holds() {
        let keys = read_set(&set(&[&rsa()]), &ALL).unwrap();
        let token = format!(
            "eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        );
        holds(&keys[0], Algorithm::RS256, &token);
    }

    #[test]
    fn rfc_7515_a_3_es256_holds() {
        let keys = read_set(&set(&[EC]), &ALL).unwrap();
        let token = format!(
            "eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
        );
        holds(&keys[0], Algorithm::ES256, &token);
        // A signature of nothing but zeros, which once passed in a well-known library.
        let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
        assert!(!keys[0].verifies(Algorithm::ES256, b"any", &zeros));
    }

    #[test]
    fn rfc_8037_a_4_eddsa_holds() {
        let keys = read_set(&set(&[ED]), &ALL).unwrap();
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        holds(&keys[0], Algorithm::EdDSA, token);
    }

    #[test]
    fn keys_that_are_not_for_signatures_are_skipped() {
        let rsa = rsa();
        for (entry, count) in [
            (rsa.clone(), 1),
            (format!("{rsa},\"use\":\"sig\",\"alg\":\"RS256\""), 1),
            (format!("{rsa},\"use\":\"enc\""), 0),
            (format!("{rsa},\"alg\":\"RSA-OAEP\""), 0),
            (format!("{rsa},\"alg\":\"ES256\""), 0),
            (format!("{rsa},\"key_ops\":[\"verify\",\"sign\"]"), 1),
            (format!("{rsa},\"key_ops\":[\"encrypt\"]"), 0),
            (format!("{rsa},\"key_ops\":[]"), 0),
            (
                format!("{rsa},\"x5c\":[\"MII\"],\"x5t\":\"a\",\"more\":{{}}"),
                1,
            ),
            (EC.to_owned(), 1),
            (ED.to_owned(), 1),
            (EC.replace("P-256", "secp256k1"), 0),
            (EC.replace("P-256", "P-521"), 0),
            (ED.replace("Ed25519", "X25519"), 0),
            (r#""kty":"EC""#.to_owned(), 0),
            (
                r#""kty":"AKP","alg":"ML-DSA-44","pub":"AAAA""#.to_owned(),
                0,
            ),
        ] {
            let keys = read_set(&set(&[&entry]), &ALL);
            assert_eq!(keys.map(|k| k.len()), Ok(count), "{entry}");
            // Entries that are skipped do not harm their neighbours.
            let keys = read_set(
                &set(&[&entry, r#""kty":"OKP","crv":"Ed448","x":"AA""#]),
                &ALL,
            );
            assert_eq!(keys.map(|k| k.len()), Ok(count), "{entry}");
        }
        // Nor is a key there that no token of this issuer may be signed with.
        let only = [Algorithm::ES256];
        assert_eq!(read_set(&set(&[&rsa, EC, ED]), &only).unwrap().len(), 1);
    }

    #[test]
    fn a_set_that_shows_a_fault_is_refused_with_its_reason() {
        let rsa = rsa();
        let sized = |bits: usize| {
            let mut modulus = vec![0xff_u8; bits / 8];
            modulus[0] = 0x80;
            format!(
                r#""kty":"RSA","n":"{}","e":"AQAB""#,
                URL_SAFE_NO_PAD.encode(modulus)
            )
        };
        let even = format!("{}A", &RSA_N[..RSA_N.len() - 1]);
        for (entry, reason) in [
            (r#""kty":"oct","k":"c2VjcmV0""#.to_owned(), "shared secret"),
            (r#""kty":"oct""#.to_owned(), "shared secret"),
            (format!("{EC},\"k\":\"AA\""), "shared secret"),
            (format!("{rsa},\"d\":\"AQ\""), "private member `d`"),
            (format!("{rsa},\"d\":null"), "private member `d`"),
            (format!("{rsa},\"qi\":\"AQ\""), "private member `qi`"),
            (format!("{EC},\"d\":\"AQ\""), "private member `d`"),
            (format!("{ED},\"d\":\"AQ\""), "private member `d`"),
            (
                format!("{ED},\"d\":\"AQ\",\"use\":\"enc\""),
                "private member `d`",
            ),
            (
                r#""kty":"AKP","priv":"AA""#.to_owned(),
                "private member `priv`",
            ),
            (sized(1_024), "1024 bits"),
            (sized(2_040), "2040 bits"),
            (sized(4_104), "4104 bits"),
            (sized(16_384), "16384 bits"),
            (rsa.replace(RSA_N, ""), "0 bits"),
            (rsa.replace(RSA_N, &even), "modulus or exponent"),
            (rsa.replace("AQAB", "AQ"), "modulus or exponent"),
            (rsa.replace("AQAB", "AAAA"), "modulus or exponent"),
            (rsa.replace("AQAB", "Ag"), "modulus or exponent"),
            (rsa.replace("AQAB", "AgAAAAE"), "modulus or exponent"),
            (rsa.replace("AQAB", ""), "modulus or exponent"),
            (rsa.replace("AQAB", "AQAB="), "base64url"),
            (rsa.replace("\"AQAB\"", "65537"), "not a string"),
            (r#""kty":"RSA","e":"AQAB""#.to_owned(), "no `n`"),
            (EC.replace("x_FE", "x_FF"), "not a point"),
            (EC.replace("\"x\":\"f83O", "\"x\":\"83O"), "base64url"),
            (EC.replace("f83OJ3D2", ""), "32 bytes"),
            (EC.replace("P-256", "P-384"), "48 bytes"),
            (ED.replace("11qYAYKx", ""), "32 bytes"),
            (ED.replace("11qY", "11qY11qY"), "32 bytes"),
            (format!("{EC},\"kid\":7"), "`kid`"),
            (format!("{EC},\"use\":[]"), "`use`"),
            (format!("{EC},\"alg\":1"), "`alg`"),
            (format!("{EC},\"key_ops\":\"verify\""), "`key_ops`"),
            (format!("{EC},\"x\":\"AA\""), "twice"),
            (r#""use":"sig""#.to_owned(), "no `kty`"),
        ] {
            let said = read_set(&set(&[ED, &entry]), &ALL).unwrap_err();
            assert!(said.contains(reason), "{entry}: {said}");
        }
        for (text, reason) in [
            (String::new(), "JSON"),
            ("[]".to_owned(), "object"),
            ("{}".to_owned(), "`keys`"),
            (r#"{"keys":{}}"#.to_owned(), "`keys`"),
            (r#"{"keys":[1]}"#.to_owned(), "keys[0]"),
            (set(&[ED; MAX_SET_KEYS + 1]), "65 keys"),
            (
                format!("{}{}", set(&[ED]), " ".repeat(MAX_SET_BYTES)),
                "bytes",
            ),
            (
                set(&[&format!("{ED},\"more\":[{}0]", "0,".repeat(MAX_SET_VALUES))]),
                "too many",
            ),
        ] {
            let said = read_set(&text, &ALL).unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn two_keys_of_one_kid_are_taken_only_where_the_algorithm_tells_them_apart() {
        let named = |entry: &str, alg: &str| format!("{entry},\"kid\":\"k\",\"alg\":\"{alg}\"");
        let (rs, ps) = (named(&rsa(), "RS256"), named(&rsa(), "PS256"));
        let (ec, ed) = (named(EC, "ES256"), named(ED, "EdDSA"));
        let keys = read_set(&set(&[&rs, &ps, &ec, &ed]), &ALL).unwrap();
        assert_eq!(keys.len(), 4);
        for twice in [&rs, &ec, &ed] {
            let said = read_set(&set(&[twice, twice]), &ALL).unwrap_err();
            assert!(said.contains("an earlier key"), "{said}");
        }
        // Those without a name are told apart when a token comes.
        assert_eq!(read_set(&set(&[EC, EC]), &ALL).unwrap().len(), 2);
    }

    #[test]
    fn a_set_may_be_empty_and_nothing_of_a_key_shows_in_messages_about_it() {
        assert_eq!(read_set(r#"{"keys":[]}"#, &ALL).unwrap().len(), 0);
        let said = read_set(
            &set(&[&format!("{EC},\"d\":\"c2VjcmV0\",\"kid\":\"a\\u001b[2Jb\"")]),
            &ALL,
        )
        .unwrap_err();
        assert!(
            !said.contains("c2VjcmV0") && !said.contains('\u{1b}'),
            "{said}"
        );
    }
}
