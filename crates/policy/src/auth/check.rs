//! Decides who calls and whether they may: credential, key or token or signature or certificate, tenant, tier, model,
//! scope, in this order. What was shown is always checked: a wrong credential is refused where none would do.
//!
//! Whether an id exists cannot be told from an answer or from its time: both are looked up alike, the digest is made of
//! what was shown before anything is known, and it is compared in constant time with what is kept or with a stand-in.
//!
//! What was read of a key or tenant is trusted for `revocation_ms`, so that a revocation takes effect everywhere within
//! that time; where the store does not answer, for `store_failure_grace_ms`, and then the door is closed.

use super::api_key::{self, ApiKey, Pepper};
use super::cache::{Ages, Cache};
use super::credential::{self, Credential};
use super::record::{self, KeyRecord, KeySet, TenantRecord};
use super::scopes::{self, Scope};
use super::settings::{AuthSettings, From, Tier};
use super::token::{Fault, Issuers, Verified};
use super::words::{Admitted, CertificateShown, CredentialKind, Presented, RefusalKind};
use super::{Refusal, signature};
use crate::quota::subject::network;
use crate::sweep::{DeleteNamed, Index};
use penstock_core::caller::ANONYMOUS;
use penstock_core::{Caller, Kv, KvError, RouteKind};
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use subtle::ConstantTimeEq;

/// Keys and tenants an instance remembers. Each is a few hundred bytes.
const MAX_CACHED: usize = 1_024;
/// Ids nobody has that an instance remembers, apart from those somebody has: a flood of them pushes out only its like.
const MAX_CACHED_ABSENT: usize = 1_024;
/// Tokens an instance remembers as good, so that a signature is checked once for many calls.
const MAX_CACHED_TOKENS: usize = 256;
/// For how long an instance trusts what it found of a token, which ends earlier with the token or the issuer's keys.
const TOKEN_TRUST_MS: u64 = 60_000;
/// Tokens of one address that may fail their check within [`FAILURES_MS`], in one instance: checking a signature takes
/// milliseconds in WebAssembly, and whoever sends them needs no key for it. One who mistypes sends fewer.
const MAX_FAILURES: u32 = 10;
const FAILURES_MS: u64 = 10_000;
/// How often it is noted that a key was used. Each note is a write.
const USED_EVERY_MS: u64 = 60_000;
/// How often an instance looks for a newer key set; an unknown key makes it look at once.
const KEY_SET_EVERY_MS: u64 = 5_000;
/// The least time between two looks for a newer key set, and between two requests to fetch one.
const KEY_SET_LEAST_MS: u64 = 1_000;
/// Seconds a caller is told to wait whose token names a key that is being fetched.
const RETRY_KEY_SET_S: u32 = 2;
/// Seconds a caller is told to wait for the store.
const RETRY_STORE_S: u32 = 2;
/// The width of the buckets in which seen signatures are remembered.
const SEEN_BUCKET_MS: u64 = 60_000;
const SEEN_SHARDS: u32 = 4;
/// What is said of all credentials nobody has, whichever part of them is wrong.
const NOT_VALID: &str = "these credentials are not valid";

/// Secrets, by the names of their variables.
pub struct Secrets {
    /// The pepper, where there is one.
    pub pepper: Option<Pepper>,
    /// Secrets that issuers share with us.
    pub shared: Vec<(String, String)>,
}

/// The policy, and what one instance remembers.
#[derive(Debug)]
pub struct Authenticator {
    settings: AuthSettings,
    pepper: Option<Pepper>,
    issuers: Issuers,
    key_sets: Vec<KeySetState>,
    public: bool,
    /// What callers who show nothing may do.
    anonymous: Rc<Granted>,
    /// What each of the settings' certificates allows, in their order.
    certificates: Vec<Rc<Granted>>,
    keys: Cache<Rc<KnownKey>>,
    absent: Cache<()>,
    tenants: Cache<TenantState>,
    tokens: Cache<Rc<KnownToken>>,
    used: Cache<()>,
    /// How many tokens of an address failed their check; an entry lasts [`FAILURES_MS`] from the first.
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
    /// The record as it was last read.
    read: Option<Vec<u8>>,
    looked_ms: Option<u64>,
    asked_ms: Option<u64>,
}

/// A caller, before it is known whether it may.
struct Recognised {
    tenant: String,
    api_key_id: Option<String>,
    subject: Option<String>,
    tier: String,
    granted: Rc<Granted>,
    credential: CredentialKind,
    /// Whether the tenant must be one that was made here.
    registered: bool,
}

/// What a credential allows, also as the caller is told to other policies. Made when the credential is read, and not for
/// each call that shows it.
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

/// How long ago something was, unless never or, by a clock that went back, not yet.
fn age_ms(since_ms: Option<u64>, now_ms: u64) -> Option<u64> {
    now_ms.checked_sub(since_ms?)
}

fn refuse<T>(kind: RefusalKind, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(kind, message))
}

/// What a store says of itself is not for callers.
fn store_failed(what: &str) -> Refusal {
    let message = format!("{what} cannot be looked up now");
    Refusal {
        retry_after_s: Some(RETRY_STORE_S),
        ..Refusal::new(RefusalKind::StoreFailed, message)
    }
}

impl Authenticator {
    /// A policy over its settings, which have no faults, and secrets; `public` says that others than this machine reach
    /// the listener. The error is a sentence for the operator.
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
            // A signature is good from a window before `created` to one after it.
            seen: Index::keeping("auth:seen", SEEN_BUCKET_MS, 2 * window_ms, SEEN_SHARDS),
            settings,
        })
    }

    /// The settings.
    pub fn settings(&self) -> &AuthSettings {
        &self.settings
    }

    /// Uses a key set that came with the policy, until the store has a newer one.
    pub fn set_keys(&mut self, issuer: &str, jwks: &str) -> Result<(), String> {
        self.issuers.set_keys(issuer, jwks)
    }

    fn ages(&self) -> Ages {
        Ages {
            fresh_ms: self.settings.revocation_ms,
            grace_ms: self.settings.store_failure_grace_ms,
        }
    }

    /// Decides who calls and whether they may. The store holds keys, tenants and the signatures that were seen, and must be
    /// a durable one.
    pub async fn admit<K: Kv>(
        &mut self,
        kv: &K,
        shown: &Presented<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted, Refusal> {
        let ignores = (self.settings.anonymous.as_ref())
            .is_some_and(|anonymous| anonymous.ignore_unrecognised_credentials);
        let recognised = match credential::find(shown.headers)? {
            Credential::Unrecognised(refusal) if !ignores => return Err(refusal),
            // Where nothing is not enough, the caller is told what is wrong with what it showed.
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
            TenantState::Disabled => Some(Refusal::new(
                RefusalKind::TenantDisabled,
                format!("the tenant `{}` is disabled", caller.tenant),
            )),
            TenantState::Absent if recognised.registered => {
                Some(Refusal::new(RefusalKind::Invalid, NOT_VALID))
            }
            _ if shown
                .model
                .is_some_and(|model| !self.settings.sees(&caller.tenant, model))
                && (!caller.anonymous
                    || scopes::allow(&recognised.granted.scopes, shown.route, shown.model)) =>
            {
                Some(Refusal::new(RefusalKind::Hidden, String::new()))
            }
            _ if tier.is_none() && caller.tier != ANONYMOUS => Some(Refusal::new(
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
            Some(refusal) => Err(Refusal {
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

    /// Which of some models a caller may know of: those of its tenant that some scope of it is about.
    pub fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
        let parsed = caller
            .scopes
            .iter()
            .filter_map(|text| Scope::try_from(text.clone()).ok());
        let own: Vec<Scope> = parsed.collect();
        let tier = self.settings.tiers.get(&caller.tier);
        let most = tier.and_then(|tier| tier.scopes.as_deref());
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

    fn by_nothing(&self, shown: &Presented<'_>) -> Result<Recognised, Refusal> {
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

    fn by_certificate(&self, shown: CertificateShown<'_>) -> Result<Recognised, Refusal> {
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

    fn pepper(&self) -> Result<&Pepper, Refusal> {
        self.pepper.as_ref().ok_or_else(|| {
            Refusal::new(
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
    ) -> Result<Recognised, Refusal> {
        if !self.settings.api_keys.enabled {
            return refuse(RefusalKind::Invalid, "this server does not accept API keys");
        }
        let digest = self.pepper()?.digest(shown.text);
        let (known, confirmed) = self.key(kv, shown.id, now_ms).await?;
        let kept = known.as_ref().map_or([0; 32], |known| known.digest);
        let same = bool::from(kept.ct_eq(&digest));
        if !same && !confirmed {
            // As for an id that was never seen, or an outage would tell which there are.
            return Err(store_failed("the credentials"));
        }
        let Some(known) = known.filter(|_| same) else {
            return refuse(RefusalKind::Invalid, NOT_VALID);
        };
        self.still_good(&known, now_ms)?;
        self.note_use(kv, shown.id, now_ms).await;
        Ok(of_key(&known, CredentialKind::ApiKey))
    }

    /// Whether a key that is known may be used now.
    fn still_good(&self, known: &KnownKey, now_ms: u64) -> Result<(), Refusal> {
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

    /// What is kept of a key, and whether the store confirms it.
    async fn key<K: Kv>(
        &mut self,
        kv: &K,
        id: &str,
        now_ms: u64,
    ) -> Result<(Option<Rc<KnownKey>>, bool), Refusal> {
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
                // Not from the memory of ids nobody has: one may have been made meanwhile.
                None => Err(store_failed("the credentials")),
            },
        }
    }

    async fn tenant<K: Kv>(
        &mut self,
        kv: &K,
        tenant: &str,
        now_ms: u64,
    ) -> Result<TenantState, Refusal> {
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

    /// Notes that a key was used, now and then. That it cannot be noted is nothing to refuse a call for.
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
    ) -> Result<Recognised, Refusal> {
        if self.settings.issuers.is_empty() {
            return refuse(
                RefusalKind::Invalid,
                "this server does not accept tokens; send an API key",
            );
        }
        let name = blake3::hash(token.as_bytes()).to_hex();
        // The memory of a good token ends with the set of keys it was checked with: `refresh_keys` clears it.
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
            return Err(Refusal {
                retry_after_s: Some((FAILURES_MS / 1_000) as u32),
                ..Refusal::new(
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
            && let Fault::UnknownKey { issuer } | Fault::NoKeys { issuer } = &refusal.fault
        {
            let issuer = issuer.clone();
            if self
                .refresh_keys(kv, &issuer, KEY_SET_LEAST_MS, now_ms)
                .await?
            {
                verified = self.issuers.verify(token, now_ms);
            }
            if let Err(refusal) = &verified
                && let Fault::UnknownKey { .. } | Fault::NoKeys { .. } = &refusal.fault
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
                if refusal.fault == Fault::Invalid {
                    match self.failures.fresh(&from, lately, now_ms) {
                        Some(count) => count.set(count.get() + 1),
                        None => {
                            self.failures.put(&from, Cell::new(1), now_ms);
                        }
                    }
                }
                let kind = match refusal.fault {
                    Fault::Malformed => RefusalKind::Unreadable,
                    Fault::Invalid | Fault::UnknownKey { .. } => RefusalKind::Invalid,
                    Fault::Expired => RefusalKind::Expired,
                    Fault::NoKeys { .. } => RefusalKind::StoreFailed,
                    Fault::Denied => RefusalKind::Denied,
                };
                let waits = matches!(
                    refusal.fault,
                    Fault::UnknownKey { .. } | Fault::NoKeys { .. }
                );
                Err(Refusal {
                    retry_after_s: waits.then_some(RETRY_KEY_SET_S),
                    ..Refusal::new(kind, refusal.message)
                })
            }
        }
    }

    /// Looks for a newer set of an issuer's keys, unless that was done within `every_ms`; whether there was one.
    async fn refresh_keys<K: Kv>(
        &mut self,
        kv: &K,
        issuer: &str,
        every_ms: u64,
        now_ms: u64,
    ) -> Result<bool, Refusal> {
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
            // Public keys change rarely; what is known of them serves on for the time that keys do.
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
        // What cannot be read was refused by who wrote it, or is another version's; the old one stays.
        if taken.is_ok() {
            self.tokens = Cache::new(MAX_CACHED_TOKENS);
        }
        Ok(taken.is_ok())
    }

    /// Asks for an issuer's keys to be fetched anew, where that is how they come.
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
    ) -> Result<Recognised, Refusal> {
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
        // Before it is known whether there is such a key, so that the time does not tell.
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

/// Whether a caller may do what it asks: why not.
fn may(
    caller: &Caller,
    tier: Option<&Tier>,
    scopes: &[Scope],
    shown: &Presented<'_>,
) -> Option<Refusal> {
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
    Some(Refusal {
        scope: Some(wanted.clone()),
        ..Refusal::new(
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

fn of_signature(refusal: signature::Refusal) -> Refusal {
    let kind = match refusal.fault {
        signature::Fault::Malformed => RefusalKind::Malformed,
        signature::Fault::Invalid => RefusalKind::Invalid,
        signature::Fault::Expired => RefusalKind::Expired,
    };
    Refusal::new(kind, refusal.message)
}

/// Reads what is kept of a key. Whether there is a record or not, the same is read.
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

/// A model's name as a header may repeat it.
fn plain(name: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    name.chars()
        .filter(fits)
        .take(scopes::MAX_SCOPE_BYTES)
        .collect()
}
