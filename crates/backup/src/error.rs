//! Why something with a repository failed. Each message says what happened, what is safe, and what to do next.

use crate::id::BackupId;
use crate::key::KeyId;
use crate::storage;
use std::path::PathBuf;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the repository's storage failed; every backup that was complete still is")]
    Storage(#[from] storage::Error),
    #[error("{0} is no repository; `holdfast repo init` makes one")]
    NotARepository(String),
    #[error("{0} already holds something else; choose an empty place for a repository")]
    NotEmpty(String),
    #[error(
        "{name} was written with key {written}, and the key given is {given}; nothing was read or changed. Give the \
         key that the repository was made with"
    )]
    WrongKey { name: String, written: KeyId, given: KeyId },
    #[error(
        "{name} is damaged at byte {at}: {what}. Other backups may be whole (`holdfast repo check` tells); the next \
         `holdfast backup now --full` relies on nothing that is there"
    )]
    Damaged { name: String, at: u64, what: String },
    #[error("there is no backup {id} of {service}; `holdfast backup list` shows those there are")]
    NoBackup { service: String, id: BackupId },
    #[error("there is no backup of {0} yet; `holdfast backup now` makes one")]
    NoBackupYet(String),
    #[error(
        "{name} cannot be read, and may be the last backup; nothing was restored. Name the one that is wanted with \
         --backup: `holdfast backup list` shows those that can be read"
    )]
    LastUnclear {
        name: String,
        #[source]
        source: Box<Error>,
    },
    #[error("backup {0} is being removed by a prune; choose a later one")]
    BeingRemoved(BackupId),
    #[error("{0:?} cannot name a service: 1 to 63 of a-z, 0-9 and -")]
    BadService(String),
    #[error("{path:?} cannot be in a backup: {why}; nothing was recorded")]
    BadPath { path: String, why: &'static str },
    #[error("what comes from the server is not what it says it is, and no backup was recorded: {0}")]
    BadInput(String),
    #[error("{what} is limited to {max}; no backup was recorded")]
    TooMuch { what: &'static str, max: u64 },
    #[error(
        "{prefix} holds more than {max} backups, more than can be listed; nothing was changed. Each can still be restored \
         by its id, and others can go to another repository"
    )]
    TooManyBackups { prefix: String, max: usize },
    #[error("{doing} {} failed", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not empty; a restore never writes over what is there", .0.display())]
    Occupied(PathBuf),
    #[error(
        "{} is the root of a file system; a restore appears by renaming its directory, which cannot go there. Nothing \
         was written; restore to a directory below it", .0.display()
    )]
    MountPoint(PathBuf),
    #[error(
        "{} belongs to another restore that is under way; nothing was written. Wait until it has ended, or restore to \
         another place", .0.display()
    )]
    StagingHeld(PathBuf),
    #[error(
        "restoring needs {needed_bytes} bytes in {}, and {free_bytes} are free; nothing was written", path.display()
    )]
    NoRoom { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error(
        "another prune is under way, or was interrupted on another host ({0}); nothing was removed. If it is certainly \
         over, `--take-over` finishes its work"
    )]
    PruneUnderWay(String),
    #[error("nothing was removed, because what is needed cannot be told: {0}")]
    Unsure(String),
    #[error(
        "a prune took this backup for abandoned, or was removing what it relies upon; no backup was recorded. Run it again"
    )]
    TakenForDead,
    #[error("the work was stopped from outside; no backup was recorded")]
    Stopped,
}

impl Error {
    pub(crate) fn damaged(name: &str, at: u64, what: &str) -> Error {
        Error::Damaged { name: name.to_owned(), at, what: what.to_owned() }
    }
    pub(crate) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    }
}
