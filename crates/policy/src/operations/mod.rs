//! Long-running calls: an accepted call is stored before it is answered, runs later, and its result is kept.
//!
//! # Runs
//!
//! Each run of an operation is an *epoch*: 1, 2, 3… as with [`idempotency`](crate::idempotency). It needs only atomic
//! increments, and no late or repeated write can change a state that a caller saw. The entries of an epoch:
//!
//! * `c`, the claim, is a counter. The first worker that increments it owns the epoch. It adds the time.
//! * `r`, the run, is written by the owner once it knows that no earlier epoch counts, and renewed while it runs.
//! * `s`, the end, is written by the owner when the operation ends, with the result in the entries `t`.
//! * `n`, the notice, is written by an owner that gives the operation back for a later attempt.
//! * `f`, the fate, is a counter. The owner adds 1 to commit its end. The owner of a later epoch, or the owner itself if it
//!   gives the operation back, adds 2^32 to close the epoch. The first increment decides. A seal, 2^48, says that the commit was
//!   first. The owner adds it after its commit. A reader adds it if it sees the commit and no close, before it says that the
//!   operation has ended. One whose close came second adds it, too. So a later close hides nothing that was seen.
//!
//! The entries of the operation itself: `h` is the record of the call, `b` the parts of its body, `d` the mark of a deletion,
//! and `u` counts the returns of its place to the tenant. `g` marks a step of a [batch](crate::batches) that the next one has not
//! followed yet.
//!
//! An epoch is the fencing token of a run. A worker that dies is replaced when its lease ends. Its late end is not
//! committed. The owner of a later epoch *adopts* an end that was committed before its close: it ends its own epoch with a copy
//! of that end. Cancelling is a counter of its own (`x`): if no worker runs the operation, the caller claims the next epoch and
//! ends it as cancelled. Otherwise the worker ends it. So an operation ends exactly once, in every order of events.
//!
//! A host that interrupts a run ends the operation in the next epoch, because the interrupted run may still send its own end. A
//! run that finds a fate in its epoch stores nothing. An operation has few epochs at most: attempts are bounded, and so are
//! returns without an attempt.
//!
//! # Tenants
//!
//! `ou` counts the operations and the bytes of a tenant. `on` and `ol` number its operations of each hour, for lists. `ox` is the
//! index of the sweep.
//!
//! # Queue
//!
//! The entries here are the truth. A host's queue ([`queue::FairQueue`]) only suggests the next operation. A host that
//! restarts
//! fills its queue from the entries. A host without a queue runs an operation when its caller asks for it.
//!
//! # Time to live
//!
//! Names carry the hour of creation. A [`sweep::Index`](crate::sweep) deletes entries of past hours.

mod announce;
mod announce_again;
mod ends;
mod entries;
pub mod events;
pub mod notes;
pub mod queue;
mod record;
mod removal;
pub mod service;
mod settings;
mod state;
mod steps;
mod store;
pub mod words;

pub use announce_again::Announced;
pub use entries::{Candidates, HEAD_SUFFIX, NAMES, head_name};
pub(crate) use entries::{PERIOD_MS, period};
pub use record::Accepted;
pub use settings::OperationsSettings;
pub(crate) use steps::StepSeen;
pub use store::{Acceptance, Cancelled, Operations};
pub use words::STEP;
