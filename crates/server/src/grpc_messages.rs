//! The messages of a gRPC call, as they arrive.

use super::body::Inbound;
use super::state::Server;
use super::upload::{ReservedBytes, SLOW_UPLOAD_AFTER, SlowUpload};
use super::wait::at;
use bytes::Bytes;
use http_body_util::BodyExt;
use penstock_core::grpc::{self, Deframer, FrameFault, Message};
use penstock_core::{Code, Problem};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// Open streams up to which a stream may pause for `stream_idle_timeout_ms` between messages. Each holds its task and
/// its headers meanwhile, some tens of KiB. While more are open, a stream may pause for `body_idle_timeout_ms` only.
const MANY_STREAMS: u64 = 4096;

/// Returns the one message of a unary call, and whether it is compressed.
pub(crate) fn only_message(body: &Bytes, limit: u64) -> Result<(bool, Bytes), Problem> {
    let mut deframer = Deframer::new(limit);
    let mut rest = body.get(..grpc::FRAME_HEAD_BYTES).unwrap_or(body);
    let empty = deframer.next(&mut rest).map_err(misframed)?;
    let Some(head) = body.first_chunk::<{ grpc::FRAME_HEAD_BYTES }>() else {
        return Err(not_one(if body.is_empty() {
            "the call has no message; send one"
        } else {
            "the body ends within the five bytes before a message"
        }));
    };
    let length = match empty {
        Some(_) => 0,
        None => {
            let [_, length @ ..] = *head;
            u32::from_be_bytes(length) as usize
        }
    };
    // Not copied: the message is the rest of the body.
    let message = body.slice(grpc::FRAME_HEAD_BYTES..);
    match message.len().cmp(&length) {
        std::cmp::Ordering::Equal => Ok((head[0] == 1, message)),
        std::cmp::Ordering::Less => Err(not_one("the body ends within its message")),
        std::cmp::Ordering::Greater => Err(not_one(
            "the call has more than one message, and this method accepts one",
        )),
    }
}

pub(crate) fn not_one(message: &str) -> Problem {
    Problem::new(Code::MalformedRequest, message)
}

pub(crate) fn misframed(fault: FrameFault) -> Problem {
    Problem::new(fault.code(), fault.to_string())
}

/// A message's place among those of streams. A message of which bytes have arrived has one.
pub(crate) type MessagePermit = Option<OwnedSemaphorePermit>;

/// The messages of a stream, in order of arrival. The future of `next` may be dropped while it waits.
pub(crate) struct Messages<'s> {
    server: &'s Server,
    body: Inbound,
    address: IpAddr,
    deframer: Deframer,
    /// Bytes that came and were not parsed yet.
    piece: Bytes,
    /// The time when a message last came or went.
    last: Instant,
    /// The counts that an incomplete message holds.
    partial: Option<Partial<'s>>,
    /// The place of the message that has begun to arrive.
    place: MessagePermit,
}

pub(crate) struct Partial<'s> {
    held: ReservedBytes<'s>,
    since: Instant,
    slow: Option<SlowUpload<'s>>,
    _receiving: tokio::sync::SemaphorePermit<'s>,
}

impl<'s> Messages<'s> {
    pub(crate) fn new(server: &'s Server, body: Inbound, address: IpAddr) -> Self {
        Self {
            server,
            body,
            address,
            deframer: Deframer::new(server.settings.max_body_bytes),
            piece: Bytes::new(),
            last: Instant::now(),
            partial: None,
            place: None,
        }
    }

    /// Notes activity on the stream.
    pub(crate) fn rest(&mut self) {
        self.last = Instant::now();
    }

    /// Takes a place for the message that begins to arrive. Nothing more is read until there is one.
    pub(crate) async fn take_place(&mut self) -> Result<(), Problem> {
        if self.place.is_none() && !self.piece.is_empty() {
            let server = self.server;
            let until = self.last + Duration::from_millis(server.settings.total_timeout_ms);
            let place = timeout_at(until, server.streamed.clone().acquire_owned()).await;
            let Ok(Ok(place)) = place else {
                return Err(server.overloaded());
            };
            self.place = Some(place);
            self.rest();
        }
        Ok(())
    }

    /// Returns the next message with its place, or `None` if there are no more. A stream without running messages, or
    /// with an incomplete message, may pause only for a bounded time.
    pub(crate) async fn next(
        &mut self,
        is_idle: bool,
    ) -> Result<Option<(Message, MessagePermit)>, Problem> {
        let settings = &self.server.settings;
        let body_pause = Duration::from_millis(settings.body_idle_timeout_ms);
        let stream_pause = Duration::from_millis(settings.stream_idle_timeout_ms);
        loop {
            self.take_place().await?;
            let mut rest: &[u8] = &self.piece;
            let found = self.deframer.next(&mut rest).map_err(misframed)?;
            let taken = self.piece.len() - rest.len();
            bytes::Buf::advance(&mut self.piece, taken);
            if let Some(message) = found {
                self.partial = None;
                return Ok(Some((message, self.place.take())));
            }
            self.count_partial()?;
            let crowded = self.server.open_streams.load(Ordering::Relaxed) > MANY_STREAMS;
            let pause = match &self.partial {
                Some(_) => body_pause,
                None if crowded => body_pause.min(stream_pause),
                None => stream_pause,
            };
            let until = (is_idle || self.partial.is_some()).then(|| self.last + pause);
            // Other streams may open meanwhile, and leave less time to this one.
            let look = until.map(|until| until.min(Instant::now() + body_pause));
            let slow_at = match &self.partial {
                Some(Partial {
                    since, slow: None, ..
                }) => Some(*since + SLOW_UPLOAD_AFTER),
                _ => None,
            };
            let woken = [look, slow_at].into_iter().flatten().min();
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => Ok(frame),
                () = at(woken) => Err(()),
            };
            match frame {
                Err(()) if woken < until => {
                    if slow_at.is_some_and(|at| at <= Instant::now())
                        && let Some(partial) = &mut self.partial
                    {
                        partial.slow = Some(self.server.slow_upload(self.address)?);
                    }
                }
                Err(()) => {
                    return Err(Problem::new(
                        Code::RequestTimeout,
                        format!(
                            "the stream was idle for {} ms, the limit; open it again when there is something to \
                             send",
                            pause.as_millis()
                        ),
                    ));
                }
                Ok(None) if self.deframer.is_between_messages() => return Ok(None),
                Ok(None) => return Err(not_one("the stream ends within a message")),
                Ok(Some(Err(e))) => {
                    return Err(Problem::new(
                        Code::IncompleteBody,
                        format!("the stream broke off: {e}"),
                    ));
                }
                Ok(Some(Ok(frame))) => {
                    self.last = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        self.piece = data;
                    }
                }
            }
        }
    }

    /// Counts the bytes held of an incomplete message, like any incoming body.
    pub(crate) fn count_partial(&mut self) -> Result<(), Problem> {
        if self.deframer.is_between_messages() {
            self.partial = None;
            self.place = None;
            return Ok(());
        }
        let server = self.server;
        let partial = match &mut self.partial {
            Some(partial) => partial,
            None => {
                let Ok(receiving) = server.receiving.try_acquire() else {
                    return Err(server.overloaded());
                };
                self.partial.insert(Partial {
                    held: ReservedBytes::new(&server.arriving),
                    since: Instant::now(),
                    slow: None,
                    _receiving: receiving,
                })
            }
        };
        let more = (self.deframer.held_bytes() as u64).saturating_sub(partial.held.own);
        server.hold(&mut partial.held, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unary_call_has_one_message_and_nothing_else() {
        let read = |body: &'static [u8]| only_message(&Bytes::from_static(body), 4);
        assert_eq!(read(b"\0\0\0\0\x02hi"), Ok((false, Bytes::from("hi"))));
        assert_eq!(read(b"\x01\0\0\0\x02hi"), Ok((true, Bytes::from("hi"))));
        assert_eq!(read(b"\0\0\0\0\0"), Ok((false, Bytes::new())));
        for (body, code) in [
            (&b""[..], Code::MalformedRequest),
            (b"\0\0\0", Code::MalformedRequest),
            (b"\0\0\0\0\x02h", Code::MalformedRequest),
            (b"\0\0\0\0\x02hi!", Code::MalformedRequest),
            (b"\0\0\0\0\0\0\0\0\0\0", Code::MalformedRequest),
            (b"\x02\0\0\0\0", Code::MalformedRequest),
            (b"\0\0\0\0\x05hello", Code::BodyTooLarge),
            (b"\0\xff\xff\xff\xff", Code::BodyTooLarge),
        ] {
            assert_eq!(read(body).unwrap_err().code, code, "{body:?}");
        }
    }
}
