//! Decides how the body of a request is read: its largest size, its longest pause and time, and the number of bytes and
//! slow bodies that may be incoming at once.

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

/// Bodies that take longer than this are counted by their address.
pub(crate) const SLOW_UPLOAD_AFTER: Duration = Duration::from_millis(250);
pub(crate) const SLOW_UPLOADS_PER_ADDRESS_SHARE: u32 = 8;
pub(crate) const MIN_SLOW_UPLOADS_PER_ADDRESS: u32 = 8;
/// Bytes of all incoming bodies together: by default at least this, sixteen of the largest. They are held before the
/// caller is known.
pub(crate) const MIN_ARRIVING_BYTES: u64 = 256 << 20;
/// Bytes of a body beyond the limit that are read and discarded, so that the caller can read the answer.
pub(crate) const MAX_DISCARD_BYTES: u64 = 64 << 20;
/// Bytes of a body that are discarded if it is refused before it is read, and the time for that.
pub(crate) const REFUSED_DISCARD_BYTES: usize = 1 << 20;
pub(crate) const DISCARD_TIME: Duration = Duration::from_millis(500);

/// A place among slow bodies: one of its address, and one of all.
pub(crate) type SlowUpload<'s> = (Counted, SemaphorePermit<'s>);

/// Bytes of one body that count while it arrives.
pub(crate) struct ReservedBytes<'a> {
    pub(crate) all: &'a AtomicU64,
    pub(crate) own: u64,
}

impl<'a> ReservedBytes<'a> {
    pub(crate) fn new(all: &'a AtomicU64) -> Self {
        Self { all, own: 0 }
    }

    /// Counts more bytes of this upload. Returns whether the total stays within `most`.
    pub(crate) fn take(&mut self, bytes: u64, most: u64) -> bool {
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= most
    }
}

impl Drop for ReservedBytes<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Reads and discards a little of a refused body, so that its sender can read the answer.
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
    /// Takes a place among slow bodies.
    pub(crate) fn slow_upload(&self, address: IpAddr) -> Result<SlowUpload<'_>, Problem> {
        let most = (self.settings.max_in_flight / SLOW_UPLOADS_PER_ADDRESS_SHARE)
            .max(MIN_SLOW_UPLOADS_PER_ADDRESS);
        let counted = self.slow_uploads.admit(address, most);
        let place = self.all_slow_uploads.try_acquire().ok();
        counted.zip(place).ok_or_else(|| {
            Problem::new(
                Code::RequestTimeout,
                format!(
                    "the server already receives the permitted number of slow bodies ({most} from one address); send this one \
                     again, within {} ms",
                    SLOW_UPLOAD_AFTER.as_millis()
                ),
            )
        })
    }

    /// Counts more bytes of an incoming body.
    pub(crate) fn hold(&self, held: &mut ReservedBytes<'_>, bytes: u64) -> Result<(), Problem> {
        let most = MIN_ARRIVING_BYTES.max(self.settings.max_body_bytes.saturating_mul(4));
        if held.take(bytes, most) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Overloaded,
            format!("the server holds {most} bytes of incoming bodies, the limit; this request did not run"),
        )
        .retry_after(RETRY_AFTER_S))
    }

    /// Reads a whole body, within the limits on its size, its pauses and its time. If it is too large, a bounded rest
    /// is read and discarded: a caller that still sends when its connection closes never sees the answer.
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
        // A caller that would send without end gets the answer at once.
        if discarding && announced.is_some_and(|bytes| bytes > hopeless) {
            return Err(too_large());
        }
        let mut received: u64 = 0;
        let mut held = ReservedBytes::new(&self.arriving);
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
            // A body becomes slow once, and counts from then on. Before, its address is not looked up.
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
                    // The announced length is at most the limit. It is not reserved before a second piece has come.
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
