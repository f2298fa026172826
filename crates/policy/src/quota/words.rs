//! The types between quota and the gate: a call, and the decision on it.
//!
//! The WIT package `penstock:quota` has the same types for components. The components in `guest` only convert.

use penstock_core::headers::Headers;
use penstock_core::{Caller, Code, Problem};

/// The properties of a call on which limits depend.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller, as `auth` recognised it.
    pub caller: &'a Caller,
    /// The kind of route; never the path that a client sent.
    pub route: &'a str,
    /// The model's name as the caller gave it.
    pub model: Option<&'a str>,
    /// Size of the body in bytes, as received. A compressed body counts with its compressed size.
    pub body_bytes: u64,
}

/// The kinds of limits that a policy has. A gate skips the calls to quota that no limit needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// A limit applies to calls.
    pub calls: bool,
    /// A limit counts items.
    pub items: bool,
    /// A limit is settled after a call: on compute time or concurrent calls.
    pub settles: bool,
}

/// The reason why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// A limit is used up at the moment.
    UsedUp,
    /// The call alone exceeds a limit, so a retry can never pass.
    TooLarge,
    /// The caller was refused too often within a minute.
    BackOff,
    /// The store did not answer, and a limit is `closed` in that case.
    StoreFailed,
}

impl RefusalKind {
    /// The error code of the answer.
    pub const fn code(self) -> Code {
        match self {
            Self::UsedUp | Self::BackOff => Code::QuotaExceeded,
            Self::TooLarge => Code::BodyTooLarge,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

/// The refusal of a call, as the answer reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// The limit that refused; empty if no single limit is the reason.
    pub limit: String,
    /// Message for the caller: the cause and the remedy.
    pub message: String,
    /// Seconds after which a retry can pass.
    pub retry_after_s: u32,
    /// Headers that the answer gets.
    pub headers: Headers,
}

impl Refusal {
    /// The problem document of the answer, and its headers.
    pub fn problem(self) -> (Problem, Headers) {
        let problem = Problem::new(self.kind.code(), self.message);
        let problem = match self.kind {
            // A retry never helps a call that is too large.
            RefusalKind::TooLarge => problem,
            _ => problem.retry_after(self.retry_after_s),
        };
        (problem, self.headers)
    }
}

/// A call that the limits admit, perhaps after a wait.
#[derive(Clone, Debug)]
pub struct Admitted<A> {
    /// The charges of the call.
    pub admission: A,
    /// Milliseconds to wait before the call goes on.
    pub wait_ms: u32,
    /// Headers that the answer gets.
    pub headers: Headers,
}
