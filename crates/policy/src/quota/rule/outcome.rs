//! Says what a charge leads to: how the limit stands, and the receipt by which the charge is undone.

use crate::quota::gcra::Charge;

/// What a limit says to a charge.
#[derive(Debug)]
pub struct ChargeOutcome {
    /// What to give back later, or when to try again.
    pub outcome: Result<Passed, Over>,
    /// How the limit stands afterwards for another call of the same cost; `None` where the store did not
    /// say.
    pub standing: Option<Standing>,
}

/// How a limit stands at a moment, for a call of some cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Units left: a call of that cost passes, and one of more does not.
    pub left: u64,
    /// Milliseconds until a call of the cost passes if nobody else calls; 0 where it passes now. It passes from then
    /// on, at every instance.
    pub retry_ms: u64,
    /// Milliseconds until the window ends or the bucket is full. Where a call of the cost passes only by units that
    /// this instance took ahead, until it passes without them if that is later.
    pub reset_ms: u64,
}

impl Standing {
    /// What a client is told to wait: until the call passes, or, where it passes now, until the window
    /// ends or the bucket is full.
    pub fn told_ms(&self) -> u64 {
        match self.retry_ms {
            0 => self.reset_ms,
            retry_ms => retry_ms,
        }
    }
}

/// A charge that passed.
#[derive(Debug)]
pub struct Passed {
    /// How it is undone.
    pub receipt: Option<Receipt>,
    /// Milliseconds the call has to wait first.
    pub wait_ms: u64,
}

/// A charge that did not pass, and was not made.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// Milliseconds until it has a chance.
    pub retry_ms: u64,
    /// Whether it never has one.
    pub too_large: bool,
    /// Whether the store was not asked.
    pub from_memory: bool,
}

/// A charge, as far as its status is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Charged {
    /// Whose.
    pub subject: u128,
    /// Units.
    pub amount: u64,
    /// Whether the compare-and-swap was trusted.
    pub sound: bool,
}

/// What was charged, so that it can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Added to a counter.
    Counter {
        /// Whose.
        subject: u128,
        /// The window.
        span: u64,
        /// Units.
        amount: u64,
        /// When nobody reads the counter any more.
        matters_until_ms: u64,
    },
    /// Taken from what the instance had leased.
    Leased {
        /// Whose.
        subject: u128,
        /// The window.
        span: u64,
        /// Units.
        amount: u64,
    },
    /// Put into a bucket.
    Bucket {
        /// Whose.
        subject: u128,
        /// The generation of its value.
        generation: u64,
        /// What was put in.
        charge: Charge,
        /// When the bucket is full again in any case.
        matters_until_ms: u64,
    },
    /// A place among running calls.
    Place {
        /// The counter.
        name: String,
        /// When the lease has ended for everybody.
        matters_until_ms: u64,
    },
}
