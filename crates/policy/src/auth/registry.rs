//! Decides how keys and tenants are made, listed, rotated and taken back, over a store of which nothing is assumed but
//! that `increment` is atomic.
//!
//! | entry | what it is |
//! |---|---|
//! | `auth:index:tenants` | counter: places handed out to tenants |
//! | `auth:index:tenants:<n>` | the tenant at a place |
//! | `auth:index:tenant:<tenant>` | the place of a tenant that is being made |
//! | `auth:index:keys` | counter: slots handed out to keys of all tenants |
//! | `auth:index:keys:<tenant>` | counter: slots handed out to keys of a tenant |
//! | `auth:index:keys:<tenant>:<n>` | [`Slot`]: the key at a slot |
//! | `auth:index:keys:<tenant>:<n>:reused` | counter: how often a slot was taken over |
//! | `auth:claim:<what>:<window>` | counter: who raised it to 1 may make the tenant, or rotate the key |
//!
//! **No usable key without a list that shows it.** The entry that lists a key is written before its record, so whoever
//! dies between them leaves a place with nothing there, which lists skip. A key whose making failed was told to nobody.
//!
//! **What was taken back stays so.** Taking back is an entry of its own, [`revoked_name`], that is only ever set. Records
//! are written by who makes the key and by who rotates it, and who rotates has claimed that: no two write the same
//! record.
//!
//! **Claims** are for a window of a minute, and none is granted while there is one of the window before; so one who died
//! blocks nobody for longer than two minutes, and who takes longer than a minute is stopped by their own deadline.
//!
//! **Slots are used again**, [`RETENTION_MS`] after their key came to its end, and only when the tenant has none left: the
//! claim is to raise the slot's counter to the generation that follows the one in its entry. The record of the key that
//! ended goes then; that it was taken back stands until the slot's next change, so whoever read the record just
//! before it went finds that, in whichever order they read.

use super::api_key::{self, Pepper};
use super::record::{
    KeyRecord, TenantRecord, VERSION, decode, encode, key_name, revoked_name, tenant_name,
    used_name,
};
use super::scopes::{MAX_SCOPES, Scope};
use super::settings::{NAME_RULE, is_name};
use penstock_core::caller::ANONYMOUS;
use penstock_core::violation::Violation;
use penstock_core::{Kv, KvError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most keys of all tenants: what a store in one file lists without effort.
pub const MAX_KEYS: u64 = 100_000;
/// The most keys of one tenant: all are looked through when one must make way.
pub const MAX_KEYS_PER_TENANT: u64 = 1_000;
/// The most tenants.
pub const MAX_TENANTS: u64 = 10_000;
/// The longest name of a key or description of a tenant: a line, for people.
pub const MAX_TEXT_BYTES: usize = 128;
/// The longest time that a rotated key and its successor are good beside each other.
pub const MAX_OVERLAP_MS: u64 = 30 * DAY_MS;
/// How long a key is listed after its end before another may have its slot: longer than any checker remembers it, and
/// long enough to ask what became of it.
pub const RETENTION_MS: u64 = 30 * DAY_MS;
/// Places looked at for one page of a list. A page may have fewer entries, or none, and still a next one.
pub const PAGE_STEPS: u64 = 100;
/// How long one operation may take: who performs it gives up by then.
pub const MAX_OPERATION_MS: u64 = 30_000;
/// What a claim is for; more than twice [`MAX_OPERATION_MS`], as clocks differ.
const CLAIM_WINDOW_MS: u64 = 60_000;
/// The latest time that is taken: the year 9999, as in RFC 3339.
const MAX_TIME_MS: u64 = 253_402_300_799_999;

const DAY_MS: u64 = 86_400_000;

const TENANTS: &str = "auth:index:tenants";
const KEYS: &str = "auth:index:keys";

fn tenant_at(place: u64) -> String {
    format!("{TENANTS}:{place}")
}

fn place_name(tenant: &str) -> String {
    format!("auth:index:tenant:{tenant}")
}

fn slots_name(tenant: &str) -> String {
    format!("{KEYS}:{tenant}")
}

fn slot_name(tenant: &str, slot: u64) -> String {
    format!("{KEYS}:{tenant}:{slot}")
}

fn reused_name(tenant: &str, slot: u64) -> String {
    format!("{KEYS}:{tenant}:{slot}:reused")
}

fn claim_name(what: &str, window: u64) -> String {
    format!("auth:claim:{what}:{window}")
}

/// What lists find at a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// [`VERSION`].
    pub v: u32,
    /// The key's id.
    pub id: String,
    /// When the slot was given to it.
    pub since_ms: u64,
    /// How many keys had the slot before.
    #[serde(default)]
    pub generation: i64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// What was asked for cannot be: all that is wrong with it, with places in the request's body.
    Invalid(Vec<Violation>),
    /// There is no such tenant.
    NoSuchTenant(String),
    /// There is no such key.
    NoSuchKey(String),
    /// The tenant is there already.
    TenantExists(String),
    /// Somebody else is at it, or died at it.
    Busy {
        /// What is being done, as in "the tenant `a` is being made".
        doing: String,
        /// After how many seconds it can be tried again.
        retry_after_s: u32,
    },
    /// The key has come to its end, or has a successor: why it cannot be rotated.
    Ended(String),
    /// There is no room for another: which bound, and what to do.
    Full(String),
    /// The store failed. What was being done may or may not have been done.
    Store(String),
}

impl From<KvError> for Refused {
    fn from(error: KvError) -> Self {
        Self::Store(error.message)
    }
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Whose it is to be.
    pub tenant: String,
    /// What its callers may cost.
    pub tier: String,
    /// What its callers may do.
    pub scopes: Vec<Scope>,
    /// What it is for, for people.
    pub name: String,
    /// From when on it is no longer good; without it, never.
    pub expires_ms: Option<u64>,
    /// Whether requests may be signed in its name.
    pub signs: bool,
}

/// A tenant to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTenant {
    /// Its name.
    pub tenant: String,
    /// Who it is, for people.
    pub description: String,
}

/// A key that was made. Its secrets are told this once.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// The whole key.
    pub api_key: String,
    /// The secret that requests in its name are signed with, where they may be.
    pub signing_secret: Option<String>,
    /// What is kept of it.
    pub record: KeyRecord,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Made({:?})", self.record)
    }
}

/// A key as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What is kept of it.
    pub record: KeyRecord,
    /// When it was taken back.
    pub revoked_ms: Option<u64>,
    /// When it was last used, as far as that is known.
    pub last_used_ms: Option<u64>,
}

/// Whether a key is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl KeyState {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Shown {
    /// Whether it is good now, its tenant aside.
    pub fn state(&self, now_ms: u64) -> KeyState {
        match (self.revoked_ms, self.record.expires_ms) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(expires_ms)) if expires_ms <= now_ms => KeyState::Expired,
            _ => KeyState::Active,
        }
    }

    /// Since when it is no longer good, or until when it is.
    fn end_ms(&self) -> Option<u64> {
        match (self.revoked_ms, self.record.expires_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

/// Where a list goes on: a tenant's place and a slot, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageToken {
    tenant: u64,
    slot: u64,
}

impl PageToken {
    const START: Self = Self { tenant: 1, slot: 1 };

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, slot) = text.split_once('.')?;
        let number = |text: &str| {
            let plain = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|&n: &u64| plain && n > 0)
        };
        Some(Self {
            tenant: number(tenant)?,
            slot: number(slot)?,
        })
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.slot)
    }
}

/// Some entries of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Where it goes on; `None` at the end.
    pub next: Option<PageToken>,
}

/// Makes a key, without keeping it: for a store that this program cannot reach.
///
/// # Errors
///
/// [`Refused::Invalid`].
pub fn new_key(
    pepper: &Pepper,
    new: &NewKey,
    now_ms: u64,
    random: impl FnMut(&mut [u8]),
) -> Result<Made, Refused> {
    let faults = new.faults(now_ms);
    if !faults.is_empty() {
        return Err(Refused::Invalid(faults));
    }
    Ok(make(pepper, new, now_ms, random))
}

fn make(pepper: &Pepper, new: &NewKey, now_ms: u64, random: impl FnMut(&mut [u8])) -> Made {
    let text = api_key::generate(random);
    let id = api_key::parse(&text).expect("just generated").id.to_owned();
    Made {
        signing_secret: new.signs.then(|| pepper.signing_secret(&id)),
        record: KeyRecord {
            v: VERSION,
            tenant: new.tenant.clone(),
            tier: new.tier.clone(),
            scopes: new.scopes.clone(),
            name: new.name.clone(),
            digest: api_key::hex(&pepper.digest(&text)),
            signs: new.signs,
            created_ms: now_ms,
            expires_ms: new.expires_ms,
            rotated_to: None,
            rotated_from: None,
            id,
        },
        api_key: text,
    }
}

/// Makes a key.
///
/// # Errors
///
/// See [`Refused`].
pub async fn create_key<K: Kv>(
    kv: &K,
    pepper: &Pepper,
    new: &NewKey,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<Made, Refused> {
    let made = new_key(pepper, new, now_ms, &mut random)?;
    if kv.get(&tenant_name(&new.tenant)).await?.is_none() {
        return Err(Refused::NoSuchTenant(new.tenant.clone()));
    }
    keep(kv, &made.record, now_ms, &mut random).await?;
    Ok(made)
}

/// Lists a new key and then keeps it.
async fn keep<K: Kv>(
    kv: &K,
    record: &KeyRecord,
    now_ms: u64,
    random: impl FnMut(&mut [u8]),
) -> Result<(), Refused> {
    let Place {
        slot,
        generation,
        before,
    } = slot(kv, &record.tenant, now_ms, random).await?;
    let listed = Slot {
        v: VERSION,
        id: record.id.clone(),
        since_ms: now_ms,
        generation,
        before,
    };
    kv.set(&slot_name(&record.tenant, slot), &encode(&listed))
        .await?;
    kv.set(&key_name(&record.id), &encode(record)).await?;
    Ok(())
}

/// A slot that nobody else gets.
struct Place {
    slot: u64,
    generation: i64,
    before: Option<String>,
}

/// Finds a slot that nobody else gets.
async fn slot<K: Kv>(
    kv: &K,
    tenant: &str,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<Place, Refused> {
    // Looked at before it is raised, so that refusals cost no slot.
    let room = count(kv, KEYS).await? < MAX_KEYS;
    if room && count(kv, &slots_name(tenant)).await? < MAX_KEYS_PER_TENANT {
        let own = kv.increment(&slots_name(tenant), 1).await?;
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        if own <= MAX_KEYS_PER_TENANT {
            let of_all = kv.increment(KEYS, 1).await?;
            if u64::try_from(of_all).unwrap_or(u64::MAX) <= MAX_KEYS {
                return Ok(Place {
                    slot: own,
                    generation: 0,
                    before: None,
                });
            }
        }
    }
    let slots = count(kv, &slots_name(tenant))
        .await?
        .min(MAX_KEYS_PER_TENANT);
    let mut bytes = [0; 8];
    random(&mut bytes);
    // From anywhere, so that two who look at once do not look at the same.
    let start = u64::from_le_bytes(bytes);
    for step in 0..slots {
        let slot = 1 + (start % slots + step) % slots;
        if let Some(place) = take_over(kv, tenant, slot, now_ms).await? {
            return Ok(place);
        }
    }
    Err(Refused::Full(match room {
        true => format!(
            "the tenant `{tenant}` has {MAX_KEYS_PER_TENANT} keys, the maximum; revoke some, they are removed after \
             {} days",
            RETENTION_MS / DAY_MS
        ),
        false => format!(
            "there are {MAX_KEYS} keys in total, the maximum; {} days after a key ends it is removed, which makes \
             room for a key of the same tenant",
            RETENTION_MS / DAY_MS
        ),
    }))
}

/// Takes a slot whose key came to its end long ago, and removes what was kept of that key.
async fn take_over<K: Kv>(
    kv: &K,
    tenant: &str,
    slot: u64,
    now_ms: u64,
) -> Result<Option<Place>, Refused> {
    let Some(listed) = listed(kv, tenant, slot).await? else {
        return Ok(None);
    };
    let Slot {
        id,
        since_ms,
        generation,
        before,
        ..
    } = listed;
    // Of a key that was never kept, the end is its beginning.
    let end_ms = match shown(kv, &id).await? {
        Some(shown) => shown.end_ms(),
        None => Some(since_ms),
    };
    if end_ms.is_none_or(|end_ms| end_ms.saturating_add(RETENTION_MS) > now_ms) {
        return Ok(None);
    }
    let next = generation + 1;
    if kv.increment(&reused_name(tenant, slot), 1).await? != next {
        return Ok(None);
    }
    kv.delete(&key_name(&id)).await?;
    kv.delete(&used_name(&id)).await?;
    if let Some(before) = before {
        kv.delete(&revoked_name(&before)).await?;
    }
    Ok(Some(Place {
        slot,
        generation: next,
        before: Some(id),
    }))
}

/// One key.
///
/// # Errors
///
/// [`Refused::NoSuchKey`], [`Refused::Store`].
pub async fn show_key<K: Kv>(kv: &K, id: &str) -> Result<Shown, Refused> {
    let found = match api_key::is_id(id) {
        true => shown(kv, id).await?,
        false => None,
    };
    found.ok_or_else(|| Refused::NoSuchKey(id.to_owned()))
}

async fn shown<K: Kv>(kv: &K, id: &str) -> Result<Option<Shown>, Refused> {
    let Some(record) = kv.get(&key_name(id)).await? else {
        return Ok(None);
    };
    let record: KeyRecord = decode(&record).map_err(Refused::Store)?;
    Ok(Some(Shown {
        record,
        revoked_ms: revoked_ms(kv, id).await?,
        last_used_ms: (kv.get(&used_name(id)).await?).and_then(|bytes| time(&bytes)),
    }))
}

/// When a key was taken back. What cannot be read counts as a beginning of time.
async fn revoked_ms<K: Kv>(kv: &K, id: &str) -> Result<Option<u64>, Refused> {
    let entry = kv.get(&revoked_name(id)).await?;
    Ok(entry.map(|bytes| time(&bytes).unwrap_or(0)))
}

fn time(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Some keys, of one tenant or of all, in the order in which their slots were first given out.
///
/// # Errors
///
/// [`Refused::NoSuchTenant`], [`Refused::Store`].
pub async fn list_keys<K: Kv>(
    kv: &K,
    tenant: Option<&str>,
    from: Option<PageToken>,
) -> Result<Page<Shown>, Refused> {
    let from = from.unwrap_or(PageToken::START);
    let mut entries = Vec::new();
    let mut steps = PAGE_STEPS;
    if let Some(tenant) = tenant {
        if kv.get(&tenant_name(tenant)).await?.is_none() {
            return Err(Refused::NoSuchTenant(tenant.to_owned()));
        }
        let rest = keys_of(kv, tenant, from.slot, &mut steps, &mut entries).await?;
        let next = rest.map(|slot| PageToken { tenant: 1, slot });
        return Ok(Page { entries, next });
    }
    let tenants = count(kv, TENANTS).await?.min(MAX_TENANTS);
    let PageToken {
        tenant: mut place,
        mut slot,
    } = from;
    while place <= tenants {
        if steps == 0 {
            let next = Some(PageToken {
                tenant: place,
                slot,
            });
            return Ok(Page { entries, next });
        }
        steps -= 1;
        if let Some(tenant) = named(kv, place).await? {
            let rest = keys_of(kv, &tenant, slot, &mut steps, &mut entries).await?;
            if let Some(slot) = rest {
                let next = Some(PageToken {
                    tenant: place,
                    slot,
                });
                return Ok(Page { entries, next });
            }
        }
        (place, slot) = (place + 1, 1);
    }
    Ok(Page {
        entries,
        next: None,
    })
}

/// The keys of a tenant from a slot on, and the slot to go on at when the steps are used up.
async fn keys_of<K: Kv>(
    kv: &K,
    tenant: &str,
    from: u64,
    steps: &mut u64,
    entries: &mut Vec<Shown>,
) -> Result<Option<u64>, Refused> {
    let slots = count(kv, &slots_name(tenant))
        .await?
        .min(MAX_KEYS_PER_TENANT);
    for slot in from..=slots {
        if *steps == 0 {
            return Ok(Some(slot));
        }
        *steps -= 1;
        if let Some(listed) = listed(kv, tenant, slot).await? {
            entries.extend(shown(kv, &listed.id).await?);
        }
    }
    Ok(None)
}

async fn listed<K: Kv>(kv: &K, tenant: &str, slot: u64) -> Result<Option<Slot>, Refused> {
    let entry = kv.get(&slot_name(tenant, slot)).await?;
    let read = entry.map(|bytes| decode::<Slot>(&bytes)).transpose();
    read.map_err(Refused::Store)
}

/// Takes a key back, for good; again, when it was already. What it was, and when it was taken back.
///
/// # Errors
///
/// [`Refused::NoSuchKey`], [`Refused::Store`].
pub async fn revoke_key<K: Kv>(kv: &K, id: &str, now_ms: u64) -> Result<Shown, Refused> {
    let mut key = show_key(kv, id).await?;
    if key.revoked_ms.is_none() {
        let at = now_ms.to_string();
        kv.set(&revoked_name(id), at.as_bytes()).await?;
        key.revoked_ms = Some(now_ms);
    }
    Ok(key)
}

/// Makes a key that takes the place of another, which is good for a while longer. The new key lasts as long from now as
/// the old one was made for.
///
/// # Errors
///
/// See [`Refused`].
pub async fn rotate_key<K: Kv>(
    kv: &K,
    pepper: &Pepper,
    id: &str,
    overlap_ms: u64,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<(Made, Shown), Refused> {
    if overlap_ms > MAX_OVERLAP_MS {
        return Err(Refused::Invalid(vec![Violation::new(
            "/overlap_s",
            "out_of_range",
            format!("seconds from 0 to {}", MAX_OVERLAP_MS / 1_000),
            "the old key must end; to keep it, create another key",
        )]));
    }
    rotatable(&show_key(kv, id).await?, now_ms)?;
    let window = now_ms / CLAIM_WINDOW_MS;
    let doing = || format!("the key {id} is being rotated");
    let claim = claim(kv, &format!("rotate:{id}"), window, doing).await?;
    // Again: it may have been rotated before the claim was won.
    let old = show_key(kv, id).await?;
    rotatable(&old, now_ms)?;
    let lifetime_ms = (old.record.expires_ms)
        .map(|expires_ms| expires_ms.saturating_sub(old.record.created_ms).max(1));
    let new = NewKey {
        tenant: old.record.tenant.clone(),
        tier: old.record.tier.clone(),
        scopes: old.record.scopes.clone(),
        name: old.record.name.clone(),
        expires_ms: lifetime_ms.map(|lifetime_ms| now_ms.saturating_add(lifetime_ms)),
        signs: old.record.signs,
    };
    let mut made = make(pepper, &new, now_ms, &mut random);
    made.record.rotated_from = Some(id.to_owned());
    keep(kv, &made.record, now_ms, &mut random).await?;
    let mut old = old;
    let until_ms = now_ms.saturating_add(overlap_ms);
    old.record.expires_ms = Some(
        old.record
            .expires_ms
            .map_or(until_ms, |own_ms| own_ms.min(until_ms)),
    );
    old.record.rotated_to = Some(made.record.id.clone());
    kv.set(&key_name(id), &encode(&old.record)).await?;
    // Who took the old key back meanwhile did not mean it to have a successor.
    if revoked_ms(kv, id).await?.is_some() {
        revoke_key(kv, &made.record.id, now_ms).await?;
        return Err(Refused::Ended(format!(
            "the key {id} was revoked in the meantime"
        )));
    }
    // What is left of a claim is in nobody's way.
    let _ = kv.delete(&claim).await;
    Ok((made, old))
}

fn rotatable(key: &Shown, now_ms: u64) -> Result<(), Refused> {
    let id = &key.record.id;
    let why = match (key.state(now_ms), &key.record.rotated_to) {
        (KeyState::Active, None) => return Ok(()),
        (KeyState::Revoked, _) => format!("the key {id} was revoked; create another"),
        (_, Some(next)) => format!("the key {id} was rotated to {next}; rotate that one"),
        (KeyState::Expired, _) => format!("the key {id} has expired; create another"),
    };
    Err(Refused::Ended(why))
}

/// Claims something for a window of time; the name of the claim.
async fn claim<K: Kv>(
    kv: &K,
    what: &str,
    window: u64,
    doing: impl Fn() -> String,
) -> Result<String, Refused> {
    let busy = || Refused::Busy {
        doing: doing(),
        retry_after_s: (2 * CLAIM_WINDOW_MS / 1_000) as u32,
    };
    let own = claim_name(what, window);
    if kv
        .exists(&claim_name(what, window.saturating_sub(1)))
        .await?
        || kv.increment(&own, 1).await? != 1
    {
        return Err(busy());
    }
    Ok(own)
}

/// Makes a tenant. Of two who make the same one, one is told that it is there.
///
/// # Errors
///
/// See [`Refused`].
pub async fn create_tenant<K: Kv>(
    kv: &K,
    new: &NewTenant,
    now_ms: u64,
) -> Result<TenantRecord, Refused> {
    let faults = new.faults();
    if !faults.is_empty() {
        return Err(Refused::Invalid(faults));
    }
    let tenant = new.tenant.as_str();
    let there = || Refused::TenantExists(tenant.to_owned());
    if kv.get(&tenant_name(tenant)).await?.is_some() {
        return Err(there());
    }
    let window = now_ms / CLAIM_WINDOW_MS;
    let doing = || format!("the tenant `{tenant}` is being made");
    let claim = claim(kv, &format!("tenant:{tenant}"), window, doing).await?;
    // Again: it may have been made before the claim was won.
    if kv.get(&tenant_name(tenant)).await?.is_some() {
        return Err(there());
    }
    // Who died at this left the place behind, and it is listed once.
    let before = kv.get(&place_name(tenant)).await?;
    let place = match before.and_then(|bytes| time(&bytes)) {
        Some(place) => place,
        None => {
            let full = || Refused::Full(format!("there are {MAX_TENANTS} tenants, the maximum"));
            if count(kv, TENANTS).await? >= MAX_TENANTS {
                return Err(full());
            }
            let place = u64::try_from(kv.increment(TENANTS, 1).await?).unwrap_or(u64::MAX);
            if place > MAX_TENANTS {
                return Err(full());
            }
            kv.set(&place_name(tenant), place.to_string().as_bytes())
                .await?;
            place
        }
    };
    kv.set(&tenant_at(place), tenant.as_bytes()).await?;
    let record = TenantRecord {
        v: VERSION,
        tenant: tenant.to_owned(),
        description: new.description.clone(),
        created_ms: now_ms,
        disabled_ms: None,
    };
    kv.set(&tenant_name(tenant), &encode(&record)).await?;
    // What is left of these is in nobody's way.
    let _ = kv.delete(&place_name(tenant)).await;
    let _ = kv.delete(&claim).await;
    Ok(record)
}

/// One tenant.
///
/// # Errors
///
/// [`Refused::NoSuchTenant`], [`Refused::Store`].
pub async fn show_tenant<K: Kv>(kv: &K, tenant: &str) -> Result<TenantRecord, Refused> {
    let found = match is_name(tenant) {
        true => kv.get(&tenant_name(tenant)).await?,
        false => None,
    };
    let found = found.ok_or_else(|| Refused::NoSuchTenant(tenant.to_owned()))?;
    decode(&found).map_err(Refused::Store)
}

/// Refuses a tenant's callers, or admits them again; both as often as one likes.
///
/// # Errors
///
/// [`Refused::NoSuchTenant`], [`Refused::Store`].
pub async fn set_tenant<K: Kv>(
    kv: &K,
    tenant: &str,
    enabled: bool,
    now_ms: u64,
) -> Result<TenantRecord, Refused> {
    let mut record = show_tenant(kv, tenant).await?;
    if record.disabled_ms.is_none() != enabled {
        record.disabled_ms = (!enabled).then_some(now_ms);
        kv.set(&tenant_name(tenant), &encode(&record)).await?;
    }
    Ok(record)
}

/// Some tenants, in the order in which they were made.
///
/// # Errors
///
/// [`Refused::Store`].
pub async fn list_tenants<K: Kv>(
    kv: &K,
    from: Option<PageToken>,
) -> Result<Page<TenantRecord>, Refused> {
    let from = from.unwrap_or(PageToken::START).tenant;
    let tenants = count(kv, TENANTS).await?.min(MAX_TENANTS);
    let mut entries = Vec::new();
    let end = tenants.min(from.saturating_add(PAGE_STEPS - 1));
    for place in from..=end {
        let Some(tenant) = named(kv, place).await? else {
            continue;
        };
        if let Some(bytes) = kv.get(&tenant_name(&tenant)).await? {
            entries.push(decode(&bytes).map_err(Refused::Store)?);
        }
    }
    let next = (end < tenants && from <= end).then_some(PageToken {
        tenant: end + 1,
        slot: 1,
    });
    Ok(Page { entries, next })
}

/// The tenant at a place; a name that is none is nobody's.
async fn named<K: Kv>(kv: &K, place: u64) -> Result<Option<String>, Refused> {
    let entry = kv.get(&tenant_at(place)).await?;
    let name = entry.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(name.filter(|name| is_name(name)))
}

/// A counter, without making it where it is not.
async fn count<K: Kv>(kv: &K, counter: &str) -> Result<u64, Refused> {
    if !kv.exists(counter).await? {
        return Ok(0);
    }
    Ok(u64::try_from(kv.increment(counter, 0).await?).unwrap_or(0))
}

/// What is wrong with the name of a tenant or tier.
fn name_fault(pointer: &str, what: &str, name: &str) -> Option<Violation> {
    if !is_name(name) {
        return Some(Violation::new(
            pointer,
            "invalid_name",
            NAME_RULE,
            format!("this is not a valid name for a {what}"),
        ));
    }
    (name == ANONYMOUS).then(|| {
        Violation::new(
            pointer,
            "reserved_name",
            "another name",
            format!("`{ANONYMOUS}` is the {what} of callers without credentials"),
        )
    })
}

/// What is wrong with a line for people.
fn text_fault(pointer: &str, text: &str) -> Option<Violation> {
    let fits = text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    let expected = format!("at most {MAX_TEXT_BYTES} bytes without control characters");
    (!fits).then(|| {
        Violation::new(
            pointer,
            "invalid_text",
            expected,
            format!("the text has {} bytes; shorten it to a line", text.len()),
        )
    })
}

impl NewKey {
    /// What is wrong with it.
    pub fn faults(&self, now_ms: u64) -> Vec<Violation> {
        let mut faults: Vec<Violation> = [
            name_fault("/tenant", "tenant", &self.tenant),
            name_fault("/tier", "tier", &self.tier),
            text_fault("/name", &self.name),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.scopes.is_empty() || self.scopes.len() > MAX_SCOPES {
            faults.push(Violation::new(
                "/scopes",
                "out_of_range",
                format!("1 to {MAX_SCOPES} scopes"),
                format!(
                    "{} were given; a key without a scope cannot make any call",
                    self.scopes.len()
                ),
            ));
        }
        if let Some(expires_ms) = self.expires_ms
            && !(now_ms + 1..=MAX_TIME_MS).contains(&expires_ms)
        {
            faults.push(Violation::new(
                "/expires_ms",
                "out_of_range",
                format!(
                    "milliseconds since 1970, later than now, {now_ms}, and at most {MAX_TIME_MS}"
                ),
                "a key must not be expired when it is created",
            ));
        }
        faults
    }
}

impl NewTenant {
    /// What is wrong with it.
    pub fn faults(&self) -> Vec<Violation> {
        [
            name_fault("/tenant", "tenant", &self.tenant),
            text_fault("/description", &self.description),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
