//! Implements `penstock:usage` over `penstock-policy`, on the durable store.

#[cfg(feature = "usage")]
pub use component::{Component, bindings};

/// The component's side: its exports.
#[cfg(feature = "usage")]
mod component {
    use crate::kv::{DEFAULT, WitKv};
    use crate::types::{caller_from_wit, callers};
    use penstock_policy::usage::service::{KvUsage, UsageService};
    use penstock_policy::usage::words::Amounts;

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:usage/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/usage"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
                "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::usage::bindings",
        });
    }

    use bindings::exports::penstock::usage::usage as wit;

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvUsage<WitKv>;
    }

    impl wit::GuestPolicy for KvUsage<WitKv> {
        fn open(text: String) -> Result<wit::Policy, String> {
            Self::open(&text, WitKv::new(&[DEFAULT])).map(wit::Policy::new)
        }

        fn enabled(&self) -> bool {
            UsageService::enabled(self)
        }

        fn count(
            &self,
            caller: callers::Caller,
            model: String,
            amounts: wit::Amounts,
            now_ms: u64,
            random: u64,
        ) -> Result<(), String> {
            let amounts = Amounts {
                requests: amounts.requests,
                items: amounts.items,
                bytes: amounts.body_bytes,
                compute_us: amounts.compute_us,
            };
            let caller = caller_from_wit(caller);
            UsageService::count(self, &caller, &model, amounts, now_ms, random)
        }

        fn read(
            &self,
            first_day: u64,
            last_day: u64,
            tenant: Option<String>,
            start: Option<(u64, u64)>,
        ) -> Result<wit::Report, String> {
            let days = (first_day, last_day);
            let report = UsageService::read(self, days, tenant.as_deref(), start)?;
            let rows = report.rows.into_iter().map(|row| wit::Row {
                day: row.day,
                tenant: row.subject.tenant,
                api_key_id: row.subject.api_key_id,
                model: row.subject.model,
                amounts: wit::Amounts {
                    requests: row.requests,
                    items: row.items,
                    body_bytes: row.bytes,
                    compute_us: row.compute_us,
                },
                alerts: row
                    .alerts
                    .into_iter()
                    .map(|(name, reached_ms)| wit::Alert { name, reached_ms })
                    .collect(),
            });
            Ok(wit::Report {
                rows: rows.collect(),
                next: report.next,
            })
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::usage::usage as wit;
    use crate::types::caller_to_wit;
    use penstock_core::Caller;
    use penstock_policy::usage::service::UsageService;
    use penstock_policy::usage::words as usage;

    impl UsageService for wit::Policy {
        fn enabled(&self) -> bool {
            self.enabled()
        }

        fn count(
            &self,
            caller: &Caller,
            model: &str,
            amounts: usage::Amounts,
            now_ms: u64,
            random: u64,
        ) -> Result<(), String> {
            let amounts = wit::Amounts {
                requests: amounts.requests,
                items: amounts.items,
                body_bytes: amounts.bytes,
                compute_us: amounts.compute_us,
            };
            self.count(&caller_to_wit(caller), model, amounts, now_ms, random)
        }

        fn read(
            &self,
            (first_day, last_day): (u64, u64),
            tenant: Option<&str>,
            start: Option<(u64, u64)>,
        ) -> Result<usage::Report, String> {
            let report = self.read(first_day, last_day, tenant, start)?;
            let rows = report.rows.into_iter().map(|row| usage::Row {
                day: row.day,
                subject: usage::UsageSubject {
                    tenant: row.tenant,
                    api_key_id: row.api_key_id,
                    model: row.model,
                },
                requests: row.amounts.requests,
                items: row.amounts.items,
                bytes: row.amounts.body_bytes,
                compute_us: row.amounts.compute_us,
                alerts: row
                    .alerts
                    .into_iter()
                    .map(|alert| (alert.name, alert.reached_ms))
                    .collect(),
            });
            Ok(usage::Report {
                rows: rows.collect(),
                next: report.next,
            })
        }
    }
}
