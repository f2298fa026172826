//! Implements `penstock:auth` over `penstock-policy`, on the durable store. The store also keeps the signatures seen
//! so far; otherwise each could be replayed once after a restart. Secrets are variables.

#[cfg(feature = "auth")]
pub use component::{Component, bindings};

/// The component's side: its exports.
#[cfg(feature = "auth")]
mod component {
    use crate::kv::{DEFAULT, WitKv};
    use crate::types::{caller_from_wit, caller_to_wit, callers};
    use penstock_policy::auth::service::{AuthService, KvAuth};
    use penstock_policy::auth::words::{
        CertificateShown, CredentialKind, Environment, Presented, Refusal, RefusalKind,
    };

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:auth/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/auth"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
                "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
            },
            generate_all,
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::auth::bindings",
        });
    }

    use bindings::exports::penstock::auth::auth as wit;
    use bindings::fermyon::spin::variables;

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvAuth<WitKv>;
    }

    /// Returns a variable's value; `None` if the host has no such variable or its value is empty.
    fn variable(name: &str) -> Option<String> {
        variables::get(name).ok().filter(|value| !value.is_empty())
    }

    fn refusal(refusal: Refusal) -> wit::Refusal {
        use RefusalKind as Kind;
        wit::Refusal {
            kind: match refusal.kind {
                Kind::Missing => wit::RefusalKind::Missing,
                Kind::Malformed | Kind::Unreadable => wit::RefusalKind::Malformed,
                Kind::Ambiguous => wit::RefusalKind::Ambiguous,
                Kind::Invalid => wit::RefusalKind::Invalid,
                Kind::Expired => wit::RefusalKind::Expired,
                Kind::Revoked => wit::RefusalKind::Revoked,
                Kind::Replayed => wit::RefusalKind::Replayed,
                Kind::Denied => wit::RefusalKind::Denied,
                Kind::TenantDisabled => wit::RefusalKind::TenantDisabled,
                Kind::Hidden => wit::RefusalKind::Hidden,
                Kind::Throttled => wit::RefusalKind::Throttled,
                Kind::StoreFailed => wit::RefusalKind::StoreFailed,
            },
            message: refusal.message,
            challenge: refusal.challenge,
            retry_after_s: refusal.retry_after_s,
            caller: refusal.caller.as_ref().map(caller_to_wit),
        }
    }

    impl wit::GuestPolicy for KvAuth<WitKv> {
        fn open(text: String, environment: wit::Environment) -> Result<wit::Policy, String> {
            let environment = Environment {
                key_sets: environment.key_sets,
                public: environment.public,
            };
            Self::open(&text, environment, WitKv::new(&[DEFAULT]), variable).map(wit::Policy::new)
        }

        fn admit(
            &self,
            request: wit::Request,
            now_ms: u64,
            random: u64,
        ) -> Result<wit::Admitted, wit::Refusal> {
            let headers: Vec<(&str, &[u8])> = (request.headers.iter())
                .map(|header| (header.name.as_str(), header.value.as_slice()))
                .collect();
            let certificate = request.certificate.as_ref().map(|shown| CertificateShown {
                sha256: &shown.sha256,
                names: &shown.names,
            });
            let shown = Presented {
                method: &request.method,
                target: &request.target,
                headers: &headers,
                body_sha256: request
                    .body_sha256
                    .as_deref()
                    .and_then(|digest| digest.try_into().ok()),
                address: request.address.as_deref(),
                forwarded: request.forwarded,
                certificate,
                route: &request.route,
                model: request.model.as_deref(),
            };
            let admitted = AuthService::admit(self, &shown, now_ms, random).map_err(refusal)?;
            Ok(wit::Admitted {
                caller: caller_to_wit(&admitted.caller),
                credential: match admitted.credential {
                    CredentialKind::None => wit::CredentialKind::None,
                    CredentialKind::ApiKey => wit::CredentialKind::ApiKey,
                    CredentialKind::Token => wit::CredentialKind::Token,
                    CredentialKind::Signature => wit::CredentialKind::Signature,
                    CredentialKind::Certificate => wit::CredentialKind::Certificate,
                },
                priority: admitted.priority,
            })
        }

        fn sees(&self, caller: callers::Caller, models: Vec<String>) -> Vec<bool> {
            AuthService::sees(self, &caller_from_wit(caller), &models)
        }

        fn allows(&self, caller: callers::Caller, route: String, model: Option<String>) -> bool {
            AuthService::allows(self, &caller_from_wit(caller), &route, model.as_deref())
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::auth::auth as wit;
    use crate::types::{caller_from_wit, caller_to_wit};
    use penstock_core::Caller;
    use penstock_policy::auth::service::AuthService;
    use penstock_policy::auth::words as auth;

    fn auth_refusal(refusal: wit::Refusal) -> auth::Refusal {
        use auth::RefusalKind as Kind;
        use wit::RefusalKind as Wit;
        auth::Refusal {
            kind: match refusal.kind {
                Wit::Missing => Kind::Missing,
                Wit::Malformed => Kind::Malformed,
                Wit::Ambiguous => Kind::Ambiguous,
                Wit::Invalid => Kind::Invalid,
                Wit::Expired => Kind::Expired,
                Wit::Revoked => Kind::Revoked,
                Wit::Replayed => Kind::Replayed,
                Wit::Denied => Kind::Denied,
                Wit::TenantDisabled => Kind::TenantDisabled,
                Wit::Throttled => Kind::Throttled,
                Wit::StoreFailed => Kind::StoreFailed,
                Wit::Hidden => Kind::Hidden,
            },
            message: refusal.message,
            challenge: refusal.challenge,
            retry_after_s: refusal.retry_after_s,
            caller: refusal.caller.map(caller_from_wit),
        }
    }

    impl AuthService for wit::Policy {
        fn admit(
            &self,
            shown: &auth::Presented<'_>,
            now_ms: u64,
            random: u64,
        ) -> Result<auth::Admitted, auth::Refusal> {
            use auth::CredentialKind as Kind;
            use wit::CredentialKind as Wit;
            let headers = shown.headers.iter().map(|(name, value)| wit::Header {
                name: (*name).to_owned(),
                value: value.to_vec(),
            });
            let certificate = shown.certificate.map(|certificate| wit::Certificate {
                sha256: certificate.sha256.to_owned(),
                names: certificate.names.to_vec(),
            });
            let request = wit::Request {
                method: shown.method.to_owned(),
                target: shown.target.to_owned(),
                headers: headers.collect(),
                body_sha256: shown.body_sha256.map(Vec::from),
                address: shown.address.map(str::to_owned),
                forwarded: shown.forwarded,
                certificate,
                route: shown.route.to_owned(),
                model: shown.model.map(str::to_owned),
            };
            let admitted = self.admit(&request, now_ms, random).map_err(auth_refusal)?;
            Ok(auth::Admitted {
                caller: caller_from_wit(admitted.caller),
                credential: match admitted.credential {
                    Wit::None => Kind::None,
                    Wit::ApiKey => Kind::ApiKey,
                    Wit::Token => Kind::Token,
                    Wit::Signature => Kind::Signature,
                    Wit::Certificate => Kind::Certificate,
                },
                priority: admitted.priority,
            })
        }

        fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
            self.sees(&caller_to_wit(caller), models)
        }

        fn allows(&self, caller: &Caller, route: &str, model: Option<&str>) -> bool {
            self.allows(&caller_to_wit(caller), route, model)
        }
    }
}
