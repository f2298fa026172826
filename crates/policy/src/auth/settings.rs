//! The settings `[auth]` of a policy file: which callers may use the server.

use super::scopes::{Pattern, Scope};
use penstock_core::caller::ANONYMOUS;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Default of `revocation_ms` in milliseconds: an instance trusts an entry for a second, so a revocation takes effect within
/// it.
pub const DEFAULT_REVOCATION_MS: u64 = 1_000;
/// Largest `revocation_ms`: a minute. An operator expects a revoked key to be refused soon.
pub const MAX_REVOCATION_MS: u64 = 60_000;
/// Default of `store_failure_grace_ms`: half a minute without the store.
pub const DEFAULT_GRACE_MS: u64 = 30_000;
/// Largest `store_failure_grace_ms`: an hour. With a longer one, an outage could keep a revoked key in use.
pub const MAX_GRACE_MS: u64 = 3_600_000;
/// Default of an issuer's `leeway_s`: by how much clocks may differ.
pub const DEFAULT_LEEWAY_S: u64 = 30;
/// Largest `leeway_s` in seconds. RFC 7519 suggests a few minutes at most.
pub const MAX_LEEWAY_S: u64 = 300;
/// Default age of a signed request.
pub const DEFAULT_WINDOW_S: u64 = 300;
/// Largest age of a signed request. Each signature is stored for this time.
pub const MAX_WINDOW_S: u64 = 3_600;
/// Default time between two fetches of a key set.
pub const DEFAULT_REFRESH_S: u64 = 300;
/// The most issuers, tiers, certificates and model entries of each kind. A call walks through all of them.
pub const MAX_ENTRIES: usize = 256;
/// The longest name of a tenant, tier or issuer.
pub const MAX_NAME_BYTES: usize = 64;

/// The section `[auth]` of a policy file. A policy without it refuses every call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The realm in the header `WWW-Authenticate`.
    pub realm: String,
    /// Milliseconds within which a revocation takes effect everywhere.
    pub revocation_ms: u64,
    /// Milliseconds for which a key is accepted after its last confirmation while the store does not answer.
    pub store_failure_grace_ms: u64,
    /// Callers without credentials; `None` refuses them.
    pub anonymous: Option<Anonymous>,
    /// The acceptance of API keys; they are accepted by default.
    pub api_keys: ApiKeys,
    /// Signed requests; `None` refuses them.
    pub signatures: Option<Signatures>,
    /// The tiers by name. A tier decides priority, limits and rights.
    pub tiers: BTreeMap<String, Tier>,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Client certificates that identify a caller.
    pub certificates: Vec<Certificate>,
    /// The tenants of models. All tenants may use a model that no entry names.
    pub models: Vec<Owned>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            realm: "penstock".to_owned(),
            revocation_ms: DEFAULT_REVOCATION_MS,
            store_failure_grace_ms: DEFAULT_GRACE_MS,
            anonymous: None,
            api_keys: ApiKeys::default(),
            signatures: None,
            tiers: BTreeMap::new(),
            issuers: Vec::new(),
            certificates: Vec::new(),
            models: Vec::new(),
        }
    }
}

/// The section `[auth.anonymous]`: the rights of callers without credentials.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Anonymous {
    /// The tier of these callers; `anonymous` by default.
    pub tier: String,
    /// Their scopes; none by default.
    pub scopes: Vec<Scope>,
    /// The addresses from which they may call.
    pub from: From,
    /// Whether a credential that is neither an API key nor a token counts as no credential. Many clients cannot omit the
    /// credential and need a made-up key.
    pub ignore_unrecognised_credentials: bool,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self {
            tier: ANONYMOUS.to_owned(),
            scopes: Vec::new(),
            from: From::Loopback,
            ignore_unrecognised_credentials: false,
        }
    }
}

/// The addresses from which callers without credentials may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// This machine, on a listener that only this machine reaches, without a proxy in between.
    Loopback,
    /// Any address, also behind a proxy.
    Anywhere,
}

/// The section `[auth.api_keys]`. Without it API keys are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeys {
    /// Whether API keys are accepted.
    pub enabled: bool,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The section `[auth.signatures]`: requests may be signed with a key's signing secret (RFC 9421).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signatures {
    /// Seconds by which `created` may differ from now, and for which a used signature is stored.
    pub window_s: u64,
}

impl Default for Signatures {
    fn default() -> Self {
        Self {
            window_s: DEFAULT_WINDOW_S,
        }
    }
}

/// The section `[auth.tiers.<name>]`: the priority and rights of a class of callers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tier {
    /// The priority of its calls in a model's queue; 1 runs first. `None` for the model's default.
    pub priority: Option<u8>,
    /// The scopes to which its callers are restricted; `None` leaves those of the credential.
    pub scopes: Option<Vec<Scope>>,
}

/// An entry of `[[auth.issuers]]`: an issuer whose tokens are accepted, and the meaning of their claims.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The operator's name for it.
    pub name: String,
    /// The `iss` of its tokens, compared byte by byte.
    pub issuer: String,
    /// Names of this server. A token's `aud` must contain one of them.
    pub audiences: Vec<String>,
    /// The algorithms that its tokens may use.
    pub algorithms: Vec<Algorithm>,
    /// The https URL of its key set.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// More certificate authorities to trust for that URL: a PEM file.
    #[serde(default)]
    pub jwks_ca_file: Option<String>,
    /// A file with its key set, relative to the policy file.
    #[serde(default)]
    pub jwks_file: Option<String>,
    /// The variable with the secret shared with the issuer, for the HS algorithms.
    #[serde(default)]
    pub secret_variable: Option<String>,
    /// Seconds by which clocks may differ.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u64,
    /// Seconds between two fetches of the key set.
    #[serde(default = "default_refresh_s")]
    pub refresh_s: u64,
    /// The `typ` that its tokens must have, e.g. `at+jwt` (RFC 9068); `None` accepts any.
    #[serde(default)]
    pub typ: Option<String>,
    /// The tenant of all its tokens.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The claim that names the tenant, if one issuer serves several.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// The claim that names the tier.
    #[serde(default)]
    pub tier_claim: Option<String>,
    /// The tier of tokens that name no tier.
    #[serde(default)]
    pub tier: Option<String>,
    /// The claim with the caller's scopes: text with spaces (RFC 8693 `scope`), or a list.
    #[serde(default = "default_scope_claim")]
    pub scope_claim: String,
    /// Translates the issuer's scopes: `"inference.call" = ["predict"]`.
    #[serde(default)]
    pub scope_map: Option<BTreeMap<String, Vec<Scope>>>,
}

fn default_leeway_s() -> u64 {
    DEFAULT_LEEWAY_S
}

fn default_refresh_s() -> u64 {
    DEFAULT_REFRESH_S
}

fn default_scope_claim() -> String {
    "scope".to_owned()
}

/// An algorithm of RFC 7518 or RFC 8037.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    /// Returns whether the algorithm is symmetric: a server that can check a signature can also make one.
    pub fn is_shared_secret(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// The name of the algorithm in `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// An entry of `[[auth.certificates]]`: a client certificate that identifies a caller.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// One of its subject alternative names: `dns:…`, `uri:…`, `email:…`.
    #[serde(default)]
    pub name: Option<String>,
    /// The SHA-256 of its DER form, 64 hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The tenant of callers with this certificate.
    pub tenant: String,
    /// The tier of callers with this certificate.
    pub tier: String,
    /// The scopes of callers with this certificate; the tier may allow fewer.
    pub scopes: Vec<Scope>,
}

/// An entry of `[[auth.models]]`: models that only some tenants may use.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// Names, with `*` for any characters.
    pub models: Vec<Pattern>,
    /// The tenants that may use them.
    pub tenants: Vec<String>,
}

/// Returns whether a text can name a tenant or a tier: letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
pub fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(fits)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// The rule for names, for messages.
pub const NAME_RULE: &str =
    "1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or a digit";

impl AuthSettings {
    /// All faults of the settings: the name below `auth`, and a message.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |setting: String, message: String| faults.push((setting, message));
        self.find_general_faults(&mut fault);
        self.find_tier_faults(&mut fault);
        for (at, issuer) in self.issuers.iter().enumerate() {
            let mut here = |field: &str, message: String| {
                fault(format!("issuers[{at}].{field}"), message);
            };
            self.find_issuer_faults(at, issuer, &mut here);
            issuer.find_key_faults(&mut here);
            self.find_caller_faults(issuer, &mut here);
        }
        for (at, certificate) in self.certificates.iter().enumerate() {
            let mut here = |field: &str, message: String| {
                fault(format!("certificates[{at}].{field}"), message);
            };
            self.find_certificate_faults(certificate, &mut here);
        }
        self.find_model_faults(&mut fault);
        faults
    }

    fn find_general_faults(&self, fault: &mut impl FnMut(String, String)) {
        let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        if self.realm.is_empty() || self.realm.len() > 64 || !self.realm.bytes().all(plain) {
            let message = "must be 1 to 64 visible ASCII characters without quotes".to_owned();
            fault("realm".to_owned(), message);
        }
        if !(1..=MAX_REVOCATION_MS).contains(&self.revocation_ms) {
            let message = format!("must be from 1 to {MAX_REVOCATION_MS}");
            fault("revocation_ms".to_owned(), message);
        }
        let grace = self.revocation_ms..=MAX_GRACE_MS.max(self.revocation_ms);
        if !grace.contains(&self.store_failure_grace_ms) {
            let message = format!("must be from revocation_ms to {MAX_GRACE_MS}");
            fault("store_failure_grace_ms".to_owned(), message);
        }
        for (setting, count) in [
            ("tiers", self.tiers.len()),
            ("issuers", self.issuers.len()),
            ("certificates", self.certificates.len()),
            ("models", self.models.len()),
        ] {
            if count > MAX_ENTRIES {
                let message = format!("has {count} entries; at most {MAX_ENTRIES} are accepted");
                fault(setting.to_owned(), message);
            }
        }
        if let Some(signatures) = &self.signatures
            && !(1..=MAX_WINDOW_S).contains(&signatures.window_s)
        {
            let message = format!("must be from 1 to {MAX_WINDOW_S}");
            fault("signatures.window_s".to_owned(), message);
        }
    }

    fn find_tier_faults(&self, fault: &mut impl FnMut(String, String)) {
        for (name, tier) in &self.tiers {
            if let Some(message) = named("tier", name) {
                fault("tiers".to_owned(), message);
            }
            if tier.priority == Some(0) {
                let message = "must be at least 1, the highest priority".to_owned();
                fault(format!("tiers.{name}.priority"), message);
            }
        }
        if let Some(anonymous) = &self.anonymous
            && let Some(message) = self.unknown_tier(&anonymous.tier)
        {
            fault("anonymous.tier".to_owned(), message);
        }
    }

    /// The fault of a reference to a tier, if there is one.
    fn unknown_tier(&self, name: &str) -> Option<String> {
        let message = || format!("names the tier `{name}`, which no [auth.tiers.{name}] defines");
        (!self.tiers.contains_key(name) && name != ANONYMOUS).then(message)
    }

    fn find_issuer_faults(&self, at: usize, issuer: &Issuer, here: &mut impl FnMut(&str, String)) {
        if let Some(message) = named("issuer", &issuer.name) {
            here("name", message);
        }
        if (self.issuers[..at].iter()).any(|other| other.name == issuer.name) {
            here("name", format!("`{}` is given twice", issuer.name));
        }
        if (self.issuers[..at].iter()).any(|other| other.issuer == issuer.issuer) {
            here("issuer", format!("`{}` is given twice", issuer.issuer));
        }
        if issuer.issuer.is_empty() {
            here("issuer", "must be the `iss` of its tokens".to_owned());
        }
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            let message = "must list what its tokens have in `aud` when they are meant for this \
                           service; without it, a token made for another service would pass";
            here("audiences", message.to_owned());
        }
    }

    /// Faults of the settings for the tenant, tier and scopes of an issuer's tokens.
    fn find_caller_faults(&self, issuer: &Issuer, here: &mut impl FnMut(&str, String)) {
        match (&issuer.tenant, &issuer.tenant_claim) {
            (Some(tenant), None) => {
                if let Some(message) = tenanted(tenant) {
                    here("tenant", message);
                }
            }
            (None, Some(_)) => {}
            _ => {
                let message =
                    "or tenant_claim must be set, to give its tokens a tenant; exactly one of them";
                here("tenant", message.to_owned());
            }
        }
        match &issuer.tier {
            Some(tier) => {
                if let Some(message) = self.unknown_tier(tier) {
                    here("tier", message);
                }
            }
            None if issuer.tier_claim.is_none() => {
                here(
                    "tier",
                    "or tier_claim must be set, to give its callers their limits".to_owned(),
                );
            }
            None => {}
        }
    }

    fn find_certificate_faults(
        &self,
        certificate: &Certificate,
        here: &mut impl FnMut(&str, String),
    ) {
        match (&certificate.name, &certificate.sha256) {
            (Some(name), None) => {
                if !["dns:", "uri:", "email:"]
                    .iter()
                    .any(|kind| name.starts_with(kind))
                {
                    let message = "must begin with `dns:`, `uri:` or `email:`".to_owned();
                    here("name", message);
                }
            }
            (None, Some(sha256)) => {
                let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if sha256.len() != 64 || !sha256.bytes().all(digit) {
                    here(
                        "sha256",
                        "must be 64 lower-case hexadecimal digits".to_owned(),
                    );
                }
            }
            _ => here(
                "name",
                "or sha256 must be set, to identify the certificate; exactly one of them"
                    .to_owned(),
            ),
        }
        if let Some(message) = tenanted(&certificate.tenant) {
            here("tenant", message);
        }
        if let Some(message) = self.unknown_tier(&certificate.tier) {
            here("tier", message);
        }
    }

    fn find_model_faults(&self, fault: &mut impl FnMut(String, String)) {
        for (at, owned) in self.models.iter().enumerate() {
            for tenant in &owned.tenants {
                if tenant != ANONYMOUS
                    && let Some(message) = named("tenant", tenant)
                {
                    fault(format!("models[{at}].tenants"), message);
                }
            }
            if owned.models.is_empty() {
                let message = "must name at least one model".to_owned();
                fault(format!("models[{at}].models"), message);
            }
        }
    }

    /// Returns whether a tenant may see a model.
    pub fn sees(&self, tenant: &str, model: &str) -> bool {
        let named = |owned: &&Owned| owned.models.iter().any(|pattern| pattern.matches(model));
        let mut owners = self.models.iter().filter(named).peekable();
        owners.peek().is_none() || owners.any(|owned| owned.tenants.iter().any(|t| t == tenant))
    }
}

/// The fault of a name, if it has one.
fn named(what: &str, name: &str) -> Option<String> {
    match is_name(name) {
        true => None,
        false => Some(format!("names the {what} `{name}`; a name is {NAME_RULE}")),
    }
}

/// The fault of a tenant's name, if it has one.
fn tenanted(name: &str) -> Option<String> {
    match name {
        ANONYMOUS => Some(format!(
            "names the tenant `{ANONYMOUS}`, which is that of callers without credentials"
        )),
        name => named("tenant", name),
    }
}

impl Issuer {
    /// Faults of the settings for algorithms and keys.
    fn find_key_faults(&self, here: &mut impl FnMut(&str, String)) {
        let shared = self
            .algorithms
            .iter()
            .filter(|a| a.is_shared_secret())
            .count();
        if self.algorithms.is_empty() {
            here(
                "algorithms",
                "must list at least one, e.g. \"RS256\"".to_owned(),
            );
        } else if shared != 0 && shared != self.algorithms.len() {
            let message = "mixes shared secrets (HS) with key pairs; define two issuers, because a public key \
                           could otherwise be used as a secret";
            here("algorithms", message.to_owned());
        }
        let sources = [&self.jwks_url, &self.jwks_file, &self.secret_variable];
        if sources.iter().filter(|source| source.is_some()).count() != 1 {
            let message = "or jwks_file or secret_variable must be set, to find its keys; exactly one of them";
            here("jwks_url", message.to_owned());
        } else if self.secret_variable.is_some() != (shared > 0) {
            let message = "must be set with HS algorithms, and only with them";
            here("secret_variable", message.to_owned());
        }
        if let Some(url) = &self.jwks_url
            && !url.starts_with("https://")
        {
            here("jwks_url", "must begin with https://".to_owned());
        }
        if self.jwks_ca_file.is_some() && self.jwks_url.is_none() {
            here("jwks_ca_file", "can only be set with jwks_url".to_owned());
        }
        if let Some(variable) = &self.secret_variable
            && !variable
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            let message = "must name a variable: lower-case letters, digits and `_`".to_owned();
            here("secret_variable", message);
        }
        if self.leeway_s > MAX_LEEWAY_S {
            here("leeway_s", format!("must be at most {MAX_LEEWAY_S}"));
        }
        if !(10..=86_400).contains(&self.refresh_s) {
            here("refresh_s", "must be from 10 to 86400".to_owned());
        }
    }
}
