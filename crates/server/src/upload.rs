//! Decides how the body of a request is read: how large it may be, how long it may pause and take, and how many bytes and
//! slow bodies may be on their way at once.

use super::addresses::Counted;
use super::body::Inbound;
use super::state::{RETRY_AFTER_S, Server};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use penstock_core::{Code, Problem};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// Bodies that take longer than this are counted by the address they come from.
pub(crate) const SLOW_UPLOAD_AFTER: Duration = Duration::from_millis(250);
pub(crate) const SLOW_UPLOADS_PER_ADDRESS_SHARE: u32 = 8;
pub(crate) const MIN_SLOW_UPLOADS_PER_ADDRESS: u32 = 8;
/// What bodies on their way may hold together: sixteen of the largest by default. They are held before anybody knows
/// whose they are.
pub(crate) const MIN_ARRIVING_BYTES: u64 = 256 << 20;
/// How much of a body beyond the limit is read and thrown away so that the caller hears the answer.
pub(crate) const MAX_DISCARD_BYTES: u64 = 64 << 20;
/// How much of a body that is refused before it is read is thrown away, and for how long.
pub(crate) const REFUSED_DISCARD_BYTES: usize = 1 << 20;
pub(crate) const DISCARD_TIME: Duration = Duration::from_millis(500);

/// A place among bodies that take long: of its address, and of all.
pub(crate) type SlowUpload<'s> = (Counted, SemaphorePermit<'s>);

/// Bytes of one body that are counted while it arrives.
pub(crate) struct Held<'a> {
    pub(crate) all: &'a AtomicU64,
    pub(crate) own: u64,
}

impl<'a> Held<'a> {
    pub(crate) fn new(all: &'a AtomicU64) -> Self {
        Self { all, own: 0 }
    }

    /// Counts some more; whether there was room.
    pub(crate) fn take(&mut self, bytes: u64, most: u64) -> bool {
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= most
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Reads and throws away a little of a body nobody wants, so that its sender hears the answer.
pub(crate) async fn discard(mut body: Inbound) {
    let until = Instant::now() + DISCARD_TIME;
    let mut left = REFUSED_DISCARD_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl Server {
    /// A place among bodies that take long.
    pub(crate) fn slow_upload(&self, address: IpAddr) -> Result<SlowUpload<'_>, Problem> {
        let most = (self.settings.max_in_flight / SLOW_UPLOADS_PER_ADDRESS_SHARE)
            .max(MIN_SLOW_UPLOADS_PER_ADDRESS);
        let counted = self.slow_uploads.admit(address, most);
        let place = self.all_slow_uploads.try_acquire().ok();
        counted.zip(place).ok_or_else(|| {
            Problem::new(
                Code::RequestTimeout,
                format!(
                    "there are as many slow bodies on their way as there may be ({most} from one address); send this one \
                     again, within {} ms",
                    SLOW_UPLOAD_AFTER.as_millis()
                ),
            )
        })
    }

    /// Counts some more bytes of a body on its way.
    pub(crate) fn hold(&self, held: &mut Held<'_>, bytes: u64) -> Result<(), Problem> {
        let most = MIN_ARRIVING_BYTES.max(self.settings.max_body_bytes.saturating_mul(4));
        if held.take(bytes, most) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Overloaded,
            format!("the server holds {most} bytes of bodies on their way; this one was not run"),
        )
        .retry_after(RETRY_AFTER_S))
    }

    /// Reads a whole body, within the limits on its size, its pauses and its time. Of a body that is
    /// too large a bounded rest is read and thrown away, because a caller that is still sending when
    /// its connection closes never sees why.
    pub(crate) async fn collect(
        &self,
        mut body: Inbound,
        deadline: Instant,
        counted: &AtomicU64,
        address: IpAddr,
    ) -> Result<Bytes, Problem> {
        let limit = self.settings.max_body_bytes;
        let too_large = || self.too_large();
        let announced = body.size_hint().exact();
        let hopeless = limit.saturating_add(MAX_DISCARD_BYTES);
        let mut discarding = announced.is_some_and(|bytes| bytes > limit);
        // A caller that would send without end is told at once.
        if discarding && announced.is_some_and(|bytes| bytes > hopeless) {
            return Err(too_large());
        }
        let mut received: u64 = 0;
        let mut held = Held::new(&self.arriving);
        let mut slow = None;
        let slow_at = Instant::now() + SLOW_UPLOAD_AFTER;
        let mut last = Instant::now();
        let pause = Duration::from_millis(self.settings.body_idle_timeout_ms);
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        loop {
            if body.is_end_stream() {
                break;
            }
            // A body is late once, and from then on counted; before, it is not asked whose it is.
            if slow.is_none() && Instant::now() >= slow_at {
                slow = Some(self.slow_upload(address)?);
            }
            let until = deadline.min(last + pause);
            let woken = match slow {
                None => until.min(slow_at),
                Some(_) => until,
            };
            let frame = match timeout_at(woken, body.frame()).await {
                Err(_) if woken < until => continue,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) if discarding => break,
                Ok(Some(Err(e))) => {
                    return Err(Problem::new(
                        Code::IncompleteBody,
                        format!("the body broke off: {e}"),
                    ));
                }
                Ok(None) => break,
                Err(_) => {
                    return Err(Problem::new(
                        Code::RequestTimeout,
                        format!(
                            "the body stopped arriving; it may pause for {} ms and take {} ms in all",
                            self.settings.body_idle_timeout_ms, self.settings.total_timeout_ms
                        ),
                    ));
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            last = Instant::now();
            received += data.len() as u64;
            counted.store(received, Ordering::Relaxed);
            if !discarding {
                self.hold(&mut held, data.len() as u64)?;
            }
            if discarding || received > limit {
                discarding = true;
                (first, rest) = (Bytes::new(), None);
                if received > hopeless {
                    break;
                }
                continue;
            }
            // Most bodies arrive in one piece, and that piece is not copied.
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    // What is announced is at most the limit, and is not reserved before a second
                    // piece has come.
                    let capacity = announced
                        .unwrap_or(0)
                        .max((first.len() + data.len()) as u64);
                    let mut joined = BytesMut::with_capacity(capacity as usize);
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                    rest = Some(joined);
                }
            }
        }
        if discarding {
            return Err(too_large());
        }
        Ok(rest.map_or(first, BytesMut::freeze))
    }
}
