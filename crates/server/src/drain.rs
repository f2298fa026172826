//! Decides how far a server that was told to stop has come, and what its connections do meanwhile.
//!
//! A load balancer learns from health checks that a server stops, and a client from its connection. So both are told
//! before anything is refused: health checks fail and HTTP/1.1 answers say `Connection: close` for a while, then HTTP/2
//! connections get their GOAWAY and the listener closes. See docs/decisions/0024.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a connection without requests stays open once the listener is closed. A client that is about to send has its
/// request answered; a close that crosses a request on its way would lose it.
pub const IDLE: Duration = Duration::from_millis(500);
/// How long a new connection has to send something once the listener is closed: its request is on its way.
pub const FRESH: Duration = Duration::from_secs(1);

/// How far a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes new work.
    Serving,
    /// It does all it did, but health checks are answered with no, and HTTP/1.1 clients are told to close.
    Leaving,
    /// The listener is closed, since then. Connections end when their requests are answered.
    Closing(Instant),
}

impl Phase {
    /// Whether a client is told to bring its next request elsewhere.
    pub fn is_leaving(self) -> bool {
        self != Self::Serving
    }

    /// When the listener was closed.
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
    /// The phase that is told here.
    pub fn of(phase: &watch::Sender<Phase>) -> Self {
        Self(phase.subscribe())
    }

    /// The phase now.
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when the phase is another than at the last call; never where the server is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Resolves when the listener is closed, with the time of that.
    pub async fn closing(&mut self) -> Instant {
        let closing = |phase: &Phase| phase.closing_since().is_some();
        // The guard that comes back must not be held over an await.
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
