//! Stopping the receiving thread at once, also if its primary is gone.
//!
//! A thread that acknowledges logs in at its primary before it ends, to end its session there. For a primary that does not
//! answer it waits a whole second at least (`rpl_semi_sync_slave_kill_conn_timeout` counts in seconds), and as long in
//! the middle of connecting. The server catches SIGUSR1 and does nothing about it, but the wait is over (MariaDB 10.11.19).
//! MySQL ends such waits by itself.
//!
//! Guarantees: signals only a thread of the engine, and only while the server says that it catches that signal; a
//! primary that answers within [`PATIENCE`] has its session ended in order.
//! Does not know: what the thread is doing. One that does not wait notices nothing.

use super::MySqlEngine;
use super::process::Process;
use crate::Error;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// How long a primary may take to answer before the wait for it is ended. Longer than a round trip between cities.
const PATIENCE: Duration = Duration::from_millis(100);
/// Another wait may follow the first.
const AGAIN: Duration = Duration::from_millis(25);

impl MySqlEngine {
    /// Stops the receiving thread, after carrying out `first`, which ends with a semicolon or is empty.
    pub(super) async fn stop_receiving_thread(&self, doing: &'static str, first: &str) -> Result<(), Error> {
        let found = match self.flavour.receiving_thread() {
            Some(sql) => self.act("looking for the receiving thread", sql).await?,
            None => Vec::new(),
        };
        let thread = found.first().and_then(|t| t.number::<i32>(0, "tid"));
        let stop = self.act(doing, format!("{first}{}", self.flavour.stop_receiving()));
        tokio::pin!(stop);
        let mut pause = PATIENCE;
        loop {
            tokio::select! {
                stopped = &mut stop => return stopped.map(drop),
                () = sleep(pause) => {}
            }
            if let Some(thread) = thread {
                wake(&self.process, thread);
            }
            pause = AGAIN;
        }
    }
}

/// Ends whatever a thread of the engine is waiting for in the kernel. Without the right to, or the thread, nothing happens.
fn wake(process: &Process, thread: i32) {
    let Some(engine) = process.running() else { return };
    let proc = Path::new("/proc").join(engine.to_string());
    let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
    let there = proc.join("task").join(thread.to_string()).exists();
    if let Some(thread) = Pid::from_raw(thread).filter(|_| there && catches(&status, Signal::USR1)) {
        let _ = kill_process(thread, Signal::USR1);
    }
}

/// Whether a process catches a signal, by its `/proc/PID/status`.
fn catches(status: &str, signal: Signal) -> bool {
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_not_caught_would_end_the_process() {
        let status = "Name:\tmariadbd\nSigIgn:\t0000000000001006\nSigCgt:\t00000001000066e9\n";
        assert!(catches(status, Signal::USR1));
        assert!(!catches(status, Signal::USR2));
        assert!(!catches("", Signal::USR1));
    }
}
