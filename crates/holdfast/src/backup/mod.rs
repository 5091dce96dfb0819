//! Backups of this host's engines and directories: what connects the engine's driver, the repository and the clock.
//!
//! Guarantees: a backup is recorded only if its producer said that it is complete; a restored directory appears whole
//! and ready, or not at all. Does not know: terminals.

pub mod choose;
pub mod cold;
pub mod facts;
pub mod hot;
pub mod key;
pub mod restore;
pub mod verify;

use crate::clock::unix_ms;
use crate::config::repository::Location;
use holdfast_backup::storage::{Bucket, Directory};
use holdfast_backup::{Begin, Cut, Progress, Repository, RepositoryKey, Storage};
use holdfast_core::topology::{Management, Service};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Repository(#[from] holdfast_backup::Error),
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error("the engine's part failed; no backup was recorded and nothing restored")]
    Engine(#[from] holdfast_engine::Error),
    #[error("the stream from the server cannot be used, and no backup was recorded")]
    Stream(#[from] holdfast_wire::xbstream::Error),
    #[error("{doing} {} failed", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    History(#[from] crate::archive::history::Refused),
    #[error("the kept log cannot be read; nothing was restored")]
    Log(#[from] crate::archive::cutter::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the work was interrupted")]
    Interrupted,
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Runs what blocks where it may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Interrupted))
}

/// Makes a repository in an empty or new directory, or a bucket or prefix that holds nothing.
pub async fn create(at: &Location, key: RepositoryKey) -> Result<Repository, Error> {
    let (at, runtime) = (at.clone(), Handle::current());
    blocking(move || Ok(Repository::create(storage(&at, runtime)?, key)?)).await
}

/// Opens a repository. A directory that is not there is not made.
pub async fn open(at: &Location, key: RepositoryKey) -> Result<Repository, Error> {
    let (at, runtime) = (at.clone(), Handle::current());
    blocking(move || {
        // A network file system may let it wait.
        if let Some(dir) = at.directory().filter(|dir| !dir.is_dir()) {
            return Err(holdfast_backup::Error::NotARepository(dir.display().to_string()).into());
        }
        Ok(Repository::open(storage(&at, runtime)?, key)?)
    })
    .await
}

fn storage(at: &Location, runtime: Handle) -> Result<Arc<dyn Storage>, Error> {
    Ok(match at {
        Location::Directory(path) => {
            Arc::new(Directory::open(path, runtime).map_err(holdfast_backup::Error::from)?)
        }
        Location::Bucket(bucket) => {
            let place = key::bucket_place(bucket)?;
            Arc::new(Bucket::open(&place).map_err(holdfast_backup::Error::from)?)
        }
    })
}

/// Where the engine of a service is reached on a host.
pub fn socket_of(data_dir: &Path, service: &Service) -> PathBuf {
    match &service.management {
        Management::Managed { .. } => data_dir.join(service.name.as_str()).join("run/db.sock"),
        Management::Attached { socket, .. } => socket.clone(),
    }
}

/// Threads for compression and decryption.
pub fn threads() -> usize {
    const THREADS_MAX: usize = 8;
    std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX))
}

/// What every kind of backup says of itself.
struct Kind {
    service: String,
    engine: &'static str,
    version: String,
    method: &'static str,
    origin: String,
    full: bool,
}

impl Kind {
    fn begin(self, progress: Arc<Progress>) -> Begin {
        Begin {
            service: self.service,
            engine: self.engine.into(),
            version: self.version,
            method: self.method.into(),
            origin: self.origin,
            now_unix_ms: unix_ms(),
            full: self.full,
            threads: threads(),
            progress,
        }
    }
}

/// Where blocks of a file end. Databases change their files in place; everything else moves within.
fn cut(path: &str) -> Cut {
    const IN_PLACE: [&str; 7] = [".ibd", ".MAD", ".MAI", ".MYD", ".MYI", ".ibu", ".db"];
    const IN_PLACE_NAMES: [&str; 4] = ["ibdata", "undo", "ib_logfile", "aria_log"];
    let name = path.rsplit('/').next().unwrap_or(path);
    let pages = IN_PLACE.iter().any(|end| name.ends_with(end))
        || IN_PLACE_NAMES.iter().any(|begin| name.starts_with(begin));
    if pages { Cut::Pages } else { Cut::Content }
}

/// Refuses a first backup for which the disk is certainly too small: no database shrinks to a fifth.
fn check_room(path: &Path, data_bytes: u64) -> Result<(), Error> {
    const SHARE: u64 = 5;
    let stat = rustix::fs::statvfs(path).map_err(|e| io("looking at", path)(e.into()))?;
    let free_bytes = stat.f_bavail * stat.f_frsize;
    if free_bytes < data_bytes / SHARE {
        return Err(Error::Refused(format!(
            "{} has {free_bytes} bytes free, and {data_bytes} bytes are to be backed up; nothing was begun",
            path.display()
        )));
    }
    Ok(())
}

/// Bytes of all files below, as far as they can be seen.
fn tree_bytes(tree: &Path) -> u64 {
    let mut todo = vec![tree.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
