//! Runs operations through the entry point, renews their leases, interrupts cancelled ones, and wakes the clients that wait for an
//! end.
//!
//! The components decide everything about an operation, and store it. They tell this module by a header of their answers, and
//! it asks them by the header with the facts about a connection. So the queue may lose a job, for example at a crash: the next
//! start, or the next client that waits for the operation, adds it again.

use super::clock::unix_ms;
use super::drain::Phase;
use super::headers::{AUDIT, CONNECTION, SEEN};
use super::state::Server;
use super::work::{MAX_JOBS, Opening, StreamPlace, Waiting, Work, lock};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use penstock_core::{OperationId, grpc};
use penstock_policy::operations::notes::{self, Following, Note, Order, Push, QueuePlace};
use penstock_policy::operations::queue::Job;
use penstock_policy::operations::words::{Abandoned, Renewal};
use penstock_policy::webhooks::step::EventOf;
use penstock_runtime::entry_points::{EntryPointError, EntryPointRequest};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// The header with the components' note about an operation. No client sees it.
pub(crate) const NOTE: HeaderName = HeaderName::from_static(notes::HEADER);
/// Time between two looks whether the server is ready to run operations, which need its models.
const READY_PAUSE: Duration = Duration::from_millis(100);
/// Time in which components store something about an operation.
const ORDER_TIME: Duration = Duration::from_secs(10);
/// Time that components have after a run to store its end.
const STORE_TIME: Duration = Duration::from_secs(5);
/// Time before an operation is looked at again after its components failed, if they could not store when.
const FAILED_PAUSE_MS: u64 = 5_000;
/// The part of a client's own time that is left after a wait, so that the answer reaches it.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// Renewals in the time of one lease. A busy machine may delay two of them.
const RENEWALS: u32 = 3;

impl Server {
    /// Adds operations to the queue that the store has.
    pub fn resume_operations(&self, jobs: impl IntoIterator<Item = Job>) {
        let Some(work) = &self.work else {
            return;
        };
        work.overflowed.store(false, Ordering::Relaxed);
        for job in jobs {
            work.push(job, 0);
        }
    }

    /// Returns whether the store has operations that found no room in the queue, and there is room now.
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
                // Operations need the models. A job that is taken and put back would lose its place.
                while self.not_ready().is_some() {
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
            work.moved(&id);
            // The server may have lost its models while the worker waited for a job.
            let again_ms = match self.not_ready().is_none() {
                true => self.run(&work, &id, &interrupt, &mut stop).await,
                false => Some(unix_ms()),
            };
            work.forget_run(&id);
            match again_ms {
                Some(again_ms) => {
                    work.push(job, again_ms);
                    work.moved(&id);
                }
                None => work.ended(&id),
            }
        }
    }

    /// Runs an operation in an instance. Returns the time of the next look at it; `None` if it ended.
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
        let order = Order::Run {
            holder: holder.clone(),
            dead_before_ms: work.settings.dead_before_ms,
        };
        let mut run = std::pin::pin!(self.order(id, &order, began + limit));
        let lease = Duration::from_millis(settings.lease_ms);
        // The run goes on while its lease is renewed. The renewal ends before the interruption is stored, and the run after it, so
        // that its own end comes too late.
        let why = tokio::select! {
            biased;
            answered = &mut run => match answered {
                Ok(answered) => return self.after_run(work, id, &answered, began.elapsed()),
                Err(error) => {
                    tracing::error!("operation {id}: {}", penstock_app::one_line(&error));
                    Abandoned::Crashed
                }
            },
            () = interrupt.notified() => Abandoned::Cancelled,
            () = stopped(stop) => Abandoned::Stopping,
            () = tokio::time::sleep_until(began + limit + STORE_TIME) => Abandoned::TimedOut,
            why = self.renew(id, &holder, lease / RENEWALS) => why,
        };
        let order = Order::Abandon { holder, why };
        match self.order_now(id, &order).await {
            Some(note) => {
                if let Some(end) = note.ended {
                    self.metrics.operation_ended(end);
                }
                follow_step(work, note.next);
                note.again_ms
            }
            None => Some(unix_ms() + FAILED_PAUSE_MS),
        }
    }

    /// Reads the answer to an order to run an operation. Returns when it is to be looked at again; `None` if it ended.
    fn after_run(
        &self,
        work: &Work,
        id: &OperationId,
        answered: &Response<Bytes>,
        took: Duration,
    ) -> Option<u64> {
        let Some(note) = note_of(answered) else {
            // The components could not store the outcome. The entries tell the remaining steps.
            let status = answered.status();
            tracing::warn!("operation {id}: the order to run it was answered with status {status}");
            return Some(unix_ms() + FAILED_PAUSE_MS);
        };
        if note.again_ms.is_none() {
            work.measured(took);
        }
        if let Some(end) = note.ended {
            self.metrics.operation_ended(end);
        }
        follow_step(work, note.next);
        note.again_ms
    }

    /// Renews the lease of a run. Returns only if the run is to be interrupted.
    async fn renew(&self, id: &OperationId, holder: &str, every: Duration) -> Abandoned {
        let order = Order::Renew {
            holder: holder.to_owned(),
        };
        loop {
            tokio::time::sleep(every).await;
            let note = self.order_now(id, &order).await;
            match note.and_then(|note| note.renewal) {
                Some(Renewal::Cancelled) => return Abandoned::Cancelled,
                // Another worker has it, or it is gone. The order to abandon it finds that out, and changes nothing.
                Some(Renewal::Lost) => return Abandoned::Stopping,
                // If the store does not answer, the lease ends by itself.
                Some(Renewal::Renewed) | None => {}
            }
        }
    }

    /// Asks the components about an operation, and returns their note; `None` if they failed.
    async fn order_now(&self, id: &OperationId, order: &Order) -> Option<Note> {
        let why = match self.answer_to(id, order).await {
            Ok(answered) => match note_of(&answered) {
                Some(note) => return Some(note),
                None => format!("status {}", answered.status()),
            },
            Err(why) => why,
        };
        tracing::warn!("operation {id}: {order:?} failed: {why}");
        None
    }

    /// The event of an operation, as its receiver gets it.
    pub async fn event_of(&self, id: &OperationId) -> EventOf {
        let why = match self.answer_to(id, &Order::Announce).await {
            Ok(answered) => match (note_of(&answered), answered.status()) {
                (Some(note), _) => {
                    return match note.event {
                        Some(kind) => EventOf::Ended {
                            kind,
                            payload: answered.into_body().into(),
                        },
                        None => EventOf::Unfinished,
                    };
                }
                (None, StatusCode::NOT_FOUND) => return EventOf::Gone,
                (None, status) => format!("status {status}"),
            },
            Err(why) => why,
        };
        tracing::warn!("operation {id}: its end cannot be announced yet: {why}");
        EventOf::Unknown
    }

    /// Asks the components about an operation, for a short time. The error is a reason for the log.
    pub(crate) async fn answer_to(
        &self,
        id: &OperationId,
        order: &Order,
    ) -> Result<Response<Bytes>, String> {
        let deadline = Instant::now() + ORDER_TIME;
        match timeout_at(deadline, self.order(id, order, deadline)).await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(error)) => Err(penstock_app::one_line(&error).to_string()),
            Err(_) => Err(format!("no answer within {} s", ORDER_TIME.as_secs())),
        }
    }

    /// Passes a request about an operation through the entry point.
    async fn order(
        &self,
        id: &OperationId,
        order: &Order,
        deadline: Instant,
    ) -> Result<Response<Bytes>, EntryPointError> {
        let place = match (order, &self.work) {
            (Order::Stream { .. }, Some(work)) => work.place(id),
            _ => None,
        };
        let facts = match place {
            Some(place) => json!({ "work": order, "queue": place }),
            None => json!({ "work": order }),
        };
        let request = Request::builder()
            .method("POST")
            .uri(format!("/v1/operations/{id}"))
            .header(CONNECTION, self.statement(&facts))
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

    /// The place in the queue of the operation that a path names.
    pub(crate) fn queue_place(&self, path: &str) -> Option<QueuePlace> {
        self.work.as_ref()?.place(&operation_in(path)?)
    }

    /// Puts a client that may wait for the operation in its path on the list. Components read the operation afterwards, so its end
    /// cannot be missed.
    pub(crate) fn listens(&self, parts: &http::request::Parts) -> Option<Waiting<'_>> {
        let (work, path) = (self.work.as_ref()?, parts.uri.path());
        let id = operation_in(path)?;
        let may_wait = path.ends_with(":wait") || parts.headers.contains_key("prefer");
        may_wait.then(|| work.wait_for(&id)).flatten()
    }

    /// Follows the components' note in an answer. Returns the answer for the client, and the event stream that it begins, if it does.
    /// A client that waits gets its answer before `deadline`, the time after which it has no use for it.
    pub(crate) async fn follow(
        &self,
        mut answered: Response<Bytes>,
        listening: Option<Waiting<'_>>,
        place: StreamPlace,
        deadline: Option<Instant>,
    ) -> (Response<Bytes>, Option<Opening>) {
        let Some(note) = answered.headers_mut().remove(&NOTE) else {
            return (answered, None);
        };
        let (Some(work), Some(note)) = (&self.work, Note::read(note.as_bytes())) else {
            return (answered, None);
        };
        let Some(id) = OperationId::parse(&note.id) else {
            return (answered, None);
        };
        let is_leaving = self.phase.borrow().is_leaving();
        let waits = note.wait_ms.zip(note.then).filter(|_| !is_leaving);
        let was_listening = listening.is_some();
        // A new operation is not in the queue yet, so it has not ended.
        let waiting = waits.and_then(|(wait_ms, then)| {
            let waiting = listening.or_else(|| work.wait_for(&id))?;
            Some((waiting, wait_ms, then))
        });
        if let Some(push) = note.push {
            work.push(job_of(&id, push), 0);
        }
        if note.announce
            && let Some(ends) = &work.settings.ends
        {
            ends.tell(&id);
        }
        if note.cancel {
            let interrupt = lock(&work.running).get(&id).cloned();
            match interrupt {
                Some(interrupt) => interrupt.notify_one(),
                None => {
                    if let Some(end) = note.ended {
                        self.metrics.operation_ended(end);
                    }
                    // Another host may run it; then it has not ended.
                    if note.is_final {
                        work.ended(&id);
                    }
                }
            }
        }
        if let (Some(next), StreamPlace::Taken(place)) = (note.stream, place) {
            return (answered, Some(Opening { id, next, place }));
        }
        let Some((mut waiting, wait_ms, then)) = waiting else {
            return (answered, None);
        };
        // Over gRPC, the client is on the list only after components read the operation, which may have ended in between.
        if !was_listening
            && matches!(then, Order::Describe { .. })
            && let Some((later, true)) = self.later(&id, &then, &answered).await
        {
            return (later, None);
        }
        let mut until = Instant::now() + Duration::from_millis(wait_ms);
        if let Some(last) = deadline.and_then(|deadline| deadline.checked_sub(ANSWER_TIME)) {
            until = until.min(last);
        }
        let mut phase = self.phase.subscribe();
        tokio::select! {
            () = waiting.ended() => {}
            () = leaving(&mut phase) => {}
            () = tokio::time::sleep_until(until) => {}
        }
        drop(waiting);
        match self.later(&id, &then, &answered).await {
            Some((later, _)) => (later, None),
            // The state of before is still an answer.
            None => (answered, None),
        }
    }

    /// The answer of components to a client that waited, and whether the operation has ended. `None` if they have none.
    async fn later(
        &self,
        id: &OperationId,
        then: &Order,
        first: &Response<Bytes>,
    ) -> Option<(Response<Bytes>, bool)> {
        let mut later = self.answer_to(id, then).await.ok()?;
        // A failure is told in the form of REST, and a client of gRPC cannot read that.
        let is_other = told_over_grpc(&later) != told_over_grpc(first);
        if later.status() == StatusCode::NOT_FOUND || is_other {
            return None;
        }
        let ended = note_of(&later).is_some_and(|note| note.is_final);
        keep_headers(first, &mut later);
        Some((later, ended))
    }
}

/// Returns whether an answer has a status of gRPC.
fn told_over_grpc(answer: &Response<Bytes>) -> bool {
    answer.headers().contains_key(grpc::STATUS)
}

/// The job of an operation.
pub(crate) fn job_of(id: &OperationId, push: Push) -> Job {
    Job {
        id: id.clone(),
        tenant: push.tenant,
        model: push.model,
        priority: push.priority,
        items: push.items,
    }
}

/// Adds the step of a batch that follows one that has ended.
fn follow_step(work: &Work, next: Option<Following>) {
    let Some(next) = next else {
        return;
    };
    if let Some(id) = OperationId::parse(&next.id) {
        work.push(job_of(&id, next.push), next.due_ms);
    }
}

/// The operation that a path names.
fn operation_in(path: &str) -> Option<OperationId> {
    let (_, rest) = path.split_once("/operations/")?;
    rest.split([':', '/']).next().and_then(OperationId::parse)
}

/// Resolves when the workers are told to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard must not be held over an await of the caller.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Resolves when the server is told to stop.
pub(crate) async fn leaving(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| phase.is_leaving()).await;
}

/// Headers of an answer that belong to its content, and not to the request.
const OF_CONTENT: [&str; 8] = [
    "content-type",
    "content-length",
    "content-encoding",
    "etag",
    "last-modified",
    "location",
    "preference-applied",
    "retry-after",
];

/// Completes an answer that came after a wait. The components wrote some headers for the request itself: its id, the
/// state of its limits, its record for the audit log, and those for caches and for pages of other origins. The later
/// answer gets these.
fn keep_headers(first: &Response<Bytes>, later: &mut Response<Bytes>) {
    let still_accepted = later.status() == StatusCode::ACCEPTED;
    let headers = later.headers_mut();
    for of_the_order in [&NOTE, &AUDIT, &SEEN, &REQUEST_ID] {
        headers.remove(of_the_order);
    }
    let own: Vec<HeaderName> = headers.keys().cloned().collect();
    for (name, value) in first.headers() {
        let of_content = OF_CONTENT.contains(&name.as_str())
            // The preference that led to the operation was followed if the answer is still the operation.
            && !(still_accepted && name == "preference-applied");
        if !own.contains(name) && !of_content {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// The header with the id of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The components' note in an answer.
pub(crate) fn note_of(answered: &Response<Bytes>) -> Option<Note> {
    let note = answered.headers().get(&NOTE)?;
    Note::read(note.as_bytes())
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
            ("preference-applied", "respond-async"),
            ("penstock-audit", "the caller's"),
        ]);
        let mut later = answer(&[
            ("x-request-id", "req_2"),
            ("content-type", "application/octet-stream"),
            ("penstock-operation", "{}"),
            ("penstock-audit", "nobody's"),
            ("penstock-seen", "- - -"),
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
                ("penstock-audit", "the caller's"),
                ("ratelimit", "\"a\";r=1"),
                ("x-request-id", "req_1"),
            ]
        );
    }

    #[test]
    fn the_preference_was_followed_only_if_the_answer_is_still_the_operation() {
        for (status, followed) in [(200, false), (202, true)] {
            let mut first = Response::new(Bytes::new());
            let value = HeaderValue::from_static("respond-async");
            first.headers_mut().insert("preference-applied", value);
            let mut later = Response::new(Bytes::new());
            *later.status_mut() = StatusCode::from_u16(status).unwrap();
            keep_headers(&first, &mut later);
            assert_eq!(later.headers().contains_key("preference-applied"), followed);
        }
    }

    #[test]
    fn the_operation_in_a_path_is_found_in_both_forms_of_paths() {
        let id = OperationId::generate(1_700_000_000_000, 7);
        for path in [
            format!("/v1/operations/{id}"),
            format!("/v1/operations/{id}:wait"),
            format!("/v1/operations/{id}/response"),
            format!("/v1/tenants/acme/operations/{id}:cancel"),
        ] {
            assert_eq!(operation_in(&path), Some(id.clone()), "{path}");
        }
        for path in [
            "/v1/operations",
            "/v1/operations/op_1",
            "/v1/models/m:predict",
        ] {
            assert_eq!(operation_in(path), None, "{path}");
        }
    }
}
