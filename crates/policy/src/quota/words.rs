//! The words between quota and the gate: what is asked of a call, and what is answered.
//!
//! The WIT package `penstock:quota` says the same for components; the shells in `guest` convert and add nothing.

use penstock_core::headers::Headers;
use penstock_core::{Caller, Code, Problem};

/// A call, as far as limits are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller, as `auth` recognised it.
    pub caller: &'a Caller,
    /// The kind of route; never the path that a client sent.
    pub route: &'a str,
    /// The model's name as the caller gave it.
    pub model: Option<&'a str>,
    /// Bytes of the body.
    pub body_bytes: u64,
}

/// Which limits a policy has, so that a gate does not ask in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Some limit applies to calls.
    pub calls: bool,
    /// Some limit counts items.
    pub items: bool,
    /// Some limit is settled after a call: compute time or calls at once.
    pub settles: bool,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// A limit is used up for now.
    UsedUp,
    /// The call alone is more than a limit ever allows; trying again is of no use.
    TooLarge,
    /// The caller was refused too often within a minute.
    BackOff,
    /// The store did not answer and a limit holds in doubt: the server's fault, not the caller's.
    StoreFailed,
}

impl RefusalKind {
    /// The error a call is answered with.
    pub const fn code(self) -> Code {
        match self {
            Self::UsedUp | Self::BackOff => Code::QuotaExceeded,
            Self::TooLarge => Code::BodyTooLarge,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

/// A refused call, as the caller is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// The limit that refused; empty where no single one is the reason.
    pub limit: String,
    /// What happened and what to do.
    pub message: String,
    /// Seconds after which a retry has a chance.
    pub retry_after_s: u32,
    /// Headers for the answer.
    pub headers: Headers,
}

impl Refusal {
    /// The problem the call is answered with, and the headers that come with it.
    pub fn problem(self) -> (Problem, Headers) {
        let problem = Problem::new(self.kind.code(), self.message);
        let problem = match self.kind {
            // Sending the same again never helps a call that is too large.
            RefusalKind::TooLarge => problem,
            _ => problem.retry_after(self.retry_after_s),
        };
        (problem, self.headers)
    }
}

/// An admitted call.
#[derive(Clone, Debug)]
pub struct Admitted<A> {
    /// What the call was charged.
    pub admission: A,
    /// Milliseconds to wait before the call goes on.
    pub wait_ms: u32,
    /// Headers for the answer.
    pub headers: Headers,
}
