//! A whole copy of a running MySQL: the server's CLONE plugin makes it beside the data, `tar` streams it.
//!
//! The plugin could also send it to another server by itself, over the engine's port. Through the hosts' own API it
//! travels under TLS, and a receiver need not have a server that starts.
//!
//! Guarantees: the copy is consistent and knows its place in history; the donor goes on serving.

use super::CopyFrom;
use crate::Error;
use crate::mysql::{datadir, sql::quote};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Copying a data directory on one host takes no longer, or is given up.
const COPY: Duration = Duration::from_secs(6 * 3_600);

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

pub(super) fn unpack(into: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(into).args(["--extract", "--file=-"]);
    tar
}
