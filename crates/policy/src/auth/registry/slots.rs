//! Decides which slot of a tenant's list a new key gets: a new one, or the slot of a key that ended long ago.

use super::entries::{
    DAY_MS, KEYS, Slot, count, listed, reused_name, shown, slot_name, slots_name,
};
use super::outcomes::Refused;
use crate::auth::record::{KeyRecord, VERSION, encode, key_name, revoked_name, used_name};
use penstock_core::Kv;

/// The most keys of all tenants: what a store in one file lists without effort.
pub const MAX_KEYS: u64 = 100_000;
/// The most keys of one tenant: all are looked through when one must make way.
pub const MAX_KEYS_PER_TENANT: u64 = 1_000;
/// How long a key is listed after its end before another may have its slot: longer than any checker remembers it, and
/// long enough to ask what became of it.
pub const RETENTION_MS: u64 = 30 * DAY_MS;

/// Lists a new key and then keeps it.
pub(super) async fn keep<K: Kv>(
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
