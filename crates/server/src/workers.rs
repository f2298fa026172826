//! Runs operations through the entry point, renews their leases, interrupts cancelled ones, and wakes the clients that wait for an
//! end.
//!
//! The components decide everything about an operation, and store it. They tell this module by a header of their answers, and
//! it asks them by the header with the facts about a connection. So the queue may lose a job, for example at a crash: the next
//! start, or the next client that waits for the operation, adds it again.

use super::clock::unix_ms;
use super::drain::Phase;
use super::headers::CONNECTION;
use super::state::Server;
use super::work::{MAX_JOBS, Waiting, Work, lock};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use penstock_core::OperationId;
use penstock_policy::operations::queue::Job;
use penstock_runtime::entry_points::{EntryPointError, EntryPointRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// The header with the components' note about an operation. No client sees it.
pub(crate) const NOTE: HeaderName = HeaderName::from_static("penstock-operation");
/// Time between two looks whether the server is ready to run operations, which need its models.
const READY_PAUSE: Duration = Duration::from_millis(100);
/// Time in which components store something about an operation.
const ORDER_TIME: Duration = Duration::from_secs(10);
/// Time that components have after a run to store its end.
const STORE_TIME: Duration = Duration::from_secs(5);
/// Time before an operation is looked at again after its components failed, if they could not store when.
const FAILED_PAUSE_MS: u64 = 5_000;
/// Renewals in the time of one lease. A busy machine may delay two of them.
const RENEWALS: u32 = 3;

/// A note of the components.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Note {
    id: String,
    push: Option<Push>,
    cancel: bool,
    wait_ms: Option<u64>,
    then: Option<Then>,
    again_ms: Option<u64>,
    ended: bool,
    renewal: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Push {
    tenant: String,
    model: String,
    priority: Option<u8>,
    #[serde(default)]
    items: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Then {
    Describe,
    DescribeGoogle,
    Answer,
}

/// Why a run is interrupted, in the words of the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Cancelled,
    TimedOut,
    Stopping,
    Crashed,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
        }
    }
}

impl Server {
    /// Adds operations to the queue that the store had at the start. Returns whether there was room for all of them.
    pub fn resume_operations(&self, jobs: impl IntoIterator<Item = Job>) -> bool {
        let Some(work) = &self.work else {
            return true;
        };
        work.overflowed.store(false, Ordering::Relaxed);
        for job in jobs {
            work.push(job, 0);
        }
        !work.overflowed.load(Ordering::Relaxed)
    }

    /// Whether the store has operations that found no room in the queue, and there is room now.
    pub fn lacks_operations(&self) -> bool {
        self.work.as_ref().is_some_and(|work| {
            work.overflowed.load(Ordering::Relaxed) && lock(&work.queue).len() < MAX_JOBS / 2
        })
    }

    /// Runs operations until [`Server::stop_operations`], and then gives back those that run.
    pub async fn run_operations(self: Arc<Self>) {
        let Some(work) = self.work.clone() else {
            return;
        };
        let mut workers = JoinSet::new();
        for _ in 0..work.settings.operations.workers {
            workers.spawn(self.clone().run_worker(work.clone()));
        }
        while workers.join_next().await.is_some() {}
    }

    /// Tells the workers to stop.
    pub fn stop_operations(&self) {
        if let Some(work) = &self.work {
            work.stop.send_replace(true);
        }
    }

    async fn run_worker(self: Arc<Self>, work: Arc<Work>) {
        let mut stop = work.stop.subscribe();
        loop {
            let next = async {
                while self.takes_no_work() {
                    tokio::time::sleep(READY_PAUSE).await;
                }
                work.next().await
            };
            let (job, interrupt) = tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                next = next => next,
            };
            let id = job.id.clone();
            let again_ms = self.run(&work, &id, &interrupt, &mut stop).await;
            lock(&work.running).remove(&id);
            match again_ms {
                Some(again_ms) => work.push(job, again_ms),
                None => work.ended(&id),
            }
        }
    }

    /// Runs one operation. Returns when it is to be looked at again; `None` if it ended.
    async fn run(
        &self,
        work: &Work,
        id: &OperationId,
        interrupt: &Notify,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<u64> {
        let settings = &work.settings.operations;
        let holder = format!("{:032x}", rand::random::<u128>());
        let limit = Duration::from_millis(settings.run_timeout_ms);
        let began = Instant::now();
        let order = json!({
            "do": "run", "holder": holder, "dead_before_ms": work.settings.dead_before_ms,
        });
        let mut run = std::pin::pin!(self.order(id, &order, began + limit));
        let mut renewals =
            tokio::time::interval(Duration::from_millis(settings.lease_ms) / RENEWALS);
        renewals.tick().await;
        // The interruption is stored before the run's future is dropped, so that the run's own end comes too late.
        let why = loop {
            tokio::select! {
                biased;
                answered = &mut run => match answered {
                    Ok(answered) => {
                        work.measured(began.elapsed());
                        return note_of(&answered).and_then(|note| note.again_ms);
                    }
                    Err(error) => {
                        tracing::error!("operation {id}: {}", penstock_app::one_line(&error));
                        break Why::Crashed;
                    }
                },
                () = interrupt.notified() => break Why::Cancelled,
                () = stopped(stop) => break Why::Stopping,
                () = tokio::time::sleep_until(began + limit + STORE_TIME) => break Why::TimedOut,
                _ = renewals.tick() => {
                    let renewed = self.order_now(id, &json!({ "do": "renew", "holder": holder })).await;
                    match renewed.as_ref().and_then(|note| note.renewal.as_deref()) {
                        Some("cancelled") => break Why::Cancelled,
                        // Another worker runs it, or it ended. Its queue entry is looked at again after the lease.
                        Some("lost") => return Some(unix_ms() + settings.lease_ms),
                        // If the store does not answer, the lease ends by itself.
                        _ => {}
                    }
                }
            }
        };
        let order = json!({ "do": "abandon", "holder": holder, "why": why.as_str() });
        match self.order_now(id, &order).await {
            Some(note) => note.again_ms,
            None => Some(unix_ms() + FAILED_PAUSE_MS),
        }
    }

    /// Asks the components about an operation, and returns their note; `None` if they failed.
    async fn order_now(&self, id: &OperationId, order: &Value) -> Option<Note> {
        let deadline = Instant::now() + ORDER_TIME;
        match timeout_at(deadline, self.order(id, order, deadline)).await {
            Ok(Ok(answered)) if answered.status().is_success() => note_of(&answered),
            Ok(Ok(answered)) => {
                tracing::warn!("operation {id}: {order} was answered {}", answered.status());
                None
            }
            Ok(Err(error)) => {
                tracing::error!("operation {id}: {}", penstock_app::one_line(&error));
                None
            }
            Err(_) => None,
        }
    }

    /// Passes a request about an operation through the entry point.
    async fn order(
        &self,
        id: &OperationId,
        order: &Value,
        deadline: Instant,
    ) -> Result<Response<Bytes>, EntryPointError> {
        let request = Request::builder()
            .method("POST")
            .uri(format!("/v1/operations/{id}"))
            .header(CONNECTION, self.statement(&json!({ "work": order })))
            .body(())
            .expect("an id is visible ASCII");
        let (parts, ()) = request.into_parts();
        let request = EntryPointRequest {
            parts,
            body: Bytes::new(),
            deadline,
        };
        self.entry_point.call(request).await
    }

    /// The header with facts for components.
    fn statement(&self, facts: &Value) -> HeaderValue {
        let token = self.options.token.as_deref().unwrap_or_default();
        HeaderValue::from_str(&format!("{token} {facts}")).expect("JSON of plain ASCII")
    }

    /// Whether the server runs no operations now: it is loading its models, or stops.
    fn takes_no_work(&self) -> bool {
        self.phase.borrow().is_leaving()
            || self
                .options
                .not_ready
                .as_ref()
                .is_some_and(|why| why().is_some())
    }

    /// The place in the queue of the operation that a path names.
    pub(crate) fn queue_place(&self, path: &str) -> Option<Value> {
        let work = self.work.as_ref()?;
        let (_, rest) = path.split_once("/operations/")?;
        let id = rest.split([':', '/']).next().and_then(OperationId::parse)?;
        work.place(&id)
    }

    /// Follows the components' note in an answer, and returns the answer for the client.
    pub(crate) async fn follow(&self, mut answered: Response<Bytes>) -> Response<Bytes> {
        let Some(note) = answered.headers_mut().remove(&NOTE) else {
            return answered;
        };
        let (Some(work), Some(note)) = (&self.work, read(&note)) else {
            return answered;
        };
        let Some(id) = OperationId::parse(&note.id) else {
            return answered;
        };
        // It is on the list before the operation can end.
        let waits = note
            .wait_ms
            .zip(note.then)
            .filter(|_| !self.phase.borrow().is_leaving());
        let waiting = waits.and_then(|(wait_ms, then)| {
            let permit = work.waiters.try_acquire().ok()?;
            let ended = lock(&work.waiting)
                .entry(id.clone())
                .or_default()
                .subscribe();
            Some((permit, ended, wait_ms, then))
        });
        if let Some(push) = note.push {
            let job = Job {
                id: id.clone(),
                tenant: push.tenant,
                model: push.model,
                priority: push.priority,
                items: push.items,
            };
            work.push(job, 0);
        }
        if note.cancel {
            let interrupt = lock(&work.running).get(&id).cloned();
            match interrupt {
                Some(interrupt) => interrupt.notify_one(),
                None => work.ended(&id),
            }
        }
        let Some((_permit, mut ended, wait_ms, then)) = waiting else {
            return answered;
        };
        let waited = Waiting { work, id: &id };
        let mut phase = self.phase.subscribe();
        tokio::select! {
            _ = ended.changed() => {}
            () = leaving(&mut phase) => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
        }
        drop(ended);
        drop(waited);
        let order = match then {
            Then::Describe => json!({ "do": "describe", "google": false }),
            Then::DescribeGoogle => json!({ "do": "describe", "google": true }),
            Then::Answer => json!({ "do": "answer" }),
        };
        let deadline = Instant::now() + ORDER_TIME;
        let later = timeout_at(deadline, self.order(&id, &order, deadline)).await;
        match later {
            Ok(Ok(mut later)) if later.status().as_u16() != 404 => {
                keep_headers(&answered, &mut later);
                later
            }
            // The state of before is still an answer.
            _ => answered,
        }
    }
}

/// Resolves when the workers are told to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard must not be held over an await of the caller.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Resolves when the server is told to stop.
async fn leaving(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| phase.is_leaving()).await;
}

/// Headers of an answer that belong to its content, and not to the request.
const OF_CONTENT: [&str; 9] = [
    "content-type",
    "content-length",
    "content-encoding",
    "etag",
    "last-modified",
    "location",
    "preference-applied",
    "retry-after",
    "penstock-operation",
];

/// Completes an answer that came after a wait by the headers that the components wrote for the request itself: its id, the
/// state of its limits, and those for caches and for pages of other origins.
fn keep_headers(first: &Response<Bytes>, later: &mut Response<Bytes>) {
    later.headers_mut().remove(&NOTE);
    later.headers_mut().remove("x-request-id");
    let own: Vec<HeaderName> = later.headers().keys().cloned().collect();
    for (name, value) in first.headers() {
        if !own.contains(name) && !OF_CONTENT.contains(&name.as_str()) {
            later.headers_mut().append(name.clone(), value.clone());
        }
    }
}

fn read(note: &HeaderValue) -> Option<Note> {
    serde_json::from_slice(note.as_bytes()).ok()
}

fn note_of(answered: &Response<Bytes>) -> Option<Note> {
    answered.headers().get(&NOTE).and_then(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_after_a_wait_has_the_headers_of_its_request_and_those_of_its_content() {
        let answer = |headers: &[(&'static str, &'static str)]| {
            let mut answer = Response::new(Bytes::new());
            for (name, value) in headers {
                answer
                    .headers_mut()
                    .append(*name, HeaderValue::from_static(value));
            }
            answer
        };
        let first = answer(&[
            ("x-request-id", "req_1"),
            ("cache-control", "no-store"),
            ("ratelimit", "\"a\";r=1"),
            ("etag", "\"1\""),
            ("location", "/v1/operations/op_1"),
            ("content-type", "application/json"),
            ("retry-after", "1"),
        ]);
        let mut later = answer(&[
            ("x-request-id", "req_2"),
            ("content-type", "application/octet-stream"),
            ("penstock-operation", "{}"),
        ]);
        keep_headers(&first, &mut later);
        let mut headers: Vec<(&str, &str)> = (later.headers().iter())
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [
                ("cache-control", "no-store"),
                ("content-type", "application/octet-stream"),
                ("ratelimit", "\"a\";r=1"),
                ("x-request-id", "req_1"),
            ]
        );
    }

    #[test]
    fn a_note_with_unknown_or_missing_members_is_read() {
        let note = HeaderValue::from_static(r#"{"id":"op_1","again_ms":7,"new":1}"#);
        let note = read(&note).unwrap();
        assert_eq!(
            (note.again_ms, note.ended, note.cancel),
            (Some(7), false, false)
        );
        assert!(read(&HeaderValue::from_static("{")).is_none());
    }
}
