//! The interfaces that a component may import.

use crate::state::InstanceState;
use crate::{kv, nn, variables};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

/// Links everything that a component may import: WASI, `wasi:nn`, key-value stores, its variables, and nothing else.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    nn::add_to_linker(&mut linker, InstanceState::nn)?;
    kv::add_to_linker(&mut linker, InstanceState::kv)?;
    variables::add_to_linker(&mut linker, InstanceState::variables)?;
    Ok(linker)
}

/// Links a compiled component, ready to be instantiated.
pub fn link(component: &Component) -> wasmtime::Result<InstancePre<InstanceState>> {
    linker(component.engine())?.instantiate_pre(component)
}
