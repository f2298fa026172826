//! The types between an operator's own policy and the gate.
//!
//! The WIT package `penstock:policy` has the same types for components. The components in `guest` only convert.

use super::MAX_MESSAGE_CHARS;
use penstock_core::{Caller, Code, Problem};

/// Headers from a policy. They are not checked yet.
pub type RawHeaders = Vec<(String, Vec<u8>)>;

/// The questions that the gate asks a policy, and the data that it passes. The gate copies nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The gate asks about each call. Without it, nothing else is used.
    pub calls: bool,
    /// Names of the request's headers that a call has, in lower case.
    pub headers: Vec<String>,
    /// The gate reports the outcome of each call.
    pub settles: bool,
}

/// The properties of a call on which a policy may decide.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller that `auth` identified.
    pub caller: &'a Caller,
    /// The kind of route. It is never the path that a client sent.
    pub route: &'a str,
    /// The model's name as the caller gave it.
    pub model: Option<&'a str>,
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query as sent.
    pub target: &'a str,
    /// The headers that the scope names.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Size of the body in bytes, as received.
    pub body_bytes: u64,
}

/// The reason why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The caller lacks the permission.
    Forbidden,
    /// The caller reached its limit.
    UsedUp,
    /// The policy cannot decide now.
    StoreFailed,
}

impl RefusalKind {
    /// The error code of the answer.
    pub const fn code(self) -> Code {
        match self {
            Self::Forbidden => Code::PermissionDenied,
            Self::UsedUp => Code::QuotaExceeded,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

/// The policy's refusal of a call, as the answer reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller: the cause and the remedy. The answer has at most its first 1000 characters.
    pub message: String,
    /// Seconds after which a retry can pass.
    pub retry_after_s: u32,
    /// Headers that the answer gets.
    pub headers: RawHeaders,
}

impl Refusal {
    /// Returns the problem document of the answer, and its headers.
    pub fn problem(self) -> (Problem, RawHeaders) {
        let message: String = self.message.chars().take(MAX_MESSAGE_CHARS).collect();
        let problem = Problem::new(self.kind.code(), message);
        let problem = match self.kind {
            // A retry is refused again, so there is no time to wait for.
            RefusalKind::Forbidden => problem,
            RefusalKind::UsedUp | RefusalKind::StoreFailed => {
                problem.retry_after(self.retry_after_s.max(1))
            }
        };
        (problem, self.headers)
    }
}

/// A call that the policy admitted, with its headers for the answer.
#[derive(Clone, Debug)]
pub struct Admitted<A> {
    /// The call, until it ends.
    pub admission: A,
    /// Headers that the answer gets.
    pub headers: RawHeaders,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Items that ran; 0 for a replay, a cache hit and a refusal.
    pub items: u64,
    /// The time in microseconds for which the model ran.
    pub compute_us: u64,
    /// Whether the model failed in the last run. Refused inputs, a full queue and a short timeout do not count.
    pub failed: bool,
}
