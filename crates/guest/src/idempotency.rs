//! Implements `penstock:idempotency` over `penstock-policy`, on the durable store.

#[cfg(feature = "idempotency")]
pub use component::{Component, bindings};

/// The component's side: its exports.
#[cfg(feature = "idempotency")]
mod component {
    use crate::kv::{DEFAULT, WitKv};
    use penstock_policy::idempotency::service::{
        AttemptService, IdempotencyService, KvAttempt, KvIdempotency,
    };
    use penstock_policy::idempotency::words::{
        Call, ClaimOutcome, Completion, Lookup, Refusal, RefusalKind, StoredAnswer,
    };

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

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvIdempotency<WitKv>;
        type Attempt = KvAttempt<WitKv>;
    }

    fn refusal(refusal: Refusal) -> wit::Refusal {
        wit::Refusal {
            kind: match refusal.kind {
                RefusalKind::Invalid => wit::RefusalKind::Invalid,
                RefusalKind::InFlight => wit::RefusalKind::InFlight,
                RefusalKind::Mismatch => wit::RefusalKind::Mismatch,
                RefusalKind::Exhausted => wit::RefusalKind::Exhausted,
                RefusalKind::StoreFailed => wit::RefusalKind::StoreFailed,
            },
            message: refusal.message,
            retry_after_s: refusal.retry_after_s,
        }
    }

    fn answer(kept: StoredAnswer) -> wit::Answer {
        wit::Answer {
            status: kept.status,
            headers: kept.headers,
            body: match kept.body.map(String::from_utf8) {
                Ok(Ok(text)) => wit::Body::Text(text),
                Ok(Err(not_text)) => wit::Body::Bytes(not_text.into_bytes()),
                Err(bytes) => wit::Body::Omitted(bytes),
            },
        }
    }

    fn kept(answer: wit::Answer) -> StoredAnswer {
        StoredAnswer {
            status: answer.status,
            headers: answer.headers,
            body: match answer.body {
                wit::Body::Text(text) => Ok(text.into_bytes()),
                wit::Body::Bytes(bytes) => Ok(bytes),
                wit::Body::Omitted(bytes) => Err(bytes),
            },
        }
    }

    impl wit::GuestPolicy for KvIdempotency<WitKv> {
        fn open(text: String) -> Result<wit::Policy, String> {
            Self::open(&text, WitKv::new(&[DEFAULT])).map(wit::Policy::new)
        }

        fn settings(&self) -> wit::Settings {
            let rules = self.rules();
            wit::Settings {
                enabled: rules.enabled,
                required: rules.required,
                max_record_bytes: rules.max_record_bytes,
            }
        }

        fn look_up(&self, call: wit::Call, now_ms: u64) -> Result<wit::Lookup, wit::Refusal> {
            let call = Call {
                tenant: &call.tenant,
                method: &call.method,
                call_name: &call.route,
                idempotency_keys: call.idempotency_keys.iter().map(Vec::as_slice).collect(),
                fingerprint: &call.fingerprint,
            };
            let looked = IdempotencyService::look_up(self, &call, now_ms).map_err(refusal)?;
            Ok(match looked {
                Lookup::Free(attempt) => wit::Lookup::Free(wit::Attempt::new(attempt)),
                Lookup::Done(kept) => wit::Lookup::Done(answer(kept)),
                Lookup::Unprotected => wit::Lookup::Unprotected,
            })
        }
    }

    impl wit::GuestAttempt for KvAttempt<WitKv> {
        fn claim(&self, now_ms: u64, random: u64) -> Result<wit::Claimed, wit::Refusal> {
            let claimed = AttemptService::claim(self, now_ms, random).map_err(refusal)?;
            Ok(match claimed {
                ClaimOutcome::Granted => wit::Claimed::Granted,
                ClaimOutcome::Done(kept) => wit::Claimed::Done(answer(kept)),
                ClaimOutcome::Unprotected => wit::Claimed::Unprotected,
            })
        }

        fn complete(
            &self,
            answered: wit::Answer,
            now_ms: u64,
        ) -> Result<wit::Completed, wit::Refusal> {
            let completed =
                AttemptService::complete(self, kept(answered), now_ms).map_err(refusal)?;
            Ok(match completed {
                Completion::Published => wit::Completed::Published,
                Completion::Superseded(kept) => wit::Completed::Superseded(answer(kept)),
            })
        }

        fn release(&self) {
            AttemptService::release(self);
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::idempotency::idempotency as wit;
    use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
    use penstock_policy::idempotency::words as idempotency;

    fn idempotency_refusal(refusal: wit::Refusal) -> idempotency::Refusal {
        use wit::RefusalKind as Wit;
        idempotency::Refusal {
            kind: match refusal.kind {
                Wit::Invalid => idempotency::RefusalKind::Invalid,
                Wit::InFlight => idempotency::RefusalKind::InFlight,
                Wit::Mismatch => idempotency::RefusalKind::Mismatch,
                Wit::Exhausted => idempotency::RefusalKind::Exhausted,
                Wit::StoreFailed => idempotency::RefusalKind::StoreFailed,
            },
            message: refusal.message,
            retry_after_s: refusal.retry_after_s,
        }
    }

    fn kept(answer: wit::Answer) -> idempotency::StoredAnswer {
        idempotency::StoredAnswer {
            status: answer.status,
            headers: answer.headers,
            body: match answer.body {
                wit::Body::Text(text) => Ok(text.into_bytes()),
                wit::Body::Bytes(bytes) => Ok(bytes),
                wit::Body::Omitted(bytes) => Err(bytes),
            },
        }
    }

    impl IdempotencyService for wit::Policy {
        type Attempt = wit::Attempt;

        fn rules(&self) -> idempotency::Rules {
            let settings = self.settings();
            idempotency::Rules {
                enabled: settings.enabled,
                required: settings.required,
                max_record_bytes: settings.max_record_bytes,
            }
        }

        fn look_up(
            &self,
            call: &idempotency::Call<'_>,
            now_ms: u64,
        ) -> Result<idempotency::Lookup<Self::Attempt>, idempotency::Refusal> {
            let call = wit::Call {
                tenant: call.tenant.to_owned(),
                method: call.method.to_owned(),
                route: call.call_name.to_owned(),
                idempotency_keys: call.idempotency_keys.iter().map(|k| k.to_vec()).collect(),
                fingerprint: call.fingerprint.to_owned(),
            };
            match self.look_up(&call, now_ms).map_err(idempotency_refusal)? {
                wit::Lookup::Free(attempt) => Ok(idempotency::Lookup::Free(attempt)),
                wit::Lookup::Done(answer) => Ok(idempotency::Lookup::Done(kept(answer))),
                wit::Lookup::Unprotected => Ok(idempotency::Lookup::Unprotected),
            }
        }
    }

    impl AttemptService for wit::Attempt {
        fn claim(
            &self,
            now_ms: u64,
            random: u64,
        ) -> Result<idempotency::ClaimOutcome, idempotency::Refusal> {
            match self.claim(now_ms, random).map_err(idempotency_refusal)? {
                wit::Claimed::Granted => Ok(idempotency::ClaimOutcome::Granted),
                wit::Claimed::Done(answer) => Ok(idempotency::ClaimOutcome::Done(kept(answer))),
                wit::Claimed::Unprotected => Ok(idempotency::ClaimOutcome::Unprotected),
            }
        }

        fn complete(
            &self,
            answer: idempotency::StoredAnswer,
            now_ms: u64,
        ) -> Result<idempotency::Completion, idempotency::Refusal> {
            let answer = wit::Answer {
                status: answer.status,
                headers: answer.headers,
                body: match answer.body.map(String::from_utf8) {
                    Ok(Ok(text)) => wit::Body::Text(text),
                    Ok(Err(not_text)) => wit::Body::Bytes(not_text.into_bytes()),
                    Err(bytes) => wit::Body::Omitted(bytes),
                },
            };
            match self
                .complete(&answer, now_ms)
                .map_err(idempotency_refusal)?
            {
                wit::Completed::Published => Ok(idempotency::Completion::Published),
                wit::Completed::Superseded(answer) => {
                    Ok(idempotency::Completion::Superseded(kept(answer)))
                }
            }
        }

        fn release(&self) {
            self.release();
        }
    }
}
