//! Tenants and API keys in the store of [`InMemory`], as the admin API writes them.

use crate::InMemory;
use crate::ports::PEPPER;
use penstock_core::Kv;
use penstock_core::kv::run_ready;
use penstock_policy::auth::api_key::{self, Pepper, hex};
use penstock_policy::auth::record::{self, KeyRecord, TenantRecord, VERSION};
use penstock_policy::auth::scopes::Scope;

/// Writes the record of an enabled tenant to the store.
pub fn add_tenant(ports: &InMemory, tenant: &str) {
    let record = TenantRecord {
        v: VERSION,
        tenant: tenant.into(),
        description: String::new(),
        created_ms: 0,
        disabled_ms: None,
    };
    let (name, value) = (record::tenant_name(tenant), record::encode(&record));
    run_ready(ports.kv.set(&name, &value)).expect("the store answers");
}

/// Writes an API key and returns its text. Equal arguments give the same key.
pub fn add_key(ports: &InMemory, tenant: &str, scopes: &[&str], tier: &str) -> String {
    let mut next = tenant.len() as u8 + scopes.concat().len() as u8 + tier.len() as u8 * 3;
    let text = api_key::generate(|bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(73);
        }
    });
    let id = api_key::parse(&text).expect("a key").id.to_owned();
    let scope = |text: &&str| Scope::try_from((*text).to_owned()).expect("a scope");
    let record = KeyRecord {
        v: VERSION,
        id: id.clone(),
        tenant: tenant.into(),
        tier: tier.into(),
        scopes: scopes.iter().map(scope).collect(),
        name: String::new(),
        digest: hex(&Pepper::new(PEPPER.as_bytes())
            .expect("a pepper")
            .digest(&text)),
        signs: false,
        created_ms: 0,
        expires_ms: None,
        rotated_to: None,
        rotated_from: None,
    };
    let (name, value) = (record::key_name(&id), record::encode(&record));
    run_ready(ports.kv.set(&name, &value)).expect("the store answers");
    text
}
