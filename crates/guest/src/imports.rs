//! Contains the bindings of the gate: its imports from the other components, and its exports.

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:gate/component",
        path: [
            "../../wit/types", "../../wit/deps/nn", "../../wit/nn", "../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/auth", "../../wit/quota", "../../wit/idempotency",
            "../../wit/usage", "../../wit/operations", "../../wit/batches", "../../wit/validation", "../../wit/inference", "../../wit/adapter", "../../wit/models", "../../wit/cache", "../../wit/policy", "../../wit/gate",
        ],
        with: {
            "penstock:types/callers@0.1.0": crate::types::callers,
            "penstock:types/held@0.1.0": crate::types::held,
            "penstock:types/http@0.1.0": crate::types::http,
            "penstock:types/tensors@0.1.0": crate::types::tensors,
        },
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::imports::bindings",
    });
}
