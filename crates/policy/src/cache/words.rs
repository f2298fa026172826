//! The types between the cache and the gate: the address of a result, and the result of a lookup.
//!
//! The WIT package `penstock:cache` has the same types for components. The components in `guest` only convert.

/// The ticket of a caller that runs without a lookup, because the request asked for a run.
pub const NO_TICKET: u64 = 0;

/// The address of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheAddress<'a> {
    /// The name of the model's cache, which has its own places.
    pub space: &'a str,
    /// The number of places that the cache has.
    pub places: u32,
    /// The digest of the call.
    pub digest: &'a [u8],
    /// Milliseconds after which a run counts as dead and another caller may run.
    pub lease_ms: u32,
}

/// A result of an earlier run of the same call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResult {
    /// The bytes of the result, as they were stored.
    pub value: Vec<u8>,
    /// The time at which it was stored, in milliseconds since the Unix epoch.
    pub kept_ms: u64,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The store has a result that is not too old. The model need not run.
    Hit(StoredResult),
    /// The store has no result. The caller runs the model, and then stores the result or releases the place with this ticket.
    Run(u64),
    /// Another caller runs the same call; look again in a moment.
    Wait,
    /// No result, and the place is taken. The caller runs the model and stores nothing.
    Bypass,
}
