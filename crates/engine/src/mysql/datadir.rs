//! The directories of one instance: whose they are, how they are made, how one data directory replaces another.
//!
//! Guarantees: a directory without our mark that is not empty is never written to; one directory has one driver at a
//! time; a data directory appears under its name whole or not at all. Everything here blocks.

use super::{Layout, Spec, flavour, io};
use crate::Error;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

const MARK: &str = "holdfast-instance";
/// In a data directory that came by a clone: the position to set at its first start.
pub(super) const CLONE_STATE: &str = "holdfast-clone-state";
/// Present while commits are answered without an acknowledgement, though the instance is meant to be `sync`.
const ALONE: &str = "commits-alone";

/// Takes possession of `at.root`. The returned file holds the lock.
pub(super) fn claim(spec: &Spec, at: &Layout) -> Result<File, Error> {
    let mark = at.root.join(MARK);
    let ours = format!("group={}\nserver_id={}\n", spec.group, spec.server_id);
    let foreign = |found: String| Error::NotOurs { path: at.root.clone(), found };
    match fs::read_to_string(&mark) {
        Ok(text) if text == ours => {}
        Ok(text) => {
            let theirs = text.trim().replace('\n', ", ");
            return Err(foreign(format!("it belongs to the instance {theirs}")));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let first = fs::read_dir(&at.root).ok().and_then(|mut d| d.next()).and_then(Result::ok);
            if let Some(entry) = first {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Err(foreign(format!("it contains {name:?} and was not made by Holdfast")));
            }
        }
        Err(e) => return Err(io("reading", &mark)(e)),
    }
    for dir in [&at.root, &at.run, &at.saved, &at.log, &at.tmp] {
        fs::create_dir_all(dir).map_err(io("creating", dir))?;
    }
    let lock_path = at.run.join("lock");
    // The mark first: a directory with a lock and no mark would look foreign to the next start.
    write_whole(&mark, &ours)?;
    let lock =
        File::options().create(true).append(true).open(&lock_path).map_err(io("opening", &lock_path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| foreign("another holdfast process on this host is using it".into()))?;
    if let Some(owner) = run_as(spec)? {
        for dir in [&at.root, &at.run, &at.log, &at.tmp] {
            std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid))
                .map_err(io("giving away", dir))?;
        }
    }
    for dir in [&at.root, &at.saved] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io("protecting", dir))?;
    }
    Ok(lock)
}

/// Initialises the data directory if there is none. A half-made one is thrown away.
pub(super) fn initialise(spec: &Spec, at: &Layout, me: &str) -> Result<(), Error> {
    if at.data.exists() {
        return Ok(());
    }
    let half = at.beside(".init");
    remove_dir(&half)?;
    let owner = run_as(spec)?;
    let run_as = owner.as_ref().map_or(me, |o| &o.name);
    let mut install = flavour::of(spec.engine)?.initialise(spec, at, &half, run_as, me)?;
    let program = install.get_program().to_string_lossy().into_owned();
    let output = install.stdin(Stdio::null()).output().map_err(io("running", Path::new(&program)))?;
    if !output.status.success() {
        return Err(Error::Program { program, words: last_lines(&[output.stdout, output.stderr].concat()) });
    }
    sync_tree(&half)?;
    fs::rename(&half, &at.data).map_err(io("putting in place", &at.data))?;
    sync_dir(&at.root)
}

/// Finishes a swap that a crash may have interrupted: `ready` (complete) becomes the data, the data becomes `old`.
pub(super) fn swap_in(at: &Layout) -> Result<(), Error> {
    let (ready, old) = (at.beside(".ready"), at.beside(".old"));
    if !ready.exists() {
        return Ok(());
    }
    if at.data.exists() {
        // Of an earlier clone whose data has since been the instance's own.
        remove_dir(&old)?;
        fs::rename(&at.data, &old).map_err(io("setting aside", &at.data))?;
    }
    fs::rename(&ready, &at.data).map_err(io("putting in place", &at.data))?;
    sync_parent(&at.data)
}

/// The position that a cloned data directory still waits to be given.
pub(super) fn clone_state(at: &Layout) -> Result<Option<String>, Error> {
    let path = at.data.join(CLONE_STATE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("reading", &path)(e)),
    }
}

/// After a cloned data directory has its position: from now on it is the instance's own.
pub(super) fn clone_settled(at: &Layout) -> Result<(), Error> {
    let path = at.data.join(CLONE_STATE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("removing", &path)(e)),
        _ => sync_dir(&at.data)?,
    }
    remove_dir(&at.beside(".old"))
}

/// Whether commits were last answered without an acknowledgement.
pub(super) fn commits_alone(at: &Layout) -> bool {
    at.root.join(ALONE).exists()
}

/// Durable before it returns.
pub(super) fn set_commits_alone(at: &Layout, alone: bool) -> Result<(), Error> {
    let path = at.root.join(ALONE);
    if alone == path.exists() {
        return Ok(());
    }
    fs::create_dir_all(&at.root).map_err(io("creating", &at.root))?;
    if alone {
        return write_whole(&path, "commits are answered without a replica's acknowledgement\n");
    }
    fs::remove_file(&path).map_err(io("removing", &path))?;
    sync_dir(&at.root)
}

/// In the data directory, so that it shares the data's fate.
const INTACT: &str = "holdfast-intact";
/// Always there, and never replaced by the engine.
const SYSTEM_TABLESPACE: &str = "ibdata1";

/// The mark that nothing which this instance acknowledged is missing here. In a copy of the directory it says nothing.
pub(super) fn intact(at: &Layout) -> bool {
    fs::read_to_string(at.data.join(INTACT)).is_ok_and(|text| text == mark_of(at))
}

/// What a copy, or a file put back, does not share with the data that the mark was made for.
fn mark_of(at: &Layout) -> String {
    let id = |path: &Path| fs::metadata(path).map_or((0, 0), |m| (m.dev(), m.ino()));
    let (data, tablespace) = (id(&at.data), id(&at.data.join(SYSTEM_TABLESPACE)));
    format!(
        "all that this instance ever acknowledged is in its logs\ndirectory={}:{}\ntablespace={}:{}\n",
        data.0, data.1, tablespace.0, tablespace.1
    )
}

/// Durable before it returns.
pub(super) fn set_intact(at: &Layout, intact: bool) -> Result<(), Error> {
    let path = at.data.join(INTACT);
    if intact {
        return write_whole(&path, &mark_of(at));
    }
    if !path.exists() {
        return Ok(());
    }
    fs::remove_file(&path).map_err(io("removing", &path))?;
    sync_dir(&at.data)
}

/// The OS account the engine runs as, when it is not ours.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) fn run_as(spec: &Spec) -> Result<Option<Owner>, Error> {
    use holdfast_core::topology::Management;
    let Management::Managed { run_as: Some(name) } = &spec.management else { return Ok(None) };
    let fields = account(name)?;
    let number = |i: usize| fields.get(i).and_then(|f| f.parse().ok());
    match (number(2), number(3)) {
        (Some(uid), _) if uid == rustix::process::getuid().as_raw() => Ok(None),
        (Some(uid), Some(gid)) if rustix::process::getuid().is_root() => {
            Ok(Some(Owner { name: name.clone(), uid, gid }))
        }
        _ => Err(Error::BadSpec(format!(
            "only root can run the engine as {name}; start holdfast as {name} itself"
        ))),
    }
}

/// Our own account's name.
pub(super) fn user_name_of(uid: u32) -> Result<String, Error> {
    Ok(account(&uid.to_string())?.swap_remove(0))
}

/// User and group number of an OS user.
pub(super) fn ids_of(name: &str) -> Result<(u32, u32), Error> {
    let fields = account(name)?;
    let number = |i: usize| fields.get(i).and_then(|f| f.parse().ok());
    number(2).zip(number(3)).ok_or_else(|| Error::BadSpec(format!("the OS user {name} has no numbers")))
}

fn account(key: &str) -> Result<Vec<String>, Error> {
    let output = Command::new("getent")
        .args(["passwd", "--", key])
        .stdin(Stdio::null())
        .output()
        .map_err(io("running", Path::new("getent")))?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if line.is_empty() {
        return Err(Error::BadSpec(format!("there is no OS user {key}")));
    }
    Ok(line.split(':').map(str::to_owned).collect())
}

/// Gives a tree to whoever owns `like`, or to `owner`.
pub(super) fn give_away(tree: &Path, uid: u32, gid: u32) -> Result<(), Error> {
    let mut todo = vec![tree.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).map_err(io("looking at", &path))?;
        if (meta.uid(), meta.gid()) != (uid, gid) {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(io("giving away", &path))?;
        }
        if meta.is_dir() {
            for entry in fs::read_dir(&path).map_err(io("listing", &path))? {
                todo.push(entry.map_err(io("listing", &path))?.path());
            }
        }
    }
    Ok(())
}

pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(e)),
        _ => Ok(()),
    }
}

pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Bytes of all files below.
pub(super) fn tree_bytes(tree: &Path) -> u64 {
    let mut todo = vec![tree.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Free bytes of the file system; `None` if it does not tell.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The same path with something more to its name.
pub(super) fn sibling(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// A small file, there whole or not at all, durable before this returns.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(io("writing", path))?;
    sync_parent(path)
}

pub(super) fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|d| d.sync_all()).map_err(io("syncing", path))
}

/// Everything on the file system of `path`, which is more than needed and one call.
pub(super) fn sync_tree(path: &Path) -> Result<(), Error> {
    let dir = File::open(path).map_err(io("opening", path))?;
    rustix::fs::syncfs(&dir).map_err(|e| io("syncing", path)(e.into()))
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// The end of a program's output, for an error message.
pub(super) fn last_lines(output: &[u8]) -> String {
    const LINES: usize = 6;
    const CHARS: usize = 1_500;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    tail.chars().take(CHARS).collect()
}
