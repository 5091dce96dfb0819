//! A plain copy of a directory whose files nobody writes to: the simplest backup, of any engine.
//!
//! Guarantees: what was stopped for it, or may have been, is started again whatever happens; a file that changes under the
//! copy, or cannot be read, ends it. Does not know: what is in the directory.

use super::{Error, Kind, blocking, check_room, cut, io, tree_bytes};
use crate::clock::unix_ms;
use holdfast_backup::{Completion, Progress, Repository, Summary, Writer};
use holdfast_engine::links;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

const READ_BYTES: usize = 1 << 20;

/// What is to be copied.
#[derive(Debug, Clone)]
pub struct Cold {
    pub dir: PathBuf,
    pub service: String,
    pub origin: String,
    /// Shell commands before and after. The second runs whatever happened since the first.
    pub stop: Option<String>,
    pub start: Option<String>,
    pub full: bool,
    /// Copy although some process has files in the directory open for writing.
    pub even_if_open: bool,
    /// Keep links that lead out of the directory.
    pub outside_links: bool,
    pub repository_path: Option<PathBuf>,
}

pub async fn backup(repository: &Repository, cold: Cold, progress: Arc<Progress>) -> Result<Summary, Error> {
    if !cold.dir.is_dir() {
        return Err(Error::Refused(format!("{} is no directory; nothing was stopped", cold.dir.display())));
    }
    // From here on it may be down, also if the command fails or is interrupted.
    let stopped = match &cold.stop {
        Some(stop) => run("--stop", stop).await,
        None => Ok(()),
    };
    let copied = match stopped {
        Ok(()) => copy(repository, &cold, progress).await,
        Err(e) => Err(e),
    };
    let started = match &cold.start {
        Some(start) => run("--start", start).await,
        None => Ok(()),
    };
    // A service that stays down is worse news than a copy that failed.
    match (started, copied) {
        (Ok(()), copied) => copied,
        (Err(e), Ok(_)) => Err(e),
        (Err(e), Err(before)) => {
            Err(Error::Refused(format!("{e}; before that: {}", crate::agent::chain(&before))))
        }
    }
}

async fn run(which: &str, command: &str) -> Result<(), Error> {
    let status = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .status()
        .await
        .map_err(io("running", Path::new("/bin/sh")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Refused(format!("the {which} command failed: {status}")))
    }
}

async fn copy(repository: &Repository, cold: &Cold, progress: Arc<Progress>) -> Result<Summary, Error> {
    let (repository, cold) = (repository.clone(), cold.clone());
    blocking(move || {
        if !cold.even_if_open {
            refuse_writers(&cold.dir)?;
        }
        let bytes = tree_bytes(&cold.dir);
        progress.expect(bytes);
        let engine = if is_mariadb(&cold.dir) { "mariadb" } else { "files" };
        let (service, origin) = (cold.service.clone(), cold.origin.clone());
        let kind = Kind { service, engine, version: String::new(), method: "cold", origin, full: cold.full };
        let mut writer = repository.begin(kind.begin(progress))?;
        if let Some(at) = cold.repository_path.as_deref().filter(|_| writer.parent().is_none()) {
            check_room(at, bytes)?;
        }
        let mut seen = Seen::default();
        let skipped = tree(&mut writer, &cold, &mut seen)?;
        seen.check()?;
        let facts = BTreeMap::from([("skipped".to_owned(), skipped.to_string())]);
        Ok(writer.commit(Completion { position: None, facts, now_unix_ms: unix_ms() })?)
    })
    .await
}

fn is_mariadb(dir: &Path) -> bool {
    dir.join("ibdata1").is_file() && dir.join("mysql").is_dir()
}

/// What changes of a file when anybody writes to it.
type Stamp = (u64, u64, u64, [i64; 4]);

fn stamp(m: &Metadata) -> Stamp {
    (m.dev(), m.ino(), m.len(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
}

/// Files and directories as they were when they were copied.
#[derive(Default)]
struct Seen(Vec<(PathBuf, Stamp)>);

impl Seen {
    /// A file copied early may have been written to while others were copied: then they do not fit together.
    fn check(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|(path, was)| {
            let is = path.symlink_metadata().map(|m| stamp(&m));
            if is.is_ok_and(|is| is == *was) { Ok(()) } else { Err(changed(path)) }
        })
    }
}

fn changed(path: &Path) -> Error {
    Error::Refused(format!(
        "{} changed while it was copied; nothing was recorded. Stop what writes to it",
        path.display()
    ))
}

/// Stores everything below; how many sockets and the like were left out.
fn tree(writer: &mut Writer, cold: &Cold, seen: &mut Seen) -> Result<u64, Error> {
    let root = &cold.dir;
    let mut todo = vec![root.clone()];
    let (mut skipped, mut buffer) = (0, vec![0; READ_BYTES]);
    while let Some(dir) = todo.pop() {
        // Before it is listed: what comes or goes after that changes it.
        let meta = std::fs::metadata(&dir).map_err(io("looking at", &dir))?;
        if dir != *root {
            seen.0.push((dir.clone(), stamp(&meta)));
        }
        let entries = std::fs::read_dir(&dir).and_then(|d| d.collect::<Result<Vec<_>, _>>());
        let mut paths: Vec<PathBuf> =
            entries.map_err(io("listing", &dir))?.iter().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.strip_prefix(root).ok().and_then(Path::to_str);
            let name = name.ok_or_else(|| {
                Error::Refused(format!("{path:?} is not UTF-8, which a backup cannot hold; rename it"))
            })?;
            let meta = path.symlink_metadata().map_err(io("looking at", &path))?;
            let (kind, mode) = (meta.file_type(), Some(meta.permissions().mode() & 0o7777));
            if kind.is_dir() {
                writer.directory(name, mode)?;
                todo.push(path);
            } else if kind.is_symlink() {
                writer.link(name, &target(&path, name, cold.outside_links)?)?;
            } else if kind.is_file() {
                file(writer, &path, name, &meta, &mut buffer)?;
                seen.0.push((path, stamp(&meta)));
            } else {
                debug_assert!(
                    kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
                );
                skipped += 1;
            }
        }
    }
    Ok(skipped)
}

/// Where a link leads.
fn target(path: &Path, name: &str, may_leave: bool) -> Result<String, Error> {
    let target = std::fs::read_link(path).map_err(io("reading", path))?;
    if !may_leave && links::leads_outside(Path::new(name), &target) {
        return Err(Error::Refused(format!(
            "{} leads to {}, out of the directory: what is there would not be in the backup, and a restored copy would \
             use it; nothing was recorded. Copy it in, or say --outside-links",
            path.display(),
            target.display()
        )));
    }
    let text = target.into_os_string().into_string();
    text.map_err(|t| Error::Refused(format!("{} leads to {t:?}, which is not UTF-8", path.display())))
}

fn file(
    writer: &mut Writer,
    path: &Path,
    name: &str,
    meta: &Metadata,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let mut from = File::open(path).map_err(io("opening", path))?;
    let id = writer.open(name, Some(meta.permissions().mode() & 0o7777), cut(name))?;
    loop {
        match from.read(buffer).map_err(io("reading", path))? {
            0 => break,
            n => writer.write(id, &buffer[..n])?,
        }
    }
    let after = path.symlink_metadata().map_err(io("looking at", path))?;
    if stamp(meta) != stamp(&after) || writer.written(id)? != meta.len() {
        return Err(changed(path));
    }
    Ok(writer.close(id)?)
}

/// Who has files below a directory open for writing.
enum Writers {
    None,
    /// A process, for people.
    Some(String),
    /// None that may be looked at, but not all may.
    Unknown(String),
}

fn refuse_writers(dir: &Path) -> Result<(), Error> {
    let writers = writers(dir).map_err(io("looking for processes that use", dir))?;
    let why = match writers {
        Writers::None => return Ok(()),
        Writers::Some(who) => format!(
            "{who} has files in {} open for writing, so a copy would be torn; stop it with --stop, take a hot \
             backup, or say --even-if-open",
            dir.display()
        ),
        // A sandbox: nobody can tell more, and files that change while they are read are found by their stamps.
        Writers::Unknown(who) if rustix::process::geteuid().is_root() => {
            tracing::warn!(%who, dir = %dir.display(), "not even root may see which files it has open: if it writes there, stop it");
            return Ok(());
        }
        Writers::Unknown(who) => format!(
            "whether {who} has files in {} open for writing cannot be told by this user; run it as root, or say \
             --even-if-open if nobody writes there",
            dir.display()
        ),
    };
    Err(Error::Refused(why))
}

fn writers(dir: &Path) -> std::io::Result<Writers> {
    let dir = dir.canonicalize()?;
    let me = std::process::id().to_string();
    let mut found = Writers::None;
    for process in std::fs::read_dir("/proc")? {
        let process = process?;
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == me {
            continue;
        }
        let name = || {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        };
        match writes_below(&process.path(), &dir) {
            Ok(true) => return Ok(Writers::Some(name())),
            Ok(false) => {}
            Err(e) if has_ended(&e) => {}
            Err(_) => found = Writers::Unknown(name()),
        }
    }
    Ok(found)
}

fn has_ended(e: &std::io::Error) -> bool {
    e.kind() == std::io::ErrorKind::NotFound
        || e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn writes_below(process: &Path, dir: &Path) -> std::io::Result<bool> {
    for fd in std::fs::read_dir(process.join("fd"))? {
        let fd = fd?;
        let written = || {
            let below = std::fs::read_link(fd.path())?.starts_with(dir);
            Ok(below && for_writing(&process.join("fdinfo").join(fd.file_name()))?)
        };
        match written() {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // Closed meanwhile.
            Err(e) if has_ended(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

fn for_writing(fdinfo: &Path) -> std::io::Result<bool> {
    const ACCESS: u32 = 0o3;
    let text = std::fs::read_to_string(fdinfo)?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    Ok(flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).is_some_and(|f| f & ACCESS != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_after_it_was_copied_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, b"one").unwrap();
        let seen = || {
            let stamped = |p: &Path| (p.to_owned(), stamp(&p.symlink_metadata().unwrap()));
            Seen(vec![stamped(&file), stamped(dir.path())])
        };
        let before = seen();
        before.check().unwrap();
        std::fs::write(&file, b"two").unwrap();
        assert!(before.check().unwrap_err().to_string().contains("changed while it was copied"));
        let before = seen();
        std::fs::write(dir.path().join("b"), b"new").unwrap();
        assert!(before.check().is_err(), "one came");
        let before = seen();
        std::fs::remove_file(&file).unwrap();
        assert!(before.check().is_err(), "one went");
    }
}
