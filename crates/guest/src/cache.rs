//! `penstock:cache` over `penstock-policy`, on the store for counters: what is kept may be lost at a crash.

use crate::kv::{COUNTERS, DEFAULT, WitKv};
use crate::types::{bulk_bytes, bulk_to_wit};
use penstock_core::kv::run_ready;
use penstock_policy::cache::{Address, Looked};

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:cache/component",
        path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/cache"],
        with: {
            "penstock:types/tensors@0.1.0": crate::types::tensors,
            "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
            "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
        },
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::cache::bindings",
    });
}

use bindings::exports::penstock::cache::cache as wit;

/// The component.
pub struct Component;

thread_local! {
    /// The store, opened once for the life of an instance.
    static STORE: WitKv = const { WitKv::new(&[COUNTERS, DEFAULT]) };
}

fn address(at: &wit::Address) -> Result<Address, String> {
    Address::new(&at.space, at.places, &at.digest, at.lease_ms)
}

impl wit::Guest for Component {
    fn look(
        at: wit::Address,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<wit::Looked, String> {
        let at = address(&at)?;
        let looked = STORE.with(|kv| run_ready(at.look(kv, since_ms, waiting_since_ms, now_ms)));
        Ok(match looked.map_err(|e| e.message)? {
            Looked::Hit(kept) => wit::Looked::Hit(wit::Kept {
                value: bulk_to_wit(&kept.value),
                kept_ms: kept.kept_ms,
            }),
            Looked::Run(ticket) => wit::Looked::Run(ticket),
            Looked::Wait => wit::Looked::Wait,
            Looked::Bypass => wit::Looked::Bypass,
        })
    }

    fn keep(at: wit::Address, ticket: u64, value: wit::Bulk, now_ms: u64) -> Result<(), String> {
        let at = address(&at)?;
        let kept = STORE.with(|kv| run_ready(at.keep(kv, ticket, bulk_bytes(&value), now_ms)));
        kept.map_err(|e| e.message)
    }

    fn release(at: wit::Address, ticket: u64) -> Result<(), String> {
        let at = address(&at)?;
        STORE
            .with(|kv| run_ready(at.release(kv, ticket)))
            .map_err(|e| e.message)
    }
}
