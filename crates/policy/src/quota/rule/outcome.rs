//! The results of a charge: the standing of the limit, and the receipt by which the charge is undone.

use crate::quota::gcra::Charge;
use serde::{Deserialize, Serialize};

/// The result of a charge.
#[derive(Debug)]
pub struct ChargeOutcome {
    /// The charge, or when to retry.
    pub outcome: Result<Passed, Over>,
    /// The standing afterwards for another call of the same cost; `None` where the store did not tell.
    pub standing: Option<Standing>,
}

/// The standing of a limit at one moment, for a call of a given cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Units that are left. A call of that cost passes; a larger one does not.
    pub left: u64,
    /// Milliseconds until a call of the cost passes, without other calls; 0 if it passes now. From then on it passes at
    /// every instance.
    pub retry_ms: u64,
    /// Milliseconds until the window ends or the bucket is full. If a call of the cost passes only with units that this
    /// instance took ahead, it lasts until the call passes without them, where that is later.
    pub reset_ms: u64,
}

impl Standing {
    /// The wait that a client is told: until the call passes, or, if it passes now, until the window ends or the bucket
    /// is full.
    pub fn told_ms(&self) -> u64 {
        match self.retry_ms {
            0 => self.reset_ms,
            retry_ms => retry_ms,
        }
    }
}

/// A charge that passed, perhaps after a wait.
#[derive(Debug)]
pub struct Passed {
    /// The receipt that undoes it.
    pub receipt: Option<Receipt>,
    /// Milliseconds that the call must wait before it goes on.
    pub wait_ms: u64,
}

/// A charge that did not pass. It changed no counter.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// Milliseconds until a retry can pass.
    pub retry_ms: u64,
    /// Whether a retry can never pass.
    pub too_large: bool,
    /// Whether the refusal came from memory, without the store.
    pub from_memory: bool,
}

/// The facts of a charge that its status depends on.
#[derive(Clone, Copy, Debug)]
pub struct Charged {
    /// The subject that was charged.
    pub subject: u128,
    /// The units that were taken from the limit.
    pub amount: u64,
    /// Whether the compare-and-swap was trusted.
    pub sound: bool,
}

/// A record of a charge, by which it can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receipt {
    /// The charge was added to a counter.
    Counter {
        /// The subject that was charged.
        subject: u128,
        /// The id of the window.
        span: u64,
        /// The units added to the counter.
        amount: u64,
        /// The time after which no instance reads the counter.
        matters_until_ms: u64,
    },
    /// Taken from units that the instance had leased.
    Leased {
        /// The subject that was charged.
        subject: u128,
        /// The id of the window.
        span: u64,
        /// The units taken from the lease.
        amount: u64,
    },
    /// The charge was put into a bucket.
    Bucket {
        /// The subject that was charged.
        subject: u128,
        /// The generation of its value.
        generation: u64,
        /// The charge, as a refund needs it.
        charge: Charge,
        /// The time at which the bucket is full again in any case.
        matters_until_ms: u64,
    },
    /// A place among running calls.
    Place {
        /// The name of the counter.
        name: String,
        /// The time at which the lease has ended for all instances.
        matters_until_ms: u64,
    },
}
