//! The HTTP entry point: `wasi:http/handler@0.3.0`, served as on other hosts, but with one request at a time in an
//! instance. The workers that own instances are `wasmtime-wasi-http`'s.

use super::counts::{Counted, InstanceCounts};
use super::error::EntryPointError;
use super::settings::EntryPointSettings;
use crate::cancellation::{CancelOnDrop, Cancellation};
use crate::kv::Ledger;
use crate::request::{EntryPointRequest, RequestContext};
use crate::state::{InstanceSource, InstanceState};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use penstock_nn::Repository;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{GuestTaskId, InstancePre};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ProxyPre, ShouldAccept,
    WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

/// Time for which an idle instance waits for its next request. Keeping it longer saves only the half millisecond that
/// the first call of a fresh one costs.
const IDLE: Duration = Duration::from_secs(5);

/// Time for which a component may continue after its answer. Ours do nothing then.
const POST_RETURN: Duration = Duration::from_secs(1);

/// A request that is out of time continues alone for the same time again, as with the direct entry point. The server
/// has answered its caller, and policies return their charges.
const TIMES_ALONE: u32 = 2;

/// The pool of workers behind `wasi:http/handler`.
pub struct Http {
    handler: ProxyHandler<Source>,
    permits: Arc<Semaphore>,
    counts: Arc<InstanceCounts>,
    most: u32,
}

impl Http {
    /// Creates a pool over a linked component. It fails if the component does not export the handler.
    pub fn new(
        pre: InstancePre<InstanceState>,
        source: InstanceSource,
        settings: EntryPointSettings,
    ) -> wasmtime::Result<Self> {
        let counts = Arc::<InstanceCounts>::default();
        let permits = Arc::new(Semaphore::new(settings.count as usize));
        let most = settings.count;
        let pre = ProxyPre::P3(ServicePre::new(pre)?);
        let source = Source {
            pre,
            source,
            settings,
            counts: counts.clone(),
        };
        Ok(Self {
            handler: ProxyHandler::new(source),
            permits,
            counts,
            most,
        })
    }

    /// Counts of present and past instances.
    pub fn counts(&self) -> &InstanceCounts {
        &self.counts
    }

    /// The number of requests that have an instance now, and the most that may.
    pub fn use_of(&self) -> (u64, u64) {
        let most = u64::from(self.most);
        (
            most.saturating_sub(self.permits.available_permits() as u64),
            most,
        )
    }

    /// Passes one request through an instance.
    pub async fn call(
        &self,
        request: EntryPointRequest,
    ) -> Result<Response<Bytes>, EntryPointError> {
        // The permit goes with the request: a caller that disconnects does not stop the instance that works for it, and
        // that instance still counts.
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let ledger = Arc::<OnceLock<Arc<Ledger>>>::default();
        let cancellation = Arc::<Cancellation>::default();
        // When a caller disconnects, this future is dropped, and that cancels the instance's request.
        let _cancel_on_drop = CancelOnDrop(cancellation.clone());
        let admitted = AdmittedRequest {
            permit,
            context: RequestContext::of(&request, cancellation),
            ledger: ledger.clone(),
        };
        let body: WasiBody = Full::new(request.body)
            .map_err(|e| match e {})
            .boxed_unsync();
        let request = http::Request::from_parts(request.parts, body);
        let response = self
            .handler
            .handle(admitted, request)
            .await
            .map_err(
                |error| match error.downcast::<InstantiationError<AdmittedRequest>>() {
                    Ok(failed) => {
                        EntryPointError::Instantiate(wasmtime::format_err!("{:#}", failed.error))
                    }
                    Err(trap) => EntryPointError::Trap(trap),
                },
            )?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|e| EntryPointError::Answer(format!("its body broke off: {e:?}")))?
            .to_bytes();
        if let Some(ledger) = ledger.get() {
            ledger.settled().await?;
        }
        Ok(Response::from_parts(parts, body))
    }
}

/// The data that go with a request to its instance.
struct AdmittedRequest {
    permit: OwnedSemaphorePermit,
    context: RequestContext,
    /// Set to that instance's ledger, for the caller to wait for.
    ledger: Arc<OnceLock<Arc<Ledger>>>,
}

struct Source {
    pre: ProxyPre<InstanceState>,
    source: InstanceSource,
    settings: EntryPointSettings,
    counts: Arc<InstanceCounts>,
}

impl HandlerState for Source {
    type StoreData = InstanceState;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<InstanceState, Expiration, Worker>> {
        let engine = match &self.pre {
            ProxyPre::P3(pre) => pre.engine(),
        };
        let mut store = InstanceState::store(engine, &self.source)?;
        let ledger = store.data().ledger().clone();
        let made_in = store.data().generation();
        let mut generations = self.source.repository.generations();
        let changed = async move {
            let behind = |now: &u64| made_in.is_some_and(|made_in| made_in != *now);
            if generations.wait_for(behind).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let leaking = store.data().leaking().clone();
        let proxy: Proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            view: InstanceState::http,
            expiration: Expiration {
                total_timeout: self.settings.total_timeout * TIMES_ALONE,
                sleep: Box::pin(tokio::time::sleep(IDLE)),
                behind: Box::pin(changed),
            },
            state: Worker {
                max_reuse: self.settings.max_reuse as usize,
                total_timeout: self.settings.total_timeout * TIMES_ALONE,
                ledger,
                repository: self.source.repository.clone(),
                made_in,
                asked_after: AtomicUsize::new(usize::MAX),
                leaking,
                counted: Counted::new(&self.counts),
            },
        })
    }
}

struct Expiration {
    total_timeout: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// Resolves when the models change.
    behind: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        // An idle worker with outdated models makes room for another.
        if status == WorkerStatus::Idle && self.behind.as_mut().poll(cx).is_ready() {
            // It is not polled again: a worker that has expired ends.
            return Poll::Ready(());
        }
        let span = match status {
            WorkerStatus::Idle => IDLE,
            WorkerStatus::Requests => self.total_timeout,
            WorkerStatus::PostReturn => POST_RETURN,
        };
        let deadline = tokio::time::Instant::from_std(start + span);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

struct Worker {
    max_reuse: usize,
    total_timeout: Duration,
    ledger: Arc<Ledger>,
    repository: Arc<Repository>,
    /// The generation of the catalogue that it sees.
    made_in: Option<u64>,
    /// The number of requests after which it last asked for another.
    asked_after: AtomicUsize,
    leaking: Arc<AtomicBool>,
    counted: Counted,
}

impl WorkerState for Worker {
    type StoreData = InstanceState;
    type RequestData = AdmittedRequest;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        // It may be dropped between requests only: one that was polled before may hold a request's wake-up.
        let first = concurrent == 0 && self.asked_after.swap(total, Ordering::Relaxed) != total;
        let behind = |made_in| made_in != self.repository.generation();
        if total >= self.max_reuse
            || self.ledger.is_spent()
            || self.leaking.load(Ordering::Relaxed)
            || (first && self.made_in.is_some_and(behind))
        {
            ShouldAccept::Never
        } else if concurrent >= 1 {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, InstanceState>,
        admitted: AdmittedRequest,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        let AdmittedRequest {
            permit,
            context,
            ledger,
        } = admitted;
        store.data_mut().begin_request(context, None);
        store.set_epoch_deadline(1);
        // Each request comes here once.
        let _ = ledger.set(self.ledger.clone());
        let deadline = tokio::time::sleep(self.total_timeout);
        Box::pin(async move {
            deadline.await;
            drop(permit);
        })
    }

    fn drop(&self, store: Store<InstanceState>, result: Result<(), wasmtime::Error>) {
        drop(store);
        if let Err(error) = result {
            self.counted.0.note_trap();
            let why = penstock_app::one_line(&format_args!("{error:#}"));
            tracing::error!("an instance behind the HTTP entry point ended: {why}");
        }
    }
}
