//! The stored records of API keys and tenants, as JSON, and the names of their entries.
//!
//! The administration of keys writes them ([`super::registry`]). The check of credentials only reads them; it writes
//! nothing but the time of a key's last use.

use super::scopes::Scope;
use serde::{Deserialize, Serialize};

/// The format of these records.
pub const VERSION: u32 = 1;

/// The name of a key's record.
pub fn key_name(id: &str) -> String {
    format!("auth:key:{id}")
}

/// The name of a tenant's record.
pub fn tenant_name(tenant: &str) -> String {
    format!("auth:tenant:{tenant}")
}

/// The name of the entry with a key's last use: milliseconds as decimal text.
pub fn used_name(id: &str) -> String {
    format!("auth:used:{id}")
}

/// The name of the entry with the time of a key's revocation: milliseconds as decimal text. It is an entry of its own that
/// is only ever written, so that a concurrent change of the record cannot undo the revocation.
pub fn revoked_name(id: &str) -> String {
    format!("auth:revoked:{id}")
}

/// The name of an issuer's key set as it was last fetched, a [`KeySet`].
pub fn key_set_name(issuer: &str) -> String {
    format!("auth:jwks:{issuer}")
}

/// The name of the counter that requests a new fetch of a key set. A check raises it when the set lacks a key or does not
/// exist. The server reads it twice a second and fetches at most every ten seconds, so raising it more than once a second
/// has no effect. Read it with `increment` by 0, as any counter.
pub fn key_set_asked_name(issuer: &str) -> String {
    format!("auth:jwks-asked:{issuer}")
}

/// An API key without its secret. It is written when the key is created, and again when the key is rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The format of this record. Writers set [`VERSION`], and [`decode`] accepts no other.
    pub v: u32,
    /// The 12 characters after `pnst_`. They never change and are no secret.
    pub id: String,
    /// The tenant to which the key's callers belong. Its record says whether it is disabled.
    pub tenant: String,
    /// The tier of its callers.
    pub tier: String,
    /// The scopes of its callers.
    pub scopes: Vec<Scope>,
    /// A text by which operators recognise the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The digest of the key: 64 hexadecimal digits.
    pub digest: String,
    /// Whether requests may be signed with its secret.
    #[serde(default)]
    pub signs: bool,
    /// The time of creation, in milliseconds since the Unix epoch, as all times here.
    pub created_ms: u64,
    /// The time from which the key is refused as expired; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The key that replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<String>,
    /// The key that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<String>,
}

/// The record of a tenant: its description, and whether its callers are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRecord {
    /// The format of this record. Writers set [`VERSION`], and [`decode`] accepts no other.
    pub v: u32,
    /// The name that keys and claims of tokens use for the tenant.
    pub tenant: String,
    /// A text by which operators recognise the tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The time of creation.
    pub created_ms: u64,
    /// The time at which it was disabled; since then its callers are refused. `None` while it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_ms: Option<u64>,
}

/// The key set of an issuer, as the server last fetched it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// The format of this record. Writers set [`VERSION`], and [`decode`] accepts no other.
    pub v: u32,
    /// The time of the fetch.
    pub fetched_ms: u64,
    /// The set itself, a JSON text (RFC 7517).
    pub jwks: String,
}

/// Writes a record as JSON, in the form that [`decode`] reads.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain JSON")
}

/// A record that says its format.
pub trait Stored: for<'a> Deserialize<'a> {
    /// The format in which it was written.
    fn format(&self) -> u32;
}

impl Stored for KeyRecord {
    fn format(&self) -> u32 {
        self.v
    }
}

impl Stored for TenantRecord {
    fn format(&self) -> u32 {
        self.v
    }
}

impl Stored for KeySet {
    fn format(&self) -> u32 {
        self.v
    }
}

/// The member that every format has.
#[derive(Deserialize)]
struct Head {
    v: u32,
}

/// Reads a record; the error is a sentence for the operator.
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, String> {
    let read = serde_json::from_slice::<T>(bytes);
    // A record of another format may have members that this build does not know.
    let format = match &read {
        Ok(record) => Some(record.format()),
        Err(_) => serde_json::from_slice::<Head>(bytes)
            .ok()
            .map(|head| head.v),
    };
    match format {
        Some(other) if other != VERSION => Err(format!(
            "a record in the store has format {other}, and this build reads format {VERSION}; run the version of Penstock that wrote it"
        )),
        _ => read.map_err(|e| format!("a record in the store cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_format_is_not_read() {
        let set = |v| KeySet {
            v,
            fetched_ms: 1,
            jwks: "{}".to_owned(),
        };
        assert_eq!(decode(&encode(&set(VERSION))), Ok(set(VERSION)));
        for other in [encode(&set(VERSION + 1)), br#"{"v":2,"new":1}"#.to_vec()] {
            let refused = decode::<KeySet>(&other).unwrap_err();
            assert!(refused.contains("has format 2"), "{refused}");
        }
        let broken = decode::<KeySet>(br#"{"v":1,"new":1}"#).unwrap_err();
        assert!(broken.contains("cannot be read"), "{broken}");
    }
}
