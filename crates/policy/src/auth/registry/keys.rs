//! Creates, lists, rotates and revokes keys.

use super::entries::{DAY_MS, TENANTS, claim, count, listed, named, revoked_ms, shown, slots_name};
use super::outcomes::{
    CreatedKey, KeyState, ListedKey, PAGE_STEPS, Page, PageToken, RegistryError,
};
use super::requests::NewKey;
use super::slots::{MAX_KEYS_PER_TENANT, keep};
use super::tenants::MAX_TENANTS;
use crate::auth::api_key::{self, Pepper};
use crate::auth::record::{KeyRecord, VERSION, encode, key_name, revoked_name, tenant_name};
use penstock_core::Kv;
use penstock_core::violation::Violation;

/// The longest time for which a rotated key and its successor are both valid.
pub const MAX_OVERLAP_MS: u64 = 30 * DAY_MS;

/// Creates a key without storing it, for a store that this program cannot reach.
///
/// # Errors
///
/// [`RegistryError::Invalid`].
pub fn new_key(
    pepper: &Pepper,
    new: &NewKey,
    now_ms: u64,
    random: impl FnMut(&mut [u8]),
) -> Result<CreatedKey, RegistryError> {
    let faults = new.faults(now_ms);
    if !faults.is_empty() {
        return Err(RegistryError::Invalid(faults));
    }
    Ok(make(pepper, new, now_ms, random))
}

fn make(pepper: &Pepper, new: &NewKey, now_ms: u64, random: impl FnMut(&mut [u8])) -> CreatedKey {
    let text = api_key::generate(random);
    let id = api_key::parse(&text).expect("just generated").id.to_owned();
    CreatedKey {
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

/// Creates and stores a key.
///
/// # Errors
///
/// See [`RegistryError`].
pub async fn create_key<K: Kv>(
    kv: &K,
    pepper: &Pepper,
    new: &NewKey,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<CreatedKey, RegistryError> {
    let made = new_key(pepper, new, now_ms, &mut random)?;
    if kv.get(&tenant_name(&new.tenant)).await?.is_none() {
        return Err(RegistryError::NoSuchTenant(new.tenant.clone()));
    }
    keep(kv, &made.record, now_ms, &mut random).await?;
    Ok(made)
}

/// Returns one key with the times of its revocation and of its last use.
///
/// # Errors
///
/// [`RegistryError::NoSuchKey`], [`RegistryError::Store`].
pub async fn show_key<K: Kv>(kv: &K, id: &str) -> Result<ListedKey, RegistryError> {
    let found = match api_key::is_id(id) {
        true => shown(kv, id).await?,
        false => None,
    };
    found.ok_or_else(|| RegistryError::NoSuchKey(id.to_owned()))
}

/// Returns a page of the keys of one tenant or of all, in the order of their slots.
///
/// # Errors
///
/// [`RegistryError::NoSuchTenant`], [`RegistryError::Store`].
pub async fn list_keys<K: Kv>(
    kv: &K,
    tenant: Option<&str>,
    from: Option<PageToken>,
) -> Result<Page<ListedKey>, RegistryError> {
    let from = from.unwrap_or(PageToken::START);
    let mut entries = Vec::new();
    let mut steps = PAGE_STEPS;
    if let Some(tenant) = tenant {
        if kv.get(&tenant_name(tenant)).await?.is_none() {
            return Err(RegistryError::NoSuchTenant(tenant.to_owned()));
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

/// Adds the keys of a tenant from a slot on. Returns the slot at which to continue if the steps are used up.
async fn keys_of<K: Kv>(
    kv: &K,
    tenant: &str,
    from: u64,
    steps: &mut u64,
    entries: &mut Vec<ListedKey>,
) -> Result<Option<u64>, RegistryError> {
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

/// Revokes a key for good. Revoking it again has no effect. Returns the key with the time of its revocation.
///
/// # Errors
///
/// [`RegistryError::NoSuchKey`], [`RegistryError::Store`].
pub async fn revoke_key<K: Kv>(kv: &K, id: &str, now_ms: u64) -> Result<ListedKey, RegistryError> {
    let mut key = show_key(kv, id).await?;
    if key.revoked_ms.is_none() {
        let at = now_ms.to_string();
        kv.set(&revoked_name(id), at.as_bytes()).await?;
        key.revoked_ms = Some(now_ms);
    }
    Ok(key)
}

/// Creates a key that replaces another, which stays valid for a while. The lifetime of the new key is that of the old
/// one.
///
/// # Errors
///
/// See [`RegistryError`].
pub async fn rotate_key<K: Kv>(
    kv: &K,
    pepper: &Pepper,
    id: &str,
    overlap_ms: u64,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<(CreatedKey, ListedKey), RegistryError> {
    if overlap_ms > MAX_OVERLAP_MS {
        return Err(RegistryError::Invalid(vec![Violation::new(
            "/overlap_s",
            "out_of_range",
            format!("seconds from 0 to {}", MAX_OVERLAP_MS / 1_000),
            "the old key must end; to keep it, create another key",
        )]));
    }
    rotatable(&show_key(kv, id).await?, now_ms)?;
    let doing = || format!("the key {id} is being rotated");
    let claim = claim(kv, &format!("rotate:{id}"), now_ms, doing).await?;
    // Check again: the key may have been rotated before the claim was granted.
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
    // The old key was revoked in the meantime, so it must not have a successor.
    if revoked_ms(kv, id).await?.is_some() {
        revoke_key(kv, &made.record.id, now_ms).await?;
        return Err(RegistryError::Ended(format!(
            "the key {id} was revoked in the meantime"
        )));
    }
    // A claim that stays behind lapses.
    let _ = kv.delete(&claim).await;
    Ok((made, old))
}

fn rotatable(key: &ListedKey, now_ms: u64) -> Result<(), RegistryError> {
    let id = &key.record.id;
    let why = match (key.state(now_ms), &key.record.rotated_to) {
        (KeyState::Active, None) => return Ok(()),
        (KeyState::Revoked, _) => format!("the key {id} was revoked; create another"),
        (_, Some(next)) => format!("the key {id} was rotated to {next}; rotate that one"),
        (KeyState::Expired, _) => format!("the key {id} has expired; create another"),
    };
    Err(RegistryError::Ended(why))
}
