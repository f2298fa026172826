//! Ensures that a server that was told to stop does end, even if its threads are stuck.
//!
//! A drain needs threads of the server that still make progress. A run or a load that never ends has its own thread and
//! does not disturb it. This module covers all other cases. A thread with its own runtime waits for the same signals
//! and ends the process when the drain timeout is over. That loses nothing that a caller was told: an answer leaves
//! only after its data are on the disk.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Largest part of the drain timeout that is reserved for the steps after the last request: closing stores and the
/// audit log.
const MAX_CLOSING: Duration = Duration::from_secs(1);

/// The part of the drain timeout that requests do not get.
pub(crate) fn closing(drain: Duration) -> Duration {
    (drain / 4).min(MAX_CLOSING)
}

/// Ends the process when `drain` has passed since a signal to stop. Call it where the server begins to listen for
/// signals.
pub(crate) fn watch(drain: Duration) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let wait = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::time::sleep(drain).await;
    };
    let thread = std::thread::Builder::new().name("penstock-end".into());
    thread.spawn(move || {
        runtime.block_on(wait);
        tracing::error!(
            "the server did not stop within server.drain_timeout_ms ({} ms); it is stopped now",
            drain.as_millis()
        );
        at_once(ExitCode::FAILURE);
    })?;
    Ok(())
}

/// The code to end with. If a model still runs or loads, this does not return: a plain exit runs the clean-up code of
/// native libraries while that thread uses them, which may crash, or wait for the thread forever.
pub(crate) fn with(code: ExitCode) -> ExitCode {
    if penstock_nn::overdue::at_work() > 0 {
        at_once(code);
    }
    code
}

fn at_once(code: ExitCode) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    let status = i32::from(code != ExitCode::SUCCESS);
    // SAFETY: the call takes a number and does not return; no destructor runs after it.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_get_most_of_the_drains_time() {
        for (drain_ms, closing_ms) in [(0, 0), (400, 100), (4_000, 1_000), (20_000, 1_000)] {
            let closing = closing(Duration::from_millis(drain_ms));
            assert_eq!(closing.as_millis(), closing_ms, "{drain_ms}");
        }
    }
}
