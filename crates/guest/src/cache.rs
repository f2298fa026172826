//! Implements `penstock:cache` over `penstock-policy`, on the store for counters. A crash may lose the cached
//! results.

#[cfg(feature = "cache")]
pub use component::{Component, bindings};
#[cfg(feature = "gate")]
pub use gate::WitCache;

/// The component's side: its exports.
#[cfg(feature = "cache")]
mod component {
    use crate::kv::{COUNTERS, DEFAULT, WitKv};
    use crate::types::{bulk_bytes, bulk_to_wit};
    use penstock_policy::cache::service::{CacheService, KvCache};
    use penstock_policy::cache::words::{CacheAddress, Lookup};

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:cache/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/cache"],
            with: {
                "penstock:types/held@0.1.0": crate::types::held, "penstock:types/tensors@0.1.0": crate::types::tensors,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::cache::bindings",
        });
    }

    use bindings::exports::penstock::cache::cache as wit;

    /// The type that exports the interface.
    pub struct Component;

    thread_local! {
        /// The cache of this instance. Its store is opened once in the life of an instance.
        static CACHE: KvCache<WitKv> = const { KvCache::new(WitKv::new(&[COUNTERS, DEFAULT])) };
    }

    fn address(at: &wit::Address) -> CacheAddress<'_> {
        CacheAddress {
            space: &at.space,
            places: at.places,
            digest: &at.digest,
            lease_ms: at.lease_ms,
        }
    }

    impl wit::Guest for Component {
        fn look_up(
            at: wit::Address,
            since_ms: u64,
            waiting_since_ms: Option<u64>,
            now_ms: u64,
        ) -> Result<wit::Lookup, String> {
            let looked = CACHE
                .with(|cache| cache.look_up(&address(&at), since_ms, waiting_since_ms, now_ms));
            Ok(match looked? {
                Lookup::Hit(kept) => wit::Lookup::Hit(wit::Kept {
                    value: bulk_to_wit(&kept.value),
                    kept_ms: kept.kept_ms,
                }),
                Lookup::Run(ticket) => wit::Lookup::Run(ticket),
                Lookup::Wait => wit::Lookup::Wait,
                Lookup::Bypass => wit::Lookup::Bypass,
            })
        }

        fn keep(
            at: wit::Address,
            ticket: u64,
            value: wit::Bulk,
            now_ms: u64,
        ) -> Result<(), String> {
            CACHE.with(|cache| cache.keep(&address(&at), ticket, bulk_bytes(&value), now_ms))
        }

        fn release(at: wit::Address, ticket: u64) -> Result<(), String> {
            CACHE.with(|cache| cache.release(&address(&at), ticket))
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::cache::cache as wit;
    use crate::types::{bulk_bytes, bulk_to_wit};
    use penstock_policy::cache::service::CacheService;
    use penstock_policy::cache::words::{CacheAddress, Lookup, StoredResult};

    /// The cache as the gate imports it.
    pub struct WitCache;

    fn address(at: &CacheAddress<'_>) -> wit::Address {
        wit::Address {
            space: at.space.to_owned(),
            places: at.places,
            digest: at.digest.to_vec(),
            lease_ms: at.lease_ms,
        }
    }

    impl CacheService for WitCache {
        fn look_up(
            &self,
            at: &CacheAddress<'_>,
            since_ms: u64,
            waiting_since_ms: Option<u64>,
            now_ms: u64,
        ) -> Result<Lookup, String> {
            let looked = wit::look_up(&address(at), since_ms, waiting_since_ms, now_ms)?;
            Ok(match looked {
                wit::Lookup::Hit(kept) => Lookup::Hit(StoredResult {
                    value: bulk_bytes(&kept.value).to_vec(),
                    kept_ms: kept.kept_ms,
                }),
                wit::Lookup::Run(ticket) => Lookup::Run(ticket),
                wit::Lookup::Wait => Lookup::Wait,
                wit::Lookup::Bypass => Lookup::Bypass,
            })
        }

        fn keep(
            &self,
            at: &CacheAddress<'_>,
            ticket: u64,
            value: &[u8],
            now_ms: u64,
        ) -> Result<(), String> {
            wit::keep(&address(at), ticket, &bulk_to_wit(value), now_ms)
        }

        fn release(&self, at: &CacheAddress<'_>, ticket: u64) -> Result<(), String> {
            wit::release(&address(at), ticket)
        }
    }
}
