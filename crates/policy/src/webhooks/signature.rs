//! Signs messages as Standard Webhooks says: `v1` is HMAC-SHA256 by a secret of the tenant, `v1a` is Ed25519 by the host's key.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The beginning of a written secret.
const SECRET: &str = "whsec_";
/// The beginning of a written private key.
const PRIVATE: &str = "whsk_";
/// The beginning of a written public key.
const PUBLIC: &str = "whpk_";
/// Bytes of a secret, at least and at most, as the specification says.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The most secrets of a tenant: the new one and the old one while they are changed.
const MAX_SECRETS: usize = 2;

/// The secrets of a tenant. The text is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<Vec<u8>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Reads a file of secrets, one in a line; empty lines and those that begin with `#` are ignored. The error is the rest of a
    /// sentence that begins with the file's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut secrets = Vec::new();
        let lines = (1..).zip(text.lines());
        for (number, line) in lines {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let secret = line
                .strip_prefix(SECRET)
                .and_then(|rest| BASE64_STANDARD.decode(rest).ok())
                .filter(|secret| SECRET_BYTES.contains(&secret.len()));
            match secret {
                Some(secret) => secrets.push(secret),
                None => {
                    return Err(format!(
                        "has no secret in line {number}; write `{SECRET}` and 24 to 64 random bytes in base64, such as the output of \
                         `echo {SECRET}$(openssl rand -base64 32)`"
                    ));
                }
            }
        }
        match secrets.len() {
            0 => Err(format!(
                "has no secret; write one line: `{SECRET}` and 24 to 64 random bytes in base64"
            )),
            1..=MAX_SECRETS => Ok(Self(secrets)),
            count => Err(format!(
                "has {count} secrets; at most {MAX_SECRETS} are allowed, the new one and the old one"
            )),
        }
    }
}

/// The host's key for `v1a`.
pub struct HostKey(SigningKey);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public())
    }
}

impl HostKey {
    /// A key of 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&random))
    }

    /// The key as text, for a file.
    pub fn private(&self) -> String {
        format!("{PRIVATE}{}", BASE64_STANDARD.encode(self.0.to_bytes()))
    }

    /// Reads such a text; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim().strip_prefix(PRIVATE)?);
        Some(Self::new(bytes.ok()?.try_into().ok()?))
    }

    /// The public key as text, for receivers.
    pub fn public(&self) -> String {
        let public = self.0.verifying_key().to_bytes();
        format!("{PUBLIC}{}", BASE64_STANDARD.encode(public))
    }
}

/// The value of the header `webhook-signature`: a signature by each secret, and one by the host's key.
pub fn sign(
    (secrets, key): (&Secrets, &HostKey),
    message_id: &str,
    timestamp_s: u64,
    payload: &[u8],
) -> String {
    let mut signed = format!("{message_id}.{timestamp_s}.").into_bytes();
    signed.extend_from_slice(payload);
    let mut signatures: Vec<String> = (secrets.0.iter())
        .map(|secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes any key");
            mac.update(&signed);
            format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    let signature = key.0.sign(&signed).to_bytes();
    signatures.push(format!("v1a,{}", BASE64_STANDARD.encode(signature)));
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::Verifier;

    /// The example of the specification.
    const EXAMPLE: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn the_signature_by_a_secret_is_that_of_the_specification() {
        let secrets = Secrets::parse(EXAMPLE).unwrap();
        let key = HostKey::new([7; 32]);
        let payload = br#"{"email":"test@example.com","username":"test_user"}"#;
        let value = sign(
            (&secrets, &key),
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            payload,
        );
        let (by_secret, by_key) = value.split_once(' ').unwrap();
        assert_eq!(by_secret, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        let signature = BASE64_STANDARD
            .decode(by_key.strip_prefix("v1a,").unwrap())
            .unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
        let mut signed = b"msg_27UH4WbU6Z5A5EzD8u03UvzRbpk.1649367553.".to_vec();
        signed.extend_from_slice(payload);
        key.0.verifying_key().verify(&signed, &signature).unwrap();
    }

    #[test]
    fn two_secrets_sign_twice() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([1; 32]));
        let secrets = Secrets::parse(&format!("# new\n{other}\n\n{EXAMPLE}\n")).unwrap();
        let value = sign((&secrets, &HostKey::new([7; 32])), "msg_1", 1, b"{}");
        let forms: Vec<&str> = value.split(' ').map(|one| &one[..3]).collect();
        assert_eq!(forms, ["v1,", "v1,", "v1a"]);
    }

    #[test]
    fn files_without_secrets_or_with_wrong_ones_are_refused_by_their_line() {
        let short = format!("whsec_{}", BASE64_STANDARD.encode([1; 23]));
        for (text, part) in [
            ("", "no secret;"),
            ("# only a comment", "no secret;"),
            ("secret", "line 1"),
            ("whsec_???", "line 1"),
            (short.as_str(), "line 1"),
            (&format!("{EXAMPLE}\nx"), "line 2"),
            (&[EXAMPLE; 3].join("\n"), "3 secrets"),
        ] {
            let refused = Secrets::parse(text).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(
            format!("{:?}", Secrets::parse(EXAMPLE).unwrap()),
            "Secrets(1)"
        );
    }

    #[test]
    fn the_hosts_key_reads_back_as_it_was() {
        let key = HostKey::new([9; 32]);
        let read = HostKey::parse(&format!("{}\n", key.private())).unwrap();
        assert_eq!(read.public(), key.public());
        assert!(key.public().starts_with("whpk_"));
        assert!(HostKey::parse("whsk_x").is_none());
        assert!(!format!("{key:?}").contains(PRIVATE));
    }
}
