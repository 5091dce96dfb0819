//! A plain copy of a directory whose files nobody writes to: the simplest backup, of any engine.
//!
//! Guarantees: what was stopped for it is started again whatever happens; a file that changes under the copy, or cannot
//! be read, ends it. Does not know: what is in the directory.

use super::{Error, Kind, blocking, check_room, cut, io, tree_bytes};
use crate::clock::unix_ms;
use holdfast_backup::{Completion, Progress, Repository, Summary, Writer};
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
    pub repository_path: PathBuf,
}

pub async fn backup(repository: &Repository, cold: Cold, progress: Arc<Progress>) -> Result<Summary, Error> {
    if !cold.dir.is_dir() {
        return Err(Error::Refused(format!("{} is no directory; nothing was stopped", cold.dir.display())));
    }
    if let Some(stop) = &cold.stop {
        run("--stop", stop).await?;
    }
    let copied = copy(repository, &cold, progress).await;
    let started = match &cold.start {
        Some(start) => run("--start", start).await,
        None => Ok(()),
    };
    // A service that stays down is worse news than a copy that failed.
    started?;
    copied
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
        if let Some(who) = writers(&cold.dir).filter(|_| !cold.even_if_open) {
            return Err(Error::Refused(format!(
                "{who} has files in {} open for writing, so a copy would be torn; stop it with --stop, take a hot \
                 backup, or say --even-if-open",
                cold.dir.display()
            )));
        }
        let bytes = tree_bytes(&cold.dir);
        progress.expect(bytes);
        let engine = if is_mariadb(&cold.dir) { "mariadb" } else { "files" };
        let (service, origin) = (cold.service.clone(), cold.origin.clone());
        let kind = Kind { service, engine, version: String::new(), method: "cold", origin, full: cold.full };
        let mut writer = repository.begin(kind.begin(progress))?;
        if writer.parent().is_none() {
            check_room(&cold.repository_path, bytes)?;
        }
        let skipped = tree(&mut writer, &cold.dir)?;
        let facts = BTreeMap::from([("skipped".to_owned(), skipped.to_string())]);
        Ok(writer.commit(Completion { position: None, facts, now_unix_ms: unix_ms() })?)
    })
    .await
}

fn is_mariadb(dir: &Path) -> bool {
    dir.join("ibdata1").is_file() && dir.join("mysql").is_dir()
}

/// Stores everything below; how many sockets and the like were left out.
fn tree(writer: &mut Writer, root: &Path) -> Result<u64, Error> {
    let mut todo = vec![root.to_owned()];
    let (mut skipped, mut buffer) = (0, vec![0; READ_BYTES]);
    while let Some(dir) = todo.pop() {
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
                let target = std::fs::read_link(&path).map_err(io("reading", &path))?;
                writer.link(name, &target.to_string_lossy())?;
            } else if kind.is_file() {
                file(writer, &path, name, &meta, &mut buffer)?;
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
    let same = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    if same(meta) != same(&after) || writer.written(id)? != meta.len() {
        return Err(Error::Refused(format!(
            "{} changed while it was copied; nothing was recorded. Stop what writes to it",
            path.display()
        )));
    }
    Ok(writer.close(id)?)
}

/// A process that has a file below `dir` open for writing, as far as this one may look.
fn writers(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let me = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == me {
            continue;
        }
        for fd in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let below = std::fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(&dir));
            if below && for_writing(&process.path().join("fdinfo").join(fd.file_name())) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({})", name.trim()));
            }
        }
    }
    None
}

fn for_writing(fdinfo: &Path) -> bool {
    const ACCESS: u32 = 0o3;
    let text = std::fs::read_to_string(fdinfo).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).is_some_and(|f| f & ACCESS != 0)
}
