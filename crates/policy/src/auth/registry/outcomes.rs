//! Says how an operation of the registry ends: a key, a page of a list, or the reason why nothing was done.

use crate::auth::record::KeyRecord;
use penstock_core::KvError;
use penstock_core::violation::Violation;
use std::fmt;

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
    pub(super) fn end_ms(&self) -> Option<u64> {
        match (self.revoked_ms, self.record.expires_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

/// Places looked at for one page of a list. A page may have fewer entries, or none, and still a next one.
pub const PAGE_STEPS: u64 = 100;

/// Where a list goes on: a tenant's place and a slot, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageToken {
    pub(super) tenant: u64,
    pub(super) slot: u64,
}

impl PageToken {
    pub(super) const START: Self = Self { tenant: 1, slot: 1 };

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
