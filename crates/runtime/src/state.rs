//! The state of one instance. It owns the table of handles and the context of each interface (WASI, HTTP, `wasi:nn`,
//! key-value stores, variables), and lends an interface a view of its own context and the table. So no interface knows
//! another's state.

use crate::engine::EPOCH_TICK;
use crate::guest_log::GuestLog;
use crate::held::HeldBytes;
use crate::kv::{KvCtx, KvView, Ledger, Stores};
use crate::nn::{NnCtx, NnView};
use crate::request::RequestContext;
use penstock_app::Variables;
use penstock_nn::Repository;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

/// Handles that one instance may hold at once, tensors and errors included. A request needs a few dozen. An instance
/// that leaks them is stopped here before it fills the host.
const MAX_HANDLES: usize = 4096;

/// Handles, and bytes behind them, that an instance may keep from one request to the next. Ours keep the contexts of
/// models that they opened, a few hundred at most, and no tensors. An instance that keeps more leaks. It is replaced
/// before a later request runs into [`MAX_HANDLES`].
const MAX_RESTING_HANDLES: usize = 1024;
const MAX_RESTING_BYTES: usize = 1 << 20;

/// A directory of the host that an instance sees, read-only.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Its path on the host.
    pub host: std::path::PathBuf,
    /// Its path in the instance.
    pub guest: String,
}

/// The facts by which each new instance is made.
#[derive(Clone)]
pub struct InstanceSource {
    /// Directories of the host that an instance sees.
    pub mounts: Vec<Mount>,
    /// The path under which an instance sees the newest catalogue of this host's models. If components open models
    /// themselves, their directory is among the mounts.
    pub catalogue: Option<String>,
    /// The folder of copied files among the mounts, removed with the last instance.
    pub copies: Option<Arc<tempfile::TempDir>>,
    /// Environment variables an instance sees.
    pub environment: Vec<(String, String)>,
    /// The models behind `wasi:nn`.
    pub repository: Arc<Repository>,
    /// The key-value stores an instance may open.
    pub stores: Arc<Stores>,
    /// The values of an instance's variables.
    pub variables: Arc<Variables>,
    /// Bytes each memory may grow to.
    pub memory_bytes: usize,
    /// Computing time of one request.
    pub cpu_time: Duration,
}

/// The data of one instance's store.
pub struct InstanceState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoOutbound,
    /// The instance's handles of all kinds.
    table: ResourceTable,
    nn: NnCtx,
    kv: KvCtx,
    variables: Arc<Variables>,
    held: HeldBytes,
    /// Whether the instance leaked handles or bytes when a request began. The HTTP entry point reads it, because it
    /// cannot look into the store of a worker.
    leaking: Arc<AtomicBool>,
    limits: MemoryLimits,
    ticks_left: u64,
    ticks_per_request: u64,
}

impl InstanceState {
    /// Creates a store for a new instance, with its limits.
    pub fn store(engine: &Engine, source: &InstanceSource) -> wasmtime::Result<Store<Self>> {
        let mut wasi = WasiCtxBuilder::new();
        // Instances read a few small files when they start and none after. Handing each read to another thread costs
        // more than the read.
        wasi.allow_blocking_current_thread(true);
        wasi.stderr(GuestLog::default());
        for mount in &source.mounts {
            wasi.preopened_dir(&mount.host, &mount.guest, FsPerms::ReadOnly)?;
        }
        // An instance sees one catalogue all its life, so the contracts that it read stay valid for it.
        let snapshot = source
            .catalogue
            .as_ref()
            .and_then(|_| source.repository.snapshot());
        if let (Some(snapshot), Some(guest)) = (&snapshot, &source.catalogue) {
            wasi.preopened_dir(snapshot.path(), guest, FsPerms::ReadOnly)?;
        }
        for (name, value) in &source.environment {
            wasi.env(name, value);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let ticks = (source.cpu_time.as_millis() / EPOCH_TICK.as_millis()).max(1) as u64;
        let state = Self {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: NoOutbound,
            table,
            nn: NnCtx::new(source.repository.clone(), snapshot),
            kv: KvCtx::new(source.stores.clone()),
            variables: source.variables.clone(),
            held: HeldBytes::new(source.memory_bytes),
            leaking: Arc::default(),
            limits: MemoryLimits {
                memory_bytes: source.memory_bytes,
                held_bytes: 0,
            },
            ticks_left: ticks,
            ticks_per_request: ticks,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limits);
        // The bytes of one host call: at most the size of a memory. A body within the limit makes tensors that fit into
        // a memory (`Settings::body_limit`), so no body reaches this limit.
        store.set_hostcall_fuel(source.memory_bytes);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let state = store.data_mut();
            match state.ticks_left.checked_sub(1) {
                Some(left) => {
                    state.ticks_left = left;
                    Ok(UpdateDeadline::Yield(1))
                }
                None => Err(wasmtime::format_err!(
                    "the request exceeded its computing time"
                )),
            }
        });
        Ok(store)
    }

    /// Gives the next request its own computing time and its context. `body` is its body, if the host holds it.
    pub fn begin_request(&mut self, request: RequestContext, body: Option<bytes::Bytes>) {
        self.nn().forget_held();
        self.nn.begin_request(request, body);
        if self.leaks() {
            self.leaking.store(true, Ordering::Relaxed);
        }
        self.ticks_left = self.ticks_per_request;
    }
}

impl InstanceState {
    /// Returns whether the models have changed since the instance was made. Then its remembered contracts are outdated.
    pub fn is_behind(&self) -> bool {
        self.nn.is_behind()
    }

    /// The generation of the catalogue that the instance sees, if it sees one.
    pub fn generation(&self) -> Option<u64> {
        self.nn.generation()
    }

    /// The positions that the instance has seen in its key-value stores.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.kv.ledger()
    }

    /// Returns the flag that says whether the instance leaked when a request began.
    pub fn leaking(&self) -> &Arc<AtomicBool> {
        &self.leaking
    }

    /// The view of the instance for `wasi:nn`.
    #[inline]
    pub fn nn(&mut self) -> NnView<'_> {
        NnView {
            ctx: &mut self.nn,
            table: &mut self.table,
            held: &mut self.held,
        }
    }

    /// The view of the instance for the key-value interfaces.
    #[inline]
    pub fn kv(&mut self) -> KvView<'_> {
        KvView {
            ctx: &mut self.kv,
            table: &mut self.table,
            held: &mut self.held,
        }
    }

    /// The values of the instance's variables.
    pub fn variables(&mut self) -> &Variables {
        &self.variables
    }

    /// Returns whether the instance kept more handles, or more bytes behind them, than it needs.
    pub fn leaks(&mut self) -> bool {
        self.held.now() > MAX_RESTING_BYTES
            || self.table.iter_mut().nth(MAX_RESTING_HANDLES).is_some()
    }

    /// Bytes of linear memory the instance holds. It only grows.
    pub fn held_bytes(&self) -> usize {
        self.limits.held_bytes
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for InstanceState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

/// The progress of a message's transfer.
type Transfer = Box<dyn Future<Output = Result<(), HttpError>> + Send>;

/// Components cannot send HTTP requests. They only answer them.
struct NoOutbound;

impl WasiHttpHooks for NoOutbound {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _transfer: Transfer,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Transfer), HttpError>> + Send>
    {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}

/// Refuses growth beyond the limit. The guest's allocator fails and traps, which costs the request.
struct MemoryLimits {
    memory_bytes: usize,
    /// All memories of the instance together; they never shrink.
    held_bytes: usize,
}

impl ResourceLimiter for MemoryLimits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_bytes;
        if allowed {
            self.held_bytes = self
                .held_bytes
                .saturating_add(desired.saturating_sub(current));
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

/// Function tables have a few thousand elements and do not grow in practice.
const MAX_TABLE_ELEMENTS: usize = 100_000;
