//! Accepts connections until the server is told to stop, and drains it.

use super::drain::Phase;
use super::state::Server;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Pause before a listener that cannot accept (no file descriptors) tries again.
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

    /// Accepts connections until `stop` resolves, then drains. Health checks fail while everything else continues,
    /// until the drain delay is over or `hurry` resolves. Then there are no new connections, requests in flight finish,
    /// and connections without requests close. Returns the number of connections that were still open at the end of the
    /// drain timeout.
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

    /// Accepts the connections that wait in the listener's queue, and closes it. The kernel resets connections that
    /// still wait then.
    fn accept_the_rest(self: &Arc<Self>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        // The loop accepts at most the permitted number. A refused connection has been answered too.
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
