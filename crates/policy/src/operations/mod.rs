//! Long-running calls: an accepted call is stored before it is answered, runs later, and its result is kept.
//!
//! # Runs
//!
//! Each run of an operation is an *epoch*: 1, 2, 3… as with [`idempotency`](crate::idempotency), and for the same reason: it
//! needs only atomic increments, and no late or repeated write can change what another caller saw. The entries of an epoch:
//!
//! * `c`, the claim, is a counter. The first worker that increments it owns the epoch. It adds the time.
//! * `r`, the run, is written by the owner once it knows that no earlier epoch counts, and renewed while it runs.
//! * `s`, the end, is written by the owner when the operation ends, with the result in the entries `t`.
//! * `n`, the notice, is written by an owner that gives the operation back for a later attempt.
//! * `f`, the fate, is a counter. The owner adds 1 to commit its end. The owner of a later epoch, or the owner itself if it
//!   gives the operation back, adds 2^32 to close the epoch. The first increment decides. A caller that sees the commit, and no
//!   close, adds 2^48 before it says that the operation has ended, so that a later close hides nothing that was seen.
//!
//! An epoch is the fencing token of a run. A worker that dies is replaced when its lease ends. Its late end is not
//! committed. Cancelling is a counter of its own (`x`): if no worker runs the operation, the caller claims the next epoch and
//! ends it as cancelled. Otherwise the worker ends it. So an operation ends exactly once, whatever happens first.
//!
//! # Queue
//!
//! The entries here are the truth. A host's queue ([`queue::FairQueue`]) only says what to look at next. A host that restarts
//! fills its queue from the entries. A host without a queue runs an operation when its caller asks for it.
//!
//! # Time to live
//!
//! Names carry the hour of creation. A [`sweep::Index`](crate::sweep) deletes entries of past hours.

mod ends;
mod entries;
pub mod queue;
mod record;
mod removal;
pub mod service;
mod settings;
mod state;
mod store;
pub mod words;

pub use entries::{Candidates, HEAD_SUFFIX, NAMES, head_name};
pub use record::Accepted;
pub use settings::OperationsSettings;
pub use store::{Acceptance, Cancelled, Operations};
