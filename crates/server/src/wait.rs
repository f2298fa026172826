//! Waits that several kinds of connections share.

use super::drain::{self, Phases};
use tokio::time::Instant;

/// Resolves when the listener is closed, or when a connection has reached its longest life.
pub(crate) async fn over(phases: &mut Phases, until: Option<Instant>) {
    tokio::select! {
        _ = phases.closing() => {}
        () = at(until) => {}
    }
}

/// Resolves when a new connection has sent nothing for too long after the listener was closed.
pub(crate) async fn too_late(phases: &mut Phases) {
    let since = phases.closing().await;
    tokio::time::sleep_until(since + drain::FRESH).await;
}

/// Resolves at that time. Never resolves if there is none.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        None => std::future::pending().await,
        Some(time) => tokio::time::sleep_until(time).await,
    }
}
