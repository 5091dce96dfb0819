//! Log lines go to standard error, where systemd and the sandbox collect them. `HOLDFAST_LOG` filters them.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. A second call changes nothing.
pub fn start() {
    let filter =
        EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // Nor may a full disk under the log end the process: what cannot be written is dropped.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
