//! Configures the destination and the form of log lines. `RUST_LOG` selects them.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The default of `RUST_LOG`. It hides the embedded store's routine messages.
const DEFAULT: &str = "info,fjall=warn,lsm_tree=warn";

/// Starts logging to standard error, as JSON lines or as text.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
}
