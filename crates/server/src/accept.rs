//! Accepts connections until the server is told to stop, and drains it.

use super::drain::Phase;
use super::state::Server;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// How long a listener that cannot accept (no file descriptors) waits before it tries again.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

impl Server {
    /// Accepts connections until `stop` resolves, then drains; see [`Server::serve_until`].
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> u64 {
        self.serve_until(listener, stop, std::future::pending())
            .await
    }

    /// Accepts connections until `stop` resolves, then drains: health checks fail while everything else goes on, until the
    /// drain's delay is over or `hurry` resolves; then there are no new connections, requests in flight finish, and
    /// connections without requests close. Returns how many were still open when the drain's time ran out.
    pub async fn serve_until(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> u64 {
        self.accept(&listener, stop).await;
        let deadline = Instant::now() + Duration::from_millis(self.settings.drain_timeout_ms);
        self.phase.send_replace(Phase::Leaving);
        let on_loopback = listener
            .local_addr()
            .is_ok_and(|address| address.ip().is_loopback());
        let delay = self.settings.drain_delay(on_loopback);
        if !delay.is_zero() {
            tracing::info!(
                "health checks fail from now on; the server stops taking connections in {} ms",
                delay.as_millis()
            );
            let over = async {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = hurry => {}
                }
            };
            self.accept(&listener, over).await;
        }
        self.accept_the_rest(listener);
        self.phase.send_replace(Phase::Closing(Instant::now()));
        let all = self.settings.max_connections;
        match timeout_at(deadline, self.connections.acquire_many(all)).await {
            Ok(_) => 0,
            Err(_) => self.open.load(Ordering::Relaxed),
        }
    }

    /// Accepts connections until `over` resolves.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, over: impl Future<Output = ()>) {
        let mut over = std::pin::pin!(over);
        loop {
            let accepted = tokio::select! {
                () = &mut over => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Accepts what waits to be accepted, and closes the listener: the kernel resets what waits when it is closed.
    fn accept_the_rest(self: &Arc<Self>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        // As many as there may be; one that is refused has been answered too.
        for _ in 0..self.settings.max_connections {
            let accepted = listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(_) => return,
            }
        }
    }
}
