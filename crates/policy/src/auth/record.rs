//! What is kept of API keys and tenants, as JSON, and under which names.
//!
//! Who administers keys writes these ([`super::registry`]); who checks credentials only reads them, but for the time a
//! key was last used.

use super::scopes::Scope;
use serde::{Deserialize, Serialize};

/// The form of these records; a reader refuses one it does not know.
pub const VERSION: u32 = 1;

/// The name of a key's record.
pub fn key_name(id: &str) -> String {
    format!("auth:key:{id}")
}

/// The name of a tenant's record.
pub fn tenant_name(tenant: &str) -> String {
    format!("auth:tenant:{tenant}")
}

/// The name under which it stands when a key was last used: milliseconds as decimal text.
pub fn used_name(id: &str) -> String {
    format!("auth:used:{id}")
}

/// The name under which it stands when a key was taken back: milliseconds as decimal text. An entry of its own, which is
/// only ever written, so that nobody who changes the record at the same time can bring the key back.
pub fn revoked_name(id: &str) -> String {
    format!("auth:revoked:{id}")
}

/// The name of an issuer's key set, as it was last fetched: [`KeySet`].
pub fn key_set_name(issuer: &str) -> String {
    format!("auth:jwks:{issuer}")
}

/// The name of the counter that a checker raises when it meets a key the set does not have, or finds no set, and that
/// asks for the set to be fetched anew. Who keeps the sets fresh looks at it twice a second and fetches at most every ten
/// seconds, so raising it more than once a second says nothing more. Read it with `increment` by 0, as any counter.
pub fn key_set_asked_name(issuer: &str) -> String {
    format!("auth:jwks-asked:{issuer}")
}

/// An API key, without its secret. Written when the key is made, and once more when it is rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// [`VERSION`].
    pub v: u32,
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// What its callers may cost.
    pub tier: String,
    /// What its callers may do.
    pub scopes: Vec<Scope>,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What is kept of the key: 64 hexadecimal digits.
    pub digest: String,
    /// Whether requests may be signed in its name.
    #[serde(default)]
    pub signs: bool,
    /// When it was made, in milliseconds since the Unix epoch, as all times here.
    pub created_ms: u64,
    /// From when on it is no longer good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The key that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<String>,
    /// The key it takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<String>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRecord {
    /// [`VERSION`].
    pub v: u32,
    /// Its name.
    pub tenant: String,
    /// Who it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was made.
    pub created_ms: u64,
    /// Since when its callers are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_ms: Option<u64>,
}

/// An issuer's key set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// [`VERSION`].
    pub v: u32,
    /// When it was fetched.
    pub fetched_ms: u64,
    /// The set itself, a JSON text (RFC 7517).
    pub jwks: String,
}

/// Writes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain JSON")
}

/// Reads a record; the error is a sentence for the operator.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("a record in the store cannot be read: {e}"))
}
