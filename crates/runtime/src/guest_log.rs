//! Decides which lines of a component's standard error reach the log: whole lines, as many as an operator can read.
//! Components write messages there that are not for callers, such as the reason why a policy cannot be used or a canary
//! ended.

use bytes::Bytes;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of the longest line. The rest of a line is omitted.
const MAX_LINE_BYTES: usize = 4_096;
/// Lines that an instance may write in [`WINDOW`]. Further ones are counted and omitted.
const MAX_LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes a component may write at once.
const MAX_WRITE_BYTES: usize = 64 << 10;

/// The standard error of one instance.
#[derive(Clone, Default)]
pub struct GuestLog(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    window: Option<Instant>,
    said: u32,
    left_out: u32,
}

impl Lines {
    /// Takes some bytes, and returns the lines for the log.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Vec<String> {
        let mut logged = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.partial.len());
            self.partial
                .extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                let line = std::mem::take(&mut self.partial);
                logged.extend(self.admit(&line, now));
            }
        }
        logged
    }

    fn admit(&mut self, line: &[u8], now: Instant) -> Vec<String> {
        let mut logged = Vec::new();
        let over = |began| now.saturating_duration_since(began) >= WINDOW;
        if self.window.is_none_or(over) {
            if self.left_out > 0 {
                logged.push(format!("({} more lines omitted)", self.left_out));
            }
            (self.window, self.said, self.left_out) = (Some(now), 0, 0);
        }
        if self.said < MAX_LINES {
            self.said += 1;
            logged.push(String::from_utf8_lossy(line).into_owned());
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        logged
    }
}

impl GuestLog {
    fn write(&self, bytes: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.take(bytes, Instant::now()) {
            tracing::warn!("a component says: {}", penstock_app::one_line(&line));
        }
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        GuestLog::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE_BYTES)
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        GuestLog::write(&self, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces_and_cut_where_they_are_too_long() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert!(lines.take(b"one ", now).is_empty());
        assert_eq!(lines.take(b"line\nand ", now), ["one line"]);
        let long = vec![b'x'; 3 * MAX_LINE_BYTES];
        assert!(lines.take(&long, now).is_empty());
        let logged = lines.take(b"\n", now);
        assert_eq!(logged[0].len(), MAX_LINE_BYTES);
        assert!(logged[0].starts_with("and x"));
    }

    #[test]
    fn a_component_that_says_too_much_is_heard_again_a_second_later() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let many = "again\n".repeat(50);
        assert_eq!(lines.take(many.as_bytes(), now).len(), MAX_LINES as usize);
        assert!(lines.take(b"lost\n", now + WINDOW / 2).is_empty());
        let logged = lines.take(b"heard\n", now + WINDOW);
        assert_eq!(logged, ["(31 more lines omitted)", "heard"]);
    }
}
