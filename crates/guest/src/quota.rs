//! Implements `penstock:quota` over `penstock-policy`, on the store for counters.

#[cfg(feature = "quota")]
pub use component::{Component, bindings};

/// The component's side: its exports.
#[cfg(feature = "quota")]
mod component {
    use crate::kv::{COUNTERS, DEFAULT, WitKv};
    use crate::types::caller_from_wit;
    use penstock_core::headers::Headers;
    use penstock_policy::quota::service::{AdmissionService, KvAdmission, KvQuota, QuotaService};
    use penstock_policy::quota::words::{Call, Refusal, RefusalKind};

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:quota/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/quota"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
                "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::quota::bindings",
        });
    }

    use bindings::exports::penstock::quota::quota as wit;

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvQuota<WitKv>;
        type Admission = KvAdmission<WitKv>;
    }

    fn headers(list: Headers) -> Vec<wit::Header> {
        let list = list.into_iter();
        list.map(|(name, value)| wit::Header { name, value })
            .collect()
    }

    fn refusal(refusal: Refusal) -> wit::Refusal {
        wit::Refusal {
            headers: headers(refusal.headers),
            limit: refusal.limit,
            kind: match refusal.kind {
                RefusalKind::UsedUp | RefusalKind::BackOff => wit::RefusalKind::UsedUp,
                RefusalKind::TooLarge => wit::RefusalKind::TooLarge,
                RefusalKind::StoreFailed => wit::RefusalKind::StoreFailed,
            },
            message: refusal.message,
            retry_after_s: refusal.retry_after_s,
        }
    }

    impl wit::GuestPolicy for KvQuota<WitKv> {
        fn open(text: String) -> Result<wit::Policy, String> {
            Self::open(&text, WitKv::new(&[COUNTERS, DEFAULT])).map(wit::Policy::new)
        }

        fn scope(&self) -> wit::Scope {
            let scope = QuotaService::scope(self);
            wit::Scope {
                calls: scope.calls,
                items: scope.items,
                settles: scope.settles,
            }
        }

        fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
            QuotaService::fallbacks(self, now_ms, random)
        }

        fn admit(
            &self,
            call: wit::Call,
            now_ms: u64,
            random: u64,
        ) -> Result<wit::Admitted, wit::Refusal> {
            let caller = caller_from_wit(call.caller);
            let call = Call {
                caller: &caller,
                route: &call.route,
                model: call.model.as_deref(),
                body_bytes: call.body_bytes,
            };
            let admitted = QuotaService::admit(self, &call, now_ms, random).map_err(refusal)?;
            Ok(wit::Admitted {
                wait_ms: admitted.wait_ms,
                headers: headers(admitted.headers),
                admission: wit::Admission::new(admitted.admission),
            })
        }

        fn settle_deferred(&self, receipt: String, ran: Option<u64>, now_ms: u64) {
            QuotaService::settle_deferred(self, &receipt, ran, now_ms);
        }
    }

    impl wit::GuestAdmission for KvAdmission<WitKv> {
        fn charge_items(
            &self,
            items: u64,
            now_ms: u64,
            random: u64,
        ) -> Result<Vec<wit::Header>, wit::Refusal> {
            AdmissionService::charge_items(self, items, now_ms, random)
                .map(headers)
                .map_err(refusal)
        }

        fn refund_items(&self, now_ms: u64) -> Vec<wit::Header> {
            headers(AdmissionService::refund_items(self, now_ms))
        }

        fn receipt(&self) -> String {
            AdmissionService::receipt(self)
        }

        fn settle(&self, compute_ms: u64, now_ms: u64) {
            AdmissionService::settle(self, compute_ms, now_ms);
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::quota::quota as wit;
    use crate::types::caller_to_wit;
    use penstock_core::headers::Headers;
    use penstock_policy::quota::service::{AdmissionService, QuotaService};
    use penstock_policy::quota::words as quota;

    fn headers(headers: Vec<wit::Header>) -> Headers {
        headers.into_iter().map(|h| (h.name, h.value)).collect()
    }

    fn quota_refusal(refusal: wit::Refusal) -> quota::Refusal {
        quota::Refusal {
            kind: match refusal.kind {
                wit::RefusalKind::UsedUp => quota::RefusalKind::UsedUp,
                wit::RefusalKind::TooLarge => quota::RefusalKind::TooLarge,
                wit::RefusalKind::StoreFailed => quota::RefusalKind::StoreFailed,
            },
            limit: refusal.limit,
            message: refusal.message,
            retry_after_s: refusal.retry_after_s,
            headers: headers(refusal.headers),
        }
    }

    impl QuotaService for wit::Policy {
        type Admission = wit::Admission;

        fn scope(&self) -> quota::Scope {
            let scope = self.scope();
            quota::Scope {
                calls: scope.calls,
                items: scope.items,
                settles: scope.settles,
            }
        }

        fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
            self.fallbacks(now_ms, random)
        }

        fn admit(
            &self,
            call: &quota::Call<'_>,
            now_ms: u64,
            random: u64,
        ) -> Result<quota::Admitted<Self::Admission>, quota::Refusal> {
            let call = wit::Call {
                caller: caller_to_wit(call.caller),
                route: call.route.to_owned(),
                model: call.model.map(str::to_owned),
                body_bytes: call.body_bytes,
            };
            let admitted = self.admit(&call, now_ms, random).map_err(quota_refusal)?;
            Ok(quota::Admitted {
                admission: admitted.admission,
                wait_ms: admitted.wait_ms,
                headers: headers(admitted.headers),
            })
        }

        fn settle_deferred(&self, receipt: &str, ran: Option<u64>, now_ms: u64) {
            self.settle_deferred(receipt, ran, now_ms);
        }
    }

    impl AdmissionService for wit::Admission {
        fn charge_items(
            &self,
            items: u64,
            now_ms: u64,
            random: u64,
        ) -> Result<Headers, quota::Refusal> {
            self.charge_items(items, now_ms, random)
                .map(headers)
                .map_err(quota_refusal)
        }

        fn refund_items(&self, now_ms: u64) -> Headers {
            headers(self.refund_items(now_ms))
        }

        fn receipt(&self) -> String {
            self.receipt()
        }

        fn settle(&self, compute_ms: u64, now_ms: u64) {
            self.settle(compute_ms, now_ms);
        }
    }
}
