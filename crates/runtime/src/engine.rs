//! Decides how WebAssembly runs: the enabled proposals, the pool of memory, and the stop of a guest that computes
//! without end.

use crate::settings::InstanceSettings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Time between two interruptions of running guests, which let others run and count the time. It is short enough that a
/// busy guest delays its neighbours by no more than a model run, and long enough to cost nothing.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Core instances one composed component may need: each policy brings its module and a few shims.
const CORE_INSTANCES_PER_COMPONENT: u32 = 72;
/// Linear memories one composed component may need: one for each policy, with room for more.
const MEMORIES_PER_COMPONENT: u32 = 18;
/// Tables one composed component may need.
const TABLES_PER_COMPONENT: u32 = 72;
/// Bytes of a memory slot that stay mapped between instances. Larger values make fresh instances more expensive,
/// because clearing kept pages costs more than mapping new ones.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;
/// Stack for a guest's calls into the host's async functions.
const ASYNC_STACK_BYTES: usize = 1 << 20;
/// Stack that a guest may use. The rest is the host's.
const WASM_STACK_BYTES: usize = 512 << 10;

/// The use that components may make of the asynchronous part of the component model: `async` functions, streams and futures, as
/// WASI 0.3 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// Components may not use it. Calls between components and calls of the host are cheaper, because the runtime keeps no
    /// task for each of them.
    Off,
    /// Components may use it.
    On,
}

/// Builds the engine all components run on.
pub fn build(settings: &InstanceSettings, concurrency: Concurrency) -> wasmtime::Result<Engine> {
    // Two entry points have a pool each, and an instance being replaced overlaps with its successor.
    let slots = settings.count.saturating_mul(2).saturating_add(2);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(slots.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(slots.saturating_mul(TABLES_PER_COMPONENT))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memory_size(settings.memory_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(concurrency == Concurrency::On)
        .concurrency_support(concurrency == Concurrency::On)
        .epoch_interruption(true)
        .async_stack_size(ASYNC_STACK_BYTES)
        .max_wasm_stack(WASM_STACK_BYTES)
        .memory_init_cow(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the engine's epoch until dropped.
pub struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread that advances the epoch at each tick.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.weak(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(EPOCH_TICK);
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => break,
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
