//! Decides which caller a request is from and whether the request is allowed. The order is: credential; key, token,
//! signature or certificate; tenant; tier; model; scope. A credential that is present is always checked: a wrong one is
//! refused even where none is needed.
//!
//! Neither an answer nor its time reveals whether an id exists. Known and unknown ids take the same steps. The digest of
//! the presented key is computed before the lookup, and compared in constant time with the stored digest or a stand-in.
//!
//! An entry of a key or tenant is trusted for `revocation_ms` after it was read, so that a revocation takes effect
//! everywhere within that time. While the store does not answer it is trusted for `store_failure_grace_ms`; after that
//! every call is refused.

use super::CheckRefusal;
use super::api_key::{self, ApiKey, Pepper};
use super::cache::{Ages, Cache};
use super::credential::{self, Credential};
use super::record::{self, KeyRecord, KeySet, TenantRecord};
use super::scopes::{self, Scope};
use super::settings::{AuthSettings, From, Tier};
use super::signature::{self, SignatureFault, SignatureRefusal};
use super::token::{Issuers, TokenFault, Verified};
use super::words::{Admitted, CertificateShown, CredentialKind, Presented, RefusalKind};
use crate::quota::subject::network;
use crate::sweep::{DeleteNamed, Index};
use penstock_core::caller::ANONYMOUS;
use penstock_core::{Caller, Kv, KvError, RouteKind};
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use subtle::ConstantTimeEq;

/// Keys and tenants that an instance caches. Each takes a few hundred bytes.
const MAX_CACHED: usize = 1_024;
/// Unknown ids that an instance caches. They have their own cache, so that a flood of them evicts no known key.
const MAX_CACHED_ABSENT: usize = 1_024;
/// Verified tokens that an instance caches, so that a signature is checked once for many calls.
const MAX_CACHED_TOKENS: usize = 256;
/// Time for which an instance caches a verified token. It ends earlier when the token expires or the issuer's keys
/// change.
const TOKEN_TRUST_MS: u64 = 60_000;
/// Failed token checks of one address within [`FAILURES_MS`] and one instance before it is throttled. Checking a signature
/// takes milliseconds in WebAssembly, and an attacker needs no key to cause it. A caller with a typing error sends fewer.
const MAX_FAILURES: u32 = 10;
const FAILURES_MS: u64 = 10_000;
/// Shortest time between two writes of a key's last use.
const USED_EVERY_MS: u64 = 60_000;
/// Time between two reads of an issuer's key set. An unknown key causes an earlier read.
const KEY_SET_EVERY_MS: u64 = 5_000;
/// Shortest time between two reads of a key set, and between two requests to fetch one.
const KEY_SET_LEAST_MS: u64 = 1_000;
/// Seconds for `Retry-After` when a token names a key that is being fetched.
const RETRY_KEY_SET_S: u32 = 2;
/// Seconds for `Retry-After` while the store does not answer.
const RETRY_STORE_S: u32 = 2;
/// Width of the buckets in which used signatures are registered.
const SEEN_BUCKET_MS: u64 = 60_000;
const SEEN_SHARDS: u32 = 4;
/// The message for every credential that does not exist, whichever part of it is wrong.
const NOT_VALID: &str = "these credentials are not valid";

/// Secrets, by the names of their variables.
pub struct Secrets {
    /// The pepper, if one is configured.
    pub pepper: Option<Pepper>,
    /// Secrets shared with issuers, each with the name of its variable.
    pub shared: Vec<(String, String)>,
}

/// The policy, with the caches of one instance.
#[derive(Debug)]
pub struct Authenticator {
    settings: AuthSettings,
    pepper: Option<Pepper>,
    issuers: Issuers,
    key_sets: Vec<KeySetState>,
    public: bool,
    /// The rights of callers without credentials.
    anonymous: Rc<Granted>,
    /// The rights of each configured certificate, in the order of the settings.
    certificates: Vec<Rc<Granted>>,
    keys: Cache<Rc<KnownKey>>,
    absent: Cache<()>,
    tenants: Cache<TenantState>,
    tokens: Cache<Rc<KnownToken>>,
    used: Cache<()>,
    /// Failed token checks by address. An entry lasts [`FAILURES_MS`] from the first failure.
    failures: Cache<Cell<u32>>,
    seen: Index,
}

#[derive(Debug)]
struct KnownKey {
    record: KeyRecord,
    granted: Rc<Granted>,
    digest: [u8; 32],
    revoked: bool,
}

#[derive(Debug)]
struct KnownToken {
    verified: Verified,
    granted: Rc<Granted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TenantState {
    Open,
    Disabled,
    Absent,
}

#[derive(Debug, Default)]
struct KeySetState {
    issuer: String,
    /// The last value of the record that was read.
    read: Option<Vec<u8>>,
    looked_ms: Option<u64>,
    asked_ms: Option<u64>,
}

/// An identified caller whose rights are not checked yet.
struct Recognised {
    tenant: String,
    api_key_id: Option<String>,
    subject: Option<String>,
    tier: String,
    granted: Rc<Granted>,
    credential: CredentialKind,
    /// Whether the tenant must exist in the store.
    registered: bool,
}

/// The rights of a credential, and the caller as other policies see it. It is computed when the credential is read, and
/// not for each call.
#[derive(Debug, Default)]
struct Granted {
    scopes: Vec<Scope>,
    text: Vec<String>,
}

impl Granted {
    fn new(scopes: &[Scope]) -> Rc<Self> {
        Rc::new(Self {
            scopes: scopes.to_vec(),
            text: scopes.iter().map(ToString::to_string).collect(),
        })
    }
}

/// The age of an event; `None` if it never happened, or lies in the future because a clock went back.
fn age_ms(since_ms: Option<u64>, now_ms: u64) -> Option<u64> {
    now_ms.checked_sub(since_ms?)
}

fn refuse<T>(kind: RefusalKind, message: impl Into<String>) -> Result<T, CheckRefusal> {
    Err(CheckRefusal::new(kind, message))
}

/// A refusal for a store failure. It leaves out the store's own message, which is for the operator.
fn store_failed(what: &str) -> CheckRefusal {
    let message = format!("{what} cannot be looked up now");
    CheckRefusal {
        retry_after_s: Some(RETRY_STORE_S),
        ..CheckRefusal::new(RefusalKind::StoreFailed, message)
    }
}

impl Authenticator {
    /// A policy from settings without faults, and secrets. `public` says that other machines reach the listener. The error
    /// is a sentence for the operator.
    pub fn new(settings: AuthSettings, secrets: Secrets, public: bool) -> Result<Self, String> {
        let shared = |name: &str| {
            let found = secrets.shared.iter().find(|(known, _)| known == name);
            found.map(|(_, secret)| secret.clone())
        };
        let issuers = Issuers::new(&settings.issuers, &settings.tiers, shared)?;
        let key_sets = (settings.issuers.iter())
            .filter(|issuer| issuer.secret_variable.is_none())
            .map(|issuer| KeySetState {
                issuer: issuer.name.clone(),
                ..KeySetState::default()
            })
            .collect();
        let window_ms = settings
            .signatures
            .as_ref()
            .map_or(0, |s| s.window_s * 1_000);
        let anonymous = settings.anonymous.as_ref();
        let certificates = settings.certificates.iter();
        Ok(Self {
            anonymous: Granted::new(anonymous.map_or(&[], |anonymous| &anonymous.scopes)),
            certificates: certificates
                .map(|known| Granted::new(&known.scopes))
                .collect(),
            issuers,
            key_sets,
            pepper: secrets.pepper,
            public,
            keys: Cache::new(MAX_CACHED),
            absent: Cache::new(MAX_CACHED_ABSENT),
            tenants: Cache::new(MAX_CACHED),
            tokens: Cache::new(MAX_CACHED_TOKENS),
            used: Cache::new(MAX_CACHED),
            failures: Cache::new(MAX_CACHED),
            // A signature is valid from one window before `created` to one window after it.
            seen: Index::keeping("auth:seen", SEEN_BUCKET_MS, 2 * window_ms, SEEN_SHARDS),
            settings,
        })
    }

    /// The settings `[auth]` in force.
    pub fn settings(&self) -> &AuthSettings {
        &self.settings
    }

    /// Sets the key set that came with the policy. A newer one from the store replaces it.
    pub fn set_keys(&mut self, issuer: &str, jwks: &str) -> Result<(), String> {
        self.issuers.set_keys(issuer, jwks)
    }

    fn ages(&self) -> Ages {
        Ages {
            fresh_ms: self.settings.revocation_ms,
            grace_ms: self.settings.store_failure_grace_ms,
        }
    }

    /// Decides which caller a request is from and whether it is allowed. The store holds keys, tenants and used
    /// signatures; it must be durable.
    pub async fn admit<K: Kv>(
        &mut self,
        kv: &K,
        shown: &Presented<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted, CheckRefusal> {
        let ignores = (self.settings.anonymous.as_ref())
            .is_some_and(|anonymous| anonymous.ignore_unrecognised_credentials);
        let recognised = match credential::find(shown.headers)? {
            Credential::Unrecognised(refusal) if !ignores => return Err(refusal),
            // If anonymous callers are refused, the answer names the fault of the presented value.
            Credential::Unrecognised(refusal) => match shown.certificate {
                Some(certificate) => self.by_certificate(certificate)?,
                None => self.by_nothing(shown).map_err(|_| refusal)?,
            },
            Credential::ApiKey(api_key) => self.by_api_key(kv, api_key, now_ms).await?,
            Credential::Token(token) => self.by_token(kv, token, shown.address, now_ms).await?,
            Credential::Signature => self.by_signature(kv, shown, now_ms, random).await?,
            Credential::Nothing => match shown.certificate {
                Some(certificate) => self.by_certificate(certificate)?,
                None => self.by_nothing(shown)?,
            },
        };
        let state = match recognised.credential {
            CredentialKind::None => TenantState::Open,
            _ => self.tenant(kv, &recognised.tenant, now_ms).await?,
        };
        let tier = self.settings.tiers.get(&recognised.tier);
        let caller = Caller {
            anonymous: recognised.credential == CredentialKind::None,
            scopes: recognised.granted.text.clone(),
            address: shown.address.map(str::to_owned),
            tenant: recognised.tenant,
            api_key_id: recognised.api_key_id,
            subject: recognised.subject,
            tier: recognised.tier,
        };
        let refused = match state {
            TenantState::Disabled => Some(CheckRefusal::new(
                RefusalKind::TenantDisabled,
                format!("the tenant `{}` is disabled", caller.tenant),
            )),
            TenantState::Absent if recognised.registered => {
                Some(CheckRefusal::new(RefusalKind::Invalid, NOT_VALID))
            }
            _ if shown
                .model
                .is_some_and(|model| !self.settings.sees(&caller.tenant, model))
                && (!caller.anonymous
                    || scopes::allow(&recognised.granted.scopes, shown.route, shown.model)) =>
            {
                Some(CheckRefusal::new(RefusalKind::Hidden, String::new()))
            }
            _ if tier.is_none() && caller.tier != ANONYMOUS => Some(CheckRefusal::new(
                RefusalKind::Denied,
                format!(
                    "the tier `{}` of these credentials is not one of this server's; the operator defines it under \
                     [auth.tiers] or rotates the key",
                    caller.tier
                ),
            )),
            _ => may(&caller, tier, &recognised.granted.scopes, shown),
        };
        match refused {
            Some(refusal) => Err(CheckRefusal {
                caller: Some(Box::new(caller)),
                ..refusal
            }),
            None => Ok(Admitted {
                priority: tier.and_then(|tier| tier.priority),
                credential: recognised.credential,
                caller,
            }),
        }
    }

    /// The models of a list that a caller may see: those that its tenant may use and that one of its scopes names.
    pub fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
        let (own, most) = self.scopes_of(caller);
        let about = |model: &String| {
            let some = |list: &[Scope]| {
                let mut kinds = RouteKind::ALL.into_iter();
                kinds.any(|kind| scopes::allow(list, kind.as_str(), Some(model)))
            };
            some(&own) && most.is_none_or(some)
        };
        let known = |model: &String| self.settings.sees(&caller.tenant, model) && about(model);
        models.iter().map(known).collect()
    }

    /// The scopes of a caller, and those of its tier that bound them, if it has any.
    fn scopes_of(&self, caller: &Caller) -> (Vec<Scope>, Option<&[Scope]>) {
        let scopes = caller.scopes.iter();
        let own = scopes.filter_map(|text| Scope::try_from(text.clone()).ok());
        let tier = self.settings.tiers.get(&caller.tier);
        let most = tier.and_then(|tier| tier.scopes.as_deref());
        (own.collect(), most)
    }

    /// Returns whether a caller that was admitted before may make a call: its tenant may see the model, and its scopes and those of
    /// its tier allow the call.
    pub fn allows(&self, caller: &Caller, route: &str, model: Option<&str>) -> bool {
        let (own, most) = self.scopes_of(caller);
        let some = |list: &[Scope]| scopes::allow(list, route, model);
        model.is_none_or(|model| self.settings.sees(&caller.tenant, model))
            && some(&own)
            && most.is_none_or(some)
    }

    fn by_nothing(&self, shown: &Presented<'_>) -> Result<Recognised, CheckRefusal> {
        let Some(anonymous) = &self.settings.anonymous else {
            return refuse(
                RefusalKind::Missing,
                "this call needs credentials; send an API key or a token as `Authorization: Bearer …`",
            );
        };
        let is_loopback = |address: &str| {
            let parsed = address.parse::<IpAddr>().map(|ip| ip.to_canonical());
            parsed.is_ok_and(|ip| ip.is_loopback())
        };
        let local = !self.public && !shown.forwarded && shown.address.is_some_and(is_loopback);
        if anonymous.from == From::Loopback && !local {
            return refuse(
                RefusalKind::Missing,
                "this call needs credentials; without them, only callers on this machine are accepted, and only \
                 while no other machine can reach the server",
            );
        }
        Ok(Recognised {
            tenant: ANONYMOUS.to_owned(),
            api_key_id: None,
            subject: None,
            tier: anonymous.tier.clone(),
            granted: self.anonymous.clone(),
            credential: CredentialKind::None,
            registered: false,
        })
    }

    fn by_certificate(&self, shown: CertificateShown<'_>) -> Result<Recognised, CheckRefusal> {
        let mut known = self.settings.certificates.iter().zip(&self.certificates);
        let stands_for = known.find(|(known, _)| {
            let named = known
                .name
                .as_ref()
                .is_some_and(|name| shown.names.contains(name));
            named || known.sha256.as_deref() == Some(shown.sha256)
        });
        let Some((known, granted)) = stands_for else {
            return refuse(
                RefusalKind::Invalid,
                "the client certificate belongs to no caller; the operator adds it under [[auth.certificates]]",
            );
        };
        Ok(Recognised {
            tenant: known.tenant.clone(),
            api_key_id: None,
            subject: Some(match &known.name {
                Some(name) => name.clone(),
                None => format!("sha256:{}", shown.sha256),
            }),
            tier: known.tier.clone(),
            granted: granted.clone(),
            credential: CredentialKind::Certificate,
            registered: false,
        })
    }

    fn pepper(&self) -> Result<&Pepper, CheckRefusal> {
        self.pepper.as_ref().ok_or_else(|| {
            CheckRefusal::new(
                RefusalKind::StoreFailed,
                "API keys cannot be checked: the server has no pepper; the operator sets the variable `pepper`",
            )
        })
    }

    async fn by_api_key<K: Kv>(
        &mut self,
        kv: &K,
        shown: ApiKey<'_>,
        now_ms: u64,
    ) -> Result<Recognised, CheckRefusal> {
        if !self.settings.api_keys.enabled {
            return refuse(RefusalKind::Invalid, "this server does not accept API keys");
        }
        let digest = self.pepper()?.digest(shown.text);
        let (known, confirmed) = self.key(kv, shown.id, now_ms).await?;
        let kept = known.as_ref().map_or([0; 32], |known| known.digest);
        let same = bool::from(kept.ct_eq(&digest));
        if !same && !confirmed {
            // The same answer as for an unknown id; otherwise an outage would reveal which ids exist.
            return Err(store_failed("the credentials"));
        }
        let Some(known) = known.filter(|_| same) else {
            return refuse(RefusalKind::Invalid, NOT_VALID);
        };
        self.still_good(&known, now_ms)?;
        self.note_use(kv, shown.id, now_ms).await;
        Ok(of_key(&known, CredentialKind::ApiKey))
    }

    /// Checks that a known key may be used now.
    fn still_good(&self, known: &KnownKey, now_ms: u64) -> Result<(), CheckRefusal> {
        if known.revoked {
            return refuse(RefusalKind::Revoked, "the API key was revoked");
        }
        if known
            .record
            .expires_ms
            .is_some_and(|expires_ms| now_ms >= expires_ms)
        {
            return refuse(RefusalKind::Expired, "the API key has expired");
        }
        Ok(())
    }

    /// The record of a key, and whether the store confirmed it.
    async fn key<K: Kv>(
        &mut self,
        kv: &K,
        id: &str,
        now_ms: u64,
    ) -> Result<(Option<Rc<KnownKey>>, bool), CheckRefusal> {
        let ages = self.ages();
        if let Some(known) = self.keys.fresh(id, ages, now_ms) {
            return Ok((Some(known.clone()), true));
        }
        if self.absent.fresh(id, ages, now_ms).is_some() {
            return Ok((None, true));
        }
        match read_key(kv, id).await {
            Ok(Some(known)) => {
                self.absent.forget(id);
                let known = self.keys.put(id, Rc::new(known), now_ms).clone();
                Ok((Some(known), true))
            }
            Ok(None) => {
                self.keys.forget(id);
                self.absent.put(id, (), now_ms);
                Ok((None, true))
            }
            Err(_) => match self.keys.in_grace(id, ages, now_ms) {
                Some(known) => Ok((Some(known.clone()), false)),
                // Do not answer from the cache of unknown ids: the key may have been created in the meantime.
                None => Err(store_failed("the credentials")),
            },
        }
    }

    async fn tenant<K: Kv>(
        &mut self,
        kv: &K,
        tenant: &str,
        now_ms: u64,
    ) -> Result<TenantState, CheckRefusal> {
        let ages = self.ages();
        if let Some(state) = self.tenants.fresh(tenant, ages, now_ms) {
            return Ok(*state);
        }
        let read = match kv.get(&record::tenant_name(tenant)).await {
            Ok(None) => Ok(TenantState::Absent),
            Ok(Some(bytes)) => record::decode::<TenantRecord>(&bytes)
                .map(|record| match record.disabled_ms {
                    Some(_) => TenantState::Disabled,
                    None => TenantState::Open,
                })
                .map_err(KvError::new),
            Err(error) => Err(error),
        };
        match read {
            Ok(state) => Ok(*self.tenants.put(tenant, state, now_ms)),
            Err(_) => match self.tenants.in_grace(tenant, ages, now_ms) {
                Some(state) => Ok(*state),
                None => Err(store_failed("the tenant")),
            },
        }
    }

    /// Writes the last use of a key from time to time. A failure is no reason to refuse a call.
    async fn note_use<K: Kv>(&mut self, kv: &K, id: &str, now_ms: u64) {
        let ages = Ages {
            fresh_ms: USED_EVERY_MS,
            grace_ms: 0,
        };
        if self.used.fresh(id, ages, now_ms).is_some() {
            return;
        }
        self.used.put(id, (), now_ms);
        let _ = kv
            .set(&record::used_name(id), now_ms.to_string().as_bytes())
            .await;
    }

    async fn by_token<K: Kv>(
        &mut self,
        kv: &K,
        token: &str,
        address: Option<&str>,
        now_ms: u64,
    ) -> Result<Recognised, CheckRefusal> {
        if self.settings.issuers.is_empty() {
            return refuse(
                RefusalKind::Invalid,
                "this server does not accept tokens; send an API key",
            );
        }
        let name = blake3::hash(token.as_bytes()).to_hex();
        // A cached token is valid only with the key set that verified it; `refresh_keys` clears the cache.
        let ages = Ages {
            fresh_ms: TOKEN_TRUST_MS,
            grace_ms: 0,
        };
        let old = |state: &KeySetState| {
            age_ms(state.looked_ms, now_ms).is_none_or(|age_ms| age_ms >= KEY_SET_EVERY_MS)
        };
        if self.key_sets.iter().any(old)
            && let Some(issuer) = self.issuers.issuer_of(token).map(str::to_owned)
        {
            self.refresh_keys(kv, &issuer, KEY_SET_EVERY_MS, now_ms)
                .await?;
        }
        if let Some(known) = self.tokens.fresh(&name, ages, now_ms)
            && now_ms < known.verified.expires_ms
        {
            return Ok(of_token(known));
        }
        let from = network(address.unwrap_or_default());
        let lately = Ages {
            fresh_ms: FAILURES_MS,
            grace_ms: 0,
        };
        let failed = self
            .failures
            .fresh(&from, lately, now_ms)
            .map_or(0, Cell::get);
        if failed >= MAX_FAILURES {
            return Err(CheckRefusal {
                retry_after_s: Some((FAILURES_MS / 1_000) as u32),
                ..CheckRefusal::new(
                    RefusalKind::Throttled,
                    format!(
                        "{MAX_FAILURES} tokens from your address failed verification; check your token before you \
                         send it again"
                    ),
                )
            });
        }
        let mut verified = self.issuers.verify(token, now_ms);
        if let Err(refusal) = &verified
            && let TokenFault::UnknownKey { issuer } | TokenFault::NoKeys { issuer } =
                &refusal.fault
        {
            let issuer = issuer.clone();
            if self
                .refresh_keys(kv, &issuer, KEY_SET_LEAST_MS, now_ms)
                .await?
            {
                verified = self.issuers.verify(token, now_ms);
            }
            if let Err(refusal) = &verified
                && let TokenFault::UnknownKey { .. } | TokenFault::NoKeys { .. } = &refusal.fault
            {
                self.ask_for_keys(kv, &issuer, now_ms).await;
            }
        }
        match verified {
            Ok(verified) => {
                let granted = Granted::new(&verified.scopes);
                let known = Rc::new(KnownToken { verified, granted });
                Ok(of_token(self.tokens.put(&name, known, now_ms)))
            }
            Err(refusal) => {
                if refusal.fault == TokenFault::Invalid {
                    match self.failures.fresh(&from, lately, now_ms) {
                        Some(count) => count.set(count.get() + 1),
                        None => {
                            self.failures.put(&from, Cell::new(1), now_ms);
                        }
                    }
                }
                Err(of_token_fault(&refusal.fault, refusal.message))
            }
        }
    }

    /// Reads an issuer's key set, unless it was read within `every_ms`. Returns whether there was a newer one.
    async fn refresh_keys<K: Kv>(
        &mut self,
        kv: &K,
        issuer: &str,
        every_ms: u64,
        now_ms: u64,
    ) -> Result<bool, CheckRefusal> {
        let Some(state) = self
            .key_sets
            .iter_mut()
            .find(|state| state.issuer == issuer)
        else {
            return Ok(false);
        };
        let age_ms = age_ms(state.looked_ms, now_ms);
        if age_ms.is_some_and(|age_ms| age_ms < every_ms) {
            return Ok(false);
        }
        let read = match kv.get(&record::key_set_name(issuer)).await {
            Ok(read) => read,
            // Public keys change rarely, so the known set stays in use.
            Err(_)
                if age_ms.is_some_and(|age_ms| age_ms < self.settings.store_failure_grace_ms) =>
            {
                return Ok(false);
            }
            Err(_) => return Err(store_failed("the issuer's keys")),
        };
        state.looked_ms = Some(now_ms);
        if read.is_none() || read == state.read {
            return Ok(false);
        }
        let set: Result<KeySet, String> = record::decode(read.as_deref().unwrap_or_default());
        state.read = read;
        let taken = set.and_then(|set| self.issuers.set_keys(issuer, &set.jwks));
        // The server that wrote the set also refused it, or another version of it wrote it. The old set stays in use.
        if taken.is_ok() {
            self.tokens = Cache::new(MAX_CACHED_TOKENS);
        }
        Ok(taken.is_ok())
    }

    /// Requests a new fetch of an issuer's keys, if they are fetched from a URL.
    async fn ask_for_keys<K: Kv>(&mut self, kv: &K, issuer: &str, now_ms: u64) {
        let mut issuers = self.settings.issuers.iter();
        if !issuers.any(|known| known.name == issuer && known.jwks_url.is_some()) {
            return;
        }
        let Some(state) = self
            .key_sets
            .iter_mut()
            .find(|state| state.issuer == issuer)
        else {
            return;
        };
        if age_ms(state.asked_ms, now_ms).is_none_or(|age_ms| age_ms >= KEY_SET_LEAST_MS) {
            state.asked_ms = Some(now_ms);
            let _ = kv.increment(&record::key_set_asked_name(issuer), 1).await;
        }
    }

    async fn by_signature<K: Kv>(
        &mut self,
        kv: &K,
        shown: &Presented<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Recognised, CheckRefusal> {
        let signatures = self.settings.signatures.as_ref();
        let taken = signatures.filter(|_| self.settings.api_keys.enabled);
        let Some(window_s) = taken.map(|signatures| signatures.window_s) else {
            return refuse(
                RefusalKind::Invalid,
                "this server does not accept signed requests; the operator turns them on with [auth.signatures]",
            );
        };
        let signed =
            signature::parse(shown.method, shown.target, shown.headers).map_err(of_signature)?;
        let Some(body_sha256) = shown.body_sha256 else {
            return refuse(
                RefusalKind::Malformed,
                "the body of a signed request was not read",
            );
        };
        let id = signed.api_key_id.clone();
        let secret = self.pepper()?.signing_secret(&id);
        let (known, confirmed) = self.key(kv, &id, now_ms).await?;
        // Done before the lookup, so that the time does not reveal whether the key exists.
        let checked = signature::verify(&signed, &secret, &body_sha256, window_s, now_ms);
        if checked.is_err() && !confirmed {
            return Err(store_failed("the credentials"));
        }
        let Some(known) = known.filter(|known| known.record.signs) else {
            return refuse(RefusalKind::Invalid, NOT_VALID);
        };
        checked.map_err(of_signature)?;
        self.still_good(&known, now_ms)?;
        let name = format!("auth:seen:{}", signature::replay_name(&signed));
        let remembered = async {
            if kv.exists(&name).await? {
                return Ok::<bool, KvError>(false);
            }
            let bucket = self.seen.bucket(now_ms);
            let place = (self
                .seen
                .place(kv, bucket, now_ms, random, &mut DeleteNamed))
            .await?;
            kv.set(&place, name.as_bytes()).await?;
            Ok(kv.increment(&name, 1).await? == 1)
        };
        match remembered.await {
            Ok(true) => {}
            Ok(false) => {
                return refuse(
                    RefusalKind::Replayed,
                    "this signed request was sent before; sign each request with a new nonce",
                );
            }
            Err(_) => return Err(store_failed("whether the request was sent before")),
        }
        self.note_use(kv, &id, now_ms).await;
        Ok(of_key(&known, CredentialKind::Signature))
    }
}

/// The reason why a caller may not make this request; `None` if it may.
fn may(
    caller: &Caller,
    tier: Option<&Tier>,
    scopes: &[Scope],
    shown: &Presented<'_>,
) -> Option<CheckRefusal> {
    let Presented { route, model, .. } = *shown;
    let most = tier.and_then(|tier| tier.scopes.as_deref());
    let (kind, whose) = if !scopes::allow(scopes, route, model) {
        if caller.anonymous {
            (RefusalKind::Missing, "callers without credentials have")
        } else {
            (RefusalKind::Denied, "these credentials have")
        }
    } else if most.is_some_and(|most| !scopes::allow(most, route, model)) {
        (RefusalKind::Denied, "their tier has")
    } else {
        return None;
    };
    let wanted = match model {
        Some(model) => format!("{route}:{}", plain(model)),
        None => route.to_owned(),
    };
    Some(CheckRefusal {
        scope: Some(wanted.clone()),
        ..CheckRefusal::new(
            kind,
            format!("{whose} no scope for this; `{wanted}` is needed"),
        )
    })
}

fn of_key(known: &KnownKey, credential: CredentialKind) -> Recognised {
    let record = &known.record;
    Recognised {
        tenant: record.tenant.clone(),
        api_key_id: Some(record.id.clone()),
        subject: None,
        tier: record.tier.clone(),
        granted: known.granted.clone(),
        credential,
        registered: true,
    }
}

/// Returns the refusal of a token.
fn of_token_fault(fault: &TokenFault, message: String) -> CheckRefusal {
    let kind = match fault {
        TokenFault::Malformed => RefusalKind::Unreadable,
        TokenFault::Invalid | TokenFault::UnknownKey { .. } => RefusalKind::Invalid,
        TokenFault::Expired => RefusalKind::Expired,
        TokenFault::NoKeys { .. } => RefusalKind::StoreFailed,
        TokenFault::Denied => RefusalKind::Denied,
    };
    let waits = matches!(
        fault,
        TokenFault::UnknownKey { .. } | TokenFault::NoKeys { .. }
    );
    CheckRefusal {
        retry_after_s: waits.then_some(RETRY_KEY_SET_S),
        ..CheckRefusal::new(kind, message)
    }
}

fn of_token(known: &KnownToken) -> Recognised {
    let verified = &known.verified;
    Recognised {
        tenant: verified.tenant.clone(),
        api_key_id: None,
        subject: verified.subject.clone(),
        tier: verified.tier.clone(),
        granted: known.granted.clone(),
        credential: CredentialKind::Token,
        registered: false,
    }
}

fn of_signature(refusal: SignatureRefusal) -> CheckRefusal {
    let kind = match refusal.fault {
        SignatureFault::Malformed => RefusalKind::Malformed,
        SignatureFault::Invalid => RefusalKind::Invalid,
        SignatureFault::Expired => RefusalKind::Expired,
    };
    CheckRefusal::new(kind, refusal.message)
}

/// Reads the entries of a key. It reads the same entries whether or not the key exists.
async fn read_key<K: Kv>(kv: &K, id: &str) -> Result<Option<KnownKey>, KvError> {
    let bytes = kv.get(&record::key_name(id)).await?;
    let revoked = kv.get(&record::revoked_name(id)).await?.is_some();
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let record: KeyRecord = record::decode(&bytes).map_err(KvError::new)?;
    let digest = api_key::unhex(&record.digest)
        .ok_or_else(|| KvError::new("a record in the store has no digest"))?;
    Ok(Some(KnownKey {
        granted: Granted::new(&record.scopes),
        record,
        digest,
        revoked,
    }))
}

/// A model's name with the characters that a header may contain.
fn plain(name: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    name.chars()
        .filter(fits)
        .take(scopes::MAX_SHOWN_CHARS)
        .collect()
}
