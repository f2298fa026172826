//! Gives a new key a slot in its tenant's list: a new slot, or that of a key that ended long ago.

use super::entries::{
    DAY_MS, KEYS, Slot, count, listed, reused_name, shown, slot_name, slots_name,
};
use super::outcomes::RegistryError;
use crate::auth::record::{KeyRecord, VERSION, encode, key_name, revoked_name, used_name};
use penstock_core::Kv;

/// The most keys of all tenants. A store in one file lists them easily.
pub const MAX_KEYS: u64 = 100_000;
/// The most keys of one tenant. All are searched when a slot is to be reused.
pub const MAX_KEYS_PER_TENANT: u64 = 1_000;
/// Time for which a key stays listed after its end, before its slot is reused. It is longer than any cache of keys, and
/// long enough to look the key up.
pub const RETENTION_MS: u64 = 30 * DAY_MS;

/// Lists a new key, and then stores its record.
pub(super) async fn keep<K: Kv>(
    kv: &K,
    record: &KeyRecord,
    now_ms: u64,
    random: impl FnMut(&mut [u8]),
) -> Result<(), RegistryError> {
    let NewSlot {
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

/// A slot that belongs to one new key.
struct NewSlot {
    slot: u64,
    generation: i64,
    before: Option<String>,
}

/// Finds a slot for a new key.
async fn slot<K: Kv>(
    kv: &K,
    tenant: &str,
    now_ms: u64,
    mut random: impl FnMut(&mut [u8]),
) -> Result<NewSlot, RegistryError> {
    // Read the counters before raising them, so that a refusal uses no slot.
    let room = count(kv, KEYS).await? < MAX_KEYS;
    if room && count(kv, &slots_name(tenant)).await? < MAX_KEYS_PER_TENANT {
        let own = kv.increment(&slots_name(tenant), 1).await?;
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        if own <= MAX_KEYS_PER_TENANT {
            let of_all = kv.increment(KEYS, 1).await?;
            if u64::try_from(of_all).unwrap_or(u64::MAX) <= MAX_KEYS {
                return Ok(NewSlot {
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
    // Start at a random slot, so that two concurrent searches rarely meet.
    let start = u64::from_le_bytes(bytes);
    for step in 0..slots {
        let slot = 1 + (start % slots + step) % slots;
        if let Some(place) = take_over(kv, tenant, slot, now_ms).await? {
            return Ok(place);
        }
    }
    Err(RegistryError::Full(match room {
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

/// Takes the slot of a key that ended long ago, and deletes the entries of that key.
async fn take_over<K: Kv>(
    kv: &K,
    tenant: &str,
    slot: u64,
    now_ms: u64,
) -> Result<Option<NewSlot>, RegistryError> {
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
    // A key without a record ended when it was listed.
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
    Ok(Some(NewSlot {
        slot,
        generation: next,
        before: Some(id),
    }))
}
