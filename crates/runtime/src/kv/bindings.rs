//! The generated side of the key-value interfaces.
#![allow(missing_docs)]

wasmtime::component::bindgen!({
    inline: "
        package penstock:host-side;
        world stores {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import fermyon:spin/key-value@2.0.0;
            import spin:key-value/key-value@3.0.0;
        }
    ",
    path: ["../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/deps/spin-key-value"],
    world: "penstock:host-side/stores",
    with: {
        "wasi:keyvalue/store.bucket": super::resources::Bucket,
        "wasi:keyvalue/atomics.cas": super::resources::Cas,
        "fermyon:spin/key-value.store": super::resources::Spin2Store,
        "spin:key-value/key-value.store": super::resources::Spin3Store,
    },
    imports: {
        "wasi:keyvalue/store.open": trappable,
        "fermyon:spin/key-value.[static]store.open": trappable,
        "wasi:keyvalue/atomics.[method]cas.current": trappable,
        default: async | trappable,
    },
});
