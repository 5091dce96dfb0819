//! What a breaker is told to do, as data. Pure, but for a look at a file system.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
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

/// Free on the file system of a file that need not exist; `None` if it does not tell.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path.parent()?).ok()?;
    Some(stat.f_bfree * stat.f_frsize)
}
