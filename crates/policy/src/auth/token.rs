//! Verifies tokens. A valid token proves its issuer, its audience, its expiry, and the caller in its claims. A token is a JWT
//! (RFC 7519), signed as in RFC 7515 and RFC 7518.
//!
//! Libraries only verify signatures. Header, claims and key sets are parsed here, because a check is strict only if it
//! knows every member that could change the meaning of the others (RFC 8725).

mod excerpt;
mod json;
mod keys;

use super::scopes::{MAX_SCOPES, Scope};
use super::settings::{Algorithm, Issuer, Tier, is_name};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use excerpt::excerpt;
use json::{Json, Members};
use keys::Key;
use penstock_core::caller::ANONYMOUS;
use std::collections::BTreeMap;

pub use keys::{MAX_SET_BYTES, MAX_SET_KEYS};

/// The longest token, in bytes. Most servers accept shorter headers.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// The most values in header or claims. Real tokens have far fewer.
const MAX_VALUES: usize = 1_024;
/// The longest `sub`, in bytes: OpenID Connect's bound. RFC 9068 has none.
const MAX_SUBJECT_BYTES: usize = 255;
/// Header members that contain or locate a key. A server that used them would let the token choose its own key (RFC 8725,
/// 2.9 and 3.10).
const BRINGS_KEY: [&str; 4] = ["jwk", "jku", "x5u", "x5c"];
/// Header members that change how the token is read; none is supported: extensions (RFC 7515, 4.1.11), payloads without
/// encoding (RFC 7797), compression (RFC 8725, 3.6).
const CHANGES_READING: [&str; 3] = ["crit", "b64", "zip"];

/// The content of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The operator's name for its issuer.
    pub issuer: String,
    /// The tenant from the issuer's settings, or from the claim that they name.
    pub tenant: String,
    /// The tier from the claim that the settings name, or the issuer's default.
    pub tier: String,
    /// The caller within the tenant: `sub`.
    pub subject: Option<String>,
    /// The scopes of the token; the tier may allow fewer.
    pub scopes: Vec<Scope>,
    /// The time from which the token is refused, in milliseconds since the Unix epoch: its `exp` plus the leeway.
    pub expires_ms: u64,
}

/// The reason why a token is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// It is no token, or breaks a rule for its form.
    Malformed,
    /// Its signature, issuer, audience or algorithm is not accepted.
    Invalid,
    /// It has expired, or is not valid yet.
    Expired,
    /// The issuer's key set lacks its key. The issuer may have added the key since the last fetch.
    UnknownKey {
        /// The operator's name for the issuer.
        issuer: String,
    },
    /// The issuer's key set is not loaded yet.
    NoKeys {
        /// The operator's name for the issuer.
        issuer: String,
    },
    /// It is valid, but its tenant, tier or scopes are not accepted here.
    Denied,
}

/// The refusal of a token, with a message for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefusal {
    /// The class of the fault, which selects the error code.
    pub fault: TokenFault,
    /// Message for the caller. It names the fault and the remedy. It never contains the token.
    pub message: String,
}

fn refuse<T>(fault: TokenFault, message: impl Into<String>) -> Result<T, TokenRefusal> {
    let message = message.into();
    Err(TokenRefusal { fault, message })
}

#[derive(Clone, Debug)]
struct TrustedIssuer {
    settings: Issuer,
    /// `None` until the key set is loaded.
    keys: Option<Vec<Key>>,
}

/// The trusted issuers, with their keys.
#[derive(Clone, Debug)]
pub struct Issuers {
    known: Vec<TrustedIssuer>,
    /// Tiers that claims may name.
    tiers: Vec<String>,
}

impl Issuers {
    /// Opens the settings with the secrets that they name. [`Issuers::set_keys`] adds key sets. The error is a sentence
    /// for the operator.
    pub fn new(
        settings: &[Issuer],
        tiers: &BTreeMap<String, Tier>,
        secret: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let known = settings.iter().map(|issuer| {
            let mut known = TrustedIssuer {
                settings: issuer.clone(),
                keys: None,
            };
            if let Some(variable) = &issuer.secret_variable {
                let name = &issuer.name;
                let Some(secret) = secret(variable) else {
                    return Err(format!(
                        "the issuer `{name}` has its secret in the variable `{variable}`, which is not set"
                    ));
                };
                let least = issuer.algorithms.iter().map(|a| least_secret_bytes(*a)).max();
                let least = least.unwrap_or(0);
                if secret.len() < least {
                    return Err(format!(
                        "the variable `{variable}`, the secret of the issuer `{name}`, has {} bytes; its algorithms \
                         need at least {least} random bytes (RFC 7518, 3.2): a shorter secret can be guessed from a \
                         token",
                        secret.len()
                    ));
                }
                known.keys = Some(vec![Key::secret(secret.as_bytes())]);
            }
            Ok(known)
        });
        Ok(Self {
            known: known.collect::<Result<_, _>>()?,
            tiers: tiers.keys().cloned().collect(),
        })
    }

    /// Returns whether a text has the form of a token: base64url with two dots. [`Issuers::verify`] checks its length.
    pub fn is_meant(text: &str) -> bool {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        text.bytes().all(fits) && text.bytes().filter(|&b| b == b'.').count() == 2
    }

    /// Replaces an issuer's key set (RFC 7517). The error is a sentence for the operator; then the old set stays. A set
    /// may have no key for the issuer's algorithms: an issuer revokes all its tokens by removing all keys.
    pub fn set_keys(&mut self, issuer_name: &str, jwks: &str) -> Result<(), String> {
        let known = self.known.iter_mut();
        let Some(known) = known.into_iter().find(|k| k.settings.name == issuer_name) else {
            return Err(format!("there is no issuer `{}`", excerpt(issuer_name)));
        };
        if known.settings.secret_variable.is_some() {
            return Err(format!(
                "the issuer `{issuer_name}` has a secret and no key set"
            ));
        }
        let keys = keys::read_set(jwks, &known.settings.algorithms)
            .map_err(|e| format!("the key set of the issuer `{issuer_name}` {e}"))?;
        known.keys = Some(keys);
        Ok(())
    }

    /// The number of keys for an issuer's tokens; `None` until a set is loaded.
    pub fn key_count(&self, issuer_name: &str) -> Option<usize> {
        let known = self.known.iter().find(|k| k.settings.name == issuer_name)?;
        known.keys.as_ref().map(Vec::len)
    }

    /// The operator's name for the issuer that a token claims. Nothing is verified: it only tells whose keys to load.
    pub fn issuer_of(&self, token: &str) -> Option<&str> {
        let parts = Parts::of(token).ok()?;
        let claims = parts.claims().ok()?;
        let known = self.known(&claims).ok()?;
        Some(&known.settings.name)
    }

    /// Verifies the signature, audience and times of a token, and reads its caller. It uses neither the network nor the
    /// store.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Verified, TokenRefusal> {
        let parts = Parts::of(token)?;
        let header = parts.header()?;
        let claims = parts.claims()?;
        let known = self.known(&claims)?;
        let settings = &known.settings;
        check_type(&header, settings.typ.as_deref())?;
        let algorithm = chosen_algorithm(&header, &settings.algorithms)?;
        let key = chosen_key(&header, algorithm, known)?;
        if !key.verifies(algorithm, parts.signed.as_bytes(), parts.signature) {
            let message = "the token's signature is not valid: the token was changed, or signed with another key";
            return refuse(TokenFault::Invalid, message);
        }
        check_audience(&claims, &settings.audiences)?;
        let expires_ms = check_times(&claims, now_ms, settings.leeway_s.saturating_mul(1_000))?;
        Ok(Verified {
            issuer: settings.name.clone(),
            tenant: tenant(&claims, settings)?,
            tier: self.tier(&claims, settings)?,
            subject: subject(&claims)?,
            scopes: scopes(&claims, settings)?,
            expires_ms,
        })
    }

    fn known(&self, claims: &Members) -> Result<&TrustedIssuer, TokenRefusal> {
        let issuer = match claims.get("iss") {
            Some(Json::Text(issuer)) => issuer,
            Some(_) => return refuse(TokenFault::Malformed, "the token's `iss` is not a string"),
            None => return refuse(TokenFault::Invalid, "the token has no `iss`"),
        };
        let found = self.known.iter().find(|k| k.settings.issuer == *issuer);
        match found {
            Some(known) => Ok(known),
            None => refuse(
                TokenFault::Invalid,
                format!(
                    "the token is from `{}`, an issuer that this server does not accept",
                    excerpt(issuer)
                ),
            ),
        }
    }

    fn tier(&self, claims: &Members, settings: &Issuer) -> Result<String, TokenRefusal> {
        let claimed = settings.tier_claim.as_deref();
        let claimed = claimed.and_then(|name| claim(claims, name).map(|value| (name, value)));
        match (claimed, &settings.tier) {
            (Some((_, Json::Text(tier))), _) if self.tiers.contains(tier) => Ok(tier.clone()),
            (Some((name, _)), _) => refuse(
                TokenFault::Denied,
                format!(
                    "the token's `{}` names a tier that this server does not have",
                    name.escape_debug()
                ),
            ),
            (None, Some(tier)) => Ok(tier.clone()),
            (None, None) => refuse(
                TokenFault::Denied,
                format!(
                    "the token has no `{}`, which must name its tier",
                    (settings.tier_claim.as_deref().unwrap_or("tier")).escape_debug()
                ),
            ),
        }
    }
}

/// The shortest secret by RFC 7518, 3.2: as long as the hash.
fn least_secret_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    }
}

/// A token in the compact form of RFC 7515, 7.1, the only accepted form. An encrypted token has five parts.
struct Parts<'a> {
    /// The text that the signature covers: header and claims as sent, with the dot between them.
    signed: &'a str,
    header: Vec<u8>,
    claims: Vec<u8>,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, TokenRefusal> {
        if token.len() > MAX_TOKEN_BYTES {
            let message = format!(
                "the token has {} bytes; at most {MAX_TOKEN_BYTES} are accepted",
                token.len()
            );
            return refuse(TokenFault::Malformed, message);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            let message = "a token has three parts with dots between them (RFC 7515, 7.1)";
            return refuse(TokenFault::Malformed, message);
        };
        let decoded = |what: &str, part: &str| {
            URL_SAFE_NO_PAD.decode(part).or_else(|_| {
                let message = format!("the token's {what} is not base64url without padding");
                refuse(TokenFault::Malformed, message)
            })
        };
        decoded("signature", signature)?;
        Ok(Self {
            signed: &token[..header.len() + 1 + claims.len()],
            header: decoded("header", header)?,
            claims: decoded("claims", claims)?,
            signature,
        })
    }

    fn header(&self) -> Result<Members, TokenRefusal> {
        let header = json::object(&self.header, MAX_VALUES).or_else(|e| {
            let message = format!("the token's header {e}");
            refuse(TokenFault::Malformed, message)
        })?;
        if let Some(name) = BRINGS_KEY.iter().find(|name| header.contains_key(**name)) {
            let message = format!(
                "the token's header has `{name}`; keys come from the issuer and never from a token"
            );
            return refuse(TokenFault::Invalid, message);
        }
        if let Some(name) = CHANGES_READING.iter().find(|n| header.contains_key(**n)) {
            let message = format!("the token's header has `{name}`, which is not supported");
            return refuse(TokenFault::Invalid, message);
        }
        Ok(header)
    }

    fn claims(&self) -> Result<Members, TokenRefusal> {
        json::object(&self.claims, MAX_VALUES).or_else(|e| {
            let message = format!("the token's payload {e}");
            refuse(TokenFault::Malformed, message)
        })
    }
}

fn check_type(header: &Members, wanted: Option<&str>) -> Result<(), TokenRefusal> {
    let given = match header.get("typ") {
        None => None,
        Some(Json::Text(given)) => Some(given.as_str()),
        Some(_) => return refuse(TokenFault::Malformed, "the token's `typ` is not a string"),
    };
    let Some(wanted) = wanted else {
        return Ok(());
    };
    if given.is_some_and(|given| media_type(given) == media_type(wanted)) {
        return Ok(());
    }
    let message = format!(
        "the token's header must have `typ` {}; tokens for other uses are not accepted",
        wanted.escape_debug()
    );
    refuse(TokenFault::Invalid, message)
}

/// A `typ` for comparison (RFC 7515, 4.1.9): without case, and without the prefix `application/` if no other `/` follows.
fn media_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    match typ.strip_prefix("application/") {
        Some(rest) if !rest.contains('/') => rest.to_owned(),
        _ => typ,
    }
}

fn chosen_algorithm(header: &Members, allowed: &[Algorithm]) -> Result<Algorithm, TokenRefusal> {
    let name = match header.get("alg") {
        Some(Json::Text(name)) => name,
        Some(_) => return refuse(TokenFault::Malformed, "the token's `alg` is not a string"),
        None => return refuse(TokenFault::Malformed, "the token's header has no `alg`"),
    };
    match keys::algorithm(name) {
        Some(algorithm) if allowed.contains(&algorithm) => Ok(algorithm),
        _ => refuse(
            TokenFault::Invalid,
            format!(
                "the token's `alg` is `{}`; its issuer may use only {}",
                excerpt(name),
                (allowed.iter().map(|a| a.as_str()).collect::<Vec<_>>()).join(", ")
            ),
        ),
    }
}

fn chosen_key<'a>(
    header: &Members,
    algorithm: Algorithm,
    known: &'a TrustedIssuer,
) -> Result<&'a Key, TokenRefusal> {
    let issuer = &known.settings.name;
    let kid = match header.get("kid") {
        None => None,
        Some(Json::Text(kid)) => Some(kid.as_str()),
        Some(_) => return refuse(TokenFault::Malformed, "the token's `kid` is not a string"),
    };
    let Some(keys) = &known.keys else {
        return refuse(
            TokenFault::NoKeys {
                issuer: issuer.clone(),
            },
            "the keys of the token's issuer are not loaded yet; try again shortly",
        );
    };
    // There is only one secret, so the issuer's name for it does not matter.
    if let [secret] = &keys[..]
        && secret.is_secret()
    {
        return Ok(secret);
    }
    let mut named = (keys.iter())
        .filter(|key| kid.is_none() || key.kid.as_deref() == kid)
        .peekable();
    let any_named = named.peek().is_some();
    let mut fitting = named.filter(|key| key.fits(algorithm));
    match (fitting.next(), fitting.next(), kid) {
        (Some(key), None, _) => Ok(key),
        (Some(_), Some(_), _) => refuse(
            TokenFault::Invalid,
            "the token's header names no `kid`, and its issuer has several keys of that kind",
        ),
        (None, _, Some(kid)) if any_named => refuse(
            TokenFault::Invalid,
            format!(
                "the issuer's key `{}` is not for {}",
                excerpt(kid),
                algorithm.as_str()
            ),
        ),
        (None, _, kid) => refuse(
            TokenFault::UnknownKey {
                issuer: issuer.clone(),
            },
            match kid {
                Some(kid) => format!("the token's issuer has no key `{}`", excerpt(kid)),
                None => format!("the token's issuer has no key for {}", algorithm.as_str()),
            },
        ),
    }
}

fn check_audience(claims: &Members, ours: &[String]) -> Result<(), TokenRefusal> {
    let given = match claims.get("aud") {
        Some(Json::Text(one)) => vec![one.as_str()],
        Some(list) => match list.texts() {
            Some(several) => several,
            None => {
                let message = "the token's `aud` is neither a string nor a list of strings";
                return refuse(TokenFault::Malformed, message);
            }
        },
        None => return refuse(TokenFault::Invalid, "the token has no `aud`"),
    };
    if given
        .iter()
        .any(|given| ours.iter().any(|own| own == given))
    {
        return Ok(());
    }
    let message =
        "the token is for another service: its `aud` contains none of this service's names";
    refuse(TokenFault::Invalid, message)
}

/// Checks a token's times. Returns when it expires.
fn check_times(claims: &Members, now_ms: u64, leeway_ms: u64) -> Result<u64, TokenRefusal> {
    let date = |name: &str| match claims.get(name).map(Json::date_ms) {
        None => Ok(None),
        Some(Some(ms)) => Ok(Some(ms)),
        Some(None) => {
            let message = format!("the token's `{name}` is not a number of seconds");
            refuse(TokenFault::Malformed, message)
        }
    };
    let (expires, not_before, issued) = (date("exp")?, date("nbf")?, date("iat")?);
    let Some(expires) = expires else {
        let message = "the token has no `exp`; tokens that never expire are not accepted";
        return refuse(TokenFault::Invalid, message);
    };
    let expires_ms = expires.saturating_add(leeway_ms);
    if expires_ms <= now_ms {
        let message = "the token has expired; get a new one from its issuer";
        return refuse(TokenFault::Expired, message);
    }
    let latest_ms = now_ms.saturating_add(leeway_ms);
    for (name, from) in [("nbf", not_before), ("iat", issued)] {
        if from.is_some_and(|from| from > latest_ms) {
            let message = format!(
                "the token is not valid yet: its `{name}` is in the future; the clocks here and at its issuer \
                 differ, or it is meant for later"
            );
            return refuse(TokenFault::Expired, message);
        }
    }
    Ok(expires_ms)
}

/// A claim by its name; if there is none, by the path of its dots: `realm_access.roles`.
fn claim<'a>(claims: &'a Members, name: &str) -> Option<&'a Json> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (path, last) = name.rsplit_once('.')?;
    let inner = path
        .split('.')
        .try_fold(claims, |members, step| match members.get(step) {
            Some(Json::Object(inner)) => Some(inner),
            _ => None,
        });
    inner?.get(last)
}

fn tenant(claims: &Members, settings: &Issuer) -> Result<String, TokenRefusal> {
    let name = match (&settings.tenant, &settings.tenant_claim) {
        (Some(tenant), _) => return Ok(tenant.clone()),
        (None, Some(name)) => name,
        (None, None) => return refuse(TokenFault::Denied, "the token's issuer has no tenant"),
    };
    match claim(claims, name) {
        Some(Json::Text(tenant)) if is_name(tenant) && tenant != ANONYMOUS => Ok(tenant.clone()),
        Some(_) => refuse(
            TokenFault::Denied,
            format!("the token's `{}` names no tenant", name.escape_debug()),
        ),
        None => refuse(
            TokenFault::Denied,
            format!(
                "the token has no `{}`, which must name its tenant",
                name.escape_debug()
            ),
        ),
    }
}

fn subject(claims: &Members) -> Result<Option<String>, TokenRefusal> {
    match claims.get("sub") {
        None => Ok(None),
        Some(Json::Text(subject)) => {
            let fits = (1..=MAX_SUBJECT_BYTES).contains(&subject.len());
            if !fits || subject.chars().any(char::is_control) {
                let message = format!(
                    "the token's `sub` must be 1 to {MAX_SUBJECT_BYTES} bytes without control characters"
                );
                return refuse(TokenFault::Invalid, message);
            }
            Ok(Some(subject.clone()))
        }
        Some(_) => refuse(TokenFault::Malformed, "the token's `sub` is not a string"),
    }
}

fn scopes(claims: &Members, settings: &Issuer) -> Result<Vec<Scope>, TokenRefusal> {
    let name = &settings.scope_claim;
    let given: Vec<&str> = match claim(claims, name) {
        None => Vec::new(),
        Some(Json::Text(text)) => text.split(' ').filter(|scope| !scope.is_empty()).collect(),
        Some(list) => match list.texts() {
            Some(list) => list,
            None => {
                let message = format!(
                    "the token's `{}` is neither a string nor a list of strings",
                    name.escape_debug()
                );
                return refuse(TokenFault::Denied, message);
            }
        },
    };
    let mut scopes: Vec<Scope> = Vec::new();
    for given in given {
        let meant = match &settings.scope_map {
            Some(map) => map.get(given).cloned().unwrap_or_default(),
            None => Scope::try_from(given.to_owned()).into_iter().collect(),
        };
        for scope in meant {
            if scopes.contains(&scope) {
                continue;
            }
            if scopes.len() == MAX_SCOPES {
                let message = format!(
                    "the token's `{}` has more than {MAX_SCOPES} scopes; ask for fewer",
                    name.escape_debug()
                );
                return refuse(TokenFault::Denied, message);
            }
            scopes.push(scope);
        }
    }
    Ok(scopes)
}
