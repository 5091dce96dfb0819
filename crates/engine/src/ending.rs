//! Ends an engine's process, whoever started it: by a signal, or by the operator's own commands.
//!
//! Guarantees: bounded; a killed engine that somebody else supervises is not left for them to bring back.
//! Does not know: what has to be done to the data before, or to sessions afterwards.

use crate::Error;
use crate::files::{io, last_lines};
use crate::process::Process;
use holdfast_core::topology::Management;
use rustix::process::Signal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::timeout;

/// A process that was sent SIGKILL is gone by then, or its memory is stuck in the kernel.
const KILLED: Duration = Duration::from_secs(10);
/// An operator's own start or stop command.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// In order.
pub(crate) async fn stop(process: &Process, management: &Management, within: Duration) -> Result<(), Error> {
    match management {
        Management::Managed { .. } => process.signal(Signal::TERM)?,
        Management::Attached { stop_command, .. } => {
            timeout(within, command(stop_command)).await.map_err(|_| Error::Unresponsive {
                doing: "running the stop command",
                after_ms: within.as_millis() as u64,
            })??;
        }
    }
    process.ended(within).await
}

/// At once.
pub(crate) async fn kill(process: &Process, management: &Management) -> Result<(), Error> {
    process.signal(Signal::KILL)?;
    process.ended(KILLED).await?;
    if let Management::Attached { stop_command, .. } = management {
        // Or its supervisor would bring it back, writable perhaps.
        command(stop_command).await?;
    }
    Ok(())
}

/// Runs an operator's command to its end, at most [`COMMAND`].
pub(crate) async fn command(words: &[String]) -> Result<(), Error> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::Precondition("no command is given to start or stop the attached engine".into()));
    };
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(COMMAND, child)
        .await
        .map_err(|_| Error::Unresponsive {
            doing: "running the operator's command",
            after_ms: COMMAND.as_millis() as u64,
        })?
        .map_err(io("running", Path::new(program)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program { program: program.clone(), words: last_lines(&output.stderr) })
}
