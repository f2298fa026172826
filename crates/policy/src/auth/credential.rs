//! Decides which credential a request carries. It may carry the same one in several places, but not two different ones:
//! two servers on the way could take the request for two callers.
//!
//! * `Authorization: Bearer …` (RFC 6750): an API key or a token;
//! * `X-API-Key: …`, `api-key: …`: an API key;
//! * `Signature` and `Signature-Input` (RFC 9421): the request is signed.
//!
//! A value in one of these places that has the form of neither an API key nor a token is [`Credential::Unrecognised`]. It
//! is an error, unless the policy treats it as no credential.

use super::api_key::{self, ApiKey};
use super::token::Issuers;
use super::{CheckRefusal, RefusalKind, signature};
use penstock_core::headers::CREDENTIALS;

/// The longest value of a header with a credential. Tokens are the longest, with a few kilobytes.
pub const MAX_CREDENTIAL_BYTES: usize = 8 << 10;

/// The credential of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// The request has no header with a credential and is not signed.
    Nothing,
    /// A value without the form of a credential, and the refusal for it if the policy does not ignore it.
    Unrecognised(CheckRefusal),
    /// A well-formed API key.
    ApiKey(ApiKey<'a>),
    /// A value with the form of a token.
    Token(&'a str),
    /// The request is signed.
    Signature,
}

/// Finds the credential in the headers, whose names must be in lower case. Errors if a credential is malformed, or if
/// several differ.
pub fn find<'a>(headers: &'a [(&str, &[u8])]) -> Result<Credential<'a>, CheckRefusal> {
    let mut found: Option<(&str, &str)> = None;
    // Made-up keys identify no caller, so several of them may differ. Only possible credentials must not.
    let (mut some_recognised, mut differ) = (false, None);
    let signed = signature::is_meant(headers);
    for (name, value) in headers {
        if !CREDENTIALS.contains(name) {
            continue;
        }
        let text = carried(name, value)?;
        some_recognised |= is_recognised(text);
        match found {
            Some((before, other)) if other != text => differ = Some((before, name)),
            _ => found = Some((name, text)),
        }
    }
    if let Some((before, name)) = differ.filter(|_| some_recognised) {
        return Err(ambiguous(format!(
            "`{before}` and `{name}` carry different credentials"
        )));
    }
    match (found, signed) {
        (Some((name, _)), true) => Err(ambiguous(format!(
            "the request is signed and carries another credential in `{name}`"
        ))),
        (None, true) => Ok(Credential::Signature),
        (None, false) => Ok(Credential::Nothing),
        (Some((name, text)), false) if api_key::is_meant(text) => match api_key::parse(text) {
            Ok(key) => Ok(Credential::ApiKey(key)),
            Err(why) => Err(unreadable(format!("{why} (in `{name}`)"))),
        },
        (Some(("authorization", text)), false) if Issuers::is_meant(text) => {
            Ok(Credential::Token(text))
        }
        (Some((name, text)), false) => {
            let refusal = unreadable(match (name, text) {
                (_, "") => format!("`{name}` is empty"),
                ("authorization", _) => {
                    "`authorization` carries neither an API key, which begins with `pnst_`, nor a token of three parts"
                        .to_owned()
                }
                _ => format!(
                    "`{name}` does not carry an API key; an API key begins with `pnst_`, and tokens go into \
                     `authorization`"
                ),
            });
            match is_recognised(text) {
                true => Err(refusal),
                false => Ok(Credential::Unrecognised(refusal)),
            }
        }
    }
}

/// Returns whether a text could be a credential, even a broken one: an API key or a JWT (RFC 7519). A JWT has three parts
/// when it is signed and five when it is encrypted.
fn is_recognised(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let parts = text.split('.').count();
    let is_jwt = matches!(parts, 3 | 5) && text.bytes().all(fits);
    is_jwt || text.to_ascii_lowercase().contains(api_key::PREFIX)
}

/// The credential in one header.
fn carried<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, CheckRefusal> {
    if value.len() > MAX_CREDENTIAL_BYTES {
        return Err(malformed(format!(
            "`{name}` has {} bytes; a credential has at most {MAX_CREDENTIAL_BYTES}",
            value.len()
        )));
    }
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| (b' '..=b'~').contains(&b)))
        .ok_or_else(|| {
            malformed(format!(
                "`{name}` has characters that a credential cannot have"
            ))
        })?
        .trim_matches(' ');
    let text = if name == "authorization" {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(malformed(
                "`authorization` has a scheme other than Bearer; send `Bearer …`".to_owned(),
            ));
        }
        rest.trim_matches(' ')
    } else {
        text
    };
    if text.contains([' ', ',']) {
        return Err(malformed(format!(
            "`{name}` carries several words; send one credential"
        )));
    }
    Ok(text)
}

fn malformed(message: String) -> CheckRefusal {
    CheckRefusal::new(RefusalKind::Malformed, message)
}

fn unreadable(message: String) -> CheckRefusal {
    CheckRefusal::new(RefusalKind::Unreadable, message)
}

fn ambiguous(message: String) -> CheckRefusal {
    CheckRefusal::new(RefusalKind::Ambiguous, format!("{message}; send one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use RefusalKind::{Ambiguous, Malformed, Unreadable};

    fn key(seed: u8) -> String {
        let mut next = seed;
        api_key::generate(|bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(11);
            }
        })
    }

    #[test]
    fn a_credential_is_found_where_it_may_be_and_only_there() {
        let (one, two) = (key(1), key(2));
        let bearer = |text: &str| format!("Bearer {text}");
        type Case<'a> = (Vec<(&'a str, String)>, Result<&'a str, RefusalKind>);
        let cases: Vec<Case<'_>> = vec![
            (vec![], Ok("nothing")),
            (vec![("cookie", one.clone())], Ok("nothing")),
            (vec![("authorization", bearer(&one))], Ok("key")),
            (
                vec![("authorization", format!("bearer   {one} "))],
                Ok("key"),
            ),
            (vec![("x-api-key", one.clone())], Ok("key")),
            (vec![("api-key", one.clone())], Ok("key")),
            (
                vec![("api-key", one.clone()), ("authorization", bearer(&one))],
                Ok("key"),
            ),
            (
                vec![("api-key", one.clone()), ("x-api-key", two.clone())],
                Err(Ambiguous),
            ),
            (
                vec![
                    ("authorization", bearer(&one)),
                    ("authorization", bearer(&two)),
                ],
                Err(Ambiguous),
            ),
            (vec![("authorization", bearer("a.b.c"))], Ok("token")),
            (vec![("x-api-key", "a.b.c".to_owned())], Err(Unreadable)),
            (
                vec![("authorization", bearer("a.b.c.d.e"))],
                Err(Unreadable),
            ),
            (vec![("authorization", bearer("a.b"))], Ok("unrecognised")),
            (vec![("authorization", bearer("none"))], Ok("unrecognised")),
            (vec![("api-key", "sk-1234".to_owned())], Ok("unrecognised")),
            (
                vec![
                    ("authorization", bearer("none")),
                    ("x-api-key", "other".to_owned()),
                ],
                Ok("unrecognised"),
            ),
            (
                vec![
                    ("authorization", bearer("none")),
                    ("x-api-key", one.clone()),
                ],
                Err(Ambiguous),
            ),
            (
                vec![
                    ("authorization", bearer("none")),
                    ("signature", "s".to_owned()),
                ],
                Err(Ambiguous),
            ),
            // A key in quotes, and one in capitals, are meant as keys.
            (
                vec![("authorization", bearer(&format!("\"{one}\"")))],
                Err(Unreadable),
            ),
            (
                vec![("x-api-key", one.to_ascii_uppercase())],
                Err(Unreadable),
            ),
            (
                vec![("authorization", "Basic dTpw".to_owned())],
                Err(Malformed),
            ),
            (
                vec![("authorization", "Bearer".to_owned())],
                Ok("unrecognised"),
            ),
            (
                vec![("authorization", bearer(&format!("{one} {two}")))],
                Err(Malformed),
            ),
            (vec![("x-api-key", format!("{one},{two}"))], Err(Malformed)),
            (vec![("x-api-key", String::new())], Ok("unrecognised")),
            (vec![("x-api-key", one[..40].to_owned())], Err(Unreadable)),
            (vec![("x-api-key", "\u{e4}".to_owned())], Err(Malformed)),
            (
                vec![("authorization", bearer(&"a".repeat(9_000)))],
                Err(Malformed),
            ),
            (vec![("signature", "s".to_owned())], Ok("signature")),
            (
                vec![("signature", "s".to_owned()), ("api-key", one.clone())],
                Err(Ambiguous),
            ),
        ];
        for (headers, expected) in cases {
            let headers: Vec<(&str, &[u8])> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()))
                .collect();
            let found = find(&headers).map(|credential| match credential {
                Credential::Nothing => "nothing",
                Credential::Unrecognised(refusal) => {
                    assert_eq!(refusal.kind, Unreadable);
                    "unrecognised"
                }
                Credential::ApiKey(_) => "key",
                Credential::Token(_) => "token",
                Credential::Signature => "signature",
            });
            let found = found.map_err(|refusal| {
                assert!(!refusal.message.contains(&one[17..]), "{refusal:?}");
                refusal.kind
            });
            assert_eq!(found, expected, "{headers:?}");
        }
    }
}
