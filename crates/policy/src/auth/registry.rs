//! Decides how keys and tenants are made, listed, rotated and taken back, over a store of which nothing is assumed but
//! that `increment` is atomic.
//!
//! | entry | what it is |
//! |---|---|
//! | `auth:index:tenants` | counter: places handed out to tenants |
//! | `auth:index:tenants:<n>` | the tenant at a place |
//! | `auth:index:tenant:<tenant>` | the place of a tenant that is being made |
//! | `auth:index:keys` | counter: slots handed out to keys of all tenants |
//! | `auth:index:keys:<tenant>` | counter: slots handed out to keys of a tenant |
//! | `auth:index:keys:<tenant>:<n>` | [`Slot`]: the key at a slot |
//! | `auth:index:keys:<tenant>:<n>:reused` | counter: how often a slot was taken over |
//! | `auth:claim:<what>:<window>` | counter: who raised it to 1 may make the tenant, or rotate the key |
//!
//! **No usable key without a list that shows it.** The entry that lists a key is written before its record, so whoever
//! dies between them leaves a place with nothing there, which lists skip. A key whose making failed was told to nobody.
//!
//! **What was taken back stays so.** Taking back is an entry of its own, [`revoked_name`], that is only ever set. Records
//! are written by who makes the key and by who rotates it, and who rotates has claimed that: no two write the same
//! record.
//!
//! **Claims** are for a window of a minute, and none is granted while there is one of the window before; so one who died
//! blocks nobody for longer than two minutes, and who takes longer than a minute is stopped by their own deadline.
//!
//! **Slots are used again**, [`RETENTION_MS`] after their key came to its end, and only when the tenant has none left: the
//! claim is to raise the slot's counter to the generation that follows the one in its entry. The record of the key that
//! ended goes then; that it was taken back stands until the slot's next change, so whoever read the record just
//! before it went finds that, in whichever order they read.

mod entries;
mod keys;
mod outcomes;
mod requests;
mod slots;
mod tenants;

pub use entries::Slot;
pub use keys::{MAX_OVERLAP_MS, create_key, list_keys, new_key, revoke_key, rotate_key, show_key};
pub use outcomes::{KeyState, Made, PAGE_STEPS, Page, PageToken, Refused, Shown};
pub use requests::{MAX_TEXT_BYTES, NewKey, NewTenant};
pub use slots::{MAX_KEYS, MAX_KEYS_PER_TENANT, RETENTION_MS};
pub use tenants::{MAX_TENANTS, create_tenant, list_tenants, set_tenant, show_tenant};

/// How long one operation may take: who performs it gives up by then.
pub const MAX_OPERATION_MS: u64 = 30_000;
