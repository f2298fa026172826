//! The results of the registry's operations: a key, a page of a list, or an error.

use crate::auth::record::KeyRecord;
use penstock_core::KvError;
use penstock_core::violation::Violation;
use std::fmt;

/// The reason why an operation was not performed.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistryError {
    /// The request is invalid; lists every fault with its place in the body.
    Invalid(Vec<Violation>),
    /// There is no such tenant.
    NoSuchTenant(String),
    /// There is no such key.
    NoSuchKey(String),
    /// The tenant exists already.
    TenantExists(String),
    /// Another writer performs the operation, or died while it did.
    Busy {
        /// The running operation, as in "the tenant `a` is being created".
        doing: String,
        /// Seconds after which a retry can succeed.
        retry_after_s: u32,
    },
    /// The key cannot be rotated: it has ended or has a successor. The sentence says which.
    Ended(String),
    /// A bound is reached. The sentence names the bound and the remedy.
    Full(String),
    /// The store failed; the text is its message. The operation may or may not have been performed.
    Store(String),
}

impl From<KvError> for RegistryError {
    fn from(error: KvError) -> Self {
        Self::Store(error.message)
    }
}

/// A key that was created. Its secrets are returned only this once.
#[derive(Clone, PartialEq, Eq)]
pub struct CreatedKey {
    /// The whole key, prefix and secret included. The store has only its digest, so it cannot be shown again.
    pub api_key: String,
    /// The secret for signing requests, if the key may sign.
    pub signing_secret: Option<String>,
    /// The record of the key, as it is now in the store.
    pub record: KeyRecord,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CreatedKey({:?})", self.record)
    }
}

/// A key as lists return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// The record of the key, as it is in the store.
    pub record: KeyRecord,
    /// The time of the revocation, in milliseconds since the Unix epoch; `None` if it was not revoked.
    pub revoked_ms: Option<u64>,
    /// The time of the last use, if the store has one.
    pub last_used_ms: Option<u64>,
}

/// The state of a key in lists. A revoked key stays revoked when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It can be used, if its tenant is enabled.
    Active,
    /// Its `expires_ms` has passed.
    Expired,
    /// An administrator revoked it, which cannot be undone.
    Revoked,
}

impl KeyState {
    /// The name of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl ListedKey {
    /// The state at a time, without regard to the tenant.
    pub fn state(&self, now_ms: u64) -> KeyState {
        match (self.revoked_ms, self.record.expires_ms) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(expires_ms)) if expires_ms <= now_ms => KeyState::Expired,
            _ => KeyState::Active,
        }
    }

    /// The earlier of the revocation and the expiry; `None` if it has neither.
    pub(super) fn end_ms(&self) -> Option<u64> {
        match (self.revoked_ms, self.record.expires_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

/// Places that are read for one page. A page may have fewer entries, or none, and still have a next page.
pub const PAGE_STEPS: u64 = 100;

/// The position at which a list continues: a tenant's place and a slot, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageToken {
    pub(super) tenant: u64,
    pub(super) slot: u64,
}

impl PageToken {
    pub(super) const START: Self = Self { tenant: 1, slot: 1 };

    /// Parses the text that [`fmt::Display`] writes.
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

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries of the page.
    pub entries: Vec<T>,
    /// The position of the next page; `None` at the end.
    pub next: Option<PageToken>,
}
