//! Names the entries of the registry, and reads and claims them.

use super::outcomes::{ListedKey, RegistryError};
use crate::auth::record::{KeyRecord, Stored, decode, key_name, revoked_name, used_name};
use crate::auth::settings::is_name;
use penstock_core::Kv;
use serde::{Deserialize, Serialize};

pub(super) const DAY_MS: u64 = 86_400_000;
/// The time for which a claim holds: twice [`super::MAX_OPERATION_MS`], because clocks differ.
const CLAIM_WINDOW_MS: u64 = 60_000;

pub(super) const TENANTS: &str = "auth:index:tenants";
pub(super) const KEYS: &str = "auth:index:keys";

pub(super) fn tenant_at(place: u64) -> String {
    format!("{TENANTS}:{place}")
}

pub(super) fn place_name(tenant: &str) -> String {
    format!("auth:index:tenant:{tenant}")
}

pub(super) fn slots_name(tenant: &str) -> String {
    format!("{KEYS}:{tenant}")
}

pub(super) fn slot_name(tenant: &str, slot: u64) -> String {
    format!("{KEYS}:{tenant}:{slot}")
}

pub(super) fn reused_name(tenant: &str, slot: u64) -> String {
    format!("{KEYS}:{tenant}:{slot}:reused")
}

fn claim_name(what: &str, window: u64) -> String {
    format!("auth:claim:{what}:{window}")
}

/// The entry of a slot, which lists read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The format of the entry, [`crate::auth::record::VERSION`].
    pub v: u32,
    /// The id of the key that has the slot, or had it last.
    pub id: String,
    /// The time at which the key got the slot, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The number of keys that had the slot before.
    #[serde(default)]
    pub generation: i64,
    /// The id of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Stored for Slot {
    fn format(&self) -> u32 {
        self.v
    }
}

pub(super) async fn shown<K: Kv>(kv: &K, id: &str) -> Result<Option<ListedKey>, RegistryError> {
    let Some(record) = kv.get(&key_name(id)).await? else {
        return Ok(None);
    };
    let record: KeyRecord = decode(&record).map_err(RegistryError::Store)?;
    Ok(Some(ListedKey {
        record,
        revoked_ms: revoked_ms(kv, id).await?,
        last_used_ms: (kv.get(&used_name(id)).await?).and_then(|bytes| time(&bytes)),
    }))
}

/// Returns the time of a key's revocation; `None` if it was not revoked. An entry that cannot be parsed counts as the time 0.
pub(super) async fn revoked_ms<K: Kv>(kv: &K, id: &str) -> Result<Option<u64>, RegistryError> {
    let entry = kv.get(&revoked_name(id)).await?;
    Ok(entry.map(|bytes| time(&bytes).unwrap_or(0)))
}

pub(super) fn time(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

pub(super) async fn listed<K: Kv>(
    kv: &K,
    tenant: &str,
    slot: u64,
) -> Result<Option<Slot>, RegistryError> {
    let entry = kv.get(&slot_name(tenant, slot)).await?;
    let read = entry.map(|bytes| decode::<Slot>(&bytes)).transpose();
    read.map_err(RegistryError::Store)
}

/// Claims an operation for a window of time. Returns the name of the claim's entry.
pub(super) async fn claim<K: Kv>(
    kv: &K,
    what: &str,
    now_ms: u64,
    doing: impl Fn() -> String,
) -> Result<String, RegistryError> {
    let busy = || RegistryError::Busy {
        doing: doing(),
        retry_after_s: (2 * CLAIM_WINDOW_MS / 1_000) as u32,
    };
    let window = now_ms / CLAIM_WINDOW_MS;
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

/// The tenant at a place; `None` for a name that is not valid.
pub(super) async fn named<K: Kv>(kv: &K, place: u64) -> Result<Option<String>, RegistryError> {
    let entry = kv.get(&tenant_at(place)).await?;
    let name = entry.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(name.filter(|name| is_name(name)))
}

/// The value of a counter; 0 where it does not exist. Does not create it.
pub(super) async fn count<K: Kv>(kv: &K, counter: &str) -> Result<u64, RegistryError> {
    if !kv.exists(counter).await? {
        return Ok(0);
    }
    Ok(u64::try_from(kv.increment(counter, 0).await?).unwrap_or(0))
}
