//! Decides the phase of a server that was told to stop, and the behaviour of its connections meanwhile.
//!
//! A load balancer learns from health checks that a server stops, and a client learns it from its connection. So both
//! are told before anything is refused. Health checks fail and HTTP/1.1 answers say `Connection: close` for a while.
//! Then HTTP/2 connections get their GOAWAY and the listener closes. See docs/decisions/0024.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Time for which a connection without requests stays open after the listener closed. A request that the client sends
/// meanwhile is answered. A close that crosses a request on its way would lose it.
pub const IDLE: Duration = Duration::from_millis(500);
/// Time for a new connection to send something after the listener closed. Its request is on its way.
pub const FRESH: Duration = Duration::from_secs(1);

/// The reason after the server was told to stop.
pub(crate) const STOPPING: &str = "the server is stopping";

/// The phase of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes new work.
    Serving,
    /// It continues to work, but health checks fail, and HTTP/1.1 clients are told to close.
    Leaving,
    /// The listener has been closed since this time. Connections end when their requests are answered.
    Closing(Instant),
}

impl Phase {
    /// Returns whether clients are told to send their next request elsewhere.
    pub fn is_leaving(self) -> bool {
        self != Self::Serving
    }

    /// The time when the listener was closed.
    pub fn closing_since(self) -> Option<Instant> {
        match self {
            Self::Closing(since) => Some(since),
            Self::Serving | Self::Leaving => None,
        }
    }
}

/// The phase, as connections see it.
#[derive(Clone, Debug)]
pub struct Phases(watch::Receiver<Phase>);

impl Phases {
    /// Follows the phase of this sender.
    pub fn of(phase: &watch::Sender<Phase>) -> Self {
        Self(phase.subscribe())
    }

    /// Returns the present phase.
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when the phase differs from the one at the last call. Never resolves if the server is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Resolves when the listener is closed, with the time of the closing.
    pub async fn closing(&mut self) -> Instant {
        let closing = |phase: &Phase| phase.closing_since().is_some();
        // The guard must not be held over an await.
        let since = self
            .0
            .wait_for(closing)
            .await
            .map(|phase| phase.closing_since());
        match since {
            Ok(Some(since)) => since,
            _ => std::future::pending().await,
        }
    }
}
