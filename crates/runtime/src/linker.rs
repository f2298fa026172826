//! The interfaces that a component may import.

use crate::compile::Compiled;
use crate::engine::Concurrency;
use crate::state::InstanceState;
use crate::{kv, nn, variables};
use wasmtime::Engine;
use wasmtime::component::{InstancePre, Linker};

/// Links everything that a component may import: WASI, `wasi:nn`, key-value stores, its variables, and nothing else.
/// Without concurrency, interfaces with asynchronous functions are left out.
pub fn linker(
    engine: &Engine,
    concurrency: Concurrency,
) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    if concurrency == Concurrency::On {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        kv::add_async_to_linker(&mut linker, InstanceState::kv)?;
    }
    nn::add_to_linker(&mut linker, InstanceState::nn)?;
    kv::add_to_linker(&mut linker, InstanceState::kv)?;
    variables::add_to_linker(&mut linker, InstanceState::variables)?;
    Ok(linker)
}

/// Links a compiled component, ready to be instantiated.
pub fn link(compiled: &Compiled) -> wasmtime::Result<InstancePre<InstanceState>> {
    let component = &compiled.component;
    linker(component.engine(), compiled.concurrency)?.instantiate_pre(component)
}
