//! The signals that stop a server.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGTERM and SIGINT. The first future resolves at the first signal, the second at the next one.
///
/// # Errors
///
/// If the process cannot listen for signals.
pub(crate) fn stop_and_hurry()
-> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut first = Both::new()?;
    let mut again = Both::new()?;
    let (stopped, stopping) = tokio::sync::oneshot::channel();
    let stop = async move {
        let name = first.next().await;
        tracing::info!("{name}: draining");
        let _ = stopped.send(());
    };
    let hurry = async move {
        let _ = stopping.await;
        // This one has seen the first signal, too.
        for _ in 0..2 {
            again.next().await;
        }
        tracing::info!("a second signal: the listener closes now");
    };
    Ok((stop, hurry))
}

struct Both {
    terminate: Signal,
    interrupt: Signal,
}

impl Both {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either signal, and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
