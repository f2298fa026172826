//! Sees to it that a server that was told to stop does end, whatever its threads are doing.
//!
//! A drain needs threads of the server that still take turns. A run or a load that never ends has a thread of its own
//! and does not disturb it; this is for what nobody thought of. A thread with a runtime of its own waits for the same
//! signals and ends the process when the drain's time is over. That loses nothing that a caller was told: answers
//! leave only after what they rest on is on the disk.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The most of the drain's time that is kept for what comes after the last request: closing stores and the audit
/// log.
const MAX_CLOSING: Duration = Duration::from_secs(1);

/// The part of a drain's time that requests do not get.
pub(crate) fn closing(drain: Duration) -> Duration {
    (drain / 4).min(MAX_CLOSING)
}

/// Ends the process when `drain` has passed since a signal to stop. Call it where the signals are listened to.
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
            "the server has not ended within server.drain_timeout_ms ({} ms); it is ended now",
            drain.as_millis()
        );
        at_once(ExitCode::FAILURE);
    })?;
    Ok(())
}

/// The code to end with. Does not return where a model still runs or is being loaded: a plain exit runs the clean-up
/// code of native libraries under the feet of that thread, which may crash, or wait for it for ever.
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
