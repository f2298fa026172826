//! The words between a policy of the operator's own and the gate.
//!
//! The WIT package `penstock:policy` says the same for components; the shells in `guest` convert and add nothing.

use super::MAX_MESSAGE_CHARS;
use penstock_core::{Caller, Code, Problem};

/// Headers as a policy gives them: nobody has checked them yet.
pub type RawHeaders = Vec<(String, Vec<u8>)>;

/// What a policy wants, so that the gate copies and asks nothing in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The gate asks about each call. Without it, nothing else is used.
    pub calls: bool,
    /// Names of the request's headers that a call has, in lower case.
    pub headers: Vec<String>,
    /// The gate tells how each call ended.
    pub settles: bool,
}

/// A call, as far as a policy is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller, as `auth` recognised it.
    pub caller: &'a Caller,
    /// The kind of route; never the path that a client sent.
    pub route: &'a str,
    /// The model's name as the caller gave it.
    pub model: Option<&'a str>,
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query as sent.
    pub target: &'a str,
    /// The headers that the scope names.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Bytes of the body.
    pub body_bytes: u64,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The caller may not do this.
    Forbidden,
    /// The caller has used up what it may.
    UsedUp,
    /// The policy cannot decide now.
    StoreFailed,
}

impl RefusalKind {
    /// The error a call is answered with.
    pub const fn code(self) -> Code {
        match self {
            Self::Forbidden => Code::PermissionDenied,
            Self::UsedUp => Code::QuotaExceeded,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// What happened and what to do.
    pub message: String,
    /// Seconds after which a retry has a chance.
    pub retry_after_s: u32,
    /// Headers for the answer.
    pub headers: RawHeaders,
}

impl Refusal {
    /// The problem the call is answered with, and the headers that come with it.
    pub fn problem(self) -> (Problem, RawHeaders) {
        let message: String = self.message.chars().take(MAX_MESSAGE_CHARS).collect();
        let problem = Problem::new(self.kind.code(), message);
        let problem = match self.kind {
            // The same call is refused again, however long the caller waits.
            RefusalKind::Forbidden => problem,
            RefusalKind::UsedUp | RefusalKind::StoreFailed => {
                problem.retry_after(self.retry_after_s.max(1))
            }
        };
        (problem, self.headers)
    }
}

/// An admitted call.
#[derive(Clone, Debug)]
pub struct Admitted<A> {
    /// The call, until it ends.
    pub admission: A,
    /// Headers for the answer.
    pub headers: RawHeaders,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Items that ran; 0 for a replay, a cache hit and a refusal.
    pub items: u64,
    /// Microseconds that the model ran for.
    pub compute_us: u64,
    /// Whether the last run failed by the model's fault: not for refused inputs, a full queue or a timeout that was too short.
    pub failed: bool,
}
