//! Decides whether a request was signed with an API key's signing secret: HTTP Message Signatures (RFC 9421) with
//! `hmac-sha256`, over a `Content-Digest` (RFC 9530). docs/SIGNING.md describes the same for clients.
//!
//! Of the RFC's many forms only one is accepted: a single signature that covers at least method, path, query, body and
//! the type of the body, in the canonical form of RFC 9651. A text with several forms could be signed in one meaning and
//! read in another.

use super::api_key;
use hmac::{Hmac, Mac};
use penstock_core::headers::{AUTHORITY, SIGNATURE};
use sfv::{BareItem, Dictionary, FieldType, InnerList, ListEntry, Parser};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of the longest `Signature-Input`: room for all components and a nonce.
pub const MAX_INPUT_BYTES: usize = 2 << 10;
/// The longest `Signature` and the longest `Content-Digest`.
pub const MAX_VALUE_BYTES: usize = 1 << 10;
/// The most covered components. Each is searched among the headers.
pub const MAX_COVERED: usize = 32;
/// The longest string to sign: as long as the headers that servers accept.
pub const MAX_BASE_BYTES: usize = 64 << 10;
/// The number of characters of a nonce.
pub const NONCE_CHARS: std::ops::RangeInclusive<usize> = 16..=64;
/// The only algorithm that is accepted in `alg`.
pub const ALGORITHM: &str = "hmac-sha256";
/// Components that a signature must cover if the request has them.
const WHERE_PRESENT: [&str; 2] = ["content-type", "content-encoding"];
/// Components that a signature must cover.
pub const REQUIRED: [&str; 4] = ["@method", "@path", "@query", "content-digest"];

/// The reason why a signature is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// It is malformed, or does not cover a required component.
    Malformed,
    /// It was not made with the secret, or the request was changed after signing.
    Invalid,
    /// It is too old, or its time lies in the future.
    Expired,
}

/// The refusal of a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureRefusal {
    /// The class of the fault, which selects the error code.
    pub fault: SignatureFault,
    /// Message for the caller. It names the fault and the remedy.
    pub message: String,
}

fn refuse<T>(fault: SignatureFault, message: impl Into<String>) -> Result<T, SignatureRefusal> {
    let message = message.into();
    Err(SignatureRefusal { fault, message })
}

fn malformed<T>(message: impl Into<String>) -> Result<T, SignatureRefusal> {
    refuse(SignatureFault::Malformed, message)
}

/// A parsed signature that is not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The id of the API key that it names.
    pub api_key_id: String,
    /// The time of signing by the client's clock, `created`, in seconds since the Unix epoch.
    pub created_s: u64,
    /// The end of validity by the client, `expires`; `None` if the signature has no such parameter.
    pub expires_s: Option<u64>,
    /// The nonce, which makes repeated requests differ.
    pub nonce: String,
    /// The SHA-256 that the body must have.
    pub content_sha256: [u8; 32],
    /// The signature base of RFC 9421: the bytes that the client signed.
    pub base: Vec<u8>,
    /// The MAC that the client sent, decoded from base64. It is compared with [`mac`] of the base.
    pub signature: Vec<u8>,
}

/// Returns whether a request has the headers of a signature.
pub fn is_meant(headers: &[(&str, &[u8])]) -> bool {
    (headers.iter()).any(|(name, _)| SIGNATURE.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

/// Parses the signature of a request. The target is path and query as sent.
pub fn parse(
    method: &str,
    target: &str,
    headers: &[(&str, &[u8])],
) -> Result<Signed, SignatureRefusal> {
    let input = joined(headers, "signature-input", MAX_INPUT_BYTES)?;
    let signature = joined(headers, "signature", MAX_VALUE_BYTES)?;
    let (label, covered) = match single("Signature-Input", &input)? {
        (label, ListEntry::InnerList(covered)) => (label, covered),
        (_, ListEntry::Item(_)) => {
            return malformed("Signature-Input must list the covered components in parentheses");
        }
    };
    let signature = match single("Signature", &signature)? {
        (own, ListEntry::Item(item)) if own == label && item.params.is_empty() => item.bare_item,
        _ => {
            return malformed(
                "Signature must have the signature under the label that Signature-Input gives it, and nothing else",
            );
        }
    };
    let BareItem::ByteSequence(signature) = signature else {
        return malformed("Signature must have the signature in base64 between colons");
    };
    let names = covered_names(&covered)?;
    let has = |name: &str| names.iter().any(|own| own == name);
    if let Some(missing) = REQUIRED.iter().find(|name| !has(name)) {
        return malformed(format!("the signature must cover \"{missing}\""));
    }
    for name in WHERE_PRESENT {
        let there = (headers.iter()).any(|(own, _)| own.eq_ignore_ascii_case(name));
        if there && !has(name) {
            return malformed(format!(
                "the signature must cover \"{name}\" if the request has it: it changes the meaning of the request"
            ));
        }
    }
    let parameters = Parameters::of(&covered)?;
    // The field is in canonical form, so the text after the label is the signed text.
    let base = signature_base(method, target, headers, &names, &input[label.len() + 1..])?;
    Ok(Signed {
        api_key_id: parameters.api_key_id,
        created_s: parameters.created_s,
        expires_s: parameters.expires_s,
        nonce: parameters.nonce,
        content_sha256: content_sha256(headers)?,
        base,
        signature,
    })
}

/// Decides whether a signature was made with the secret, for a body of this digest, within the window. The caller must
/// check that it was not used before, with [`replay_name`] and [`good_until_ms`].
pub fn verify(
    signed: &Signed,
    signing_secret: &str,
    body_sha256: &[u8; 32],
    window_s: u64,
    now_ms: u64,
) -> Result<(), SignatureRefusal> {
    let expected = mac(signing_secret.as_bytes(), &signed.base);
    if !bool::from(expected[..].ct_eq(&signed.signature[..])) {
        return refuse(
            SignatureFault::Invalid,
            "the signature does not match the request: the secret or the signed string differs",
        );
    }
    if !bool::from(signed.content_sha256[..].ct_eq(&body_sha256[..])) {
        return refuse(
            SignatureFault::Invalid,
            "the body is not the one that was signed: its SHA-256 is not that of Content-Digest",
        );
    }
    let (created_ms, window_ms) = (
        signed.created_s.saturating_mul(1_000),
        window_s.saturating_mul(1_000),
    );
    if created_ms.abs_diff(now_ms) > window_ms {
        return refuse(
            SignatureFault::Expired,
            format!(
                "the signature's `created` is more than {window_s} s from now; sign again, with a correct clock"
            ),
        );
    }
    let expires_ms = signed.expires_s.map(|s| s.saturating_mul(1_000));
    if expires_ms.is_some_and(|expires_ms| now_ms > expires_ms) {
        return refuse(
            SignatureFault::Expired,
            "the signature has expired (`expires`); sign again",
        );
    }
    Ok(())
}

/// The name of the entry for a used signature: 32 hexadecimal characters. It changes with every signed part: key, nonce,
/// time or content.
pub fn replay_name(signed: &Signed) -> String {
    let mut hash = Sha256::new();
    hash.update(b"penstock seen-signature v1\0");
    hash.update(&signed.base);
    api_key::hex(&hash.finalize()[..16])
}

/// The time until which a used signature must be stored: as long as [`verify`] accepts it. This is up to twice the window
/// from now if `created` lies in the future.
pub fn good_until_ms(signed: &Signed, window_s: u64) -> u64 {
    let until_s = signed.created_s.saturating_add(window_s);
    let until_s = until_s.min(signed.expires_s.unwrap_or(u64::MAX));
    until_s.saturating_mul(1_000)
}

/// Computes the HMAC-SHA-256 of a signature base with a signing secret.
pub fn mac(secret: &[u8], base: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(base);
    mac.finalize().into_bytes().into()
}

/// The signature base (RFC 9421, 2.5): the covered components, and `params` as `Signature-Input` has them after the
/// label.
pub fn signature_base(
    method: &str,
    target: &str,
    headers: &[(&str, &[u8])],
    covered: &[String],
    params: &str,
) -> Result<Vec<u8>, SignatureRefusal> {
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !visible(method) || !visible(target) || !target.starts_with('/') {
        return malformed("only requests for a path can be signed");
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, "?"),
    };
    let mut base = Vec::with_capacity(512);
    for name in covered {
        let value = match name.as_str() {
            "@method" => method.to_owned(),
            "@path" => path.to_owned(),
            "@query" => query.to_owned(),
            "@authority" => authority(headers)?,
            field => {
                let what = format!("the header `{field}`, which the signature covers,");
                field_value(headers, field, &what)?
            }
        };
        if base.len() + value.len() > MAX_BASE_BYTES {
            return malformed(format!(
                "the covered components have more than {MAX_BASE_BYTES} bytes"
            ));
        }
        base.extend_from_slice(format!("\"{name}\": {value}\n").as_bytes());
    }
    base.extend_from_slice(format!("\"@signature-params\": {params}").as_bytes());
    Ok(base)
}

/// All lines of a field joined into one, up to a bound.
fn joined(headers: &[(&str, &[u8])], name: &str, most: usize) -> Result<String, SignatureRefusal> {
    let value = field_value(headers, name, &format!("`{name}`"))?;
    if value.len() > most {
        return malformed(format!("`{name}` has more than {most} bytes"));
    }
    Ok(value)
}

/// The value of a field as it is signed (RFC 9421, 2.1): its lines, trimmed, joined by a comma and a space. A line break
/// is refused, because the text after it would read like another component.
fn field_value(
    headers: &[(&str, &[u8])],
    name: &str,
    what: &str,
) -> Result<String, SignatureRefusal> {
    let mut value: Option<String> = None;
    for (_, line) in headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
        let fits = |&b: &u8| b == b'\t' || b == b' ' || b.is_ascii_graphic();
        let line = std::str::from_utf8(line)
            .ok()
            .filter(|line| line.as_bytes().iter().all(fits));
        let Some(line) = line else {
            return malformed(format!("{what} has bytes that are not visible ASCII"));
        };
        let line = line.trim_matches([' ', '\t']);
        match &mut value {
            Some(value) => {
                value.push_str(", ");
                value.push_str(line);
            }
            None => value = Some(line.to_owned()),
        }
        if value.as_ref().is_some_and(|v| v.len() > MAX_BASE_BYTES) {
            return malformed(format!("{what} has more than {MAX_BASE_BYTES} bytes"));
        }
    }
    match value {
        Some(value) => Ok(value),
        None => malformed(format!("{what} is missing")),
    }
}

/// The authority as it is signed (RFC 9421, 2.2.3): in lower case, without a default port. The caller's scheme is unknown
/// behind a proxy, so the default ports of both schemes are left out. A request over HTTP/2 has the authority in
/// `:authority` and often has no `host`.
fn authority(headers: &[(&str, &[u8])]) -> Result<String, SignatureRefusal> {
    let mut named = (headers.iter())
        .filter(|(name, _)| name.eq_ignore_ascii_case("host") || *name == AUTHORITY)
        .map(|(_, value)| *value);
    let first = named.next();
    // A request that names two servers is not valid for either.
    let one = first.filter(|first| named.all(|other| other.eq_ignore_ascii_case(first)));
    let Some(host) = one else {
        return malformed(
            "the signature covers \"@authority\", and the request does not have exactly one `host`",
        );
    };
    let host = field_value(&[("host", host)], "host", "`host`")?.to_ascii_lowercase();
    let bare = [":443", ":80"]
        .iter()
        .find_map(|port| host.strip_suffix(port));
    Ok(bare.unwrap_or(&host).to_owned())
}

/// Parses a dictionary of one member in the canonical form of RFC 9651.
fn single(name: &str, value: &str) -> Result<(String, ListEntry), SignatureRefusal> {
    let dictionary: Dictionary = match Parser::new(value).parse() {
        Ok(dictionary) => dictionary,
        Err(e) => return malformed(format!("{name} is not a structured field: {e}")),
    };
    let written = dictionary.serialize();
    let mut members = dictionary.into_iter();
    let (Some((label, entry)), None) = (members.next(), members.next()) else {
        return malformed(format!("{name} must have one signature, with one label"));
    };
    // Of a repeated member the parser keeps the last, so a repetition changes the serialized form.
    if written.as_deref() != Some(value) {
        return malformed(format!(
            "{name} must be serialised as in RFC 9651 (4.1): one space between components, no other spaces, nothing \
             twice"
        ));
    }
    Ok((label.as_str().to_owned(), entry))
}

fn covered_names(covered: &InnerList) -> Result<Vec<String>, SignatureRefusal> {
    if covered.items.len() > MAX_COVERED {
        return malformed(format!(
            "the signature covers {} components; at most {MAX_COVERED} are accepted",
            covered.items.len()
        ));
    }
    let mut names: Vec<String> = Vec::with_capacity(covered.items.len());
    for item in &covered.items {
        let BareItem::String(name) = &item.bare_item else {
            return malformed(
                "Signature-Input must name the covered components in quotation marks",
            );
        };
        let name = name.as_str();
        let shown: String = name.chars().take(40).collect();
        let shown = shown.escape_debug();
        if let Some(parameter) = item.params.keys().next() {
            let parameter: String = parameter.as_str().chars().take(40).collect();
            return malformed(format!(
                "\"{shown}\" has the parameter `;{parameter}`; components with parameters are not supported"
            ));
        }
        let token =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
        match name {
            "@method" | "@path" | "@query" | "@authority" => {}
            "signature" | "signature-input" => {
                return malformed("a signature cannot cover itself");
            }
            _ if !name.is_empty() && name.bytes().all(token) => {}
            _ => {
                return malformed(format!(
                    "\"{shown}\" cannot be covered: cover @method, @path, @query, @authority and headers, whose names \
                     are in lower case"
                ));
            }
        }
        if names.iter().any(|own| own == name) {
            return malformed(format!("the signature covers \"{shown}\" twice"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

struct Parameters {
    api_key_id: String,
    created_s: u64,
    expires_s: Option<u64>,
    nonce: String,
}

impl Parameters {
    fn of(covered: &InnerList) -> Result<Self, SignatureRefusal> {
        let known = ["created", "expires", "nonce", "alg", "keyid"];
        let mut names = covered.params.keys().map(|name| name.as_str());
        if names.any(|name| !known.contains(&name)) {
            return malformed(format!(
                "the signature has a parameter that is not one of {}",
                known.join(", ")
            ));
        }
        let seconds = |name: &str| match covered.params.get(name) {
            None => Ok(None),
            Some(value) => {
                let seconds = value.as_integer().map(i64::from);
                match seconds.and_then(|s| u64::try_from(s).ok()) {
                    Some(seconds) => Ok(Some(seconds)),
                    None => malformed(format!(
                        "the signature's `{name}` is not a number of seconds"
                    )),
                }
            }
        };
        let text = |name: &str| match covered.params.get(name) {
            None => Ok(None),
            Some(BareItem::String(text)) => Ok(Some(text.as_str())),
            Some(_) => malformed(format!(
                "the signature's `{name}` must be in quotation marks"
            )),
        };
        let Some(created_s) = seconds("created")? else {
            return malformed("the signature has no `created`");
        };
        let expires_s = seconds("expires")?;
        if text("alg")?.is_some_and(|alg| alg != ALGORITHM) {
            return malformed(format!("the signature's `alg` must be \"{ALGORITHM}\""));
        }
        let Some(api_key_id) = text("keyid")?.filter(|id| api_key::is_id(id)) else {
            return malformed(
                "the signature's `keyid` must be the id of an API key: the 12 characters between the underscores",
            );
        };
        let visible = |nonce: &&str| {
            NONCE_CHARS.contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic())
        };
        let Some(nonce) = text("nonce")?.filter(visible) else {
            return malformed(format!(
                "the signature's `nonce` must be {} to {} visible characters, at random",
                NONCE_CHARS.start(),
                NONCE_CHARS.end()
            ));
        };
        Ok(Self {
            api_key_id: api_key_id.to_owned(),
            created_s,
            expires_s,
            nonce: nonce.to_owned(),
        })
    }
}

/// The SHA-256 in `Content-Digest` (RFC 9530). Other digests may accompany it.
fn content_sha256(headers: &[(&str, &[u8])]) -> Result<[u8; 32], SignatureRefusal> {
    let value = joined(headers, "content-digest", MAX_VALUE_BYTES)?;
    let parsed: Result<Dictionary, _> = Parser::new(&value).parse();
    let digest = parsed.ok().and_then(|mut d| d.swap_remove("sha-256"));
    let digest = match digest {
        Some(ListEntry::Item(item)) => match item.bare_item {
            BareItem::ByteSequence(bytes) => <[u8; 32]>::try_from(bytes).ok(),
            _ => None,
        },
        _ => None,
    };
    match digest {
        Some(digest) => Ok(digest),
        None => malformed(
            "Content-Digest must have the body's SHA-256 (RFC 9530), or of zero bytes if there is no body: \
             sha-256=:base64:",
        ),
    }
}
