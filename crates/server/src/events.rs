//! Sends the event streams of operations.
//!
//! The components decide which event a stream lacks, and write it. This module only decides when to ask them, and keeps the
//! connection alive. A stream holds no instance between two looks at its operation. Its next part is made when the client has taken the
//! last one, so a slow client holds one part, or two over HTTP/2, and gets the newest state after it.

use super::clock::unix_ms;
use super::drain::STOPPING;
use super::outbound::{Ends, EventBody};
use super::state::{RETRY_AFTER_S, Server};
use super::work::{Change, Opening};
use super::workers::{job_of, leaving, note_of};
use crate::audit;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use penstock_core::negotiate::ErrorStyle;
use penstock_core::{Code, OperationId, Problem, RequestId};
use penstock_policy::operations::events::{self, HEARTBEAT};
use penstock_policy::operations::notes::{Note, Order};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Time from a sign of a change to the first look. A worker has then claimed the operation, or even ended it.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// The longest time between two looks. Changes on this host wake a stream at once; this look finds those of other hosts. With 10,000
/// streams it costs some 300 reads a second.
const LAST_LOOK: Duration = Duration::from_secs(30);
/// Each look without a change makes the time to the next one this many times longer.
const LOOK_FACTOR: u32 = 4;
/// Failed looks, one after the other, that end a stream. A store that restarts is back within the time of two.
const MAX_FAILED_LOOKS: u32 = 3;
/// The longest time in which a look waits for its turn. A look that gets none counts as failed.
const TURN_TIME: Duration = Duration::from_secs(10);
/// Time between a failed look and the next one.
const FAILED_LOOK: Duration = Duration::from_secs(1);

/// Decides when a stream looks at its operation, and when it sends a sign of life.
#[derive(Clone, Copy, Debug)]
struct Pace {
    look_at: Instant,
    step: Duration,
    beat_at: Instant,
    heartbeat: Duration,
}

impl Pace {
    /// The pace of a stream whose first part is sent. The operation may have changed since that was written.
    fn new(now: Instant, heartbeat: Duration) -> Self {
        Self {
            look_at: now + FIRST_LOOK,
            step: FIRST_LOOK,
            beat_at: now + heartbeat,
            heartbeat,
        }
    }

    /// The operation begins to run, or is queued again: its entries show it soon.
    fn moved(&mut self, now: Instant) {
        self.step = FIRST_LOOK;
        self.look_at = self.look_at.min(now + FIRST_LOOK);
    }

    /// The operation has ended: its entries show it.
    fn ended(&mut self, now: Instant) {
        self.look_at = now;
        self.step = FIRST_LOOK;
    }

    /// The stream has looked, and has sent an event if there was one.
    fn looked(&mut self, now: Instant, has_sent: bool) {
        if has_sent {
            self.step = LAST_LOOK;
            self.beat(now);
        } else {
            self.step = (self.step * LOOK_FACTOR).min(LAST_LOOK);
        }
        self.look_at = now + self.step;
    }

    /// The stream could not look.
    fn failed(&mut self, now: Instant) {
        self.look_at = now + FAILED_LOOK;
    }

    /// Something was sent.
    fn beat(&mut self, now: Instant) {
        self.beat_at = now + self.heartbeat;
    }
}

/// The audit log's entry of a stream. It is logged when the stream ends, by whichever side.
pub(crate) struct StreamEntry {
    pub open: Option<audit::Open>,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub told: Option<HeaderValue>,
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        open.close(|entry| {
            entry.status = self.status;
            entry.bytes_in = self.bytes_in;
            entry.bytes_out = self.bytes_out;
            entry.told = self.told.take();
        });
    }
}

/// A stream that is open.
struct Stream {
    opening: Opening,
    parts: mpsc::Sender<Bytes>,
    entry: StreamEntry,
    request_id: RequestId,
}

/// The result of a look.
enum Looked {
    /// The part that follows, which may be empty, and the gate's note.
    Part(Bytes, Box<Note>),
    /// The operation is gone: the body of the error.
    Gone(Bytes),
    /// It could not be read: the body of the error, if the components wrote one.
    Failed(Option<Bytes>),
}

impl Server {
    /// Opens a stream, whose first part is written.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        opening: Opening,
        first: Bytes,
        mut entry: StreamEntry,
        request_id: RequestId,
    ) -> EventBody {
        let (parts, receiver) = mpsc::channel(1);
        entry.bytes_out += first.len() as u64;
        // A new channel has room.
        let _ = parts.try_send(first);
        let stream = Stream {
            opening,
            parts,
            entry,
            request_id,
        };
        let driver = tokio::spawn(self.clone().drive(stream));
        EventBody::new(receiver, Ends(driver))
    }

    /// Sends the parts of a stream until its operation has ended, its client goes, or its time is over.
    async fn drive(self: Arc<Self>, stream: Stream) {
        let Stream {
            opening,
            parts,
            mut entry,
            request_id,
        } = stream;
        let Opening {
            id,
            mut next,
            place: _place,
        } = opening;
        let Some(work) = self.work.clone() else {
            return;
        };
        let settings = &work.settings.operations;
        let heartbeat = Duration::from_millis(settings.heartbeat_ms);
        let begun = Instant::now();
        let ends_at = begun + Duration::from_millis(settings.stream_timeout_ms);
        let mut pace = Pace::new(begun, heartbeat);
        let mut phase = self.phase.subscribe();
        let mut waiting = work.listen(&id);
        let mut failed = 0;
        loop {
            let room = tokio::select! {
                biased;
                room = parts.reserve() => room,
                () = leaving(&mut phase) => return,
                // A client that reads nothing keeps its place no longer than others.
                () = tokio::time::sleep_until(ends_at) => return,
            };
            let Ok(room) = room else {
                return;
            };
            let send = |part: Bytes| {
                entry.bytes_out += part.len() as u64;
                room.send(part);
            };
            tokio::select! {
                biased;
                () = leaving(&mut phase) => {
                    send(told(&stopping(), &request_id));
                    return;
                }
                () = tokio::time::sleep_until(ends_at) => return,
                change = waiting.changed() => {
                    match change {
                        Change::Moved => pace.moved(Instant::now()),
                        Change::Ended => {
                            waiting = work.listen(&id);
                            pace.ended(Instant::now());
                        }
                    }
                    continue;
                }
                () = tokio::time::sleep_until(pace.look_at) => {}
                () = tokio::time::sleep_until(pace.beat_at) => {
                    send(Bytes::from_static(HEARTBEAT));
                    pace.beat(Instant::now());
                    continue;
                }
            }
            let looked = tokio::select! {
                biased;
                // The next round tells the client.
                () = leaving(&mut phase) => continue,
                looked = self.look(&id, &next) => looked,
                () = tokio::time::sleep_until(ends_at) => return,
            };
            let now = Instant::now();
            match looked {
                Looked::Part(part, note) => {
                    failed = 0;
                    let Note { push, stream, .. } = *note;
                    if let Some(push) = push {
                        work.push(job_of(&id, push), 0);
                    }
                    pace.looked(now, !part.is_empty());
                    if !part.is_empty() {
                        send(part);
                    }
                    match stream {
                        Some(order) => next = order,
                        None => return,
                    }
                }
                Looked::Gone(envelope) => {
                    send(Bytes::from(events::error(&envelope, false)));
                    return;
                }
                Looked::Failed(envelope) => {
                    failed += 1;
                    pace.failed(now);
                    if failed >= MAX_FAILED_LOOKS {
                        send(match envelope {
                            Some(envelope) => Bytes::from(events::error(&envelope, true)),
                            None => told(&unreadable(), &request_id),
                        });
                        return;
                    }
                }
            }
        }
    }

    /// Asks the components for the next part of a stream. Few streams ask at the same time.
    async fn look(&self, id: &OperationId, next: &Order) -> Looked {
        let Some(work) = &self.work else {
            return Looked::Failed(None);
        };
        let turn = tokio::time::timeout(TURN_TIME, work.looks.acquire()).await;
        let Ok(Ok(_look)) = turn else {
            return Looked::Failed(None);
        };
        let answered = match self.answer_to(id, next).await {
            Ok(answered) => answered,
            Err(why) => {
                tracing::warn!("the event stream of operation {id} could not read it: {why}");
                return Looked::Failed(None);
            }
        };
        let status = answered.status();
        match (note_of(&answered), status) {
            (Some(note), StatusCode::OK) => Looked::Part(answered.into_body(), Box::new(note)),
            (_, StatusCode::NOT_FOUND) => Looked::Gone(answered.into_body()),
            _ => {
                tracing::warn!(
                    "the event stream of operation {id} could not read it: status {status}"
                );
                Looked::Failed(envelope_of(answered))
            }
        }
    }
}

/// The body of an error, if it is JSON.
fn envelope_of(answered: Response<Bytes>) -> Option<Bytes> {
    let body = answered.into_body();
    let is_object = body.first() == Some(&b'{');
    is_object.then_some(body)
}

/// Writes the event that ends a stream early, for a client that may reconnect.
fn told(problem: &Problem, request_id: &RequestId) -> Bytes {
    let (_, envelope) = problem.render(ErrorStyle::Penstock, request_id, unix_ms());
    Bytes::from(events::error(&envelope, true))
}

fn stopping() -> Problem {
    Problem::new(
        Code::Overloaded,
        format!(
            "{STOPPING}, and the operation goes on; ask for the stream again with the id of the last event"
        ),
    )
    .retry_after(RETRY_AFTER_S)
}

fn unreadable() -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        "the operation could not be read; ask for the stream again with the id of the last event",
    )
    .retry_after(RETRY_AFTER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT_TIME: Duration = Duration::from_secs(15);

    #[test]
    fn a_stream_looks_soon_after_a_sign_of_a_change_and_then_less_and_less_often() {
        let start = Instant::now();
        let mut pace = Pace::new(start, HEARTBEAT_TIME);
        let mut now = start;
        let mut looks = Vec::new();
        for _ in 0..9 {
            looks.push((pace.look_at - start).as_millis());
            now = pace.look_at;
            pace.looked(now, false);
        }
        assert_eq!(
            looks,
            [20, 100, 420, 1_700, 6_820, 27_300, 57_300, 87_300, 117_300]
        );
        pace.moved(now);
        assert_eq!(pace.look_at, now + FIRST_LOOK);
        // The state that was awaited is sent. No other is expected before the next sign.
        pace.looked(now + FIRST_LOOK, true);
        assert_eq!(pace.look_at, now + FIRST_LOOK + LAST_LOOK);
        pace.ended(now + LAST_LOOK);
        assert_eq!(pace.look_at, now + LAST_LOOK);
    }

    #[test]
    fn a_stream_on_which_nothing_was_sent_for_a_while_shows_that_it_lives() {
        let start = Instant::now();
        let mut pace = Pace::new(start, HEARTBEAT_TIME);
        assert_eq!(pace.beat_at, start + HEARTBEAT_TIME);
        let later = start + Duration::from_secs(9);
        pace.looked(later, false);
        assert_eq!(pace.beat_at, start + HEARTBEAT_TIME);
        pace.looked(later, true);
        assert_eq!(pace.beat_at, later + HEARTBEAT_TIME);
        pace.beat(pace.beat_at);
        assert_eq!(pace.beat_at, later + HEARTBEAT_TIME * 2);
        pace.failed(later);
        assert_eq!(pace.look_at, later + FAILED_LOOK);
    }
}
