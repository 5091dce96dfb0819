//! A whole copy of a running MySQL: the server's CLONE plugin makes it beside the data, `tar` streams it.
//!
//! The plugin could also send it to another server by itself, over the engine's port. Through the hosts' own API it
//! travels under TLS, and a receiver need not have a server that starts.
//!
//! Guarantees: the copy is consistent and knows its place in history; the donor goes on serving.

use super::CopyFrom;
use crate::Error;
use crate::mysql::sql::{Session, quote};
use crate::mysql::{STATEMENT, datadir};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Copying a data directory on one host takes no longer, or is given up.
const COPY: Duration = Duration::from_secs(6 * 3_600);
/// One that is told to end does so at its next page.
const END: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn copy(from: &CopyFrom, scratch: &Path) -> Result<Command, Error> {
    let at = from.at.clone();
    let sizes = move || Ok((datadir::tree_bytes(&at.data), datadir::free_bytes(&at.run)));
    let (needed, free) = crate::mysql::blocking(sizes).await?;
    if free.is_some_and(|free| free < needed) {
        return Err(Error::Precondition(format!(
            "a copy of the donor's data is made in {} first, which needs {needed} bytes; {} are free",
            scratch.display(),
            free.unwrap_or_default()
        )));
    }
    let sql = format!("CLONE LOCAL DATA DIRECTORY={}", quote(&scratch.display().to_string()));
    from.session.run("copying the data", sql, COPY).await?;
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(scratch).args(["--create", "--file=-", "."]);
    Ok(tar)
}

/// Whoever ran the statement may be gone; the server does not notice that while it copies. It must not be left without the
/// directory it copies into: it aborts.
pub(super) async fn end(session: &Session, scratch: &Path) -> Result<(), Error> {
    let scratch = quote(&scratch.display().to_string());
    let running = format!(
        "SELECT PID AS id FROM performance_schema.clone_status \
         WHERE STATE='In Progress' AND TRIM(TRAILING '/' FROM DESTINATION)={scratch}"
    );
    let until = Instant::now() + END;
    while Instant::now() < until {
        let tables = session.run("looking for a copy", &running, STATEMENT).await?;
        let Some(id) = tables.first().and_then(|t| t.number::<u32>(0, "id")) else { return Ok(()) };
        // It may have ended by itself.
        let _ = session.run("ending a copy", &format!("KILL CONNECTION {id}"), STATEMENT).await;
        sleep(POLL).await;
    }
    let after_ms = u64::try_from(END.as_millis()).unwrap_or(u64::MAX);
    Err(Error::Unresponsive { doing: "ending a copy of its data", after_ms })
}

pub(super) fn unpack(into: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(into).args(["--extract", "--file=-"]);
    tar
}
