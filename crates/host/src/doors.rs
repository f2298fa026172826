//! The two ways into a gate, as the host calls them.
//!
//! * [`Direct`]: the typed door, `penstock:gate/door`: whole request, whole answer, the cheapest;
//! * [`Http`]: `wasi:http/handler@0.3.0`, as Spin and other hosts call it.
//!
//! Both pass on when a request's answer is due and whether its caller still waits, so that a call in a model's line
//! knows when to give up. Both keep instances for reuse, serve one request at a time in each, and bound their number. In both,
//! an answer waits until what the instance saw of its key-value stores lasts; the instance does not.

mod direct;
mod http;

pub use direct::Direct;
pub use http::Http;

use crate::state::InstanceState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

/// Which door requests go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoorKind {
    /// The typed door.
    #[default]
    Direct,
    /// `wasi:http/handler`.
    Http,
}

/// A request as a door takes it.
pub struct DoorRequest {
    /// Method, target and headers.
    pub parts: ::http::request::Parts,
    /// The whole body.
    pub body: bytes::Bytes,
    /// When its answer is no longer of use.
    pub deadline: tokio::time::Instant,
}

/// Why a door gave no answer. None of these is the caller's fault or lasts.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The guest trapped; its instance is gone.
    #[error("the component trapped: {0:#}")]
    Trap(wasmtime::Error),
    /// No instance could be made.
    #[error("no instance could be made: {0:#}")]
    Instantiate(wasmtime::Error),
    /// The answer is there, and what it rests on may not last.
    #[error(transparent)]
    NotDurable(#[from] crate::kv::NotDurable),
    /// What came back is not an HTTP answer.
    #[error("the component's answer is not HTTP: {0}")]
    Answer(String),
}

/// How many instances were made and lost, and how many there are.
#[derive(Debug, Default)]
pub struct InstanceCounts {
    created: AtomicU64,
    dropped: AtomicU64,
    trapped: AtomicU64,
}

impl InstanceCounts {
    /// Instances made since the start.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Instances there are now.
    pub fn live(&self) -> u64 {
        self.created()
            .saturating_sub(self.dropped.load(Ordering::Relaxed))
    }

    /// Requests that ended in a trap.
    pub fn trapped(&self) -> u64 {
        self.trapped.load(Ordering::Relaxed)
    }

    fn note_trap(&self) {
        self.trapped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one instance for as long as it lives.
struct Counted(Arc<InstanceCounts>);

impl Counted {
    fn new(counts: &Arc<InstanceCounts>) -> Self {
        counts.created.fetch_add(1, Ordering::Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// What [`DoorSettings::retained_bytes`] is where models run in the host: an instance that grew larger is not kept,
/// the next large request can pay for its own. Policies start with about 5 MiB together.
pub const RETAINED_BYTES: usize = 48 << 20;

/// How doors use their instances.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// Bytes of linear memory an instance may hold after a request and still be kept.
    pub retained_bytes: usize,
    /// Instances at once.
    pub count: u32,
    /// Requests an instance serves before it is replaced.
    pub max_reuse: u32,
    /// How long one request may take in all.
    pub total_timeout: Duration,
}

/// Everything a component may import: WASI, `wasi:nn`, key-value stores, its variables, and nothing else.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    crate::nn::add_to_linker(&mut linker)?;
    crate::kv::add_to_linker(&mut linker)?;
    crate::variables::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Links a compiled component, ready to be instantiated.
pub fn link(
    component: &Component,
) -> wasmtime::Result<wasmtime::component::InstancePre<InstanceState>> {
    linker(component.engine())?.instantiate_pre(component)
}
