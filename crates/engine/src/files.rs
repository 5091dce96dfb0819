//! Files of an instance, whatever engine they belong to: possession of a directory, the OS user an engine runs as, and
//! file work that is whole or not done.
//!
//! Guarantees: a directory without our mark that is not empty is never written to; one directory has one driver at a
//! time. Everything here blocks, but for [`blocking`].
//! Does not know: what an engine keeps where.

use crate::{Error, Spec};
use holdfast_core::topology::Management;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

const MARK: &str = "holdfast-instance";
/// How often, and how far apart, a lock that is held is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Runs blocking file work off the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done,
        Err(_) => Err(Error::Precondition("file work was interrupted by a shutdown".into())),
    }
}

/// Takes possession of `root` for the instance of `spec`, makes `dirs`, and gives `theirs` to whoever the engine runs as.
/// The returned file holds the lock; it is in `run`.
pub(crate) fn claim(
    spec: &Spec,
    root: &Path,
    run: &Path,
    dirs: &[&Path],
    theirs: &[&Path],
) -> Result<File, Error> {
    let mark = root.join(MARK);
    let ours = format!("group={}\nserver_id={}\n", spec.group, spec.server_id);
    let foreign = |found: String| Error::NotOurs { path: root.to_owned(), found };
    match fs::read_to_string(&mark) {
        Ok(text) if text == ours => {}
        Ok(text) => {
            let theirs = text.trim().replace('\n', ", ");
            return Err(foreign(format!("it belongs to the instance {theirs}")));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let first = fs::read_dir(root).ok().and_then(|mut d| d.next()).and_then(Result::ok);
            if let Some(entry) = first {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Err(foreign(format!("it contains {name:?} and was not made by Holdfast")));
            }
        }
        Err(e) => return Err(io("reading", &mark)(e)),
    }
    for dir in dirs {
        fs::create_dir_all(dir).map_err(io("creating", dir))?;
    }
    let lock_path = run.join("lock");
    // The mark first: a directory with a lock and no mark would look foreign to the next start.
    write_whole(&mark, &ours)?;
    let lock =
        File::options().create(true).append(true).open(&lock_path).map_err(io("opening", &lock_path))?;
    lock_soon(&lock).map_err(|_| foreign("another holdfast process on this host is using it".into()))?;
    if let Some(owner) = run_as(spec)? {
        for dir in theirs {
            std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid))
                .map_err(io("giving away", dir))?;
        }
    }
    Ok(lock)
}

/// Nobody but its owner, and root, gets into it.
pub(crate) fn protect(dir: &Path) -> Result<(), Error> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io("protecting", dir))
}

/// The OS account the engine runs as, when it is not ours.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) fn run_as(spec: &Spec) -> Result<Option<Owner>, Error> {
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
pub(crate) fn user_name_of(uid: u32) -> Result<String, Error> {
    Ok(account(&uid.to_string())?.swap_remove(0))
}

/// User and group number of an OS user.
pub(crate) fn ids_of(name: &str) -> Result<(u32, u32), Error> {
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
pub(crate) fn give_away(tree: &Path, uid: u32, gid: u32) -> Result<(), Error> {
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

pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Bytes of all files below.
pub(crate) fn tree_bytes(tree: &Path) -> u64 {
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
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The same path with something more to its name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Tries for a moment: a program that another thread starts just now has a copy of the lock from its fork to its exec.
fn lock_soon(file: &File) -> rustix::io::Result<()> {
    let try_lock = || rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    for _ in 0..LOCK_TRIES {
        if try_lock().is_ok() {
            return Ok(());
        }
        std::thread::sleep(LOCK_EVERY);
    }
    try_lock()
}

/// A small file, there whole or not at all, durable before this returns.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
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

pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|d| d.sync_all()).map_err(io("syncing", path))
}

/// Everything on the file system of `path`, which is more than needed and one call.
pub(crate) fn sync_tree(path: &Path) -> Result<(), Error> {
    let dir = File::open(path).map_err(io("opening", path))?;
    rustix::fs::syncfs(&dir).map_err(|e| io("syncing", path)(e.into()))
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// The end of a program's output, for an error message.
pub(crate) fn last_lines(output: &[u8]) -> String {
    const LINES: usize = 6;
    const CHARS: usize = 1_500;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    tail.chars().take(CHARS).collect()
}
