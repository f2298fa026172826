//! The direct entry point: a pool of instances behind `penstock:gate/door`.
//!
//! A request takes an instance and returns it after the answer. A request that traps or runs out of time ends its
//! instance, because its state is unknown.
//!
//! A call that has begun runs to its end even if its caller disconnects. Policies must return their charges and record
//! the run, and a client that hangs up must not prevent that. The call is cancelled, so that it does not wait in a
//! model's queue (`crate::nn`).

use super::counts::{Counted, InstanceCounts};
use super::error::EntryPointError;
use super::settings::EntryPointSettings;
use crate::cancellation::Cancellation;
use crate::nn;
use crate::request::{EntryPointRequest, RequestContext};
use crate::state::{InstanceSource, InstanceState};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use penstock_core::headers::AUTHORITY;
use penstock_tensor::Place;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime::component::InstancePre;

#[allow(missing_docs)]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package penstock:host-side;
            world direct-door { export penstock:gate/door@0.1.0; }
        ",
        path: [
            "../../wit/types", "../../wit/deps/nn", "../../wit/nn", "../../wit/deps/keyvalue", "../../wit/deps/spin", "../../wit/auth", "../../wit/quota", "../../wit/idempotency",
            "../../wit/usage", "../../wit/operations", "../../wit/batches", "../../wit/validation", "../../wit/inference", "../../wit/adapter", "../../wit/models", "../../wit/cache", "../../wit/policy", "../../wit/gate",
        ],
        world: "penstock:host-side/direct-door",
        ownership: Borrowing { duplicate_if_necessary: true },
        exports: { default: async },
    });
}

use bindings::penstock::types::http as wit;
use bindings::{DirectDoor, DirectDoorPre};

/// Idle time after which an instance is dropped from the pool.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// Bodies of at least so many bytes stay in the host. A shorter one is copied faster than it is asked for.
const HELD_FROM_BYTES: usize = 16 << 10;

/// The pool of instances behind the typed entry point.
pub struct Direct {
    pre: DirectDoorPre<InstanceState>,
    source: InstanceSource,
    settings: EntryPointSettings,
    idle: Mutex<VecDeque<Instance>>,
    permits: Arc<Semaphore>,
    counts: Arc<InstanceCounts>,
    /// Whether components may leave bytes in the host ([`nn::may_hold`]).
    holds: bool,
}

struct Instance {
    store: Store<InstanceState>,
    bindings: DirectDoor,
    served: u32,
    /// The time of its last answer.
    idle_since: Instant,
    _counted: Counted,
}

impl Direct {
    /// Creates a pool over a linked component. It fails if the component lacks this entry point.
    pub fn new(
        pre: InstancePre<InstanceState>,
        source: InstanceSource,
        settings: EntryPointSettings,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            holds: nn::may_hold(pre.component()),
            pre: DirectDoorPre::new(pre)?,
            source,
            permits: Arc::new(Semaphore::new(settings.count as usize)),
            settings,
            idle: Mutex::default(),
            counts: Arc::default(),
        })
    }

    /// Counts of present and past instances.
    pub fn counts(&self) -> &InstanceCounts {
        &self.counts
    }

    /// The number of requests that have an instance now, and the most that may.
    pub fn use_of(&self) -> (u64, u64) {
        let most = u64::from(self.settings.count);
        (
            most.saturating_sub(self.permits.available_permits() as u64),
            most,
        )
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Instance>> {
        self.idle.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Keeps an instance that answered, unless it reached its number of requests or grew large: the memory of an
    /// instance never shrinks. Instances that were idle for long are dropped.
    fn keep(&self, mut instance: Instance) {
        let state = instance.store.data_mut();
        if instance.served >= self.settings.max_reuse
            || state.held_bytes() > self.settings.retained_bytes
            || state.ledger().is_spent()
            || state.is_behind()
            || state.leaks()
        {
            return;
        }
        instance.idle_since = Instant::now();
        let mut idle = self.idle();
        idle.push_back(instance);
        let stale = idle
            .front()
            .is_some_and(|oldest| oldest.idle_since.elapsed() > MAX_IDLE);
        let stale = if stale { idle.pop_front() } else { None };
        drop(idle);
        // Outside the lock: freeing an instance takes longer than the others should wait.
        drop(stale);
    }

    /// Returns an idle instance that sees the current models.
    fn take_idle(&self) -> Option<Instance> {
        let newest = self.idle().pop_back()?;
        if !newest.store.data().is_behind() {
            return Some(newest);
        }
        drop(newest);
        self.retire();
        let another = self.idle().pop_back();
        another.filter(|instance| !instance.store.data().is_behind())
    }

    /// Drops the idle instances that see outdated models.
    pub fn retire(&self) {
        let behind: Vec<Instance>;
        {
            let mut idle = self.idle();
            let all = std::mem::take(&mut *idle).into_iter();
            let (old, current): (Vec<_>, Vec<_>) =
                all.partition(|instance| instance.store.data().is_behind());
            *idle = current.into();
            behind = old;
        }
        // Outside the lock: freeing instances takes longer than the others should wait.
        drop(behind);
    }

    /// Passes one request through an instance. If the future is dropped while it waits for an instance, the call ends.
    /// If it is dropped later, the call continues alone, within its time.
    pub async fn call(
        self: &Arc<Self>,
        request: EntryPointRequest,
    ) -> Result<Response<Bytes>, EntryPointError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let cancellation = Arc::<Cancellation>::default();
        let context = RequestContext::of(&request, cancellation.clone());
        Finishing {
            work: Some(Box::pin(self.clone().begun(request, context, permit))),
            cancellation,
            within: self.settings.total_timeout,
        }
        .await
    }

    async fn begun(
        self: Arc<Self>,
        request: EntryPointRequest,
        context: RequestContext,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Bytes>, EntryPointError> {
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => self
                .instantiate()
                .await
                .map_err(EntryPointError::Instantiate)?,
        };
        instance.store.set_epoch_deadline(1);
        let EntryPointRequest { parts, body, .. } = &request;
        let holds_body = self.holds && body.len() >= HELD_FROM_BYTES;
        (instance.store.data_mut()).begin_request(context, holds_body.then(|| body.clone()));
        // Over HTTP/2 there may be no `host`, and an absolute-form target may name another server.
        let authority = parts.uri.authority().map(|authority| wit::HeaderParam {
            name: AUTHORITY,
            value: authority.as_str().as_bytes(),
        });
        let headers = parts.headers.iter().map(|(name, value)| wit::HeaderParam {
            name: name.as_str(),
            value: value.as_bytes(),
        });
        let headers: Vec<wit::HeaderParam<'_>> = headers.chain(authority).collect();
        let record = wit::Request {
            method: parts.method.as_str(),
            target: parts.uri.path_and_query().map_or("/", |t| t.as_str()),
            headers: &headers,
            body: if holds_body { &[] } else { body },
            may_hold: self.holds,
            held_body: holds_body.then_some(body.len() as u64),
        };
        let answered = instance
            .bindings
            .penstock_gate_door()
            .call_handle(&mut instance.store, record)
            .await;
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(trap) => {
                self.counts.note_trap();
                return Err(EntryPointError::Trap(trap));
            }
        };
        instance.served += 1;
        let state = instance.store.data_mut();
        let rest = rest_of(&mut answer, state);
        state.nn().forget_held();
        let ledger = state.ledger().clone();
        self.keep(instance);
        drop(permit);
        // The instance serves others meanwhile, so that many answers wait for one write to the disk.
        ledger.settled().await?;
        to_http(answer, rest?)
    }

    async fn instantiate(&self) -> wasmtime::Result<Instance> {
        let mut store = InstanceState::store(self.pre.engine(), &self.source)?;
        let bindings = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            bindings,
            served: 0,
            idle_since: Instant::now(),
            _counted: Counted::new(&self.counts),
        })
    }
}

type Work = Pin<Box<dyn Future<Output = Result<Response<Bytes>, EntryPointError>> + Send>>;

/// A call that continues when its caller is gone. Before that, it runs on the caller's task and costs no hop.
struct Finishing {
    work: Option<Work>,
    cancellation: Arc<Cancellation>,
    /// Time for which it may continue alone: the time that it would have had with its caller.
    within: Duration,
}

impl Future for Finishing {
    type Output = Result<Response<Bytes>, EntryPointError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.work.as_mut().expect("polled after it was ready");
        let answered = std::task::ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(answered)
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else {
            return;
        };
        self.cancellation.cancel();
        // Without a runtime the process is ending, and so is the call.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(self.within, work));
        }
    }
}

/// The parts of an answer's body after the first. Bytes that the host holds are not copied here.
fn rest_of(
    answer: &mut wit::Response,
    state: &mut InstanceState,
) -> Result<Vec<Bytes>, EntryPointError> {
    let part = |part: wit::BodyPart| match part {
        wit::BodyPart::Bytes(bytes) => Ok(bytes.into()),
        wit::BodyPart::Held(place) => state.nn().held_bytes(Place {
            item: place.item,
            offset: place.offset,
            length: place.length,
        }),
    };
    let parts: wasmtime::Result<Vec<Bytes>> = answer.rest.drain(..).map(part).collect();
    parts.map_err(|error| EntryPointError::Answer(error.to_string()))
}

fn to_http(answer: wit::Response, rest: Vec<Bytes>) -> Result<Response<Bytes>, EntryPointError> {
    let mut body = answer.body;
    // Outputs that the host held are copied: a client that reads slowly must not keep the memory of an engine.
    body.reserve_exact(rest.iter().map(Bytes::len).sum());
    for part in rest {
        body.extend_from_slice(&part);
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status)
        .map_err(|_| EntryPointError::Answer(format!("status {}", answer.status)))?;
    let headers = response.headers_mut();
    headers.reserve(answer.headers.len());
    for header in answer.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| EntryPointError::Answer(format!("a header is named {:?}", header.name)))?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(header.value)).map_err(|_| {
            EntryPointError::Answer(format!("header {name} has a value HTTP cannot carry"))
        })?;
        headers.append(name, value);
    }
    Ok(response)
}
