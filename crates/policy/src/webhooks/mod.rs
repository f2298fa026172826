//! Webhooks: an operation that ends is announced to the caller's own server, as the Standard Webhooks specification 1.0 says
//! (<https://github.com/standard-webhooks/standard-webhooks>).
//!
//! # Division of work
//!
//! The operations component stores the wish for an announcement together with the call ([`target`]). The host sends it after
//! the end of the operation, because components cannot open connections. All decisions are here: which URLs and addresses are
//! allowed ([`target`], [`address`]), when the next attempt is made ([`delivery`]), which step a host takes next ([`step`]),
//! and which bytes are signed (`signature`).
//!
//! # Entries
//!
//! Names carry the hour of the operation and its id ([`entries`]). They live longer than the operation, because the last attempt
//! is made three days after the first:
//!
//! * `t`, the target, is written before the record of the call. So a call that was accepted has it.
//! * `p`, the payload, is written before the first attempt, so that all attempts send the same bytes. It contains the result, and
//!   is deleted once the delivery is over or the operation is deleted.
//! * `a1`, `a2`, … are counters. The host that increments one first makes that attempt. A host that dies during an attempt
//!   leaves its counter and no outcome; another host takes the next attempt after [`delivery::LOST_MS`].
//! * `v` is the record of the attempts.
//! * `z0` is the mark that the delivery is over. It saves hosts that start from reading each record. A caller that asks for the
//!   message again writes the mark `g1`, and then the delivery is over with the mark `z1`; and so on.
//!
//! An announcement is delivered at least once, or its record says that it failed. A receiver recognises repetitions by the id of
//! the message, which is the same for all attempts.

pub mod address;
pub mod delivery;
pub mod entries;
mod settings;
#[cfg(feature = "signing")]
pub mod signature;
pub mod step;
pub mod target;

pub use settings::{TenantWebhooks, WebhooksSettings};
