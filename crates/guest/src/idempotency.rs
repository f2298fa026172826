//! `penstock:idempotency` over `penstock-policy`, on the durable store.

use crate::kv::{DEFAULT, WitKv};
use penstock_core::KvError;
use penstock_core::kv::run_ready;
use penstock_policy::document;
use penstock_policy::idempotency::{
    Call, Claimed, Completed, Fingerprint, Idempotency, IdempotencyKey, Lease, Looked,
    OnStoreFailure, Outcome, Scope, Slot,
};
use std::cell::RefCell;
use std::rc::Rc;

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:idempotency/component",
        path: ["../../wit/deps/keyvalue", "../../wit/idempotency"],
        with: {
            "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
            "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
            "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
        },
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::idempotency::bindings",
    });
}

use bindings::exports::penstock::idempotency::idempotency as wit;

/// Seconds a caller is told to wait while another runs the same call and nothing better is known.
const RETRY_IN_FLIGHT_S: u32 = 1;

/// The component.
pub struct Component;

struct Shared {
    policy: RefCell<Idempotency>,
    kv: WitKv,
}

/// The policy, opened once.
pub struct Policy(Rc<Shared>);

/// A call that may be claimed, or was.
pub struct Attempt {
    shared: Rc<Shared>,
    scope: Scope,
    fingerprint: Fingerprint,
    slot: Slot,
    lease: RefCell<Option<Lease>>,
}

impl wit::Guest for Component {
    type Policy = Policy;
    type Attempt = Attempt;
}

fn refusal(kind: wit::RefusalKind, message: impl Into<String>) -> wit::Refusal {
    wit::Refusal {
        kind,
        message: message.into(),
        retry_after_s: None,
    }
}

fn in_flight(retry_after_s: u32) -> wit::Refusal {
    wit::Refusal {
        retry_after_s: Some(retry_after_s),
        ..refusal(
            wit::RefusalKind::InFlight,
            "a call with this idempotency key is being made; repeat it after Retry-After seconds to get its result",
        )
    }
}

fn store_failed(error: &KvError) -> wit::Refusal {
    refusal(
        wit::RefusalKind::StoreFailed,
        format!("whether this call was made before is not known: {error}"),
    )
}

fn answer(outcome: Outcome) -> wit::Answer {
    wit::Answer {
        status: outcome.status,
        headers: outcome.headers,
        body: match outcome.body {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => wit::Body::Text(text),
                Err(not_text) => wit::Body::Bytes(not_text.into_bytes()),
            },
            Err(bytes) => wit::Body::Omitted(bytes),
        },
    }
}

impl Shared {
    /// Whether calls go on without protection when the store does not answer.
    fn fails_open(&self) -> bool {
        self.policy.borrow().settings().on_store_failure == OnStoreFailure::Open
    }
}

impl wit::GuestPolicy for Policy {
    fn open(text: String) -> Result<wit::Policy, String> {
        let settings = document::idempotency(&text)?;
        Ok(wit::Policy::new(Policy(Rc::new(Shared {
            policy: RefCell::new(Idempotency::new(settings)),
            kv: WitKv::new(&[DEFAULT]),
        }))))
    }

    fn settings(&self) -> wit::Settings {
        let policy = self.0.policy.borrow();
        wit::Settings {
            enabled: policy.settings().enabled,
            required: policy.settings().required.clone(),
            max_record_bytes: policy.settings().max_record_bytes,
        }
    }

    fn look(&self, call: wit::Call, now_ms: u64) -> Result<wit::Looked, wit::Refusal> {
        let invalid = |message: String| refusal(wit::RefusalKind::Invalid, message);
        let headers = call.idempotency_keys.iter().map(Vec::as_slice);
        let key = IdempotencyKey::from_headers(headers)
            .map_err(|fault| invalid(fault.to_string()))?
            .ok_or_else(|| invalid("the call has no idempotency key".to_owned()))?;
        let fingerprint = Fingerprint::from_name(&call.fingerprint)
            .ok_or_else(|| invalid("the call's fingerprint is not one".to_owned()))?;
        let scope = Scope::of(
            &Call {
                tenant: &call.tenant,
                method: &call.method,
                route: &call.route,
                query: "",
                content_type: "",
                body: b"",
            },
            &key,
        );
        let shared = &self.0;
        let looked = run_ready(shared.policy.borrow().look(
            &shared.kv,
            &scope,
            &fingerprint,
            now_ms,
        ));
        match looked {
            Ok(Looked::Free(slot)) => Ok(wit::Looked::Free(wit::Attempt::new(Attempt {
                shared: shared.clone(),
                scope,
                fingerprint,
                slot,
                lease: RefCell::default(),
            }))),
            Ok(Looked::Done(outcome)) => Ok(wit::Looked::Done(answer(outcome))),
            Ok(Looked::InFlight { retry_after_s }) => Err(in_flight(retry_after_s)),
            Ok(Looked::Mismatch) => Err(refusal(
                wit::RefusalKind::Mismatch,
                "this idempotency key was used for a call with another query, content type or body; use a new key for a new \
                 call",
            )),
            Ok(Looked::Exhausted) => Err(refusal(
                wit::RefusalKind::Exhausted,
                "the call of this idempotency key was begun too often without an end; use a new key",
            )),
            Err(_) if shared.fails_open() => Ok(wit::Looked::Unprotected),
            Err(error) => Err(store_failed(&error)),
        }
    }
}

impl wit::GuestAttempt for Attempt {
    fn claim(&self, now_ms: u64, random: u64) -> Result<wit::Claimed, wit::Refusal> {
        let claimed = run_ready(self.shared.policy.borrow_mut().claim(
            &self.shared.kv,
            &self.scope,
            &self.fingerprint,
            &self.slot,
            now_ms,
            random,
        ));
        match claimed {
            Ok(Claimed::Granted(lease)) => {
                *self.lease.borrow_mut() = Some(lease);
                Ok(wit::Claimed::Granted)
            }
            Ok(Claimed::Done(outcome)) => Ok(wit::Claimed::Done(answer(outcome))),
            Ok(Claimed::InFlight { retry_after_s }) => Err(in_flight(retry_after_s)),
            Err(_) if self.shared.fails_open() => Ok(wit::Claimed::Unprotected),
            Err(error) => Err(store_failed(&error)),
        }
    }

    fn complete(&self, answered: wit::Answer, now_ms: u64) -> Result<wit::Completed, wit::Refusal> {
        let policy = self.shared.policy.borrow();
        let Some(lease) = self.lease.borrow().clone() else {
            return Err(store_failed(&KvError::new("the call was not claimed")));
        };
        let bytes = match &answered.body {
            wit::Body::Text(text) => text.as_bytes(),
            wit::Body::Bytes(bytes) => bytes,
            wit::Body::Omitted(_) => &[],
        };
        let mut outcome = Outcome::of(
            self.fingerprint.clone(),
            now_ms,
            answered.status,
            answered.headers,
            bytes,
            policy.settings().max_record_bytes,
        );
        if let wit::Body::Omitted(bytes) = answered.body {
            outcome.body = Err(bytes);
        }
        let completed =
            run_ready(policy.complete(&self.shared.kv, &self.scope, &lease, &outcome, now_ms));
        drop(policy);
        match completed {
            Ok(Completed::Published) => Ok(wit::Completed::Published),
            Ok(Completed::Superseded(Looked::Done(outcome))) => {
                Ok(wit::Completed::Superseded(answer(outcome)))
            }
            Ok(Completed::Superseded(Looked::InFlight { retry_after_s })) => {
                Err(in_flight(retry_after_s))
            }
            Ok(Completed::Superseded(_)) => Err(in_flight(RETRY_IN_FLIGHT_S)),
            // The result is known and cannot be kept: a caller who need not be protected gets it.
            Err(_) if self.shared.fails_open() => Ok(wit::Completed::Published),
            Err(error) => Err(refusal(
                wit::RefusalKind::StoreFailed,
                format!("the call was made and its result could not be recorded: {error}"),
            )),
        }
    }

    fn release(&self) {
        if let Some(lease) = self.lease.borrow_mut().take() {
            // If the store does not answer, the lease ends by itself.
            let _ = run_ready(self.shared.policy.borrow().release(
                &self.shared.kv,
                &self.scope,
                &lease,
            ));
        }
    }
}
