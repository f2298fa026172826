//! The words between idempotency and the gate: what is asked of a call, and what is answered.
//!
//! The WIT package `penstock:idempotency` says the same for components; the shells in `guest` convert and add nothing.

use penstock_core::headers::Headers;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Code, Problem};

/// What a gate needs to know of the `[idempotency]` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether the header is acted upon.
    pub enabled: bool,
    /// Kinds of routes that are refused without the header.
    pub required: Vec<String>,
    /// Bytes of a body that are kept; a larger one need not be passed.
    pub max_record_bytes: u64,
}

/// A call, as far as idempotency is concerned.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The caller's tenant.
    pub tenant: &'a str,
    /// The method, in upper case.
    pub method: &'a str,
    /// What the call is for; without the query.
    pub route: &'a str,
    /// The values of all `Idempotency-Key` headers.
    pub idempotency_keys: Vec<&'a [u8]>,
    /// 64 hexadecimal digits that two calls share when they are the same.
    pub fingerprint: &'a str,
}

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Headers,
    /// The body, or how many bytes it had when it was too large to keep.
    pub body: Result<Vec<u8>, u64>,
}

/// Why idempotency refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The header is not an idempotency key.
    Invalid,
    /// Another caller runs the same call now.
    InFlight,
    /// The key was used for another call.
    Mismatch,
    /// The key was tried too often.
    Exhausted,
    /// The store does not answer.
    StoreFailed,
}

impl RefusalKind {
    /// The error a call is answered with.
    pub const fn code(self) -> Code {
        match self {
            Self::Invalid => Code::IdempotencyKeyInvalid,
            Self::InFlight => Code::IdempotencyInFlight,
            Self::Mismatch => Code::IdempotencyKeyReused,
            Self::Exhausted => Code::IdempotencyKeyExhausted,
            Self::StoreFailed => Code::StoreUnavailable,
        }
    }
}

/// A refused call, as the caller is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// What happened and what to do.
    pub message: String,
    /// Seconds after which a retry has a chance.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal that says nothing of when to come back.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_s: None,
        }
    }

    /// The problem the call is answered with.
    pub fn problem(self) -> Problem {
        let problem = Problem::new(self.kind.code(), self.message);
        match (self.retry_after_s, self.kind) {
            (Some(seconds), _) => problem.retry_after(seconds),
            (None, RefusalKind::StoreFailed) => problem.retry_after(RETRY_STORE_S),
            (None, _) => problem,
        }
    }
}

/// What is known of a call.
#[derive(Clone, Debug)]
pub enum Looked<A> {
    /// It may be claimed.
    Free(A),
    /// It was done, with this answer.
    Done(Kept),
    /// The store does not answer, and the policy says to go on without it.
    Unprotected,
}

/// What came of claiming a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is this caller's to run, and to complete or release.
    Granted,
    /// An earlier caller had finished it after all.
    Done(Kept),
    /// The store does not answer, and the policy says to go on without it.
    Unprotected,
}

/// What came of ending a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The answer counts. Every replay is it, unless the store failed and the policy says to go on without it.
    Published,
    /// The lease was over, and another answer counts.
    Superseded(Kept),
}
