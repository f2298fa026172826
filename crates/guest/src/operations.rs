//! Implements `penstock:operations` over `penstock-policy`, on the durable store.

#[cfg(feature = "operations")]
pub use component::{Component, bindings};

/// Defines the conversions between the records of one set of bindings and the words of the policy. The component and the gate
/// have different bindings of the same interface.
macro_rules! conversions {
    ($wit:ident) => {
        fn state_to_wit(state: words::OperationState) -> $wit::State {
            match state {
                words::OperationState::Queued => $wit::State::Queued,
                words::OperationState::Running => $wit::State::Running,
                words::OperationState::Succeeded => $wit::State::Succeeded,
                words::OperationState::Failed => $wit::State::Failed,
                words::OperationState::Cancelled => $wit::State::Cancelled,
            }
        }

        fn state_from_wit(state: $wit::State) -> words::OperationState {
            match state {
                $wit::State::Queued => words::OperationState::Queued,
                $wit::State::Running => words::OperationState::Running,
                $wit::State::Succeeded => words::OperationState::Succeeded,
                $wit::State::Failed => words::OperationState::Failed,
                $wit::State::Cancelled => words::OperationState::Cancelled,
            }
        }

        fn submission_from_wit(call: $wit::Submission) -> words::Submission {
            words::Submission {
                caller: caller_from_wit(call.caller),
                kind: call.kind,
                model: call.model,
                version: call.version,
                priority: call.priority,
                items: call.items,
                method: call.method,
                target: call.target,
                headers: call.headers,
                body: call.body,
                request_id: call.request_id,
                receipt: call.receipt,
                retry_of: call.retry_of,
                webhook: call.webhook.map(|target| Target {
                    tenant: target.tenant,
                    url: target.url,
                }),
            }
        }

        fn submission_to_wit(call: words::Submission) -> $wit::Submission {
            $wit::Submission {
                caller: caller_to_wit(&call.caller),
                kind: call.kind,
                model: call.model,
                version: call.version,
                priority: call.priority,
                items: call.items,
                method: call.method,
                target: call.target,
                headers: call.headers,
                body: call.body,
                request_id: call.request_id,
                receipt: call.receipt,
                retry_of: call.retry_of,
                webhook: call.webhook.map(|target| $wit::WebhookTarget {
                    tenant: target.tenant,
                    url: target.url,
                }),
            }
        }

        fn end_to_wit(end: words::End) -> $wit::End {
            $wit::End {
                state: state_to_wit(end.state),
                code: end.code,
                message: end.message,
                status: end.status,
                headers: end.headers,
                body_bytes: end.body_bytes,
                body: end.body,
            }
        }

        fn end_from_wit(end: $wit::End) -> words::End {
            words::End {
                state: state_from_wit(end.state),
                code: end.code,
                message: end.message,
                status: end.status,
                headers: end.headers,
                body_bytes: end.body_bytes,
                body: end.body,
            }
        }
    };
}

/// The component's side: its exports.
#[cfg(feature = "operations")]
mod component {
    use crate::kv::{DEFAULT, WitKv};
    use crate::types::{caller_from_wit, caller_to_wit};
    use penstock_core::OperationId;
    use penstock_policy::operations::service::{KvOperations, OperationsService};
    use penstock_policy::operations::{Cancelled, words};
    use penstock_policy::webhooks::delivery::{Delivery, DeliveryState};
    use penstock_policy::webhooks::target::Target;

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:operations/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/operations"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
                "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::operations::bindings",
        });
    }

    use bindings::exports::penstock::operations::operations as wit;

    conversions!(wit);

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvOperations<WitKv>;
    }

    fn refusal(refusal: words::Refusal) -> wit::Refusal {
        wit::Refusal {
            kind: match refusal.kind {
                words::RefusalKind::Full => wit::RefusalKind::Full,
                words::RefusalKind::NotNow => wit::RefusalKind::NotNow,
                words::RefusalKind::StoreFailed => wit::RefusalKind::StoreFailed,
            },
            message: refusal.message,
        }
    }

    fn operation_to_wit(operation: words::Operation) -> wit::Operation {
        wit::Operation {
            id: operation.id.as_str().to_owned(),
            tenant: operation.tenant,
            kind: operation.kind,
            model: operation.model,
            version: operation.version,
            items: operation.items,
            state: state_to_wit(operation.state),
            cancel_requested: operation.cancel_requested,
            created_ms: operation.created_ms,
            started_ms: operation.started_ms,
            ended_ms: operation.ended_ms,
            expires_ms: operation.expires_ms,
            next_attempt_ms: operation.next_attempt_ms,
            attempts: operation.attempts,
            epoch: operation.epoch,
            end: operation.end.map(end_to_wit),
            webhook: operation.webhook.map(webhook_to_wit),
        }
    }

    fn webhook_to_wit(webhook: words::Webhook) -> wit::Webhook {
        let Delivery {
            state,
            attempts,
            next_ms,
            note,
            earlier: _,
            generation: _,
        } = webhook.delivery;
        let attempts = attempts.into_iter().map(|attempt| wit::DeliveryAttempt {
            began_ms: attempt.began_ms,
            took_ms: attempt.took_ms,
            status: attempt.status,
            error: attempt.error,
        });
        wit::Webhook {
            url: webhook.url,
            state: match state {
                DeliveryState::Pending => wit::DeliveryState::Pending,
                DeliveryState::Delivered => wit::DeliveryState::Delivered,
                DeliveryState::Failed => wit::DeliveryState::Failed,
                DeliveryState::Disabled => wit::DeliveryState::Disabled,
                DeliveryState::Skipped => wit::DeliveryState::Skipped,
            },
            attempts: attempts.collect(),
            next_ms,
            note,
        }
    }

    impl wit::GuestPolicy for KvOperations<WitKv> {
        fn open(text: String) -> Result<wit::Policy, String> {
            Self::open(&text, WitKv::new(&[DEFAULT])).map(wit::Policy::new)
        }

        fn settings(&self) -> wit::Settings {
            let rules = self.rules();
            wit::Settings {
                enabled: rules.enabled,
                from_items: rules.from_items,
                max_result_bytes: rules.max_result_bytes,
            }
        }

        fn accept(
            &self,
            submission: wit::Submission,
            now_ms: u64,
            (high, low): (u64, u64),
        ) -> Result<wit::AcceptedCall, wit::Refusal> {
            let random = (u128::from(high) << 64) | u128::from(low);
            let submission = submission_from_wit(submission);
            let accepted = OperationsService::accept(self, submission, now_ms, random);
            let words::AcceptedCall { operation, is_new } = accepted.map_err(refusal)?;
            Ok(wit::AcceptedCall {
                operation: operation_to_wit(operation),
                is_new,
            })
        }

        fn get(
            &self,
            id: String,
            tenant: Option<String>,
            with_body: bool,
            now_ms: u64,
        ) -> Result<Option<wit::Operation>, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(None);
            };
            let found = OperationsService::get(self, &id, tenant.as_deref(), with_body, now_ms);
            found
                .map(|found| found.map(operation_to_wit))
                .map_err(refusal)
        }

        fn list(
            &self,
            tenant: String,
            start: Option<(u64, u64)>,
            most: u32,
            now_ms: u64,
        ) -> Result<wit::Listing, wit::Refusal> {
            let listing =
                OperationsService::list(self, &tenant, start, most, now_ms).map_err(refusal)?;
            Ok(wit::Listing {
                operations: listing
                    .operations
                    .into_iter()
                    .map(operation_to_wit)
                    .collect(),
                next: listing.next,
            })
        }

        fn cancel(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::Cancelled>, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(None);
            };
            let found = OperationsService::cancel(self, &id, &tenant, now_ms).map_err(refusal)?;
            Ok(
                found.map(|Cancelled { operation, receipt }| wit::Cancelled {
                    operation: operation_to_wit(operation),
                    receipt,
                }),
            )
        }

        fn delete(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::Operation>, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(None);
            };
            let found = OperationsService::delete(self, &id, &tenant, now_ms);
            found
                .map(|found| found.map(operation_to_wit))
                .map_err(refusal)
        }

        fn announce_again(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::Operation>, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(None);
            };
            let found = OperationsService::announce_again(self, &id, &tenant, now_ms);
            found
                .map(|found| found.map(operation_to_wit))
                .map_err(refusal)
        }

        fn claim(
            &self,
            id: String,
            holder: String,
            dead_before_ms: u64,
            now_ms: u64,
        ) -> Result<wit::Claim, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(wit::Claim::Gone);
            };
            let claim = OperationsService::claim(self, &id, &holder, dead_before_ms, now_ms);
            Ok(match claim.map_err(refusal)? {
                words::Claim::Granted(run) => wit::Claim::Granted(wit::Run {
                    epoch: run.epoch,
                    attempt: run.attempt,
                    max_attempts: run.max_attempts,
                    submission: submission_to_wit(run.submission),
                }),
                words::Claim::Ended(receipt) => wit::Claim::Ended(receipt),
                words::Claim::Later(at_ms) => wit::Claim::Later(at_ms),
                words::Claim::Gone => wit::Claim::Gone,
            })
        }

        fn complete(
            &self,
            id: String,
            epoch: u32,
            attempt: u32,
            end: wit::End,
            now_ms: u64,
        ) -> Result<bool, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(false);
            };
            let run = (epoch, attempt);
            OperationsService::complete(self, &id, run, end_from_wit(end), now_ms).map_err(refusal)
        }

        fn give_back(
            &self,
            id: String,
            epoch: u32,
            attempt: u32,
            code: String,
            message: String,
            now_ms: u64,
            random: u64,
        ) -> Result<u64, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(now_ms);
            };
            let (run, error) = ((epoch, attempt), (code, message));
            OperationsService::give_back(self, &id, run, error, (now_ms, random)).map_err(refusal)
        }

        fn renew(
            &self,
            id: String,
            holder: String,
            now_ms: u64,
        ) -> Result<wit::Renewal, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(wit::Renewal::Lost);
            };
            let renewal = OperationsService::renew(self, &id, &holder, now_ms).map_err(refusal)?;
            Ok(match renewal {
                words::Renewal::Renewed => wit::Renewal::Renewed,
                words::Renewal::Cancelled => wit::Renewal::Cancelled,
                words::Renewal::Lost => wit::Renewal::Lost,
            })
        }

        fn abandon(
            &self,
            id: String,
            holder: String,
            why: wit::Abandoned,
            now_ms: u64,
            random: u64,
        ) -> Result<Option<u64>, wit::Refusal> {
            let Some(id) = OperationId::parse(&id) else {
                return Ok(None);
            };
            let why = match why {
                wit::Abandoned::Cancelled => words::Abandoned::Cancelled,
                wit::Abandoned::TimedOut => words::Abandoned::TimedOut,
                wit::Abandoned::Stopping => words::Abandoned::Stopping,
                wit::Abandoned::Crashed => words::Abandoned::Crashed,
            };
            OperationsService::abandon(self, &id, &holder, why, (now_ms, random)).map_err(refusal)
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::operations::operations as wit;
    use crate::types::{caller_from_wit, caller_to_wit};
    use penstock_core::OperationId;
    use penstock_policy::operations::service::OperationsService;
    use penstock_policy::operations::{Cancelled, words};
    use penstock_policy::webhooks::delivery::{Attempt, Delivery, DeliveryState};
    use penstock_policy::webhooks::target::Target;

    conversions!(wit);

    fn refusal(refusal: wit::Refusal) -> words::Refusal {
        words::Refusal {
            kind: match refusal.kind {
                wit::RefusalKind::Full => words::RefusalKind::Full,
                wit::RefusalKind::NotNow => words::RefusalKind::NotNow,
                wit::RefusalKind::StoreFailed => words::RefusalKind::StoreFailed,
            },
            message: refusal.message,
        }
    }

    fn operation(operation: wit::Operation) -> Result<words::Operation, words::Refusal> {
        Ok(words::Operation {
            id: OperationId::parse(&operation.id).ok_or_else(words::Refusal::not_an_id)?,
            tenant: operation.tenant,
            kind: operation.kind,
            model: operation.model,
            version: operation.version,
            items: operation.items,
            state: state_from_wit(operation.state),
            cancel_requested: operation.cancel_requested,
            created_ms: operation.created_ms,
            started_ms: operation.started_ms,
            ended_ms: operation.ended_ms,
            expires_ms: operation.expires_ms,
            next_attempt_ms: operation.next_attempt_ms,
            attempts: operation.attempts,
            epoch: operation.epoch,
            end: operation.end.map(end_from_wit),
            webhook: operation.webhook.map(webhook_from_wit),
        })
    }

    fn webhook_from_wit(webhook: wit::Webhook) -> words::Webhook {
        let attempts = webhook.attempts.into_iter().map(|attempt| Attempt {
            began_ms: attempt.began_ms,
            took_ms: attempt.took_ms,
            status: attempt.status,
            error: attempt.error,
        });
        words::Webhook {
            url: webhook.url,
            delivery: Delivery {
                state: match webhook.state {
                    wit::DeliveryState::Pending => DeliveryState::Pending,
                    wit::DeliveryState::Delivered => DeliveryState::Delivered,
                    wit::DeliveryState::Failed => DeliveryState::Failed,
                    wit::DeliveryState::Disabled => DeliveryState::Disabled,
                    wit::DeliveryState::Skipped => DeliveryState::Skipped,
                },
                attempts: attempts.collect(),
                next_ms: webhook.next_ms,
                note: webhook.note,
                // Answers do not show the numbers.
                ..Delivery::default()
            },
        }
    }

    impl OperationsService for wit::Policy {
        fn rules(&self) -> words::Rules {
            let settings = self.settings();
            words::Rules {
                enabled: settings.enabled,
                from_items: settings.from_items,
                max_result_bytes: settings.max_result_bytes,
            }
        }

        fn accept(
            &self,
            submission: words::Submission,
            now_ms: u64,
            random: u128,
        ) -> Result<words::AcceptedCall, words::Refusal> {
            let halves = ((random >> 64) as u64, random as u64);
            let submission = submission_to_wit(submission);
            let accepted = wit::Policy::accept(self, &submission, now_ms, halves);
            let accepted = accepted.map_err(refusal)?;
            Ok(words::AcceptedCall {
                operation: operation(accepted.operation)?,
                is_new: accepted.is_new,
            })
        }

        fn get(
            &self,
            id: &OperationId,
            tenant: Option<&str>,
            with_body: bool,
            now_ms: u64,
        ) -> Result<Option<words::Operation>, words::Refusal> {
            let found = wit::Policy::get(self, id.as_str(), tenant, with_body, now_ms);
            found.map_err(refusal)?.map(operation).transpose()
        }

        fn list(
            &self,
            tenant: &str,
            start: Option<(u64, u64)>,
            most: u32,
            now_ms: u64,
        ) -> Result<words::Listing, words::Refusal> {
            let listing = wit::Policy::list(self, tenant, start, most, now_ms).map_err(refusal)?;
            let operations = listing.operations.into_iter().map(operation);
            Ok(words::Listing {
                operations: operations.collect::<Result<_, _>>()?,
                next: listing.next,
            })
        }

        fn cancel(
            &self,
            id: &OperationId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<Cancelled>, words::Refusal> {
            let found = wit::Policy::cancel(self, id.as_str(), tenant, now_ms).map_err(refusal)?;
            let found = found.map(|found| {
                Ok(Cancelled {
                    operation: operation(found.operation)?,
                    receipt: found.receipt,
                })
            });
            found.transpose()
        }

        fn delete(
            &self,
            id: &OperationId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::Operation>, words::Refusal> {
            let found = wit::Policy::delete(self, id.as_str(), tenant, now_ms).map_err(refusal)?;
            found.map(operation).transpose()
        }

        fn announce_again(
            &self,
            id: &OperationId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::Operation>, words::Refusal> {
            let found = wit::Policy::announce_again(self, id.as_str(), tenant, now_ms);
            found.map_err(refusal)?.map(operation).transpose()
        }

        fn claim(
            &self,
            id: &OperationId,
            holder: &str,
            dead_before_ms: u64,
            now_ms: u64,
        ) -> Result<words::Claim, words::Refusal> {
            let claim = wit::Policy::claim(self, id.as_str(), holder, dead_before_ms, now_ms);
            Ok(match claim.map_err(refusal)? {
                wit::Claim::Granted(run) => words::Claim::Granted(Box::new(words::Run {
                    epoch: run.epoch,
                    attempt: run.attempt,
                    max_attempts: run.max_attempts,
                    submission: submission_from_wit(run.submission),
                })),
                wit::Claim::Ended(receipt) => words::Claim::Ended(receipt),
                wit::Claim::Later(at_ms) => words::Claim::Later(at_ms),
                wit::Claim::Gone => words::Claim::Gone,
            })
        }

        fn complete(
            &self,
            id: &OperationId,
            (epoch, attempt): (u32, u32),
            end: words::End,
            now_ms: u64,
        ) -> Result<bool, words::Refusal> {
            let end = end_to_wit(end);
            wit::Policy::complete(self, id.as_str(), epoch, attempt, &end, now_ms).map_err(refusal)
        }

        fn give_back(
            &self,
            id: &OperationId,
            (epoch, attempt): (u32, u32),
            (code, message): (String, String),
            (now_ms, random): (u64, u64),
        ) -> Result<u64, words::Refusal> {
            let id = id.as_str();
            wit::Policy::give_back(self, id, epoch, attempt, &code, &message, now_ms, random)
                .map_err(refusal)
        }

        fn renew(
            &self,
            id: &OperationId,
            holder: &str,
            now_ms: u64,
        ) -> Result<words::Renewal, words::Refusal> {
            let renewal = wit::Policy::renew(self, id.as_str(), holder, now_ms).map_err(refusal)?;
            Ok(match renewal {
                wit::Renewal::Renewed => words::Renewal::Renewed,
                wit::Renewal::Cancelled => words::Renewal::Cancelled,
                wit::Renewal::Lost => words::Renewal::Lost,
            })
        }

        fn abandon(
            &self,
            id: &OperationId,
            holder: &str,
            why: words::Abandoned,
            (now_ms, random): (u64, u64),
        ) -> Result<Option<u64>, words::Refusal> {
            let why = match why {
                words::Abandoned::Cancelled => wit::Abandoned::Cancelled,
                words::Abandoned::TimedOut => wit::Abandoned::TimedOut,
                words::Abandoned::Stopping => wit::Abandoned::Stopping,
                words::Abandoned::Crashed => wit::Abandoned::Crashed,
            };
            wit::Policy::abandon(self, id.as_str(), holder, why, now_ms, random).map_err(refusal)
        }
    }
}
