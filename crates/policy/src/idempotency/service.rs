//! Idempotency as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::claim::{ClaimResult, CompleteResult, RecordState};
use super::key::CallParts;
use super::words::{
    Call, ClaimOutcome, Completion, Lookup, Refusal, RefusalKind, Rules, StoredAnswer,
};
use super::{
    Fingerprint, Idempotency, IdempotencyKey, Lease, OnStoreFailure, Outcome, Scope, Slot,
};
use crate::document;
use penstock_core::kv::run_ready;
use penstock_core::{Kv, KvError};
use std::cell::RefCell;
use std::rc::Rc;

/// Seconds for `Retry-After` while the same call runs, if no better value is known.
const RETRY_IN_FLIGHT_S: u32 = 1;

/// The idempotency of a policy.
pub trait IdempotencyService {
    /// A call that may be claimed, or was.
    type Attempt: AttemptService;

    /// The settings that the gate needs.
    fn rules(&self) -> Rules;
    /// Looks for an earlier run of the call under its key.
    fn look_up(&self, call: &Call<'_>, now_ms: u64) -> Result<Lookup<Self::Attempt>, Refusal>;
}

/// A call that may be claimed, or was.
pub trait AttemptService {
    /// Claims the call, to run it.
    fn claim(&self, now_ms: u64, random: u64) -> Result<ClaimOutcome, Refusal>;
    /// Ends a run whose answer is to be replayed.
    fn complete(&self, answer: StoredAnswer, now_ms: u64) -> Result<Completion, Refusal>;
    /// Releases a call that provably did not run, or whose answer must not be replayed.
    fn release(&self);
}

/// Idempotency over a store, with the memory of one instance.
///
/// ```
/// use penstock_policy::idempotency::service::{AttemptService, IdempotencyService, KvIdempotency};
/// use penstock_policy::idempotency::words::{Call, ClaimOutcome, StoredAnswer, Lookup};
/// use penstock_testkit::MemoryKv;
///
/// let idempotency = KvIdempotency::open("", MemoryKv::default()).unwrap();
/// let call = Call {
///     tenant: "acme",
///     method: "POST",
///     call_name: "predict m",
///     idempotency_keys: vec![b"order-17"],
///     fingerprint: &"0".repeat(64),
/// };
/// let now_ms = 1_700_000_000_000;
///
/// let Lookup::Free(attempt) = idempotency.look_up(&call, now_ms).unwrap() else { panic!() };
/// assert_eq!(attempt.claim(now_ms, 1).unwrap(), ClaimOutcome::Granted);
/// let answer = StoredAnswer { status: 200, headers: Vec::new(), body: Ok(b"{}".to_vec()) };
/// attempt.complete(answer.clone(), now_ms).unwrap();
///
/// // The second call gets the answer of the first.
/// let Lookup::Done(kept) = idempotency.look_up(&call, now_ms).unwrap() else { panic!() };
/// assert_eq!(kept, answer);
/// ```
#[derive(Debug)]
pub struct KvIdempotency<K>(Rc<Shared<K>>);

/// A call that [`KvIdempotency`] found free.
#[derive(Debug)]
pub struct KvAttempt<K> {
    shared: Rc<Shared<K>>,
    scope: Scope,
    fingerprint: Fingerprint,
    slot: Slot,
    lease: RefCell<Option<Lease>>,
}

#[derive(Debug)]
struct Shared<K> {
    policy: RefCell<Idempotency>,
    kv: K,
}

impl<K> Shared<K> {
    /// Returns whether calls go on without protection while the store does not answer.
    fn fails_open(&self) -> bool {
        self.policy.borrow().settings().on_store_failure == OnStoreFailure::Open
    }
}

impl<K: Kv> KvIdempotency<K> {
    /// Reads the `[idempotency]` of a policy file; the error is a sentence for the operator.
    pub fn open(text: &str, kv: K) -> Result<Self, String> {
        Ok(Self(Rc::new(Shared {
            policy: RefCell::new(Idempotency::new(document::idempotency(text)?)),
            kv,
        })))
    }
}

impl<K: Kv> IdempotencyService for KvIdempotency<K> {
    type Attempt = KvAttempt<K>;

    fn rules(&self) -> Rules {
        let policy = self.0.policy.borrow();
        Rules {
            enabled: policy.settings().enabled,
            required: policy.settings().required.clone(),
            max_record_bytes: policy.settings().max_record_bytes,
        }
    }

    fn look_up(&self, call: &Call<'_>, now_ms: u64) -> Result<Lookup<KvAttempt<K>>, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let key = IdempotencyKey::from_headers(call.idempotency_keys.iter().copied())
            .map_err(|fault| invalid(fault.to_string()))?
            .ok_or_else(|| invalid("the call has no idempotency key".to_owned()))?;
        let fingerprint = Fingerprint::from_name(call.fingerprint)
            .ok_or_else(|| invalid("the call's fingerprint is not valid".to_owned()))?;
        let parts = CallParts {
            tenant: call.tenant,
            method: call.method,
            call_name: call.call_name,
            query: "",
            content_type: "",
            body: b"",
        };
        let scope = Scope::of(&parts, &key);
        let shared = &self.0;
        let policy = shared.policy.borrow();
        let looked = run_ready(policy.look_up(&shared.kv, &scope, &fingerprint, now_ms));
        drop(policy);
        match looked {
            Ok(RecordState::Free(slot)) => Ok(Lookup::Free(KvAttempt {
                shared: shared.clone(),
                scope,
                fingerprint,
                slot,
                lease: RefCell::default(),
            })),
            Ok(RecordState::Done(outcome)) => Ok(Lookup::Done(kept(outcome))),
            Ok(RecordState::InFlight { retry_after_s }) => Err(in_flight(retry_after_s)),
            Ok(RecordState::Mismatch) => Err(Refusal::new(
                RefusalKind::Mismatch,
                "this idempotency key was used for a call with another query, content type or body; use a new key for a new \
                 call",
            )),
            Ok(RecordState::Exhausted) => Err(Refusal::new(
                RefusalKind::Exhausted,
                "the call with this idempotency key was started too often without finishing; use a new key",
            )),
            Err(_) if shared.fails_open() => Ok(Lookup::Unprotected),
            Err(error) => Err(store_failed(&error)),
        }
    }
}

impl<K: Kv> AttemptService for KvAttempt<K> {
    fn claim(&self, now_ms: u64, random: u64) -> Result<ClaimOutcome, Refusal> {
        let mut policy = self.shared.policy.borrow_mut();
        let claimed = run_ready(policy.claim(
            &self.shared.kv,
            &self.scope,
            &self.fingerprint,
            &self.slot,
            now_ms,
            random,
        ));
        drop(policy);
        match claimed {
            Ok(ClaimResult::Granted(lease)) => {
                *self.lease.borrow_mut() = Some(lease);
                Ok(ClaimOutcome::Granted)
            }
            Ok(ClaimResult::Done(outcome)) => Ok(ClaimOutcome::Done(kept(outcome))),
            Ok(ClaimResult::InFlight { retry_after_s }) => Err(in_flight(retry_after_s)),
            Err(_) if self.shared.fails_open() => Ok(ClaimOutcome::Unprotected),
            Err(error) => Err(store_failed(&error)),
        }
    }

    fn complete(&self, answer: StoredAnswer, now_ms: u64) -> Result<Completion, Refusal> {
        let Some(lease) = self.lease.borrow().clone() else {
            return Err(store_failed(&KvError::new("the call was not claimed")));
        };
        let policy = self.shared.policy.borrow();
        let max_bytes = policy.settings().max_record_bytes;
        let StoredAnswer {
            status,
            headers,
            body,
        } = answer;
        let fingerprint = self.fingerprint.clone();
        let mut outcome = Outcome::of(fingerprint, now_ms, status, headers, b"", max_bytes);
        // Move the body instead of copying it: it may have megabytes.
        outcome.body = match body {
            Ok(body) if body.len() as u64 > max_bytes => Err(body.len() as u64),
            body => body,
        };
        let completed =
            run_ready(policy.complete(&self.shared.kv, &self.scope, &lease, &outcome, now_ms));
        drop(policy);
        match completed {
            Ok(CompleteResult::Published) => Ok(Completion::Published),
            Ok(CompleteResult::Superseded(RecordState::Done(outcome))) => {
                Ok(Completion::Superseded(kept(outcome)))
            }
            Ok(CompleteResult::Superseded(RecordState::InFlight { retry_after_s })) => {
                Err(in_flight(retry_after_s))
            }
            Ok(CompleteResult::Superseded(_)) => Err(in_flight(RETRY_IN_FLIGHT_S)),
            // The result cannot be stored. The policy is `open`, so the caller gets it nevertheless.
            Err(_) if self.shared.fails_open() => Ok(Completion::Published),
            Err(error) => Err(Refusal::new(
                RefusalKind::StoreFailed,
                format!("the call ran, but its result could not be recorded: {error}"),
            )),
        }
    }

    fn release(&self) {
        if let Some(lease) = self.lease.borrow_mut().take() {
            let policy = self.shared.policy.borrow();
            // If the store does not answer, the lease lapses.
            let _ = run_ready(policy.release(&self.shared.kv, &self.scope, &lease));
        }
    }
}

fn kept(outcome: Outcome) -> StoredAnswer {
    StoredAnswer {
        status: outcome.status,
        headers: outcome.headers,
        body: outcome.body,
    }
}

fn in_flight(retry_after_s: u32) -> Refusal {
    Refusal {
        retry_after_s: Some(retry_after_s),
        ..Refusal::new(
            RefusalKind::InFlight,
            "a call with this idempotency key is in progress; repeat it after Retry-After seconds to get its result",
        )
    }
}

fn store_failed(error: &KvError) -> Refusal {
    Refusal::new(
        RefusalKind::StoreFailed,
        format!("the store cannot tell whether this call was made before: {error}"),
    )
}
