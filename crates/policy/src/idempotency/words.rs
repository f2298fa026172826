//! The types between idempotency and the gate: a call, and the decision on it.
//!
//! The WIT package `penstock:idempotency` has the same types for components. The components in `guest` only convert.

use penstock_core::headers::Headers;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Code, Problem};

/// The settings of `[idempotency]` that the gate needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether the header has an effect.
    pub enabled: bool,
    /// Kinds of routes that are refused without the header.
    pub required: Vec<String>,
    /// The largest body that is stored, in bytes. The gate need not pass a larger one.
    pub max_record_bytes: u64,
}

/// The properties of a call on which idempotency depends.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The tenant of the caller. Two tenants may use the same key for different calls.
    pub tenant: &'a str,
    /// The method, in upper case.
    pub method: &'a str,
    /// The form of the call and its model, for example `predict iris`. Different paths for one call have the same.
    pub call_name: &'a str,
    /// The values of all `Idempotency-Key` headers.
    pub idempotency_keys: Vec<&'a [u8]>,
    /// Digest of the call, 64 hexadecimal digits, equal for equal calls.
    pub fingerprint: &'a str,
}

/// The answer of an earlier call with the same key, for a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Headers,
    /// The body; or its size in bytes if it was too large to store.
    pub body: Result<Vec<u8>, u64>,
}

/// The reason why idempotency refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The header is not an idempotency key.
    Invalid,
    /// The same call is running now.
    InFlight,
    /// The key was used for another call.
    Mismatch,
    /// The key was tried too often.
    Exhausted,
    /// The store does not answer.
    StoreFailed,
}

impl RefusalKind {
    /// The error code of the answer.
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

/// The refusal of a call, as the answer reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller: the cause and the remedy.
    pub message: String,
    /// Seconds after which a retry can pass.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// Makes a refusal without a time to wait.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_s: None,
        }
    }

    /// The problem document of the answer.
    pub fn problem(self) -> Problem {
        let problem = Problem::new(self.kind.code(), self.message);
        match (self.retry_after_s, self.kind) {
            (Some(seconds), _) => problem.retry_after(seconds),
            (None, RefusalKind::StoreFailed) => problem.retry_after(RETRY_STORE_S),
            (None, _) => problem,
        }
    }
}

/// The result of the lookup of a call.
#[derive(Clone, Debug)]
pub enum Lookup<A> {
    /// The call did not run and may be claimed.
    Free(A),
    /// It was completed with this answer.
    Done(StoredAnswer),
    /// The store does not answer, and the policy is to go on without it.
    Unprotected,
}

/// The result of the claim of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// This caller runs it, and completes or releases it.
    Granted,
    /// An earlier caller had completed it with this answer.
    Done(StoredAnswer),
    /// The store does not answer, and the policy is to go on without it.
    Unprotected,
}

/// The result of the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The answer counts, and every retry gets it. Exception: the store failed, and the policy is to go on without it.
    Published,
    /// The lease had ended, and this other answer counts.
    Superseded(StoredAnswer),
}
