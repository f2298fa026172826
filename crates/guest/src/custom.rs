//! Implements `penstock:policy` over `penstock-policy`.

#[cfg(feature = "custom")]
pub use component::{Component, bindings};

/// The built-in component's side: its exports.
#[cfg(feature = "custom")]
mod component {
    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:policy/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/policy"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "penstock:types/held@0.1.0": crate::types::held, "penstock:types/http@0.1.0": crate::types::http,
            },
            generate_all,
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::custom::bindings",
        });
    }

    use bindings::exports::penstock::policy::policy as wit;

    /// The policy that is built in. It asks for nothing, so the gate does not call it for a request.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = Self;
        type Admission = Self;
    }

    impl wit::GuestPolicy for Component {
        fn open(_text: String) -> Result<wit::Policy, String> {
            Ok(wit::Policy::new(Self))
        }

        fn scope(&self) -> wit::Scope {
            wit::Scope {
                calls: false,
                headers: Vec::new(),
                settles: false,
            }
        }

        fn admit(&self, _: wit::Call, _: u64, _: u64) -> Result<wit::Admitted, wit::Refusal> {
            Ok(wit::Admitted {
                admission: wit::Admission::new(Self),
                headers: Vec::new(),
            })
        }
    }

    impl wit::GuestAdmission for Component {
        fn settle(&self, _: wit::Outcome, _: u64) {}
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::policy::policy as wit;
    use crate::types::{caller_to_wit, http};
    use penstock_policy::custom::service::{AdmissionService, CustomService};
    use penstock_policy::custom::words as custom;

    fn headers(headers: Vec<http::Header>) -> custom::RawHeaders {
        headers.into_iter().map(|h| (h.name, h.value)).collect()
    }

    impl CustomService for wit::Policy {
        type Admission = wit::Admission;

        fn scope(&self) -> custom::Scope {
            let scope = self.scope();
            custom::Scope {
                calls: scope.calls,
                headers: scope.headers,
                settles: scope.settles,
            }
        }

        fn admit(
            &self,
            call: &custom::Call<'_>,
            now_ms: u64,
            random: u64,
        ) -> Result<custom::Admitted<Self::Admission>, custom::Refusal> {
            let lines = call.headers.iter().map(|&(name, value)| http::Header {
                name: name.to_owned(),
                value: value.to_owned(),
            });
            let call = wit::Call {
                caller: caller_to_wit(call.caller),
                route: call.route.to_owned(),
                model: call.model.map(str::to_owned),
                method: call.method.to_owned(),
                target: call.target.to_owned(),
                headers: lines.collect(),
                body_bytes: call.body_bytes,
            };
            match self.admit(&call, now_ms, random) {
                Ok(admitted) => Ok(custom::Admitted {
                    admission: admitted.admission,
                    headers: headers(admitted.headers),
                }),
                Err(refusal) => Err(custom::Refusal {
                    kind: match refusal.kind {
                        wit::RefusalKind::Forbidden => custom::RefusalKind::Forbidden,
                        wit::RefusalKind::UsedUp => custom::RefusalKind::UsedUp,
                        wit::RefusalKind::StoreFailed => custom::RefusalKind::StoreFailed,
                    },
                    message: refusal.message,
                    retry_after_s: refusal.retry_after_s,
                    headers: headers(refusal.headers),
                }),
            }
        }
    }

    impl AdmissionService for wit::Admission {
        fn settle(&self, outcome: custom::Outcome, now_ms: u64) {
            let outcome = wit::Outcome {
                items: outcome.items,
                compute_us: outcome.compute_us,
                failed: outcome.failed,
            };
            self.settle(outcome, now_ms);
        }
    }
}
