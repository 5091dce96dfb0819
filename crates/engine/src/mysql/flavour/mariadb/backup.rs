//! A whole copy of a running MariaDB, by mariabackup.
//!
//! Guarantees: the copy's place in history is known exactly, or refused.

use super::{CopyFrom, exact};
use crate::Error;
use crate::mysql::Layout;
use crate::mysql::flavour::Programs;
use holdfast_core::position::MariaDbPosition;
use holdfast_core::version::Version;
use std::path::Path;
use std::process::Command;

pub(in crate::mysql) const BACKUP: &str = "mariabackup";
const UNSTREAM: &str = "mbstream";

pub(super) fn copy(from: &CopyFrom, scratch: &Path) -> Result<Command, Error> {
    let read = |text: &str| Version::read(text);
    if !read(&from.runs).zip(read(&from.installed)).is_some_and(|(a, b)| a.same_release(&b)) {
        return Err(Error::Precondition(format!(
            "the server is {}, and {} would copy it, which is made for its own release: restart the server first",
            from.runs, from.installed
        )));
    }
    let made = std::fs::create_dir_all(scratch);
    made.map_err(crate::mysql::io("creating", scratch))?;
    let mut backup = Command::new(from.programs.path(BACKUP));
    backup
        .args(["--no-defaults", "--backup", "--stream=xbstream", "--parallel=2"])
        .arg(format!("--target-dir={}", scratch.display()))
        .arg(format!("--tmpdir={}", from.at.tmp.display()))
        .arg(format!("--socket={}", from.at.socket.display()))
        .arg(format!("--user={}", from.me));
    Ok(backup)
}

pub(super) fn unpack(programs: &Programs, into: &Path) -> Command {
    let mut unstream = Command::new(programs.path(UNSTREAM));
    unstream.args(["-x", "-C"]).arg(into);
    unstream
}

pub(super) fn prepare(programs: &Programs, at: &Layout, dir: &Path) -> Command {
    let mut prepare = Command::new(programs.path(BACKUP));
    prepare
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--target-dir={}", dir.display()))
        .arg(format!("--tmpdir={}", at.tmp.display()));
    prepare
}

/// The last GTID of each domain in the copy, as the backup noted it under its lock.
pub(super) fn read_position(dir: &Path) -> Result<MariaDbPosition, Error> {
    for name in ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"] {
        if let Ok(text) = std::fs::read_to_string(dir.join(name)) {
            let gtids = text.lines().next().and_then(|l| l.split('\t').nth(2)).unwrap_or_default();
            return exact(gtids);
        }
    }
    Err(Error::Stream("the copy does not say where in the history it stands".into()))
}

/// The replication state of the copy. It lies between the donor's state before and after; the backup's own position
/// names only the last server of each domain. So it is known exactly as long as only that server wrote meanwhile.
pub(super) fn exact_state(
    before: &MariaDbPosition,
    after: &MariaDbPosition,
    at: &MariaDbPosition,
) -> Result<MariaDbPosition, Error> {
    let known = |p: &MariaDbPosition, domain, server| {
        p.iter().find(|(d, s, _)| (*d, *s) == (domain, server)).map_or(0, |(.., n)| n)
    };
    let mut state = before.clone();
    at.iter().for_each(|(d, s, n)| state.add(d, s, n));
    let exact = after
        .iter()
        .all(|(d, s, n)| n == known(before, d, s) || at.iter().any(|(dd, ss, _)| (dd, ss) == (d, s)));
    if exact {
        return Ok(state);
    }
    Err(Error::Stream("the donor got another primary while it was copied; clone again".into()))
}

#[cfg(test)]
mod tests {
    use super::{MariaDbPosition, exact_state};

    fn at(text: &str) -> MariaDbPosition {
        text.parse().unwrap()
    }

    #[test]
    fn the_copys_state_is_exact_or_refused() {
        let state = |b, a, p| exact_state(&at(b), &at(a), &at(p)).map(|s| s.to_string());
        // Idle, and written to by the one primary meanwhile.
        assert_eq!(state("0-1-5,0-2-9", "0-1-5,0-2-9", "0-2-9").unwrap(), "0-1-5,0-2-9");
        assert_eq!(state("0-1-5,0-2-9", "0-1-5,0-2-20", "0-2-12").unwrap(), "0-1-5,0-2-12");
        // Empty history.
        assert_eq!(state("", "", "").unwrap(), "");
        // Server 1 wrote up to somewhere, then server 3 took over.
        assert!(state("0-1-5", "0-1-9,0-3-12", "0-3-11").is_err());
        assert!(state("0-1-5", "0-1-9,0-3-12", "0-1-7").is_err());
    }
}
