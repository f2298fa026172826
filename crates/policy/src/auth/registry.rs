//! Creates, lists, rotates and revokes keys and tenants. It assumes of the store only that `increment` is atomic.
//!
//! | entry | content |
//! |---|---|
//! | `auth:index:tenants` | counter: places given to tenants |
//! | `auth:index:tenants:<n>` | the tenant at a place |
//! | `auth:index:tenant:<tenant>` | the place of a tenant that is being created |
//! | `auth:index:keys` | counter: slots given to keys of all tenants |
//! | `auth:index:keys:<tenant>` | counter: slots given to keys of a tenant |
//! | `auth:index:keys:<tenant>:<n>` | [`Slot`]: the key at a slot |
//! | `auth:index:keys:<tenant>:<n>:reused` | counter: how often a slot was reused |
//! | `auth:claim:<subject>:<window>` | counter: the writer that raised it to 1 may create the tenant, or rotate the key |
//!
//! **Every usable key is listed.** The entry that lists a key is written before its record. A writer that dies between the
//! two leaves an empty slot, which lists skip. No caller learnt the key whose creation failed.
//!
//! **A revocation is final.** It is an entry of its own,
//! [`revoked_name`](super::record::revoked_name), that is only ever set. A record is written when the key is created and
//! when it is rotated. A rotation holds a claim, so no two writers write the same record.
//!
//! **Claims** hold for a window of a minute. No claim is granted while one of the previous window exists. A writer that
//! died therefore blocks others for two minutes at most. A writer that takes longer than a minute is stopped by its own
//! deadline.
//!
//! **Slots are reused** [`RETENTION_MS`] after the end of their key, and only when the tenant has no free slot. The claim
//! is to raise the slot's counter to the generation after the one in its entry. The record of the old key is then deleted.
//! Its revocation stays until the slot's next change. A reader that read the record just before its deletion therefore
//! still finds the revocation, in whichever order it reads.

mod entries;
mod keys;
mod outcomes;
mod requests;
mod slots;
mod tenants;

pub use entries::Slot;
pub use keys::{MAX_OVERLAP_MS, create_key, list_keys, new_key, revoke_key, rotate_key, show_key};
pub use outcomes::{CreatedKey, KeyState, ListedKey, PAGE_STEPS, Page, PageToken, RegistryError};
pub use requests::{MAX_TEXT_BYTES, NewKey, NewTenant};
pub use slots::{MAX_KEYS, MAX_KEYS_PER_TENANT, RETENTION_MS};
pub use tenants::{MAX_TENANTS, create_tenant, list_tenants, set_tenant, show_tenant};

/// The longest that one operation may take, in milliseconds. The server gives up by then.
pub const MAX_OPERATION_MS: u64 = 30_000;
