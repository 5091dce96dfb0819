//! What a breaker is told to do, as data. Pure, but for a look at a file system.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeds in their order, undone in the opposite one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Only look whether it could be done.
    pub rehearsal: bool,
    /// From the first deed to the undoing.
    pub lasts_s: u64,
    pub deeds: Vec<Deed>,
}

/// One thing that breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deed {
    Cut(Cut),
    /// SIGSTOP; SIGCONT undoes it.
    Stop {
        pid: u32,
    },
    /// SIGKILL; nothing undoes it.
    Kill {
        pid: u32,
    },
    /// Creates a file that takes all space; removing it undoes that.
    Fill {
        path: PathBuf,
    },
}

/// Drops packets from these addresses, or to them, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    pub peers: Vec<IpAddr>,
    pub incoming: bool,
    pub outgoing: bool,
}

impl Deed {
    pub fn can_be_undone(&self) -> bool {
        !matches!(self, Deed::Kill { .. })
    }
}

/// The file system of a file that need not exist: where it is mounted, and what is free; `None` if it does not tell.
pub(super) fn file_system(path: &Path) -> Option<(PathBuf, u64)> {
    let directory = path.parent()?.canonicalize().ok()?;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    let stat = rustix::fs::statvfs(&directory).ok()?;
    let here = device(&directory);
    let root = directory.ancestors().take_while(|p| device(p) == here).last()?.to_owned();
    Some((root, stat.f_bfree * stat.f_frsize))
}
