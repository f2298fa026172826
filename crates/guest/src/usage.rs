//! `penstock:usage` over `penstock-policy`, on the durable store.

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

/// The component.
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
            tenant: row.who.tenant,
            api_key_id: row.who.api_key_id,
            model: row.who.model,
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
