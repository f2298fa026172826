//! Creates, lists, disables and enables tenants.

use super::entries::{TENANTS, claim, count, named, place_name, tenant_at, time};
use super::outcomes::{PAGE_STEPS, Page, PageToken, RegistryError};
use super::requests::NewTenant;
use crate::auth::record::{TenantRecord, VERSION, decode, encode, tenant_name};
use crate::auth::settings::is_name;
use penstock_core::Kv;

/// Most tenants that a store may have.
pub const MAX_TENANTS: u64 = 10_000;

/// Creates a tenant with the next free number. If two requests create the same one, one of them gets
/// [`RegistryError::TenantExists`] or [`RegistryError::Busy`].
///
/// # Errors
///
/// See [`RegistryError`].
pub async fn create_tenant<K: Kv>(
    kv: &K,
    new: &NewTenant,
    now_ms: u64,
) -> Result<TenantRecord, RegistryError> {
    let faults = new.faults();
    if !faults.is_empty() {
        return Err(RegistryError::Invalid(faults));
    }
    let tenant = new.tenant.as_str();
    let there = || RegistryError::TenantExists(tenant.to_owned());
    if kv.get(&tenant_name(tenant)).await?.is_some() {
        return Err(there());
    }
    let doing = || format!("the tenant `{tenant}` is being created");
    let claim = claim(kv, &format!("tenant:{tenant}"), now_ms, doing).await?;
    // Check again: the tenant may have been created before the claim was granted.
    if kv.get(&tenant_name(tenant)).await?.is_some() {
        return Err(there());
    }
    // A writer that died here left its place behind. Use that place, so that the tenant is listed once.
    let before = kv.get(&place_name(tenant)).await?;
    let place = match before.and_then(|bytes| time(&bytes)) {
        Some(place) => place,
        None => {
            let full =
                || RegistryError::Full(format!("there are {MAX_TENANTS} tenants, the maximum"));
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
    // A place or claim that stays behind does no harm.
    let _ = kv.delete(&place_name(tenant)).await;
    let _ = kv.delete(&claim).await;
    Ok(record)
}

/// Returns the record of one tenant.
///
/// # Errors
///
/// [`RegistryError::NoSuchTenant`], [`RegistryError::Store`].
pub async fn show_tenant<K: Kv>(kv: &K, tenant: &str) -> Result<TenantRecord, RegistryError> {
    let found = match is_name(tenant) {
        true => kv.get(&tenant_name(tenant)).await?,
        false => None,
    };
    let found = found.ok_or_else(|| RegistryError::NoSuchTenant(tenant.to_owned()))?;
    decode(&found).map_err(RegistryError::Store)
}

/// Disables or enables a tenant. Repeating it has no effect.
///
/// # Errors
///
/// [`RegistryError::NoSuchTenant`], [`RegistryError::Store`].
pub async fn set_tenant<K: Kv>(
    kv: &K,
    tenant: &str,
    enabled: bool,
    now_ms: u64,
) -> Result<TenantRecord, RegistryError> {
    let mut record = show_tenant(kv, tenant).await?;
    if record.disabled_ms.is_none() != enabled {
        record.disabled_ms = (!enabled).then_some(now_ms);
        kv.set(&tenant_name(tenant), &encode(&record)).await?;
    }
    Ok(record)
}

/// Returns a page of tenants, in the order of their creation.
///
/// # Errors
///
/// [`RegistryError::Store`].
pub async fn list_tenants<K: Kv>(
    kv: &K,
    from: Option<PageToken>,
) -> Result<Page<TenantRecord>, RegistryError> {
    let from = from.unwrap_or(PageToken::START).tenant;
    let tenants = count(kv, TENANTS).await?.min(MAX_TENANTS);
    let mut entries = Vec::new();
    let end = tenants.min(from.saturating_add(PAGE_STEPS - 1));
    for place in from..=end {
        let Some(tenant) = named(kv, place).await? else {
            continue;
        };
        if let Some(bytes) = kv.get(&tenant_name(&tenant)).await? {
            entries.push(decode(&bytes).map_err(RegistryError::Store)?);
        }
    }
    let next = (end < tenants && from <= end).then_some(PageToken {
        tenant: end + 1,
        slot: 1,
    });
    Ok(Page { entries, next })
}
