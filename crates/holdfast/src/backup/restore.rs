//! From the repository to a directory that an engine can start on.

use super::{Error, blocking, threads};
use crate::archive::replay::replay;
use crate::archive::walk::{Walk, Walked};
use crate::clock::unix_ms;
use holdfast_backup::{BackupId, Progress, Reading, Repository, Staged};
use holdfast_engine::mysql::backup;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be restored, and where.
#[derive(Debug, Clone)]
pub struct Restore {
    pub service: String,
    pub id: BackupId,
    /// Does not exist, or is empty.
    pub to: PathBuf,
    /// Leave the files as they were backed up.
    pub raw: bool,
    /// OS user who is to own them.
    pub owner: Option<String>,
}

/// What is to be done with the copy before it appears.
pub struct Forward {
    pub walk: Walk,
    /// Of the server whose log is replayed.
    pub version: String,
}

/// Restores, and brings the copy forward if that is asked; the destination appears when everything is done.
pub async fn restore(
    repository: &Repository,
    what: Restore,
    forward: Option<Forward>,
    progress: Arc<Progress>,
) -> Result<Option<Walked>, Error> {
    let (repository, wanted) = (repository.clone(), what.clone());
    let (reading, staged) = blocking(move || {
        let reading = repository.read(&wanted.service, &wanted.id, "restore", unix_ms())?;
        let staged = Staged::begin(&wanted.to)?;
        Ok((reading, staged))
    })
    .await?;
    let staged = files(reading, staged, progress.clone(), what.raw).await?;
    let mut walked = None;
    if let Some(Forward { walk, version }) = forward {
        let work = scratch()?;
        walked = Some(replay(staged.path(), work.path(), walk, version, progress).await?);
    }
    blocking(move || {
        if let Some(owner) = &what.owner {
            backup::give_to(staged.path(), owner)?;
        }
        Ok(staged.finish()?)
    })
    .await?;
    Ok(walked)
}

fn scratch() -> Result<tempfile::TempDir, Error> {
    tempfile::tempdir().map_err(super::io("creating", Path::new("a temporary directory")))
}

/// Writes the files of a backup into a staging directory, and has the engine make them ready.
pub(super) async fn files(
    reading: Reading,
    staged: Staged,
    progress: Arc<Progress>,
    raw: bool,
) -> Result<Staged, Error> {
    let (staged, hot) = blocking(move || {
        reading.restore(staged.path(), threads(), &progress)?;
        Ok((staged, reading.summary.method == "hot"))
    })
    .await?;
    if hot && !raw {
        prepare(staged.path()).await?;
    }
    Ok(staged)
}

async fn prepare(dir: &Path) -> Result<(), Error> {
    let tmp = scratch()?;
    Ok(backup::prepare(dir, tmp.path()).await?)
}
