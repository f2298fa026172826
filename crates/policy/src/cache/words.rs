//! The words between the cache and the gate: where a result belongs, and what is found there.
//!
//! The WIT package `penstock:cache` says the same for components; the shells in `guest` convert and add nothing.

/// The ticket of a caller that runs without having looked, because the call asked for a run.
pub const NO_TICKET: u64 = 0;

/// Where a result belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheAddress<'a> {
    /// The model's cache; its places are counted under this name.
    pub space: &'a str,
    /// The number of places.
    pub places: u32,
    /// A digest of everything that decides the result.
    pub digest: &'a [u8],
    /// Milliseconds a run may take before another caller may run in its place.
    pub lease_ms: u32,
}

/// A result that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The result.
    pub value: Vec<u8>,
    /// When it was kept, in milliseconds since the Unix epoch.
    pub kept_ms: u64,
}

/// What looking for a result came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is there.
    Hit(Kept),
    /// It is not there. The caller runs the model, and then keeps or releases the place with this ticket.
    Run(u64),
    /// Another caller runs it: look again in a moment.
    Wait,
    /// It is not there, and the place is taken: run the model and keep nothing.
    Bypass,
}
