//! What belongs to one instance: its WASI view, its handles, and the limits of the request it is
//! serving.

use crate::audience::Audience;
use crate::engine::EPOCH_TICK;
use crate::guest_log::GuestLog;
use crate::kv::{Ledger, Stores};
use crate::variables::Variables;
use penstock_nn::{Repository, Snapshot};
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

/// Handles one instance may hold at once, tensors and errors included. A request needs a few dozen;
/// an instance that leaks them is stopped here instead of filling the host.
const MAX_HANDLES: usize = 4096;

/// Handles, and bytes behind them, that an instance may keep from one request to the next. Ours keep the contexts of
/// models they opened, a few hundred at most, and no tensors; what keeps more leaks, and is replaced before a
/// later request is the one to run into [`MAX_HANDLES`].
const MAX_RESTING_HANDLES: usize = 1024;
const MAX_RESTING_BYTES: usize = 1 << 20;

/// What the request in hand is given beside its limits.
#[derive(Clone, Debug)]
pub struct RequestTerms {
    /// When its answer is no longer of use.
    pub deadline: tokio::time::Instant,
    /// Who waits for the answer.
    pub audience: Arc<Audience>,
    /// Whether a retry may pick the answer up, so that a run is worth its end although nobody waits.
    pub repeatable: bool,
}

impl RequestTerms {
    /// The terms of a request that has arrived.
    pub fn of(request: &crate::doors::DoorRequest, audience: Arc<Audience>) -> Self {
        Self {
            deadline: request.deadline,
            audience,
            repeatable: request.parts.headers.contains_key(IDEMPOTENCY_KEY),
        }
    }
}

/// The header by which a client says that it may repeat the call.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A directory of the host that an instance sees, read-only.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where it is.
    pub host: std::path::PathBuf,
    /// Where the instance sees it.
    pub guest: String,
}

/// What instances are made from.
#[derive(Clone)]
pub struct InstanceSource {
    /// Directories an instance sees.
    pub mounts: Vec<Mount>,
    /// Where an instance sees the newest catalogue of the models this host runs; where components open models
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
    /// What an instance's variables are worth.
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
    /// Handles of all kinds.
    pub table: ResourceTable,
    /// The models behind `wasi:nn`.
    pub repository: Arc<Repository>,
    /// The catalogue the instance sees, kept for as long as it does.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What the instance has seen of its key-value stores.
    pub ledger: Arc<Ledger>,
    /// What its variables are worth.
    pub variables: Arc<Variables>,
    /// Bytes of tensors and of values held for the guest in the host's memory.
    pub tensor_bytes: usize,
    /// The most bytes of tensors and of values held for the guest.
    pub max_tensor_bytes: usize,
    /// Whether the instance was seen to leak when a request began; for who cannot look into it.
    pub leaking: Arc<AtomicBool>,
    /// The terms of the request in hand; none before the first.
    pub terms: Option<RequestTerms>,
    limits: MemoryLimits,
    ticks_left: u64,
    ticks_per_request: u64,
}

impl InstanceState {
    /// A store for a new instance, with its limits in force.
    pub fn store(engine: &Engine, source: &InstanceSource) -> wasmtime::Result<Store<Self>> {
        let mut wasi = WasiCtxBuilder::new();
        // Instances read a few small files when they start and none after; handing each read to
        // another thread costs more than the read.
        wasi.allow_blocking_current_thread(true);
        wasi.stderr(GuestLog::default());
        for mount in &source.mounts {
            wasi.preopened_dir(&mount.host, &mount.guest, FsPerms::ReadOnly)?;
        }
        // An instance sees one catalogue all its life: what it read of it stays true for it.
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
            repository: source.repository.clone(),
            snapshot,
            ledger: Ledger::new(source.stores.clone()),
            variables: source.variables.clone(),
            tensor_bytes: 0,
            max_tensor_bytes: source.memory_bytes,
            leaking: Arc::default(),
            terms: None,
            limits: MemoryLimits {
                memory_bytes: source.memory_bytes,
                held_bytes: 0,
            },
            ticks_left: ticks,
            ticks_per_request: ticks,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limits);
        // What one host call may bring: all that a memory can hold, and no more. A body within the limit makes
        // tensors that fit a memory (`Settings::body_limit`), so no body runs into this.
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
                    "the request used up its computing time"
                )),
            }
        });
        Ok(store)
    }

    /// Gives the next request its own computing time and its terms.
    pub fn begin_request(&mut self, terms: RequestTerms) {
        self.terms = Some(terms);
        if self.leaks() {
            self.leaking.store(true, Ordering::Relaxed);
        }
        self.ticks_left = self.ticks_per_request;
    }
}

impl InstanceState {
    /// Whether the models have changed since the instance was made: what it remembers of them is out of date.
    pub fn is_behind(&self) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.generation() != self.repository.generation())
    }

    /// Whether the instance kept more handles, or more bytes behind them, than there is a use for.
    pub fn leaks(&mut self) -> bool {
        self.tensor_bytes > MAX_RESTING_BYTES
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

/// Components reach nothing over HTTP; they only answer it.
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

/// Refuses growth beyond the limit; the guest's allocator sees it and traps, which costs the request.
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
